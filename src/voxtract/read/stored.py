"""Voxels that lie one after the other in a file, raw or deflated: opened, checked against its size, mapped or read.

What the readers of single files have in common, whatever their header looks like.
"""

from __future__ import annotations

import gzip
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput, NotFound, UnreadableFile
from voxtract.model import Header
from voxtract.read.inflate import MAX_RATIO, Inflater
from voxtract.storage import Place, Remote

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """Where the voxels of one volume lie.

    Parameters
    ----------
    header : Header
        Of the volume; where it is mapped, its voxels are.
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

    @classmethod
    def of(
        cls, header: Header, dtype: np.dtype[Any], offset: int, *, compressed: bool, is_local: bool = True
    ) -> Stored:
        """Say in the header whether the voxels can be mapped: raw on disk, in native byte order.

        A header of any length may leave them between the addresses that the machine reads whole; these are read.
        """
        aligned = offset % dtype.alignment == 0
        mapped = is_local and not compressed and dtype.isnative and aligned
        return cls(replace(header, is_mapped=mapped), dtype, offset, compressed)

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

        A slab of a volume that is mapped is read-only; any other may be overwritten by the next.

        Raises
        ------
        DamagedFile
            The data are cut short, or compressed and fail their checksum; told only after the last whole slab.
        """
        if self.header.is_mapped:
            return self._mapped(file, planes)
        return (self._inflated if self.compressed else self._read)(file, planes)

    def _mapped(self, file: BinaryIO, planes: int) -> Iterator[NDArray[Any]]:
        shape = self.header.grid.shape
        voxels = np.asarray(np.memmap(file, self.dtype, "r", self.offset, shape, order="F"))
        for first in range(0, shape[2], planes):
            yield voxels[:, :, first : first + planes]

    def _read(self, file: BinaryIO, planes: int) -> Iterator[NDArray[Any]]:
        file.seek(self.offset)

        def fill(target: memoryview) -> None:
            while target:
                count: int = file.readinto(target)  # type: ignore[attr-defined]
                if not count:
                    raise DamagedFile(f"{self.header.where}: became shorter while it was read; copy or export it again")
                target = target[count:]

        return self._filled(planes, fill)

    def _inflated(self, file: BinaryIO, planes: int) -> Iterator[NDArray[Any]]:
        header = self.header
        needed = self.offset + header.nbytes
        why = f"its header needs {needed} for {times(header.grid.shape)} voxels of {header.dtype}"
        inflater = Inflater(file, header.where, needed, why)
        inflater.skip(self.offset)
        yield from self._filled(planes, inflater.fill)
        inflater.finish()

    def _filled(self, planes: int, fill: Callable[[memoryview], None]) -> Iterator[NDArray[Any]]:
        """Slabs of voxels that come as bytes, one after the other into the same memory."""
        dtype = self.header.dtype
        x, y, z = self.header.grid.shape
        raw = np.empty(x * y * min(planes, z) * dtype.itemsize, np.uint8)  # touched as voxels arrive, not before
        for first in range(0, z, planes):
            part = raw[: x * y * min(planes, z - first) * dtype.itemsize]
            fill(part.data)
            voxels = part.view(dtype)
            if not self.dtype.isnative:
                voxels.byteswap(inplace=True)
            yield voxels.reshape((x, y, -1), order="F")


@contextmanager
def opened(path: Place, kind: str) -> Iterator[BinaryIO]:
    """Open a regular file unbuffered; whatever the system or a decompressor raises leaves as one of our errors.

    Parameters
    ----------
    path : Path, or Remote for a URL
    kind : str
        What was expected, as "a NRRD file".

    Raises
    ------
    NotFound, UnreadableFile, DamagedFile, InvalidInput
        Not there; not handed out by the system; damaged compressed data; a folder, a pipe or a device.
    """
    try:
        if isinstance(path, Remote):
            with path.open() as remote:
                yield remote
            return
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            other = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
            raise InvalidInput(f"{path}: is a {other}, but {kind} was expected; write it to disk first")
        with path.open("rb", buffering=0) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise DamagedFile(
            f"{path}: the compressed data are damaged ({fault}); copy or export the file again"
        ) from fault
    except IsADirectoryError as fault:
        raise InvalidInput(
            f"{path}: is a folder, but {kind} was expected; give a file inside it, or rename it"
        ) from fault
    except (FileNotFoundError, NotADirectoryError) as fault:
        if isinstance(fault, NotFound):
            raise
        if isinstance(path, Remote):
            raise NotFound(f"{path}: {fault.strerror}") from fault
        if path.is_symlink():
            raise NotFound(
                f"{path}: is a link to {path.readlink()}, which does not exist; repair or remove it"
            ) from fault
        raise NotFound(f"{path}: no such file; check the spelling") from fault
    except OSError as fault:
        if isinstance(fault, UnreadableFile):
            raise
        todo = "" if isinstance(path, Remote) else "; check permissions and disk"  # what a store says has its advice
        raise UnreadableFile(f"{path}: cannot be read: {fault.strerror or fault}{todo}") from fault
    except MemoryError as fault:
        raise UnreadableFile(f"{path}: its voxels do not fit into memory ({fault}); use a machine with more") from fault


def times(shape: tuple[int, ...]) -> str:
    """Write a shape as ``5 x 6 x 7``."""
    return " x ".join(map(str, shape))
