"""Labels as integers against plain NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.strategies import LABEL_DTYPES, LAYOUTS, laid_out, masks
from voxtract.compute import labels
from voxtract.compute.labels import foreground_box, stored_labels
from voxtract.errors import InvalidInput
from voxtract.geometry import Grid
from voxtract.model import Header, Volume


def volume(data: NDArray[Any], slope: float = 1.0, intercept: float = 0.0) -> Volume:
    shape = data.shape
    grid = Grid((shape[0], shape[1], shape[2]), np.eye(4))
    return Volume(Header(grid, data.dtype, slope, intercept, "seg.nii.gz"), data)


@pytest.fixture(params=[1 << 16, 7])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks larger and much smaller than the volumes here."""
    monkeypatch.setattr(labels, "BLOCK", request.param)


def arranged(data: NDArray[Any], order: str) -> NDArray[Any]:
    """The same values with other strides."""
    if order == "sliced":
        wide = np.full([2 * n for n in data.shape], 99, data.dtype)
        wide[::2, ::2, ::2] = data
        return wide[::2, ::2, ::2]
    if order == "flipped":
        return np.ascontiguousarray(data[::-1, :, ::-1])[::-1, :, ::-1]
    if order == "turned":
        return np.ascontiguousarray(data.transpose(1, 2, 0)).transpose(2, 0, 1)
    return np.array(data, order="C" if order == "C" else "F")


ORDERS = ["F", "C", "turned", "flipped", "sliced"]


@pytest.mark.parametrize("dtype", ["bool", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8"])
@pytest.mark.parametrize("order", ORDERS)
def test_integers_pass_through(dtype: str, order: str) -> None:
    data = arranged(np.random.default_rng(1).integers(0, 2, (3, 4, 5)).astype(dtype), order)
    assert stored_labels(volume(data)) is data


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 0, "u1"),
        (0, 255, "u1"),
        (0, 256, "i2"),
        (-1, 5, "i2"),
        (-32768, 32767, "i2"),
        (0, 32768, "i4"),
        (-32769, 0, "i4"),
        (-(2**31), 0, "i4"),
        (0, 2**31, "i8"),
        (0, 2**31 - 128, "i4"),  # the largest float32 below 2**31
        (-(2**53), 2**53, "i8"),
    ],
)
def test_whole_floats_become_the_smallest_integers(
    block: None, dtype: str, order: str, low: int, high: int, expected: str
) -> None:
    rng = np.random.default_rng(2)
    values = rng.integers(low, high, (3, 4, 5), endpoint=True).astype(dtype)
    values = np.clip(values, low, high).astype(dtype)
    values[2, 3, 4], values[0, 1, 0], values[1, 1, 1] = high, low, -0.0
    result = stored_labels(volume(arranged(values, order)))
    assert result.dtype == np.dtype(expected)
    assert result.tolist() == values.astype(np.int64).tolist()


def test_memory_order_is_kept() -> None:
    values = np.zeros((3, 4, 5), "f4")
    assert stored_labels(volume(arranged(values, "F"))).flags.f_contiguous
    assert stored_labels(volume(arranged(values, "C"))).flags.c_contiguous
    assert stored_labels(volume(arranged(values, "F")), 0.5).flags.f_contiguous


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "expected"),
    [
        ("u1", 2.0, 0.0, "i2"),
        ("i2", 1.0, -5.0, "i4"),
        ("f4", 0.5, 3.0, "i4"),
        ("u1", -1.0, 0.0, "i2"),
        ("u1", 1.0, -7.5, None),
    ],
)
def test_scaled_labels_are_judged_by_their_values(
    block: None, dtype: str, slope: float, intercept: float, expected: str | None
) -> None:
    stored = (np.arange(60).reshape(3, 4, 5) * 2).astype(dtype)
    stored[2, 3, 4] = 127 if dtype == "u1" else 0
    if dtype == "u1":
        stored[0, 0, 0] = 254
    if dtype == "i2":
        stored[0, 0, 0] = -32768
    if dtype == "f4":
        stored[0, 0, 0] = 2**20
    if expected is None:
        with pytest.raises(
            InvalidInput, match=r"voxel \(0, 0, 0\) \(x, y, z\) has the value 246.5, which is no integer"
        ):
            stored_labels(volume(stored, slope, intercept))
        return
    result = stored_labels(volume(stored, slope, intercept))
    assert result.dtype == np.dtype(expected)
    np.testing.assert_array_equal(result, stored.astype(np.float64) * slope + intercept)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("bad", [0.5, -0.25, np.nan, np.inf, -np.inf, 2.0**63, 1e300, 255.5, 70000.5])
def test_the_first_offending_value_is_named(block: None, order: str, dtype: str, bad: float) -> None:
    values = np.zeros((3, 4, 5))
    values[0, 0, 0] = 300  # the smallest dtype is given up before the fault comes
    values[2, 1, 3] = values[2, 3, 4] = min(bad, 3e38) if dtype == "f4" and bad == 1e300 else bad
    data = arranged(values.astype(dtype), order)
    with pytest.raises(InvalidInput) as caught:
        stored_labels(volume(data))
    text = str(caught.value)
    assert text.startswith("seg.nii.gz: voxel (2, 1, 3) (x, y, z) has the value ")
    assert repr(float(data[2, 1, 3])) in text
    assert "threshold=0.5" in text


