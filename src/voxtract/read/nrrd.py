"""NRRD files: ``.nrrd`` with the voxels behind the header, ``.nhdr`` with the voxels in a file beside it."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.geometry import Grid
from voxtract.model import Header, Volume
from voxtract.read.nrrd_header import LONGEST, NrrdHeader, decode, end_of
from voxtract.read.stored import Stored, opened, times

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("voxtract")

_KIND = "a NRRD file"
_FIRST = 4096  # bytes in which most headers end


@dataclass(frozen=True, slots=True)
class NrrdFile:
    """One volume in a NRRD file.

    Parameters
    ----------
    path : Path
    volume_index : int, optional
        The frame to take, 0-based, where a fourth axis counts frames; not needed where there is one only.
    """

    path: Path
    volume_index: int | None = None

    @property
    def where(self) -> str:
        """The path, as messages name it."""
        return str(self.path)

    @property
    def paths(self) -> tuple[str, ...]:
        """The file, and the one with the voxels where its header names one."""
        if self.path.suffix.lower() != ".nhdr":
            return (self.where,)
        name = self.described().data_file
        return (self.where,) if name is None else (self.where, str(self.path.parent / name))

    def header(self) -> Header:
        """Read and check the header; no voxel is read.

        Returns
        -------
        Header
            Shape (x, y, z) in the order of the file, affine in RAS+ mm (a header without a known space is taken as
            RAS, with a warning), stored dtype. NRRD has no scaling.

        Raises
        ------
        NotFound
            No such file, or no such data file.
        UnreadableFile
            The operating system does not hand it out.
        DamagedFile
            Empty, cut short, no NRRD file, or a header that promises more voxels than the file can hold.
        InvalidInput
            A NRRD file that is not one 3D volume of real numbers, raw or gzip, in one file: colours, vectors, several
            frames and no `volume_index`, another encoding, a data file outside of the header's folder.
        """
        header, found = self.examine()
        for remark in found.remarks:
            log.warning("%s: %s", self.where, remark)
        return header

    def read(self) -> Volume:
        """Read all voxels of the volume.

        Returns
        -------
        Volume
            Its data are (x, y, z), Fortran-ordered, stored dtype, native byte order. Raw ones that lie in native byte
            order, aligned, are a read-only memory map.

        Raises
        ------
        NotFound, UnreadableFile, DamagedFile, InvalidInput
            As `header`; also where the compressed data are cut short or fail their checksum.
        """
        with self._data() as (file, layout, _):
            (voxels,) = layout.slabs(file, layout.header.grid.shape[2])
            return Volume(layout.header, voxels)

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Read the voxels slab by slab along z, without holding the volume.

        Parameters
        ----------
        planes : int
            Planes (x, y) of a slab; the last may have fewer.

        Yields
        ------
        (x, y, n) array, as the data of `read`
            The next one may overwrite it.

        Raises
        ------
        NotFound, UnreadableFile, DamagedFile, InvalidInput
            As `read`; a file that is cut short or fails its checksum is told only after its last whole slab.
        """
        with self._data() as (file, layout, _):
            yield from layout.slabs(file, planes)

    def examine(self) -> tuple[Header, NrrdHeader]:
        """Read the header and what it was made of, without logging what was guessed; raises as `header`."""
        with self._data() as (_, layout, found):
            return layout.header, found

    def described(self) -> NrrdHeader:
        """Decode the header alone, without a look at the voxels; raises as `header`."""
        with opened(self.path, _KIND) as file:
            return self._decoded(file)

    def _decoded(self, file: BinaryIO) -> NrrdHeader:
        block = file.read(_FIRST)
        if not block:
            raise DamagedFile(f"{self.where}: the file is empty; copy or export it again")
        while not end_of(block) and len(block) < LONGEST and (more := file.read(len(block))):
            block += more
        end = end_of(block)
        if not end and len(block) >= LONGEST and block.startswith(b"NRRD"):
            raise DamagedFile(f"{self.where}: no empty line ends its header; copy or export the file again")
        return decode(block[: end or LONGEST], self.where)

    @contextmanager
    def _data(self) -> Iterator[tuple[BinaryIO, Stored, NrrdHeader]]:
        """Open the file with the voxels; gives it, where in it they are, and the header."""
        with opened(self.path, _KIND) as file:
            found = self._decoded(file)
            if found.data_file is None:
                yield *self._located(file, found, found.end), found
                return
            with opened(self.path.parent / found.data_file, f"the data file of {self.where}") as data:
                yield *self._located(data, found, 0), found

    def _located(self, file: BinaryIO, found: NrrdHeader, begin: int) -> tuple[BinaryIO, Stored]:
        """Find the voxels of the wanted frame in `file`, behind `begin` and all that is to be skipped."""
        size = os.fstat(file.fileno()).st_size
        begin = _behind_lines(file, begin, found.line_skip, self.where)
        header = Header(Grid(found.shape, found.affine), found.stored.newbyteorder("="), where=self.where)
        frame = _frame(found, self.volume_index, self.where)
        if found.encoding == "gzip":
            if found.byte_skip < 0:
                raise InvalidInput(f"{self.where}: has a byte skip of -1, which raw data only may have; save it again")
            first = Stored.of(header, found.stored, found.byte_skip, compressed=True)
            first.check_size(size - begin, found.frames)
            return cast("BinaryIO", _Tail(file, begin)), first.frame(frame)
        at_end = max(begin, size - found.frames * header.nbytes)
        offset = at_end if found.byte_skip < 0 else begin + found.byte_skip
        first = Stored.of(header, found.stored, offset, compressed=False)
        first.check_size(size, found.frames)
        return file, first.frame(frame)


class _Tail(io.RawIOBase):
    """What follows byte `begin` of a file, as a file; does not close it."""

    def __init__(self, file: BinaryIO, begin: int) -> None:
        self._file, self._begin = file, begin

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        count: int = self._file.readinto(target)  # type: ignore[attr-defined]
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset + (self._begin if whence == os.SEEK_SET else 0), whence) - self._begin

    def tell(self) -> int:
        return self._file.tell() - self._begin


def _behind_lines(file: BinaryIO, begin: int, count: int, where: str) -> int:
    """Byte behind the next `count` lines."""
    if count == 0:
        return begin
    file.seek(begin)
    lines = io.BufferedReader(file)  # type: ignore[type-var]
    try:
        for _ in range(count):
            if not lines.readline():
                raise DamagedFile(f"{where}: has no {count} lines to skip before its voxels; export the file again")
        return lines.tell()
    finally:
        lines.detach()


def _frame(found: NrrdHeader, index: int | None, where: str) -> int:
    frames = f"has {found.frames} frame{'s' * (found.frames > 1)} ({times((*found.shape, found.frames))})"
    if index is None and found.frames > 1:
        raise InvalidInput(f"{where}: {frames}, but a volume is one; choose volume_index=0 to {found.frames - 1}")
    if index is not None and not 0 <= index < found.frames:
        raise InvalidInput(
            f"{where}: {frames}, so volume_index={index} is out of range; allowed: 0 to {found.frames - 1}"
        )
    return index or 0
