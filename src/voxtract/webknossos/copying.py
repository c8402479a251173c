"""Layers copied into data sets: those of an annotation, and whole layers of other data sets.

Voxels are not decoded: chunks and cubes are copied as they are stored, under names made from their place. A layer is
built in a hidden folder and renamed, and listed last, so that a copy that fails leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from voxtract.errors import OutputError, VoxtractError
from voxtract.webknossos import properties, wkw, zarr3
from voxtract.webknossos.chunks import ChunkStore, CubeCodec
from voxtract.webknossos.dataset import Dataset, Layer
from voxtract.webknossos.errors import WrongUse
from voxtract.webknossos.mag_view import MagView
from voxtract.webknossos.volume import VolumeData, box_json, to_box
from voxtract.webknossos.zarr_array import AXES


def copy_volume(
    volume: VolumeData, dataset: Dataset, name: str = "volume_layer", largest_segment_id: int | None = None
) -> Layer:
    """Copy the voxels of an annotation's volume layer into a data set: all mags, in their format.

    Parameters
    ----------
    volume : VolumeData
    dataset : Dataset
    name : str
        Of the new layer.
    largest_segment_id : int, optional
        Taken from the voxels of the finest mag where it is None.

    Returns
    -------
    Layer
        Its box is `volume.bounding_box`.

    Raises
    ------
    WrongUse
        The volume has no mag, the name is taken, the data set is open for reading only (also an AssertionError).
    InvalidInput
        A name that WEBKNOSSOS does not take.
    DamagedFile
        A member is no chunk.
    AlreadyThere, OutputError
        A folder of that name is there; it cannot be written. Nothing is left behind.

    Notes
    -----
    Chunks that only servers read, with metadata that do not fit them, are decoded and stored in the usual form.
    """
    if volume.dtype is None or volume.data_format is None:
        raise WrongUse(f"{volume.where}: the volume layer has no data to copy; its voxels are those of the fallback")
    dataset.check_new_layer(name)
    largest = volume.largest_segment_id if largest_segment_id is None else largest_segment_id
    with _new_folder(dataset.path / name) as folder:
        items = [_copy_store(volume, store, folder, name) for store in volume.mags.values()]
    item: dict[str, Any] = {
        "name": name,
        "category": "segmentation",
        "boundingBox": box_json(volume.bounding_box),
        "elementClass": properties.element_class(volume.dtype),
        "dataFormat": volume.data_format,
        "numChannels": 1,
        "mags": items,
        "largestSegmentId": properties.id_json(largest),
    }
    if volume.axes:
        item["additionalAxes"] = [
            {"name": axis.name, "bounds": [axis.start, axis.stop], "index": n} for n, axis in enumerate(volume.axes, 1)
        ]
    return dataset.put_layer(item)


@contextmanager
def temporary_copy(
    volume: VolumeData,
    name: str,
    voxel_size_nm: Sequence[float],
    largest_segment_id: int | None = None,
    read_only: bool = True,
) -> Iterator[Layer]:
    """Copy a volume layer into a data set in a temporary folder, which is removed afterwards.

    Parameters
    ----------
    volume, name, largest_segment_id
        As `copy_volume`.
    voxel_size_nm : (x, y, z)
    read_only : bool
        Whether changing the layer, its voxels included, is refused. Changes never reach the annotation.

    Raises
    ------
    WrongUse, InvalidInput, DamagedFile, OutputError
        As `copy_volume`.
    """
    with tempfile.TemporaryDirectory(prefix="voxtract-") as folder:
        dataset = Dataset.create(Path(folder) / "dataset", voxel_size_nm)
        copy_volume(volume, dataset, name, largest_segment_id)
        yield Dataset.open(dataset.path, read_only=read_only).get_layer(name)


def copy_layer(layer: Layer, dataset: Dataset, name: str | None = None) -> Layer:
    """Copy a layer of another data set with all its mags; wkw cubes that are not compressed are compressed.

    Parameters
    ----------
    layer : Layer
    dataset : Dataset
    name : str, optional
        Of the new layer; the old one where it is None.

    Raises
    ------
    WrongUse, InvalidInput, AlreadyThere, NotFound, UnreadableFile, DamagedFile, OutputError
        As `copy_volume`; a mag of the layer cannot be read.
    """
    name = layer.name if name is None else name
    dataset.check_new_layer(name)
    with _new_folder(dataset.path / name) as folder:
        items = [copy_mag(view, folder, name) for view in layer.mags.values()]
    return dataset.put_layer({**layer.document, "name": name, "dataFormat": layer.data_format, "mags": items})


def copy_mag(view: MagView, folder: Path, name: str) -> dict[str, Any]:
    """Copy a mag into `folder`, which becomes that of layer `name`; return what the layer says of it."""
    array, target = view.array, folder / view.mag.name
    if isinstance(array, wkw.WkwArray) and array.header.kind == wkw.RAW:
        array.recode(target, replace(array.header, kind=wkw.LZ4))
    else:
        shutil.copytree(view.path, target)
    item = {"axisOrder": {axis: n for n, axis in enumerate(AXES)}, **view.document}
    if view.layer.data_format == "wkw":
        item["cubeLength"] = array.shard[0]
    item.pop("resolution", None)
    return {**item, "mag": list(view.mag), "path": f"./{name}/{view.mag}"}


def _copy_store(volume: VolumeData, store: ChunkStore, folder: Path, name: str) -> dict[str, Any]:
    """Copy the chunks of one mag."""
    target = folder / store.mag.name
    target.mkdir(parents=True)
    order = {axis: n for n, axis in enumerate(("c", *store.axes, "x", "y", "z"))}
    item: dict[str, Any] = {"mag": list(store.mag), "path": f"./{name}/{store.mag}", "axisOrder": order}
    if isinstance(store.codec, CubeCodec):
        item["cubeLength"] = store.codec.header.side
        (target / "header.wkw").write_bytes(store.codec.header.encode())
    else:
        extent = store.mag.grown(to_box(volume.bounding_box)).stop
        extent = tuple(max(a, b) for a, b in zip(extent, store.box.stop, strict=True))
        stops = [axis.stop for axis in volume.axes]
        (target / "zarr.json").write_bytes(zarr3.metadata(store.dtype, [*stops, *extent], store.axes))
    for index, chunk in enumerate(store.numbers.tolist()):
        stored = store.stored(index)
        where = store.member(index)
        if isinstance(store.codec, CubeCodec):
            store.codec.cube(stored, where)
            file = target / f"z{chunk[2]}" / f"y{chunk[1]}" / f"x{chunk[0]}.wkw"
            file.parent.mkdir(parents=True, exist_ok=True)
        else:
            file = target / zarr3.chunk_key(chunk)
            if isinstance(store.codec, zarr3.ChunkCodec) and not store.codec.is_plain(stored, where):
                stored = zarr3.encode_chunk(store.codec.decode(stored, where))
        file.write_bytes(stored)
    return item


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A hidden folder that becomes `path` where the block ends well, and is removed where it does not."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        part.rename(path)
    except VoxtractError:
        raise
    except OSError as why:
        raise OutputError(f"{path}: cannot be written: {why.strerror or why}; check space and permissions") from why
    finally:
        shutil.rmtree(part, ignore_errors=True)
