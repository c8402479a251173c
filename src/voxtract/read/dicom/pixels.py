"""From files to voxels: plain pixels straight into the volume, compressed ones through pydicom's decoders.

Several threads read at once; reading, byte swapping and most decoders release Python's lock.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.read.dicom.files import opened, parsing
from voxtract.read.dicom.frames import Encoding, Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

THREADS = 4  # at most, for a volume: a run reads several volumes at once
PIECES = 4  # for each thread, so that none waits long for another

RLE = "1.2.840.10008.1.2.5"
_EXTENDED = "1.2.840.10008.1.2.4.51"
_OURS = {  # what the extra brings, by transfer syntax
    RLE: "pylibjpeg-rle",
    **dict.fromkeys(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), "pyjpegls"),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)], "pylibjpeg and pylibjpeg-openjpeg"),
}
_GDCM = (_EXTENDED, "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")  # free decoders of these: GDCM alone


@dataclass(frozen=True, eq=False, slots=True)
class Values:
    """What voxels hold.

    Parameters
    ----------
    dtype : numpy.dtype
        In this machine's byte order.
    slope, intercept : float
        Of all voxels, still to be applied: value = voxel * slope + intercept.
    is_stored : bool
        Voxels are the numbers as stored; else each frame's own scaling or table has been applied.
    """

    dtype: np.dtype[Any]
    slope: float
    intercept: float
    is_stored: bool

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Values:
        """The stored numbers where one scaling holds for all frames, else values: int32 if they fit, or float32.

        Values of stored float64 stay float64.
        """
        stored = np.result_type(*{frame.encoding.dtype.newbyteorder("=") for frame in frames})
        first = frames[0]
        if first.table is None and all(
            (frame.slope, frame.intercept, frame.table) == (first.slope, first.intercept, None) for frame in frames
        ):
            return cls(stored, first.slope, first.intercept, True)
        return cls(np.dtype(_dtype_of_values(frames, stored)), 1.0, 0.0, False)


def _dtype_of_values(frames: Sequence[Frame], stored: np.dtype[Any]) -> type[np.generic]:
    if stored.kind == "f":
        return np.float64 if stored.itemsize > 4 else np.float32
    limits = [end for frame in frames for end in _limits(frame)]
    whole = all(frame.table or (frame.slope.is_integer() and frame.intercept.is_integer()) for frame in frames)
    fits = min(limits) >= -(2**31) and max(limits) < 2**31
    return np.int32 if whole and fits else np.float32


def _limits(frame: Frame) -> tuple[float, float]:
    """Lowest and highest value that a frame of integers may hold."""
    if frame.table is not None:
        return min(frame.table.values), max(frame.table.values)
    bits, signed = frame.encoding.bits_stored, frame.encoding.dtype.kind == "i"
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    low, high = sorted(end * frame.slope + frame.intercept for end in ends)
    return low, high


def fill(frames: Sequence[Frame], values: Values, out: NDArray[Any]) -> None:
    """Read frames into planes.

    Parameters
    ----------
    frames : sequence of n Frame
    values : Values
    out : (x, y, n) array of `values.dtype`, Fortran order
        Its plane z takes the frame z: x is the column, y the row.

    Raises
    ------
    NotFound, UnreadableFile
        A file that is not there, or not handed out.
    DamagedFile
        Pixels that are cut short or do not decode.
    InvalidInput
        Compressed in a way for which no decoder is installed; the message names the package.
    """
    threads = min(THREADS, cores(), len(frames))
    step = math.ceil(len(frames) / (threads * PIECES))
    pieces = range(0, len(frames), step)
    with ThreadPoolExecutor(threads, "voxtract-dicom") as pool:
        try:
            done = [pool.submit(_fill, frames[i : i + step], values, out[:, :, i : i + step]) for i in pieces]
            for piece in done:
                piece.result()
        finally:
            pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fill(frames: Sequence[Frame], values: Values, out: NDArray[Any]) -> None:
    z = 0
    for path, group in groupby(frames, key=lambda frame: frame.path):
        wanted = list(group)
        planes = out[:, :, z : z + len(wanted)].T
        if wanted[0].encoding.storage == "plain":
            _read_plain(path, wanted, values, planes)
        else:
            for frame, pixels, plane in zip(wanted, decode(path, wanted), planes, strict=True):
                _put(pixels, frame, values, plane)
        z += len(wanted)


def _read_plain(path: str, frames: Sequence[Frame], values: Values, planes: NDArray[Any]) -> None:
    """Read frames of one file into planes (frame, row, column)."""
    with opened(path, buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for frame, plane in zip(frames, planes, strict=True):
            encoding = frame.encoding
            _check_size(path, encoding, frame.offset + encoding.nbytes, size)
            stored = encoding.dtype.newbyteorder("=")
            pixels = plane if values.is_stored and plane.dtype == stored else np.empty(plane.shape, stored)
            file.seek(frame.offset)
            _read_into(file, pixels.reshape(-1).view(np.uint8).data, path)
            if not encoding.dtype.isnative:
                pixels.byteswap(inplace=True)
            _clear_unused(pixels, encoding)
            if pixels is not plane:
                _put(pixels, frame, values, plane)


def _check_size(path: str, encoding: Encoding, needed: int, size: int) -> None:
    if needed > size:
        raise DamagedFile(
            f"{path}: its pixels are cut short: {encoding.columns} x {encoding.rows} of {encoding.dtype.name} need "
            f"{needed} bytes, but the file has {size}; copy or export it again"
        )


def _read_into(file: Any, target: memoryview, path: str) -> None:
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])
        if not count:
            raise DamagedFile(f"{path}: became shorter while it was read; copy it again")
        done += count


def _clear_unused(pixels: NDArray[Any], encoding: Encoding) -> None:
    """Keep the bits that count, in place; others may hold overlays (PS3.5, 8.1.1), and a sign is carried on."""
    allocated = encoding.dtype.itemsize * 8
    if encoding.bits_stored == allocated or encoding.dtype.kind == "f":
        return
    if encoding.dtype.kind == "u" and encoding.high_bit == encoding.bits_stored - 1:
        np.bitwise_and(pixels, (1 << encoding.bits_stored) - 1, out=pixels)
        return
    np.left_shift(pixels, allocated - 1 - encoding.high_bit, out=pixels)
    np.right_shift(pixels, allocated - encoding.bits_stored, out=pixels)


def _put(pixels: NDArray[Any], frame: Frame, values: Values, target: NDArray[Any]) -> None:
    """Write pixels, scaled if need be, into a plane (rows, columns)."""
    if values.is_stored:
        target[...] = pixels
    elif frame.table is not None:
        entries = np.array(frame.table.values)
        target[...] = entries[np.clip(pixels.astype(np.int64) - frame.table.first, 0, len(entries) - 1)]
    else:  # float64 meanwhile: exact for integers below 2**53
        scaled = np.multiply(pixels, frame.slope, dtype=np.float64)
        scaled += frame.intercept
        target[...] = scaled


# --- pixels that are not stored plainly


def decode(path: str, frames: Sequence[Frame]) -> Iterator[NDArray[Any]]:
    """Decode frames of one file, as (rows, columns) in native byte order.

    Raises
    ------
    NotFound, UnreadableFile, DamagedFile, InvalidInput
        As `fill`.
    """
    ways = {"plain": _plain, "bits": _bits, "compressed": _decompressed, "whole": _whole}
    encoding = frames[0].encoding
    expected = encoding.rows, encoding.columns
    with opened(path) as file, parsing(path):
        for pixels in ways[encoding.storage](file, path, frames):
            if pixels.shape != expected:
                raise DamagedFile(f"{path}: a frame decodes to {pixels.shape} pixels, its header says {expected}")
            yield pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _plain(_file: BinaryIO, path: str, frames: Sequence[Frame]) -> Iterator[NDArray[Any]]:
    values = Values.of([replace(frame, slope=1.0, intercept=0.0, table=None) for frame in frames])
    for frame in frames:
        pixels = np.empty((1, frame.encoding.rows, frame.encoding.columns), values.dtype)
        _read_plain(path, [frame], values, pixels)
        yield pixels[0]


def _bits(file: BinaryIO, path: str, frames: Sequence[Frame]) -> Iterator[NDArray[Any]]:
    """Single bits, lowest first; a frame may begin within a byte (PS3.5, 8.1.1)."""
    size = os.fstat(file.fileno()).st_size
    for frame in frames:
        count = frame.encoding.rows * frame.encoding.columns
        first, last = frame.number * count, (frame.number + 1) * count
        _check_size(path, frame.encoding, frame.offset + -(-last // 8), size)
        file.seek(frame.offset + first // 8)
        raw = np.frombuffer(file.read(-(-last // 8) - first // 8), np.uint8)
        bits = np.unpackbits(raw, bitorder="little")[first % 8 :][:count]
        yield bits.reshape(frame.encoding.rows, frame.encoding.columns)


def _decompressed(file: BinaryIO, path: str, frames: Sequence[Frame]) -> Iterator[NDArray[Any]]:
    from pydicom.pixels.decoders.base import get_decoder

    encoding = frames[0].encoding
    _check_decoder(encoding, path)
    file.seek(frames[0].offset)
    options: dict[str, Any] = {
        "rows": encoding.rows,
        "columns": encoding.columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": max(encoding.dtype.itemsize * 8, 8),
        "bits_stored": encoding.bits_stored,
        "pixel_representation": int(encoding.dtype.kind == "i"),
        "number_of_frames": encoding.count,
        "pixel_keyword": "PixelData",
    }
    try:
        found = get_decoder(encoding.syntax).iter_array(file, indices=[f.number for f in frames], raw=True, **options)
        for pixels, _ in found:
            yield pixels
    except RuntimeError as fault:  # all decoders have failed
        reason = str(fault).splitlines()[-1].strip()
        raise DamagedFile(
            f"{path}: its pixels do not decode ({_syntax_name(encoding)}: {reason}); copy or export the file again"
        ) from fault


def _whole(file: BinaryIO, _path: str, frames: Sequence[Frame]) -> Iterator[NDArray[Any]]:
    """All of a file is compressed, or its bytes are swapped in words."""
    import pydicom
    from pydicom.pixels.utils import iter_pixels

    yield from iter_pixels(pydicom.dcmread(file), indices=[frame.number for frame in frames], raw=True)


def _check_decoder(encoding: Encoding, path: str) -> None:
    """Refuse what no installed decoder can read, and name the package that can."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = encoding.syntax
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError as fault:
        raise InvalidInput(
            f"{path}: is compressed as {_syntax_name(encoding)}, which is not read; "
            "convert it, for instance to Explicit VR Little Endian"
        ) from fault
    needs_gdcm = syntax == _EXTENDED and encoding.bits_stored > 8
    if available and (not needs_gdcm or "gdcm" in get_decoder(syntax).available_plugins):
        return
    package = _OURS.get(syntax)
    advice = (
        f"needs {package}, which is not installed; pip install 'voxtract[dicom]'"
        if package
        else "needs GDCM; pip install python-gdcm"
    )
    raise InvalidInput(f"{path}: is compressed as {_syntax_name(encoding)}, which {advice}")


def _syntax_name(encoding: Encoding) -> str:
    from pydicom.uid import UID

    return UID(encoding.syntax).name
