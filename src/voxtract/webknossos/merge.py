"""A fallback layer with an annotation's voxels written over it, as a new data set."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import OutputError, VoxtractError
from voxtract.geometry import Box
from voxtract.webknossos import properties
from voxtract.webknossos.chunks import ChunkStore
from voxtract.webknossos.copying import copy_mag
from voxtract.webknossos.dataset import Dataset, Layer
from voxtract.webknossos.downsample import factor_between, overlay, rebuild_mags
from voxtract.webknossos.errors import AlreadyThere, WrongUse
from voxtract.webknossos.mag import union
from voxtract.webknossos.mag_view import MagView
from voxtract.webknossos.volume import VolumeData, box_json, from_box, to_box
from voxtract.webknossos.zarr3 import SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray


def merge_fallback(
    target: Path | str, fallback: Layer, volume: VolumeData, name: str | None = None, coarser_mags: bool = True
) -> Dataset:
    """Make a data set whose one layer is `fallback` with every stored chunk of `volume` written over it.

    Zeros are written too: a chunk that was touched carries the fallback's ids already, so 0 there means erased.

    Parameters
    ----------
    target : path
        A folder that does not exist yet, or is empty.
    fallback : Layer
        Only read.
    volume : VolumeData
    name : str, optional
        Of the data set; the folder's name where it is None.
    coarser_mags : bool
        Whether the fallback's mags beyond the annotation's finest are taken along and computed anew where a chunk was
        written (most frequent id, see `downsample_labels`); else the result has that one mag.

    Returns
    -------
    Dataset
        Its layer has the fallback's name, dtype, format and sizes of files. Its box is the fallback's, grown by every
        file that was written to; its largest id the larger of both (not known where the fallback's is not).

    Raises
    ------
    WrongUse
        The volume has no data; the dtypes differ; the fallback lacks the annotation's finest mag (also an
        AssertionError).
    AlreadyThere
        `target` holds something (also a RuntimeError).
    NotFound, UnreadableFile, DamagedFile, InvalidInput, OutputError
        A layer cannot be read; the result cannot be written. Nothing is left behind.

    Notes
    -----
    Files of the fallback are copied as they are; then the chunks are written file by file, some rows at a time. Memory
    is bounded by a file as it is stored and 64 MiB of voxels.

    Servers before 2024 leave out chunks that hold zeros only: where such a chunk was erased, the fallback shows again.
    """
    target = Path(target)
    store = _checked(volume, fallback)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AlreadyThere(f"{target}: is there already and not empty; choose another folder or remove it")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        dataset = Dataset.create(part, fallback.dataset.voxel_size, target.name if name is None else name)
        _fill(dataset, fallback, store, coarser_mags)
        if target.exists():
            target.rmdir()
        part.rename(target)
    except VoxtractError:
        raise
    except OSError as why:
        raise OutputError(f"{target}: cannot be written: {why.strerror or why}; check space and permissions") from why
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Dataset.open(target)


def _checked(volume: VolumeData, fallback: Layer) -> ChunkStore:
    """Return the chunks to be written, or raise before anything is."""
    store = volume.finest
    if store is None or not len(store):
        raise WrongUse(f"{volume.where}: the volume layer has no data; copy the fallback layer instead")
    if store.dtype != fallback.dtype or fallback.num_channels != 1:
        raise WrongUse(
            f"{volume.where}: has voxels of {store.dtype}, but {fallback.where} {fallback.num_channels} channels of "
            f"{fallback.dtype}; they must be the same to be merged"
        )
    fallback.get_mag(store.mag)
    if store.axes:
        raise WrongUse(f"{volume.where}: has the axes {', '.join(store.axes)} beyond x, y, z, which are not merged")
    return store


def _fill(dataset: Dataset, fallback: Layer, store: ChunkStore, coarser_mags: bool) -> None:
    """Copy the fallback and write the chunks over it."""
    views = [view for mag, view in fallback.mags.items() if coarser_mags and factor_between(store.mag, mag)]
    finest = fallback.get_mag(store.mag)
    folder = dataset.path / fallback.name
    folder.mkdir()
    layer = dataset.put_layer(
        {
            **fallback.document,
            "dataFormat": fallback.data_format,
            "mags": [copy_mag(view, folder, fallback.name) for view in (finest, *views)],
        }
    )
    layer.document.pop("wkwResolutions", None)
    largest = _overlay(layer.get_mag(store.mag), store)
    boxes = np.stack([store.positions, store.positions + SIDE], axis=1)
    rebuild_mags(layer.get_mag(store.mag), [layer.get_mag(view.mag) for view in views], boxes)
    known = fallback.largest_segment_id
    layer.document["largestSegmentId"] = properties.id_json(None if known is None else max(known, largest))
    layer.document["boundingBox"] = box_json(from_box(_grown(layer, finest, store)))
    dataset.save()


def _overlay(view: MagView, store: ChunkStore) -> int:
    """Write the chunks; return the largest id in them."""
    largest = 0

    def piece(number: int) -> NDArray[Any]:
        nonlocal largest
        voxels = store.decode(number)
        largest = max(largest, int(voxels.max()))
        return voxels

    overlay(view.array, store.positions, (SIDE, SIDE, SIDE), piece)
    return largest


def _grown(layer: Layer, finest: MagView, store: ChunkStore) -> Box:
    """The layer's box with every file that was written to."""
    shard = np.maximum(np.array(finest.array.shard), SIDE)
    low, high = (store.positions // shard).min(axis=0), (store.positions // shard).max(axis=0) + 1
    files = Box(tuple((low * shard).tolist()), tuple((high * shard).tolist()))
    return union([to_box(layer.bounding_box), store.mag.full(files)]) or files
