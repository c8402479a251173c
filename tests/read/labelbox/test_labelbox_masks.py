"""PNG files of every kind into masks, and every way a mask can be wrong."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from tests.read.labelbox.exports import png
from voxtract.errors import DamagedFile, InvalidInput
from voxtract.read.labelbox.masks import declared_size, decode_composite, decode_instance

MASK = np.array([[0, 1, 0], [1, 1, 0]], bool)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width: int, height: int, depth: int, color: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG made by hand from its unfiltered rows."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def palette() -> bytes:
    image = Image.new("P", (3, 2))
    image.putdata((MASK.astype(int) * 2).ravel().tolist())
    image.putpalette([0, 0, 0, 9, 9, 9, 0, 200, 0])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def grey_bits(depth: int, value: int) -> bytes:
    """A grey PNG with 1, 2 or 4 bits for each pixel."""
    rows = b""
    for row in MASK:
        number = 0
        for set_ in row:
            number = number << depth | (value if set_ else 0)
        number <<= 8 - depth * 3 % 8 if depth * 3 % 8 else 0
        rows += b"\0" + number.to_bytes((depth * 3 + 7) // 8, "big")
    return raw_png(3, 2, depth, 0, rows)


COLOR = np.where(MASK[..., None], [0, 0, 7], 0).astype(np.uint8)
WITH_ALPHA = np.dstack([np.where(MASK[..., None], [255, 0, 0], 9), np.where(MASK, 3, 0)]).astype(np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        png(MASK.astype(np.uint8) * 255),
        png(MASK.astype(np.uint8)),
        png(MASK),
        png(MASK.astype(np.uint16)),
        png(MASK.astype(np.uint16) * 256),
        png(COLOR),
        png(WITH_ALPHA),
        palette(),
        grey_bits(1, 1),
        grey_bits(2, 1),
        grey_bits(4, 1),
        png(np.dstack([MASK * 255, MASK * 255]).astype(np.uint8)),
        raw_png(3, 2, 8, 0, b"\0\5\1\5\0\1\1\5", chunk(b"tRNS", struct.pack(">H", 5))),  # grey 5 is clear
        raw_png(3, 2, 16, 0, b"\0\0\5\0\1\0\5\0\0\1\0\1\0\5", chunk(b"tRNS", struct.pack(">H", 5))),
    ],
    ids=[
        "255",
        "1",
        "1-bit",
        "16-bit",
        "16-bit low byte 0",
        "colour",
        "alpha",
        "palette",
        "grey1",
        "grey2",
        "grey4",
        "grey+alpha",
        "clear grey",
        "clear 16-bit",
    ],
)
def test_every_kind_of_png_gives_the_mask(content: bytes) -> None:
    assert declared_size(content, "m", 100) == (2, 3)
    mask, uniform = decode_instance(content, "m")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, MASK)
    assert uniform


@pytest.mark.parametrize(
    "content",
    [
        png(np.array([[0, 1, 2]], np.uint8)),
        png(np.array([[0, 1, 2]], np.uint16)),
        png(np.array([[[1, 0, 0], [0, 1, 0]]], np.uint8)),
    ],
)
def test_several_values_are_noticed(content: bytes) -> None:
    mask, uniform = decode_instance(content, "m")
    assert mask.any()
    assert not uniform


@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from([3, 4])),
        elements=st.sampled_from([0, 1, 255]),
    )
)
def test_composites_keep_their_exact_colours_whatever_alpha_is(pixels: Any) -> None:
    content = png(pixels)
    found = decode_composite(content, "m")
    np.testing.assert_array_equal(found, pixels[..., :3])
    mask, _ = decode_instance(content, "m")
    alpha = pixels[..., 3] > 0 if pixels.shape[2] == 4 else True
    np.testing.assert_array_equal(mask, (pixels[..., :3] > 0).any(axis=2) & alpha)


def test_a_composite_palette_has_its_colours() -> None:
    found = decode_composite(palette(), "m")
    np.testing.assert_array_equal(found, np.where(MASK[..., None], [0, 200, 0], 0))


def test_a_composite_without_colours_is_refused() -> None:
    with pytest.raises(InvalidInput, match="16 bits"):
        decode_composite(png(MASK.astype(np.uint16)), "m")


WHOLE = png((np.arange(64 * 64) % 251).astype(np.uint8).reshape(64, 64))


@pytest.mark.parametrize(
    "content",
    [
        WHOLE[:200],
        WHOLE[:-30],
        WHOLE[:60] + bytes([WHOLE[60] ^ 255]) + WHOLE[61:],
        raw_png(3, 2, 8, 0, b"\0\1"),
        raw_png(3, 2, 7, 0, b"\0\1\1\1\0\1\1\1"),
    ],
)
def test_damaged_files_are_never_masks(content: bytes) -> None:
    for decode in (decode_instance, decode_composite):
        with pytest.raises(DamagedFile, match=r"^where: "):
            _ = declared_size(content, "where", 10**6), decode(content, "where")


@pytest.mark.parametrize(
    "content", [b"", b"<html>", WHOLE[:8], WHOLE[:20], b"GIF89a" + bytes(50), raw_png(0, 2, 8, 0, b"")]
)
def test_what_is_no_png_is_refused_before_it_is_decoded(content: bytes) -> None:
    with pytest.raises(DamagedFile):
        declared_size(content, "m", 10**6)


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = raw_png(60_000, 60_000, 1, 0, b"\0")
    assert len(bomb) < 200
    with pytest.raises(InvalidInput, match="60000 x 60000"):
        declared_size(bomb, "m", 1 << 26)


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colour_with_16_bits_is_refused_rather_than_halved(color: int, channels: int) -> None:
    with pytest.raises(InvalidInput, match="16 bits"):
        declared_size(raw_png(1, 1, 16, color, b"\0" + b"\0\1" * channels), "m", 100)
