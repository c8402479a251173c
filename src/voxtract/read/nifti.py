"""NIfTI-1 and NIfTI-2 files, ``.nii`` and ``.nii.gz``: the header cheaply, the voxels inflated once.

Whether a file is compressed is told by its first bytes, not by its name. Bytes after the voxels are ignored.
"""

from __future__ import annotations

import gzip
import logging
import math
import os
import stat
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput, NotFound, UnreadableFile
from voxtract.geometry import Grid, Shape3
from voxtract.model import Header, Volume
from voxtract.read.inflate import MAGIC, MAX_RATIO, Inflater
from voxtract.read.nifti_header import BYTES, NiftiHeader, decode, size_of
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
    def paths(self) -> tuple[Place]:
        """The file."""
        return (self.path,)

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
        with _opened(self.path) as file:
            layout = self._layout(file)
        for remark in layout.found.remarks:
            log.warning("%s: %s", self.where, remark)
        return layout.header

    def examine(self) -> tuple[Header, NiftiHeader]:
        """Read the header and what it was made of, without logging what was repaired; raises as `header`."""
        with _opened(self.path) as file:
            layout = self._layout(file)
        return layout.header, layout.found

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
        with _opened(self.path) as file:
            layout = self._layout(file)
            (voxels,) = self._slabs(file, layout, layout.header.grid.shape[2])
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
        with _opened(self.path) as file:
            yield from self._slabs(file, self._layout(file), planes)

    def _layout(self, file: BinaryIO) -> _Layout:
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
            Grid(frame.shape, found.affine),
            found.stored.newbyteorder("="),
            found.slope,
            found.intercept,
            self.where,
            is_mapped=not compressed and found.stored.isnative and not isinstance(self.path, Remote),
        )
        _check_size(header, found.offset, frame.count, size, compressed)
        return _Layout(header, found, found.offset + frame.index * header.nbytes, compressed)

    def _slabs(self, file: BinaryIO, layout: _Layout, planes: int) -> Iterator[NDArray[Any]]:
        if layout.compressed:
            return self._inflated(file, layout, planes)
        return (self._streamed if isinstance(self.path, Remote) else self._mapped)(file, layout, planes)

    def _mapped(self, file: BinaryIO, layout: _Layout, planes: int) -> Iterator[NDArray[Any]]:
        shape = layout.header.grid.shape
        voxels = np.asarray(np.memmap(file, layout.stored, "r", layout.offset, shape, order="F"))
        for first in range(0, shape[2], planes):
            slab = voxels[:, :, first : first + planes]
            yield slab if layout.stored.isnative else slab.astype(layout.header.dtype)

    def _inflated(self, file: BinaryIO, layout: _Layout, planes: int) -> Iterator[NDArray[Any]]:
        header = layout.header
        needed = layout.offset + header.nbytes
        why = f"its header needs {needed} for {_times(header.grid.shape)} voxels of {header.dtype}"
        inflater = Inflater(file, self.where, needed, why)
        inflater.skip(layout.offset)
        yield from _filled(layout, planes, inflater.fill)
        inflater.finish()

    def _streamed(self, file: BinaryIO, layout: _Layout, planes: int) -> Iterator[NDArray[Any]]:
        file.seek(layout.offset)

        def fill(target: memoryview) -> None:
            while len(target):  # the size of the file was checked, and it raises where it has changed
                target = target[file.readinto(target) :]  # type: ignore[attr-defined]

        return _filled(layout, planes, fill)


@dataclass(frozen=True, eq=False, slots=True)
class _Layout:
    """Where the voxels of the wanted frame lie in the uncompressed file."""

    header: Header
    found: NiftiHeader
    offset: int
    compressed: bool

    @property
    def stored(self) -> np.dtype[Any]:
        """With the file's byte order."""
        return self.found.stored


@dataclass(frozen=True, slots=True)
class _Frame:
    shape: Shape3
    index: int
    count: int


