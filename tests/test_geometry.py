"""The one truth about axes, padding, boxes and orientation, against nibabel, NumPy and plain counting."""

from __future__ import annotations

from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, Box, Grid, Plane, Reorientation

sizes = st.integers(1, 9)
shapes = st.tuples(sizes, sizes, sizes)
ORIENTATIONS = [
    "".join(codes)
    for axes in (("RL", "AP", "SI"), ("AP", "SI", "RL"), ("SI", "RL", "AP"), ("AP", "RL", "SI"))
    for codes in product(*axes)
]


@given(view=st.sampled_from(VIEWS), shape=shapes, extra=st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_every_voxel_has_its_pixel_and_back(view: Any, shape: tuple[int, int, int], extra: tuple[int, int]) -> None:
    bare = Plane(view, shape)
    plane = Plane(view, shape, (bare.rows + extra[0], bare.columns + extra[1]))
    volume = np.arange(1, np.prod(shape) + 1).reshape(shape)
    top, left = extra[0] // 2, extra[1] // 2
    padding = ((top, extra[0] - top), (left, extra[1] - left))
    slices = {"axial": volume.transpose(2, 0, 1), "coronal": volume.transpose(1, 0, 2), "sagittal": volume}[view]
    images = np.stack([np.pad(image, padding) for image in slices])
    assert images.shape == (plane.count, *plane.size)
    voxels = np.argwhere(volume)
    pixels = plane.pixel(voxels)
    x, y, z = pixels.T
    np.testing.assert_array_equal(images[z, y, x], volume[tuple(voxels.T)])
    np.testing.assert_array_equal(plane.voxel(pixels), voxels)


def test_spacing_of_pixels_follows_the_axes() -> None:
    spacing = {view: Plane(view, (2, 2, 2)).pixel_spacing_mm((1.0, 2.0, 3.0)) for view in VIEWS}
    assert spacing == {"axial": (1.0, 2.0), "coronal": (1.0, 3.0), "sagittal": (2.0, 3.0)}


def test_a_target_smaller_than_the_slice_is_refused_with_both_sizes() -> None:
    with pytest.raises(InvalidInput, match=r"5 x 7.*8 x 6"):
        Plane("axial", (5, 7, 3), (8, 6))
    with pytest.raises(InvalidInput, match="'axial', 'coronal', 'sagittal'"):
        Plane("frontal", (5, 7, 3))  # type: ignore[arg-type]


def test_box() -> None:
    assert Box((1, 2, 3), (2, 4, 8)).center == (1.0, 2.5, 5.0)
    with pytest.raises(InvalidInput, match="start"):
        Box((2, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("stored", ORIENTATIONS)
def test_reorientation_is_nibabels_closest_canonical(stored: str) -> None:
    rng = np.random.default_rng(len(stored))
    data = rng.integers(0, 99, (4, 5, 6)).astype(np.int16)
    tilt = nib.eulerangles.euler2mat(0.1, -0.15, 0.2)
    affine = nib.affines.from_matvec(tilt @ np.diag([0.8, 0.9, 2.5]), [-20, 11, 5])
    turned = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(stored))
    image = nib.Nifti1Image(data, affine).as_reoriented(turned)
    canonical = nib.as_closest_canonical(image)
    grid = Grid(image.shape, image.affine)
    assert grid.orientation == stored
    turn = Reorientation.between(grid, "RAS")
    np.testing.assert_array_equal(turn.array(np.asarray(image.dataobj)), np.asarray(canonical.dataobj))
    np.testing.assert_allclose(turn.grid(grid).affine, canonical.affine)
    assert turn.grid(grid).shape == canonical.shape
    assert turn.grid(grid).orientation == "RAS"
    back = Reorientation.between(turn.grid(grid), stored)
    np.testing.assert_allclose(back.grid(turn.grid(grid)).affine, grid.affine)


@pytest.mark.parametrize("codes", ["RAR", "XYZ", "RA", "RASS", ""])
def test_codes_that_name_no_orientation_are_refused(codes: str) -> None:
    with pytest.raises(InvalidInput, match="R/L"):
        Reorientation.between(Grid((2, 2, 2), np.eye(4)), codes)


def test_an_affine_without_a_direction_cannot_be_reoriented() -> None:
    with pytest.raises(InvalidInput, match="direction"):
        Reorientation.between(Grid((2, 2, 2), np.diag([1.0, 0.0, 1.0, 1.0])), "RAS")


def test_mismatch_says_what_differs_and_forgives_rounding() -> None:
    affine = np.diag([0.7, 0.7, 2.0, 1.0])
    affine[:3, 3] = -120.3, 80.2, 4
    grid = Grid((5, 6, 7), affine)
    assert grid.mismatch(Grid((5, 6, 7), affine.astype(np.float32).astype(np.float64))) is None
    assert "5 x 6 x 7 against 5 x 6 x 8" in str(grid.mismatch(Grid((5, 6, 8), affine)))
    moved = affine.copy()
    moved[2, 3] += 0.5
    assert str(grid.mismatch(Grid((5, 6, 7), moved))).startswith("affine")
    finer = affine.copy()
    finer[0, 0] = 0.71
    assert str(grid.mismatch(Grid((5, 6, 7), finer))).startswith("affine")
