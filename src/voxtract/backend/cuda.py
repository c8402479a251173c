"""The CUDA backend: CuPy's memory and streams around the kernels, and whether there is a device at all.

One stream and one pair of staging buffers per thread, so that the volumes of several workers are in flight at once.
All of them take their memory from one pool, which has a cap. A volume that does not fit stays on the host, and goes
through the device in slabs.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from voxtract.backend import cuda_components, cuda_cut, launch
from voxtract.backend.cuda_cut import Memory
from voxtract.backend.cuda_statistics import DeviceStatistics
from voxtract.compute.moments import BLOCK
from voxtract.errors import BackendUnavailable, InvalidInput
from voxtract.geometry import Plane, View
from voxtract.model import Components

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.compute.normalize import PixelRule, Statistics

log = logging.getLogger("voxtract")

POOL = 0.9  # of the device's memory, at most; the rest is for other programs and CUDA itself
STAGING = 8 << 20  # bytes of each staging buffer: 0.15 ms of PCIe 5, so that starting a copy costs little of it
SLAB = 256 << 20  # bytes of a slab of a volume that does not fit the device
TOGETHER = 64 << 20  # bytes of images cut at once


class CUDABackend:
    """A CUDA device; see `voxtract.backend.Backend`. Threads may share it.

    Parameters
    ----------
    index : int
        Which device, of those that ``CUDA_VISIBLE_DEVICES`` leaves.

    Notes
    -----
    Its streams do not wait for others: what somebody else put on the device must be complete before it is given here.

    Raises
    ------
    BackendUnavailable
        Says what is missing and what to do.
    """

    name: Literal["cuda"] = "cuda"

    def __init__(self, index: int = 0) -> None:
        why = absence(index)
        if why is not None:
            raise BackendUnavailable(why)
        import cupy

        self._cupy = cupy
        self._index = index
        with cupy.cuda.Device(index) as device:
            self._pool = cupy.cuda.MemoryPool()
            self._pool.set_limit(size=int(POOL * device.mem_info[1]))
        self._device = _WorkDevice(self)
        self._of_thread = threading.local()
        self._try_to_compile()

    @property
    def description(self) -> str:
        """Name of the device, its memory, and the CuPy that drives it."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self._index)
        memory_gb = properties["totalGlobalMem"] / 1e9
        return f"{properties['name'].decode()}, {memory_gb:.0f} GB, CuPy {self._cupy.__version__}"

    def to_device(self, data: NDArray[Any]) -> Any:
        """Bring voxels (x, y, z) to the device; where they do not fit, return them as they are, to be done in slabs.

        Notes
        -----
        Waits until they are there: any thread may use them. Floats wider than 64 bits become float64.
        """
        data = np.asarray(data)
        dtype = np.dtype(np.float64) if data.dtype.itemsize > 8 else data.dtype.newbyteorder("=")
        try:
            with self.turn():
                return self._upload(data, dtype)
        except self._cupy.cuda.memory.OutOfMemoryError:
            free, needed = self._free(), data.size * dtype.itemsize
            log.info(
                "a volume of %.0f MB does not fit the %.0f MB free on the device: done in slabs",
                needed / 1e6,
                free / 1e6,
            )
            return data.astype(dtype, copy=False)

    def statistics(self, data: Any) -> Statistics:
        """See `voxtract.backend.cuda_statistics.DeviceStatistics`."""
        if not isinstance(data, np.ndarray):
            return DeviceStatistics(self._device, data.dtype, lambda: [Memory.of(self._device, data).flat])

        def pieces() -> Iterator[Any]:
            order = sorted(range(3), key=lambda axis: -abs(data.strides[axis]))
            forwards = data[tuple(slice(None, None, -1 if stride < 0 else 1) for stride in data.strides)]
            flat = np.ascontiguousarray(forwards.transpose(order)).reshape(-1)
            step = SLAB // data.itemsize // BLOCK * BLOCK
            for begin in range(0, len(flat), step):
                yield self._slab(flat[begin : begin + step])

        return DeviceStatistics(self._device, data.dtype, pieces)

    def cut(self, data: Any, plane: Plane, first: int, last: int, rule: PixelRule) -> NDArray[Any]:
        """Slices ``first <= i < last`` as (n, height, width) pixels on the host, in pinned memory of their own."""
        cuda_cut.check(data, plane, first, last, rule)
        host = self._pinned((last - first, *plane.size), rule.dtype)
        image_bytes = max(1, math.prod(plane.size) * rule.dtype.itemsize)
        slice_bytes = max(1, plane.rows * plane.columns * data.dtype.itemsize)
        on_host = isinstance(data, np.ndarray)
        step = max(1, min(TOGETHER // image_bytes, SLAB // slice_bytes if on_host else last - first))

        def part(begin: int, end: int) -> None:
            if isinstance(data, np.ndarray):
                piece, whole = self._slices(data, plane, begin, end)
                pixels = cuda_cut.cut(self._device, piece, whole, 0, end - begin, rule)
            else:
                pixels = cuda_cut.cut(self._device, data, plane, begin, end, rule)
            self._device.download(pixels, host[begin - first : end - first])

        for begin in range(first, last, step):
            self._within_memory(part, begin, min(begin + step, last), image_bytes + slice_bytes)
        self.wait()
        return host

    def cut_on_device(self, data: Any, plane: Plane, first: int, last: int, rule: PixelRule) -> Any:
        """Slices as a device array, for users that go on there (DLPack); on their stream and from their memory pool."""
        if isinstance(data, np.ndarray):  # the volume did not fit: only what these slices need is brought over
            data, plane = self._slices(data, plane, first, last)
            self.wait()
            first, last = 0, last - first
        return cuda_cut.cut(launch.CuPyDevice(self._index), data, plane, first, last, rule)

    def find_components(
        self,
        labels: Any,
        view: View,
        *,
        extent: Literal["slice", "volume"],
        connectivity: int | None,
        objects: Literal["components", "labels"],
        mass: bool,
    ) -> Components:
        """See `voxtract.backend.cuda_components.find_components`."""

        def find(piece: Any) -> Components:
            return cuda_components.find_components(
                self._device, piece, view, extent=extent, connectivity=connectivity, objects=objects, mass=mass
            )

        if not isinstance(labels, np.ndarray):
            with self.turn():
                return find(labels)
        if extent == "volume":
            raise InvalidInput(
                f"3D components need the {labels.nbytes / 1e6:.0f} MB of the volume on the device at once, which has "
                f"{self._free() / 1e6:.0f} MB free; use fewer workers, or backend='cpu' (--backend cpu)"
            )
        plane = Plane(view, (labels.shape[0], labels.shape[1], labels.shape[2]))
        slice_bytes = max(1, plane.rows * plane.columns * labels.itemsize)
        step = max(1, SLAB // slice_bytes)
        parts: list[Components] = []

        def part(begin: int, end: int) -> None:
            piece, _ = self._slices(labels, plane, begin, end)
            parts.append(_moved(find(piece), plane.axes[2], begin))

        for begin in range(0, plane.count, step):
            self._within_memory(part, begin, min(begin + step, plane.count), slice_bytes)
        return Components.join(parts)

    @contextmanager
    def turn(self) -> Iterator[Any]:
        """Make this thread's stream and the pool the current ones."""
        stream = getattr(self._of_thread, "stream", None)
        with self._cupy.cuda.Device(self._index):
            if stream is None:
                stream = self._of_thread.stream = self._cupy.cuda.Stream(non_blocking=True)
            with stream, self._cupy.cuda.using_allocator(self._pool.malloc):
                yield stream

    def wait(self) -> None:
        """Wait for what this thread launched."""
        with self.turn() as stream:
            stream.synchronize()

    def _try_to_compile(self) -> None:
        """Build one small kernel and run it: a driver that is too old for the compiler is met here, not in a run."""
        try:
            voxels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
            low, high = self.statistics(self.to_device(voxels)).extent
        except self._foreign() as why:
            raise BackendUnavailable(
                f"the CUDA kernels do not compile or run on {self.description}: {_first_line(why)}; update the driver, "
                "or install the extra that matches it: voxtract[cuda12] or voxtract[cuda13]"
            ) from why
        if (low, high) != (0.0, 7.0):
            raise BackendUnavailable(
                f"{self.description} computes wrongly: found {low} and {high} in the numbers 0 to 7"
            )

    def _foreign(self) -> tuple[type[BaseException], ...]:
        """What CuPy raises where a kernel cannot be built or run; some of its names moved between versions."""
        cuda = self._cupy.cuda
        return (
            cuda.compiler.CompileException,
            cuda.runtime.CUDARuntimeError,
            cuda.driver.CUDADriverError,
            cuda.memory.OutOfMemoryError,
            ImportError,  # NVRTC, which is loaded at its first use
        )

    def _free(self) -> int:
        with self._cupy.cuda.Device(self._index) as device:
            return int(min(device.mem_info[0], self._pool.get_limit() - self._pool.used_bytes()))

    def _within_memory(self, work: Callable[[int, int], None], begin: int, end: int, slice_bytes: int) -> None:
        """Do some slices, half as many at a time as long as memory runs out.

        Raises
        ------
        InvalidInput
            There is not memory for one slice.
        """
        try:
            with self.turn():
                work(begin, end)
        except self._cupy.cuda.memory.OutOfMemoryError as why:
            self.wait()
            self._pool.free_all_blocks()
            if end - begin <= 1:
                raise InvalidInput(
                    f"one slice needs about {slice_bytes / 1e6:.0f} MB on the device, which has "
                    f"{self._free() / 1e6:.0f} MB free; use fewer workers, or backend='cpu' (--backend cpu)"
                ) from why
            middle = (begin + end) // 2
            self._within_memory(work, begin, middle, slice_bytes)
            self._within_memory(work, middle, end, slice_bytes)

    def _slices(self, data: NDArray[Any], plane: Plane, begin: int, end: int) -> tuple[Any, Plane]:
        """Bring some slices of a volume on the host to the device, with a plane of their own."""
        where: list[slice] = [slice(None)] * 3
        where[plane.axes[2]] = slice(begin, end)
        piece = data[tuple(where)]
        return self._upload(piece, data.dtype), replace(plane, shape=piece.shape)

    def _slab(self, flat: NDArray[Any]) -> Any:
        with self.turn():
            return self._upload(flat, flat.dtype)

    def _upload(self, data: NDArray[Any], dtype: np.dtype[Any]) -> Any:
        """Copy to the device through two pinned buffers in turn, in the order the voxels lie in memory; waits."""
        backwards = tuple(slice(None, None, -1 if stride < 0 else 1) for stride in data.strides)
        order = sorted(range(data.ndim), key=lambda axis: (-abs(data.strides[axis]), -data.shape[axis]))
        flat = np.ascontiguousarray(data[backwards].transpose(order)).reshape(-1)
        array = self._cupy.empty(flat.size, dtype)
        stream = self._of_thread.stream
        buffers = self._staging()
        step = STAGING // dtype.itemsize
        for number, begin in enumerate(range(0, flat.size, step)):
            piece = flat[begin : begin + step]
            buffer, done = buffers[number % 2]
            if number >= 2:
                done.synchronize()
            pinned = buffer[: piece.size * dtype.itemsize].view(dtype)
            np.copyto(pinned, piece, casting="same_kind")
            array[begin : begin + step].set(pinned, stream=stream)
            done.record(stream)
        stream.synchronize()
        return array.reshape([data.shape[axis] for axis in order]).transpose(np.argsort(order).tolist())[backwards]

    def _staging(self) -> list[tuple[NDArray[Any], Any]]:
        """Two pinned buffers of this thread, each with the event of its last copy."""
        buffers: list[tuple[NDArray[Any], Any]] | None = getattr(self._of_thread, "buffers", None)
        if buffers is None:
            buffers = [(self._pinned((STAGING,), np.dtype(np.uint8)), self._cupy.cuda.Event()) for _ in range(2)]
            self._of_thread.buffers = buffers
        return buffers

    def _pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Host memory that the device copies to and from at full speed; it goes back to CuPy's pool with the array."""
        count = math.prod(shape)
        memory = self._cupy.cuda.alloc_pinned_memory(max(1, count * dtype.itemsize))
        return np.frombuffer(memory, dtype, count).reshape(shape)


class _WorkDevice:
    """The device of the launch code, with the stream of the thread that calls and the backend's pool."""

    def __init__(self, backend: CUDABackend) -> None:
        self._turn = backend.turn
        self._inner = launch.CuPyDevice(backend._index)

    @property
    def multiprocessors(self) -> int:
        return self._inner.multiprocessors

    @property
    def shared_bytes(self) -> int:
        return self._inner.shared_bytes

    def empty(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        with self._turn():
            return self._inner.empty(shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        with self._turn():
            return self._inner.zeros(shape, dtype)

    def contiguous(self, array: Any) -> Any:
        with self._turn():
            return self._inner.contiguous(array)

    def to_host(self, array: Any) -> NDArray[Any]:
        with self._turn():
            return self._inner.to_host(array)

    def download(self, array: Any, host: NDArray[Any]) -> None:
        """Copy to pinned memory, without waiting."""
        with self._turn() as stream:
            array.get(stream=stream, out=host, blocking=False)

    def load(self, text: str, options: tuple[str, ...]) -> Callable[[str], Any]:
        return self._inner.load(text, options)

    def start(self, function: Any, grid: Any, block: Any, arguments: tuple[Any, ...], shared: int) -> None:
        with self._turn():
            self._inner.start(function, grid, block, arguments, shared)


@cache
def backend(index: int) -> CUDABackend:
    """Give the one backend of each device."""
    return CUDABackend(index)


def absence(index: int) -> str | None:
    """Say in one sentence why device `index` cannot be used, and the way out; None where nothing speaks against it."""
    if find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'voxtract[cuda13]' (or voxtract[cuda12] for drivers before 580)"
    try:
        import cupy

        driver = cupy.cuda.runtime.driverGetVersion()
        needed = cupy.cuda.runtime.runtimeGetVersion()
    except ImportError as why:
        return (
            f"CuPy is installed but does not load ({_first_line(why)}): reinstall voxtract[cuda13] or voxtract[cuda12]"
        )
    if not driver:
        return "no NVIDIA driver is loaded: install one, and in a container pass the GPU in (--gpus all)"
    if driver // 1000 < needed // 1000:
        return (
            f"the NVIDIA driver is too old: it knows CUDA {_version(driver)}, CuPy needs CUDA {_version(needed)}; "
            f"update it, or install voxtract[cuda{driver // 1000}]"
        )
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as why:
        return f"no CUDA device can be used ({_first_line(why)}){_visible()}"
    if not count:
        return f"there is no CUDA device{_visible()}"
    if index >= count or index < 0:
        return f"there is no device {index}, only 0 to {count - 1}{_visible()}"
    return None


def _visible() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        ": see what nvidia-smi lists"
        if visible is None
        else f": CUDA_VISIBLE_DEVICES is {visible!r}; unset or change it"
    )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _first_line(why: BaseException) -> str:
    return (str(why).strip() or type(why).__name__).splitlines()[0]


def _moved(found: Components, axis: int, offset: int) -> Components:
    """The components of slices that begin at `offset` along `axis`."""
    shift = np.zeros(3, np.int64)
    shift[axis] = offset
    total = None if found.total is None else found.total + found.count[:, None] * shift
    return replace(found, start=found.start + shift, stop=found.stop + shift, total=total)
