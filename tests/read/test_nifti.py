"""NIfTI files against nibabel, and every way in which one can be broken."""

from __future__ import annotations

import gzip
import io
import logging
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.read.contract import ReaderContract, Truth
from voxtract.errors import DamagedFile, InvalidInput, NotFound, UnreadableFile
from voxtract.model import VolumeFile
from voxtract.read import NiftiFile
from voxtract.read.nifti_header import decode

OBLIQUE = np.array([[0.9, 0.1, 0.0, -10.0], [-0.2, 1.1, 0.3, 20.5], [0.0, -0.4, 2.5, 3.25], [0, 0, 0, 1]])
HEADERS: dict[int, Any] = {1: nib.Nifti1Header, 2: nib.Nifti2Header}


def voxels(dtype: str, shape: tuple[int, ...] = (5, 6, 7)) -> NDArray[Any]:
    rng = np.random.default_rng(5)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 1000, shape).astype(dtype)
    info = np.iinfo(np.dtype(dtype).type)
    return rng.integers(info.min, info.max, shape, dtype=info.dtype, endpoint=True).astype(dtype)


def encoded(
    data: NDArray[Any],
    version: int = 1,
    order: str = "<",
    affine: NDArray[np.float64] = OBLIQUE,
    change: Callable[[Any], None] | None = None,
    extension: bytes = b"",
) -> bytes:
    """A NIfTI file; `change` edits the header last. The voxels are written here, not by nibabel."""
    header = HEADERS[version](endianness=order)
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_sform(affine, code="scanner")
    header["pixdim"][1:4] = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    start = {1: 352, 2: 544}[version]
    header["vox_offset"] = start + len(extension)
    header["magic"] = header.single_magic
    if change is not None:
        change(header)
    flag = b"\1\0\0\0" if extension else bytes(4)
    swapped = data.astype(data.dtype.newbyteorder("little" if order == "<" else "big"))
    return bytes(header.binaryblock) + flag + extension + swapped.tobytes(order="F")


def changed(**fields: Any) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        for name, value in fields.items():
            header[name] = value

    return change


def write(path: Path, content: bytes) -> NiftiFile:
    path.write_bytes(gzip.compress(content, 6, mtime=0) if path.name.endswith(".gz") else content)
    return NiftiFile(path)


def message(file: NiftiFile, error: type[Exception], ask: str = "read") -> str:
    with pytest.raises(error) as caught:
        getattr(file, ask)()
    assert caught.type is error
    text = str(caught.value)
    assert text.startswith(f"{file.path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{file.path}: ")


