"""The component kernels and their launch code on host memory; shapes and orders of threads in which they could err."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.cases import CONTENTS, content
from tests import oracles
from tests.backend.host_device import COMPILER, SANITIZED, HostDevice
from tests.backend.test_emulator import sanitizer_environment
from tests.strategies import LABEL_DTYPES, LAYOUTS, Layout, laid_out, masks
from voxtract.backend import cuda_components as module
from voxtract.backend.cuda_components import find_components
from voxtract.compute import components as cpu
from voxtract.compute.components import Extent, Objects
from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, Plane, View
from voxtract.model import Components

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not on the PATH")
WAYS: list[tuple[Extent, int]] = [("slice", 1), ("slice", 2), ("volume", 1), ("volume", 2), ("volume", 3)]
OBJECTS: tuple[Objects, ...] = ("components", "labels")
# The run under sanitizers is ten times as slow, and most of what differs between these is the same to it.
DTYPES = ("u1", "i8") if SANITIZED else LABEL_DTYPES
SEEDS = (1,) if SANITIZED else (1, 2, 3)
ORDERS: tuple[Layout, ...] = ("F",) if SANITIZED else ("F", "C")
HOST = HostDevice()
devices = st.integers(0, 2**20).map(HostDevice)


def assert_same(found: Components, expected: Components) -> None:
    for name in ("start", "stop", "label", "count", "total"):
        mine, other = getattr(found, name), getattr(expected, name)
        assert mine.dtype == other.dtype
        assert mine.tolist() == other.tolist()


def check(device: HostDevice, labels: NDArray[Any], view: View, extent: Extent, reach: int, objects: Objects) -> None:
    found = find_components(device, labels, view, extent=extent, connectivity=reach, objects=objects, mass=True)
    assert_same(found, cpu.find_components(labels, view, extent=extent, connectivity=reach, objects=objects, mass=True))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", CONTENTS)
def test_every_content_equals_the_cpu(name: str, view: View, order: Layout) -> None:
    labels = laid_out(content(name, (45, 37, 9)), order)
    for extent, reach in WAYS:
        for objects in OBJECTS:
            check(HOST, labels, view, extent, reach, objects)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["atlas", "noise50", "checkerboard"])
def test_the_flood_fill_finds_the_same(name: str, view: View) -> None:
    labels = content(name, (35, 11, 5))
    for extent, reach in WAYS:
        found = find_components(HOST, labels, view, extent=extent, connectivity=reach, mass=True)
        assert found.total is not None
        columns = (found.start, found.stop, found.label, found.count, found.total)
        got = list(zip(*(column.tolist() for column in columns), strict=True))
        truth = oracles.components(labels, view, extent, reach)
        assert got == [(list(one.start), list(one.stop), one.label, one.count, list(one.total)) for one in truth]


@pytest.mark.parametrize("layout", ORDERS if SANITIZED else LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_memory_layout(dtype: str, layout: Layout) -> None:
    rng = np.random.default_rng(5)
    for shape, share in (((33, 6, 5), 0.5), ((64, 5, 4), 0.1), ((70, 3, 34), 0.9)):
        labels = laid_out(((rng.random(shape) < share) * rng.integers(1, 4, shape)).astype(dtype), layout)
        for view in VIEWS:
            check(HOST, labels, view, "slice", 2, "components")
            check(HOST, labels, view, "volume", 3, "components")
            check(HOST, labels, view, "slice", 2, "labels")


@settings(deadline=None, max_examples=20 if SANITIZED else 100)
@given(
    device=devices,
    labels=masks(max_side=40, dtypes=DTYPES),
    view=st.sampled_from(VIEWS),
    way=st.sampled_from(WAYS),
    objects=st.sampled_from(OBJECTS),
)
def test_any_mask_in_any_order_of_threads(
    device: HostDevice, labels: NDArray[Any], view: View, way: tuple[Extent, int], objects: Objects
) -> None:
    check(device, labels, view, *way, objects)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["atlas", "noise50", "organ_blobs"])
def test_blocks_that_run_at_once_do_not_disturb_each_other(name: str, seed: int, view: View) -> None:
    """More words and runs than a block or tile takes, so that blocks join what other blocks join."""
    labels = content(name, (70, 67, 20))
    check(HostDevice(seed), labels, view, "slice", 2, "components")
    check(HostDevice(seed), labels, view, "volume", 3, "components")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", [1] if SANITIZED else [0, 1])
@pytest.mark.parametrize("name", ["noise50", "checkerboard"])
def test_slices_with_more_runs_than_shared_memory_holds(name: str, seed: int, order: Layout) -> None:
    """8 000 runs in a slice need the spill, and first more room in it; thousands of components rank by marks."""
    labels = laid_out(content(name, (128, 127, 2)), order)
    for reach in (1, 2):
        check(HostDevice(seed), labels, "axial", "slice", reach, "components")


@pytest.mark.parametrize("name", ["atlas", "noise50", "checkerboard"])
@pytest.mark.parametrize("view", VIEWS)
def test_rows_of_slices_leave_the_device_in_raster_order(name: str, view: View) -> None:
    labels = content(name, (70, 50, 5))
    lattice = module._Lattice.of((2, 1, 0), Plane(view, (70, 50, 5)), "slice")
    rows = module._Search(HostDevice(1), np.ascontiguousarray(labels.T), lattice, "slice", 1, "components").run()
    raster = ~rows[:, 6]
    assert len(raster) > 5
    assert (raster[1:] > raster[:-1]).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_few_large_slices_are_spread_over_the_device(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(module, "_LARGE_SLICE", 1)
    device = HostDevice(seed, multiprocessors=1000)
    labels = content("atlas", (128, 90, 5))
    for view in VIEWS:
        search = module._Search(
            device,
            labels.T,
            module._Lattice.of((2, 1, 0), Plane(view, labels.shape), "slice"),
            "slice",
            1,
            "components",
        )
        assert search._are_slices_few_and_large()
        check(device, labels, view, "slice", 1, "components")
        check(device, labels, view, "slice", 2, "components")


@pytest.mark.parametrize("columns", [31, 32, 33, 63, 64, 65])
@pytest.mark.parametrize("dtype", ["u1", "i8"] if SANITIZED else ["u1", "i2", "i8"])
def test_runs_do_not_cross_lines_or_words(columns: int, dtype: str) -> None:
    labels = np.zeros((columns, 5, 4), dtype, order="F")
    labels[[0, -1]] = 1
    labels[28:34] = 2
    for view in VIEWS:
        check(HOST, labels, view, "slice", 2, "components")
        check(HOST, labels, view, "volume", 1, "components")
    labels[:, [0, -1]] = 3
    for view in VIEWS:
        check(HOST, labels, view, "slice", 1, "components")


@pytest.mark.parametrize("view", VIEWS)
def test_a_snake_that_needs_many_unions(view: View) -> None:
    comb = np.zeros((65, 64), np.uint8)
    comb[:, ::2] = 1
    comb[0, 1::4] = comb[-1, 3::4] = 1
    row, column, index = oracles.AXES[view]
    for turned in (comb, comb.T, comb[::-1], comb[:, ::-1]):
        shape = [2, 2, 2]
        shape[row], shape[column] = turned.shape
        labels = np.zeros(shape, np.uint8, order="F")
        np.moveaxis(labels, (row, column, index), (0, 1, 2))[:, :, 1] = turned
        for seed in range(3):
            check(HostDevice(seed), labels, view, "slice", 2, "components")
            check(HostDevice(seed), labels, view, "volume", 1, "components")


@pytest.mark.parametrize("objects", OBJECTS)
def test_little_room_at_first_changes_nothing(monkeypatch: pytest.MonkeyPatch, objects: Objects) -> None:
    """Rows, copied rows and runs each too few, in turn; the checkerboard has far more runs than there is room for."""
    for rows, copied in ((1, 1), (3, 2), (1000, 5), (10**5, 10**5)):
        monkeypatch.setattr(module, "_ROWS", rows)
        monkeypatch.setattr(module, "_COPIED", copied)
        for name in ("empty", "one_voxel", "atlas", "checkerboard"):
            check(HOST, content(name, (40, 35, 3)), "axial", "slice", 1, objects)


def test_wide_labels_keep_their_dtype_and_every_bit() -> None:
    ids = np.array([2**64 - 1, 2**63, 2**53 + 1, 2**53], np.uint64)
    labels = np.zeros((4, 2, 2), np.uint64)
    labels[:, 0, 0] = ids
    for objects in OBJECTS:
        found = find_components(HOST, labels, "axial", objects=objects)
        assert found.label.dtype == np.uint64
        assert found.label.tolist() == ids.tolist()


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 0, 4), (4, 4, 0), (0, 0, 0)])
def test_a_volume_without_voxels(shape: tuple[int, int, int]) -> None:
    for extent in ("slice", "volume"):
        labels = np.zeros(shape, np.uint16)
        assert_same(
            find_components(HOST, labels, "axial", extent=extent, mass=True),
            cpu.find_components(labels, "axial", extent=extent, mass=True),
        )


def test_sums_are_none_unless_asked_for() -> None:
    assert find_components(HOST, np.ones((2, 2, 2), np.uint8), "axial").total is None


def test_offsets_past_two_to_the_32() -> None:
    """Few lines of a volume, far apart in memory that is never touched in between."""
    far = 2**31 + 48
    labels = np.zeros(2 * far + 200, np.uint8)
    for slice_ in (0, 2):
        labels[slice_ * far + 30 : slice_ * far + 40] = labels[slice_ * far + 100 + 39] = 7
    weight = (2**40, 2**33, 1)
    lattice = module._Lattice(axes=(2, 1, 0), size=(3, 2, 90), step=(far, 100, 1), weight=weight)
    rows = module._Search(HOST, labels, lattice, "slice", 2, "components").run()
    found = lattice.components(rows, labels.dtype, mass=True)
    assert found.start.tolist() == [[30, 0, 0], [30, 0, 2]]
    assert found.stop.tolist() == [[40, 2, 1], [40, 2, 3]]
    assert found.count.tolist() == [11, 11]
    assert (~rows[:, 6]).tolist() == [30, 2**41 + 30]


@pytest.mark.parametrize(
    ("labels", "arguments", "words"),
    [
        (np.zeros((2, 2)), {}, r"2 axes \(2, 2\).*\(x, y, z\)"),
        (np.zeros((2, 2, 2)), {}, "float64.*integers or bool"),
        (np.zeros((2, 2, 2), int), {"view": "oblique"}, "'oblique'.*'axial', 'coronal', 'sagittal'"),
        (np.zeros((2, 2, 2), int), {"extent": "plane"}, "'plane'.*'slice', 'volume'"),
        (np.zeros((2, 2, 2), int), {"objects": "things"}, "'things'.*'components', 'labels'"),
        (np.zeros((2, 2, 2), int), {"connectivity": 3}, "connectivity 3 in a slice; allowed: 1, 2$"),
    ],
)
def test_errors_are_those_of_the_cpu(labels: NDArray[Any], arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        find_components(HOST, labels, **({"view": "axial"} | arguments))


@pytest.mark.skipif(SANITIZED, reason="this is the run under sanitizers")
def test_all_of_it_under_the_sanitizers() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider", __file__],
        env=sanitizer_environment(),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
