"""NIfTI-1 and NIfTI-2 files, ``.nii`` and ``.nii.gz``: the header cheaply, the voxels inflated once.

Format: https://nifti.nimh.nih.gov (nifti1.h, nifti2.h); the header's fields are decoded by nibabel. Whether a file
is compressed is told by its first bytes, not by its name. Bytes after the voxels are ignored.
"""

from __future__ import annotations

import gzip
import logging
import math
import os
import stat
import zlib
from collections.abc import Generator, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput, NotFound, UnreadableFile
from voxtract.geometry import Grid, Shape3
from voxtract.model import Header, Volume
from voxtract.read.inflate import MAGIC, MAX_RATIO, Inflater

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

HEADER_BYTES = {1: 348, 2: 540}
FIRST_VOXEL = {1: 352, 2: 544}  # the header and 4 bytes that announce extensions


@dataclass(frozen=True, slots=True)
class NiftiFile:
    """One volume in a NIfTI file.

    Parameters
    ----------
    path : Path
    volume_index : int, optional
        The frame to take, 0-based, where the file has four axes; not needed where there is one frame only.
    """

    path: Path
    volume_index: int | None = None

    @property
    def where(self) -> str:
        """The path, as messages name it."""
        return str(self.path)

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
            return self._layout(file).header

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
        size = os.fstat(file.fileno()).st_size
        compressed = file.read(len(MAGIC)) == MAGIC
        file.seek(0)
        # The standard library's reader, because ISA-L's asks for 512 KiB of the file at once.
        stream = gzip.GzipFile(fileobj=file) if compressed else file
        block = stream.read(HEADER_BYTES[1])
        if HEADER_BYTES[2] in _first_number(block):
            block += stream.read(HEADER_BYTES[2] - HEADER_BYTES[1])
        fields, version = _fields(block, size, self.where)
        frame = _frame(fields, self.volume_index, self.where)
        stored = _stored_dtype(fields, self.where)
        offset = _offset(fields, version, self.where)
        header = Header(
            Grid(frame.shape, _affine(fields, self.where)),
            stored.newbyteorder("="),
            *_scale(fields, self.where),
            self.where,
        )
        _check_size(header, offset, frame.count, size, compressed)
        return _Layout(header, stored, offset + frame.index * header.nbytes, compressed)

    def _slabs(self, file: BinaryIO, layout: _Layout, planes: int) -> Iterator[NDArray[Any]]:
        return (self._inflated if layout.compressed else self._mapped)(file, layout, planes)

    def _mapped(self, file: BinaryIO, layout: _Layout, planes: int) -> Iterator[NDArray[Any]]:
        shape = layout.header.grid.shape
        voxels = np.asarray(np.memmap(file, layout.stored, "r", layout.offset, shape, order="F"))
        for first in range(0, shape[2], planes):
            slab = voxels[:, :, first : first + planes]
            yield slab if layout.stored.isnative else slab.astype(layout.header.dtype)

    def _inflated(self, file: BinaryIO, layout: _Layout, planes: int) -> Iterator[NDArray[Any]]:
        header = layout.header
        x, y, z = header.grid.shape
        needed = layout.offset + header.nbytes
        why = f"its header needs {needed} for {_times(header.grid.shape)} voxels of {header.dtype}"
        inflater = Inflater(file, self.where, needed, why)
        inflater.skip(layout.offset)
        raw = np.empty(x * y * min(planes, z) * header.dtype.itemsize, np.uint8)  # touched as voxels arrive, not before
        for first in range(0, z, planes):
            part = raw[: x * y * min(planes, z - first) * header.dtype.itemsize]
            inflater.fill(part.data)
            voxels = part.view(header.dtype)
            if not layout.stored.isnative:
                voxels.byteswap(inplace=True)
            yield voxels.reshape((x, y, -1), order="F")
        inflater.finish()


@dataclass(frozen=True, eq=False, slots=True)
class _Layout:
    """Where the voxels of the wanted frame lie in the uncompressed file."""

    header: Header
    stored: np.dtype[Any]  # with the file's byte order
    offset: int
    compressed: bool


@dataclass(frozen=True, slots=True)
class _Frame:
    shape: Shape3
    index: int
    count: int


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file; whatever the system or a decompressor raises leaves as one of our errors."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InvalidInput(
                f"{path}: is a folder, but a NIfTI file was expected; give a file inside it, or rename it"
            )
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise InvalidInput(f"{path}: is a {_kind(mode)}, but a NIfTI file was expected; write it to disk first")
        with path.open("rb", buffering=0) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise DamagedFile(
            f"{path}: the compressed data are damaged ({fault}); copy or export the file again"
        ) from fault
    except (FileNotFoundError, NotADirectoryError) as fault:
        if path.is_symlink():
            raise NotFound(
                f"{path}: is a link to {path.readlink()}, which does not exist; repair or remove it"
            ) from fault
        raise NotFound(f"{path}: no such file; check the spelling") from fault
    except OSError as fault:
        raise UnreadableFile(
            f"{path}: cannot be read: {fault.strerror or fault}; check permissions and disk"
        ) from fault
    except MemoryError as fault:
        raise UnreadableFile(f"{path}: its voxels do not fit into memory ({fault}); use a machine with more") from fault


