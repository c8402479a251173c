"""Slices of extractions, however they were written, and what is said where they are damaged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec

from tests.write.written import noise, view_of, write
from voxtract.errors import DamagedFile, InvalidInput, NotFound
from voxtract.model import Findings
from voxtract.read.slices import read_slice, slice_file
from voxtract.write import image_writer

KINDS = [
    ("tiff", None, ".tif", "tiff"),
    ("tiff", "zstd", ".tif", "tiff"),
    ("png", None, ".png", "tiff"),
    ("zarr", None, ".zarr", "tiff"),
    ("zarr", "zstd", ".zarr", "tiff"),
    ("webdataset", None, ".tar", "tiff"),
    ("webdataset", "zlib", ".tar", "tiff"),
    ("webdataset", None, ".tar", "png"),
]


def extracted(
    root: Path, kind: str, compression: str | None, suffix: str, sample: str = "tiff", dtype: Any = np.uint16
) -> tuple[Findings, Any]:
    found = view_of((9, 7, 12), "sagittal", target=(11, 13), slices=[0, 2, 3, 5, 6, 8], suffix=suffix)
    images = noise(found, dtype)
    writer = image_writer(kind, compression, sample_format=sample, shard_size=2500, class_map=None)
    write(root, writer, found, images)
    return found, images


@pytest.mark.parametrize(("kind", "compression", "suffix", "sample"), KINDS)
def test_what_was_written_is_read(tmp_path: Path, kind: str, compression: str, suffix: str, sample: str) -> None:
    found, images = extracted(tmp_path, kind, compression, suffix, sample)
    for index in [8, 0, *found.slices.tolist()]:
        image = read_slice(tmp_path, found, index)
        assert image.dtype == np.uint16
        np.testing.assert_array_equal(image, images[index])
        assert slice_file(tmp_path, found, index).is_file()
    if kind == "webdataset":
        assert len({slice_file(tmp_path, found, k) for k in found.slices.tolist()}) == len(
            list(tmp_path.rglob("*.tar"))
        )


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "u8", "f2", "f4", "f8"])
def test_arrays_of_every_dtype(tmp_path: Path, dtype: str) -> None:
    found, images = extracted(tmp_path, "zarr", None, ".zarr", dtype=dtype)
    image = read_slice(tmp_path, found, 5)
    assert image.dtype == dtype
    np.testing.assert_array_equal(image, images[5])


def test_an_extraction_made_anew_is_read_anew(tmp_path: Path) -> None:
    for compression in ("zlib", None):
        found, images = extracted(tmp_path, "webdataset", compression, ".tar")
        for index in found.slices.tolist():
            np.testing.assert_array_equal(read_slice(tmp_path, found, index), images[index])


@pytest.mark.parametrize("keep", [0, 600, 900])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_shard_that_is_cut_short(tmp_path: Path, keep: int, compression: str | None) -> None:
    found, _ = extracted(tmp_path, "webdataset", compression, ".tar")
    file = slice_file(tmp_path, found, 5)
    assert isinstance(file, Path)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DamagedFile, match=rf"{re.escape(str(file))}: the image is damaged .*overwrite"):
        read_slice(tmp_path, found, 5)


def test_shards_and_what_says_where_images_are_may_be_missing(tmp_path: Path) -> None:
    found, _ = extracted(tmp_path, "webdataset", None, ".tar")
    slice_file(tmp_path, found, 8).unlink()
    with pytest.raises(NotFound, match=r"sagittal_00\d\.tar: no such image"):
        read_slice(tmp_path, found, 8)
    (tmp_path / found.places).unlink()
    with pytest.raises(NotFound, match="says where the images are, and is missing"):
        read_slice(tmp_path, found, 0)


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (b"", "does not speak of the 6 slices"),
        (np.zeros(17, "<i8").tobytes(), "does not speak of the 6 slices"),
        (np.full(18, -1, "<i8").tobytes(), "does not speak of the 6 slices"),
        (np.tile(np.array([0, 512, 2**60], "<i8"), 6).tobytes(), "the image is damaged"),
        (np.tile(np.array([0, 2**62, 10], "<i8"), 6).tobytes(), "the image is damaged"),
        (np.tile(np.array([0, 0, 500], "<i8"), 6).tobytes(), "the image is damaged"),
        (np.tile(np.array([0, 512, 300], "<i8"), 6).tobytes(), "the image is damaged"),
    ],
)
def test_a_damaged_list_of_places(tmp_path: Path, places: bytes, said: str) -> None:
    found, _ = extracted(tmp_path, "webdataset", None, ".tar")
    (tmp_path / found.places).write_bytes(places)
    with pytest.raises(DamagedFile, match=said):
        read_slice(tmp_path, found, 2)


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("change", ["cut", "grow", "spoil", "remove"])
def test_a_damaged_chunk(tmp_path: Path, compression: str | None, change: str) -> None:
    found, images = extracted(tmp_path, "zarr", compression, ".zarr")
    file = slice_file(tmp_path, found, 5)
    assert isinstance(file, Path)
    content = file.read_bytes()
    if change == "remove":
        file.unlink()
        with pytest.raises(NotFound, match=r"c/5/0/0: no such image"):
            read_slice(tmp_path, found, 5)
    elif not (change == "spoil" and compression is None):
        file.write_bytes({"cut": content[:-9], "grow": content + content, "spoil": b"\0" * 8 + content[8:]}[change])
        with pytest.raises(DamagedFile, match=r"c/5/0/0: the image is damaged"):
            read_slice(tmp_path, found, 5)
    np.testing.assert_array_equal(read_slice(tmp_path, found, 6), images[6])


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"codecs": []}', "\0\1"])
def test_damaged_metadata_of_an_array(tmp_path: Path, text: str) -> None:
    found, _ = extracted(tmp_path, "zarr", None, ".zarr")
    (tmp_path / found.store / "0/zarr.json").write_text(text)
    with pytest.raises(DamagedFile, match=r"0/zarr\.json: the image is damaged"):
        read_slice(tmp_path, found, 5)


@pytest.mark.parametrize("chunks", [(1, 11, 13), (2, 11, 13)])
def test_an_array_that_zarr_has_written_anew(tmp_path: Path, chunks: tuple[int, int, int]) -> None:
    """In the other byte order it is read; in other chunks it is refused, and says so."""
    found, images = extracted(tmp_path, "zarr", None, ".zarr")
    big = BytesCodec(endian="big")
    group = zarr.open_group(tmp_path / found.store, mode="r+")
    group.create_array(
        "0", shape=images.shape, chunks=chunks, dtype=images.dtype, compressors=None, serializer=big, overwrite=True
    )[:] = images
    if chunks[0] == 1:
        image = read_slice(tmp_path, found, 5)
        assert image.dtype == np.uint16
        assert image.dtype.isnative
        np.testing.assert_array_equal(image, images[5])
    else:
        with pytest.raises(InvalidInput, match=r"chunks of \(2, 11, 13\), coded as bytes, are not those"):
            read_slice(tmp_path, found, 5)
