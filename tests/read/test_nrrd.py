"""NRRD files against pynrrd and ITK, and every way in which one can be broken."""

from __future__ import annotations

import gzip
import logging
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.read.contract import ReaderContract, Truth
from voxtract.errors import DamagedFile, InvalidInput, NotFound, UnreadableFile
from voxtract.model import VolumeFile
from voxtract.read.nrrd import NrrdFile

OBLIQUE = np.array([[0.9, 0.1, 0.0, -10.0], [-0.2, 1.1, 0.3, 20.5], [0.0, -0.4, 2.5, 3.25], [0, 0, 0, 1]])
NAMES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "RAS": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "LAS": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "LPS": (-1, -1, 1),
}


def voxels(dtype: str, shape: tuple[int, ...] = (5, 6, 7)) -> NDArray[Any]:
    rng = np.random.default_rng(5)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 1000, shape).astype(dtype)
    info = np.iinfo(np.dtype(dtype).type)
    return rng.integers(info.min, info.max, shape, dtype=info.dtype, endpoint=True)


def vector(values: Any) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


def fields(data: NDArray[Any], affine: NDArray[np.float64] = OBLIQUE, **changed: str | None) -> dict[str, str]:
    """Header of `data`, written by hand; a field of None is left out, ``_`` stands for a blank."""
    told: dict[str, str | None] = {
        "type": NAMES[data.dtype.newbyteorder("=").str[1:]][0],
        "dimension": str(data.ndim),
        "space": "right-anterior-superior",
        "sizes": " ".join(map(str, data.shape)),
        "space directions": " ".join(vector(affine[:3, axis]) for axis in range(3)),
        "endian": "big" if data.dtype.byteorder == ">" else "little",
        "encoding": "gzip",
        "space origin": vector(affine[:3, 3]),
    }
    told |= {name.replace("_", " "): value for name, value in changed.items()}
    return {name: value for name, value in told.items() if value is not None}


def header(told: dict[str, str], magic: str = "NRRD0004", end: str = "\n") -> bytes:
    lines = [
        magic,
        "# a comment: with a colon",
        *(f"{name}: {value}" for name, value in told.items()),
        "key:=any: value",
    ]
    return (end.join(lines) + end + end).encode()


def write(path: Path, data: NDArray[Any], told: dict[str, str], **kwargs: str) -> NrrdFile:
    body = data.tobytes(order="F")
    path.write_bytes(header(told, **kwargs) + (gzip.compress(body, mtime=0) if told["encoding"] == "gzip" else body))
    return NrrdFile(path)


def message(file: NrrdFile, error: type[Exception], ask: str = "read") -> str:
    with pytest.raises(error) as caught:
        getattr(file, ask)()
    return str(caught.value)