class TestCompressed(ReaderContract):
    @pytest.fixture(params=["int16", "float32"])
    def truth(self, request: pytest.FixtureRequest) -> Truth:
        return Truth(voxels(request.param, (30, 20, 40)), OBLIQUE)

    @pytest.fixture
    def file(self, truth: Truth, tmp_path: Path) -> NiftiFile:
        return write(tmp_path / "scan.nii.gz", encoded(truth.stored))

    @pytest.fixture
    def voxels_lost(self, truth: Truth, tmp_path: Path) -> NiftiFile:
        whole = gzip.compress(encoded(truth.stored))
        path = tmp_path / "lost.nii.gz"
        path.write_bytes(whole[: len(whole) // 2])
        return NiftiFile(path)

    @pytest.fixture
    def missing(self, tmp_path: Path) -> NiftiFile:
        return NiftiFile(tmp_path / "no such.nii.gz")


class TestPlain(TestCompressed):
    @pytest.fixture
    def file(self, truth: Truth, tmp_path: Path) -> NiftiFile:
        return write(tmp_path / "scan.nii", encoded(truth.stored))

    @pytest.fixture
    def voxels_lost(self, truth: Truth, tmp_path: Path) -> NiftiFile:
        return write(tmp_path / "lost.nii", encoded(truth.stored)[:-1])

    def test_header_is_known_though_the_voxels_are_lost(self, voxels_lost: VolumeFile, truth: Truth) -> None:
        assert truth.stored.size
        with pytest.raises(DamagedFile, match="its header promises"):  # the size of the file tells at once
            voxels_lost.header()


class TestBigEndianFrame(TestCompressed):
    @pytest.fixture
    def file(self, truth: Truth, tmp_path: Path) -> NiftiFile:
        frames = np.stack([truth.stored + 1, truth.stored, truth.stored - 1], axis=3)
        return NiftiFile(write(tmp_path / "frames.nii.gz", encoded(frames, order=">")).path, volume_index=1)

    @pytest.fixture
    def voxels_lost(self, truth: Truth, tmp_path: Path) -> NiftiFile:
        whole = gzip.compress(encoded(np.stack([truth.stored] * 3, axis=3), order=">"))
        path = tmp_path / "lost.nii.gz"
        path.write_bytes(whole[:-100])  # frame 1 is whole, but the checksum behind frame 2 is gone
        return NiftiFile(path, volume_index=1)


# --- equal to nibabel


def assert_equals_nibabel(file: NiftiFile, frame: int | None = None) -> None:
    image: Any = nib.load(file.where)
    stored = image.dataobj.get_unscaled()
    stored = stored.reshape((*stored.shape[:3], -1))[..., frame or 0]
    volume = file.read()
    np.testing.assert_array_equal(volume.data, stored)
    assert volume.data.dtype == image.get_data_dtype().newbyteorder("=")
    assert volume.data.flags.f_contiguous
    assert volume.data.dtype.isnative
    np.testing.assert_array_equal(volume.header.grid.affine, image.affine)
    np.testing.assert_array_equal(file.header().grid.affine, image.affine)
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    assert (volume.header.slope, volume.header.intercept) == (slope, intercept)
    values = volume.data.astype(np.float64) * volume.header.slope + volume.header.intercept
    np.testing.assert_array_equal(values, image.get_fdata().reshape((*image.shape[:3], -1))[..., frame or 0])


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_every_dtype_byte_order_and_version_equals_nibabel(
    tmp_path: Path, dtype: str, order: str, version: int, suffix: str
) -> None:
    content = encoded(voxels(dtype), version, order)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(content, 1) if suffix.lower().endswith("gz") else content)
    assert_equals_nibabel(NiftiFile(path))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "shape", [(3, 4, 5, 1), (3, 4, 5, 1, 1, 1), (3, 4, 5, 1, 1, 1, 1), (1, 1, 1), (4, 1, 1), (4, 5, 1)]
)
def test_axes_of_length_one_are_squeezed_or_kept(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    data = voxels("i2", shape)
    file = write(tmp_path / f"a{suffix}", encoded(data))
    assert file.header().grid.shape == shape[:3]
    np.testing.assert_array_equal(file.read().data, data.reshape(shape[:3]))
    np.testing.assert_array_equal(NiftiFile(file.path, volume_index=0).read().data, data.reshape(shape[:3]))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 4, 5, 6, 1)])
def test_each_frame_equals_nibabel(tmp_path: Path, suffix: str, order: str, shape: tuple[int, ...]) -> None:
    path = write(tmp_path / f"a{suffix}", encoded(voxels("i2", shape), order=order)).path
    for frame in range(6):
        assert_equals_nibabel(NiftiFile(path, volume_index=frame), frame)


def test_of_many_frames_one_is_kept_in_memory(tmp_path: Path) -> None:
    data = np.zeros((64, 64, 32, 20), np.int16)  # 5 MiB, 256 KiB a frame
    file = NiftiFile(write(tmp_path / "a.nii.gz", encoded(data)).path, volume_index=13)
    file.read()
    tracemalloc.start()
    volume = file.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert volume.data.nbytes == 262144
    assert peak < 3.5 * 2**20  # the frame, a piece of 1 MiB that becomes bytes, and the buffers of the reader


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [1, 2])
def test_extensions_are_skipped(tmp_path: Path, suffix: str, version: int) -> None:
    extension = struct.pack("<ii", 32, 6) + b"a comment".ljust(24, b"\0")
    assert_equals_nibabel(write(tmp_path / f"a{suffix}", encoded(voxels("i2"), version, extension=extension)))


