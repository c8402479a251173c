"""Resampled volumes against plain loops, the spline equations, SciPy and nibabel."""

from __future__ import annotations

import itertools
import tracemalloc
import warnings
from fractions import Fraction
from math import floor
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from scipy import ndimage

from tests.strategies import LABEL_DTYPES, LAYOUTS, Layout, laid_out, masks
from voxtract.compute.resample import ORDERS, resample
from voxtract.errors import InvalidInput
from voxtract.geometry import Grid, Reorientation, Resampling

Shape = tuple[int, int, int]

sides = st.integers(1, 7)
shapes = st.tuples(sides, sides, sides)
NUMBERS = ("uint8", "int8", "int16", "uint16", "int32", "int64", "float32", "float64")


def to_shape(data: NDArray[Any], shape: tuple[int, ...]) -> Resampling:
    return Resampling.to_shape(Grid((data.shape[0], data.shape[1], data.shape[2]), np.eye(4)), shape)


def places(old: int, new: int) -> list[Fraction]:
    """Exact old coordinates of the new voxels where the faces stay."""
    return [(i + Fraction(1, 2)) * Fraction(old, new) - Fraction(1, 2) for i in range(new)]


def trilinear(data: NDArray[Any], shape: Shape) -> NDArray[np.float64]:
    """Eight corners of each new voxel, one after the other."""
    out = np.zeros(shape)
    axes = [places(old, new) for old, new in zip(data.shape, shape, strict=True)]
    for voxel in np.ndindex(shape):
        total = Fraction(0)
        at = [
            min(max(axis[i], Fraction(0)), Fraction(n - 1)) for axis, i, n in zip(axes, voxel, data.shape, strict=True)
        ]
        for corner in itertools.product((0, 1), repeat=3):
            weight, old = Fraction(1), []
            for place, up, n in zip(at, corner, data.shape, strict=True):
                below = floor(place)
                weight *= place - below if up else 1 - (place - below)
                old.append(min(below + up, n - 1))
            total += weight * Fraction(float(data[tuple(old)]))
        out[voxel] = float(total)
    return out


