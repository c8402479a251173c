"""Figures drawn on slices, as pixels, and a label volume made of them.

Coordinates are column and row of the slice as Supervisely shows it: column and row of an axial slice are x and y, of a
coronal one x and z, of a sagittal one y and z, on the RAS grid; both from 0.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.geometry import Grid, Plane, View
from voxtract.model import Header, Volume
from voxtract.read.supervisely.document import Node

if TYPE_CHECKING:
    from numpy.typing import NDArray

Points = tuple[tuple[float, float], ...]
Box = tuple[int, int, int, int]

_FARTHEST = 1 << 20  # no slice has so many pixels in a row; keeps a damaged coordinate from filling the memory
_PIXELS = 1 << 26  # of one bitmap; Pillow takes no more than 89 million for an image that is meant well
_PNG = b"\x89PNG\r\n\x1a\n"


class Drawing(Protocol):
    """Something drawn on a slice."""

    @property
    def box(self) -> Box:
        """First and last column and row that it may touch: left, top, right, bottom, inclusive."""

    def mask(self, window: Box) -> NDArray[np.bool_]:
        """(rows, columns) of a part of its box."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """All pixels from one corner to the other, both included."""

    box: Box

    def mask(self, window: Box) -> NDArray[np.bool_]:
        """(rows, columns) of a part of its box."""
        return np.ones(_size(window), bool)


@dataclass(frozen=True, slots=True)
class Polygon:
    """The pixels whose middles lie in a polygon or on its edge, but not those in a hole or on a hole's edge.

    A polygon through the corners of a rectangle has its pixels. Edges that cross fill even-odd.
    """

    exterior: Points
    holes: tuple[Points, ...] = ()

    @property
    def box(self) -> Box:
        """Left, top, right, bottom."""
        return _box_of(self.exterior)

    def mask(self, window: Box) -> NDArray[np.bool_]:
        """(rows, columns) of a part of its box."""
        mask = _filled(self.exterior, window)
        for hole in self.holes:
            mask &= ~_filled(hole, window)
        return mask


@dataclass(frozen=True, slots=True)
class Line:
    """The pixels along a line of straight pieces, one pixel wide; a single point is one pixel."""

    points: Points

    @property
    def box(self) -> Box:
        """Left, top, right, bottom."""
        return _box_of(self.points)

    def mask(self, window: Box) -> NDArray[np.bool_]:
        """(rows, columns) of a part of its box."""
        left, top, right, bottom = window
        mask = np.zeros(_size(window), bool)
        points = np.array(self.points)
        for begin, end in zip(points, [*points[1:], points[-1]], strict=True):
            steps = int(np.ceil(np.abs(end - begin).max())) + 1
            columns, rows = np.floor(np.linspace(begin, end, steps) + 0.5).astype(int).T
            inside = (columns >= left) & (columns <= right) & (rows >= top) & (rows <= bottom)
            mask[rows[inside] - top, columns[inside] - left] = True
        return mask


@dataclass(frozen=True, slots=True)
class Bitmap:
    """The pixels that are set in a PNG image.

    Parameters
    ----------
    data : str
        base64 of the zlib-compressed PNG.
    box : (left, top, right, bottom)
        Where it lies, from its origin and the size in the PNG's header.
    where : str
        For messages.
    """

    data: str = field(repr=False)
    box: Box
    where: str

    def mask(self, window: Box) -> NDArray[np.bool_]:
        """(rows, columns) of a part of its box.

        Raises
        ------
        DamagedFile
            No PNG.
        """
        left, top, _, _ = self.box
        return self._pixels()[window[1] - top : window[3] - top + 1, window[0] - left : window[2] - left + 1]

    def _pixels(self) -> NDArray[np.bool_]:
        """(rows, columns) of the box."""
        from PIL import Image

        height, width = _size(self.box)
        png = _inflated(self.data, 1 << 16 | 8 * height * width, self.where)
        try:
            with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
                if image.size != (width, height):
                    raise ValueError(f"it has {image.size} pixels, but began with {(width, height)}")
                if "transparency" in image.info or "A" in image.getbands():
                    seen: NDArray[Any] = np.asarray(image.convert("RGBA"))[..., 3:]
                elif image.mode in ("P", "RGB"):
                    seen = np.asarray(image.convert("RGB"))
                else:
                    seen = np.asarray(image)[..., None]
                pixels: NDArray[np.bool_] = (seen != 0).any(axis=2)
                return pixels
        except (OSError, ValueError, SyntaxError, zlib.error, struct.error) as fault:
            raise DamagedFile(f"{self.where}: the image is damaged ({fault}); export the project again") from fault


def drawing(figure: Node) -> Drawing | None:
    """Take the geometry of a figure on a slice; None where its type is none that is known here.

    Raises
    ------
    InvalidInput
        Numbers or images that cannot be.
    """
    geometry = figure.need("geometry")
    match figure.need("geometryType").text():
        case "rectangle":
            points = _points(geometry.need("points").need("exterior"), 2)
            if len(points) != 2:
                raise geometry.unlike("two corners")
            return Rectangle(_box_of(points))
        case "polygon":
            outlines = geometry.need("points")
            holes = tuple(_points(hole, 3) for hole in outlines.each("interior"))
            return Polygon(_points(outlines.need("exterior"), 3), holes)
        case "line" | "polyline":
            return Line(_points(geometry.need("points").need("exterior"), 2))
        case "point":
            return Line(_points(geometry.need("points").need("exterior"), 1)[:1])
        case "bitmap":
            bitmap = geometry.need("bitmap")
            left, top = bitmap.need("origin").numbers(2)
            return _bitmap(bitmap.need("data"), int(left), int(top))
    return None


@dataclass(frozen=True, slots=True)
class Drawn:
    """One figure: on which slice, as which label value."""

    index: int
    label: int
    drawing: Drawing


@dataclass(frozen=True, slots=True)
class DrawnFile:
    """A label volume painted from figures on the slices of one view; a `VolumeFile`.

    Parameters
    ----------
    path : Path
        Of the annotation.
    view : {"axial", "coronal", "sagittal"}
    grid : Grid
        Of the volume.
    figures : (Drawn, ...)
        Where they overlap the later one is on top; what lies outside of the slice is cut off.
    """

    path: Path
    view: View
    grid: Grid = field(compare=False)
    figures: tuple[Drawn, ...] = field(repr=False)

    @property
    def where(self) -> str:
        """The annotation and the view."""
        return f"{self.path}: {self.view} figures"

    @property
    def volume_index(self) -> None:
        """There are no frames."""

    @property
    def paths(self) -> Sequence[str]:
        """The annotation."""
        return (str(self.path),)

    def header(self) -> Header:
        """Shape, affine and dtype: the smallest unsigned integer that holds all label values."""
        return Header(self.grid, np.min_scalar_type(max(one.label for one in self.figures)), where=self.where)

    def read(self) -> Volume:
        """Paint the figures.

        Raises
        ------
        DamagedFile
            A bitmap that is none.
        """
        header = self.header()
        voxels = np.zeros(self.grid.shape, header.dtype, order="F")
        columns, rows, _ = Plane(self.view, self.grid.shape).axes
        for one in self.figures:
            left, top, right, bottom = one.drawing.box
            window = (
                max(left, 0),
                max(top, 0),
                min(right, self.grid.shape[columns] - 1),
                min(bottom, self.grid.shape[rows] - 1),
            )
            if min(_size(window)) < 1:
                continue
            where: list[Any] = [one.index] * 3
            where[columns] = slice(window[0], window[2] + 1)
            where[rows] = slice(window[1], window[3] + 1)
            voxels[tuple(where)].T[one.drawing.mask(window)] = one.label
        return Volume(header, voxels)

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Voxels in pieces (x, y, n <= planes) along z; raises as `read`."""
        voxels = self.read().data
        for first in range(0, voxels.shape[2], planes):
            yield voxels[:, :, first : first + planes]


