"""The harness itself: does what the kernels rest on behave as on a device, and is misuse noticed?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.backend.host_device import COMPILER, EmulationError, HostDevice
from voxtract.backend.launch import Kernel, kernels, launch, parameters

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not on the PATH")
SEEDS = [0, 1, 2, 3]


def run(text: str, grid: int, block: Any, *args: Any, seed: int = 0, shared: int = 0) -> None:
    text = 'extern "C" ' + text
    (name,) = kernels(text)
    device = HostDevice(seed)
    launch(Kernel(name, device.load(text, ())(name), parameters(text, name, ()), device), grid, block, args, shared)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_block_sums_through_shared_memory_and_barriers(seed: int) -> None:
    text = """__global__ void sum(const int* in, unsigned n, int* out) {
        __shared__ int part[96];
        int t = threadIdx.x;
        part[t] = blockIdx.x * 96u + t < n ? in[blockIdx.x * 96 + t] : 0;
        for (int step = 64; step; step /= 2) {
            __syncthreads();
            if (t < step && t + step < 96) part[t] += part[t + step];
        }
        if (t == 0) out[blockIdx.x] = part[0];
    }"""
    values = np.arange(1000, dtype=np.int32)
    out = np.full(11, -1, np.int32)
    run(text, 11, 96, values, np.uint32(1000), out, seed=seed)
    assert out.tolist() == [int(values[i * 96 : i * 96 + 96].sum()) for i in range(11)]


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_functions_agree_with_plain_loops(seed: int) -> None:
    text = """__global__ void warp(const unsigned* in, unsigned* out) {
        unsigned t = threadIdx.y * 16 + threadIdx.x, v = in[t], lane = t % 32;
        unsigned row = 0;
        out[row++ * 64 + t] = __ballot_sync(~0u, v & 1);
        out[row++ * 64 + t] = __shfl_sync(~0u, v, (lane + 5) % 32);
        out[row++ * 64 + t] = __shfl_up_sync(~0u, v, 3);
        out[row++ * 64 + t] = __shfl_down_sync(~0u, v, 3);
        out[row++ * 64 + t] = __shfl_xor_sync(~0u, v, 6);
        out[row++ * 64 + t] = __any_sync(~0u, v == 77) * 2 + __all_sync(~0u, v < 1000);
        out[row++ * 64 + t] = __match_any_sync(~0u, v % 4);
        if (lane < 7) out[row * 64 + t] = __ballot_sync(0x7f, v & 2);
        else out[row * 64 + t] = __ballot_sync(~0x7fu, v & 2);
        row++;
        __syncwarp();
        out[row * 64 + t] = __syncthreads_count(v & 1);
    }"""
    values = np.random.default_rng(seed).integers(0, 99, 64).astype(np.uint32)
    out = np.zeros((9, 64), np.uint32)
    run(text, 1, (16, 4, 1), values, out, seed=seed)  # lanes go on over rows of threads
    for warp in range(2):
        v = values[warp * 32 : warp * 32 + 32].tolist()
        low = sum((a >> 1 & 1) << i for i, a in enumerate(v) if i < 7)
        expected = [
            [sum((a & 1) << i for i, a in enumerate(v))] * 32,
            [v[(i + 5) % 32] for i in range(32)],
            [v[i - 3] if i >= 3 else v[i] for i in range(32)],
            [v[i + 3] if i < 29 else v[i] for i in range(32)],
            [v[i ^ 6] for i in range(32)],
            [(77 in v) * 2 + 1] * 32,
            [sum((a % 4 == v[i] % 4) << j for j, a in enumerate(v)) for i in range(32)],
            [low if i < 7 else sum((a >> 1 & 1) << j for j, a in enumerate(v) if j >= 7) for i in range(32)],
            [int((values & 1).sum())] * 32,
        ]
        assert out[:, warp * 32 : warp * 32 + 32].tolist() == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_atomics_of_all_blocks_meet_and_the_last_block_sees_the_others(seed: int) -> None:
    text = """__global__ void last(unsigned long long* sum, unsigned* done, long long* least, long long* seen) {
        __shared__ bool mine;
        atomicAdd(sum, (unsigned long long)(blockIdx.x * blockDim.x + threadIdx.x));
        atomicMin(least, 5ll - threadIdx.x);
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) mine = atomicInc(done, gridDim.x - 1) == gridDim.x - 1;
        __syncthreads();
        if (mine && threadIdx.x == 0) *seen = (long long)*sum;
    }"""
    total, done = np.zeros(1, np.uint64), np.zeros(1, np.uint32)
    least, seen = np.zeros(1, np.int64), np.zeros(1, np.int64)
    run(text, 7, 40, total, done, least, seen, seed=seed)
    assert (int(seen[0]), int(done[0]), int(least[0])) == (280 * 279 // 2, 0, -34)


@pytest.mark.parametrize("seed", SEEDS)
def test_threads_that_returned_are_not_waited_for(seed: int) -> None:
    text = """__global__ void some(int* out) {
        if (threadIdx.x >= 5) return;
        __syncthreads();
        unsigned all = __ballot_sync(0xffffffff, 1);
        out[threadIdx.x] = all;
    }"""
    out = np.zeros(5, np.int32)
    run(text, 1, 50, out, seed=seed)
    assert out.tolist() == [31] * 5


def test_dynamic_shared_memory_is_the_launchs_and_poisoned() -> None:
    text = """__global__ void pool(unsigned char* out, int n) {
        extern __shared__ __align__(16) unsigned char bytes[];
        __shared__ unsigned fixed;
        for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = bytes[i];
        __syncthreads();
        if (threadIdx.x == 0) out[n] = fixed == 0xA5A5A5A5u, bytes[n - 1] = 7, fixed = 3;
    }"""
    out = np.zeros(101, np.uint8)
    run(text, 3, 32, out, np.int32(100), shared=100)
    assert out.tolist() == [0xA5] * 100 + [1]


def test_a_missing_barrier_gives_a_wrong_result_under_some_order() -> None:
    text = """__global__ void race(int* out) {
        __shared__ int value;
        if (threadIdx.x == 0) value = 7;
        out[threadIdx.x] = value;
    }"""
    wrong = set()
    for seed in range(4):
        out = np.zeros(40, np.int32)
        run(text, 1, 40, out, seed=seed)
        wrong.add(bool((out != 7).any()))
    assert True in wrong


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("if (threadIdx.x < 32) { __syncthreads(); } else {\n __syncthreads(); }", "different barriers, lines 1 and 2"),
        ("if (threadIdx.x < 3) __syncwarp(); else __syncthreads();", "61 threads wait at a barrier and 3 for lanes"),
        ("__ballot_sync(2u, 1);", "lane [0-9]+ is not in the mask 0x00000002"),
        ("if (threadIdx.x) __ballot_sync(~0u, 1); else __any_sync(1u, 1), __syncthreads();", "none can come"),
    ],
)
def test_misuse_is_said(body: str, words: str, seed: int) -> None:
    with pytest.raises(EmulationError, match=words):
        run(f"__global__ void wrong(int* out) {{ {body} }}", 2, 64, np.zeros(1, np.int32), seed=seed)


def test_what_the_device_refuses_is_refused() -> None:
    text = "__global__ void none(int* out) { out[0] = 1; }"
    out = np.zeros(1, np.int32)
    with pytest.raises(TypeError, match="1024"):
        run(text, 1, 1025, out)
    with pytest.raises(EmulationError, match="shared memory"):
        run(text, 1, 1, out, shared=300_000)
    run(text, 0, 1, out)
    assert out.tolist() == [0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros(2, np.int16), np.int64(2)), "out takes a int32 array, not int16"),
        ((np.zeros(2, np.int32), np.int32(2)), "n takes a int64 scalar, not .*int32"),
        ((np.zeros(2, np.int32), 2), "n takes a int64 scalar, not 2"),
        ((np.int32(1), np.int64(2)), "out takes a int32 array"),
        ((np.zeros(4, np.int32)[::2], np.int64(2)), "C-contiguous"),
        ((np.zeros(2, np.int32),), r"takes 2 arguments \(out, n\), 1 given"),
    ],
)
def test_wrong_arguments_are_said_before_the_launch(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        run("__global__ void take(int* out, const long long n) { out[0] = n; }", 1, 1, *arguments)


SANITIZED = """
import numpy as np
from tests.backend.test_emulator import run
body = {body!r}
run("__global__ void wild(int* out, int n) {{ __shared__ int part[8]; extern __shared__ int pool[]; " + body + " }}",
    1, 2, np.zeros(4, np.int32), np.int32(2147483647), shared=16)
print("done")
"""


def sanitizer_environment() -> dict[str, str]:
    assert COMPILER is not None
    found = subprocess.run([COMPILER, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    path = Path(found.stdout.strip())
    if not path.is_absolute():
        pytest.skip("g++ has no address sanitizer here")
    options = {"ASAN_OPTIONS": "detect_leaks=0", "LD_PRELOAD": str(path), "VOXTRACT_SANITIZE": "1"}
    return {**os.environ, **options}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("part[threadIdx.x] = pool[3] = 1; out[threadIdx.x] = part[threadIdx.x];", "done"),
        ("out[4 + threadIdx.x] = 1;", "heap-buffer-overflow"),
        ("pool[4 + threadIdx.x] = 1;", "heap-buffer-overflow"),
        ("int* p = part; p[n - 2147483639] = 1; out[0] = p[1];", "insufficient space"),
        ("part[0] = n; out[0] = part[0] + 1;", "signed integer overflow"),
    ],
)
def test_the_sanitizers_see_what_they_should(body: str, words: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SANITIZED.format(body=body)],
        env=sanitizer_environment(),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert words in ran.stdout + ran.stderr
    assert (ran.returncode == 0) == (words == "done")
