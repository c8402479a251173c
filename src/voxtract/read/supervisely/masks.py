"""Binary masks of single objects, from NRRD files or from the annotation itself, on the grid of their volume."""

from __future__ import annotations

import base64
import binascii
import logging
import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.geometry import Grid, Reorientation
from voxtract.model import Header, Volume
from voxtract.read.nrrd import NrrdFile
from voxtract.read.oriented import turn_of
from voxtract.read.supervisely.document import Node

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("voxtract")

_SLAB = 1 << 25  # bytes of a mask looked at together
_STAYS = Reorientation((0, 1, 2), (False, False, False))


@dataclass(frozen=True, slots=True)
class Placed:
    """A volume whose own header does not say where it lies, on a grid that was told elsewhere; a `VolumeFile`."""

    file: NrrdFile
    grid: Grid = field(compare=False)

    @property
    def where(self) -> str:
        """Name of the file."""
        return self.file.where

    @property
    def volume_index(self) -> int | None:
        """Frame of the file."""
        return self.file.volume_index

    @property
    def paths(self) -> Sequence[str]:
        """Those of the file."""
        return self.file.paths

    def header(self) -> Header:
        """Header of the file with the other affine; raises as the file's."""
        found = self.file.described()
        return Header(self.grid, found.stored.newbyteorder("="), where=self.where)

    def read(self) -> Volume:
        """Voxels of the file; raises as the file's."""
        return Volume(self.header(), self.file.read().data)

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Slabs of the file; raises as the file's."""
        return self.file.slabs(planes)


