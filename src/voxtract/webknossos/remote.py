"""Datasets on a server, whose voxels are fetched when they are asked for: `RemoteDataset`, its layers and their mags.

A server shows every layer, however it is stored, as streamed zarr arrays (see `voxtract.webknossos.stream`). Voxel
coordinates are (x, y, z) in mag 1; the array index is that coordinate divided by the mag.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import Box
from voxtract.webknossos.boxes import BoundingBox, Vec3Int
from voxtract.webknossos.connection import UnexpectedAnswer, value_of
from voxtract.webknossos.errors import NoSuchLayer, WrongUse
from voxtract.webknossos.json_text import entry
from voxtract.webknossos.mag import Mag, MagLike
from voxtract.webknossos.properties import FILE, parse_dtype, parse_id, parse_mags, parse_voxel_size
from voxtract.webknossos.stream import CACHE_BYTES, THREADS, RemoteArray, Stream
from voxtract.webknossos.volume import parse_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.webknossos.client import Client


class RemoteDataset:
    """A dataset on a server, or an annotation together with its dataset.

    Parameters
    ----------
    client : Client
        Closed together with the dataset.
    url : str
        Where ``datasource-properties.json`` lies.
    sharing_token : str, optional
        Sent in the place of the user's token.
    cache_bytes : int
        Memory for chunks that were read, shared by all layers.
    threads : int
        Chunks fetched at the same time.

    Raises
    ------
    ServerError, UnexpectedAnswer
        The server or the connection fails, or answers with something else than a dataset.

    Notes
    -----
    What is in the cache does not change when somebody goes on annotating; open the dataset again to see that. Close
    it, or use it in a with block.
    """

    def __init__(
        self,
        client: Client,
        url: str,
        sharing_token: str | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
        threads: int = THREADS,
    ) -> None:
        self.url = url
        self._client = client
        token = client.stream_token(url, sharing_token)
        self.stream = Stream(client.connection, token, cache_bytes=cache_bytes, threads=threads)
        self.properties = self.stream.get_dict(f"{url}/{FILE}")
        where = f"GET {url}/{FILE}"
        self.name = value_of(self.properties, "id.name", str, where)
        items = value_of(self.properties, "dataLayers", list, where)
        try:
            self.voxel_size = parse_voxel_size(self.properties.get("scale"), where)
            layers = [RemoteLayer.parse(self, value_of(item, "", dict, where), where) for item in items]
        except InvalidInput as fault:
            raise UnexpectedAnswer(str(fault)) from fault
        self.layers = {layer.name: layer for layer in layers}

    def __enter__(self) -> RemoteDataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RemoteDataset({self.name!r}, {self.url!r}, layers={list(self.layers)})"

    def close(self) -> None:
        """Stop fetching and close the connections; a second time does nothing."""
        self.stream.close()
        self._client.close()

    def get_layer(self, name: str) -> RemoteLayer:
        """Return the layer of that name; NoSuchLayer lists those that there are."""
        if name not in self.layers:
            raise NoSuchLayer(f"{self.url}: no layer {name!r}; there are {', '.join(map(repr, self.layers)) or 'none'}")
        return self.layers[name]


@dataclass(frozen=True, eq=False)
class RemoteLayer:
    """A layer of a `RemoteDataset`.

    Parameters
    ----------
    document : dict
        What the server says of it.
    bounding_box : BoundingBox
        What the server declares, in voxels of mag 1.
    largest_segment_id : int, optional
        What the server declares; may be smaller than the largest one in the voxels.
    mags : dict of Mag to RemoteMag
        From fine to coarse.
    """

    dataset: RemoteDataset = field(repr=False)
    name: str
    category: str
    bounding_box: BoundingBox
    largest_segment_id: int | None
    document: dict[str, Any] = field(repr=False)
    mags: dict[Mag, RemoteMag] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, dataset: RemoteDataset, document: dict[str, Any], where: str) -> RemoteLayer:
        """Read one of ``dataLayers``; UnexpectedAnswer or InvalidInput where it is none."""
        name = value_of(document, "name", str, where)
        where = f"{where}: layer {name!r}"
        box = parse_box(document.get("boundingBox"))
        if box is None:
            raise UnexpectedAnswer(f"{where}: boundingBox {document.get('boundingBox')!r} is none")
        largest = parse_id(document.get("largestSegmentId"), where)
        layer = cls(dataset, name, value_of(document, "category", str, where), box, largest, document)
        for mag, item in parse_mags(document, where).items():
            layer.mags[mag] = RemoteMag.parse(layer, mag, item, where)
        return layer

    @property
    def data_format(self) -> str:
        """How it is streamed: ``"zarr"``, that is version 2, however it is stored."""
        return value_of(self.document, "dataFormat", str, f"{self.dataset.url}: layer {self.name!r}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels, for each channel; InvalidInput where the server's word for it is not known."""
        return parse_dtype(self.document, f"{self.dataset.url}: layer {self.name!r}")

    def get_mag(self, mag: MagLike) -> RemoteMag:
        """Return a mag, given as 1, "1", (2, 2, 1) or "2-2-1"; WrongUse lists those that there are."""
        if Mag(mag) not in self.mags:
            raise WrongUse(
                f"{self.dataset.url}: layer {self.name!r} has no mag {Mag(mag)}; there are "
                f"{', '.join(map(str, self.mags)) or 'none'}"
            )
        return self.mags[Mag(mag)]

    def get_finest_mag(self) -> RemoteMag:
        """Return the finest mag; WrongUse where there is none."""
        if not self.mags:
            raise WrongUse(f"{self.dataset.url}: layer {self.name!r} has no mag, so no voxels")
        return next(iter(self.mags.values()))