def nearest(data: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Of two that are equally near the upper one."""
    out = np.zeros(shape, data.dtype)
    axes = [places(old, new) for old, new in zip(data.shape, shape, strict=True)]
    for voxel in np.ndindex(shape):
        old = [floor(axis[i] + Fraction(1, 2)) for axis, i in zip(axes, voxel, strict=True)]
        out[voxel] = data[tuple(min(i, n - 1) for i, n in zip(old, data.shape, strict=True))]
    return out


def splines(count: int, new: list[Fraction]) -> NDArray[np.float64]:
    """(new, old) matrix of the cubic spline through points mirrored at both faces, by solving its equations."""

    def shares(place: float) -> NDArray[np.float64]:
        row = np.zeros(count)
        for k in range(floor(place) - 1, floor(place) + 3):
            distance = abs(place - k)
            value = 2 / 3 - distance**2 + distance**3 / 2 if distance < 1 else max(0.0, 2 - distance) ** 3 / 6
            mirrored = k % (2 * count)
            row[min(mirrored, 2 * count - 1 - mirrored)] += value
        return row

    at_voxels = np.array([shares(float(i)) for i in range(count)])
    wanted = np.array([shares(float(place)) for place in new])
    return np.asarray(wanted @ np.linalg.inv(at_voxels))


def cubic(data: NDArray[Any], shape: Shape) -> NDArray[np.float64]:
    matrices = [splines(old, places(old, new)) for old, new in zip(data.shape, shape, strict=True)]
    return np.asarray(np.einsum("xyz,ax,by,cz->abc", data.astype(np.float64), *matrices))


def close(found: NDArray[Any], wanted: NDArray[Any], data: NDArray[Any]) -> None:
    """Equal up to a few float32 roundings of the largest number around."""
    assert found.dtype == np.float32
    assert found.flags.f_contiguous
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * max(1e-30, float(np.abs(data.astype(float)).max())))


@st.composite
def images(draw: st.DrawFn) -> NDArray[Any]:
    name = draw(st.sampled_from(NUMBERS))
    elements: st.SearchStrategy[Any] = st.floats(-1e6, 1e6, width=32)
    if not name.startswith("float"):
        ends: Any = np.iinfo(name)
        elements = st.integers(int(ends.min), int(ends.max))
    data = draw(hnp.arrays(name, draw(shapes), elements=elements))
    return laid_out(data, draw(st.sampled_from(LAYOUTS)))


class TestLinear:
    @settings(max_examples=60, deadline=None)
    @given(data=images(), shape=shapes)
    def test_is_the_blend_of_eight_corners(self, data: NDArray[Any], shape: Shape) -> None:
        close(resample(data, to_shape(data, shape), "linear"), trilinear(data, shape), data)

    @pytest.mark.parametrize("shape", [(31, 9, 4), (5, 40, 13), (17, 20, 26), (64, 3, 1)])
    def test_is_that_of_scipy(self, shape: Shape) -> None:
        data = np.random.default_rng(0).integers(-1000, 2000, (17, 20, 13)).astype(np.int16)
        zoom = [new / old for old, new in zip(data.shape, shape, strict=True)]
        wanted = ndimage.zoom(data.astype(np.float64), zoom, order=1, mode="nearest", grid_mode=True)
        close(resample(data, to_shape(data, shape), "linear"), wanted, data)

    def test_values_between_equal_ones_are_exact(self) -> None:
        rng = np.random.default_rng(1)
        for value in (-1024.0, 0.1, 1e20, 1 / 3):
            data = np.full((6, 7, 8), value, np.float32)
            data[:2] = rng.normal(0, 1, (2, 7, 8))
            found = resample(data, to_shape(data, (13, 5, 11)), "linear")
            assert (found[5:] == np.float32(value)).all()

    @pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("shape", [(18, 8, 7), (9, 13, 5), (4, 4, 4), (3, 8, 7)])
    @pytest.mark.parametrize("x", [4, 5])
    def test_what_is_not_finite_harms_only_what_touches_it(self, hole: float, shape: Shape, x: int) -> None:
        data = np.random.default_rng(2).normal(0, 1, (9, 8, 7)).astype(np.float32)
        holed, shares = data.copy(), np.zeros_like(data)
        holed[x, 3, 2], shares[x, 3, 2] = hole, 1
        touched = trilinear(shares, shape) > 0
        if shape[0] == 3:  # new voxels lie on the old 1, 4 and 7
            assert touched.sum() == (x == 4)
        found = resample(holed, to_shape(holed, shape), "linear")
        np.testing.assert_array_equal(~np.isfinite(found), touched)
        whole = resample(data, to_shape(data, shape), "linear")
        np.testing.assert_array_equal(found[~touched], whole[~touched])

    def test_wide_numbers_are_blended_in_double_precision(self) -> None:
        data = np.array([2**30 + 1, 2**30 + 4, -(2**30)], np.int32).reshape(3, 1, 1)
        found = resample(data - 2**30, to_shape(data, (6, 1, 1)), "linear")
        assert found[:3, 0, 0].tolist() == [1.0, 1.75, 3.25]
        exact = np.array([1e15, -1e15 + 8], np.float64).reshape(2, 1, 1)
        assert resample(exact, to_shape(exact, (1, 1, 1)), "linear").item() == 4.0

    def test_numbers_beyond_float32_become_infinite_without_a_warning(self) -> None:
        data = np.array([1e300, 0.0]).reshape(2, 1, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert resample(data, to_shape(data, (1, 1, 1)), "linear").item() == np.inf

    @pytest.mark.parametrize("name", ["bool", "float16", "longdouble", ">i2"])
    def test_and_cubic_of_other_dtypes(self, name: str) -> None:
        data = np.random.default_rng(3).integers(0, 2, (4, 5, 6)).astype(name)
        for order, oracle in (("linear", trilinear), ("cubic", cubic)):
            close(resample(data, to_shape(data, (7, 3, 6)), order), oracle(data, (7, 3, 6)), data)


class TestCubic:
    @settings(max_examples=60, deadline=None)
    @given(data=images(), shape=shapes)
    def test_solves_the_spline_equations(self, data: NDArray[Any], shape: Shape) -> None:
        close(resample(data, to_shape(data, shape), "cubic"), cubic(data, shape), data)

    @pytest.mark.parametrize("shape", [(31, 9, 4), (5, 40, 13), (17, 20, 26), (64, 3, 1)])
    def test_is_that_of_scipy(self, shape: Shape) -> None:
        data = np.random.default_rng(4).integers(-1000, 2000, (17, 20, 13)).astype(np.int16)
        zoom = [new / old for old, new in zip(data.shape, shape, strict=True)]
        found = resample(data, to_shape(data, shape), "cubic")
        close(found, ndimage.zoom(data.astype(np.float64), zoom, order=3, mode="reflect", grid_mode=True), data)
        edged = ndimage.zoom(data.astype(np.float64), zoom, order=3, mode="nearest", grid_mode=True)
        inner = tuple(slice(n // 4, n - n // 4) for n in shape)  # how the volume goes on outside hardly matters inside
        np.testing.assert_allclose(found[inner], edged[inner], atol=40)

    @pytest.mark.parametrize("shape", [(1, 2, 3), (2, 2, 2), (3, 5, 1)])
    def test_short_axes_keep_what_is_constant(self, shape: Shape) -> None:
        data = np.full(shape, 3.0, np.float32)
        np.testing.assert_allclose(resample(data, to_shape(data, (7, 8, 9)), "cubic"), 3.0, rtol=1e-6)

    def test_voxels_that_stay_in_place_keep_their_value(self) -> None:
        data = np.random.default_rng(5).normal(100, 30, (6, 7, 8)).astype(np.float32)
        found = resample(data, to_shape(data, (18, 7, 24)), "cubic")
        np.testing.assert_allclose(found[1::3, :, 1::3], data, rtol=1e-5)

    def test_leaves_its_input_alone(self) -> None:
        data = np.asfortranarray(np.random.default_rng(6).normal(0, 1, (6, 7, 8)).astype(np.float32))
        before = data.copy()
        resample(data, to_shape(data, (9, 9, 9)), "cubic")
        np.testing.assert_array_equal(data, before)

    @pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
    def test_a_voxel_that_is_not_finite_is_named(self, hole: float) -> None:
        data = np.zeros((4, 5, 6), np.float32)
        data[1, 2, 3] = hole
        with pytest.raises(InvalidInput, match=rf"voxel \(1, 2, 3\) .* is {hole}.*interpolation='linear'"):
            resample(data, to_shape(data, (8, 8, 8)), "cubic")


class TestNearest:
    @settings(max_examples=150, deadline=None)
    @given(labels=masks(max_side=7), shape=shapes)
    def test_takes_whole_values_and_the_upper_of_two(self, labels: NDArray[Any], shape: Shape) -> None:
        found = resample(labels, to_shape(labels, shape), "nearest")
        assert found.dtype == labels.dtype
        assert found.flags.f_contiguous
        np.testing.assert_array_equal(found, nearest(labels, shape))

    @pytest.mark.parametrize("dtype", [*LABEL_DTYPES, "f2", "f4", "f8", "c8"])
    def test_keeps_every_bit(self, dtype: str) -> None:
        kind = np.dtype(dtype)
        bits = np.random.default_rng(7).integers(0, 256, (4 * kind.itemsize, 5, 6), np.uint8)
        data = np.asfortranarray(bits).T.copy().view(kind).T if kind.kind != "b" else bits > 99
        found = resample(data, to_shape(data, (9, 2, 7)), "nearest")
        assert found.tobytes("F") == np.asfortranarray(nearest(data, (9, 2, 7))).tobytes("F")

    @pytest.mark.parametrize(("old", "new"), [(512, 256), (512, 170), (100, 300), (301, 100), (7, 1000)])
    def test_ties_do_not_depend_on_rounding(self, old: int, new: int) -> None:
        data = np.arange(old, dtype=np.int32).reshape(1, 1, old)
        np.testing.assert_array_equal(
            resample(data, to_shape(data, (1, 1, new)), "nearest"), nearest(data, (1, 1, new))
        )

    @pytest.mark.parametrize("spacing", [0.7, 0.1, 1 / 3])
    def test_ties_do_not_depend_on_rounding_in_headers(self, spacing: float) -> None:
        """Every new voxel lies between two; the step is not quite 2, because headers hold float32."""
        data = np.arange(512, dtype=np.int32).reshape(1, 1, 512)
        grid = Grid((1, 1, 512), np.diag([1, 1, float(np.float32(spacing)), 1.0]))
        assert grid.spacing_mm[2] != spacing
        found = resample(data, Resampling.to_spacing(grid, (1, 1, 2 * spacing)), "nearest")
        assert found.ravel().tolist() == list(range(1, 512, 2))

    def test_is_that_of_scipy(self) -> None:
        data = np.random.default_rng(8).integers(0, 9, (17, 20, 13)).astype(np.uint8)
        for shape in ((31, 9, 4), (5, 40, 13), (34, 10, 26)):
            zoom = [new / old for old, new in zip(data.shape, shape, strict=True)]
            wanted = ndimage.zoom(data, zoom, order=0, mode="nearest", grid_mode=True)
            np.testing.assert_array_equal(resample(data, to_shape(data, shape), "nearest"), wanted)


def tilted(spacing: tuple[float, ...]) -> NDArray[np.float64]:
    tilt = nib.eulerangles.euler2mat(0.3, -0.4, 1.2)
    return np.asarray(nib.affines.from_matvec(tilt @ np.diag(spacing), [-120.5, 80.25, 300.0]))


class TestInThePatient:
    @pytest.mark.parametrize("order", ["linear", "cubic"])
    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.4, 2.5), (0.3, 3.0, 7.0)])
    def test_a_ramp_in_millimetres_stays_that_ramp(self, order: str, spacing: tuple[float, float, float]) -> None:
        """Voxels and affine together: what a voxel says of its place is still true."""
        grid = Grid((24, 20, 21), tilted((0.8, 0.9, 2.5)))
        slope = np.array([1.5, -0.5, 0.25])
        data = grid.points_mm(np.moveaxis(np.indices(grid.shape), 0, -1)) @ slope
        resampling = Resampling.to_spacing(grid, spacing)
        found = resample(data, resampling, order)
        wanted = resampling.grid(grid).points_mm(np.moveaxis(np.indices(found.shape), 0, -1)) @ slope
        # a spline needs a few voxels to forget that the ramp is mirrored at the faces
        edge = 0 if order == "linear" else 6
        inner = np.ix_(
            *(
                (edge <= resampling.coordinates(axis)) & (resampling.coordinates(axis) <= grid.shape[axis] - 1 - edge)
                for axis in range(3)
            )
        )
        assert found[inner].size > 10
        np.testing.assert_allclose(found[inner], wanted[inner], atol=1e-4 if order == "linear" else 5e-3)

    @pytest.mark.parametrize(("order", "number"), [("nearest", 0), ("linear", 1)])
    def test_nibabel_finds_the_same_on_the_new_grid(self, order: str, number: int) -> None:
        data = np.random.default_rng(9).integers(-100, 100, (13, 15, 9)).astype(np.float64)
        grid = Grid((13, 15, 9), tilted((0.8, 0.9, 2.5)))  # here no two voxels are equally near
        for resampling in (Resampling.to_spacing(grid, (1.13, 0.7, 1.3)), Resampling.to_shape(grid, (7, -1, 31))):
            new = resampling.grid(grid)
            image = nib.Nifti1Image(data, grid.affine)
            wanted = resample_from_to(image, (new.shape, new.affine), order=number, mode="nearest")
            found = resample(data, resampling, order)
            np.testing.assert_allclose(found, wanted.get_fdata(), atol=1e-4)

    @settings(max_examples=30, deadline=None)
    @given(data=images(), spacing=st.tuples(*(st.floats(0.3, 4),) * 3), order=st.sampled_from(["linear", "cubic"]))
    def test_flips_before_or_after_are_the_same(
        self, data: NDArray[Any], spacing: tuple[float, float, float], order: str
    ) -> None:
        grid = Grid((data.shape[0], data.shape[1], data.shape[2]), tilted((0.8, 0.9, 2.5)))
        flip = Reorientation((0, 1, 2), (True, False, True))
        before = resample(flip.array(data), Resampling.to_spacing(flip.grid(grid), spacing), order)
        after = flip.array(resample(data, Resampling.to_spacing(grid, spacing), order))
        close(before, after.astype(np.float64), data)


class TestAll:
    @settings(max_examples=40, deadline=None)
    @given(data=images(), shape=shapes, order=st.sampled_from(ORDERS), layout=st.sampled_from(LAYOUTS))
    def test_strides_make_no_difference(self, data: NDArray[Any], shape: Shape, order: str, layout: Layout) -> None:
        wanted = resample(np.asfortranarray(data), to_shape(data, shape), order)
        np.testing.assert_array_equal(resample(laid_out(data, layout), to_shape(data, shape), order), wanted)

    @pytest.mark.parametrize("order", ORDERS)
    def test_the_same_shape_gives_the_same_voxels(self, order: str) -> None:
        data = np.random.default_rng(10).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
        found = resample(data, to_shape(data, (-1, 6, -1)), order)
        np.testing.assert_array_equal(found, data)
        assert found.flags.f_contiguous
        assert found.dtype == (np.int16 if order == "nearest" else np.float32)
        assert not np.shares_memory(found, data)

    @pytest.mark.parametrize("order", ["linear", "cubic"])
    def test_scaling_before_or_after_is_the_same(self, order: str) -> None:
        data = np.random.default_rng(11).integers(0, 4096, (9, 10, 11)).astype(np.int16)
        resampling = to_shape(data, (13, 6, 20))
        scaled = resample(data * 0.25 - 1024, resampling, order)
        np.testing.assert_allclose(resample(data, resampling, order) * 0.25 - 1024, scaled, atol=2e-3)

    @pytest.mark.parametrize(("order", "planes"), [("linear", 12), ("nearest", 12)])
    def test_memory_beside_the_result_is_a_few_planes(self, order: str, planes: int) -> None:
        data = np.zeros((100, 90, 120), np.int16, order="F")
        resampling = to_shape(data, (80, 100, 150))
        resample(data, resampling, order)
        tracemalloc.start()
        found = resample(data, resampling, order)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak - found.nbytes < planes * 100 * 100 * 4

    def test_another_shape_is_refused(self) -> None:
        data = np.zeros((4, 5, 6))
        with pytest.raises(InvalidInput, match=r"voxels \(6, 5, 4\).*from \(4, 5, 6\)"):
            resample(data.T, to_shape(data, (8, 8, 8)), "linear")

    def test_an_unknown_order_lists_the_known_ones(self) -> None:
        data = np.zeros((4, 5, 6))
        with pytest.raises(InvalidInput, match="'spline' is not known; allowed: 'linear', 'cubic', 'nearest'"):
            resample(data, to_shape(data, (8, 8, 8)), "spline")

    @pytest.mark.parametrize("name", ["complex64", "U3"])
    def test_what_is_no_number_cannot_be_interpolated(self, name: str) -> None:
        data = np.zeros((4, 5, 6), name)
        for order in ("linear", "cubic"):
            with pytest.raises(InvalidInput, match="no real numbers"):
                resample(data, to_shape(data, (8, 8, 8)), order)