class TestContract(ReaderContract):
    @pytest.fixture(params=["<i2", ">i2", "|u1", "<f4", ">f8", "<u8", ">i4"])
    def truth(self, request: pytest.FixtureRequest) -> Truth:
        dtype = np.dtype(request.param)
        return Truth(voxels(dtype.str[1:]).astype(dtype), OBLIQUE)

    @pytest.fixture(params=["gzip", "raw", "detached", "detached gzip"])
    def file(self, truth: Truth, tmp_path: Path, request: pytest.FixtureRequest) -> VolumeFile:
        encoding = request.param.split()[-1].replace("detached", "raw")
        told = fields(truth.stored, encoding=encoding)
        if not request.param.startswith("detached"):
            return write(tmp_path / "a.nrrd", truth.stored, told)
        body = truth.stored.tobytes(order="F")
        (tmp_path / "a.raw.gz").write_bytes(gzip.compress(body) if encoding == "gzip" else body)
        (tmp_path / "a.nhdr").write_bytes(header(told | {"data file": "a.raw.gz"}))
        return NrrdFile(tmp_path / "a.nhdr")

    @pytest.fixture
    def voxels_lost(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        path = tmp_path / "short.nrrd"
        write(path, truth.stored, fields(truth.stored))
        path.write_bytes(path.read_bytes()[:-20])
        return NrrdFile(path)

    @pytest.fixture
    def missing(self, tmp_path: Path) -> VolumeFile:
        return NrrdFile(tmp_path / "nothing.nrrd")


@pytest.mark.parametrize(("code", "name"), [(code, name) for code, names in NAMES.items() for name in names])
def test_every_name_of_every_type(tmp_path: Path, code: str, name: str) -> None:
    data = voxels(code)
    volume = write(tmp_path / "a.nrrd", data, fields(data, type=name)).read()
    assert volume.data.dtype == np.dtype(code)
    np.testing.assert_array_equal(volume.data, data)


@pytest.mark.parametrize("space", [*SPACES, "Left-Posterior-Superior", "lps"])
def test_every_space_becomes_ras(tmp_path: Path, space: str) -> None:
    signs = SPACES.get(space, (-1, -1, 1))
    data = voxels("i2")
    found = write(tmp_path / "a.nrrd", data, fields(data, space=space)).header().grid
    np.testing.assert_allclose(found.affine, np.diag([*signs, 1.0]) @ OBLIQUE, atol=1e-12)
    assert not np.signbit(found.affine[found.affine == 0]).any()


affines = st.lists(st.floats(-100, 100, width=32), min_size=12, max_size=12).map(
    lambda values: np.vstack([np.array(values).reshape(3, 4), [0, 0, 0, 1]])
)


@settings(max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    code=st.sampled_from([*NAMES]),
    order=st.sampled_from("<>"),
    encoding=st.sampled_from(["gzip", "raw"]),
    space=st.sampled_from([*SPACES]),
    affine=affines,
)
def test_reads_what_pynrrd_wrote(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    code: str,
    order: str,
    encoding: str,
    space: str,
    affine: NDArray[np.float64],
) -> None:
    nrrd = pytest.importorskip("nrrd", reason="pynrrd is the other reader and writer of NRRD")
    path = tmp_path_factory.mktemp("pynrrd") / "a.nrrd"
    data = voxels(code, shape).astype(np.dtype(order + code))
    told = {"space": space, "space directions": affine[:3, :3].T, "space origin": affine[:3, 3], "encoding": encoding}
    nrrd.write(str(path), data, told)
    volume = NrrdFile(path).read()
    again, _ = nrrd.read(str(path))
    assert volume.data.dtype == np.dtype(code)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_array_equal(again, data)
    signs = np.diag([*SPACES[space], 1])
    np.testing.assert_allclose(volume.header.grid.affine, signs @ affine, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("code", ["u1", "i2", "u2", "i4", "f4", "f8", "u8", "i8"])
@pytest.mark.parametrize("compressed", [True, False])
def test_reads_what_itk_wrote(tmp_path: Path, code: str, compressed: bool) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="ITK is the writer that most NRRD files come from")
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    data = voxels(code)
    image = sitk.GetImageFromArray(data.transpose(2, 1, 0))
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((-12.5, 7.25, 40.0))
    image.SetDirection(turn.reshape(-1).tolist())
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"), useCompression=compressed)
    volume = NrrdFile(tmp_path / "a.nrrd").read()
    assert volume.data.dtype == data.dtype
    np.testing.assert_array_equal(volume.data, data)
    point = [2, 3, 4]
    expected = np.array(image.TransformIndexToPhysicalPoint(point)) * (-1, -1, 1)  # ITK speaks LPS
    np.testing.assert_allclose(volume.header.grid.points_mm(np.array(point)), expected, atol=1e-6)


# --- headers


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    data = voxels("i2")
    np.testing.assert_array_equal(write(tmp_path / "a.nrrd", data, fields(data), end="\r\n").read().data, data)


def test_a_header_longer_than_a_block_is_read_whole(tmp_path: Path) -> None:
    data = voxels("u1")
    told = fields(data) | {"content": "x" * 20_000}
    np.testing.assert_array_equal(write(tmp_path / "a.nrrd", data, told).read().data, data)


BARE: dict[str, Any] = {"space": None, "space_directions": None, "space_origin": None}
BOX: dict[str, Any] = {"space_directions": "(2,0,0)(0,2,0) (0,0,5)", "space_origin": "( 0, 0, 0 )"}


@pytest.mark.parametrize(
    ("changed", "affine", "said"),
    [
        (BARE | {"spacings": "2 3 4"}, [2, 3, 4], "no space says"),
        (BARE, [1, 1, 1], "taken as 1 mm"),
        (BARE | {"space": "LPS", "spacings": "2 nan 4"}, [-2, -1, 4], "are not all known"),
        (BOX | {"space": "scanner-xyz"}, [2, 2, 5], "'scanner-xyz' says"),
        (BOX | {"space": "3D-right-handed"}, [2, 2, 5], "its axes are taken as RAS"),
        (BOX | {"space_origin": None}, [2, 2, 5], "no space origin"),
        (BOX | {"space_units": '"ft" "ft" "ft"'}, [2, 2, 5], "unit 'ft' is not known"),
    ],
)
def test_a_guessed_place_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: dict[str, Any], affine: list[float], said: str
) -> None:
    data = voxels("i2")
    file = write(tmp_path / "a.nrrd", data, fields(data, **changed))
    with caplog.at_level(logging.WARNING):
        found = file.header().grid.affine
    np.testing.assert_array_equal(found, np.diag([*affine, 1]))
    assert said in caplog.text
    assert str(tmp_path / "a.nrrd") in caplog.text


