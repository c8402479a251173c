"""wkw cubes against the `wkw` package (both ways), against bytes made by hand, and broken in every way."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.webknossos.volumes import DTYPES, labels, wkw_cube, wkw_header
from voxtract.errors import DamagedFile, InvalidInput, NotFound, OutputError
from voxtract.geometry import Box
from voxtract.webknossos.wkw import LZ4, LZ4_HC, RAW, Cube, Header, WkwArray, morton

pytest.importorskip("lz4.block", reason="lz4 decodes wkw")


def peer() -> Any:
    return pytest.importorskip("wkw", reason="the package of the format's authors reads what is written")


def noise(shape: tuple[int, ...], dtype: str, seed: int = 3) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    return (rng.random(shape) * 200).astype(dtype)


@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_morton_order_takes_bits_in_turns(side: int) -> None:
    for number, place in enumerate(morton(side).tolist()):
        bits = [(number >> bit) & 1 for bit in range(30)]
        assert place == [sum(bit << n for n, bit in enumerate(bits[axis::3])) for axis in range(3)]


@pytest.mark.parametrize("dtype", [*DTYPES, "f4", "f8"])
@pytest.mark.parametrize("kind", [RAW, LZ4, LZ4_HC])
def test_headers_have_the_bytes_of_the_format(dtype: str, kind: int) -> None:
    header = Header(np.dtype(dtype), kind=kind)
    assert header.encode(24) == wkw_header(dtype, kind, 24)
    assert Header.decode(header.encode(24), "x") == (header, 24)


@pytest.mark.parametrize("kind", [RAW, LZ4, LZ4_HC])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cube_made_by_hand_is_decoded(dtype: str, kind: int) -> None:
    voxels = labels(1, dtype)
    found = Cube(io.BytesIO(wkw_cube(voxels, kind)), "x").block(0)
    assert found.dtype == voxels.dtype
    assert found.flags.f_contiguous
    np.testing.assert_array_equal(found[0], voxels)


@given(data=st.data(), dtype=st.sampled_from(DTYPES), kind=st.sampled_from([RAW, LZ4]), channels=st.integers(1, 3))
@settings(max_examples=25)
def test_blocks_come_back_as_they_were(data: st.DataObject, dtype: str, kind: int, channels: int) -> None:
    header = Header(np.dtype(dtype), channels, block=4, cube=2, kind=kind)
    raw = data.draw(st.binary(min_size=header.block_bytes, max_size=header.block_bytes))
    voxels = np.frombuffer(raw, dtype).reshape((channels, 4, 4, 4))
    np.testing.assert_array_equal(header.decode_block(header.encode_block(voxels), "x"), voxels)


@pytest.mark.parametrize("kind", [RAW, LZ4])
@pytest.mark.parametrize(("dtype", "channels"), [("u4", 1), ("u1", 3), ("f4", 1)])
def test_arrays_of_the_other_package_are_read(tmp_path: Path, kind: int, dtype: str, channels: int) -> None:
    wkw = peer()
    voxels = noise((channels, 128, 64, 64), dtype)
    header = wkw.Header(np.dtype(dtype).type, num_channels=channels, block_len=16, file_len=4, block_type=kind)
    with wkw.Dataset.create(str(tmp_path / "1"), header) as dataset:
        dataset.write((64, 0, 128), np.asfortranarray(voxels))
    array = WkwArray.open(tmp_path / "1")
    assert (array.dtype, array.channels, array.chunk, array.shard) == (np.dtype(dtype), channels, (16,) * 3, (64,) * 3)
    np.testing.assert_array_equal(array.read(Box((64, 0, 128), (192, 64, 192))), voxels)
    np.testing.assert_array_equal(array.read(Box((71, 3, 100), (140, 9, 131)))[:, :, :, 28:], voxels[:, 7:76, 3:9, :3])
    assert not array.read(Box((0, 0, 0), (64, 64, 128))).any()
    assert [box.start for box in array.shards()] == [(64, 0, 128), (128, 0, 128)]
    found = dict(array.chunks())
    assert len(found) == 8 * 4 * 4
    for (x, y, z), piece in found.items():
        np.testing.assert_array_equal(piece, voxels[:, x - 64 : x - 48, y : y + 16, z - 128 : z - 112])


@pytest.mark.parametrize("kind", [RAW, LZ4])
@pytest.mark.parametrize(("dtype", "channels"), [("u8", 1), ("i2", 2)])
def test_the_other_package_reads_what_is_written(tmp_path: Path, kind: int, dtype: str, channels: int) -> None:
    wkw = peer()
    array = WkwArray.create(tmp_path / "1", Header(np.dtype(dtype), channels, block=8, cube=4, kind=kind))
    truth = np.zeros((channels, 96, 80, 72), dtype)
    for seed, (start, size) in enumerate(
        [((0, 0, 0), (32, 32, 32)), ((5, 30, 1), (60, 41, 9)), ((31, 31, 31), (2, 2, 40))]
    ):
        voxels = noise((channels, *size), dtype, seed)
        array.write(start, voxels)
        truth[:, *(slice(a, a + n) for a, n in zip(start, size, strict=True))] = voxels
    with wkw.Dataset.open(str(tmp_path / "1")) as dataset:
        np.testing.assert_array_equal(dataset.read((0, 0, 0), (96, 80, 72)), truth)
    np.testing.assert_array_equal(array.read(Box((0, 0, 0), (96, 80, 72))), truth)
    assert not list(tmp_path.rglob("*.part"))


def test_recoded_cubes_hold_the_same_voxels(tmp_path: Path) -> None:
    array = WkwArray.create(tmp_path / "raw", Header(np.dtype("u2"), block=8, cube=2, kind=RAW))
    array.write((3, 0, 20), noise((1, 20, 9, 5), "u2"))
    array.recode(tmp_path / "lz4", Header(np.dtype("u2"), block=8, cube=2, kind=LZ4))
    other = WkwArray.open(tmp_path / "lz4")
    assert other.header.kind == LZ4
    box = Box((0, 0, 0), (48, 16, 32))
    np.testing.assert_array_equal(other.read(box), array.read(box))
    assert list(other.shards()) == list(array.shards())


GOOD = wkw_cube(labels(1))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "begins with b''"),
        (b"PK\3\4" + GOOD[4:], "begins with"),
        (GOOD[:15], "begins with"),
        (wkw_header("u4", version=2), "wkw version 2"),
        (wkw_header("u4", kind=7), "block type 7"),
        (GOOD[:6] + b"\x0b" + GOOD[7:], "voxel type 11"),
        (GOOD[:7] + b"\x03" + GOOD[8:], "3 bytes per voxel"),
        (GOOD[:7] + b"\x00" + GOOD[8:], "0 bytes per voxel"),
        (wkw_header("u4", sides=0x0F), "32768 voxels along a block"),
        (wkw_header("u4", sides=0xF5), "32768 blocks along a cube"),
        (GOOD[:24], "blocks end at byte"),
        (GOOD[:20], "too few for a table"),
        (GOOD[:-1], "blocks end at byte"),
        (wkw_header("u4", kind=1, offset=16) + bytes(100), "blocks end at byte"),
        (wkw_header("u4", kind=2, offset=0) + GOOD[16:], "too few for a table"),
        (GOOD[:16] + struct.pack("<Q", 3) + GOOD[24:], "blocks end at byte"),
        (GOOD[:16] + struct.pack("<Q", 2**64 - 1) + GOOD[24:], "blocks end at byte"),
    ],
)
def test_broken_cubes_are_refused_before_decoding(raw: bytes, message: str) -> None:
    with pytest.raises(DamagedFile, match=f"^somewhere: .*{message}"):
        Cube(io.BytesIO(raw), "somewhere")


@pytest.mark.parametrize(
    ("stored", "message"),
    [(b"\xff" * 50, "is no LZ4 data"), (b"", "is no LZ4 data|holds 0 bytes"), (b"\x50hello", "holds 5 bytes")],
)
def test_blocks_that_do_not_decode_are_told(stored: bytes, message: str) -> None:
    raw = wkw_header("u4", offset=24) + struct.pack("<Q", 24 + len(stored)) + stored
    with pytest.raises(DamagedFile, match=message):
        Cube(io.BytesIO(raw), "somewhere").block(0)


def test_a_block_that_takes_too_many_bytes_is_not_read() -> None:
    stored = bytes(10**6)
    raw = wkw_header("u4", offset=24) + struct.pack("<Q", 24 + len(stored)) + stored
    with pytest.raises(DamagedFile, match="takes 1000000 bytes for 131072"):
        Cube(io.BytesIO(raw), "somewhere").block(0)


def test_folders_that_are_no_arrays(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"header\.wkw: no such file"):
        WkwArray.open(tmp_path)
    with pytest.raises(OutputError, match="cannot be made"):
        WkwArray.create(tmp_path, Header(np.dtype("u4")))


def test_a_cube_that_does_not_fit_its_header_is_refused(tmp_path: Path) -> None:
    array = WkwArray.create(tmp_path / "1", Header(np.dtype("u2")))
    path = tmp_path / "1" / "z0" / "y0" / "x0.wkw"
    path.parent.mkdir(parents=True)
    path.write_bytes(GOOD)
    with pytest.raises(DamagedFile, match=r"x0\.wkw: its header says .*uint32.*uint16"):
        array.read(Box((0, 0, 0), (1, 1, 1)))


def test_a_write_that_fails_leaves_the_cube_as_it_was(tmp_path: Path) -> None:
    array = WkwArray.create(tmp_path / "1", Header(np.dtype("u2")))
    path = tmp_path / "1" / "z0" / "y0" / "x0.wkw"
    path.parent.mkdir(parents=True)
    broken = wkw_cube(labels(1, "u2"))[:-3]
    path.write_bytes(broken)
    with pytest.raises(DamagedFile):
        array.write((0, 0, 0), np.ones((1, 3, 3, 3), "u2"))
    assert path.read_bytes() == broken
    assert [p.name for p in path.parent.iterdir()] == ["x0.wkw"]


def test_without_lz4_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lz4.block", None)
    with pytest.raises(InvalidInput, match=r"needs? the package lz4 .*voxtract\[webknossos\]"):
        Cube(io.BytesIO(GOOD), "somewhere").block(0)
