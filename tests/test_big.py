"""Volumes larger than the memory limit: what streams gives the same files with little memory, the rest says why not."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

import voxtract
from voxtract.errors import InvalidInput
from voxtract.model import Source
from voxtract.read import open_source

LIMIT = 72_000_000  # room to work, and one slab
SHAPE = (150, 160, 1600)  # 77 MB of int16


@pytest.fixture(scope="module")
def volume() -> NDArray[np.int16]:
    data = np.zeros(SHAPE, np.int16)
    data[20:30, 40:60, ::7] = 3
    data[100:, 5:9, 300:900] = np.arange(600) % 5
    return data


@pytest.fixture(scope="module")
def files(volume: NDArray[np.int16], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("big")
    content = bytes(nib.Nifti1Image(volume, np.eye(4)).to_bytes())
    (folder / "a.nii").write_bytes(content)
    (folder / "a.nii.gz").write_bytes(gzip.compress(content, 1, mtime=0))
    return {"nii": folder / "a.nii", "gz": folder / "a.nii.gz"}


@pytest.fixture(scope="module")
def zarr_file(volume: NDArray[np.int16], tmp_path_factory: pytest.TempPathFactory) -> Path:
    zarr = pytest.importorskip("zarr", reason="the extra 'zarr' is not installed")
    path = tmp_path_factory.mktemp("big") / "a.zarr"
    array = zarr.create_array(
        str(path), shape=SHAPE[::-1], chunks=(20, 160, 150), dtype="i2", dimension_names=("z", "y", "x")
    )
    array[...] = volume.T
    return path


def contents(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in (out / "a").rglob("*") if p.is_file()}


def limited(source: Source, out: Path, **words: Any) -> int:
    """Extract within the limit; the most bytes that were held."""
    tracemalloc.start()
    report = voxtract.extract(source, out, memory_limit=LIMIT, workers=2, slices="every=97", **words)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.exit_code == 0, str(report)
    return most


@pytest.mark.parametrize("kind", ["gz", "nii"])
def test_axial_slices_and_their_components_stream(files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    source = open_source(image=files[kind], labels=files[kind])
    assert limited(source, tmp_path / "small") < 50_000_000  # 32 MiB of them never touched, see compute/components.py
    voxtract.extract(source, tmp_path / "large", slices="every=97")
    assert contents(tmp_path / "small") == contents(tmp_path / "large")
    assert len(contents(tmp_path / "small")) == 2 * 17


def test_zarr_streams(files: dict[str, Path], zarr_file: Path, tmp_path: Path) -> None:
    assert limited(open_source(image=zarr_file, labels=zarr_file), tmp_path / "zarr") < LIMIT
    voxtract.extract(open_source(image=files["nii"], labels=files["nii"]), tmp_path / "nii", slices="every=97")
    assert contents(tmp_path / "zarr") == contents(tmp_path / "nii")


def test_images_of_all_views_of_a_plain_file_stream(files: dict[str, Path], tmp_path: Path) -> None:
    source = open_source(files["nii"])
    words: Any = {"views": ("axial", "coronal", "sagittal"), "normalization": "min-max", "reorient": "LPS"}
    assert limited(source, tmp_path / "small", **words) < 50_000_000
    voxtract.extract(source, tmp_path / "large", slices="every=97", **words)
    assert contents(tmp_path / "small") == contents(tmp_path / "large")
    assert len(contents(tmp_path / "small")) == 17 + 2 + 2


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gz", {"views": ("axial", "coronal")}),
        ("gz", {"normalization": "z-score"}),
        ("gz", {"reorient": "LPS"}),
        ("nii", {"spacing": (2, 2, 2)}),
        ("labels", {"views": ("coronal",)}),
        ("labels", {"extraction_mode": "volume"}),
        ("labels", {"threshold": 1}),
    ],
)
def test_what_does_not_stream_says_what_would(files: dict[str, Path], tmp_path: Path, kind: str, words: Any) -> None:
    source = open_source(labels=files["nii"]) if kind == "labels" else open_source(files[kind])
    report = voxtract.extract(source, tmp_path / "out", memory_limit=LIMIT, progress=False, **words)
    (failed,) = report.failed
    assert isinstance(failed.error, InvalidInput)
    said = str(failed.error)
    assert said.startswith(f"{failed.inputs[0]}: needs about ")
    assert "the limit is 72 MB; raise memory_limit (--memory-limit); or take what streams: axial slices and" in said
    assert "3D components, and annotations of coronal and sagittal slices, need the whole volume" in said


def test_the_same_is_done_with_more_memory(files: dict[str, Path], tmp_path: Path) -> None:
    words: Any = {"views": ("coronal",), "slices": "every=97"}
    assert voxtract.extract(open_source(files["gz"]), tmp_path / "out", memory_limit=400 << 20, **words).exit_code == 0


def test_large_planes_are_counted(tmp_path: Path) -> None:
    """A single plane of 300 MB is more than a slab has otherwise."""
    header = nib.Nifti1Header()
    header.set_data_shape((16_000, 10_000, 2))
    header.set_data_dtype(np.int16)
    header.set_zooms((1, 1, 1))
    header["vox_offset"] = 352
    with (tmp_path / "a.nii").open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.truncate(352 + 16_000 * 10_000 * 2 * 2)  # a hole on the disk
    report = voxtract.extract(open_source(tmp_path / "a.nii"), tmp_path / "out", memory_limit=200_000_000)
    assert "needs about" in str(report.failed[0].error)
