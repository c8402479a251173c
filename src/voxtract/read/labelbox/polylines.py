"""Lines drawn on slices: how long, where, and which pixels.

A line touches every pixel in which it has a length, and the pixels of its points, where pixel c holds the coordinates
c <= x < c + 1. So the box of these pixels is exactly that of the pixels of the points.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from voxtract.read.labelbox.planes import GroupPlane
from voxtract.read.labelbox.values import Polyline

if TYPE_CHECKING:
    from numpy.typing import NDArray

RASTER = "touched pixels"  # the rule, for outputs
SHORTEST = 1e-9  # pixels: a line through a corner of a pixel has no length there, but its floats may

Closed = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of one line on one frame; x to the right and y down in pixels of the picture, as drawn.

    Parameters
    ----------
    box : (x_min, y_min, x_max, y_max)
        Of the points, exact.
    pixel_box : (x_min, y_min, x_max, y_max)
        First and last pixels that hold points, inclusive.
    length_px, length_mm : float
        Closed lines include the way back to the first point.
    center : (x, y)
        Middle of `box`.
    centroid : (x, y)
        Mean along the line; the mean of the points where it has no length.
    closed : bool
    """

    box: tuple[float, float, float, float]
    pixel_box: tuple[int, int, int, int]
    length_px: float
    length_mm: float
    center: tuple[float, float]
    centroid: tuple[float, float]
    closed: bool


def is_closed(line: Polyline, closed: Closed) -> bool:
    """Whether a line counts as closed."""
    return line.is_closed if closed == "auto" else closed == "always"


def path(line: Polyline, closed: Closed) -> NDArray[np.float64]:
    """Points (n, 2) of a line, with the first one again at the end where it is closed and does not end there."""
    if is_closed(line, closed) and not line.is_closed:
        return np.concatenate([line.points, line.points[:1]])
    return line.points


