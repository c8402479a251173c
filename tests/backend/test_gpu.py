"""What only a device can show: the same kernels on CUDA against the CPU backend, and CuPy's and cuCIM's second opinion.

Without a device these are skipped; with ``VOXTRACT_REQUIRE_GPU=1`` that is a failure.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any, Literal

import numpy as np
import pytest

from benchmarks.cases import CONTENTS, content
from tests.backend.test_cuda_cut import PAIRS, laid_out, numbers, rule_of, same_bits
from tests.backend.test_cuda_statistics import truth
from voxtract.backend import Backend, select
from voxtract.backend.cpu import CPU
from voxtract.errors import BackendUnavailable
from voxtract.geometry import VIEWS, Plane, View
from voxtract.model import Components

pytestmark = pytest.mark.gpu

ORDERS = ((2, 1, 0), (0, 1, 2), (1, 2, 0))  # Fortran, C, and one that is neither


def need(why: str) -> None:
    if os.environ.get("VOXTRACT_REQUIRE_GPU") == "1":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def device() -> Any:
    chosen: Backend | None = None
    try:
        chosen = select("cuda")
    except BackendUnavailable as why:
        need(str(why))
    return chosen


@pytest.mark.parametrize(("stored", "pixels"), sorted(PAIRS))
def test_slices_of_every_dtype(device: Any, stored: str, pixels: str) -> None:
    plain = numbers((130, 67, 96), stored)
    for view, order, scale in itertools.product(VIEWS, ORDERS, ((1.0, 0.0), (-0.37, 12.5))):
        data = laid_out(plain, order, (order[0] == 1, False, False))
        there, rule = device.to_device(data), rule_of(data, *scale, dtype=pixels, pad_value=3)
        for target in (None, (144, 160)):
            plane = Plane(view, data.shape, target)
            with np.errstate(invalid="ignore", over="ignore"):
                wanted = CPU.cut(data, plane, 1, plane.count, rule)
            same_bits(device.cut(there, plane, 1, plane.count, rule), wanted)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint64", "float16", "float32", "float64"])
def test_statistics(device: Any, dtype: str) -> None:
    data = numbers((128, 101, 64), dtype)
    if data.dtype.kind == "f":
        data[np.abs(data) > 1e4] = np.nan
    data[:, :50] = 7
    for order in ORDERS:
        laid = laid_out(data, order)
        seen, wanted = device.statistics(device.to_device(laid)), CPU.statistics(laid)
        assert (seen.extent, seen.percentiles) == (wanted.extent, wanted.percentiles)
        assert seen.moments == truth(np.ascontiguousarray(laid.transpose(order)).reshape(-1))


@pytest.mark.parametrize("name", list(CONTENTS))
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32"])
def test_components(device: Any, name: str, view: View, dtype: str) -> None:
    extents: tuple[Literal["slice", "volume"], ...] = ("slice", "volume")
    labels = content(name, (131, 96, 40), dtype)
    there = device.to_device(labels)
    for extent, connectivity in itertools.product(extents, (None, 1)):
        how: dict[str, Any] = {"extent": extent, "connectivity": connectivity, "objects": "components", "mass": True}
        mine = device.find_components(there, view, **how)
        wanted = CPU.find_components(labels, view, **how)
        for one in fields(Components):
            np.testing.assert_array_equal(getattr(mine, one.name), getattr(wanted, one.name))


def test_components_as_cupy_and_cucim_count_them(device: Any) -> None:
    ndimage = pytest.importorskip("cupyx.scipy.ndimage")
    labels = content("organ_blobs", (128, 128, 40))
    there = device.to_device(labels)
    how: dict[str, Any] = {"extent": "volume", "connectivity": None, "objects": "components", "mass": False}
    found = device.find_components(there, "axial", **how)
    numbered, count = ndimage.label(there, np.ones((3, 3, 3)))
    assert len(found) == int(count)
    try:
        from cucim.skimage.measure import regionprops_table
    except ImportError:
        return  # benchmarks/gpu.py records whether it was there
    table = regionprops_table(numbered, properties=("bbox", "area"))
    boxes = np.column_stack([table[f"bbox-{i}"].get() for i in range(6)])
    mine = np.column_stack([found.start, found.stop])
    assert sorted(map(tuple, boxes.tolist())) == sorted(map(tuple, mine.tolist()))


def test_volumes_past_2_to_the_31_voxels(device: Any) -> None:
    import cupy

    shape = (1300, 1300, 1300)  # 2.2e9
    if cupy.cuda.Device().mem_info[0] < 8 * np.prod(shape, dtype=np.int64):
        pytest.skip("needs 18 GB of free device memory")
    data = cupy.zeros(shape[::-1], cupy.uint8).T
    data[3, 1200:, -1] = 9
    cupy.cuda.Device().synchronize()  # the backend's streams do not wait for this one
    rule = rule_of(np.zeros((1, 1, 1), np.uint8))
    for view in VIEWS:
        plane = Plane(view, shape)
        index = (3, 1299, 1299)[plane.axes[2]]
        image = device.cut(data, plane, index, index + 1, rule)[0]
        wanted = {"axial": data[:, :, -1], "coronal": data[:, -1, :], "sagittal": data[3]}[view]
        np.testing.assert_array_equal(image, wanted.get())
        found = device.find_components(data, view, extent="volume", connectivity=None, objects="components", mass=False)
        assert (found.start.tolist(), found.count.tolist()) == ([[3, 1200, 1299]], [100])
    assert device.statistics(data).extent == (0.0, 9.0)


def test_threads_in_flight_do_not_meet(device: Any) -> None:
    def one(seed: int) -> bool:
        data = np.asfortranarray(numbers((200, 190, 60), "int16", seed))
        plane, rule = Plane("sagittal", data.shape, (256, 256)), rule_of(data, 0.5)
        return bool(
            (device.cut(device.to_device(data), plane, 0, 200, rule) == CPU.cut(data, plane, 0, 200, rule)).all()
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(24)))
