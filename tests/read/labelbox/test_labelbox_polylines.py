"""Lines: lengths, boxes and pixels, against exact fractions, pixel by pixel."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtract.geometry import Grid
from voxtract.read.labelbox import GroupPlane, Options, measure, polyline
from voxtract.read.labelbox.polylines import Piece, cut, painted, touched

SIZE = (9, 11)  # height, width

Point = tuple[float, float]


def plane_of(origin: Any = "corner", spacing: tuple[float, float] = (1.0, 1.0)) -> GroupPlane:
    grid = Grid((SIZE[1], SIZE[0], 3), np.diag([-spacing[0], -spacing[1], 2.0, 1.0]))
    return GroupPlane.of("axial", grid, Options(pixel_origin=origin), 1)


def eighths(low: int, high: int) -> st.SearchStrategy[float]:
    """Coordinates that floats hold exactly, whole ones often among them."""
    return st.integers(low * 8, high * 8).map(lambda n: n / 8) | st.integers(low, high).map(float)


inside = st.tuples(eighths(0, SIZE[1] - 1), eighths(0, SIZE[0] - 1))
anywhere = st.tuples(eighths(-15, 25), eighths(-15, 25))


def share(start: Fraction, step: Fraction, pixel: int) -> tuple[Fraction, Fraction] | None:
    """Between which t the coordinate start + t * step is in [pixel, pixel + 1)."""
    if step == 0:
        return (Fraction(0), Fraction(1)) if pixel <= start < pixel + 1 else None
    a, b = sorted(((pixel - start) / step, (pixel + 1 - start) / step))
    return a, b


def slow_touched(points: list[Point]) -> set[tuple[int, int]]:
    """Pixels (column, row) of the picture that hold a part of the path with a length, or a point of it."""
    height, width = SIZE
    found = {(math.floor(x), math.floor(y)) for x, y in points}
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        x, y, dx, dy = Fraction(x0), Fraction(y0), Fraction(x1) - Fraction(x0), Fraction(y1) - Fraction(y0)
        for column in range(width):
            for row in range(height):
                across, down = share(x, dx, column), share(y, dy, row)
                if across and down and (dx or dy):
                    first, last = max(across[0], down[0], Fraction(0)), min(across[1], down[1], Fraction(1))
                    if first < last:
                        found.add((column, row))
    return {(column, row) for column, row in found if 0 <= column < width and 0 <= row < height}


def slow_enclosed(points: list[Point]) -> set[tuple[int, int]]:
    """Pixels (column, row) from whose centre a ray to the left crosses the closed path an odd number of times."""
    found = set()
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            x, y = Fraction(2 * column + 1, 2), Fraction(2 * row + 1, 2)
            crossings = 0
            for (x0, y0), (x1, y1) in itertools.pairwise(points):
                if (y0 <= y) != (y1 <= y):
                    at = Fraction(x0) + (y - Fraction(y0)) * (Fraction(x1) - Fraction(x0)) / (
                        Fraction(y1) - Fraction(y0)
                    )
                    crossings += at <= x
            if crossings % 2:
                found.add((column, row))
    return found


def pixels(piece: Piece | None) -> set[tuple[int, int]]:
    if piece is None:
        return set()
    return {(piece.column + int(x), piece.row + int(y)) for y, x in np.argwhere(piece.mask)}


@settings(max_examples=50)
@given(st.lists(inside, min_size=2, max_size=5))
def test_lines_touch_the_pixels_in_which_they_have_a_length(points: list[Point]) -> None:
    assert pixels(painted(polyline(points), plane_of(), 0, "never", area=False)) == slow_touched(points)


@given(st.lists(inside, min_size=2, max_size=6), st.sampled_from(["corner", "centre"]))
def test_the_box_of_the_pixels_is_that_of_the_points(points: list[Point], origin: Any) -> None:
    line, plane = polyline(points), plane_of(origin)
    piece = painted(line, plane, 0, "auto", area=True)
    assert piece is not None
    rows, columns = piece.mask.shape
    box = (piece.column, piece.row, piece.column + columns - 1, piece.row + rows - 1)
    assert measure(line, plane).pixel_box == box


@given(st.lists(st.tuples(st.floats(0, 10.999), st.floats(0, 8.999)), min_size=2, max_size=5))
def test_so_it_is_for_any_floats(points: list[Point]) -> None:
    found = touched(np.array(points), SIZE)
    x, y = np.floor(np.array(points)).T
    assert found.min(axis=0).tolist() == [x.min(), y.min()]
    assert found.max(axis=0).tolist() == [x.max(), y.max()]


@settings(max_examples=50)
@given(st.lists(anywhere, min_size=2, max_size=4))
def test_lines_that_leave_the_picture_are_cut_off(points: list[Point]) -> None:
    assert pixels(painted(polyline(points), plane_of(), 0, "never", area=False)) == slow_touched(points)


@settings(max_examples=50)
@given(st.lists(anywhere, min_size=3, max_size=5))
def test_closed_lines_are_filled_by_the_even_odd_rule(points: list[Point]) -> None:
    closed = [*points, points[0]]
    expected = slow_touched(closed) | slow_enclosed(closed)
    assert pixels(painted(polyline(closed), plane_of(), 0, "auto", area=True)) == expected
    assert pixels(painted(polyline(points), plane_of(), 0, "always", area=True)) == expected
    assert pixels(painted(polyline(closed), plane_of(), 0, "never", area=True)) == slow_touched(closed)


def test_absurd_coordinates_take_no_time_and_no_memory() -> None:
    far = polyline([(-1e300, -1e300), (1e300, 1e300)])
    assert len(pixels(painted(far, plane_of(), 0, "auto", area=False))) <= SIZE[0] * 2
    square = polyline([(-1e12, -1e12), (1e12, -1e12), (1e12, 1e12), (-1e12, 1e12), (-1e12, -1e12)])
    assert len(pixels(painted(square, plane_of(), 0, "auto", area=True))) == SIZE[0] * SIZE[1]


def test_lengths_in_pixels_and_in_millimetres() -> None:
    line = polyline([(1, 1), (4, 5), (4, 5)])
    found = measure(line, plane_of(spacing=(2.0, 0.5)))
    assert found.length_px == 5.0
    assert found.length_mm == pytest.approx(math.hypot(6, 2))
    assert (found.box, found.center, found.centroid) == ((1.0, 1.0, 4.0, 5.0), (2.5, 3.0), (2.5, 3.0))
    assert not found.closed


@given(st.lists(anywhere, min_size=2, max_size=6), st.sampled_from(["auto", "always", "never"]))
def test_measures_against_plain_loops(points: list[Point], closed: Any) -> None:
    is_closed = {"auto": points[0] == points[-1], "always": True, "never": False}[closed]
    path = [*points, points[0]] if is_closed else points
    length = mm = x_sum = y_sum = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(path):
        step = math.hypot(x1 - x0, y1 - y0)
        length += step
        mm += math.hypot(2 * (x1 - x0), 3 * (y1 - y0))
        x_sum += step * (x0 + x1) / 2
        y_sum += step * (y0 + y1) / 2
    found = measure(polyline(points), plane_of(spacing=(2.0, 3.0)), closed)
    assert [found.length_px, found.length_mm] == pytest.approx([length, mm])
    if length:
        assert list(found.centroid) == pytest.approx([x_sum / length, y_sum / length])
    xs, ys = zip(*points, strict=True)
    assert found.box == (min(xs), min(ys), max(xs), max(ys))
    assert found.closed is is_closed


@pytest.mark.parametrize(("origin", "box"), [("corner", (0, 1, 2, 3)), ("centre", (1, 2, 3, 4))])
def test_the_pixel_of_a_coordinate_is_a_choice(origin: Any, box: Any) -> None:
    assert measure(polyline([(0.5, 1.75), (2.5, 3.5)]), plane_of(origin)).pixel_box == box


@given(st.data())
def test_pieces_overlap_where_a_pixel_is_in_both(data: st.DataObject) -> None:
    drawn = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=5)
    masks = []
    for _ in range(2):
        mask = np.zeros((6, 6), bool)
        for row, column in data.draw(drawn):
            mask[row, column] = True
        masks.append(mask)
    one, other = (cut(0, mask) for mask in masks)
    assert one is not None
    assert other is not None
    assert one.overlaps(other) is bool((masks[0] & masks[1]).any())
    elsewhere = cut(1, masks[0])
    assert elsewhere is not None
    assert not elsewhere.overlaps(one)


def test_nothing_set_is_no_piece() -> None:
    assert cut(0, np.zeros((3, 4), bool)) is None
