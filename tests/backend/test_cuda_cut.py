"""The kernels of kernels/cut.cu, run on the host by the product's launch code, against the CPU backend bit for bit."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.backend.host_device import COMPILER, SANITIZED, HostDevice
from tests.backend.test_emulator import sanitizer_environment
from voxtract.backend import cuda_cut
from voxtract.compute import planes
from voxtract.compute.normalize import PixelRule, Statistics, pixel_rule
from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, Grid, Plane, View
from voxtract.model import Header

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not on the PATH")

STORED = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
)
PIXELS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64")


def rule_of(data: NDArray[Any], slope: float = 1.0, intercept: float = 0.0, **options: Any) -> PixelRule:
    header = Header(Grid(data.shape, np.eye(4)), data.dtype, slope, intercept)
    return pixel_rule(header, statistics=Statistics(data), **options)


def numbers(shape: tuple[int, ...], dtype: str, seed: int = 0) -> NDArray[Any]:
    """Random bits of the dtype: every integer, NaN with payloads, infinities, tiny and huge floats."""
    random = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind == np.bool_:
        return random.integers(0, 2, shape).astype(kind)
    values = np.frombuffer(random.bytes(math.prod(shape) * kind.itemsize), kind).reshape(shape).copy()
    if kind.kind == "f":  # every third one of a size that survives arithmetic, and some that are special
        flat = values.reshape(-1)
        flat[::3] = random.normal(100, 300, len(flat[::3]))
        flat[1::50] = np.resize([np.inf, -np.inf, np.nan, -0.0, 0.5, 1.5, -2.5, 65504, 3e-8], len(flat[1::50]))
        with np.errstate(invalid="ignore", over="ignore"):
            np.copyto(values, values + values.dtype.type(0), where=np.isnan(values))  # quiet, as arithmetic leaves them
    return values


def laid_out(data: NDArray[Any], order: Any, flips: Any = (False, False, False)) -> NDArray[Any]:
    """The same voxels, axis order[0] slowest in memory, flipped axes running backwards."""
    flip = tuple(slice(None, None, -1 if f else 1) for f in flips)
    stored = np.ascontiguousarray(data[flip].transpose(order))
    return np.asarray(stored.transpose(np.argsort(order))[flip])


def same_bits(mine: NDArray[Any], theirs: NDArray[Any]) -> None:
    assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
    different = np.flatnonzero((mine.view(f"u{mine.itemsize}") != theirs.view(f"u{mine.itemsize}")).reshape(-1))
    assert not len(different), (
        f"{len(different)} differ: {mine.reshape(-1)[different[0]]!r} is not {theirs.reshape(-1)[different[0]]!r}"
    )


def check(
    data: NDArray[Any], plane: Plane, rule: PixelRule, first: int = 0, last: int | None = None, seed: int = 0
) -> None:
    last = plane.count if last is None else last
    mine = cuda_cut.cut(HostDevice(seed), data, plane, first, last, rule)
    with np.errstate(invalid="ignore", over="ignore"):
        same_bits(mine, planes.cut(data, plane, first, last, rule))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True), (False, True, False)])
def test_every_view_of_every_memory_order(view: View, order: Any, flips: Any) -> None:
    for shape, target in (((37, 21, 30), None), ((32, 16, 48), (64, 64)), ((70, 65, 66), (71, 72))):
        data = laid_out(numbers(shape, "int16"), order, flips)
        plane = Plane(view, shape, target)
        check(data, plane, rule_of(data, pad_value=7))
        check(data, plane, rule_of(data, normalization=(40.0, 400.0), pad_value=-0.25), 3, 15, seed=1)


# Each one in, each one out, and what is common: a pair costs the compiler a second, so not all 108.
PAIRS = {
    *zip(STORED, itertools.cycle(PIXELS)),
    *(("int16", pixels) for pixels in ("uint8", "int16", "float16")),
    *(("float32", pixels) for pixels in ("uint8", "uint32", "float16", "float32", "float64")),
    *((stored, "float32") for stored in ("uint8", "int16", "int64", "float16", "float64")),
}


@pytest.mark.parametrize(("stored", "pixels"), sorted(PAIRS))
def test_every_dtype_goes_in_and_comes_out(stored: str, pixels: str) -> None:
    data = np.asfortranarray(numbers((33, 34, 20), stored))
    for scale in ((1.0, 0.0), (-0.37, 12.5)):
        rule = rule_of(data, *scale, dtype=pixels, pad_value=3)
        check(data, Plane("axial", data.shape, (40, 48)), rule)
        check(data, Plane("sagittal", data.shape), rule, 1, 30)
    normalized = rule_of(data, -2.0, 1.0, dtype=pixels, normalization=(40.0, 400.0))
    check(np.ascontiguousarray(data), Plane("sagittal", data.shape, (34, 32)), normalized)


@pytest.mark.parametrize("stored", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("normalization", ["min-max", "z-score", "percentile"])
@pytest.mark.parametrize("slope", [1.0, -3.0])
def test_normalisation_by_name(stored: str, normalization: Any, slope: float) -> None:
    data = np.asfortranarray(numbers((20, 21, 22), stored))
    check(data, Plane("coronal", data.shape, (32, 32)), rule_of(data, slope, 5.0, normalization=normalization))
    flat = np.full((5, 6, 7), 7, stored)
    check(flat, Plane("axial", flat.shape), rule_of(flat, slope, 5.0, normalization=normalization))


def test_numbers_that_are_none_are_those_of_the_cpu() -> None:
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3.4e38], np.float32)
    payload = np.array([0x7FC12345, 0xFFC54321], np.uint32).view(np.float32)
    data = np.concatenate([special, payload]).reshape(10, 1, 1)
    plane = Plane("axial", data.shape)
    for pixels in PIXELS:
        for rule in (
            rule_of(data, dtype=pixels),
            rule_of(data, -2.0, dtype=pixels),
            PixelRule(data.dtype, np.dtype(pixels), 0, gain=0.0, low=0.0, high=1.0),
        ):
            check(data, plane, rule)
    rule = rule_of(data, normalization=(0, 1), pad_value=np.nan)
    check(data, Plane("axial", data.shape, (12, 3)), rule)


def test_a_plain_copy_keeps_every_bit() -> None:
    data = np.frombuffer(np.random.default_rng(1).bytes(4 * 9 * 10 * 11), np.float32).reshape(9, 10, 11)
    for view, order in itertools.product(VIEWS, ((0, 1, 2), (2, 1, 0))):
        check(laid_out(data, order), Plane(view, data.shape, (16, 17)), rule_of(data))


sizes = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(sizes, sizes, sizes),
    view=st.sampled_from(VIEWS),
    kinds=st.sampled_from([("uint8", "uint8"), ("int16", "float32"), ("float32", "uint8"), ("float64", "float32")]),
    order=st.permutations(range(3)),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    extra=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    ends=st.data(),
)
def test_any_range_of_any_volume(
    shape: Any, view: View, kinds: Any, order: Any, flips: Any, extra: Any, ends: st.DataObject
) -> None:
    data = laid_out(numbers(shape, kinds[0]), order, flips)
    plane = Plane(view, shape)
    plane = Plane(view, shape, (plane.rows + extra[0], plane.columns + extra[1]))
    first = ends.draw(st.integers(0, plane.count))
    last = ends.draw(st.integers(first, plane.count))
    check(data, plane, rule_of(data, 2.0, dtype=kinds[1], pad_value=9), first, last, seed=ends.draw(st.integers(0, 3)))


def test_aligned_voxels_for_pixels_that_are_written_one_by_one() -> None:
    """A row of 29 pixels: 16-byte reads at every pixel would begin at any address."""
    shape = (22, 37, 20)
    data = laid_out(numbers(shape, "float32"), (1, 0, 2), (False, True, False))
    check(data, Plane("coronal", shape, (43, 29)), rule_of(data, 2.0, dtype="uint8", pad_value=9), 23, 31)


@pytest.mark.parametrize("view", VIEWS)
def test_gaps_broadcasts_and_empty_volumes(view: View) -> None:
    whole = numbers((20, 22, 24), "int16")
    for data in (
        whole[::2, 1::2, ::3],
        np.broadcast_to(whole[:, :, :1], whole.shape),
        whole[:, 3:4],
        whole[:0],
        whole[:, :0],
        whole[:, :, :0],
    ):
        check(data, Plane(view, data.shape), rule_of(data))
        check(data, Plane(view, data.shape, (30, 32)), rule_of(data, pad_value=5))


def test_memory_that_is_not_aligned_to_16_bytes() -> None:
    room = np.zeros(16 * 16 * 16 + 8, np.int16)
    for shift in range(1, 8):
        data = room[shift : shift + 16**3].reshape(16, 16, 16, order="F")
        data[...] = numbers(data.shape, "int16", shift)
        for view in VIEWS:
            check(data, Plane(view, data.shape, (16, 24)), rule_of(data))
            check(data.T, Plane(view, data.shape, (16, 24)), rule_of(data))


def test_a_launch_of_too_many_blocks_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_cut, "_MOST_BLOCKS", 3)
    data = np.asfortranarray(numbers((40, 41, 9), "uint8"))
    check(data, Plane("axial", data.shape), rule_of(data))
    check(data, Plane("axial", data.shape, (64, 64)), rule_of(np.ascontiguousarray(data)))


def test_offsets_past_2_to_the_31() -> None:
    plane = Plane("axial", (1500, 1500, 1000))  # 2.25e9 voxels; no memory is needed to see where they lie
    far = cuda_cut._Cut(998 * 1500 * 1500, 1, 1500, 1500 * 1500, plane, 2, 2, 2)
    name, blocks, places = far.transposed(True)
    assert (name, int(places[0]), places[0].dtype) == ("cut_transposed", 998 * 1500 * 1500, np.int64)
    assert blocks == math.ceil(1500 / 64) * math.ceil(1500 / 64) * 2


def test_arguments_that_do_not_belong_together() -> None:
    data = numbers((4, 5, 6), "uint8")
    plane, rule, device = Plane("axial", (4, 5, 6)), rule_of(data), HostDevice()
    with pytest.raises(InvalidInput, match=r"\(4, 5, 7\)"):
        cuda_cut.cut(device, data, Plane("axial", (4, 5, 7)), 0, 1, rule)
    with pytest.raises(InvalidInput, match=r"int16.*uint8"):
        cuda_cut.cut(device, data.astype(np.int16), plane, 0, 1, rule)
    for first, last in ((-1, 2), (3, 2), (0, 7)):
        with pytest.raises(InvalidInput, match=f"slices {first} to {last} of 6 axial"):
            cuda_cut.cut(device, data, plane, first, last, rule)
    for out in (np.zeros((1, 4, 5), np.int16), np.zeros((2, 4, 5), np.uint8)):
        with pytest.raises(InvalidInput, match=r"expected \(1, 4, 5\) of uint8"):
            cuda_cut.cut(device, data, plane, 0, 1, rule, out)


@pytest.mark.skipif(SANITIZED, reason="this is the run under sanitizers")
def test_the_same_under_sanitizers() -> None:
    wanted = "test_every_view or test_gaps or test_memory_that or int16-float16 or float32-uint8 or float16-int8"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", wanted],
        env=sanitizer_environment(),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert " skipped" not in ran.stdout
