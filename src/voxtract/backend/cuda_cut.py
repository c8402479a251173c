"""Slice images on a CUDA device: which kernel of kernels/cut.cu, with which strides.

The counterpart of `voxtract.compute.planes.cut`, with the same pixels bit for bit. It knows a `Device`, not CuPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.backend.launch import C_NAMES, Array, Device, compiled, launch
from voxtract.errors import InvalidInput

if TYPE_CHECKING:
    from voxtract.compute.normalize import PixelRule
    from voxtract.geometry import Plane

# As in kernels/cut.cu.
_THREADS = 256
_LINE_BYTES = 128
_MOST_BLOCKS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Memory:
    """An array of three axes as the kernels see it: its voxels without gaps, and where each lies among them.

    Parameters
    ----------
    flat : (voxels,) array
        C-contiguous.
    strides : (x, y, z)
        In voxels; negative where the axis runs backwards.
    first : int
        Where voxel (0, 0, 0) lies.
    """

    flat: Array
    strides: tuple[int, int, int]
    first: int

    @classmethod
    def of(cls, device: Device, data: Array) -> Memory:
        """See `data` so; it is copied only where its voxels lie with gaps between them."""
        forwards = data[tuple(slice(None, None, -1 if stride < 0 else 1) for stride in data.strides)]
        order = sorted(range(3), key=lambda axis: (-forwards.strides[axis], -forwards.shape[axis]))
        slowest_first = forwards.transpose(order)
        slowest_first = device.contiguous(slowest_first)
        strides, first, step = [0, 0, 0], 0, 1
        for axis in reversed(order):
            backwards = data.strides[axis] < 0
            strides[axis] = -step if backwards else step
            first += step * (data.shape[axis] - 1) if backwards else 0
            step *= data.shape[axis]
        return cls(slowest_first.reshape(-1), (strides[0], strides[1], strides[2]), first)


def as_stored(array: Array) -> Array:
    """View booleans as bytes, and float16 as the 16 bits that kernels take it for."""
    names = {"bool": np.uint8, "float16": np.uint16}
    return array.view(names[array.dtype.name]) if array.dtype.name in names else array


def type_options(name: str, dtype: np.dtype[Any]) -> tuple[str, ...]:
    """Compiler options that make `name` the C type of a dtype; see kernels/numbers.cuh."""
    if dtype == np.float16:
        return f"-D{name}=unsigned short", f"-D{name}_HALF"
    return (f"-D{name}={C_NAMES[np.dtype(np.uint8) if dtype == np.bool_ else dtype]}",)


def options(rule: PixelRule) -> tuple[str, ...]:
    """Compiler options for a rule."""
    copy = ("-DCOPY",) if rule.is_copy else ()
    return (*type_options("STORED", _stored(rule)), *type_options("PIXEL", rule.dtype), *copy)


def check(data: Array, plane: Plane, first: int, last: int, rule: PixelRule) -> None:
    """Raise `InvalidInput` where `data` is not the volume that the others speak of, or there are no such slices."""
    if data.shape != plane.shape or data.dtype != _stored(rule):
        raise InvalidInput(
            f"voxels {data.shape} of {data.dtype}, but the plane is of {plane.shape} and the rule of {rule.stored}"
        )
    if not 0 <= first <= last <= plane.count:
        raise InvalidInput(f"slices {first} to {last} of {plane.count} {plane.view} ones; expected 0 <= first <= last")


def cut(
    device: Device, data: Array, plane: Plane, first: int, last: int, rule: PixelRule, out: Array | None = None
) -> Array:
    """Cut the slices ``first <= index < last`` and pad them to the size of the plane.

    Parameters
    ----------
    device : Device
    data : (x, y, z) device array of `rule.stored`
        In any order of the axes; where its voxels lie with gaps between them, it is copied first.
    plane, first, last, rule
        As in `voxtract.compute.planes.cut`.
    out : (last - first, height, width) device array of `rule.dtype`, optional
        C-contiguous; filled and returned.

    Returns
    -------
    (last - first, height, width) device array of `rule.dtype`; image k is slice ``first + k``

    Raises
    ------
    InvalidInput
        As `voxtract.compute.planes.cut`.

    Notes
    -----
    Does not wait for the device. Source of the method: kernels/cut.cu.
    """
    check(data, plane, first, last, rule)
    shape = (last - first, *plane.size)
    if out is None:
        out = device.empty(shape, rule.dtype)
    elif out.shape != shape or out.dtype != rule.dtype:
        raise InvalidInput(f"out is {out.shape} of {out.dtype}; expected {shape} of {rule.dtype}")
    if math.prod(shape):
        _launch(device, Memory.of(device, data), plane, first, last, rule, out)
    return out


def _launch(device: Device, memory: Memory, plane: Plane, first: int, last: int, rule: PixelRule, out: Array) -> None:
    row, column, index = (memory.strides[axis] for axis in plane.axes)
    cut_ = _Cut(
        memory.first + first * index,
        row,
        column,
        index,
        plane,
        last - first,
        _stored(rule).itemsize,
        rule.dtype.itemsize,
    )
    wide_out = plane.size[1] * rule.dtype.itemsize % 16 == 0 and address(out) % 16 == 0
    aligned = address(memory.flat) % 16 == 0
    straight = not math.prod(plane.shape) or 1 not in (abs(row), abs(index)) or abs(column) == 1
    name, blocks, places = cut_.straight(aligned, wide_out) if straight else cut_.transposed(aligned)
    if blocks > _MOST_BLOCKS:  # 8e12 pixels of 2 bytes
        middle = (first + last) // 2
        _launch(device, memory, plane, first, middle, rule, out[: middle - first])
        _launch(device, memory, plane, middle, last, rule, out[middle - first :])
        return
    *numbers, wide_in = places
    arguments = (*numbers, *_formula(rule), np.int32(wide_in), np.int32(wide_out))
    both = ("-DALIGNED",) if wide_in and wide_out else ()
    kernel = compiled(device, "cut", name, (*options(rule), *both))
    launch(kernel, blocks, _THREADS, (as_stored(memory.flat), as_stored(out), *arguments))


@dataclass(frozen=True, slots=True)
class _Cut:
    """One launch: where voxel (0, 0) of the first slice lies, strides in voxels, sizes in bytes."""

    first: int
    row: int
    column: int
    index: int
    plane: Plane
    count: int
    stored_bytes: int
    pixel_bytes: int

    def straight(self, aligned: bool, wide_out: bool) -> tuple[str, int, tuple[Any, ...]]:
        """Name, blocks and places for rows of pixels; `aligned`: the volume begins at a multiple of 16 bytes."""
        plane = self.plane
        (height, width), (top, left) = plane.size, plane.pad
        give = 16 // self.pixel_bytes
        piece_bytes = give * self.stored_bytes
        unit = min(16, piece_bytes) // self.stored_bytes
        wide_in = aligned and self.column == 1 and not any(n % unit for n in (self.first - left, self.row, self.index))
        parts = width // give if wide_out else width
        total = self.count * height * parts
        places = (
            *map(np.int64, (self.first, self.index, self.row, self.column)),
            *map(np.int32, (height, top, plane.rows, width, left, plane.columns, parts)),
            np.int64(total),
            wide_in,
        )
        return "cut_straight", -(-total // (_THREADS * max(1, 32 // piece_bytes))), places

    def transposed(self, aligned: bool) -> tuple[str, int, tuple[Any, ...]]:
        """Name, blocks and places for tiles: the voxels run along the rows' axis (of images) or the slices'."""
        plane, first = self.plane, self.first
        (height, width), (top, left) = plane.size, plane.pad
        image = height * width
        if abs(self.row) == 1:
            stride, f_count, f_low, f_high = self.row, plane.rows, -top, height - top
            pixel, pixel_f, pixel_t = top * width, width, image
            voxel_t, t_pad, t_count, t_total = self.index, 0, self.count, self.count
        else:
            stride, f_count, f_low, f_high = self.index, self.count, 0, self.count
            pixel, pixel_f, pixel_t = 0, image, width
            voxel_t, t_pad, t_count, t_total = self.row, top, plane.rows, height
        if stride < 0:  # count f the other way
            first -= f_count - 1
            pixel += (f_count - 1) * pixel_f
            pixel_f, f_low, f_high = -pixel_f, f_count - f_high, f_count - f_low
        run, columns = _LINE_BYTES // self.stored_bytes, 128 if self.pixel_bytes == 1 else 64
        f_begin = f_low - (first + f_low) % run
        f_tiles, c_tiles = -(-(f_high - f_begin) // run), -(-width // columns)
        wide_in = aligned and not any(n % (16 // self.stored_bytes) for n in (self.column, voxel_t))
        places = (
            *map(np.int64, (first, self.column, voxel_t, pixel, pixel_f, pixel_t)),
            *map(np.int32, (f_begin, f_low, f_high, f_count, left, plane.columns, width, t_pad, t_count)),
            *map(np.int32, (f_tiles, c_tiles)),
            wide_in,
        )
        return "cut_transposed", f_tiles * c_tiles * t_total, places


def _formula(rule: PixelRule) -> tuple[Any, ...]:
    """Arguments pad_value to keep_infinite; a step that `PixelRule.pixels` leaves out becomes one without effect."""
    low, high = rule.low, rule.high
    keep_infinite = rule.saturate and (low, high) == (-math.inf, math.inf)
    if rule.dtype.kind != "f":
        ends = np.iinfo(rule.dtype)
        low, high = max(low, float(ends.min)), min(high, float(ends.max))
    elif rule.saturate:
        limit = float(np.finfo(rule.dtype).max)
        low, high = max(low, -limit), min(high, limit)
    shift, base = rule.shift or 0.0, rule.base or -0.0  # adding 0.0 would make -0.0 positive
    return (*map(np.float64, (rule.pad_value, shift, rule.gain, base, low, high)), np.int32(keep_infinite))


def _stored(rule: PixelRule) -> np.dtype[Any]:
    """Dtype of the voxels on the device; wider floats than it has are float64 there (see `CUDABackend.to_device`)."""
    return np.dtype(np.float64) if rule.stored.itemsize > 8 else rule.stored


def address(array: Array) -> int:
    """Give the address of the first element."""
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return int(interface["data"][0])
