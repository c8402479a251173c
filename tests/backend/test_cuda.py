"""The CUDA backend against the CPU's, on a pretended device: memory, streams and slabs are the product's own code."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.backend import fake_cupy
from tests.backend.fake_cupy import Machine
from tests.backend.host_device import COMPILER
from tests.backend.test_cuda_cut import laid_out, numbers, rule_of, same_bits
from voxtract.backend import cuda, launch
from voxtract.backend.cpu import CPU
from voxtract.backend.cuda import CUDABackend
from voxtract.compute.normalize import PixelRule
from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, Plane, View
from voxtract.model import Components

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not on the PATH")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield fake_cupy.install(monkeypatch, Machine())
    for cached in (cuda.backend, launch.compiled, launch._loaded):
        cached.cache_clear()


def same_rows(mine: Components, theirs: Components) -> None:
    for one in fields(Components):
        a, b = getattr(mine, one.name), getattr(theirs, one.name)
        np.testing.assert_array_equal(a, b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)


FIND: dict[str, Any] = {"connectivity": None, "objects": "components", "mass": True}


@pytest.mark.parametrize("view", VIEWS)
def test_results_are_the_cpus(view: View, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "STAGING", 1000)  # many pieces through the two buffers
    monkeypatch.setattr(cuda, "TOGETHER", 5000)
    device = CUDABackend()
    for order, flips in itertools.product(((2, 1, 0), (0, 1, 2)), ((False, False, False), (True, False, True))):
        data = laid_out(numbers((21, 22, 23), "int16"), order, flips)
        rule = rule_of(data, 2.0, 1.0)
        there = device.to_device(data)
        assert not isinstance(there, np.ndarray)
        assert there.strides == data.strides
        plane = Plane(view, data.shape, (32, 40))
        same_bits(device.cut(there, plane, 2, 19, rule), CPU.cut(data, plane, 2, 19, rule))
        seen, wanted = device.statistics(there), CPU.statistics(data)
        assert (seen.extent, seen.percentiles) == (wanted.extent, wanted.percentiles)
        labels = data // 20_000
        extents: tuple[Literal["slice", "volume"], ...] = ("slice", "volume")
        for extent in extents:
            mine = device.find_components(device.to_device(labels), view, extent=extent, **FIND)
            same_rows(mine, CPU.find_components(labels, view, extent=extent, **FIND))
    assert max(machine.uploads) <= 1000


@pytest.mark.parametrize("view", VIEWS)
def test_what_does_not_fit_goes_through_in_slabs(
    view: View, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = CUDABackend()
    machine.largest = 1_600_000
    monkeypatch.setattr(cuda, "SLAB", 500_000)
    data = np.asfortranarray(numbers((70, 71, 73), "int16"))
    caplog.set_level("INFO", "voxtract")
    assert not isinstance(device.to_device(data), np.ndarray)
    whole = np.asfortranarray(np.concatenate([data, data, data], axis=0))
    there = device.to_device(whole)
    assert isinstance(there, np.ndarray)
    assert "done in slabs" in caplog.text
    plane, rule = Plane(view, whole.shape), rule_of(whole, 2.0)
    same_bits(device.cut(there, plane, 1, plane.count, rule), CPU.cut(whole, plane, 1, plane.count, rule))
    assert device.statistics(there).extent == CPU.statistics(whole).extent
    machine.largest = 1 << 30
    here = device.statistics(device.to_device(whole))
    machine.largest = 1_600_000
    assert device.statistics(there).moments == here.moments
    labels = np.asfortranarray(whole // 20_000)
    mine = device.find_components(labels, view, extent="slice", **FIND)
    same_rows(mine, CPU.find_components(labels, view, extent="slice", **FIND))
    with pytest.raises(InvalidInput, match=r"2 MB of the volume on the device at once, which has \d+ MB free.*fewer"):
        device.find_components(labels, view, extent="volume", **FIND)
    machine.largest = 10
    with pytest.raises(
        InvalidInput, match=r"one slice needs about .* MB on the device, which has 1000 MB free; use fewer"
    ):
        device.cut(there, plane, 0, 3, rule)


def test_many_threads_share_a_device(machine: Machine) -> None:
    device = CUDABackend()
    data = np.asfortranarray(numbers((20, 21, 22), "uint8"))
    there, rule = device.to_device(data), rule_of(data)
    plane = Plane("coronal", data.shape)

    def one(index: int) -> NDArray[Any]:
        return device.cut(there, plane, index, index + 1, rule)

    one(0)
    streams = set()

    def stream(_: int) -> None:
        with device.turn() as mine:
            streams.add(id(mine))

    with ThreadPoolExecutor(1) as pool:
        images = list(pool.map(one, range(21)))
        list(pool.map(stream, range(3)))
    stream(0)
    assert len(streams) == 2
    np.testing.assert_array_equal(np.concatenate(images), CPU.cut(data, plane, 0, 21, rule))


def test_wide_floats_become_float64(machine: Machine) -> None:
    device = CUDABackend()
    data = np.asfortranarray(np.random.default_rng(0).normal(0, 9, (5, 6, 7)).astype(np.longdouble))
    there, rule = device.to_device(data), rule_of(data, 3.0)
    assert there.dtype == np.float64
    plane = Plane("axial", data.shape)
    same_bits(device.cut(there, plane, 0, 7, rule), CPU.cut(data, plane, 0, 7, rule))
    big_endian = data.astype(">i2")
    assert device.to_device(big_endian).dtype == np.dtype("<i2")


def test_images_stay_on_the_device_for_those_who_go_on_there(machine: Machine) -> None:
    device = CUDABackend()
    data = numbers((5, 6, 7), "uint8")
    rule: PixelRule = rule_of(data)
    images = device.cut_on_device(device.to_device(data), Plane("axial", data.shape), 0, 7, rule)
    assert not isinstance(images, np.ndarray)
    np.testing.assert_array_equal(images.host, data.transpose(2, 0, 1))


def test_arguments_that_do_not_belong_together(machine: Machine) -> None:
    device = CUDABackend()
    data = numbers((5, 6, 7), "uint8")
    for there in (data, device.to_device(data)):
        with pytest.raises(InvalidInput, match="slices 3 to 2"):
            device.cut(there, Plane("axial", data.shape), 3, 2, rule_of(data))
        assert device.cut(there, Plane("axial", data.shape), 2, 2, rule_of(data)).shape == (0, 5, 6)
