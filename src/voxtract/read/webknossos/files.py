"""Boxes of a dataset as the volumes of a case: images, labels that are stored in chunks, and nodes as labels."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import Box, Grid, Shape3
from voxtract.model import Header, Volume
from voxtract.read.webknossos.voxels import Pieces, Voxels, cut_to
from voxtract.webknossos.place import Place
from voxtract.webknossos.zarr3 import SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 4 << 30  # bytes of a box that is held whole
BAND = 64 << 20  # bytes of planes that are decoded together, so that no chunk is decoded twice

_LARGEST_ID = np.uint64(2**63 - 1)  # class ids are int64


@dataclass(frozen=True)
class BoxFile:
    """The voxels of a box.

    Parameters
    ----------
    voxels : Voxels
    place : Place
        Its mag is that of `voxels`.
    """

    voxels: Voxels
    place: Place

    @property
    def where(self) -> str:
        """What the voxels come from."""
        return self.voxels.where

    @property
    def volume_index(self) -> None:
        """There is one frame."""
        return

    @property
    def paths(self) -> tuple[str, ...]:
        """Files on disk."""
        return tuple(self.voxels.paths)

    def header(self) -> Header:
        """Shape of the box, and the way to millimetres of the dataset."""
        return Header(Grid(self.place.shape, self.place.affine), self.voxels.dtype, where=self.where)

    def read(self) -> Volume:
        """Read the box.

        Raises
        ------
        InvalidInput
            It has more than `LARGEST` bytes.
        VoxtractError
            The voxels cannot be read.
        """
        header = self.header()
        if header.nbytes > LARGEST:
            x, y, z = self.place.shape
            raise InvalidInput(
                f"{self.where}: the box of {x} x {y} x {z} voxels has {header.nbytes / 1e9:,.1f} GB, too many to be "
                "held; take smaller ones with region='user', 'task' or 'tight' or six numbers, or do without what "
                "needs the whole volume (masks, crop, reorient, spacing, threshold)"
            )
        return Volume(header, self._checked(self.voxels.read(self.place.box)))

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Read the box in pieces (x, y, n <= planes) along z; raises as `read`, where a plane is too large."""
        (x, y, low), (right, bottom, high) = self.place.box.start, self.place.box.stop
        plane_bytes = (right - x) * (bottom - y) * self.voxels.dtype.itemsize
        if plane_bytes > LARGEST:
            raise InvalidInput(f"{self.where}: one plane has {plane_bytes / 1e9:,.1f} GB; take a smaller region")
        most = max(planes, BAND // plane_bytes)
        depth = self.voxels.chunk[2]
        while low < high:
            end = min(high, (low // depth + 1) * depth, low + most)
            band = self._checked(self.voxels.read(Box((x, y, low), (right, bottom, end))))
            for first in range(0, end - low, planes):
                yield band[:, :, first : first + planes]
            low = end

    def _checked(self, voxels: NDArray[Any]) -> NDArray[Any]:
        return voxels


@dataclass(frozen=True)
class LabelBox(BoxFile):
    """The labels of a box, of which only what is stored is looked at; a `voxtract.model.ChunkedFile`."""

    def layers(self) -> Iterator[Iterator[tuple[Shape3, NDArray[Any]]]]:
        """First voxel and voxels (x, y, z) of each stored piece, cut to the box; those of a row of chunks together.

        Raises
        ------
        VoxtractError
            A chunk cannot be read or decoded.
        InvalidInput
            An id beyond 2**63 - 1.
        """
        return (self._row(row) for row in self.voxels.rows(self.place.box))

    def _row(self, row: Pieces) -> Pieces:
        return ((start, self._checked(voxels)) for start, voxels in cut_to(row, self.place.box))

    def _checked(self, voxels: NDArray[Any]) -> NDArray[Any]:
        if voxels.dtype == np.uint64 and voxels.size and voxels.max() > _LARGEST_ID:
            raise InvalidInput(
                f"{self.where}: has the segment id {voxels.max()}, but ids up to 2**63 - 1 are counted; "
                "renumber the segments"
            )
        return voxels


@dataclass(frozen=True, eq=False)
class NodeFile:
    """The nodes of a skeleton that lie in a box, as labels of one voxel each; a `voxtract.model.ChunkedFile`.

    Parameters
    ----------
    where : str
    place : Place
    voxels : (n, 3) int64
        Voxels of the box; each is there once. Sorted by chunk (of 32 voxels a side): z, y, x.
    labels : (n,) uint32
        Numbers of the nodes, from 1.
    paths : (str, ...)
    """

    where: str
    place: Place
    voxels: NDArray[np.int64]
    labels: NDArray[np.uint32]
    paths: tuple[str, ...] = ()

    @classmethod
    def of(cls, where: str, place: Place, positions: NDArray[np.int64], paths: tuple[str, ...]) -> tuple[NodeFile, int]:
        """Take nodes at `positions` (n, 3) in voxels of mag 1.

        Returns
        -------
        the file, and how many nodes of the box it leaves out because an earlier one lies in the same voxel
        """
        voxels = positions // np.array(place.mag) - np.array(place.box.start)
        inside = np.flatnonzero(((voxels >= 0) & (voxels < place.shape)).all(axis=1))
        _, first = np.unique(voxels[inside], axis=0, return_index=True)
        kept = inside[np.sort(first)]
        chunks = voxels[kept] // SIDE
        kept = kept[np.lexsort((chunks[:, 0], chunks[:, 1], chunks[:, 2]))]
        return cls(where, place, voxels[kept], (kept + 1).astype(np.uint32), paths), len(inside) - len(kept)

    @property
    def volume_index(self) -> None:
        """There is one frame."""
        return

    def header(self) -> Header:
        """Shape of the box, and the way to millimetres of the dataset."""
        return Header(Grid(self.place.shape, self.place.affine), self.labels.dtype, where=self.where)

    def read(self) -> Volume:
        """Paint all nodes; raises as `BoxFile.read`."""
        header = self.header()
        if header.nbytes > LARGEST:
            raise InvalidInput(f"{self.where}: a box of {self.place.shape} voxels is too large to be held; take less")
        (painted,) = self._painted(0, self.place.shape[2], self.place.shape[2])
        return Volume(header, painted)

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Paint the nodes in pieces (x, y, n <= planes) along z."""
        yield from self._painted(0, self.place.shape[2], planes)

    def _painted(self, low: int, high: int, planes: int) -> Iterator[NDArray[Any]]:
        for first in range(low, high, planes):
            count = min(planes, high - first)
            slab = np.zeros((*self.place.shape[:2], count), self.labels.dtype, order="F")
            here = (self.voxels[:, 2] >= first) & (self.voxels[:, 2] < first + count)
            x, y, z = self.voxels[here].T
            slab[x, y, z - first] = self.labels[here]
            yield slab

    def layers(self) -> Iterator[Iterator[tuple[Shape3, NDArray[Any]]]]:
        """First voxel and labels of small boxes around the nodes of each chunk; those of a row of chunks together."""
        chunks = self.voxels // SIDE
        begins = np.flatnonzero((np.diff(chunks, axis=0, prepend=-1) != 0).any(axis=1))
        ends = np.append(begins[1:], len(chunks))
        rows = np.flatnonzero(np.diff(chunks[begins, 2], prepend=-1))
        for first, last in zip(rows.tolist(), [*rows[1:].tolist(), len(begins)], strict=True):
            yield map(self._chunk, begins[first:last].tolist(), ends[first:last].tolist())

    def _chunk(self, begin: int, end: int) -> tuple[Shape3, NDArray[Any]]:
        # Whole along z: the pieces of a row have to lie in the same planes.
        voxels = self.voxels[begin:end]
        low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
        low[2] = low[2] // SIDE * SIDE
        high[2] = min(low[2] + SIDE, self.place.shape[2])
        piece = np.zeros(tuple(high - low), self.labels.dtype, order="F")
        piece[tuple((voxels - low).T)] = self.labels[begin:end]
        x, y, z = low.tolist()
        return (x, y, z), piece
