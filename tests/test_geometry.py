"""The one truth about axes, padding, boxes and orientation, against nibabel, NumPy and plain counting."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, Box, Crop, Grid, Plane, Reorientation, Resampling

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


def oblique(spacing: tuple[float, ...] = (0.8, 0.9, 2.5), *, shear: float = 0.0) -> NDArray[np.float64]:
    """Tilted axes of these lengths, far from the origin; with `shear` no longer at right angles."""
    tilt = nib.eulerangles.euler2mat(0.3, -0.4, 1.2)
    if shear:
        tilt = tilt @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]])
        tilt = tilt / np.linalg.norm(tilt, axis=0)
    return np.asarray(nib.affines.from_matvec(tilt @ np.diag(spacing), [-120.5, 80.25, 300.0]))


spacings = st.tuples(*(st.floats(0.2, 6),) * 3)


@pytest.mark.parametrize("shear", [0.0, 0.4])
def test_points_in_millimetres_are_nibabels(shear: float) -> None:
    affine = oblique(shear=shear)
    voxels = np.random.default_rng(1).integers(-5, 500, (3, 4, 3))
    for points in (voxels, voxels.astype(np.float64) + 0.5, voxels[0, 0], voxels[:0, 0]):
        found = Grid((5, 6, 7), affine).points_mm(points)
        assert found.dtype == np.float64
        assert found.shape == points.shape
        np.testing.assert_allclose(found, nib.affines.apply_affine(affine, points), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("shear", [0.0, 0.4])
def test_all_eight_corners_of_boxes(shear: float) -> None:
    affine = oblique(shear=shear)
    rng = np.random.default_rng(2)
    start = rng.integers(0, 50, (7, 3))
    stop = start + rng.integers(1, 9, (7, 3))
    found = Grid((60, 60, 60), affine).corners_mm(start, stop)
    assert found.shape == (7, 8, 3)
    for box in range(7):
        corner = 0
        for x in (start[box, 0] - 0.5, stop[box, 0] - 0.5):
            for y in (start[box, 1] - 0.5, stop[box, 1] - 0.5):
                for z in (start[box, 2] - 0.5, stop[box, 2] - 0.5):
                    wanted = affine @ [x, y, z, 1]
                    np.testing.assert_allclose(found[box, corner], wanted[:3], rtol=1e-12, atol=1e-9)
                    corner += 1
    assert Grid((60, 60, 60), affine).corners_mm(start[:0], stop[:0]).shape == (0, 8, 3)


def test_volume_of_a_voxel_is_that_of_its_corners() -> None:
    for spacing, shear in product(((0.8, 0.9, 2.5), (0.004, 0.004, 0.04)), (0.0, 0.4)):
        affine = oblique(spacing, shear=shear)
        grid = Grid((5, 6, 7), affine)
        corners = grid.corners_mm(np.array([[1, 2, 3]]), np.array([[2, 3, 4]]))[0]
        x, y, z = (corners[[4, 2, 1]] - corners[0]).tolist()
        assert grid.voxel_mm3 == pytest.approx(abs(np.dot(np.cross(x, y), z)))
        assert (grid.voxel_mm3 == pytest.approx(np.prod(spacing))) == (shear == 0)
    flipped = oblique() @ np.diag([-1, 1, 1, 1])
    assert Grid((5, 6, 7), flipped).voxel_mm3 == pytest.approx(0.8 * 0.9 * 2.5)


class TestResampling:
    @settings(deadline=None)
    @given(old=shapes, new=shapes)
    def test_to_a_shape_keeps_the_faces(self, old: tuple[int, int, int], new: tuple[int, int, int]) -> None:
        grid = Grid(old, oblique())
        resampling = Resampling.to_shape(grid, new)
        found = resampling.grid(grid)
        assert found.shape == resampling.shape == new
        assert resampling.source == old
        zero = np.zeros((1, 3))
        np.testing.assert_allclose(
            found.corners_mm(zero, np.array([new])), grid.corners_mm(zero, np.array([old])), atol=1e-9
        )
        for axis in range(3):
            step = Fraction(old[axis], new[axis])
            wanted = [(i + Fraction(1, 2)) * step - Fraction(1, 2) for i in range(new[axis])]
            np.testing.assert_allclose(resampling.coordinates(axis), np.array(wanted, float), atol=1e-12)
            assert resampling.moves(axis) == (old[axis] != new[axis])

    @settings(deadline=None)
    @given(old=shapes, old_mm=spacings, new_mm=spacings)
    def test_to_a_spacing_gives_it_exactly_and_keeps_the_middle(
        self, old: tuple[int, int, int], old_mm: tuple[float, ...], new_mm: tuple[float, ...]
    ) -> None:
        grid = Grid(old, oblique(old_mm))
        resampling = Resampling.to_spacing(grid, new_mm)
        found = resampling.grid(grid)
        for axis in range(3):  # one that moves no voxel by 1e-3 of its size stays as it is
            rtol = 1e-12 if resampling.moves(axis) else 1e-3
            np.testing.assert_allclose(found.spacing_mm[axis], new_mm[axis], rtol=rtol)
        middle = (np.array(old) - 1) / 2, (np.array(found.shape) - 1) / 2
        np.testing.assert_allclose(found.points_mm(middle[1]), grid.points_mm(middle[0]), atol=1e-9)
        for axis in range(3):
            exact = old[axis] * grid.spacing_mm[axis] / new_mm[axis]
            assert found.shape[axis] == max(1, round(exact))
            places = resampling.coordinates(axis)
            assert places[0] > -0.5
            assert places[-1] < old[axis] - 0.5
            if exact > 0.5:  # how far the first face moved, in new voxels
                assert abs((places[0] + 0.5) / resampling.step[axis] - 0.5) <= 0.25 + 1e-6

    @settings(deadline=None)
    @given(old=shapes, new_mm=spacings, voxel=st.tuples(*(st.floats(0, 1),) * 3))
    def test_every_new_voxel_lies_where_its_coordinates_say(
        self, old: tuple[int, int, int], new_mm: tuple[float, ...], voxel: tuple[float, ...]
    ) -> None:
        grid = Grid(old, oblique(shear=0.2))
        for resampling in (Resampling.to_spacing(grid, new_mm), Resampling.to_shape(grid, (4, -1, 11))):
            new = np.array([int(share * (n - 1)) for share, n in zip(voxel, resampling.shape, strict=True)])
            place = np.array([resampling.coordinates(axis)[new[axis]] for axis in range(3)])
            np.testing.assert_allclose(resampling.grid(grid).points_mm(new), grid.points_mm(place), atol=1e-9)

    @settings(deadline=None)
    @given(old=shapes, new_mm=spacings)
    def test_flips_before_or_after_are_the_same(self, old: tuple[int, int, int], new_mm: tuple[float, ...]) -> None:
        grid = Grid(old, oblique())
        flip = Reorientation((0, 1, 2), (True, False, True))
        after = flip.grid(Resampling.to_spacing(grid, new_mm).grid(grid))
        before = Resampling.to_spacing(flip.grid(grid), new_mm).grid(flip.grid(grid))
        assert after.shape == before.shape
        np.testing.assert_allclose(after.affine, before.affine, atol=1e-9)

    def test_in_numbers(self) -> None:
        grid = Grid((100, 100, 33), np.diag([0.7, -0.7, 5.0, 1.0]))
        found = Resampling.to_spacing(grid, (1, 1, 1.5)).grid(grid)
        assert found.shape == (70, 70, 110)
        wanted = np.diag([1, -1, 1.5, 1.0])
        wanted[:3, 3] = 0.15, -0.15, -1.75  # first face -0.35, +0.35 and -2.5; first center half a voxel inside
        np.testing.assert_allclose(found.affine, wanted, atol=1e-12)
        odd = Resampling.to_spacing(grid, (0.7, 0.7, 2.0)).grid(grid)
        assert odd.shape == (100, 100, 82)  # 82.5 is rounded to the even number, and 165 mm become 164
        assert odd.affine[2, 3] == pytest.approx(-2.5 + 0.5 + 1.0)

    def test_what_is_too_short_becomes_one_voxel_in_its_middle(self) -> None:
        grid = Grid((3, 4, 5), np.eye(4))
        resampling = Resampling.to_spacing(grid, (20, 20, 20))
        assert resampling.shape == (1, 1, 1)
        assert [resampling.coordinates(axis).tolist() for axis in range(3)] == [[1.0], [1.5], [2.0]]

    def test_spacing_that_is_there_already_moves_nothing(self) -> None:
        stored = np.diag(np.array([0.7, 0.7, 2.0, 1.0], np.float32)).astype(np.float64)
        grid = Grid((512, 512, 90), stored)
        assert grid.spacing_mm[0] != 0.7
        resampling = Resampling.to_spacing(grid, (0.7, 0.7, 1.0))
        assert [resampling.moves(axis) for axis in range(3)] == [False, False, True]
        assert resampling.coordinates(0).tolist() == list(range(512))
        np.testing.assert_array_equal(resampling.grid(grid).affine[:, :2], stored[:, :2])
        assert Resampling.to_spacing(grid, (0.701, 0.7, 2)).moves(0)

    @pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -1, 1), (1, 1, np.nan), (np.inf, 1, 1), (1, 1)])
    def test_no_spacing(self, spacing: Any) -> None:
        with pytest.raises(InvalidInput, match=r"spacing .* must be three finite lengths above 0"):
            Resampling.to_spacing(Grid((3, 4, 5), np.eye(4)), spacing)

    def test_more_voxels_than_can_be_meant(self) -> None:
        with pytest.raises(InvalidInput, match=r"spacing \(1e-300, 1, 1\) .*too many voxels"):
            Resampling.to_spacing(Grid((3, 4, 5), np.eye(4)), (1e-300, 1, 1))

    def test_an_affine_without_a_length(self) -> None:
        with pytest.raises(InvalidInput, match=r"affine .* leaves an axis without a length"):
            Resampling.to_spacing(Grid((3, 4, 5), np.diag([1.0, 0.0, 1.0, 1.0])), (1, 1, 1))

    @pytest.mark.parametrize("shape", [(0, 1, 1), (1, -2, 1), (1, 1), (4, 4, 4, 4)])
    def test_no_shape(self, shape: Any) -> None:
        with pytest.raises(InvalidInput, match=r"shape .* at least 1; -1 keeps an axis"):
            Resampling.to_shape(Grid((3, 4, 5), np.eye(4)), shape)


class TestCrop:
    @settings(deadline=None)
    @given(shape=shapes, data=st.data())
    def test_a_box_keeps_every_voxel_in_its_place(self, shape: tuple[int, int, int], data: st.DataObject) -> None:
        start = [data.draw(st.integers(0, n - 1)) for n in shape]
        stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
        crop = Crop.box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]), shape)
        grid = Grid(shape, oblique(shear=0.3))
        volume = np.arange(np.prod(shape)).reshape(shape)
        cropped = crop.array(volume)
        assert np.shares_memory(cropped, volume)
        assert crop.grid(grid).shape == cropped.shape
        for voxel in np.ndindex(cropped.shape):
            old = np.array(voxel) + start
            assert cropped[voxel] == volume[tuple(old)]
            np.testing.assert_allclose(crop.grid(grid).points_mm(np.array(voxel)), grid.points_mm(old), atol=1e-9)

    @settings(deadline=None)
    @given(size=shapes, shape=shapes)
    def test_a_size_is_cut_from_the_middle(self, size: tuple[int, int, int], shape: tuple[int, int, int]) -> None:
        crop = Crop.centered(size, shape)
        for wanted, n, start, stop in zip(size, shape, crop.start, crop.stop, strict=True):
            assert stop - start == min(wanted, n)
            assert 0 <= (n - stop) - start <= 1  # as much is cut at both ends, or one voxel more at the end

    def test_undoes_the_padding_of_a_plane(self) -> None:
        plane = Plane("axial", (4, 5, 2), target_size=(7, 10))
        crop = Crop.centered((4, 5, 2), (7, 10, 2))
        assert crop.start[:2] == plane.pad

    def test_the_affine_of_the_volume_is_not_touched(self) -> None:
        grid = Grid((5, 6, 7), oblique())
        before = grid.affine.copy()
        Crop.box((1, 2, 3), (4, 5, 6), (5, 6, 7)).grid(grid)
        np.testing.assert_array_equal(grid.affine, before)

    @pytest.mark.parametrize(
        ("start", "stop"),
        [((-1, 0, 0), (2, 2, 2)), ((0, 0, 0), (6, 2, 2)), ((2, 2, 2), (2, 3, 3)), ((3, 0, 0), (2, 2, 2))],
    )
    def test_a_box_outside_is_refused_not_clipped(self, start: Any, stop: Any) -> None:
        with pytest.raises(InvalidInput) as caught:
            Crop.box(start, stop, (5, 6, 7))
        for said in (str(start), str(stop), "5 x 6 x 7 voxels"):
            assert said in str(caught.value)

    def test_a_size_of_nothing(self) -> None:
        with pytest.raises(InvalidInput, match=r"crop to \(4, 0, 4\)"):
            Crop.centered((4, 0, 4), (5, 6, 7))