def measure(line: Polyline, plane: GroupPlane, closed: Closed = "auto") -> Measured:
    """Measure a line.

    Parameters
    ----------
    line : Polyline
    plane : GroupPlane
        Gives the size of pixels, which may differ along x and y, and what a whole coordinate means.
    closed : {"auto", "always", "never"}

    Examples
    --------
    >>> from voxtract.geometry import Grid
    >>> from voxtract.read.labelbox.planes import Options
    >>> from voxtract.read.labelbox.values import polyline
    >>> plane = GroupPlane.of("axial", Grid((9, 9, 1), np.diag([-2.0, -1.0, 1.0, 1.0])), Options(), base=1)
    >>> found = measure(polyline([(1, 1), (4, 5)]), plane)
    >>> found.length_px, round(found.length_mm, 3), found.pixel_box, found.center
    (5.0, 7.211, (1, 1, 4, 5), (2.5, 3.0))
    """
    points = path(line, closed)
    low, high = points.min(axis=0), points.max(axis=0)
    steps = np.diff(points, axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    total = float(lengths.sum())
    middles = (points[1:] + points[:-1]) / 2
    centroid = (middles * lengths[:, None]).sum(axis=0) / total if total > 0 else points.mean(axis=0)
    first, last = np.floor(low + plane.origin), np.floor(high + plane.origin)
    mm = steps * np.array(plane.pixel_mm)
    return Measured(
        (float(low[0]), float(low[1]), float(high[0]), float(high[1])),
        (int(first[0]), int(first[1]), int(last[0]), int(last[1])),
        total,
        float(np.hypot(mm[:, 0], mm[:, 1]).sum()),
        (float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2),
        (float(centroid[0]), float(centroid[1])),
        is_closed(line, closed),
    )


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """Pixels of an object on one slice: `mask` is cut to its box, whose first one is (row, column) of the picture."""

    index: int
    row: int
    column: int
    mask: NDArray[np.bool_]

    def overlaps(self, other: Piece) -> bool:
        """Whether a pixel is in both."""
        if self.index != other.index:
            return False
        top, left = max(self.row, other.row), max(self.column, other.column)
        bottom = min(self.row + self.mask.shape[0], other.row + other.mask.shape[0])
        right = min(self.column + self.mask.shape[1], other.column + other.mask.shape[1])
        if top >= bottom or left >= right:
            return False
        mine = self.mask[top - self.row : bottom - self.row, left - self.column : right - self.column]
        its = other.mask[top - other.row : bottom - other.row, left - other.column : right - other.column]
        return bool((mine & its).any())


def cut(index: int, mask: NDArray[np.bool_]) -> Piece | None:
    """Cut a mask of a slice to its box; None if nothing is set."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    return Piece(index, top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1].copy())


def painted(line: Polyline, plane: GroupPlane, index: int, closed: Closed, area: bool) -> Piece | None:
    """Pixels of a line on a slice; what lies outside of the picture is cut off.

    Parameters
    ----------
    line : Polyline
    plane : GroupPlane
    index : int
        Of the slice.
    closed : {"auto", "always", "never"}
    area : bool
        Of closed lines also the pixels whose centre is enclosed, by the even-odd rule.

    Returns
    -------
    Piece or None
        None where all of it lies outside.
    """
    corners = plane.corners(path(line, closed))
    height, width = plane.native_size
    mask = np.zeros((height, width), bool)
    columns, rows = touched(corners, (height, width)).T
    mask[rows, columns] = True
    if area and is_closed(line, closed):
        mask |= enclosed(corners, (height, width))
    return cut(index, mask)


def touched(corners: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Pixels (m, 2) as column, row that a path touches within (height, width); some may come twice.

    Parameters
    ----------
    corners : (n, 2) float64
        Points x, y, where pixel c covers [c, c + 1).
    size : (height, width)

    Examples
    --------
    >>> touched(np.array([[0.5, 0.5], [2.5, 0.5]]), (4, 4)).tolist()
    [[0, 0], [2, 0], [0, 0], [1, 0], [2, 0]]
    """
    found = [np.floor(_inside(corners, size))]
    limit = np.array([size[1], size[0]], np.float64)
    for start, end in itertools.pairwise(corners):
        kept = _clipped(start, end, limit)
        if kept is not None:
            found.append(_crossed(*kept))
    pixels: NDArray[np.int64] = np.concatenate(found).astype(np.int64)
    return pixels[((pixels >= 0) & (pixels < limit)).all(axis=1)]


def _inside(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Points within the picture: others may not even fit an integer."""
    return points[((points >= 0) & (points < np.array([size[1], size[0]]))).all(axis=1)]


def _clipped(
    start: NDArray[np.float64], end: NDArray[np.float64], limit: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The part of a segment within one pixel around the picture; untouched if it lies within (Liang and Barsky)."""
    low, high = np.minimum(start, end), np.maximum(start, end)
    if (high < 0).any() or (low > limit).any():
        return None
    if (low >= -1).all() and (high <= limit + 1).all():
        return start, end
    first, last = 0.0, 1.0
    step = end - start
    for axis in (0, 1):
        if step[axis] == 0:
            continue
        a, b = sorted(((-1 - start[axis]) / step[axis], (limit[axis] + 1 - start[axis]) / step[axis]))
        first, last = max(first, a), min(last, b)
    return (start + first * step, start + last * step) if first < last else None


def _crossed(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels of one segment: cut where it meets the lines between pixels, the middle of each part lies in its pixel."""
    step = end - start
    at = [np.array([0.0, 1.0])]
    for axis in (0, 1):
        if step[axis] != 0:
            lines = np.arange(np.ceil(min(start[axis], end[axis])), np.floor(max(start[axis], end[axis])) + 1)
            at.append((lines - start[axis]) / step[axis])
    cuts = np.unique(np.clip(np.concatenate(at), 0.0, 1.0))
    long = np.diff(cuts) * np.hypot(*step) > SHORTEST  # the others are rounding errors, at corners of pixels
    middles = ((cuts[1:] + cuts[:-1]) / 2)[long]
    pixels = np.floor(start + middles[:, None] * step)
    # A rounding error may not lead out of the box of the two points.
    inside: NDArray[np.float64] = np.clip(pixels, np.floor(np.minimum(start, end)), np.floor(np.maximum(start, end)))
    return inside


def enclosed(corners: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (height, width) whose centre a closed path encloses, by the even-odd rule."""
    height, width = size
    changes = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(corners[:-1].tolist(), corners[1:].tolist(), strict=True):
        if y0 == y1:
            continue
        (top, bottom) = (y0, y1) if y0 < y1 else (y1, y0)
        first, last = (int(min(max(np.ceil(y - 0.5), 0), height)) for y in (top, bottom))  # centres: top <= y < bottom
        rows = np.arange(first, last)
        x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
        np.add.at(changes, (rows, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)), 1)
    inside: NDArray[np.bool_] = np.cumsum(changes, axis=1)[:, :width] % 2 == 1
    return inside
