"""The layers that labels and images come from: which mags they have, what is stored, and how a mag is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voxtract.errors import InvalidInput
from voxtract.geometry import Box
from voxtract.read.webknossos.classes import Labels, of_layer
from voxtract.read.webknossos.opening import AnyDataset, place_of
from voxtract.read.webknossos.voxels import LayerVoxels, RemoteVoxels, StoredChunks, Voxels, WithFallback, flat
from voxtract.webknossos.dataset import Dataset
from voxtract.webknossos.layers import VolumeLayer
from voxtract.webknossos.mag import Mag, union
from voxtract.webknossos.volume import to_box

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False, slots=True)
class DatasetLayer:
    """A layer of a dataset, on disk or on a server.

    Parameters
    ----------
    name, where : str
    mags : (Mag, ...)
        Finest first.
    box : Box
        What the dataset declares, in voxels of mag 1.
    at : Mag -> Voxels
    """

    name: str
    where: str
    mags: tuple[Mag, ...]
    box: Box
    at: Callable[[Mag], LayerVoxels | RemoteVoxels]

    @classmethod
    def of(cls, dataset: AnyDataset, name: str) -> DatasetLayer:
        """Find the layer of that name.

        Raises
        ------
        InvalidInput
            There is none, or it has no mag.
        """
        layer = dataset.get_layer(name)
        where = f"{place_of(dataset)}, layer {name!r}"
        if not layer.mags:
            raise InvalidInput(f"{where}: has no mag, so no voxels")

        def at(mag: Mag) -> LayerVoxels | RemoteVoxels:
            if isinstance(dataset, Dataset):
                return LayerVoxels(str(dataset.path), name, mag)
            return RemoteVoxels(dataset.get_layer(name).get_mag(mag))

        return cls(name, where, tuple(layer.mags), to_box(layer.bounding_box), at)


@dataclass(frozen=True, eq=False, slots=True)
class LabelLayer:
    """A label volume that is to be.

    Parameters
    ----------
    labels : Labels
        What is known of its values.
    boxes : dict of Mag to Box
        Where voxels of each mag are, in voxels of mag 1: the stored chunks, or what a dataset declares.
    at : Mag -> Voxels
    told : str
        What it is, for people.
    layer : VolumeLayer, optional
    """

    labels: Labels
    boxes: dict[Mag, Box]
    at: Callable[[Mag], Voxels]
    told: str
    layer: VolumeLayer | None = None

    @classmethod
    def of_dataset(cls, dataset: AnyDataset, name: str) -> LabelLayer:
        """Take a segmentation layer of a dataset; raises as `DatasetLayer.of`."""
        of = DatasetLayer.of(dataset, name)
        return cls(of_layer(name, None, 8), dict.fromkeys(of.mags, of.box), of.at, f"layer {name!r}")

    @classmethod
    def of_annotation(cls, name: str, layer: VolumeLayer, below: DatasetLayer | None) -> LabelLayer:
        """Take a volume layer.

        Parameters
        ----------
        name : str
            Of the label volume.
        layer : VolumeLayer
        below : DatasetLayer, optional
            Its fallback layer, if that is taken too.

        Raises
        ------
        InvalidInput
            It has no voxels, or axes beyond x, y, z.
        VoxtractError
            They cannot be read.
        """
        stored, dtype = _stored(layer)
        data = layer.data

        def edited(mag: Mag) -> StoredChunks:
            if data is None or dtype is None:
                raise TypeError("a layer without data")
            return StoredChunks(data, mag, dtype)

        told = f"volume layer {layer.name!r}"
        if below is None:
            if not stored:
                raise InvalidInput("has no voxels" + _instead(layer))
            if layer.fallback_layer is not None:
                told += f", without its fallback layer {layer.fallback_layer!r}"
            return cls(of_layer(name, layer, 8 if dtype is None else dtype.itemsize), stored, edited, told, layer)

        def both(mag: Mag) -> Voxels:
            return WithFallback(edited(mag), below.at(mag)) if mag in stored else below.at(mag)

        boxes = {mag: union([below.box, stored.get(mag, below.box)]) or below.box for mag in below.mags}
        told += f" over the fallback layer {below.name!r}"
        return cls(
            of_layer(name, layer, 8), {m: b for m, b in boxes.items() if m in stored or not stored}, both, told, layer
        )


def _stored(layer: VolumeLayer) -> tuple[dict[Mag, Box], np.dtype[Any] | None]:
    """Boxes around the stored chunks of each mag that has some, in voxels of mag 1, and the dtype."""
    if layer.data is None:
        return {}, None
    with layer.open() as volume:
        stores = {mag: flat(store) for mag, store in volume.mags.items() if len(store)}
        return {mag: mag.full(store.box) for mag, store in stores.items()}, volume.dtype


def _instead(layer: VolumeLayer) -> str:
    if layer.fallback_layer is None:
        return ""
    return f"; WEBKNOSSOS shows the fallback layer {layer.fallback_layer!r} there: fallback=True with dataset= takes it"


def without_data(said: Iterable[str]) -> dict[int, str]:
    """Why volume layers have no data, by their id, from what was said when the annotation was read."""
    found = {}
    for message in said:
        if match := re.search(r"volume layer .*\(id (\d+)\) has no data: (.*)", message, re.DOTALL):
            found[int(match[1])] = match[2]
    return found
