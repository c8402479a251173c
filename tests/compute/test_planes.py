"""Slice images against NumPy's own transposes and np.pad, for every view, padding, memory order and dtype."""

import itertools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voxtract.compute import planes
from voxtract.compute.normalize import pixel_rule
from voxtract.compute.planes import cut, slices_per_block
from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, Grid, Plane, View
from voxtract.model import Header

DTYPES = ("uint8", "int16", "uint16", "int32", "float32")
ORDERS: tuple[Literal["C", "F"], ...] = ("C", "F")


def header(data: NDArray[Any], slope: float = 1.0, intercept: float = 0.0) -> Header:
    return Header(Grid(data.shape, np.eye(4)), data.dtype.newbyteorder("="), slope, intercept)


def volume(shape: Any, dtype: str, seed: int = 0) -> NDArray[Any]:
    numbers = np.random.default_rng(seed).integers(0, 256, shape)
    return np.asarray(numbers.astype(dtype))


def in_memory(data: NDArray[Any], order: Any, flips: tuple[bool, bool, bool]) -> NDArray[Any]:
    """The same voxels, but axis order[0] slowest in memory and the flipped axes running backwards."""
    flip = tuple(slice(None, None, -1 if f else 1) for f in flips)
    stored = np.ascontiguousarray(data[flip].transpose(order))
    return np.asarray(stored.transpose(np.argsort(order))[flip])


def expected(data: NDArray[Any], plane: Plane, first: int, last: int, pad_value: float) -> NDArray[Any]:
    """Slow and obvious: NumPy indexing per slice as the contract words it, then np.pad."""
    images = []
    for index in range(first, last):
        image = {
            "axial": lambda k: data[:, :, k],
            "coronal": lambda k: data[:, k, :],
            "sagittal": lambda k: data[k, :, :],
        }[plane.view](index)
        height, width = plane.size
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        border = ((top, height - image.shape[0] - top), (left, width - image.shape[1] - left))
        images.append(np.pad(image, border, constant_values=pad_value))
    return np.array(images).reshape(last - first, *plane.size)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True), (False, True, False)])
def test_slices_are_those_of_numpy(view: View, dtype: str, order: Any, flips: tuple[bool, bool, bool]) -> None:
    data = volume((37, 21, 30), dtype)
    stored = in_memory(data, order, flips)
    np.testing.assert_array_equal(stored, data)
    for target in (None, (40, 51)):
        plane = Plane(view, data.shape, target)
        rule = pixel_rule(header(data), pad_value=7)
        images = cut(stored, plane, 2, 19, rule)
        assert images.dtype == data.dtype
        assert images.flags.c_contiguous
        np.testing.assert_array_equal(images, expected(data, plane, 2, 19, 7))


@pytest.mark.parametrize("view", VIEWS)
def test_image_at_y_x_is_the_voxel_that_the_plane_speaks_of(view: View) -> None:
    data = np.asfortranarray(volume((5, 7, 4), "int16"))
    plane = Plane(view, data.shape, (10, 11))
    images = cut(data, plane, 0, plane.count, pixel_rule(header(data)))
    for voxel in itertools.product(*map(range, data.shape)):
        x, y, z = plane.pixel(np.array(voxel)).tolist()
        assert images[z, y, x] == data[voxel]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("order", [(2, 1, 0), (0, 1, 2), (1, 0, 2)])
def test_tiles_that_do_not_divide_the_volume_leave_no_seam(
    monkeypatch: pytest.MonkeyPatch, view: View, dtype: str, scaled: bool, order: Any
) -> None:
    monkeypatch.setattr(planes, "_TILE_BYTES", 700)
    monkeypatch.setattr(planes, "_TILE_VOXELS", 300)
    data = volume((37, 21, 30), dtype)
    plane = Plane(view, data.shape, (40, 41))
    rule = pixel_rule(header(data, *((2.0, -5.0) if scaled else ())), pad_value=3)
    values = data * np.float32(2) - np.float32(5) if scaled else data
    stored = in_memory(data, order, (False, True, False))
    np.testing.assert_array_equal(cut(stored, plane, 0, plane.count, rule), expected(values, plane, 0, plane.count, 3))


sizes = st.integers(1, 12)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(sizes, sizes, sizes),
    view=st.sampled_from(VIEWS),
    dtype=st.sampled_from(DTYPES),
    order=st.permutations(range(3)),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    extra=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    ends=st.data(),
)
def test_any_range_of_any_volume(
    shape: Any,
    view: View,
    dtype: str,
    order: Any,
    flips: tuple[bool, bool, bool],
    extra: tuple[int, int],
    ends: st.DataObject,
) -> None:
    data = volume(shape, dtype)
    plane = Plane(view, shape)
    plane = Plane(view, shape, (plane.rows + extra[0], plane.columns + extra[1]))
    first = ends.draw(st.integers(0, plane.count))
    last = ends.draw(st.integers(first, plane.count))
    images = cut(in_memory(data, order, flips), plane, first, last, pixel_rule(header(data), pad_value=9))
    np.testing.assert_array_equal(images, expected(data, plane, first, last, 9))


