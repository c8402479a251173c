"""NIfTI-1 and NIfTI-2 files, ``.nii`` and ``.nii.gz``: the header cheaply, the voxels inflated once.

Whether a file is compressed is told by its first bytes, not by its name. Bytes after the voxels are ignored.
"""

from __future__ import annotations

import gzip
import logging
import math
import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.geometry import Grid, Shape3
from voxtract.model import Header, Volume
from voxtract.read.inflate import MAGIC
from voxtract.read.nifti_header import BYTES, NiftiHeader, decode, size_of
from voxtract.read.stored import Stored, opened, times
from voxtract.storage import Place, Remote

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("voxtract")

ICO7 = (27307, 1, 6)  # how FreeSurfer writes the 163842 points of a sphere, too many for 16 bits


@dataclass(frozen=True, slots=True)
class NiftiFile:
    """One volume in a NIfTI file.

    Parameters
    ----------
    path : Path, or Remote for a URL
    volume_index : int, optional
        The frame to take, 0-based, where the file has four axes; not needed where there is one frame only.
    """

    path: Place
    volume_index: int | None = None

    @property
    def where(self) -> str:
        """The path, as messages name it."""
        return str(self.path)

    @property
    def paths(self) -> tuple[str | Remote]:
        """The file."""
        return (self.path if isinstance(self.path, Remote) else self.where,)

    def header(self) -> Header:
        """Read and check the header; no voxel is read, and of a compressed file only the beginning.

        Returns
        -------
        Header
            Shape (x, y, z), affine as nibabel's ``get_best_affine`` (sform, else qform, else pixdim), stored dtype,
            and slope and intercept (1 and 0 where the file's slope is 0 or not finite).

        Raises
        ------
        NotFound
            No such file, or a link to nothing.
        UnreadableFile
            The operating system does not hand it out.
        DamagedFile
            Empty, cut short, no NIfTI file, or a header that promises more voxels than the file can hold.
        InvalidInput
            A NIfTI file that is not one 3D volume of real numbers: RGB, complex, 2D, 5D, several frames and no
            `volume_index`, a header/image pair.
        """
        with opened(self.path, "a NIfTI file") as file:
            stored, found = self._stored(file)
        for remark in found.remarks:
            log.warning("%s: %s", self.where, remark)
        return stored.header

    def examine(self) -> tuple[Header, NiftiHeader]:
        """Read the header and what it was made of, without logging what was repaired; raises as `header`."""
        with opened(self.path, "a NIfTI file") as file:
            stored, found = self._stored(file)
        return stored.header, found

    def read(self) -> Volume:
        """Read all voxels of the volume.

        Returns
        -------
        Volume
            Its data are (x, y, z), Fortran-ordered, stored dtype, native byte order. Of an uncompressed file in native
            byte order they are a read-only memory map.

        Raises
        ------
        NotFound, UnreadableFile, DamagedFile, InvalidInput
            As `header`; also where the compressed data are cut short or fail their checksum. The whole compressed
            file is checked, also when one frame of many is taken.
        """
        with opened(self.path, "a NIfTI file") as file:
            stored, _ = self._stored(file)
            (voxels,) = stored.slabs(file, stored.header.grid.shape[2])
            return Volume(stored.header, voxels)

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
        with opened(self.path, "a NIfTI file") as file:
            yield from self._stored(file)[0].slabs(file, planes)

    def _stored(self, file: BinaryIO) -> tuple[Stored, NiftiHeader]:
        """Find the voxels of the wanted frame; gives the header, too."""
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        compressed = file.read(len(MAGIC)) == MAGIC
        file.seek(0)
        # The standard library's reader, because ISA-L's asks for 512 KiB of the file at once.
        stream = gzip.GzipFile(fileobj=file) if compressed else file
        block = stream.read(BYTES[1])
        if size == 0:
            raise DamagedFile(f"{self.where}: the file is empty; copy or export it again")
        if size_of(block) == BYTES[2]:
            block += stream.read(BYTES[2] - BYTES[1])
        found = decode(block, self.where)
        frame = _frame(found, self.volume_index, self.where)
        header = Header(
            Grid(frame.shape, found.affine), found.stored.newbyteorder("="), found.slope, found.intercept, self.where
        )
        first = Stored.of(
            header, found.stored, found.offset, compressed=compressed, is_local=not isinstance(self.path, Remote)
        )
        first.check_size(size, frame.count)
        return first.frame(frame.index), found


@dataclass(frozen=True, slots=True)
class _Frame:
    shape: Shape3
    index: int
    count: int


def _frame(header: NiftiHeader, index: int | None, where: str) -> _Frame:
    """Reduce the axes to (x, y, z) and find the frame."""
    sizes = header.dim
    axes = len(sizes)
    if min(sizes) < 1:
        raise InvalidInput(
            f"{where}: shape {times(sizes)} holds no voxel, every axis must be >= 1; export the file again"
        )
    if axes < 3 or any(n > 1 for n in sizes[4:]):
        raise InvalidInput(
            f"{where}: has {axes} axes ({times(sizes)}), but a volume has 3, or 4 with frames last; "
            "split or stack it first"
        )
    count = sizes[3] if axes > 3 else 1
    frames = f"has {count} frame{'s' * (count > 1)} ({times(sizes)})"
    if index is None and count > 1:
        raise InvalidInput(f"{where}: {frames}, but a volume is one; choose volume_index=0 to {count - 1}")
    if index is not None and not 0 <= index < count:
        raise InvalidInput(f"{where}: {frames}, so volume_index={index} is out of range; allowed: 0 to {count - 1}")
    x, y, z = (math.prod(ICO7), 1, 1) if header.version == 1 and sizes[:3] == ICO7 else sizes[:3]
    return _Frame((x, y, z), index or 0, count)
