"""Compile a kernel once, check what it is given, launch it: the one place that does so.

The kernels (voxtract/kernels, ``*.cu``) and the code that launches them know a `Device`, not CuPy: the same launch code
runs on CuPy's memory, and in tests on host memory. What a kernel takes is read from its own source text, so
that a wrong dtype or a missing argument is said in Python, before it becomes a wrong result on the device.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

import numpy as np

Array = Any  # a C-contiguous array in the memory of a `Device`
Size3 = tuple[int, int, int]

C_TYPES = {
    "bool": np.dtype(np.bool_),
    "char": np.dtype(np.int8),
    "signed char": np.dtype(np.int8),
    "unsigned char": np.dtype(np.uint8),
    "short": np.dtype(np.int16),
    "unsigned short": np.dtype(np.uint16),
    "int": np.dtype(np.int32),
    "unsigned": np.dtype(np.uint32),
    "unsigned int": np.dtype(np.uint32),
    "long long": np.dtype(np.int64),
    "unsigned long long": np.dtype(np.uint64),
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
}
C_NAMES = {dtype: name for name, dtype in C_TYPES.items()}  # of two spellings the last

# static shared memory and what a launch may ask for without being asked to allow more
_EASY_SHARED = 48 << 10
_MOST = (2**31 - 1, 65535, 65535)


class Device(Protocol):
    """Where arrays live and kernels run; hashable, for what is compiled is kept per device."""

    def __hash__(self) -> int:
        """Equal for the same device."""

    @property
    def multiprocessors(self) -> int:
        """How many blocks of the largest kind run at once."""

    @property
    def shared_bytes(self) -> int:
        """Shared memory that one block can have."""

    def empty(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory with whatever is in it."""

    def zeros(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory full of zeros."""

    def contiguous(self, array: Array) -> Array:
        """The same values without gaps, C-contiguous: `array` itself if it is."""

    def to_host(self, array: Array) -> np.ndarray[Any, np.dtype[Any]]:
        """Copy to the host; waits for what was launched before."""

    def load(self, text: str, options: tuple[str, ...]) -> Callable[[str], Any]:
        """Compile a source text; gives the way from a kernel's name to what `start` takes."""

    def start(self, function: Any, grid: Size3, block: Size3, arguments: tuple[Any, ...], shared: int) -> None:
        """Launch on the stream in use, without waiting for it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a kernel."""

    name: str
    dtype: np.dtype[Any] | None  # None: memory of any kind
    pointer: bool


@dataclass(frozen=True, eq=False, slots=True)
class Kernel:
    """A kernel on a device, and what it takes."""

    name: str
    function: Any
    parameters: tuple[Parameter, ...]
    device: Device


def source(name: str) -> str:
    """Text of ``kernels/<name>.cu`` with the package's own headers pasted in, as every compiler gets it."""
    return _paste(f"{name}.cu", set())


def _paste(name: str, seen: set[str]) -> str:
    seen.add(name)
    text = (files("voxtract.kernels") / name).read_text(encoding="utf-8")
    parts = [f'#line 1 "{name}"\n']
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        include = re.match(r'\s*#\s*include\s+"([\w.]+)"', line)
        if include is None:
            parts.append(line)
        elif include[1] not in seen:
            parts += [_paste(include[1], seen), f'\n#line {number + 1} "{name}"\n']
    return "".join(parts)


def kernels(text: str) -> dict[str, str]:
    """Name and parameter list of every kernel in a source text."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
    head = r"__global__\s+void\s+(?:__launch_bounds__\s*\([^()]*\)\s*)?(\w+)\s*\(([^()]*)\)\s*\{"
    return {found[1]: found[2] for found in re.finditer(head, text)}


def parameters(text: str, name: str, options: Sequence[str]) -> tuple[Parameter, ...]:
    """What the kernel `name` takes; types that `options` define (``-DLABEL=short``) are put in."""
    found = kernels(text)
    if name not in found:
        raise LookupError(f"no kernel {name!r} in this source; there are: {', '.join(found)}")
    defined = dict(option[2:].split("=", 1) for option in options if option.startswith("-D") and "=" in option)
    return tuple(_parameter(part, defined) for part in found[name].split(",") if part.strip())


def _parameter(declaration: str, defined: dict[str, str]) -> Parameter:
    words = re.findall(r"\w+|\*", declaration)
    *kind, name = [defined.get(word, word) for word in words if word not in ("const", "__restrict__", "volatile")]
    pointer = kind[-1] == "*"
    c_type = " ".join(kind[:-1] if pointer else kind)
    vector = re.fullmatch(r"(u?)(char|short|int|longlong|float|double)[1-4]", c_type)  # uint4: seen as its elements
    if vector:
        c_type = ("unsigned " if vector[1] else "") + vector[2].replace("longlong", "long long")
    if c_type == "void":
        return Parameter(name, None, pointer)
    if c_type not in C_TYPES:
        raise LookupError(f"parameter {declaration.strip()!r}: {c_type} is no known type; known: {', '.join(C_TYPES)}")
    return Parameter(name, C_TYPES[c_type], pointer)


@cache
def _loaded(device: Device, file: str, options: tuple[str, ...]) -> Callable[[str], Any]:
    return device.load(source(file), options)


@cache
def compiled(device: Device, file: str, name: str, options: tuple[str, ...] = ()) -> Kernel:
    """Give the kernel `name` of ``kernels/<file>.cu``, compiled at its first use on each device.

    Parameters
    ----------
    device : Device
    file, name : str
        Without ``.cu``; the ``extern "C" __global__`` function in it.
    options : tuple of str
        For the compiler: ``-DNAME=value`` sets types and sizes.
    """
    return Kernel(name, _loaded(device, file, options)(name), parameters(source(file), name, options), device)


def launch(kernel: Kernel, grid: int | Size3, block: int | Size3, args: Sequence[Any], shared: int = 0) -> None:
    """Launch `kernel` on the stream in use.

    Parameters
    ----------
    kernel : Kernel
    grid, block : int or three
        Blocks, and threads of a block. A grid without blocks does nothing.
    args : arrays of the kernel's device and NumPy scalars
        Exactly the dtypes that the kernel names; arrays C-contiguous. ``None`` is a null pointer.
    shared : int
        Bytes of dynamic shared memory.

    Raises
    ------
    TypeError
        Number, kind or dtype of an argument; a grid or block the device cannot have.

    Notes
    -----
    Does not wait for the device.
    """
    grid, block = _three(grid), _three(block)
    if len(args) != len(kernel.parameters):
        wanted = ", ".join(parameter.name for parameter in kernel.parameters)
        raise TypeError(f"{kernel.name} takes {len(kernel.parameters)} arguments ({wanted}), {len(args)} given")
    for parameter, value in zip(kernel.parameters, args, strict=True):
        _check_argument(kernel.name, parameter, value)
    if any(a > most for a, most in zip(grid, _MOST, strict=True)) or not 0 < block[0] * block[1] * block[2] <= 1024:
        raise TypeError(f"{kernel.name}: grid {grid} of blocks {block} is more than a device takes ({_MOST}; 1024)")
    if 0 not in grid:
        kernel.device.start(kernel.function, grid, block, tuple(args), shared)


def _three(size: int | Size3) -> Size3:
    return (size, 1, 1) if isinstance(size, int) else size


def _check_argument(kernel: str, parameter: Parameter, value: Any) -> None:
    wanted = "memory" if parameter.dtype is None else f"{parameter.dtype} {'array' if parameter.pointer else 'scalar'}"
    where = f"{kernel}: {parameter.name} takes a {wanted}"
    if not parameter.pointer:
        if not isinstance(value, np.generic) or value.dtype != parameter.dtype:
            raise TypeError(f"{where}, not {value!r} ({getattr(value, 'dtype', type(value).__name__)})")
        return
    if value is None:
        return
    if isinstance(value, np.generic) or not hasattr(value, "flags"):
        raise TypeError(f"{where}, not {value!r}")
    if parameter.dtype is not None and value.dtype != parameter.dtype:
        raise TypeError(f"{where}, not {value.dtype}")
    if not value.flags.c_contiguous:
        raise TypeError(f"{where} without gaps (C-contiguous); its strides are {value.strides}")


@dataclass(frozen=True, slots=True)
class CuPyDevice:
    """A CUDA device through CuPy; `index` counts the devices that ``CUDA_VISIBLE_DEVICES`` leaves.

    Memory comes from CuPy's pool, launches go to CuPy's current stream of the device, and NVRTC compiles for the
    very device, kept in CuPy's cache on disk between processes.
    """

    index: int = 0

    @property
    def multiprocessors(self) -> int:
        """How many blocks of the largest kind run at once."""
        import cupy

        return int(cupy.cuda.Device(self.index).attributes["MultiProcessorCount"])

    @property
    def shared_bytes(self) -> int:
        """Shared memory that one block can have."""
        import cupy

        return int(cupy.cuda.Device(self.index).attributes["MaxSharedMemoryPerBlockOptin"])

    def empty(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """See `Device`."""
        import cupy

        with cupy.cuda.Device(self.index):
            return cupy.empty(shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """See `Device`."""
        import cupy

        with cupy.cuda.Device(self.index):
            return cupy.zeros(shape, dtype)

    def contiguous(self, array: Array) -> Array:
        """See `Device`."""
        import cupy

        with cupy.cuda.Device(self.index):
            return cupy.ascontiguousarray(array)

    def to_host(self, array: Array) -> np.ndarray[Any, np.dtype[Any]]:
        """See `Device`."""
        import cupy

        with cupy.cuda.Device(self.index):
            host: np.ndarray[Any, np.dtype[Any]] = cupy.asnumpy(array)
        return host

    def load(self, text: str, options: tuple[str, ...]) -> Callable[[str], Any]:
        """See `Device`."""
        import cupy

        with cupy.cuda.Device(self.index):
            module = cupy.RawModule(code=text, options=("-std=c++17", *options))
        get: Callable[[str], Any] = module.get_function
        return get

    def start(self, function: Any, grid: Size3, block: Size3, arguments: tuple[Any, ...], shared: int) -> None:
        """See `Device`."""
        import cupy

        with cupy.cuda.Device(self.index):
            if shared > _EASY_SHARED:
                function.max_dynamic_shared_size_bytes = shared
            function(grid, block, tuple(np.uintp(0) if one is None else one for one in arguments), shared_mem=shared)