@dataclass(frozen=True, eq=False)
class RemoteMag:
    """One mag of a `RemoteLayer`.

    Parameters
    ----------
    mag : Mag
    url : str
        Where its chunks lie.
    """

    layer: RemoteLayer = field(repr=False)
    mag: Mag
    url: str

    @classmethod
    def parse(cls, layer: RemoteLayer, mag: Mag, item: Any, where: str) -> RemoteMag:
        """Read one of ``mags``; UnexpectedAnswer where its path leaves the dataset."""
        path = entry(item, "path") or f"{layer.name}/{mag}"
        steps = path.removeprefix("./").split("/") if isinstance(path, str) else ()
        if not steps or not all(step.strip(".") for step in steps) or ":" in steps[0]:  # "..", "/data", "https://..."
            raise UnexpectedAnswer(f"{where}: the path {path!r} of mag {mag} leaves the dataset")
        return cls(layer, mag, "/".join([layer.dataset.url, *(quote(step, safe="") for step in steps)]))

    @cached_property
    def array(self) -> RemoteArray:
        """Shape, dtype and chunks, asked for when first needed."""
        return RemoteArray.parse(self.layer.dataset.stream, self.url)

    def read(
        self,
        *,
        absolute_offset: Iterable[int] | None = None,
        size: Iterable[int] | None = None,
        relative_offset: Iterable[int] | None = None,
        absolute_bounding_box: BoundingBox | None = None,
    ) -> NDArray[Any]:
        """Read a box of voxels; without arguments, the whole bounding box of the layer.

        Parameters
        ----------
        absolute_offset : (x, y, z), optional
            First voxel, in mag 1.
        size : (x, y, z), optional
            Size of the box in voxels of mag 1; needed with an offset.
        relative_offset : (x, y, z), optional
            First voxel, in mag 1, counted from the top left of the layer's bounding box.
        absolute_bounding_box : BoundingBox, optional
            The box itself, instead of offset and size.

        Returns
        -------
        (channels, x, y, z) array, Fortran-ordered
            Voxels of this mag. Outside of what the server has they are zero.

        Raises
        ------
        WrongUse
            Two places, an offset without a size or a size without an offset, a negative number, or one that the mag
            does not divide.
        ServerError, UnexpectedAnswer
            The server or the connection fails, or a chunk has the wrong number of bytes.
        InvalidInput
            The server streams the layer in a way that is not known here.
        """
        whole = self.layer.bounding_box
        places = (absolute_offset, relative_offset, absolute_bounding_box)
        if sum(place is not None for place in places) > 1:
            raise WrongUse("give one of absolute_offset, relative_offset and absolute_bounding_box, not several")
        offset = absolute_offset if relative_offset is None else whole.topleft + relative_offset
        if (offset is None) is not (size is None):
            raise WrongUse("an offset and a size belong together: give both, or absolute_bounding_box")
        if absolute_bounding_box is not None:
            return self._read(absolute_bounding_box)
        if offset is None or size is None:
            return self.array.read(self.mag.grown(Box(whole.topleft, whole.bottomright)))
        extent = Vec3Int(size)
        if min(extent) < 0:
            raise WrongUse(f"size {extent.to_tuple()} is negative")
        return self._read(BoundingBox(offset, extent))

    def _read(self, box: BoundingBox) -> NDArray[Any]:
        edges = (box.topleft, box.bottomright)
        if min(box.topleft) < 0 or any(n % factor for edge in edges for n, factor in zip(edge, self.mag, strict=True)):
            raise WrongUse(
                f"box {box.topleft.to_tuple()} to {box.bottomright.to_tuple()} must not be negative, and mag "
                f"{self.mag} must divide all its numbers"
            )
        return self.array.read(self.mag.grown(Box(*edges)))
