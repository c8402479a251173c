"""Contact sheet: a grid of slices with the boxes drawn over them, to see at a glance whether they sit right.

Slices are shown as they are written, rows down and columns to the right, not turned to a radiologist's habit: what
is at ``image[Y, X]`` of the file is at (X, Y) of the tile. Only the size changes, so that millimetres are the same
both ways.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voxtract.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image, ImageDraw, ImageFont

    Colour = tuple[int, ...]
    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Distinct on grey, and to people who confuse red and green: they differ in lightness too.
_PALETTE = ("#ffb000", "#22c7ff", "#ff5470", "#7ee787", "#c792ff", "#fff275", "#ff9ad5", "#3ddbb8")
_PAPER, _MOUNT, _INK, _FAINT = "#101216", "#000000", "#e9ecf1", "#8b93a1"
_MARGIN, _GAP, _LINE = 28, 18, 2  # pixels: around the sheet, between tiles, width of a box
_FOOTER = "Slices as written to file: Y down, X to the right, not rotated; pixel [Y, X] is the voxel of the table."


@dataclass(frozen=True, eq=False, slots=True)
class Tile:
    """One slice and what is drawn over it.

    Parameters
    ----------
    image : (H, W) array of integers or floats
    boxes : (n, 4) integer array
        X_MIN, Y_MIN, X_MAX, Y_MAX of each box in pixels of `image`, inclusive.
    labels : (n,) integer array
        Picks the colour of each box.
    caption : str
        One line above the slice.
    spacing_mm : (row, column)
        Distance of neighbouring pixels.
    window : (low, high), optional
        Values shown black and white. Without it: the 1st and the 99.5th percentile of the finite pixels.

    Raises
    ------
    InvalidInput
        An image that is not 2D, or boxes that do not fit it or their labels, or an empty window.
    """

    image: NDArray[np.integer | np.floating]
    boxes: NDArray[np.integer]
    labels: NDArray[np.integer]
    caption: str
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or not self.image.size:
            raise InvalidInput(f"{self.caption}: a tile of shape {self.image.shape}; a tile is one 2D slice")
        if self.boxes.shape != (len(self.labels), 4):
            raise InvalidInput(
                f"{self.caption}: boxes of shape {self.boxes.shape} and {len(self.labels)} labels; "
                f"give one (X_MIN, Y_MIN, X_MAX, Y_MAX) for each label"
            )
        height, width = self.image.shape
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        wrong = ((low < 0) | (high < low) | (high >= (width, height))).any(axis=1)
        if wrong.any():
            raise InvalidInput(
                f"{self.caption}: box {self.boxes[wrong][0].tolist()} is not within the slice of {height} rows and "
                f"{width} columns; give inclusive X_MIN, Y_MIN, X_MAX, Y_MAX of this slice"
            )
        if self.window and not self.window[0] < self.window[1]:
            raise InvalidInput(f"{self.caption}: window {self.window}; give (low, high) with low < high")


def contact_sheet(
    tiles: Sequence[Tile],
    *,
    columns: int = 4,
    tile_px: int = 320,
    title: str = "",
    legend: Mapping[int, str] | None = None,
) -> Image.Image:
    """Draw `tiles` row by row.

    Each slice is scaled so that it keeps its physical aspect and its longer side is `tile_px`. A box is a line just
    outside of the pixels that it holds, so that it never hides what it marks. Labels get their colours in ascending
    order, the same on the whole sheet.

    Parameters
    ----------
    tiles : sequence of Tile
        At least one.
    columns : int
        Tiles beside each other.
    tile_px : int
        Longer side of each slice on the sheet, in pixels.
    title : str
        Line above all tiles.
    legend : mapping of label to name, optional
        Names shown beside their colours under the title.

    Returns
    -------
    PIL.Image.Image, mode ``"RGB"``

    Raises
    ------
    InvalidInput
        No tile, or `columns` or `tile_px` below 1.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not tiles or columns < 1 or tile_px < 1:
        raise InvalidInput(
            f"contact sheet of {len(tiles)} tiles in {columns} columns of {tile_px} pixels; each must be at least 1"
        )
    legend = legend or {}
    columns = min(columns, len(tiles))
    colours = _colours({*legend, *(int(label) for tile in tiles for label in tile.labels)})
    slices = [_scaled(tile, tile_px) for tile in tiles]
    rows = [range(at, min(at + columns, len(tiles))) for at in range(0, len(tiles), columns)]
    heights = [max(slices[i].height for i in row) for row in rows]
    text = max(11, tile_px // 22)
    small, large = ImageFont.load_default(text), ImageFont.load_default(text * 1.7)
    head = (int(text * 2.6) if title else 0) + (int(text * 2.2) if legend else 0)
    caption = int(text * 1.7)
    width = 2 * _MARGIN + columns * tile_px + (columns - 1) * _GAP
    height = 2 * _MARGIN + head + sum(h + caption + _GAP for h in heights) + text
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN, _MARGIN), title, _INK, large, anchor="lt")
    _draw_legend(draw, _MARGIN + head - int(text * 1.9), legend, colours, small, text)
    top = _MARGIN + head
    for row, row_height in zip(rows, heights, strict=True):
        for place, index in enumerate(row):
            left = _MARGIN + place * (tile_px + _GAP)
            draw.text((left, top + caption // 2), _fitting(tiles[index].caption, small, tile_px), _INK, small, "lm")
            mount = (left, top + caption, left + tile_px - 1, top + caption + row_height - 1)
            draw.rectangle(mount, _MOUNT)
            corner = left + (tile_px - slices[index].width) // 2, mount[1] + (row_height - slices[index].height) // 2
            sheet.paste(slices[index], corner)
            _draw_boxes(draw, tiles[index], slices[index].size, corner, colours)
        top += row_height + caption + _GAP
    draw.text((_MARGIN, top), _FOOTER, _FAINT, small, anchor="lt")
    return sheet


def png(sheet: Image.Image) -> bytes:
    """Encode a sheet as the bytes of a PNG file."""
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _colours(labels: set[int]) -> dict[int, Colour]:
    from PIL import ImageColor

    return {label: ImageColor.getrgb(_PALETTE[rank % len(_PALETTE)]) for rank, label in enumerate(sorted(labels))}


def _scaled(tile: Tile, tile_px: int) -> Image.Image:
    """Window to 8 bit grey, then scale to the physical aspect with the longer side at `tile_px`."""
    from PIL import Image

    low, high = tile.window or _robust_window(tile.image)
    grey = np.nan_to_num((tile.image.astype(np.float64) - low) / max(high - low, 1e-9), nan=0.0)
    size_mm = np.array(tile.image.shape) * tile.spacing_mm
    height, width = np.maximum(np.rint(size_mm / size_mm.max() * tile_px), 1).astype(int).tolist()
    image = Image.fromarray(np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8))
    return image.resize((width, height), Image.Resampling.BICUBIC).convert("RGB")


def _robust_window(image: NDArray[np.integer | np.floating]) -> tuple[float, float]:
    finite = image[np.isfinite(image)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, [1, 99.5]).tolist()
    return low, high


def _draw_boxes(
    draw: ImageDraw.ImageDraw, tile: Tile, size: tuple[int, int], corner: tuple[int, int], colours: dict[int, Colour]
) -> None:
    """Draw lines around the area from X_MIN to X_MAX + 1 and from Y_MIN to Y_MAX + 1, times the scale."""
    height, width = tile.image.shape
    scale = np.array([size[0] / width, size[1] / height])
    start = np.rint(tile.boxes[:, :2] * scale).astype(int) + corner
    stop = np.rint((tile.boxes[:, 2:] + 1) * scale).astype(int) + corner
    for (left, top), (right, bottom), label in zip(start.tolist(), stop.tolist(), tile.labels.tolist(), strict=True):
        outside = (left - _LINE, top - _LINE, right - 1 + _LINE, bottom - 1 + _LINE)
        draw.rectangle(outside, outline=colours[label], width=_LINE)


def _draw_legend(
    draw: ImageDraw.ImageDraw, top: int, legend: Mapping[int, str], colours: dict[int, Colour], font: Font, text: int
) -> None:
    left, side = _MARGIN, int(text * 0.9)
    for label, name in sorted(legend.items()):
        draw.rectangle((left, top, left + side, top + side), outline=colours[label], width=_LINE + 1)
        draw.text((left + side * 1.7, top + side / 2), name, _INK, font, anchor="lm")
        left += int(side * 1.7 + draw.textlength(name, font) + 2.4 * text)


def _fitting(text: str, font: Font, width: int) -> str:
    """Return `text`, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
