"""Chunks of volume layers in zarr 3: every kind of metadata around them, judged by content."""

from __future__ import annotations

import itertools
import json
import struct
import sys
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.webknossos.volumes import DTYPES, VARIANTS, Variant, blosc, labels, little, zarr_json
from voxtract.errors import DamagedFile, InvalidInput
from voxtract.webknossos.zarr3 import ChunkCodec, chunk_key, encode_chunk, metadata, parse_key

numcodecs = pytest.importorskip("numcodecs", reason="numcodecs decodes volume layers")

VOXELS = labels(1)


def codec(document: Any) -> ChunkCodec:
    return ChunkCodec.parse(json.dumps(document).encode(), "zarr.json")


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("extra", [0, 2])
def test_chunks_of_every_server_decode(variant: Variant, dtype: str, extra: int) -> None:
    voxels = labels(2, dtype)
    found = codec(zarr_json(np.dtype(dtype).name, variant, extra))
    assert found.axes == tuple("tu"[:extra])
    decoded = found.decode(blosc(little(voxels).tobytes(order="F")), "x")
    assert decoded.dtype == voxels.dtype
    assert decoded.flags.f_contiguous
    np.testing.assert_array_equal(decoded, voxels)


@pytest.mark.parametrize("order", [*itertools.permutations((1, 2, 3)), "F", "C"])
def test_chunks_lie_as_the_metadata_say(order: Any) -> None:
    """Against what transposing means: axis n of what is stored is axis order[n] of the array."""
    document = zarr_json("uint32", VARIANTS["official library"])
    axes = [0, *order] if isinstance(order, tuple) else order
    document["codecs"][0]["configuration"]["order"] = axes
    numbers = {"F": (3, 2, 1), "C": (1, 2, 3)}.get(order, order)
    stored = np.ascontiguousarray(little(VOXELS).transpose([n - 1 for n in numbers]))
    np.testing.assert_array_equal(codec(document).decode(blosc(stored.tobytes()), "x"), VOXELS)


def test_without_an_order_metadata_are_believed_where_they_are_right_about_the_compression() -> None:
    """Servers that forgot the compression forgot the order too; a file that lists it is in the order of zarr."""
    raw = little(VOXELS).tobytes(order="C")
    document = zarr_json("uint32", Variant("c.", "default", None, True))
    np.testing.assert_array_equal(codec(document).decode(blosc(raw), "x"), VOXELS)
    document = zarr_json("uint32", Variant("c.", "default", None, False))
    np.testing.assert_array_equal(codec(document).decode(raw, "x"), VOXELS)
    np.testing.assert_array_equal(codec(document).decode(blosc(little(VOXELS).tobytes(order="F")), "x"), VOXELS)


def test_voxels_that_are_not_compressed_although_it_is_listed() -> None:
    document = zarr_json("uint32", VARIANTS["official library"])
    np.testing.assert_array_equal(codec(document).decode(little(VOXELS).tobytes(order="F"), "x"), VOXELS)


def test_big_endian_chunks() -> None:
    document = zarr_json("uint32", VARIANTS["official library"])
    document["codecs"][1]["configuration"]["endian"] = "big"
    found = codec(document).decode(blosc(VOXELS.astype(">u4").tobytes(order="F")), "x")
    assert found.dtype == np.dtype("u4")
    np.testing.assert_array_equal(found, VOXELS)


@given(data=st.data(), dtype=st.sampled_from(DTYPES), layout=st.sampled_from("FC"))
@settings(max_examples=30)
def test_chunks_come_back_as_they_were(data: st.DataObject, dtype: str, layout: Any) -> None:
    info = np.iinfo(np.dtype(dtype).type)
    few = data.draw(arrays.arrays(dtype, (2, 2, 2), elements=st.integers(int(info.min), int(info.max))))
    voxels = np.array(np.kron(few, np.ones((16, 16, 16), dtype)), dtype, order=layout)
    stored = encode_chunk(voxels)
    assert stored == encode_chunk(voxels)
    np.testing.assert_array_equal(ChunkCodec(np.dtype(dtype)).decode(stored, "x"), voxels)
    raw = np.frombuffer(numcodecs.Blosc().decode(stored), np.dtype(dtype).newbyteorder("<"))
    np.testing.assert_array_equal(raw.reshape((32, 32, 32), order="F"), voxels)


def test_written_chunks_are_blosc_as_servers_write_it() -> None:
    stored = encode_chunk(VOXELS)
    version, _, flags, typesize, size, _, length = struct.unpack("<4B3I", stored[:16])
    assert (version, typesize, size, length) == (2, 1, 4 * 32**3, len(stored))
    assert flags >> 5 == 1  # lz4
    assert len(stored) < len(VOXELS.tobytes()) / 4


