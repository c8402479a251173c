"""The kernels of kernels/statistics.cu, run on the host by the product's launch code, against the CPU's and NumPy's."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from tests.backend.host_device import COMPILER, SANITIZED, HostDevice
from tests.backend.test_cuda_cut import STORED, numbers
from tests.backend.test_emulator import sanitizer_environment
from voxtract.backend.cuda_statistics import DeviceStatistics
from voxtract.compute.moments import BLOCK, Blocks, of_sums
from voxtract.compute.normalize import Statistics

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not on the PATH")


def seen(data: NDArray[Any], size: int | None = None, device: HostDevice | None = None) -> DeviceStatistics:
    """Statistics of a flat array, in pieces of `size` voxels."""

    def pieces() -> Iterator[NDArray[Any]]:
        for begin in range(0, len(data), size or len(data)):
            yield data[begin : begin + (size or len(data))]

    return DeviceStatistics(device or HostDevice(), data.dtype, pieces)


def truth(data: NDArray[Any]) -> tuple[float, float]:
    """Mean and deviation, from exact sums of integers or the blocks in NumPy."""
    if data.dtype.kind in "biu" and data.dtype.itemsize <= 4:
        values = [int(v) for v in data]
        return of_sums(len(values), sum(values), sum(v * v for v in values))
    return Blocks.of(data).moments()


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("size", [None, 2 * BLOCK])
def test_they_are_those_of_the_cpu(dtype: str, size: int | None) -> None:
    data = numbers((30_001,), dtype)
    if data.dtype.kind == "f":  # sums of the largest floats are infinite everywhere
        data[np.abs(data) > 1e4] = np.nan
    here, cpu = seen(data, size, HostDevice(seed=size or 0)), Statistics(data.reshape(1, 1, -1))
    assert here.extent == cpu.extent
    assert here.percentiles == cpu.percentiles
    assert here.moments == cpu.moments == truth(data)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32"])
def test_long_runs_and_full_counters(dtype: str) -> None:
    data = np.full(200_000, 7, dtype)  # more of one value than a counter of 16 bits holds
    data[150_000:] = np.arange(50_000) % 5
    for shared in (227 << 10, 64 << 10):  # 64: not room for all counters in one block
        device = HostDevice(multiprocessors=1, shared_bytes=shared)
        here, cpu = seen(data, None, device), Statistics(data.reshape(1, 1, -1))
        assert (here.extent, here.percentiles, here.moments) == (cpu.extent, cpu.percentiles, cpu.moments)
        assert int(here._digits(8 * data.itemsize - min(16, 8 * data.itemsize), 0).sum()) == len(data)


def test_every_digit_is_counted_as_often_as_it_occurs() -> None:
    data = numbers((50_000,), "int16")
    wanted = np.bincount(data.astype(np.int64) + 32768, minlength=65536)
    for device in (HostDevice(), HostDevice(seed=1, shared_bytes=40 << 10)):
        np.testing.assert_array_equal(seen(data, None, device)._digits(0, 0), wanted)


@settings(max_examples=40, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from(["uint8", "int16", "float32", "int32"]), st.integers(1, 300), elements=st.integers(0, 9)
    ),
    st.integers(0, 3),
)
def test_few_values_at_any_address(data: NDArray[Any], shift: int) -> None:
    data = data[shift:] if len(data) > shift else data
    here, cpu = seen(data), Statistics(data.reshape(1, 1, -1))
    assert (here.extent, here.percentiles, here.moments) == (cpu.extent, cpu.percentiles, cpu.moments)


@pytest.mark.parametrize(
    "data", [np.full(9, np.nan), np.full(9, np.inf, np.float32), np.zeros(0, np.int16), np.zeros(0)]
)
def test_of_nothing_are_zero(data: NDArray[Any]) -> None:
    here = seen(data, 8) if len(data) else DeviceStatistics(HostDevice(), data.dtype, lambda: iter(()))
    assert (here.extent, here.moments, here.percentiles) == ((0, 0), (0, 0), (0, 0))


class TestMoments:
    def test_agree_with_exact_fractions(self) -> None:
        values = np.random.default_rng(0).normal(1e6, 1e-2, 3 * BLOCK + 17)
        mean, std = Blocks.of(values).moments()
        exact = values.astype(np.longdouble)
        assert mean == pytest.approx(float(exact.mean()), rel=1e-15)
        assert std == pytest.approx(float(exact.std()), rel=1e-9)

    def test_do_not_depend_on_the_pieces(self) -> None:
        values = np.random.default_rng(0).normal(0, 1, 9 * BLOCK + 5)
        parts = [Blocks.of(values[i : i + 2 * BLOCK]) for i in range(0, len(values), 2 * BLOCK)]
        assert Blocks.join(parts).moments() == Blocks.of(values).moments()

    def test_of_sums_past_64_bits(self) -> None:
        n, big = 2**33, 2**32 - 1
        assert of_sums(2 * n, n * big, n * big * big) == (big / 2, big / 2)
        assert of_sums(0, 0, 0) == (0.0, 0.0)
        assert of_sums(5, 35, 245) == (7.0, 0.0)
        assert math.isclose(of_sums(3, 6, 14)[1], math.sqrt(2 / 3), rel_tol=1e-15)


@pytest.mark.skipif(SANITIZED, reason="this is the run under sanitizers")
def test_the_same_under_sanitizers() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", "int16 or float32 or float16 or few_values"],
        env=sanitizer_environment(),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert " skipped" not in ran.stdout
