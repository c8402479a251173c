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

from voxtract.classes import PALETTE
from voxtract.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image, ImageDraw, ImageFont

    from voxtract.classes import ClassMap

    Colour = tuple[int, ...]
    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
    Rectangle = tuple[int, int, int, int]  # left, top, right, bottom on the sheet; the last two are outside

_PAPER, _MOUNT, _INK, _FAINT = "#101216", "#000000", "#e9ecf1", "#8b93a1"
_MARGIN, _GAP, _LINE = 28, 18, 2  # pixels: around the sheet, between tiles, width of a box
_MOST_NAMES = 40  # boxes on a tile; where there are more, names would hide the slice
_MOST_LINES = 4  # of the legend
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
        Label or class of each box; picks its colour.
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
    classes: ClassMap | None = None,
) -> Image.Image:
    """Draw `tiles` row by row.

    Each slice is scaled so that it keeps its physical aspect and its longer side is `tile_px`. A box is a line just
    outside of the pixels that it holds, so that it never hides what it marks. Labels get their colours in ascending
    order, the same on the whole sheet, unless `classes` has others.

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
    classes : ClassMap, optional
        Colours, names beside the boxes where there is room for them, and a legend of the classes that occur.
        The labels of the tiles are ids of its categories.

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
    labels = {int(label) for tile in tiles for label in tile.labels}
    names = {} if classes is None else {c.id: c.name for c in classes.categories if c.id in labels}
    legend = {**names, **(legend or {})}
    columns = min(columns, len(tiles))
    colours = _colours({*legend, *labels}, classes)
    slices = [_scaled(tile, tile_px) for tile in tiles]
    rows = [range(at, min(at + columns, len(tiles))) for at in range(0, len(tiles), columns)]
    heights = [max(slices[i].height for i in row) for row in rows]
    text = max(11, tile_px // 22)
    small, large = ImageFont.load_default(text), ImageFont.load_default(text * 1.7)
    caption = int(text * 1.7)
    width = 2 * _MARGIN + columns * tile_px + (columns - 1) * _GAP
    lines = _legend_lines(legend, small, text, width - 2 * _MARGIN)
    head = (int(text * 2.6) if title else 0) + int(text * 2.2) * bool(lines) + caption * max(0, len(lines) - 1)
    height = 2 * _MARGIN + head + sum(h + caption + _GAP for h in heights) + text
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN, _MARGIN), _fitting(title, large, width - 2 * _MARGIN), _INK, large, anchor="lt")
    top = _MARGIN + head
    for above, line in zip(range(len(lines) - 1, -1, -1), lines, strict=True):
        _draw_legend(draw, top - int(text * 1.9) - above * caption, line, colours, small, text)
    for row, row_height in zip(rows, heights, strict=True):
        for place, index in enumerate(row):
            left = _MARGIN + place * (tile_px + _GAP)
            draw.text((left, top + caption // 2), _fitting(tiles[index].caption, small, tile_px), _INK, small, "lm")
            mount = (left, top + caption, left + tile_px - 1, top + caption + row_height - 1)
            draw.rectangle(mount, _MOUNT)
            corner = left + (tile_px - slices[index].width) // 2, mount[1] + (row_height - slices[index].height) // 2
            sheet.paste(slices[index], corner)
            boxes = _draw_boxes(draw, tiles[index], slices[index].size, corner, colours)
            _draw_names(draw, [names.get(int(n), "") for n in tiles[index].labels], boxes, mount, tile_px)
        top += row_height + caption + _GAP
    draw.text((_MARGIN, top), _FOOTER, _FAINT, small, anchor="lt")
    return sheet


def png(sheet: Image.Image) -> bytes:
    """Encode a sheet as the bytes of a PNG file."""
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _colours(labels: set[int], classes: ClassMap | None) -> dict[int, Colour]:
    from PIL import ImageColor

    words = {label: PALETTE[rank % len(PALETTE)] for rank, label in enumerate(sorted(labels))}
    if classes is not None:
        words |= {category.id: category.color for category in classes.categories}
    return {label: ImageColor.getrgb(word) for label, word in words.items()}


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
) -> list[tuple[Rectangle, Colour]]:
    """Draw lines around the area from X_MIN to X_MAX + 1 and from Y_MIN to Y_MAX + 1, times the scale."""
    height, width = tile.image.shape
    scale = np.array([size[0] / width, size[1] / height])
    start = np.rint(tile.boxes[:, :2] * scale).astype(int) + corner
    stop = np.rint((tile.boxes[:, 2:] + 1) * scale).astype(int) + corner
    drawn: list[tuple[Rectangle, Colour]] = []
    for (left, top), (right, bottom), label in zip(start.tolist(), stop.tolist(), tile.labels.tolist(), strict=True):
        outside = (left - _LINE, top - _LINE, right + _LINE, bottom + _LINE)
        draw.rectangle((*outside[:2], outside[2] - 1, outside[3] - 1), outline=colours[label], width=_LINE)
        drawn.append((outside, colours[label]))
    return drawn


def _draw_names(
    draw: ImageDraw.ImageDraw,
    names: Sequence[str],
    boxes: Sequence[tuple[Rectangle, Colour]],
    mount: tuple[int, int, int, int],
    tile_px: int,
) -> None:
    """Write each name beside its box, where it stays on the tile and covers no box and no other name."""
    from PIL import ImageFont

    if len(boxes) > _MOST_NAMES:
        return
    font = ImageFont.load_default(max(9, tile_px // 28))
    taken = [box for box, _ in boxes]
    for name, (box, colour) in zip(names, boxes, strict=True):
        left, top, right, bottom = map(int, draw.textbbox((0, 0), name, font, "lt"))
        width, height = right - left + 5, bottom - top + 4
        for x, y in (
            (box[0], box[1] - height),
            (box[0], box[3]),
            (box[2] - width, box[1] - height),
            (box[2] - width, box[3]),
            (box[2], box[1]),
            (box[0] - width, box[1]),
        ):
            plate = (x, y, x + width, y + height)
            inside = mount[0] <= x and mount[1] <= y and plate[2] <= mount[2] and plate[3] <= mount[3]
            if name and inside and not any(_overlap(plate, other) for other in taken):
                draw.rectangle((x, y, plate[2] - 1, plate[3] - 1), colour)
                draw.text((x - left + 2, y - top + 2), name, _readable_on(colour), font, "lt")
                taken.append(plate)
                break


def _readable_on(colour: Colour) -> str:
    """Dark or light, whichever is easier to read on `colour`."""
    red, green, blue = colour[:3]
    return _PAPER if 0.3 * red + 0.59 * green + 0.11 * blue > 110 else _INK


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _legend_lines(legend: Mapping[int, str], font: Font, text: int, width: int) -> list[dict[int, str]]:
    """Entries of the legend, as many in each line as fit `width`; colours repeat, so there are few lines."""
    lines: list[dict[int, str]] = []
    room = 0.0
    for label, name in sorted(legend.items()):
        need = _entry_width(name, font, text)
        if not lines or room < need:
            if len(lines) == _MOST_LINES:
                break
            lines.append({})
            room = width
        lines[-1][label] = name
        room -= need
    return lines


def _entry_width(name: str, font: Font, text: int) -> int:
    return int(int(text * 0.9) * 1.7 + font.getlength(name) + 2.4 * text)


def _draw_legend(
    draw: ImageDraw.ImageDraw, top: int, legend: Mapping[int, str], colours: dict[int, Colour], font: Font, text: int
) -> None:
    left, side = _MARGIN, int(text * 0.9)
    for label, name in legend.items():
        draw.rectangle((left, top, left + side, top + side), outline=colours[label], width=_LINE + 1)
        draw.text((left + side * 1.7, top + side / 2), name, _INK, font, anchor="lm")
        left += _entry_width(name, font, text)


def _fitting(text: str, font: Font, width: int) -> str:
    """Return `text`, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
