"""Coarser mags against SciPy's mode, block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import stats

from voxtract.errors import InvalidInput
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.dataset import Dataset, Layer
from voxtract.webknossos.downsample import downsample_labels, factor_between, rebuild_mags, touched_chunks
from voxtract.webknossos.mag import Mag


def counted(voxels: NDArray[Any], factor: tuple[int, ...]) -> NDArray[Any]:
    """The same by comparing each voxel of a block with each other one."""
    fx, fy, fz = factor
    cut = [voxels[x::fx, y::fy, z::fz] for x in range(fx) for y in range(fy) for z in range(fz)]
    best, most = cut[0].copy(), np.zeros(cut[0].shape, int)
    for value in cut:
        count = np.sum([value == other for other in cut], axis=0)
        better = (count > most) | ((count == most) & (value < best))
        best[better], most[better] = value[better], count[better]
    return best


def truth(voxels: NDArray[Any], factor: tuple[int, ...]) -> NDArray[Any]:
    out = np.zeros([n // f for n, f in zip(voxels.shape, factor, strict=True)], voxels.dtype)
    for place in np.ndindex(out.shape):
        block = voxels[tuple(slice(n * f, n * f + f) for n, f in zip(place, factor, strict=True))]
        out[place] = stats.mode(block.ravel()).mode
    return out


@given(
    data=st.data(),
    blocks=st.tuples(*[st.integers(0, 3)] * 3),
    factor=st.tuples(*[st.sampled_from([1, 2, 4])] * 3),
    dtype=st.sampled_from(["u1", "u2", "u4", "i8"]),
    order=st.sampled_from("FC"),
)
@settings(max_examples=60)
def test_the_most_frequent_and_of_several_the_smallest(
    data: st.DataObject, blocks: Any, factor: Any, dtype: str, order: Any
) -> None:
    shape = tuple(n * f for n, f in zip(blocks, factor, strict=True))
    values = data.draw(arrays.arrays(dtype, shape, elements=st.sampled_from([0, 1, 2, 100]), fill=st.just(1)))
    voxels = np.array(values, order=order)
    found = downsample_labels(voxels, factor)
    assert found.dtype == voxels.dtype
    np.testing.assert_array_equal(found, truth(voxels, factor))
    np.testing.assert_array_equal(found, counted(voxels, factor))


def test_ids_of_64_bits_stay_whole() -> None:
    big = 2**64 - 1
    voxels = np.array([big, big - 1, big, big - 1, big, 0, 0, 0], "u8").reshape((2, 2, 2), order="F")
    assert downsample_labels(voxels, (2, 2, 1)).ravel(order="F").tolist() == [big - 1, 0]


def test_sides_that_are_no_multiples() -> None:
    with pytest.raises(InvalidInput, match="cannot be cut into blocks"):
        downsample_labels(np.zeros((4, 5, 4), "u1"), (2, 2, 1))


def test_factors_between_mags() -> None:
    assert factor_between(Mag(1), Mag("2-2-1")) == (2, 2, 1)
    assert factor_between(Mag("2-2-1"), Mag("8-4-4")) == (4, 2, 4)
    assert factor_between(Mag("2-2-1"), Mag("2-2-1")) is None
    assert factor_between(Mag("2-2-1"), Mag(1)) is None
    assert factor_between(Mag("4-4-1"), Mag("8-2-2")) is None


@given(
    boxes=st.lists(st.tuples(st.tuples(*[st.integers(0, 40)] * 3), st.tuples(*[st.integers(1, 30)] * 3)), max_size=4),
    chunk=st.tuples(*[st.sampled_from([4, 8, 16])] * 3),
)
def test_chunks_that_boxes_touch(boxes: Any, chunk: Any) -> None:
    marked = np.zeros((80, 80, 80), bool)
    for start, size in boxes:
        marked[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    numbers = {tuple(place) for place in (np.argwhere(marked) // chunk * chunk).tolist()}
    array = np.array([(s, np.add(s, n)) for s, n in boxes], np.int64).reshape((-1, 2, 3))
    found = touched_chunks(array, np.array(chunk))
    assert [tuple(row) for row in found.tolist()] == sorted(numbers, key=lambda place: place[::-1])


def pyramid(folder: Path, data_format: Any, voxels: NDArray[Any]) -> Layer:
    dataset = Dataset.create(folder, (1, 1, 1))
    layer = dataset.add_layer("a", dtype=voxels.dtype, data_format=data_format)
    for mag in ("1", "2-2-1", "4-4-2"):
        layer.add_mag(mag, chunk=(16,) * 3, shard=(32,) * 3)
    layer.get_mag(1).write(voxels, absolute_offset=(16, 0, 32))
    return layer


@pytest.mark.parametrize("data_format", ["zarr3", "wkw"])
def test_all_mags_are_computed_from_the_finest(tmp_path: Path, data_format: Any) -> None:
    voxels = np.random.default_rng(1).integers(0, 3, (72, 40, 24)).astype("u2")
    layer = pyramid(tmp_path / "a", data_format, voxels)
    rebuild_mags(layer.get_mag(1), [layer.get_mag("4-4-2"), layer.get_mag("2-2-1")])
    whole = np.zeros((128, 64, 64), "u2")
    whole[16:88, :40, 32:56] = voxels
    half = counted(whole, (2, 2, 1))
    box = BoundingBox((0, 0, 0), (128, 64, 64))
    np.testing.assert_array_equal(layer.get_mag("2-2-1").read(absolute_bounding_box=box)[0], half)
    quarter = layer.get_mag("4-4-2").read(absolute_bounding_box=box)[0]
    np.testing.assert_array_equal(quarter, counted(half, (2, 2, 2)))


def test_only_what_changed_is_computed(tmp_path: Path) -> None:
    voxels = np.ones((64, 64, 16), "u1")
    layer = pyramid(tmp_path / "a", "zarr3", voxels)
    changed = np.array([[(60, 10, 32), (61, 11, 33)]])
    rebuild_mags(layer.get_mag(1), [layer.get_mag("2-2-1"), layer.get_mag("4-4-2")], changed)
    half = layer.get_mag("2-2-1").read(absolute_offset=(0, 0, 0), size=(128, 64, 64))[0]
    expected = np.zeros((64, 32, 64), "u1")
    expected[16:32, 0:16, 32:48] = 1  # the chunk of mag 2-2-1 around voxel 60, 10, 32
    np.testing.assert_array_equal(half, expected)


def test_mags_that_cannot_be_computed(tmp_path: Path) -> None:
    layer = pyramid(tmp_path / "a", "zarr3", np.ones((16, 16, 16), "u1"))
    with pytest.raises(InvalidInput, match="mag 2-2-1: is no multiple of mag 4-4-2"):
        rebuild_mags(layer.get_mag("4-4-2"), [layer.get_mag("2-2-1")])
    color = layer.dataset.add_layer("color", "color", dtype="u1", num_channels=3)
    with pytest.raises(InvalidInput, match="has 3 channels"):
        rebuild_mags(color.add_mag(1), [])
