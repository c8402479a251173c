"""A `Device` made of NumPy memory and g++: the product's own launch code and kernels without a GPU."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from voxtract.backend.launch import Size3, kernels

EMULATOR = Path(__file__).with_name("emulator.h")
COMPILER = shutil.which("g++")
SANITIZED = os.environ.get("VOXTRACT_SANITIZE") == "1"  # set by the test that runs the others under sanitizers
POISON = 0xA5  # what new memory is filled with, so that a value nobody wrote is seen

FLAGS = ["-std=c++17", "-O1", "-g1", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-Wno-unknown-pragmas"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fsanitize-sections=emulated_shared"]


class EmulationError(Exception):
    """What the emulator says about a launch that a device would not survive."""


@dataclass(frozen=True)
class HostDevice:
    """See `voxtract.backend.launch.Device`; every other `seed` than 0 shuffles threads and blocks."""

    seed: int = 0
    multiprocessors: int = 3
    shared_bytes: int = 227 << 10

    def empty(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = POISON
        return array

    def zeros(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        return np.zeros(shape, dtype)

    def contiguous(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.ascontiguousarray(array)

    def to_host(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return array.copy()

    def load(self, text: str, options: tuple[str, ...]) -> Callable[[str], Any]:
        library = _library(text, options)

        def get(name: str) -> Any:
            function = library[f"run_{name}"]
            function.restype = ctypes.c_char_p
            function.argtypes = [ctypes.c_uint * 3, ctypes.c_uint * 3, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)]
            return name, function, library.emulator_seed

        return get

    def start(self, function: Any, grid: Size3, block: Size3, arguments: tuple[Any, ...], shared: int) -> None:
        name, run, set_seed = function
        set_seed(ctypes.c_ulonglong(self.seed))
        held = [_argument(value) for value in arguments]
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(one) for one in held))
        problem = run((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), shared, pointers)
        if problem is not None:
            raise EmulationError(f"{name}: {problem.decode()}")


def _argument(value: Any) -> Any:
    if value is None:
        return ctypes.c_void_p(0)
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    return (ctypes.c_char * value.dtype.itemsize).from_buffer_copy(value.tobytes())


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="voxtract-emulator-")


@cache
def _header() -> Path:
    """The emulator, compiled in advance: most of a small kernel's build is the standard library.

    A process under sanitizers builds one or two kernels, for which that does not pay.
    """
    if SANITIZED:
        return EMULATOR
    header = Path(_folder().name) / EMULATOR.name
    shutil.copy(EMULATOR, header)
    _compile("c++-header", [str(header), "-o", f"{header}.gch"])
    return header


def _compile(language: str, arguments: list[str]) -> None:
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run(
        [str(COMPILER), *FLAGS, *(SANITIZERS if SANITIZED else []), "-x", language, *arguments], check=True, env=plain
    )


@cache
def _library(text: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """Build a kernel source for the host; once per text and options, in a folder that goes with the process."""
    if COMPILER is None:
        raise LookupError("g++ is not on the PATH")
    dynamic = r"extern\s+__shared__\s+(?:__align__\s*\(\d+\)\s*)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;"
    code = re.sub(dynamic, r"auto* \2 = reinterpret_cast<\1*>(emulator::dynamic_shared());", text)
    code += "\n" + "\n".join(f"EMULATED_KERNEL({name})" for name in kernels(text)) + "\n"
    stem = Path(_folder().name) / sha256(repr((code, options)).encode()).hexdigest()[:16]
    stem.with_suffix(".cpp").write_text(code, encoding="utf-8")
    files = [str(stem.with_suffix(".cpp")), "-o", str(stem.with_suffix(".so"))]
    _compile("c++", ["-shared", *options, "-include", str(_header()), *files])
    return ctypes.CDLL(str(stem.with_suffix(".so")))
