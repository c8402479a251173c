"""Slice images that were written, back into arrays."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput, NotFound, UnreadableFile, VoxtractError
from voxtract.storage import Place, Remote

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD = 256  # bytes before the pixels of an uncompressed TIFF slice, see write/tiff.py

AGAIN = "put back what was extracted, or extract anew with overwrite=True (--overwrite)"

# What decoders raise over damaged bytes: tifffile and its codecs (whose errors are RuntimeErrors), Pillow.
_STUMBLES = (
    *(ValueError, RuntimeError, LookupError, ArithmeticError, TypeError, AttributeError, SyntaxError, MemoryError),
    *(EOFError, struct.error, zlib.error),
)

Raw = tuple[tuple[int, ...], np.dtype[Any]]


def read_image(path: Place, size: tuple[int, int], within: tuple[int, int] | None = None) -> NDArray[Any]:
    """Read one slice image.

    Parameters
    ----------
    path : Path, or Remote for a URL
        As `voxtract.write` has written it, or written again by other software as TIFF or PNG of the same pixels.
    size : (height, width)
        What it must have.
    within : (first byte, number of bytes), optional
        Of the image in a file that holds more.

    Returns
    -------
    (height, width) array of the stored dtype, in this machine's byte order

    Raises
    ------
    NotFound, UnreadableFile
        No such file; the operating system does not hand it out.
    DamagedFile
        No grey image of this size.
    InvalidInput
        A PNG file larger than Pillow opens.
    """
    with image_errors(path):
        if within is not None:
            return _inside(path, size, *within)
        if path.suffix == ".png":
            return _png(path if isinstance(path, Path) else BytesIO(path.read_bytes()), size, path)
        with path.open("rb", buffering=0) if isinstance(path, Path) else BytesIO(path.read_bytes()) as file:
            return _tiff(file, size)


@contextmanager
def image_errors(path: Place) -> Iterator[None]:
    """Say in our words what goes wrong with an image that is read from `path`."""
    try:
        yield
    except FileNotFoundError as why:
        raise NotFound(f"{path}: no such image; {AGAIN}") from why
    except VoxtractError:
        raise
    except _STUMBLES as why:
        raise DamagedFile(f"{path}: the image is damaged ({why}); {AGAIN}") from why
    except OSError as why:
        if why.errno is None:  # Pillow's word for what it cannot decode
            raise DamagedFile(f"{path}: the image is damaged ({why}); {AGAIN}") from why
        todo = "" if isinstance(path, Remote) else "; check permissions and disk"
        raise UnreadableFile(f"{path}: cannot be read: {why.strerror}{todo}") from why


def _check(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """Refuse another image before its pixels are asked for, whatever its header promises."""
    if shape != size:
        raise ValueError(f"it has {' x '.join(map(str, shape))} pixels, but {size[0]} x {size[1]} were extracted")


def _inside(path: Place, size: tuple[int, int], first: int, nbytes: int) -> NDArray[Any]:
    """Read an image of `nbytes` that begins at byte `first` of a file."""
    content = _part(path, first, nbytes)
    if content.startswith(b"\x89PNG"):
        return _png(BytesIO(content), size, path)
    raw = _raw(bytes(content[:HEAD]))
    if raw is None:
        return _any_tiff(BytesIO(content), size)
    shape, dtype = raw
    _check(shape, size)
    return np.frombuffer(content, dtype, offset=HEAD).reshape(shape)


def _part(path: Place, first: int, nbytes: int) -> bytes | bytearray:
    if isinstance(path, Remote):
        there = path.read_bytes(first, nbytes)
        if len(there) < nbytes:
            raise ValueError("it is cut short")
        return there
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < first + nbytes:
            raise ValueError("it is cut short")
        file.seek(first)
        content = bytearray(nbytes)
        file.readinto(content)
    return content


def _png(file: Path | BytesIO, size: tuple[int, int], path: Place) -> NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            bands = len(image.getbands())
            _check((image.height, image.width) if bands == 1 else (image.height, image.width, bands), size)
            return np.asarray(image)
    except Image.DecompressionBombError as why:
        raise InvalidInput(f"{path}: is larger than Pillow opens ({why}); extract with images='tiff'") from why


def _tiff(file: io.FileIO | BytesIO, size: tuple[int, int]) -> NDArray[Any]:
    """Read a TIFF file; one that our writer made takes a third of the time that tifffile needs."""
    raw = _raw(file.read(HEAD))
    if raw is None:
        file.seek(0)
        return _any_tiff(file, size)
    shape, dtype = raw
    _check(shape, size)
    if file.seek(0, os.SEEK_END) != HEAD + shape[0] * shape[1] * dtype.itemsize:
        raise ValueError("it is cut short, or has grown")
    file.seek(HEAD)
    pixels = np.empty(shape, dtype)
    file.readinto(pixels.data.cast("B"))
    return pixels


def _any_tiff(file: io.FileIO | BytesIO, size: tuple[int, int]) -> NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(file) as opened:
        page = opened.pages[0]
        _check(page.shape, size)
        image: NDArray[Any] = page.asarray()
        _check(image.shape, size)  # nor is its header believed when it is damaged
        return image


@lru_cache(maxsize=64)  # all slices of a view have the same beginning
def _raw(head: bytes) -> Raw | None:
    """Shape and dtype of a TIFF file whose pixels, and nothing else, follow its first `HEAD` bytes uncompressed."""
    import tifffile

    try:
        with tifffile.TiffFile(BytesIO(head)) as file:
            page = file.pages[0]
            if page.dtype is None or len(page.shape) != 2 or not page.is_contiguous or page.dataoffsets != (HEAD,):
                return None
            dtype = page.dtype.newbyteorder(file.byteorder)
            return (page.shape, dtype) if dtype.isnative else None
    except _STUMBLES:  # not all that it says lies within its beginning
        return None
