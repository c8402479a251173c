"""Masks as Labelbox serves them: PNG files of three kinds, into bool arrays of the size that was expected.

An instance mask is grey or colour, object where any of red, green and blue, and alpha if there is one, is not zero.
A composite mask holds all instances of a label in colour, and one of them is the pixels of exactly its colour.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.read.labelbox.fetch import PNG

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

_COLOR_TYPES = {0: "grey", 2: "colour", 3: "palette", 4: "grey with alpha", 6: "colour with alpha"}
# What Pillow raises over damaged bytes.
_STUMBLES = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def declared_size(png: bytes, where: str, pixels_most: int) -> tuple[int, int]:
    """Read (height, width) from the header of a PNG, before anything is decoded.

    Raises
    ------
    DamagedFile
        No PNG, cut short within the header, or no pixels.
    InvalidInput
        More than `pixels_most` pixels, or 16 bits for each of several channels, which would lose their lower half.
    """
    if not png.startswith(PNG):
        raise DamagedFile(f"{where}: is no PNG; fetch or export it again")
    if len(png) < 33 or png[12:16] != b"IHDR":
        raise DamagedFile(f"{where}: the PNG is cut short; fetch or export it again")
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    if width == 0 or height == 0 or kind not in _COLOR_TYPES:
        raise DamagedFile(
            f"{where}: the header of the PNG is damaged ({width} x {height}, type {kind}); fetch it again"
        )
    if width * height > pixels_most:
        raise InvalidInput(
            f"{where}: declares {width} x {height} pixels (width x height), at most {pixels_most:,} are decoded; "
            "raise Limits(pixels_most=...) if that is right"
        )
    if depth == 16 and kind != 0:
        raise InvalidInput(f"{where}: has 16 bits for each channel of {_COLOR_TYPES[kind]}, expected 8; save it with 8")
    return height, width


def decode_instance(png: bytes, where: str) -> tuple[NDArray[np.bool_], bool]:
    """Decode a mask of one instance, whose header has been checked with `declared_size`.

    Returns
    -------
    (height, width) bool array, and whether its pixels have one value only

    Raises
    ------
    DamagedFile
        Cut short, wrong checksum, or otherwise not to be decoded.
    """
    with _opened(png, where) as image:
        if image.mode.startswith("I"):  # 16 bits
            values = np.asarray(image)
            inside = values > 0
            clear = image.info.get("transparency")
            if isinstance(clear, int):
                inside &= values != clear
            return inside, _is_uniform(values[inside])
        if image.mode in ("1", "L") and "transparency" not in image.info:
            values = np.asarray(image)
            inside = values > 0
            return inside, _is_uniform(values[inside])
        pixels = np.asarray(image.convert("RGBA"))
    inside = pixels[..., :3].any(axis=2) & (pixels[..., 3] > 0)
    colors = pixels[..., 0].astype(np.uint32) << 16 | pixels[..., 1].astype(np.uint32) << 8 | pixels[..., 2]
    return inside, _is_uniform(colors[inside])


def decode_composite(png: bytes, where: str) -> NDArray[np.uint8]:
    """Decode a composite mask into (height, width, 3) uint8 colours; alpha plays no part.

    Raises
    ------
    DamagedFile
        As `decode_instance`.
    InvalidInput
        16 bits grey, which has no colours.
    """
    with _opened(png, where) as image:
        if image.mode.startswith("I"):
            raise InvalidInput(f"{where}: is grey with 16 bits, but a composite mask has colours; export it again")
        pixels: NDArray[np.uint8] = np.asarray(image.convert("RGBA"))[..., :3]
        return pixels


def _opened(png: bytes, where: str) -> Image.Image:
    from PIL import Image

    try:
        image: Image.Image = Image.open(io.BytesIO(png), formats=["PNG"])
        image.load()
    except _STUMBLES as why:
        raise DamagedFile(f"{where}: the PNG is damaged ({why}); fetch or export it again") from why
    return image


def _is_uniform(values: NDArray[Any]) -> bool:
    return values.size == 0 or bool(values.min() == values.max())