def test_noise_that_does_not_compress_is_within_the_limit() -> None:
    voxels = np.random.default_rng(0).integers(0, 2**63, (32, 32, 32), dtype="u8")
    found = ChunkCodec(voxels.dtype)
    stored = encode_chunk(voxels)
    assert len(stored) <= found.most_bytes
    np.testing.assert_array_equal(found.decode(stored, "x"), voxels)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("c.0.1.2.3", (0, 1, 2, 3)),
        ("0.1.2.3", (0, 1, 2, 3)),
        ("c/0/1/2/3", (0, 1, 2, 3)),
        ("0/1/2/3", (0, 1, 2, 3)),
        ("c.0.7.8.1.2.3", (0, 7, 8, 1, 2, 3)),
        ("c.0.1.2", (0, 1, 2)),
        ("zarr.json", None),
        ("c.0.1.2.-3", None),
        ("c.0.1.2.3.tmp", None),
        ("d.0.1.2.3", None),
        ("c.0.1.2.99999999999999999999", None),
        ("c.0.1.2.\N{SUPERSCRIPT TWO}", None),
        ("c.0.1.2.\N{ARABIC-INDIC DIGIT TWO}", None),
        ("../0.1.2.3", None),
        ("", None),
    ],
)
def test_names_of_chunks(name: str, numbers: tuple[int, ...] | None) -> None:
    assert parse_key(name) == numbers


def test_names_are_written_as_all_servers_know_them() -> None:
    assert chunk_key((103, 107, 32)) == "c.0.103.107.32"
    assert chunk_key((5, 1, 2, 3)) == "c.0.5.1.2.3"


def test_metadata_are_those_that_the_codec_reads() -> None:
    found = ChunkCodec.parse(metadata(np.dtype("u8"), (9, 100, 1, 0), ["t"]), "x")
    assert found == ChunkCodec(np.dtype("u8"), ("t",), (4, 3, 2, 1, 0), True)
    assert json.loads(metadata(np.dtype("u8"), (9, 100, 1, 0), ["t"]))["shape"] == [1, 9, 128, 32, 32]


GOOD = zarr_json("uint32", VARIANTS["official library"])
CHUNK = blosc(little(VOXELS).tobytes(order="F"))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[1]", "JSON list"),
        (b'{"a": ' + b"1" * 5000 + b"}", "no JSON"),
        (b'{"data_type": "float32"}', "data_type 'float32' is no voxel type"),
        (b"{}", "data_type None is no voxel type"),
    ],
)
def test_metadata_that_are_none(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^x: .*{message}"):
        ChunkCodec.parse(raw, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk_grid": None}, "chunks of None voxels"),
        ({"chunk_grid": {"configuration": {"chunk_shape": [1, 64, 64, 64]}}}, r"chunks of \[1, 64"),
        ({"chunk_grid": {"configuration": {"chunk_shape": [32, 32, 32]}}}, r"chunks of \[32"),
        ({"chunk_grid": {"configuration": {"chunk_shape": [1, "32", 32, 32]}}}, "chunks of"),
        ({"codecs": None}, "lists no codecs"),
        ({"codecs": [{"name": "transpose", "configuration": {"order": [0, 1, 2]}}]}, "transposes 4 axes"),
        ({"codecs": [{"name": "transpose", "configuration": {"order": [0, 1, 2, 2]}}]}, "transposes 4 axes"),
        ({"codecs": [{"name": "transpose"}]}, "transposes 4 axes by None"),
        ({"codecs": [{"name": "sharding_indexed"}]}, "has no shards"),
    ],
)
def test_metadata_that_no_volume_layer_has(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        codec({**GOOD, **change})


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (b"", "0 bytes are neither a Blosc chunk nor"),
        (CHUNK[:-1], "neither a Blosc chunk nor"),
        (CHUNK + b"\0", "neither a Blosc chunk nor"),
        (bytes(32**3), "neither a Blosc chunk nor"),
        (blosc(bytes(32**3)), "neither a Blosc chunk nor"),
        (CHUNK[:4] + struct.pack("<I", 2**31) + CHUNK[8:], "neither a Blosc chunk nor"),
        (CHUNK[:16] + b"\xff" * (len(CHUNK) - 16), "its Blosc data are damaged"),
    ],
)
def test_chunks_that_do_not_decode(stored: bytes, message: str) -> None:
    with pytest.raises(DamagedFile, match=f"^data.zip/1/c.0.0.0.0: .*{message}"):
        codec(GOOD).decode(stored, "data.zip/1/c.0.0.0.0")


def test_damaged_bytes_never_give_more_than_an_error() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        raw = bytearray(CHUNK)
        for place in rng.integers(0, len(raw), 3).tolist():
            raw[place] ^= int(rng.integers(1, 256))
        with suppress(DamagedFile):
            assert codec(GOOD).decode(bytes(raw), "x").shape == (32, 32, 32)


def test_without_numcodecs_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numcodecs.blosc", None)
    with pytest.raises(InvalidInput, match=r"need the package numcodecs .*voxtract\[webknossos\]"):
        codec(GOOD).decode(CHUNK, "x")