def test_voxels_may_start_at_an_odd_byte(tmp_path: Path) -> None:
    data = voxels("f4")
    file = write(tmp_path / "a.nii", encoded(data, extension=b"xyz"))
    np.testing.assert_array_equal(file.read().data, data)


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [
        (1, 0),
        (2.5, -1024),
        (0, 7),
        (np.nan, 3),
        (np.inf, 3),
        (-np.inf, np.nan),
        (0, np.nan),
        (-1, 0),
        (1, 5),
        (1e-3, 0),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_scale_equals_nibabel(tmp_path: Path, version: int, slope: float, intercept: float) -> None:
    change = changed(scl_slope=slope, scl_inter=intercept)
    assert_equals_nibabel(write(tmp_path / "a.nii.gz", encoded(voxels("i2"), version, change=change)))


def test_intercept_that_is_no_number_is_refused_as_by_nibabel(tmp_path: Path) -> None:
    file = write(tmp_path / "a.nii.gz", encoded(voxels("i2"), change=changed(scl_slope=2, scl_inter=np.nan)))
    with pytest.raises(nib.spatialimages.HeaderDataError):
        nib.load(file.where)
    assert "scaling cannot be worked with" in message(file, InvalidInput, "header")


@pytest.mark.parametrize(
    "fields",
    [
        {"sform_code": 0, "qform_code": 1, "quatern_b": 0.1, "quatern_c": 0.2, "quatern_d": 0.3, "qoffset_x": -7},
        {"sform_code": 0, "qform_code": 2, "quatern_d": 1.0, "pixdim": [-1, 0.5, 0.6, 3, 1, 1, 1, 1]},
        {"sform_code": 0, "qform_code": 0},
        {"sform_code": 0, "qform_code": 1, "pixdim": [0, 0.5, 0, 3, 1, 1, 1, 1]},
        {"sform_code": 0, "qform_code": 1, "pixdim": [1, -1, 1, 1, 1, 1, 1, 1]},
        {"sform_code": 1, "qform_code": 1},
    ],
)
def test_affine_equals_nibabels_best(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert_equals_nibabel(write(tmp_path / "a.nii.gz", encoded(voxels("i2"), change=changed(**fields))))


@st.composite
def orientations(draw: st.DrawFn) -> dict[str, Any]:
    """Header fields of a position in space, usual and unusual."""
    numbers = st.floats(-300, 300, width=32)
    sizes = st.one_of(st.floats(0.015625, 8, width=32), st.sampled_from([0, -1, -0.5, 1]))
    quaternion = np.array(draw(st.lists(st.floats(-1, 1), min_size=4, max_size=4)))
    quaternion /= np.linalg.norm(quaternion) or 1
    return {
        "sform_code": draw(st.sampled_from([0, 0, 1, 4, 5, 6, -1])),
        "qform_code": draw(st.sampled_from([0, 1, 1, 3, 5, 77])),
        "pixdim": [draw(st.sampled_from([1, -1, 0, 7])), *(draw(sizes) for _ in range(7))],
        **{f"quatern_{letter}": value for letter, value in zip("bcd", quaternion[1:], strict=True)},
        **{f"qoffset_{letter}": draw(numbers) for letter in "xyz"},
        **{f"srow_{letter}": [draw(numbers) for _ in range(4)] for letter in "xyz"},
    }


@given(fields=orientations(), version=st.sampled_from([1, 2]), order=st.sampled_from(["<", ">"]))
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_any_orientation_equals_nibabels(fields: dict[str, Any], version: int, order: str) -> None:
    block = encoded(voxels("i2"), version, order, change=changed(**fields))[: {1: 348, 2: 540}[version]]
    theirs = HEADERS[version](block, check=False)
    theirs.check_fix(logger=logging.getLogger("ignored"), error_level=40)
    try:
        expected = theirs.get_best_affine()
    except ValueError:  # the quaternion is longer than 1 by rounding
        with pytest.raises(InvalidInput, match="longer than 1"):
            decode(block, "a.nii")
        return
    # products of three are rounded in another order: nothing a float of the header could show
    np.testing.assert_allclose(decode(block, "a.nii").affine, expected.astype(np.float64), rtol=1e-14, atol=1e-14)


def test_the_sphere_of_freesurfer_has_the_shape_that_nibabel_gives_it(tmp_path: Path) -> None:
    file = write(tmp_path / "ico7.nii.gz", encoded(voxels("f4", (27307, 1, 6))))
    assert file.header().grid.shape == (163842, 1, 1)
    assert_equals_nibabel(file)


def test_a_header_changed_by_text_mode_is_refused_as_by_nibabel(tmp_path: Path) -> None:
    file = write(tmp_path / "a.nii", encoded(voxels("i2"), 2, change=changed(eol_check=[10, 26, 10, 0])))
    with pytest.raises(nib.spatialimages.HeaderDataError):
        nib.load(file.where)
    assert "transfer in text mode" in message(file, DamagedFile, "header")


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    cuts=st.lists(st.integers(0, 1200), max_size=4),
    padding=st.integers(0, 40),
    tail=st.integers(0, 40),
    big=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_however_the_stream_is_cut_into_members(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    cuts: list[int],
    padding: int,
    tail: int,
    big: bool,
) -> None:
    data = voxels("i2", shape)
    content = encoded(data, order=">" if big else "<") + bytes(range(tail))
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    members = [member(content[a:b], extra=i % 2 == 1) for i, (a, b) in enumerate(pairwise(edges))]
    path = tmp_path_factory.mktemp("members") / "a.nii.gz"
    path.write_bytes(b"".join(members) + bytes(padding))
    np.testing.assert_array_equal(NiftiFile(path).read().data, data)


def member(content: bytes, extra: bool) -> bytes:
    """A gzip member; with the extra field of block-gzip, which ISA-L's plain decompressor cannot read in two parts."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = deflate.compress(content) + deflate.flush()
    head = b"\x1f\x8b\x08" + (b"\4" if extra else b"\0") + bytes(5) + b"\xff"
    field = struct.pack("<H2sHH", 6, b"BC", 2, 77) if extra else b""
    return head + field + body + struct.pack("<II", zlib.crc32(content), len(content))


def test_many_members_across_the_readers_buffer(tmp_path: Path) -> None:
    data = voxels("i2", (120, 120, 90))  # 2.6 MB that do not compress: member heads lie at every place of the buffers
    content = encoded(data)
    path = tmp_path / "blocks.nii.gz"
    path.write_bytes(b"".join(member(content[i : i + 1021], extra=True) for i in range(0, len(content), 1021)))
    np.testing.assert_array_equal(NiftiFile(path).read().data, data)


def test_gzip_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    data = voxels("i2")
    for name, content in [("a.nii", gzip.compress(encoded(data))), ("b.nii.gz", encoded(data))]:
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(NiftiFile(tmp_path / name).read().data, data)


def test_bytes_after_the_voxels_are_ignored(tmp_path: Path) -> None:
    data = voxels("u2")
    for suffix in (".nii", ".nii.gz"):
        file = write(tmp_path / f"a{suffix}", encoded(data) + b"more than the header says" * 99)
        assert_equals_nibabel(file)


def test_names_with_spaces_and_accents_and_links(tmp_path: Path) -> None:
    data = voxels("i2")
    file = write(tmp_path / "Schädel 3 – ø 頭.nii.gz", encoded(data))
    assert file.where.endswith("Schädel 3 – ø 頭.nii.gz")
    link = tmp_path / "link.nii.gz"
    link.symlink_to(file.where)
    np.testing.assert_array_equal(NiftiFile(link).read().data, data)


def test_a_plain_file_is_mapped_not_copied(tmp_path: Path) -> None:
    file = write(tmp_path / "a.nii", encoded(np.zeros((128, 128, 64), np.int16)))
    file.read()
    tracemalloc.start()
    data = file.read().data
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < data.nbytes / 4
    with pytest.raises(ValueError, match="read-only"):
        data[0, 0, 0] = 1


# --- the header alone


class CountingFile(io.FileIO):
    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size) or b""
        CountingFile.taken += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        found = super().readinto(buffer) or 0
        CountingFile.taken += found
        return found


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_header_reads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    file = write(tmp_path / f"a{suffix}", encoded(voxels("i2", (100, 100, 100))))
    monkeypatch.setattr(Path, "open", lambda path, *_, **__: CountingFile(path))
    CountingFile.taken = 0
    assert file.header().grid.shape == (100, 100, 100)
    assert 348 <= CountingFile.taken <= 300_000  # of 2 MB; the standard library takes 128 KiB at a time


def test_remarks_on_a_header_name_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "a.nii", encoded(voxels("i2"), change=changed(pixdim=[1, 0, 1, 1, 1, 1, 1, 1])))
    with caplog.at_level(logging.WARNING, "voxtract"):
        file.header()
        file.read()  # does not say it again
    assert [record.getMessage() for record in caplog.records] == [
        f"{file.path}: voxel sizes [0.0, 1.0, 1.0] should be positive; zeros are taken as 1, signs dropped"
    ]


# --- damaged


@pytest.fixture
def whole() -> bytes:
    return gzip.compress(encoded(voxels("i2", (20, 30, 40))), 6, mtime=0)


def broken(tmp_path: Path, content: bytes, name: str = "bad scan.nii.gz") -> NiftiFile:
    path = tmp_path / name
    path.write_bytes(content)
    return NiftiFile(path)


@pytest.mark.parametrize("lost", [1, 4, 7, 8, 9, 1000])
def test_truncated_gzip(tmp_path: Path, whole: bytes, lost: int) -> None:
    text = message(broken(tmp_path, whole[:-lost]), DamagedFile)
    found = 48352 if lost < 9 else len(zlib.decompressobj(31).decompress(whole[:-lost]))
    assert text == (
        f"the compressed data are cut short: {found} bytes come out, but its header needs 48352 for "
        "20 x 30 x 40 voxels of int16; copy or export the file again"
    )


def test_truncated_within_the_header(tmp_path: Path) -> None:
    content = encoded(voxels("i2"))
    assert "damaged" in message(broken(tmp_path, gzip.compress(content)[:40]), DamagedFile, "header")
    assert "damaged" in message(broken(tmp_path, b"\x1f\x8b"), DamagedFile, "header")
    for short in (content[:100], content[:347]):
        text = f"the header is cut short: {len(short)} of 348 bytes; copy or export the file again"
        assert message(broken(tmp_path, gzip.compress(short)), DamagedFile, "header") == text
        assert message(broken(tmp_path, short, "a.nii"), DamagedFile, "header") == text
    second = encoded(voxels("i2"), version=2)[:400]
    assert "400 of 540 bytes" in message(broken(tmp_path, second, "a.nii"), DamagedFile, "header")


@pytest.mark.parametrize("place", [-8, -5, -4, -1])
def test_wrong_checksum_or_length(tmp_path: Path, whole: bytes, place: int) -> None:
    content = bytearray(whole)
    content[place] ^= 1
    text = message(broken(tmp_path, bytes(content)), DamagedFile)
    assert "the compressed data are damaged" in text
    assert ("incorrect data check" if place < -4 else "incorrect length check") in text


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_flipped_byte_is_noticed_but_not_by_the_header(tmp_path: Path, whole: bytes, part: float) -> None:
    content = bytearray(whole)
    content[int(len(content) * part)] ^= 0xFF
    file = broken(tmp_path, bytes(content))
    if part > 0.4:  # beyond the first bytes that the header's reader inflates
        assert file.header().grid.shape == (20, 30, 40)
    assert "the compressed data are damaged" in message(file, DamagedFile)


def test_wrong_checksum_of_an_early_member(tmp_path: Path) -> None:
    content = encoded(voxels("i2", (20, 30, 40)))
    first = bytearray(gzip.compress(content[:9000]))
    first[-5] ^= 1
    assert "damaged" in message(broken(tmp_path, bytes(first) + gzip.compress(content[9000:])), DamagedFile)


@pytest.mark.parametrize(
    "junk", [b"\n", b"\x1a", b"hello", b"PK\3\4 and more than ten bytes", b"\0\0\0junk", b"\0" * 70000 + b"x"]
)
def test_junk_after_the_stream_is_ignored_with_a_warning(
    tmp_path: Path, whole: bytes, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = broken(tmp_path, whole + junk)
    np.testing.assert_array_equal(file.read().data, voxels("i2", (20, 30, 40)))
    assert [record.getMessage() for record in caplog.records] == [
        f"{file.path}: bytes after the end of the compressed data are ignored"
    ]


def test_junk_after_padded_members(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = encoded(voxels("i2", (20, 30, 40)))
    parts = [gzip.compress(content[:9000]), bytes(40000), gzip.compress(content[9000:]), bytes(5), b"junk"]
    np.testing.assert_array_equal(broken(tmp_path, b"".join(parts)).read().data, voxels("i2", (20, 30, 40)))
    assert len(caplog.records) == 1


def test_zero_padding_needs_no_warning(tmp_path: Path, whole: bytes, caplog: pytest.LogCaptureFixture) -> None:
    np.testing.assert_array_equal(broken(tmp_path, whole + bytes(700000)).read().data, voxels("i2", (20, 30, 40)))
    assert not caplog.records


def test_a_broken_member_after_the_voxels_is_damage(tmp_path: Path, whole: bytes) -> None:
    assert "cut short" in message(broken(tmp_path, whole + whole[:50]), DamagedFile)
    assert "damaged" in message(broken(tmp_path, whole + b"\x1f\x8b\x07" + bytes(30)), DamagedFile)


def test_junk_before_the_last_voxel_is_damage(tmp_path: Path) -> None:
    content = encoded(voxels("i2", (20, 30, 40)))
    text = message(
        broken(tmp_path, gzip.compress(content[:20000]) + b"junk, not gzip" + gzip.compress(content)), DamagedFile
    )
    assert text.startswith("too few voxels: 20000 bytes come out, but its header needs 48352")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_empty_and_random_files(tmp_path: Path, name: str) -> None:
    assert message(broken(tmp_path, b"", name), DamagedFile) == "the file is empty; copy or export it again"
    text = message(broken(tmp_path, b"<html>404 not found</html>", name), DamagedFile)
    assert "is not a NIfTI file: it begins with b'<html>404 not fo'" in text
    noise = np.random.default_rng(3).bytes(5000)
    assert "is not a NIfTI file" in message(broken(tmp_path, noise, name), DamagedFile, "header")
    assert "is not a NIfTI file" in message(broken(tmp_path, gzip.compress(noise), name), DamagedFile)
    assert "damaged" in message(broken(tmp_path, b"\x1f\x8b" + noise, name), DamagedFile)
    assert "is not a NIfTI file" in message(broken(tmp_path, gzip.compress(b""), name), DamagedFile)


@given(noise=st.binary(max_size=700), kind=st.sampled_from(["raw", "gzip", "head", "gzip head"]))
@settings(max_examples=150, deadline=None)
def test_noise_never_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, noise: bytes, kind: str) -> None:
    valid = bytearray(encoded(np.zeros((2, 3, 4), np.int16)))
    if "head" in kind:  # noise inside a valid header, its first bytes and mark kept
        valid[4 : 4 + len(noise)] = noise
        valid[344:348] = b"n+1\0"
        noise = bytes(valid)
    path = tmp_path_factory.mktemp("noise") / "a.nii.gz"
    path.write_bytes(gzip.compress(noise) if "gzip" in kind else noise)
    try:
        volume = NiftiFile(path).read()
    except InvalidInput as error:
        told = str(error)
    else:
        told = f"{volume.header.where}: " if volume.data.size else ""
    assert told.startswith(f"{path}: ")


def test_pairs_and_analyze_are_named(tmp_path: Path) -> None:
    data = voxels("i2")
    for mark, version in ((b"ni1\0", 1), (b"ni2\0\r\n\x1a\n", 2)):
        content = bytearray(encoded(data, version))
        at = {1: 344, 2: 4}[version]
        content[at : at + len(mark)] = mark
        text = message(broken(tmp_path, bytes(content), "a.nii"), InvalidInput, "header")
        assert "header/image pair" in text
        assert "convert the pair to one .nii.gz" in text
    analyze = bytearray(encoded(data))
    analyze[344:348] = bytes(4)
    assert "lacks the mark 'n+1' or 'n+2'" in message(broken(tmp_path, bytes(analyze), "a.nii"), DamagedFile)


# --- headers not to be believed


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_header_that_promises_too_much_allocates_nothing(tmp_path: Path, suffix: str, version: int) -> None:
    dim = [3, 30000, 30000, 30000, 1, 1, 1, 1] if version == 1 else [3, 2**40, 2**40, 2**40, 1, 1, 1, 1]
    file = write(tmp_path / f"a{suffix}", encoded(voxels("i2"), version, change=changed(dim=dim)))
    message(file, DamagedFile)
    tracemalloc.start()
    text = message(file, DamagedFile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    size = Path(file.where).stat().st_size
    needed = {1: 352, 2: 544}[version] + 2 * dim[1] ** 3
    assert f"promises {dim[1]} x {dim[1]} x {dim[1]} voxels of int16, {needed} bytes, but the file has {size}" in text
    assert ("inflate to" in text) == (suffix == ".nii.gz")


def test_a_plain_file_one_byte_short(tmp_path: Path) -> None:
    content = encoded(voxels("i2"))
    assert "772 bytes, but the file has 771;" in message(broken(tmp_path, content[:-1], "a.nii"), DamagedFile, "header")
    frames = encoded(voxels("i2", (5, 6, 7, 3)))[:-1]
    file = NiftiFile(broken(tmp_path, frames, "b.nii").path, volume_index=0)
    assert "promises 3 frames of 5 x 6 x 7 voxels of int16, 1612 bytes, but the file has 1611;" in message(
        file, DamagedFile
    )


def test_a_compressed_file_with_too_few_voxels(tmp_path: Path) -> None:
    file = broken(tmp_path, gzip.compress(encoded(voxels("i2"))[:-1]))
    assert message(file, DamagedFile).startswith("too few voxels: 771 bytes come out, but its header needs 772")
    assert file.header().grid.shape == (5, 6, 7)


def test_voxels_beyond_memory_are_an_error_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.nii.gz", encoded(voxels("i2")))

    def no_memory(*_: Any) -> None:
        raise MemoryError("Unable to allocate 1 TiB")

    monkeypatch.setattr(np, "empty", no_memory)
    assert "do not fit into memory (Unable to allocate 1 TiB)" in message(file, UnreadableFile)


@pytest.mark.parametrize(
    ("dim", "index", "error", "said"),
    [
        ([2, 5, 6, 1, 1, 1, 1, 1], None, InvalidInput, "has 2 axes (5 x 6), but a volume has 3"),
        ([1, 5, 1, 1, 1, 1, 1, 1], None, InvalidInput, "has 1 axes (5)"),
        ([5, 5, 6, 7, 1, 3, 1, 1], None, InvalidInput, "has 5 axes (5 x 6 x 7 x 1 x 3)"),
        ([5, 5, 6, 7, 2, 3, 1, 1], 0, InvalidInput, "has 5 axes"),
        ([3, 5, 0, 7, 1, 1, 1, 1], None, InvalidInput, "shape 5 x 0 x 7 holds no voxel"),
        ([3, 5, -6, 7, 1, 1, 1, 1], None, InvalidInput, "shape 5 x -6 x 7 holds no voxel"),
        ([3, -1, 1, 1, 1, 1, 1, 1], None, InvalidInput, "shape -1 x 1 x 1 holds no voxel"),
        ([4, 5, 6, 7, 0, 1, 1, 1], None, InvalidInput, "shape 5 x 6 x 7 x 0 holds no voxel"),
        ([0, 5, 6, 7, 1, 1, 1, 1], None, DamagedFile, "names 0 axes"),
        (
            [4, 5, 6, 7, 3, 1, 1, 1],
            None,
            InvalidInput,
            "has 3 frames (5 x 6 x 7 x 3), but a volume is one; choose volume_index=0 to 2",
        ),
        ([4, 5, 6, 7, 3, 1, 1, 1], 3, InvalidInput, "so volume_index=3 is out of range; allowed: 0 to 2"),
        ([4, 5, 6, 7, 3, 1, 1, 1], -1, InvalidInput, "so volume_index=-1 is out of range; allowed: 0 to 2"),
        (
            [3, 5, 6, 7, 1, 1, 1, 1],
            1,
            InvalidInput,
            "has 1 frame (5 x 6 x 7), so volume_index=1 is out of range; allowed: 0 to 0",
        ),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_shapes_that_are_no_volume(
    tmp_path: Path, version: int, dim: list[int], index: int | None, error: type[Exception], said: str
) -> None:
    content = encoded(voxels("i2", (5, 6, 7, 3, 3)), version, change=changed(dim=dim))
    file = NiftiFile(write(tmp_path / "a.nii.gz", content).path, index)
    assert said in message(file, error, "header")
    assert said in message(file, error, "read")


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        (np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), "RGB"),
        (np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")]), "RGB"),
        (np.dtype("complex64"), "complex numbers"),
        (np.dtype("complex128"), "complex numbers"),
    ],
)
def test_voxels_that_are_no_numbers(tmp_path: Path, dtype: np.dtype[Any], said: str) -> None:
    file = write(tmp_path / "a.nii.gz", encoded(np.zeros((3, 4, 5), dtype)))
    text = message(file, InvalidInput, "header")
    assert text.startswith(f"its voxels are {said}")
    assert "convert it" in text


@pytest.mark.parametrize("code", [0, 1, 255, 1536, 2048, 7, -3])
def test_unknown_binary_and_long_types(tmp_path: Path, code: int) -> None:
    file = write(tmp_path / "a.nii.gz", encoded(np.zeros((3, 4, 5), "f8"), change=changed(datatype=code)))
    message(file, InvalidInput, "header")


@pytest.mark.parametrize("offset", [0, 348, -16, np.nan, np.inf])
def test_voxels_inside_the_header(tmp_path: Path, offset: float) -> None:
    file = write(tmp_path / "a.nii.gz", encoded(voxels("i2"), change=changed(vox_offset=offset)))
    assert "offset" in message(file, DamagedFile, "header")


def test_offset_beyond_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.nii.gz", encoded(voxels("i2"), change=changed(vox_offset=1e30)))
    assert "but the file has" in message(file, DamagedFile, "header")


@pytest.mark.parametrize(
    "fields",
    [
        {"srow_x": [np.nan, 0, 0, 0]},
        {"srow_y": [0, np.inf, 0, 0]},
        {"sform_code": 0, "qform_code": 1, "quatern_b": 0.9, "quatern_c": 0.9},
    ],
)
def test_orientation_that_is_none(tmp_path: Path, fields: dict[str, Any]) -> None:
    file = write(tmp_path / "a.nii.gz", encoded(voxels("i2"), change=changed(**fields)))
    text = message(file, InvalidInput, "header")
    assert "affine" in text or "orientation" in text


# --- not a file that can be opened


def test_a_folder_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").mkdir()
    assert message(NiftiFile(tmp_path / "a.nii.gz"), InvalidInput).startswith(
        "is a folder, but a NIfTI file was expected"
    )


def test_a_link_to_nothing_and_a_file_as_folder(tmp_path: Path) -> None:
    link = tmp_path / "a.nii.gz"
    link.symlink_to("gone.nii.gz")
    assert message(NiftiFile(link), NotFound).startswith("is a link to gone.nii.gz, which does not exist")
    (tmp_path / "file").touch()
    assert message(NiftiFile(tmp_path / "file" / "a.nii.gz"), NotFound) == "no such file; check the spelling"


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.nii").symlink_to("b.nii")
    (tmp_path / "b.nii").symlink_to("a.nii")
    assert "cannot be read" in message(NiftiFile(tmp_path / "a.nii"), UnreadableFile)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    assert "is a pipe" in message(NiftiFile(tmp_path / "a.nii"), InvalidInput)


@pytest.mark.parametrize("ask", ["header", "read"])
def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str) -> None:
    file = write(tmp_path / "a.nii.gz", encoded(voxels("i2")))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(file.path))

    monkeypatch.setattr(Path, "open", refuse)  # as root every file opens
    assert message(file, UnreadableFile, ask) == "cannot be read: Permission denied; check permissions and disk"


def test_a_disk_that_fails_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.nii.gz", encoded(voxels("i2", (100, 100, 100))))

    class Failing(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            if self.tell() > 500_000:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer) or 0

    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Failing(path))
    assert message(file, UnreadableFile) == "cannot be read: Input/output error; check permissions and disk"


# --- real files

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"


@pytest.mark.real
def test_real_files_equal_nibabel() -> None:
    if not REAL.is_dir():
        pytest.skip("the real data sets are not here")
    paths = sorted(REAL.rglob("*.nii.gz"))
    assert len(paths) >= 6
    for path in paths:
        assert_equals_nibabel(NiftiFile(path))


def test_the_scan_that_nibabel_ships() -> None:
    found = sorted((Path(nib.__file__).parent / "tests" / "data").glob("*.nii*"))
    assert found
    read = 0
    for path in found:
        image: Any = nib.load(path)
        if len(image.shape) == 4 and image.get_data_dtype().kind in "iuf":
            assert_equals_nibabel(NiftiFile(path, volume_index=image.shape[3] - 1), image.shape[3] - 1)
            read += 1
    assert read