def in_layers(figures: Sequence[tuple[int, int, str, Drawing]]) -> list[list[int]]:
    """Share figures out to as few layers as is easy, so that nothing is painted over.

    Parameters
    ----------
    figures : sequence of (slice, label, object, drawing)
        Those of one object may overlap. Boxes are compared, not pixels: no image is decoded.

    Returns
    -------
    positions in `figures` of each layer; in a layer a label belongs to one object
    """
    layers: list[list[int]] = []
    boxes: list[dict[int, list[tuple[str, Box]]]] = []
    owners: list[dict[int, str]] = []
    for position, (index, label, key, shape) in enumerate(figures):
        for number in range(len(layers) + 1):
            if number == len(layers):
                layers.append([])
                boxes.append({})
                owners.append({})
            there = boxes[number].setdefault(index, [])
            free = all(other == key or _apart(box, shape.box) for other, box in there)
            if free and owners[number].setdefault(label, key) == key:
                layers[number].append(position)
                there.append((key, shape.box))
                break
    return layers


def _apart(one: Box, other: Box) -> bool:
    return one[0] > other[2] or other[0] > one[2] or one[1] > other[3] or other[1] > one[3]


def _points(node: Node, least: int) -> Points:
    points = tuple((pair[0], pair[1]) for pair in (entry.numbers(2) for entry in node.entries()))
    if len(points) < least:
        raise node.unlike(f"at least {least} points")
    if any(abs(value) > _FARTHEST for point in points for value in point):
        raise node.unlike(f"coordinates of a slice, up to {_FARTHEST}")
    return points


