"""Outlines are filled again, pixel by pixel, and compared with the mask without its holes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from voxtract.compute.outlines import outline

Points = NDArray[np.float64]

measure_label: Any = measure.label  # scikit-image has no types


def filled(ring: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose middle lies inside by the even-odd rule."""
    inside = np.zeros(shape, bool)
    for begin, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        (x0, y0), (x1, y1) = sorted([begin.tolist(), end.tolist()], key=lambda point: (point[1], point[0]))
        for y, x in itertools.product(*map(range, shape)):
            if y0 <= y + 0.5 < y1 and x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0) > x + 0.5:
                inside[y, x] ^= True
    return inside


def area(ring: Points) -> float:
    """Signed: above 0 where the ring runs clockwise on the screen."""
    after = np.roll(ring, -1, axis=0)
    return float((ring[:, 0] * after[:, 1] - after[:, 0] * ring[:, 1]).sum() / 2)


def without_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_fill_holes(mask), bool)


def check_ring(ring: Points, mask: NDArray[np.bool_]) -> None:
    """What holds for the outline of one piece."""
    truth = without_holes(mask)
    assert ring.dtype == np.float64
    np.testing.assert_array_equal(filled(ring, (truth.shape[0], truth.shape[1])), truth)
    assert area(ring) == truth.sum()
    ways = np.roll(ring, -1, axis=0) - ring
    assert ((ways == 0).sum(axis=1) == 1).all()  # along rows and columns
    assert ((ways[:, 0] == 0) != (np.roll(ways[:, 0], -1) == 0)).all()  # and a turn at every corner
    y, x = np.argwhere(mask)[0]
    assert ring[0].tolist() == [x, y]
    assert (ring[1] > ring[0]).tolist() == [True, False]


masks = arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans())


@given(masks, st.sampled_from([1, 2]))
@settings(max_examples=300)
def test_the_outline_of_a_component_encloses_it(mask: NDArray[np.bool_], connectivity: int) -> None:
    pieces = measure_label(mask, connectivity=connectivity)
    for number in range(1, pieces.max() + 1):
        piece = pieces == number
        check_ring(outline(piece), piece)


@given(masks)
@settings(max_examples=200)
def test_one_ring_encloses_all_pieces(mask: NDArray[np.bool_]) -> None:
    if not mask.any():
        mask[-1, -1] = True
    ring = outline(mask)
    truth = without_holes(mask)
    np.testing.assert_array_equal(filled(ring, (truth.shape[0], truth.shape[1])), truth)
    assert area(ring) == truth.sum()
    high, low = ring.max(axis=0).tolist(), ring.min(axis=0).tolist()
    rows, columns = np.nonzero(mask)
    assert low + high == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    ("rows", "corners"),
    [
        (["#"], [(0, 0), (1, 0), (1, 1), (0, 1)]),
        (["##", "##"], [(0, 0), (2, 0), (2, 2), (0, 2)]),
        (["#.", ".#"], [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (1, 2), (1, 1), (0, 1)]),
        ([".#", "#."], [(1, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2), (0, 1), (1, 1)]),
        (["###", "#.#", "###"], [(0, 0), (3, 0), (3, 3), (0, 3)]),
    ],
)
def test_small_ones(rows: list[str], corners: list[tuple[int, int]]) -> None:
    mask = np.array([[c == "#" for c in row] for row in rows])
    assert outline(mask).tolist() == [list(corner) for corner in corners]


def test_an_island_in_a_lake_is_under_it() -> None:
    mask = np.ones((7, 7), bool)
    mask[1:6, 1:6] = False
    mask[3, 3] = True
    assert outline(mask).tolist() == [[0, 0], [7, 0], [7, 7], [0, 7]]


def test_strided_masks_are_read_in_place() -> None:
    mask = np.zeros((8, 10), bool)
    mask[2:6, 2:8:2] = mask[2:3, 2:8] = True
    np.testing.assert_array_equal(outline(mask.T[::-1]), outline(np.ascontiguousarray(mask.T[::-1])))
