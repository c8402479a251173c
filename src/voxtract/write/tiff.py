"""TIFF slices (TIFF 6.0, classic, one strip): uncompressed by a header built once, compressed through tifffile."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any

from voxtract.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COMPRESSIONS = ("zlib", "zstd", "lzw")
SOFTWARE = "voxtract"

_DATA = 256  # offset of the pixels: behind the header, at the start of a cache line
_SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}
_CENTIMETRE, _NO_UNIT = 3, 1
_ASCII, _SHORT, _LONG, _RATIONAL = 2, 3, 4, 5
_TYPES = {_SHORT: "H", _LONG: "I"}


@dataclass(frozen=True, slots=True)
class Tiff:
    """Writer of TIFF slices.

    Parameters
    ----------
    compression : {None, "zlib", "zstd", "lzw"}
        zstd is several times faster than zlib; tifffile and Pillow open it, the wheels of OpenCV do not.

    Raises
    ------
    InvalidInput
        Another word, or a codec that is not installed (the message has the install line).
    """

    compression: str | None = None
    suffix: str = ".tif"

    def __post_init__(self) -> None:
        if self.compression is None:
            return
        if self.compression not in COMPRESSIONS:
            allowed = ", ".join(map(repr, (None, *COMPRESSIONS)))
            raise InvalidInput(f"compression {self.compression!r} is not known for TIFF; allowed: {allowed}")
        if self.compression != "zlib" and find_spec("imagecodecs") is None:
            raise InvalidInput(
                f"compression {self.compression!r} needs the package imagecodecs, which is not installed; "
                "pip install 'voxtract[zstd]', or take compression 'zlib'"
            )

    def encode(self, image: NDArray[Any], spacing_mm: tuple[float, float]) -> Sequence[bytes | memoryview]:
        """Turn one image into the bytes of a file.

        Parameters
        ----------
        image : (height, width) C-contiguous array
            Integers or floats of 1, 2, 4 or 8 bytes in this machine's byte order.
        spacing_mm : (row, column)
            Distance of neighbouring pixels; becomes the resolution tags, in pixels per centimetre.

        Returns
        -------
        sequence of buffers, to be written one after the other; without compression they include `image` itself

        Raises
        ------
        InvalidInput
            The image is larger than 4 GiB, the most that TIFF can hold.
        """
        if self.compression is not None:
            return [_compressed(image, spacing_mm, self.compression)]
        height, width = image.shape
        return [_header(height, width, image.dtype, spacing_mm), image.data]


@lru_cache(maxsize=64)
def _header(height: int, width: int, dtype: np.dtype[Any], spacing_mm: tuple[float, float]) -> bytes:
    """Everything before the pixels: 8 bytes, one directory, what does not fit its entries, zeros up to `_DATA`."""
    nbytes = height * width * dtype.itemsize
    if _DATA + nbytes >= 1 << 32:
        raise InvalidInput(
            f"a slice of {height} x {width} {dtype} is {nbytes:,} bytes; a TIFF file holds at most 4 GiB: "
            "take a smaller dtype or target size"
        )
    vertical, horizontal, unit = _resolution(spacing_mm)
    software = SOFTWARE.encode() + b"\0"
    fields: list[tuple[int, int, int | tuple[int, int] | bytes]] = [
        (256, _LONG, width),
        (257, _LONG, height),
        (258, _SHORT, dtype.itemsize * 8),  # BitsPerSample
        (259, _SHORT, 1),  # Compression: none
        (262, _SHORT, 1),  # PhotometricInterpretation: MinIsBlack
        (273, _LONG, _DATA),  # StripOffsets
        (277, _SHORT, 1),  # SamplesPerPixel
        (278, _LONG, height),  # RowsPerStrip
        (279, _LONG, nbytes),  # StripByteCounts
        (282, _RATIONAL, horizontal),  # XResolution
        (283, _RATIONAL, vertical),  # YResolution
        (296, _SHORT, unit),  # ResolutionUnit
        (305, _ASCII, software),
        (339, _SHORT, _SAMPLE_FORMATS[dtype.kind]),
    ]
    order = "<" if sys.byteorder == "little" else ">"  # the machine's own, as the pixels are
    overflow = 8 + 2 + 12 * len(fields) + 4
    entries, rest = [], b""
    for tag, kind, value in fields:
        if isinstance(value, int):
            packed = struct.pack(order + _TYPES[kind], value)
            count = 1
        else:
            packed = struct.pack(order + "I", overflow + len(rest))
            count = len(value) if isinstance(value, bytes) else 1
            rest += value if isinstance(value, bytes) else struct.pack(order + "II", *value)
        entries.append(struct.pack(order + "HHI4s", tag, kind, count, packed))
    magic = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    directory = struct.pack(order + "H", len(fields)) + b"".join(entries) + bytes(4)  # no further directory
    return (magic + directory + rest).ljust(_DATA, b"\0")


def _resolution(spacing_mm: tuple[float, float]) -> tuple[tuple[int, int], tuple[int, int], int]:
    """(vertical, horizontal, unit): pixels per centimetre as rationals; 1 and no unit where the spacing is unknown."""
    if not all(math.isfinite(spacing) and 1e-6 < spacing < 1e6 for spacing in spacing_mm):
        return (1, 1), (1, 1), _NO_UNIT
    vertical, horizontal = (_rational(10 / spacing) for spacing in spacing_mm)
    return vertical, horizontal, _CENTIMETRE


def _rational(value: float) -> tuple[int, int]:
    fraction = Fraction(value).limit_denominator(10_000_000 if value < 400 else 400)  # both parts fit 32 bits
    return fraction.numerator, fraction.denominator


def _compressed(image: NDArray[Any], spacing_mm: tuple[float, float], compression: str) -> bytes:
    import tifffile

    vertical, horizontal, unit = _resolution(spacing_mm)
    file = BytesIO()
    tifffile.imwrite(
        file,
        image,
        photometric="minisblack",
        compression=compression,
        resolution=(horizontal, vertical),
        resolutionunit=unit,
        software=SOFTWARE,
        metadata=None,
        rowsperstrip=len(image),
    )
    return file.getvalue()