def _box_of(points: Points) -> Box:
    array = np.floor(np.array(points) + 0.5).astype(int)
    left, top = array.min(axis=0).tolist()
    right, bottom = array.max(axis=0).tolist()
    return left, top, right, bottom


def _size(box: Box) -> tuple[int, int]:
    """(rows, columns)."""
    return box[3] - box[1] + 1, box[2] - box[0] + 1


def _filled(points: Points, box: Box) -> NDArray[np.bool_]:
    """Pixels of `box` whose middles are inside of a closed polygon or on its edge: (rows, columns)."""
    left, top, _, bottom = box
    height, width = _size(box)
    crossings = np.zeros((height, width + 1), np.int32)
    edge = np.zeros((height, width), bool)
    ends = np.array(points)
    for (x0, y0), (x1, y1) in zip(ends, np.roll(ends, -1, axis=0), strict=True):
        rows = np.arange(max(top, np.ceil(min(y0, y1))), min(bottom, np.floor(max(y0, y1))) + 1)
        if y0 == y1:
            first, last = np.ceil(min(x0, x1)), np.floor(max(x0, x1))
            if len(rows):
                edge[int(y0) - top, max(int(first) - left, 0) : max(int(last) - left + 1, 0)] = True
            continue
        x = x0 + (rows - y0) * (x1 - x0) / (y1 - y0)
        at, row = np.floor(x).astype(int) - left, rows.astype(int) - top
        exact = (x == np.floor(x)) & (at >= 0) & (at < width)
        edge[row[exact], at[exact]] = True
        crosses = rows < max(y0, y1)  # the lower end belongs to the next edge
        np.add.at(crossings, (row[crosses], np.clip(at[crosses] + 1, 0, width)), 1)
    inside: NDArray[np.bool_] = np.cumsum(crossings[:, :width], axis=1) % 2 == 1
    return edge | inside


def _bitmap(data: Node, left: int, top: int) -> Bitmap:
    head = _inflated(data.text()[:200], 33, data.where, whole=False)
    if head[:8] != _PNG or len(head) < 24:
        raise DamagedFile(f"{data.where}: holds no PNG image; export the project again")
    width, height = struct.unpack(">II", head[16:24])
    if not 1 <= width * height <= _PIXELS or max(abs(left), abs(top)) > _FARTHEST:
        raise InvalidInput(f"{data.where}: an image of {width} x {height} pixels at {left}, {top} fits no slice")
    return Bitmap(data.text(), (left, top, left + width - 1, top + height - 1), data.where)


def _inflated(data: str, limit: int, where: str, whole: bool = True) -> bytes:
    """Decode base64 and zlib; `whole` is False for the first characters of a longer text."""
    try:
        stream = zlib.decompressobj()
        found = stream.decompress(base64.b64decode(data[: len(data) // 4 * 4], validate=True), limit)
    except (binascii.Error, zlib.error, ValueError) as fault:
        raise DamagedFile(f"{where}: is not base64 of compressed data ({fault}); export the project again") from fault
    if whole and not stream.eof:
        raise DamagedFile(f"{where}: the compressed data are cut short or too long; export the project again")
    return found