@dataclass(frozen=True, slots=True)
class MaskFile:
    """The mask of one object in a NRRD file; a `VolumeFile` whose voxels are 0 and `label`.

    Parameters
    ----------
    path : Path
    grid : Grid
        Of the volume: RAS. Tools round the origin of a mask, write wrong signs into oblique directions or no space at
        all, and still store its voxels in the order of the volume's.
    label : int
    """

    path: Path
    grid: Grid = field(compare=False)
    label: int

    @property
    def where(self) -> str:
        """The path, as messages name it."""
        return str(self.path)

    @property
    def volume_index(self) -> None:
        """There are no frames."""

    @property
    def paths(self) -> Sequence[str]:
        """The file."""
        return (self.where,)

    def header(self) -> Header:
        """Grid of the volume, smallest unsigned dtype that holds the label.

        Raises
        ------
        NotFound, UnreadableFile, DamagedFile, InvalidInput
            As `NrrdFile.header`; also where the mask lies elsewhere than the volume.
        """
        self._turn()
        return _header(self.grid, self.label, self.where)

    def read(self) -> Volume:
        """Read the mask; memory is touched only where the object is.

        Raises
        ------
        NotFound, UnreadableFile, DamagedFile, InvalidInput
            As `header` and `NrrdFile.read`; also where a voxel is none of 0 and 1, or 0 and 255.
        """
        turn, file = self._turn(), NrrdFile(self.path)
        shape = tuple(self.grid.shape[turn.source.index(axis)] for axis in range(3))
        planes = max(1, _SLAB // (shape[0] * shape[1]))
        voxels = _painted(file.slabs(planes), (shape[0], shape[1], shape[2]), self.label, self.where)
        return Volume(_header(self.grid, self.label, self.where), turn.array(voxels))

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Voxels in pieces (x, y, n <= planes) along z; raises as `read`."""
        yield from _pieces(self.read().data, planes)

    def _turn(self) -> Reorientation:
        """Find the way from the stored axes to those of the volume."""
        found = NrrdFile(self.path).described()
        if not found.space:
            _check_shape(found.shape, self.grid.shape, self.where)
            return _STAYS
        own = Grid(found.shape, found.affine)
        turn = turn_of(own, "RAS", self.where)
        own = turn.grid(own)
        _check_shape(own.shape, self.grid.shape, self.where)
        # Signs off the diagonal are known to be wrong in masks of oblique volumes.
        columns, others = np.abs(own.affine[:3, :3]), np.abs(self.grid.affine[:3, :3])
        if (np.abs(columns - others) > 0.01 * np.array(self.grid.spacing_mm)).any():
            raise InvalidInput(
                f"{self.where}: its spacing or direction {own.affine[:3, :3].tolist()} is not that of its volume, "
                f"{self.grid.affine[:3, :3].tolist()}; export both again"
            )
        apart = np.abs(own.affine[:3, 3] - self.grid.affine[:3, 3])
        if (apart > 0.5 + 0.5 * max(self.grid.spacing_mm)).any():
            raise InvalidInput(
                f"{self.where}: its origin {own.affine[:3, 3].tolist()} mm is not that of its volume, "
                f"{self.grid.affine[:3, 3].tolist()}; export both again"
            )
        if self.grid.mismatch(own):
            log.info("%s: its header is rounded or has wrong signs; taken as on the volume's grid", self.where)
        return turn


@dataclass(frozen=True, slots=True)
class EmbeddedMask:
    """The mask of one object in the annotation itself; a `VolumeFile` whose voxels are 0 and `label`.

    Parameters
    ----------
    path : Path
        Of the annotation.
    where : str
        Where in it.
    data : str
        base64 of gzip of ``x,y,z|`` and a byte per voxel, z fastest.
    grid : Grid
        Of the volume.
    label : int
    """

    path: Path
    where: str
    data: str = field(repr=False)
    grid: Grid = field(compare=False)
    label: int

    @property
    def volume_index(self) -> None:
        """There are no frames."""

    @property
    def paths(self) -> Sequence[str]:
        """The annotation."""
        return (str(self.path),)

    def header(self) -> Header:
        """Grid of the volume, smallest unsigned dtype that holds the label."""
        return _header(self.grid, self.label, self.where)

    def read(self) -> Volume:
        """Unpack the mask.

        Raises
        ------
        DamagedFile
            It is cut short, or no compressed data.
        InvalidInput
            Another shape than the volume's, or a voxel that is none of 0 and 1, or 0 and 255.
        """
        shape = embedded_shape(Node(self.where, self.data))
        _check_shape(shape, self.grid.shape, self.where)
        head = len(",".join(map(str, shape))) + 1
        count = int(np.prod(shape))
        raw = _inflated(self.data, head + count + 1, self.where)
        if len(raw) != head + count:
            raise DamagedFile(f"{self.where}: holds {len(raw) - head} voxels, expected {count}; export it again")
        data = np.frombuffer(raw, np.uint8, offset=head).reshape(shape)
        planes = max(1, _SLAB // (shape[0] * shape[1]))
        return Volume(self.header(), _painted(_pieces(data, planes), shape, self.label, self.where))

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Voxels in pieces (x, y, n <= planes) along z; raises as `read`."""
        yield from _pieces(self.read().data, planes)


def embedded_shape(data: Node) -> tuple[int, int, int]:
    """Shape of an embedded mask, from its first bytes.

    Raises
    ------
    DamagedFile
        No compressed data, or no shape in front of it.
    """
    head = _inflated(data.text()[:400], 64, data.where, whole=False).partition(b"|")
    words = head[0].split(b",")
    if not head[1] or len(words) != 3 or not all(word.isdigit() and len(word) < 10 for word in words):
        raise DamagedFile(f"{data.where}: begins with {head[0][:20]!r}, expected 'x,y,z|'; export the project again")
    return int(words[0]), int(words[1]), int(words[2])


def _header(grid: Grid, label: int, where: str) -> Header:
    return Header(grid, np.min_scalar_type(label), where=where)


def _check_shape(found: tuple[int, int, int], expected: tuple[int, int, int], where: str) -> None:
    if found != expected:
        raise InvalidInput(
            f"{where}: the mask has {' x '.join(map(str, found))} voxels, but its volume "
            f"{' x '.join(map(str, expected))} (x, y, z of the RAS grid); export both again"
        )


def _painted(
    slabs: Iterator[NDArray[Any]], shape: tuple[int, int, int], label: int, where: str
) -> NDArray[np.unsignedinteger[Any]]:
    """Set `label` where a mask is set; what stays 0 is never written, so that it takes no memory."""
    voxels = np.zeros(shape, np.min_scalar_type(label), order="F")
    first, seen = 0, {0}
    for slab in slabs:
        planes = np.flatnonzero(slab.any(axis=(0, 1)))
        if len(planes):
            part = slab[..., int(planes[0]) : int(planes[-1]) + 1]
            found, highest = part != 0, int(part.max())
            if highest not in (1, 255) or not np.array_equal(part == highest, found):
                raise InvalidInput(f"{where}: holds other voxels than 0 and 1, or 0 and 255; export the mask again")
            seen.add(highest)
            begin = first + int(planes[0])
            target = voxels[..., begin : begin + part.shape[2]]
            np.multiply(found, voxels.dtype.type(label), out=target)
        first += slab.shape[2]
    if len(seen) > 2:
        raise InvalidInput(f"{where}: holds voxels of 1 and of 255; export the mask again")
    if len(seen) == 1:
        log.warning("%s: the mask is empty", where)
    return voxels


def _pieces(voxels: NDArray[Any], planes: int) -> Iterator[NDArray[Any]]:
    return (voxels[:, :, first : first + planes] for first in range(0, voxels.shape[2], planes))


def _inflated(data: str, limit: int, where: str, whole: bool = True) -> bytes:
    try:
        stream = zlib.decompressobj(31)
        found = stream.decompress(base64.b64decode(data[: len(data) // 4 * 4], validate=True), limit)
    except (binascii.Error, zlib.error, ValueError) as fault:
        raise DamagedFile(f"{where}: is not base64 of gzip ({fault}); export the project again") from fault
    if whole and not stream.eof:
        raise DamagedFile(f"{where}: the compressed data are cut short or too long; export the project again")
    return found
