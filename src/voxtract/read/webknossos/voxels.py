"""Where voxels come from: stored chunks of an annotation, a layer of a dataset on disk or on a server, or both."""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import Box, Shape3
from voxtract.webknossos.archive import Entry
from voxtract.webknossos.chunks import ChunkStore
from voxtract.webknossos.dataset import Dataset
from voxtract.webknossos.layers import Stored
from voxtract.webknossos.mag import Mag
from voxtract.webknossos.mag_view import StoredArray
from voxtract.webknossos.volume import VolumeData
from voxtract.webknossos.zarr3 import SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.webknossos.remote import RemoteMag

Pieces = Iterator[tuple[Shape3, "NDArray[Any]"]]

TILE = 512  # voxels along x and y that are fetched together where nothing says what is stored
BLOCK = 8  # stored chunks along x and y that are put together: runs of labels are longer, and calls fewer


class Voxels(Protocol):
    """One mag of something; all counted in voxels of this mag, from the dataset's first."""

    @property
    def where(self) -> str:
        """For messages."""

    @property
    def paths(self) -> Sequence[str]:
        """Files on disk."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """In native byte order."""

    @property
    def chunk(self) -> Shape3:
        """The smallest piece that is decoded."""

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels (x, y, z) of a box, Fortran-ordered; zeros where nothing is stored."""

    def rows(self, box: Box) -> Iterator[Pieces]:
        """First voxel and voxels (x, y, z) of the stored pieces that meet `box`, grouped by rows of chunks along z."""


class StoredChunks:
    """The stored chunks of a volume layer; the zip is opened when they are first asked for.

    Parameters
    ----------
    data : Stored
        The inner zip.
    mag : Mag
    dtype : numpy.dtype
    """

    chunk: Shape3 = (SIDE, SIDE, SIDE)

    def __init__(self, data: Stored, mag: Mag, dtype: np.dtype[Any]) -> None:
        self.data = replace(data, folder=None) if isinstance(data, Entry) else data  # a copy may go to another process
        self.mag = mag
        self.dtype = dtype
        self._scratch = data.folder if isinstance(data, Entry) else None
        self._opening = threading.Lock()
        self._store: ChunkStore | None = None

    @property
    def where(self) -> str:
        """The annotation and the zip in it."""
        return self.data.where

    @property
    def paths(self) -> tuple[str, ...]:
        """The annotation; nothing where it was downloaded into a temporary folder."""
        return (str(self.data.path),) if isinstance(self.data, Entry) and self._scratch is None else ()

    def read(self, box: Box) -> NDArray[Any]:
        """See `Voxels`."""
        return self._opened().read(box.start, box.shape)

    def chunks(self, box: Box) -> Pieces:
        """Each stored chunk that meets a box, by z, y, x."""
        store = self._opened()
        near = _near(store, box)
        for n, (x, y, z) in zip(near.tolist(), store.positions[near].tolist(), strict=True):
            yield (x, y, z), store.decode(n)

    def rows(self, box: Box) -> Iterator[Pieces]:
        """See `Voxels`; chunks that lie near each other are one piece, with zeros between them."""
        store = self._opened()
        near = _near(store, box)
        if len(near):
            for row in np.split(near, np.flatnonzero(np.diff(store.positions[near, 2])) + 1):
                yield self._blocks(store, row)

    def _blocks(self, store: ChunkStore, row: NDArray[np.int64]) -> Pieces:
        """Chunks of a row, put together block by block."""
        _, block = np.unique(store.positions[row, :2] // (BLOCK * SIDE), axis=0, return_inverse=True)
        order = np.argsort(block, kind="stable")
        for part in np.split(row[order], np.flatnonzero(np.diff(block[order])) + 1):
            places = store.positions[part]
            low, high = places.min(axis=0), places.max(axis=0) + SIDE
            piece = np.zeros(tuple(high - low), self.dtype, order="F")
            for n, (x, y) in zip(part.tolist(), (places - low)[:, :2].tolist(), strict=True):
                piece[x : x + SIDE, y : y + SIDE] = store.decode(n)
            x, y, z = low.tolist()
            yield (x, y, z), piece

    def _opened(self) -> ChunkStore:
        with self._opening:
            if self._store is None:
                volume = VolumeData.open(self.data.open(), self.where)
                weakref.finalize(self, volume.close)
                self._store = flat(volume.mags[self.mag])
            return self._store

    def __getstate__(self) -> tuple[Any, ...]:
        return self.data, self.mag, self.dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __eq__(self, other: object) -> bool:
        return self._facts() == other._facts() if isinstance(other, StoredChunks) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._facts())

    def _facts(self) -> tuple[Any, ...]:
        return self.where, self.data.size, self.data.crc, self.mag