def test_a_placed_volume_is_told_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = voxels("i2")
    file = write(tmp_path / "a.nrrd", data, fields(data))
    with caplog.at_level(logging.DEBUG):
        file.read()
    assert caplog.text == ""
    assert file.described().space == "right-anterior-superior"


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("cm", 10), ("m", 1000), ("um", 1e-3), ("µm", 1e-3)])
def test_units_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    data = voxels("i2")
    file = write(tmp_path / "a.nrrd", data, fields(data, space_units=" ".join([f'"{unit}"'] * 3)))
    np.testing.assert_allclose(file.header().grid.affine[:3], OBLIQUE[:3] * factor)


@pytest.mark.parametrize("skip", [0, 1, 3])
@pytest.mark.parametrize("encoding", ["gzip", "raw"])
def test_lines_and_bytes_are_skipped(tmp_path: Path, skip: int, encoding: str) -> None:
    data = voxels("i2")
    body = b"junk!" + data.tobytes(order="F")  # bytes are skipped in what is inflated, lines before
    told = fields(data, encoding=encoding, line_skip=str(skip), byte_skip="5") | {"datafile": "d.bin"}
    lines = b"a line\n" * skip
    (tmp_path / "d.bin").write_bytes(lines + (gzip.compress(body) if encoding == "gzip" else body))
    (tmp_path / "a.nhdr").write_bytes(header(told))
    np.testing.assert_array_equal(NrrdFile(tmp_path / "a.nhdr").read().data, data)


def test_a_byte_skip_of_minus_one_takes_the_end(tmp_path: Path) -> None:
    data = voxels("i2")
    (tmp_path / "d.bin").write_bytes(b"x" * 77 + data.tobytes(order="F"))
    (tmp_path / "a.nhdr").write_bytes(header(fields(data, encoding="raw", byte_skip="-1") | {"data file": "d.bin"}))
    np.testing.assert_array_equal(NrrdFile(tmp_path / "a.nhdr").read().data, data)


def test_paths_are_all_that_is_read(tmp_path: Path) -> None:
    data = voxels("u1")
    (tmp_path / "d.bin").write_bytes(data.tobytes(order="F"))
    (tmp_path / "a.nhdr").write_bytes(header(fields(data, encoding="raw") | {"data file": "./d.bin"}))
    write(tmp_path / "a.nrrd", data, fields(data))
    assert [Path(one).name for one in NrrdFile(tmp_path / "a.nhdr").paths] == ["a.nhdr", "d.bin"]
    assert NrrdFile(tmp_path / "a.nrrd").paths == (str(tmp_path / "a.nrrd"),)


# --- frames


def four(data: NDArray[Any], directions: str | None, kinds: str | None = None) -> dict[str, str]:
    return fields(data, space_directions=directions, kinds=kinds)


ALONG = "(1,0,0) (0,1,0) (0,0,1)"


def test_frames_lie_one_after_the_other(tmp_path: Path) -> None:
    data = voxels("i2", (3, 4, 5, 2))
    for name, told in {
        "directions": four(data, f"{ALONG} none"),
        "kinds": four(data, None, "domain domain domain list") | {"spacings": "1 1 1 nan"},
        "nothing": four(data, None) | {"spacings": "1 1 1 1"},
    }.items():
        file = write(tmp_path / f"{name}.nrrd", data, told)
        assert "choose volume_index=0 to 1" in message(file, InvalidInput, "header")
        for index in (0, 1):
            volume = NrrdFile(file.path, index).read()
            np.testing.assert_array_equal(volume.data, data[..., index])
            assert volume.header.grid.shape == (3, 4, 5)
        assert "allowed: 0 to 1" in message(NrrdFile(file.path, 2), InvalidInput)
        assert "allowed: 0 to 1" in message(NrrdFile(file.path, -1), InvalidInput)


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_an_axis_of_one_is_no_axis(tmp_path: Path, position: int) -> None:
    data = voxels("i2", (3, 4, 5))
    directions = ALONG.split()
    directions.insert(position, "none")
    stored = np.expand_dims(data, position)
    file = write(tmp_path / "a.nrrd", stored, four(stored, " ".join(directions)))
    np.testing.assert_array_equal(file.read().data, data)