def _fields(block: bytes, size: int, where: str) -> tuple[Nifti1Header, int]:
    """Decode the header, and say which version it is."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    if size == 0:
        raise DamagedFile(f"{where}: the file is empty; copy or export it again")
    begins = _first_number(block)
    magic = block[4:8] if HEADER_BYTES[2] in begins else block[344:348]
    if magic in (b"ni1\0", b"ni2\0"):
        raise InvalidInput(
            f"{where}: is the header of a header/image pair (.hdr and .img); convert the pair to one .nii.gz file, "
            "for instance with nibabel.load and nibabel.save"
        )
    version = {b"n+1\0": 1, b"n+2\0": 2}.get(magic)
    needed = next((n for n in HEADER_BYTES.values() if n in begins), 0)
    if len(block) < needed:
        raise DamagedFile(
            f"{where}: the header is cut short: {len(block)} of {needed} bytes; copy or export the file again"
        )
    if version is None:
        raise DamagedFile(
            f"{where}: is not a NIfTI file: it begins with {block[:16]!r} and lacks the mark 'n+1' or 'n+2'; "
            "convert it to NIfTI, or download it again"
        )
    kind = {1: Nifti1Header, 2: Nifti2Header}[version]
    try:
        fields = kind(block, check=False)  # type: ignore[no-untyped-call]
        fields.check_fix(logger=_Named(log, {"where": where}), error_level=40)
    except HeaderDataError as fault:
        raise InvalidInput(f"{where}: its header cannot be worked with: {fault}; export the file again") from fault
    return fields, version


def _first_number(block: bytes) -> tuple[int, int]:
    """Read the size that a header gives itself, in either byte order."""
    return int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")


class _Named(logging.LoggerAdapter[logging.Logger]):
    """Puts the file's name before nibabel's remarks on a header."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"{(self.extra or {})['where']}: {msg}", kwargs


def _frame(fields: Nifti1Header, index: int | None, where: str) -> _Frame:
    """Reduce the axes to (x, y, z) and find the frame."""
    axes = int(fields["dim"][0])
    if not 1 <= axes <= 7:
        raise DamagedFile(f"{where}: the header names {axes} axes, but NIfTI has 1 to 7; export the file again")
    sizes = [int(n) for n in fields["dim"][1 : axes + 1]]
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
    x, y, z = (int(n) for n in fields.get_data_shape()[:3])  # not `sizes`: nibabel knows FreeSurfer's long vectors
    return _Frame((x, y, z), index or 0, count)


def _stored_dtype(fields: Nifti1Header, where: str) -> np.dtype[Any]:
    dtype: np.dtype[Any] = fields.get_data_dtype()
    if dtype.kind in "iuf" and dtype.itemsize <= 8:
        return dtype
    what = "RGB colours" if dtype.names else "complex numbers" if dtype.kind == "c" else f"numbers of type {dtype}"
    raise InvalidInput(
        f"{where}: its voxels are {what}, but integers or floats of at most 64 bits are needed; "
        "convert it to one number per voxel first"
    )


def _offset(fields: Nifti1Header, version: int, where: str) -> int:
    offset = float(fields["vox_offset"])
    if not offset >= FIRST_VOXEL[version] or math.isinf(offset):
        raise DamagedFile(
            f"{where}: vox_offset {offset:g} puts the voxels inside the header, expected >= {FIRST_VOXEL[version]}; "
            "export the file again"
        )
    return int(fields["vox_offset"])


def _affine(fields: Nifti1Header, where: str) -> NDArray[np.float64]:
    from nibabel.spatialimages import HeaderDataError

    try:
        affine = np.asarray(fields.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as fault:  # ValueError: a quaternion longer than 1
        raise InvalidInput(f"{where}: its orientation cannot be worked with: {fault}; export the file again") from fault
    if not np.isfinite(affine).all():
        raise InvalidInput(f"{where}: its affine {affine[:3].tolist()} is not finite; export the file again")
    return affine


def _scale(fields: Nifti1Header, where: str) -> tuple[float, float]:
    from nibabel.spatialimages import HeaderDataError

    try:
        slope, intercept = fields.get_slope_inter()
    except HeaderDataError as fault:
        raise InvalidInput(f"{where}: its scaling cannot be worked with: {fault}; export the file again") from fault
    return (1.0, 0.0) if slope is None else (slope, intercept)


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


def _times(shape: tuple[int, ...] | list[int]) -> str:
    return " x ".join(map(str, shape))