def _near(store: ChunkStore, box: Box) -> NDArray[np.int64]:
    """Numbers of the stored chunks that meet a box."""
    places = store.positions
    return np.flatnonzero(((places < box.stop) & (places + SIDE > box.start)).all(axis=1))


def flat(store: ChunkStore) -> ChunkStore:
    """The chunks without axes beyond x, y, z, where all lie at one place along them.

    Raises
    ------
    InvalidInput
        They lie at several.
    """
    if not store.axes:
        return store
    if len(store.coordinates) > 1:
        raise InvalidInput(
            f"{store.where}: has voxels at {len(store.coordinates)} places along {', '.join(store.axes)}, but a volume "
            "has the axes x, y, z; take them apart in WEBKNOSSOS, or read them with voxtract.webknossos (ChunkStore.at)"
        )
    return store.at(*store.coordinates[0])


@dataclass(frozen=True)
class LayerVoxels:
    """One mag of a layer of a dataset folder, opened when it is first asked for.

    Parameters
    ----------
    path : str
        The dataset.
    layer : str
    mag : Mag
    """

    path: str
    layer: str
    mag: Mag
    _held: list[StoredArray] = field(default_factory=list, compare=False, repr=False)

    @property
    def where(self) -> str:
        """The dataset, the layer and the mag."""
        return f"{self.path}, layer {self.layer!r}, mag {self.mag}"

    @property
    def paths(self) -> tuple[str, ...]:
        """The file that describes the dataset; its chunks are too many to be watched."""
        return (f"{self.path}/datasource-properties.json",)

    @property
    def dtype(self) -> np.dtype[Any]:
        """In native byte order."""
        return self._array.dtype.newbyteorder("=")

    @property
    def chunk(self) -> Shape3:
        """The smallest piece that is decoded."""
        return self._array.chunk

    def read(self, box: Box) -> NDArray[Any]:
        """See `Voxels`."""
        voxels: NDArray[Any] = self._array.read(box)[0]
        return voxels

    def rows(self, box: Box) -> Iterator[Pieces]:
        """See `Voxels`; chunks of a file that hold only zeros are left out."""
        array = self._array
        shards = [common for shard in array.shards() if (common := _common(shard, box)) is not None]
        for _, group in itertools.groupby(shards, lambda shard: shard.start[2] // array.shard[2]):
            row = list(group)
            for low, high in _steps(row[0].start[2], row[0].stop[2], array.chunk[2]):
                yield filled(self, [tile for shard in row for tile in _tiles(shard, low, high, array.chunk)])

    @property
    def _array(self) -> StoredArray:
        if not self._held:
            array = Dataset.open(self.path, read_only=True).get_layer(self.layer).get_mag(self.mag).array
            if array.channels != 1:
                raise InvalidInput(
                    f"{self.where}: has {array.channels} channels, but slices have one; name another layer"
                )
            self._held.append(array)
        return self._held[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": []}


@dataclass(frozen=True, eq=False)
class RemoteVoxels:
    """One mag of a layer that a server streams."""

    view: RemoteMag

    @property
    def where(self) -> str:
        """Address of the mag."""
        return self.view.url

    @property
    def paths(self) -> tuple[str, ...]:
        """Nothing on disk."""
        return ()

    @property
    def mag(self) -> Mag:
        """Of the voxels."""
        return self.view.mag

    @property
    def dtype(self) -> np.dtype[Any]:
        """In native byte order."""
        return self.view.array.dtype

    @property
    def chunk(self) -> Shape3:
        """The smallest piece that is fetched."""
        _, x, y, z = self.view.array.chunk
        return x, y, z

    def read(self, box: Box) -> NDArray[Any]:
        """See `Voxels`."""
        if self.view.array.channels != 1:
            raise InvalidInput(
                f"{self.where}: has {self.view.array.channels} channels, but slices have one; name another layer"
            )
        voxels: NDArray[Any] = self.view.array.read(box)[0]
        return voxels

    def rows(self, box: Box) -> Iterator[Pieces]:
        """See `Voxels`; a server does not say what is stored, so all of the box is asked for."""
        return whole_rows(self, box)

    def __reduce__(self) -> Any:
        raise InvalidInput(f"{self.where}: is read with this process's token, and cannot be sent to another process")


@dataclass(frozen=True)
class WithFallback:
    """A volume layer over its fallback layer: what the annotation has stored hides what lies below, zeros too."""

    edited: StoredChunks
    below: LayerVoxels | RemoteVoxels

    @property
    def where(self) -> str:
        """The annotation and the zip in it."""
        return self.edited.where

    @property
    def paths(self) -> tuple[str, ...]:
        """Of both."""
        return (*self.edited.paths, *self.below.paths)

    @property
    def mag(self) -> Mag:
        """Of the voxels."""
        return self.edited.mag

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels: one that holds the ids of both."""
        both = np.promote_types(self.edited.dtype, self.below.dtype)
        if both.kind not in "ui":
            raise InvalidInput(
                f"{self.where}: holds {self.edited.dtype}, its fallback layer {self.below.where} {self.below.dtype}: "
                "no integers hold both"
            )
        return both

    @property
    def chunk(self) -> Shape3:
        """The larger of both."""
        x, y, z = map(max, zip(self.edited.chunk, self.below.chunk, strict=True))
        return x, y, z

    def read(self, box: Box) -> NDArray[Any]:
        """See `Voxels`."""
        voxels = self.below.read(box).astype(self.dtype, copy=False)
        for start, chunk in self.edited.chunks(box):
            common = _common(Box(start, _end(start, chunk.shape)), box)
            if common is not None:
                voxels[_within(common, box.start)] = chunk[_within(common, start)]
        return voxels

    def rows(self, box: Box) -> Iterator[Pieces]:
        """See `Voxels`; all of the box is looked at."""
        return whole_rows(self, box)


def whole_rows(voxels: Voxels, box: Box) -> Iterator[Pieces]:
    """Go through all of a box, tile by tile."""
    for low, high in _steps(box.start[2], box.stop[2], voxels.chunk[2]):
        yield filled(voxels, _tiles(box, low, high, voxels.chunk))


def filled(voxels: Voxels, boxes: Iterable[Box]) -> Pieces:
    """First voxel and voxels of each of the boxes in which not all are 0."""
    for box in boxes:
        piece = voxels.read(box)
        if piece.any():
            x, y, z = box.start
            yield (x, y, z), piece


def cut_to(pieces: Pieces, box: Box) -> Pieces:
    """Pieces without what lies outside of `box`, and counted from its start."""
    for start, voxels in pieces:
        common = _common(Box(start, _end(start, voxels.shape)), box)
        if common is not None:
            x, y, z = (a - zero for a, zero in zip(common.start, box.start, strict=True))
            yield (x, y, z), voxels[_within(common, start)]


def _tiles(box: Box, low: int, high: int, chunk: Shape3) -> Iterator[Box]:
    """Cut the planes `low` to `high` of a box into tiles of whole chunks."""
    sides = [max(1, TILE // side) * side for side in chunk[:2]]
    for (top, bottom), (left, right) in itertools.product(
        *(_steps(box.start[axis], box.stop[axis], sides[axis]) for axis in (1, 0))
    ):
        yield Box((left, top, low), (right, bottom, high))


def _steps(start: int, stop: int, side: int) -> Iterator[tuple[int, int]]:
    """Cut `start` to `stop` at the multiples of `side`."""
    for low in range(start // side, math.ceil(stop / side)):
        yield max(start, low * side), min(stop, (low + 1) * side)


def _common(one: Box, other: Box) -> Box | None:
    start = tuple(map(max, zip(one.start, other.start, strict=True)))
    stop = tuple(map(min, zip(one.stop, other.stop, strict=True)))
    return Box(start, stop) if all(a < b for a, b in zip(start, stop, strict=True)) else None


def _within(box: Box, origin: Sequence[int]) -> tuple[slice, ...]:
    """Index of the voxels of `box` in an array that begins at `origin`."""
    return tuple(slice(a - zero, b - zero) for a, b, zero in zip(box.start, box.stop, origin, strict=True))


def _end(start: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + n for a, n in zip(start, shape, strict=True))