@pytest.mark.parametrize(
    ("shape", "directions", "kinds"),
    [
        ((3, 4, 5, 6), f"none {ALONG}", None),
        ((3, 4, 5, 6), None, "RGB-color domain domain domain"),
        ((3, 4, 5), None, "RGB-color domain domain"),
        ((3, 4, 5), "none (1,0,0) (0,1,0)", None),
        ((4, 5), None, None),
        ((2, 2, 2, 2, 2), None, None),
    ],
)
def test_colours_and_pictures_are_refused(
    tmp_path: Path, shape: tuple[int, ...], directions: str | None, kinds: str | None
) -> None:
    data = voxels("u1", shape)
    said = message(write(tmp_path / "a.nrrd", data, four(data, directions, kinds)), InvalidInput, "header")
    assert " x ".join(map(str, shape)) in said


# --- broken files


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"type": None}, DamagedFile, "lacks the field 'type'"),
        ({"type": "quaternion"}, DamagedFile, "type 'quaternion'"),
        ({"type": "block"}, InvalidInput, "'block'"),
        ({"sizes": None}, DamagedFile, "lacks the field 'sizes'"),
        ({"sizes": "5 6"}, DamagedFile, "expected 3 whole numbers"),
        ({"sizes": "5 6 x"}, DamagedFile, "expected 3 whole numbers"),
        ({"sizes": "5 0 7"}, InvalidInput, "holds no voxel"),
        ({"sizes": "5 -6 7"}, DamagedFile, "whole numbers"),
        ({"dimension": "three"}, DamagedFile, "dimension 'three'"),
        ({"dimension": None}, DamagedFile, "lacks the field 'dimension'"),
        ({"endian": None}, DamagedFile, "lacks the field 'endian'"),
        ({"endian": "middle"}, DamagedFile, "endian 'middle'"),
        ({"encoding": "bzip2"}, InvalidInput, "'raw' or 'gzip'"),
        ({"encoding": "ascii"}, InvalidInput, "'raw' or 'gzip'"),
        ({"space_directions": "(1,0,0) (0,1,0)"}, DamagedFile, "space directions"),
        ({"space_directions": "(1,0) (0,1) (1,1)"}, DamagedFile, "vectors of three numbers"),
        ({"space_directions": "(1,0,0) (0,1,x) (0,0,1)"}, DamagedFile, "vectors of three numbers"),
        ({"space_directions": "(1,0,0) and (0,1,0) (0,0,1)"}, DamagedFile, "space directions"),
        ({"space_directions": "(nan,0,0) (0,1,0) (0,0,1)"}, InvalidInput, "finite"),
        ({"space_origin": "(0,0)"}, DamagedFile, "space origin"),
        ({"space_origin": "(inf,0,0)"}, InvalidInput, "finite"),
        ({"space_directions": None, "spacings": "1 2"}, DamagedFile, "spacings"),
        ({"space_directions": None, "spacings": "1 2 x"}, DamagedFile, "spacings"),
        ({"space_directions": None, "kinds": "domain"}, DamagedFile, "kinds"),
        ({"space_units": '"mm" "mm" "cm"'}, InvalidInput, "space units"),
        ({"line_skip": "-1"}, DamagedFile, "line skip"),
        ({"byte_skip": "-2"}, DamagedFile, "byte skip"),
        ({"byte_skip": "-1"}, InvalidInput, "raw data only"),
        ({"line_skip": "9999"}, DamagedFile, "no 9999 lines"),
    ],
)
def test_a_broken_field_is_named(tmp_path: Path, changed: dict[str, Any], error: type[Exception], said: str) -> None:
    data = voxels("i2")
    told = {"encoding": "gzip", **fields(data, **changed)}
    path = tmp_path / "a.nrrd"
    path.write_bytes(header(told) + gzip.compress(data.tobytes(order="F"), mtime=0))
    text = message(NrrdFile(path), error, "header")
    assert text.startswith(f"{path}: ")
    assert said in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\x00" * 5000, "is not a NRRD file"),
        (b"NRRD0009\ntype: int\n\n", "is not a NRRD file"),
        (b"NRRD0004\ntype: int\ntype: int\n\n", "'type' is there twice"),
        (b"NRRD0004\nnothing here\n\n", "line 2 of the header: 'nothing here' has no colon"),
        (b"NRRD0004\n" + b"# x\n" * 300_000, "no empty line"),
        (b"NRRD0004\n\xff\xfe\n\n", "has no colon"),
    ],
)
def test_what_is_no_nrrd_file(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.nrrd"
    path.write_bytes(content)
    for ask in ("header", "read", "described"):
        assert said in message(NrrdFile(path), DamagedFile, ask)


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    data = voxels("u1")
    for encoding in ("gzip", "raw"):
        file = write(tmp_path / "a.nrrd", data, fields(data, sizes="100000 100000 1000", encoding=encoding))
        tracemalloc.start()
        said = message(file, DamagedFile)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "promises 100000 x 100000 x 1000 voxels" in said
        assert peak < 1 << 22


def test_a_short_raw_file(tmp_path: Path) -> None:
    data = voxels("i2")
    file = write(tmp_path / "a.nrrd", data, fields(data, encoding="raw"))
    file.path.write_bytes(file.path.read_bytes()[:-1])
    for ask in ("header", "read"):
        assert "but the file has" in message(file, DamagedFile, ask)


@pytest.mark.parametrize("at", [12, 40, -6, -1])
def test_damaged_compressed_voxels_are_noticed(tmp_path: Path, at: int) -> None:
    data = voxels("i2")
    file = write(tmp_path / "a.nrrd", data, fields(data))
    content = bytearray(file.path.read_bytes())
    begin = content.index(b"\x1f\x8b")
    content[begin + at if at > 0 else at] ^= 0x55
    file.path.write_bytes(content)
    assert message(file, DamagedFile).startswith(f"{file.path}: ")


def test_what_follows_the_voxels_is_ignored(tmp_path: Path) -> None:
    data = voxels("i2")
    for encoding in ("gzip", "raw"):
        file = write(tmp_path / f"{encoding}.nrrd", data, fields(data, encoding=encoding))
        file.path.write_bytes(file.path.read_bytes() + bytes(100))
        np.testing.assert_array_equal(file.read().data, data)


@pytest.mark.parametrize("name", ["../d.bin", "/etc/hostname", "sub/../../d.bin", "C:\\d.bin", "..\\d.bin", "", "LIST"])
def test_the_data_file_stays_in_the_folder(tmp_path: Path, name: str) -> None:
    data = voxels("u1")
    inner = tmp_path / "inner"
    (inner / "sub").mkdir(parents=True)
    (tmp_path / "d.bin").write_bytes(data.tobytes(order="F"))
    (inner / "a.nhdr").write_bytes(header(fields(data, encoding="raw") | {"data file": name}))
    said = message(NrrdFile(inner / "a.nhdr"), InvalidInput)
    assert "data file" in said


def test_several_data_files_are_refused(tmp_path: Path) -> None:
    data = voxels("u1")
    (tmp_path / "a.nhdr").write_bytes(header(fields(data, encoding="raw") | {"data file": "d%03d.raw 1 7 1"}))
    assert "several data files" in message(NrrdFile(tmp_path / "a.nhdr"), InvalidInput)


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    data = voxels("u1")
    (tmp_path / "a.nhdr").write_bytes(header(fields(data, encoding="raw") | {"data file": "d.bin"}))
    assert message(NrrdFile(tmp_path / "a.nhdr"), NotFound).startswith(f"{tmp_path / 'd.bin'}: no such file")


def test_other_things_than_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nrrd")
    (tmp_path / "folder.nrrd").mkdir()
    (tmp_path / "link.nrrd").symlink_to(tmp_path / "gone.nrrd")
    assert "is a pipe" in message(NrrdFile(tmp_path / "pipe.nrrd"), InvalidInput)
    assert "is a folder" in message(NrrdFile(tmp_path / "folder.nrrd"), InvalidInput)
    assert "is a link to" in message(NrrdFile(tmp_path / "link.nrrd"), NotFound)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    data = voxels("u1")
    file = write(tmp_path / "a.nrrd", data, fields(data))
    file.path.chmod(0)
    assert "check permissions" in message(file, UnreadableFile)


# --- slabs


@pytest.mark.parametrize("encoding", ["gzip", "raw"])
@pytest.mark.parametrize("planes", [1, 3, 7, 100])
@pytest.mark.parametrize("order", "<>")
def test_slabs_are_the_volume_in_pieces(tmp_path: Path, encoding: str, planes: int, order: str) -> None:
    data = voxels("i2").astype(np.dtype(f"{order}i2"))
    file = write(tmp_path / "a.nrrd", data, fields(data, encoding=encoding))
    slabs = [slab.copy() for slab in file.slabs(planes)]
    assert all(slab.shape[2] <= planes and slab.dtype.isnative for slab in slabs)
    np.testing.assert_array_equal(np.concatenate(slabs, axis=2), data)


def test_raw_voxels_are_whole_where_the_header_leaves_them_unaligned(tmp_path: Path) -> None:
    data = voxels("f8")
    for length in range(8):
        file = write(tmp_path / "a.nrrd", data, fields(data, encoding="raw") | {"content": "x" * length})
        found = file.read().data
        assert found.flags.aligned
        np.testing.assert_array_equal(found, data)
