"""A module that stands for CuPy where there is no device: its arrays lie on the host, its kernels run in the emulator.

Only what the product uses. `Machine` says what the pretended driver and devices are like.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.backend.host_device import HostDevice


class OutOfMemoryError(MemoryError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


class CUDADriverError(RuntimeError):
    pass


class CompileException(Exception):
    pass


@dataclass
class Machine:
    """What there is: versions as the driver gives them, devices, and bytes that one allocation may have."""

    driver: int = 13000
    runtime: int = 13000
    devices: int = 2
    no_device: str | None = None
    largest: int = 1 << 40
    compiles: bool = True
    uploads: list[int] = field(default_factory=list)
    used: set[int] = field(default_factory=set)


class Array:
    """Device memory: no `numpy.ndarray`, and NumPy cannot look into it."""

    def __init__(self, host: np.ndarray[Any, Any], machine: Machine) -> None:
        self.host, self.machine = host, machine

    def __getattr__(self, name: str) -> Any:
        if name not in ("shape", "dtype", "strides", "flags", "size", "nbytes", "itemsize", "ndim"):
            raise AttributeError(name)
        return getattr(self.host, name)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a device array becomes no NumPy array by itself")

    @property
    def __cuda_array_interface__(self) -> Any:
        return self.host.__array_interface__

    def __dlpack__(self, **words: Any) -> Any:
        return self.host.__dlpack__(**words)

    def __dlpack_device__(self) -> Any:
        return self.host.__dlpack_device__()

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, key: Any) -> Array:
        return Array(self.host[key], self.machine)

    def reshape(self, shape: Any) -> Array:
        return Array(self.host.reshape(shape), self.machine)

    def transpose(self, *axes: Any) -> Array:
        return Array(self.host.transpose(*axes), self.machine)

    def view(self, dtype: Any) -> Array:
        return Array(self.host.view(dtype), self.machine)

    def set(self, host: np.ndarray[Any, Any], stream: Any) -> None:
        assert stream is not None
        self.machine.uploads.append(host.nbytes)
        assert (host.shape, host.dtype) == (self.shape, self.dtype)
        self.host[...] = host

    def get(self, stream: Any, out: np.ndarray[Any, Any], blocking: bool) -> None:
        assert (out.shape, out.dtype) == (self.shape, self.dtype)
        assert stream is not None
        assert not blocking
        out[...] = self.host


def fake_cupy(machine: Machine) -> ModuleType:
    emulator = HostDevice()
    now: list[int] = [0]

    def allocate(make: Any) -> Any:
        def made(shape: Any, dtype: Any) -> Array:
            if np.prod(shape) * np.dtype(dtype).itemsize > machine.largest:
                raise OutOfMemoryError("out of memory")
            machine.used.add(now[-1])
            return Array(make(shape, dtype), machine)

        return made

    class Device:
        def __init__(self, index: int) -> None:
            self.attributes = {"MultiProcessorCount": 3, "MaxSharedMemoryPerBlockOptin": 227 << 10}
            assert 0 <= index < machine.devices
            self.index = index
            self.mem_info = (10**9, 2 * 10**9)

        def __enter__(self) -> Device:
            now.append(self.index)
            return self

        def __exit__(self, *_: object) -> None:
            now.pop()

    class Stream:
        def __init__(self, non_blocking: bool) -> None:
            assert non_blocking

        def __enter__(self) -> Stream:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def synchronize(self) -> None:
            pass

    class Pool:
        def set_limit(self, size: int) -> None:
            self.limit = size

        def get_limit(self) -> int:
            return self.limit

        def used_bytes(self) -> int:
            return 0

        def free_all_blocks(self) -> None:
            pass

        def malloc(self, size: int) -> None:
            raise AssertionError(f"CuPy alone asks the pool for {size} bytes")

    class RawModule:
        def __init__(self, code: str, options: tuple[str, ...]) -> None:
            if not machine.compiles:
                raise CompileException("cut.cu(1): error: this is too new\nand more")
            self.get = emulator.load(code, options)

        def get_function(self, name: str) -> Any:
            class Function:
                max_dynamic_shared_size_bytes = 48 << 10

                def __call__(self, grid: Any, block: Any, args: Any, shared_mem: int) -> None:
                    assert shared_mem <= self.max_dynamic_shared_size_bytes
                    plain = tuple(one.host if isinstance(one, Array) else one for one in args)
                    emulator.start(function, grid, block, plain, shared_mem)

            function = self.get(name)
            return Function()

    @contextmanager
    def using_allocator(_malloc: Any) -> Iterator[None]:
        yield

    def device_count() -> int:
        if machine.no_device is not None:
            raise CUDARuntimeError(machine.no_device)
        return machine.devices

    module: Any = ModuleType("cupy")
    module.__spec__ = ModuleSpec("cupy", None)
    module.__version__ = "14.2.0"
    module.empty, module.zeros = allocate(emulator.empty), allocate(emulator.zeros)
    module.ascontiguousarray = lambda a: a if a.flags.c_contiguous else Array(np.ascontiguousarray(a.host), machine)
    module.asnumpy = lambda array: array.host.copy()
    module.RawModule = RawModule
    module.cuda = SimpleNamespace(
        Device=Device,
        Stream=Stream,
        Event=lambda: SimpleNamespace(record=lambda _stream: None, synchronize=lambda: None),
        MemoryPool=Pool,
        using_allocator=using_allocator,
        alloc_pinned_memory=bytearray,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        compiler=SimpleNamespace(CompileException=CompileException),
        driver=SimpleNamespace(CUDADriverError=CUDADriverError),
        runtime=SimpleNamespace(
            driverGetVersion=lambda: machine.driver,
            runtimeGetVersion=lambda: machine.runtime,
            getDeviceCount=device_count,
            getDeviceProperties=lambda _index: {"name": b"Pretended device", "totalGlobalMem": 2 * 10**9},
            CUDARuntimeError=CUDARuntimeError,
        ),
    )
    checked: ModuleType = module
    return checked


def install(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Machine:
    """Put the fake in the place of CuPy until the test ends."""
    from voxtract.backend import cuda, launch

    for cached in (cuda.backend, launch.compiled, launch._loaded):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(machine))
    return machine
