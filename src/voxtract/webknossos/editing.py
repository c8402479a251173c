"""The voxels of a volume layer changed: as a layer of a temporary dataset, stored back as an inner zip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.geometry import Shape3
from voxtract.webknossos.archive import Scratch
from voxtract.webknossos.copying import copy_volume
from voxtract.webknossos.dataset import CHUNK, Dataset, Layer
from voxtract.webknossos.errors import WrongUse
from voxtract.webknossos.layers import VolumeLayer, known_size
from voxtract.webknossos.mag import MagLike
from voxtract.webknossos.mag_view import MagView
from voxtract.webknossos.volume_writer import write_volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "volume_layer"


class EditableLayer(Layer):
    """A layer whose new mags have a file per chunk: a chunk of zeros that was written is not one that was not."""

    def add_mag(self, mag: MagLike, *, chunk: Shape3 = CHUNK, shard: Shape3 | None = None) -> MagView:
        """Add a mag without voxels; as `Layer.add_mag`.

        Raises
        ------
        WrongUse
            Chunks that are not 32 x 32 x 32 voxels, or shards: annotations have neither.
        """
        if tuple(chunk) != CHUNK or shard not in (None, CHUNK):
            raise WrongUse(
                f"mag {mag}: annotations have chunks of {CHUNK} voxels and a file for each; leave out the rest"
            )
        return super().add_mag(mag, chunk=CHUNK, shard=None)


@contextmanager
def edit(layer: VolumeLayer) -> Iterator[EditableLayer]:
    """See `VolumeLayer.edit`."""
    with TemporaryDirectory(prefix="voxtract-") as folder:
        dataset = Dataset.create(Path(folder) / "dataset", known_size(layer.voxel_size))
        made = _empty(layer, dataset) if layer.data is None else _copied(layer, dataset)
        editable = EditableLayer(dataset, made.document)
        yield editable
        largest = [editable.largest_segment_id or 0]
        if editable.mags:
            stored = Scratch(f"edited volume layer {layer.name!r}")
            chunks = {mag: _noted(view, largest) for mag, view in editable.mags.items()}
            write_volume(stored.path, editable.dtype, chunks, editable.bounding_box, dataset.voxel_size)
            layer.data, layer.data_format = stored, "zarr3"
        layer.largest_segment_id = largest[0] or editable.largest_segment_id


def _noted(view: MagView, largest: list[int]) -> Iterator[tuple[Shape3, NDArray[Any]]]:
    """Chunks of a mag; the largest id is noted as they pass."""
    for start, voxels in view.chunks():
        largest[0] = max(largest[0], int(voxels.max()))
        yield start, voxels


def _empty(layer: VolumeLayer, dataset: Dataset) -> Layer:
    dtype = np.dtype("uint32") if layer.dtype is None else layer.dtype
    return dataset.add_layer(NAME, dtype=dtype, largest_segment_id=layer.largest_segment_id)


def _copied(layer: VolumeLayer, dataset: Dataset) -> Layer:
    with layer.open() as volume:
        if volume.axes:
            names = ", ".join(axis.name for axis in volume.axes)
            raise WrongUse(f"{volume.where}: has the axes {names} beyond x, y, z; such voxels cannot be edited")
        return copy_volume(volume, dataset, NAME, layer.largest_segment_id)