def _filled(layout: _Layout, planes: int, fill: Callable[[memoryview], None]) -> Iterator[NDArray[Any]]:
    """Slabs of voxels that come as bytes, one after the other into the same memory."""
    dtype = layout.header.dtype
    x, y, z = layout.header.grid.shape
    raw = np.empty(x * y * min(planes, z) * dtype.itemsize, np.uint8)  # touched as voxels arrive, not before
    for first in range(0, z, planes):
        part = raw[: x * y * min(planes, z - first) * dtype.itemsize]
        fill(part.data)
        voxels = part.view(dtype)
        if not layout.stored.isnative:
            voxels.byteswap(inplace=True)
        yield voxels.reshape((x, y, -1), order="F")


@contextmanager
def _opened(path: Place) -> Iterator[BinaryIO]:
    """Open a regular file; whatever the system or a decompressor raises leaves as one of our errors."""
    try:
        if isinstance(path, Remote):
            with path.open() as file:
                yield file
            return
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise InvalidInput(f"{path}: is a {_kind(mode)}, but a NIfTI file was expected; write it to disk first")
        with path.open("rb", buffering=0) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise DamagedFile(
            f"{path}: the compressed data are damaged ({fault}); copy or export the file again"
        ) from fault
    except IsADirectoryError as fault:
        raise InvalidInput(
            f"{path}: is a folder, but a NIfTI file was expected; give a file inside it, or rename it"
        ) from fault
    except (FileNotFoundError, NotADirectoryError) as fault:
        if isinstance(path, Remote):
            raise NotFound(f"{path}: {fault.strerror}") from fault
        if path.is_symlink():
            raise NotFound(
                f"{path}: is a link to {path.readlink()}, which does not exist; repair or remove it"
            ) from fault
        raise NotFound(f"{path}: no such file; check the spelling") from fault
    except OSError as fault:
        todo = "" if isinstance(path, Remote) else "; check permissions and disk"  # what a store says has its advice
        raise UnreadableFile(f"{path}: cannot be read: {fault.strerror or fault}{todo}") from fault
    except MemoryError as fault:
        raise UnreadableFile(f"{path}: its voxels do not fit into memory ({fault}); use a machine with more") from fault


def _frame(header: NiftiHeader, index: int | None, where: str) -> _Frame:
    """Reduce the axes to (x, y, z) and find the frame."""
    sizes = header.dim
    axes = len(sizes)
    if min(sizes) < 1:
        raise InvalidInput(
            f"{where}: shape {_times(sizes)} holds no voxel, every axis must be >= 1; export the file again"
        )
    if axes < 3 or any(n > 1 for n in sizes[4:]):
        raise InvalidInput(
            f"{where}: has {axes} axes ({_times(sizes)}), but a volume has 3, or 4 with frames last; "
            "split or stack it first"
        )
    count = sizes[3] if axes > 3 else 1
    frames = f"has {count} frame{'s' * (count > 1)} ({_times(sizes)})"
    if index is None and count > 1:
        raise InvalidInput(f"{where}: {frames}, but a volume is one; choose volume_index=0 to {count - 1}")
    if index is not None and not 0 <= index < count:
        raise InvalidInput(f"{where}: {frames}, so volume_index={index} is out of range; allowed: 0 to {count - 1}")
    x, y, z = (math.prod(ICO7), 1, 1) if header.version == 1 and sizes[:3] == ICO7 else sizes[:3]
    return _Frame((x, y, z), index or 0, count)


def _check_size(header: Header, offset: int, frames: int, size: int, compressed: bool) -> None:
    """Refuse a header that promises more than the file can hold, before anything is allocated."""
    needed = offset + frames * header.nbytes
    limit = size * MAX_RATIO if compressed else size
    if needed > limit:
        times = f"{frames} frames of " if frames > 1 else ""
        raise DamagedFile(
            f"{header.where}: its header promises {times}{_times(header.grid.shape)} voxels of {header.dtype}, "
            f"{needed} bytes, but the file has {size}"
            + (f", which inflate to {limit} at most" if compressed else "")
            + "; copy or export the file again"
        )


def _kind(mode: int) -> str:
    return "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
