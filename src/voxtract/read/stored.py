"""Voxels that lie one after the other in a file, raw or deflated: opened, checked against its size, mapped or inflated.

What the readers of single files have in common, whatever their header looks like.
"""

from __future__ import annotations

import gzip
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput, NotFound, UnreadableFile
from voxtract.model import Header
from voxtract.read.inflate import MAX_RATIO, Inflater

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """Where the voxels of one volume lie.

    Parameters
    ----------
    header : Header
        Of the volume.
    dtype : numpy.dtype
        With the byte order of the file.
    offset : int
        Byte at which the voxels begin; of the inflated bytes where they are compressed.
    compressed : bool
        Whether they are inflated from gzip.
    """

    header: Header
    dtype: np.dtype[Any]
    offset: int
    compressed: bool

    def check_size(self, size: int, frames: int = 1) -> None:
        """Refuse a header that promises more than a file of `size` bytes can hold, before anything is allocated.

        Raises
        ------
        DamagedFile
            This volume and the `frames` - 1 that follow it cannot be in the file.
        """
        needed = self.offset + frames * self.header.nbytes
        limit = size * MAX_RATIO if self.compressed else size
        if needed > limit:
            several = f"{frames} frames of " if frames > 1 else ""
            raise DamagedFile(
                f"{self.header.where}: its header promises {several}{times(self.header.grid.shape)} voxels of "
                f"{self.header.dtype}, {needed} bytes, but the file has {size}"
                + (f", which inflate to {limit} at most" if self.compressed else "")
                + "; copy or export the file again"
            )

    def frame(self, index: int) -> Stored:
        """The volume `index` places further on."""
        return replace(self, offset=self.offset + index * self.header.nbytes)

    def slabs(self, file: BinaryIO, planes: int) -> Iterator[NDArray[Any]]:
        """Read the voxels (x, y, n <= planes) along z, in this machine's byte order; `file` stays open.

        An inflated slab may be overwritten by the next; raw ones in native byte order are a read-only memory map.

        Raises
        ------
        DamagedFile
            The compressed data are cut short or fail their checksum; told only after the last whole slab.
        """
        return (self._inflated if self.compressed else self._mapped)(file, planes)

    def _mapped(self, file: BinaryIO, planes: int) -> Iterator[NDArray[Any]]:
        shape = self.header.grid.shape
        voxels = np.asarray(np.memmap(file, self.dtype, "r", self.offset, shape, order="F"))
        for first in range(0, shape[2], planes):
            slab = voxels[:, :, first : first + planes]
            # A header of any length may leave the voxels between the addresses that the machine reads whole.
            yield slab if self.dtype.isnative and slab.flags.aligned else slab.astype(self.header.dtype)

    def _inflated(self, file: BinaryIO, planes: int) -> Iterator[NDArray[Any]]:
        header = self.header
        x, y, z = header.grid.shape
        needed = self.offset + header.nbytes
        why = f"its header needs {needed} for {times(header.grid.shape)} voxels of {header.dtype}"
        inflater = Inflater(file, header.where, needed, why)
        inflater.skip(self.offset)
        raw = np.empty(x * y * min(planes, z) * header.dtype.itemsize, np.uint8)  # touched as voxels arrive, not before
        for first in range(0, z, planes):
            part = raw[: x * y * min(planes, z - first) * header.dtype.itemsize]
            inflater.fill(part.data)
            voxels = part.view(header.dtype)
            if not self.dtype.isnative:
                voxels.byteswap(inplace=True)
            yield voxels.reshape((x, y, -1), order="F")
        inflater.finish()


@contextmanager
def opened(path: Path, kind: str) -> Iterator[BinaryIO]:
    """Open a regular file unbuffered; whatever the system or a decompressor raises leaves as one of our errors.

    Parameters
    ----------
    path : Path
    kind : str
        What was expected, as "a NRRD file".

    Raises
    ------
    NotFound, UnreadableFile, DamagedFile, InvalidInput
        Not there; not handed out by the system; damaged compressed data; a folder, a pipe or a device.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InvalidInput(f"{path}: is a folder, but {kind} was expected; give a file inside it, or rename it")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            other = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
            raise InvalidInput(f"{path}: is a {other}, but {kind} was expected; write it to disk first")
        with path.open("rb", buffering=0) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise DamagedFile(
            f"{path}: the compressed data are damaged ({fault}); copy or export the file again"
        ) from fault
    except (FileNotFoundError, NotADirectoryError) as fault:
        if isinstance(fault, NotFound):
            raise
        if path.is_symlink():
            raise NotFound(
                f"{path}: is a link to {path.readlink()}, which does not exist; repair or remove it"
            ) from fault
        raise NotFound(f"{path}: no such file; check the spelling") from fault
    except OSError as fault:
        if isinstance(fault, UnreadableFile):
            raise
        raise UnreadableFile(
            f"{path}: cannot be read: {fault.strerror or fault}; check permissions and disk"
        ) from fault
    except MemoryError as fault:
        raise UnreadableFile(f"{path}: its voxels do not fit into memory ({fault}); use a machine with more") from fault


def times(shape: tuple[int, ...]) -> str:
    """Write a shape as ``5 x 6 x 7``."""
    return " x ".join(map(str, shape))
