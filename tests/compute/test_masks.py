"""Masks of components, against scikit-image and by their own words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from skimage import measure

from tests.write.annotated import Annotated, annotate, annotated, voxels_of
from voxtract.geometry import VIEWS

measure_label: Any = measure.label  # scikit-image has no types


@given(annotated())
@settings(max_examples=150)
def test_every_pixel_of_a_mask_is_a_voxel_of_its_component(case: Annotated) -> None:
    assert len(case.truth) == len(case.found.rows)
    for i, (label, voxels) in enumerate(case.truth):
        mask = case.masks(i)
        assert mask.dtype == bool
        assert case.found.rows.label[i] == label
        first: NDArray[Any] = case.found.plane.pixel(case.found.rows.start[i])
        rows, columns = np.nonzero(mask)
        pixels = np.stack([columns, rows, np.zeros_like(rows)], axis=1) + first
        assert voxels_of(case, pixels) == voxels


@pytest.mark.parametrize("view", VIEWS)
def test_a_component_inside_another_of_its_label_is_told_apart(view: str) -> None:
    image = np.array(
        [
            [1, 1, 1, 1, 1],
            [1, 0, 0, 0, 1],
            [1, 0, 1, 0, 1],
            [1, 0, 0, 0, 1],
            [1, 1, 1, 1, 1],
        ],
        np.int16,
    )
    index = {"axial": 2, "coronal": 1, "sagittal": 0}[view]
    labels = np.repeat(np.expand_dims(image, index), 2, axis=index)
    case = annotate(labels, view)  # type: ignore[arg-type]
    ring, dot, *_ = (case.masks(i) for i in range(4))
    assert ring.sum() == 16
    assert not ring[2, 2]
    assert dot.tolist() == [[True]]
    whole = annotate(labels, view, objects="labels")  # type: ignore[arg-type]
    assert whole.masks(1).sum() == 17


def test_corners_join_or_not_as_asked() -> None:
    labels = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 1]], np.uint8)[:, :, None]
    assert [annotate(labels, connectivity=2).masks(i).sum() for i in range(1)] == [5]
    assert [annotate(labels, connectivity=1).masks(i).sum() for i in range(3)] == [1, 3, 1]
    frame = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], np.uint8)[:, :, None]
    assert annotate(frame, connectivity=2).masks(0).tolist() == (frame[:, :, 0] == 1).tolist()
    frame[1, 2] = 0
    without = (frame[:, :, 0] == 1).tolist()
    frame[1, 2] = 1  # in the box of the other piece, which it touches at a corner
    assert annotate(frame, connectivity=1).masks(0).tolist() == without


@given(
    arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans()),
    st.sampled_from([1, 2]),
)
@settings(max_examples=300)
def test_no_two_pieces_touch_all_four_sides(mask: NDArray[np.bool_], connectivity: int) -> None:
    pieces = measure_label(mask, connectivity=connectivity)
    spanning = [
        n
        for n in range(1, pieces.max() + 1)
        if all((side == n).any() for side in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]))
    ]
    assert len(spanning) <= 1