@pytest.mark.parametrize("view", VIEWS)
def test_strided_broadcast_big_endian_and_mapped_voxels(view: View, tmp_path: Path) -> None:
    data = volume((6, 7, 8), "int16")
    plane = Plane(view, data.shape)
    rule = pixel_rule(header(data))
    whole = np.zeros((12, 14, 24), np.int16)
    whole[::2, 1::2, ::3] = data
    mapped = np.memmap(tmp_path / "voxels", np.dtype(">i2"), "w+", shape=data.shape, order="F")
    mapped[:] = data
    for stored in (whole[::2, 1::2, ::3], mapped, mapped.astype(np.int16)):
        np.testing.assert_array_equal(
            cut(stored, plane, 0, plane.count, rule), expected(data, plane, 0, plane.count, 0)
        )
    flat = np.broadcast_to(data[:, :, :1], data.shape)
    np.testing.assert_array_equal(cut(flat, plane, 0, plane.count, rule), expected(flat, plane, 0, plane.count, 0))


def test_a_buffer_is_filled_again_with_its_border() -> None:
    data = np.asfortranarray(volume((5, 6, 7), "uint8"))
    plane = Plane("axial", data.shape, (9, 9))
    out = np.full((2, 9, 9), 255, np.uint8)
    assert cut(data, plane, 3, 5, pixel_rule(header(data), pad_value=1), out) is out
    np.testing.assert_array_equal(out, expected(data, plane, 3, 5, 1))


def test_blocks_of_all_slices_make_the_whole() -> None:
    for view, order, dtype in itertools.product(VIEWS, ORDERS, ("uint8", "float32")):
        data = np.array(volume((70, 65, 130), dtype), order=order)
        plane = Plane(view, data.shape)
        rule = pixel_rule(header(data))
        step = slices_per_block(data, plane, rule.dtype)
        blocks = [cut(data, plane, k, min(k + step, plane.count), rule) for k in range(0, plane.count, step)]
        np.testing.assert_array_equal(np.concatenate(blocks), expected(data, plane, 0, plane.count, 0))


@pytest.mark.parametrize(
    ("view", "order", "dtype", "target", "expected_step"),
    [
        ("axial", "F", "int16", (512, 512), 2),  # 512 KiB each: fill 1 MiB
        ("axial", "F", "uint8", (64, 64), 256),
        ("axial", "F", "float32", (2048, 2048), 1),
        ("sagittal", "F", "int16", (512, 300), 64),  # two cache lines
        ("sagittal", "F", "uint8", (512, 300), 128),
        ("axial", "C", "float32", (512, 512), 32),  # here z is the fastest
        ("sagittal", "C", "float32", (512, 512), 1),
        ("sagittal", "F", "uint8", (2048, 2048), 8),  # no more than 32 MiB
        ("sagittal", "F", "uint8", (8192, 8192), 1),  # one image is larger than that
    ],
)
def test_depth_of_a_block(
    view: View, order: Literal["C", "F"], dtype: str, target: tuple[int, int], expected_step: int
) -> None:
    data = np.zeros((4, 5, 6), dtype, order=order)
    assert slices_per_block(data, Plane(view, (4, 5, 6), target), data.dtype) == expected_step


def test_arguments_that_do_not_belong_together() -> None:
    data = volume((4, 5, 6), "uint8")
    plane, rule = Plane("axial", (4, 5, 6)), pixel_rule(header(data))
    with pytest.raises(InvalidInput, match=r"\(4, 5, 7\)"):
        cut(data, Plane("axial", (4, 5, 7)), 0, 1, rule)
    with pytest.raises(InvalidInput, match=r"int16.*uint8"):
        cut(data.astype(np.int16), plane, 0, 1, rule)
    for first, last in ((-1, 2), (3, 2), (0, 7)):
        with pytest.raises(InvalidInput, match=f"slices {first} to {last} of 6 axial"):
            cut(data, plane, first, last, rule)
    with pytest.raises(InvalidInput, match=r"expected \(1, 4, 5\) of uint8"):
        cut(data, plane, 0, 1, rule, np.zeros((1, 4, 5), np.int16))
    with pytest.raises(InvalidInput, match=r"expected \(1, 4, 5\) of uint8"):
        cut(data, plane, 0, 1, rule, np.zeros((2, 4, 5), np.uint8))