def test_first_means_first_in_memory() -> None:
    values = np.zeros((3, 4, 5))
    values[2, 0, 0] = values[0, 0, 1] = 0.5
    for order, voxel in [("F", (2, 0, 0)), ("C", (0, 0, 1))]:
        with pytest.raises(InvalidInput) as caught:
            stored_labels(volume(arranged(values, order)))
        assert f"voxel {voxel} " in str(caught.value)


def test_integers_beyond_exact_floats_are_refused_when_scaled() -> None:
    data = np.full((1, 1, 2), 2**53 + 2, np.int64)
    with pytest.raises(InvalidInput, match="cannot be told from its neighbours"):
        stored_labels(volume(data, slope=1.0, intercept=1.0))
    assert stored_labels(volume(data)) is data


def test_exactness_is_asked_of_every_block(block: None) -> None:
    data = np.zeros((1, 1, 20))
    data[0, 0, 0], data[0, 0, 15] = 2.0**40, 2.0**60
    with pytest.raises(InvalidInput, match=r"voxel \(0, 0, 15\) .* cannot be told from its neighbours"):
        stored_labels(volume(data))


@pytest.mark.parametrize("dtype", ["bool", "u1", "i2", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threshold", [0.5, 0.0, 0.1, -3.0, 1, 1e30, -1e30, 2.5])
@pytest.mark.parametrize("scale", [(1.0, 0.0), (0.5, -1.0)])
def test_threshold_makes_a_mask(
    block: None, dtype: str, order: str, threshold: float, scale: tuple[float, float]
) -> None:
    values = np.random.default_rng(3).integers(0, 5, (3, 4, 5)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        values[0, 0, 0], values[1, 0, 0], values[2, 0, 0], values[2, 1, 0] = np.nan, np.inf, -np.inf, threshold
    data = arranged(values, order)
    result = stored_labels(volume(data, *scale), threshold)
    assert result.dtype == np.uint8
    expected = [float(v) * scale[0] + scale[1] > threshold for v in values.ravel()]
    assert result.ravel().tolist() == [int(v) for v in expected]


def test_threshold_is_exact() -> None:
    data = np.array([[[0.1, np.nextafter(np.float32(0.1), np.float32(0))]]], np.float32)
    assert stored_labels(volume(data), 0.1).tolist() == [[[1, 0]]]  # float32(0.1) is a little more than 0.1
    big = np.array([[[2**53, 2**53 + 1]]], np.uint64)
    assert stored_labels(volume(big), 2**53).tolist() == [[[0, 1]]]


@pytest.mark.parametrize("threshold", [np.nan, np.inf, -np.inf])
def test_threshold_must_be_finite(threshold: float) -> None:
    with pytest.raises(InvalidInput, match=r"^seg.nii.gz: threshold=.* is no limit"):
        stored_labels(volume(np.zeros((1, 1, 1), "u1")), threshold)


@given(values=st.lists(st.floats(width=32) | st.integers(-70000, 70000).map(float), min_size=1, max_size=40))
def test_any_floats(values: list[float]) -> None:
    data = np.array(values, np.float32).reshape(1, 1, -1)
    wrong = [i for i, v in enumerate(data.ravel().tolist()) if not (float(v).is_integer() and abs(v) <= 2**53)]
    if wrong:
        with pytest.raises(InvalidInput) as caught:
            stored_labels(volume(data))
        assert f"voxel (0, 0, {wrong[0]}) " in str(caught.value)
    else:
        result = stored_labels(volume(data))
        assert result.tolist() == [[[int(v) for v in data.ravel().tolist()]]]
        smaller = {"u1": [], "i2": ["u1"], "i4": ["u1", "i2"], "i8": ["u1", "i2", "i4"]}[result.dtype.str[1:]]
        for name in smaller:
            info = np.iinfo(name)
            assert data.min() < info.min or data.max() > info.max


@settings(deadline=None)
@given(labels=masks())
def test_the_box_of_the_foreground_is_that_of_the_voxels_above_0(labels: NDArray[Any]) -> None:
    voxels = [voxel for voxel in np.ndindex(labels.shape) if int(labels[voxel]) > 0]
    if not voxels:
        assert foreground_box(labels) is None
        return
    axes = list(zip(*voxels, strict=True))
    found = foreground_box(labels)
    assert found == (tuple(min(axis) for axis in axes), tuple(max(axis) + 1 for axis in axes))
    assert all(type(end) is int for ends in found for end in ends)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
@pytest.mark.parametrize("voxel", [(0, 0, 0), (3, 4, 5), (1, 2, 3)])
def test_the_box_of_a_single_voxel(layout: Any, dtype: str, voxel: tuple[int, int, int]) -> None:
    values = np.zeros((4, 5, 6), dtype)
    values[voxel] = True if dtype == "?" else np.iinfo(dtype).max
    expected = voxel, (voxel[0] + 1, voxel[1] + 1, voxel[2] + 1)
    assert foreground_box(laid_out(values, layout)) == expected


@pytest.mark.parametrize("fill", [0, -1, -128])
def test_there_is_no_box_without_labels_above_0(fill: int) -> None:
    assert foreground_box(np.full((4, 5, 6), fill, np.int8)) is None
    assert foreground_box(np.full((4, 5, 6), fill, np.int8)[::-1]) is None


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 0, 3), (3, 3, 0)])
def test_there_is_no_box_without_voxels(shape: tuple[int, int, int]) -> None:
    assert foreground_box(np.zeros(shape, np.uint8, order="F")) is None
