"""Every kernel becomes machine code for every architecture, without spilling registers; needs no device.

NVRTC compiles them, as in the product: from the wheel nvidia-cuda-nvrtc, or else nvcc from a toolkit.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from importlib.resources import files as resources
from pathlib import Path

import pytest

from voxtract.backend.launch import kernels, source

# compute capability: V100 would be 70, which CUDA 13 no longer compiles for
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)

# Options with which the product builds each file: all that differ in more than the name of a type.
VARIANTS: dict[str, list[tuple[str, ...]]] = {
    "components": [
        ("-DLABEL=unsigned char", "-DLABEL_BYTES=1"),
        ("-DLABEL=short", "-DLABEL_BYTES=2"),
        ("-DLABEL=unsigned int", "-DLABEL_BYTES=4"),
        ("-DLABEL=long long", "-DLABEL_BYTES=8"),
    ],
    "statistics": [
        *((f"-DSTORED={name}",) for name in ("unsigned char", "short", "int", "float", "double", "unsigned long long")),
        ("-DSTORED=unsigned short", "-DSTORED_HALF"),
    ],
    "cut": [
        ("-DSTORED=unsigned char", "-DPIXEL=unsigned char", "-DCOPY"),
        ("-DSTORED=unsigned char", "-DPIXEL=unsigned char", "-DALIGNED"),
        ("-DSTORED=unsigned char", "-DPIXEL=float", "-DALIGNED"),
        ("-DSTORED=short", "-DPIXEL=short", "-DCOPY", "-DALIGNED"),
        ("-DSTORED=short", "-DPIXEL=float", "-DALIGNED"),
        ("-DSTORED=short", "-DPIXEL=float"),
        ("-DSTORED=float", "-DPIXEL=unsigned char"),
        ("-DSTORED=double", "-DPIXEL=double"),
        ("-DSTORED=unsigned short", "-DSTORED_HALF", "-DPIXEL=unsigned short", "-DPIXEL_HALF"),
    ],
}

Compile = Callable[[str, int, tuple[str, ...], Path], str]


@cache
def nvrtc() -> ctypes.CDLL | None:
    """The library of the wheel; its second half must be there before it is asked to compile."""
    try:
        libraries = [
            file for file in files("nvidia-cuda-nvrtc") or () if ".so." in file.name and ".alt." not in file.name
        ]
    except PackageNotFoundError:
        return None
    paths = sorted(str(file.locate()) for file in libraries)  # libnvrtc-builtins.so before libnvrtc.so
    return [ctypes.CDLL(path, ctypes.RTLD_GLOBAL) for path in paths][-1] if paths else None


def with_nvrtc(text: str, architecture: int, options: tuple[str, ...], folder: Path) -> str:
    """Compile and give the log, in which ptxas says what each kernel uses."""
    library = nvrtc()
    assert library is not None
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    words = [f"--gpu-architecture=sm_{architecture}", "-std=c++17", "--ptxas-options=-v", *options]
    status = library.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*map(str.encode, words)))
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    assert library.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
    assert size.value > 0
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode()


def with_nvcc(text: str, architecture: int, options: tuple[str, ...], folder: Path) -> str:
    (folder / "kernel.cu").write_text(text)
    command = ["nvcc", "-std=c++17", "--cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v", *options]
    ran = subprocess.run([*command, "kernel.cu", "-o", "kernel.cubin"], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


@pytest.fixture
def compile_() -> Compile:
    if nvrtc() is not None:
        return with_nvrtc
    if shutil.which("nvcc"):
        return with_nvcc
    pytest.skip("neither the wheel nvidia-cuda-nvrtc nor nvcc is here")


def spills(log: str) -> Iterator[str]:
    """What ptxas says of memory used because registers ran out."""
    for found in re.finditer(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log):
        if set(found.groups()) != {"0"}:
            yield found[0]


def test_every_source_is_compiled_here() -> None:
    assert sorted(VARIANTS) == sorted(
        entry.name.removesuffix(".cu")
        for entry in resources("voxtract.kernels").iterdir()
        if entry.name.endswith(".cu")
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("file", "options"), [(file, options) for file, all_ in VARIANTS.items() for options in all_])
def test_it_becomes_machine_code_without_spills(
    file: str, options: tuple[str, ...], architecture: int, compile_: Compile, tmp_path: Path
) -> None:
    log = compile_(source(file), architecture, options, tmp_path)
    assert len(re.findall("bytes stack frame", log)) >= len(kernels(source(file)))
    assert list(spills(log)) == []


def test_a_spill_would_be_noticed(compile_: Compile, tmp_path: Path) -> None:
    unrolled = "\n#pragma unroll\n  for (int i = 0; i < 80; i++)"
    text = f"""extern "C" __global__ void __launch_bounds__(1024, 2) many(float* out, int n) {{
  float v[80];
  {unrolled} v[i] = out[i * n];
  for (int k = 0; k < n; k++)
  {unrolled} v[i] = v[i] * v[(i + 7) % 80];
  {unrolled} out[i * n] = v[i];
}}"""
    assert list(spills(compile_(text, 90, (), tmp_path)))


def test_an_error_names_the_line(compile_: Compile, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="undefined"):
        compile_('extern "C" __global__ void wrong(int* out) { out[0] = nowhere; }', 90, (), tmp_path)
