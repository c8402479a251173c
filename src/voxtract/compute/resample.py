"""Volumes on another grid: images interpolated, labels taken from the nearest voxel.

Interpolation is separable: each axis has its own few taps for each new voxel. The volume is walked through plane by
plane along z; an old plane is resampled in x and y once, when the first new plane needs it, and dropped after the
last. So the work is in proportion to the voxels, and memory beside the volumes is a handful of planes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from voxtract.errors import InvalidInput, check_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.geometry import Resampling

Order = Literal["linear", "cubic", "nearest"]
ORDERS: tuple[Order, ...] = get_args(Order)

_PLANES = 8  # turned at once to filter along x
_TIE = 1e-4  # voxels; rounding in headers and here must not decide between two voxels that are equally near


def resample(data: NDArray[Any], resampling: Resampling, order: str) -> NDArray[Any]:
    """Bring a volume to another grid.

    Parameters
    ----------
    data : (x, y, z) array
        Numbers or booleans in any memory order; ``x, y, z`` are those of `resampling.source`.
    resampling : Resampling
    order : {"linear", "cubic", "nearest"}
        ``"linear"`` blends the two voxels on either side along each axis. ``"cubic"`` is the interpolating cubic
        B-spline (Unser 1999; ``scipy.ndimage`` with ``order=3``), which may overshoot at edges. ``"nearest"`` takes
        values as they are; of two that are equally near the one of the higher index, as ``torch``'s
        ``"nearest-exact"`` and ``scipy.ndimage`` do, where a difference below 1e-4 voxels counts as equal.

    Returns
    -------
    (x, y, z) array of `resampling.shape` in Fortran order: float32, for "nearest" of the dtype of `data`

    Raises
    ------
    InvalidInput
        Another order, another shape, voxels that are no real numbers, or "cubic" with a voxel that is not finite: each
        of its values depends on all voxels.

    Notes
    -----
    Outside of the outermost voxel centers the volume is continued as its mirror image at the outer faces
    (``mode="reflect"``), which for "linear" is its last value. There is no smoothing before voxels become larger.
    Stored numbers are interpolated, not values: scaling them afterwards is the same.

    Arithmetic is float32 for dtypes of up to 16 bits and float32, else float64. With "linear", values between voxels
    of one value have exactly that value; what touches a voxel that is not finite is not finite. Beside the result
    "cubic" holds one copy of `data` in the dtype of the arithmetic.
    """
    check_choice("interpolation", order, ORDERS)
    if data.shape != resampling.source:
        raise InvalidInput(f"voxels {data.shape}, but they are to be resampled from {resampling.source}")
    if order == "nearest":
        return _walked(data, resampling, [_nearest_taps(resampling, axis) for axis in range(3)], data.dtype, data.dtype)
    if data.dtype.kind not in "biuf":
        raise InvalidInput(f"voxels of dtype {data.dtype} are no real numbers and cannot be interpolated")
    work = np.dtype(np.float32 if np.can_cast(data.dtype, np.float32) else np.float64)
    if order == "cubic":
        data = _spline_coefficients(data, resampling, work)
    of_axis = _linear_taps if order == "linear" else _cubic_taps
    taps = [of_axis(resampling, axis, work) for axis in range(3)]
    with np.errstate(invalid="ignore", over="ignore"):  # infinite voxels, and float64 beyond float32: infinite, too
        return _walked(data, resampling, taps, work, np.dtype(np.float32))


@dataclass(frozen=True, eq=False, slots=True)
class _Taps:
    """What the new voxels of one axis are made of.

    Parameters
    ----------
    index : (taps, new voxels) intp
        Old voxels.
    weight : (taps, new voxels)
        Their shares; those of each voxel add up to 1, so that the first is what the others leave.
    step : float
        Old voxels per new one.
    """

    index: NDArray[np.intp]
    weight: NDArray[Any]
    step: float

    def apply(self, plane: NDArray[Any], axis: int) -> NDArray[Any]:
        """Resample an axis of a plane."""
        weight = self.weight[..., None] if axis == 0 else self.weight
        return _blend([plane.take(index, axis) for index in self.index], list(weight))


def _blend(parts: list[NDArray[Any]], weight: list[Any]) -> NDArray[Any]:
    """Add up `parts` by `weight`, as the first one and shares of the differences to it: equal values stay exact."""
    total = first = parts[0]
    for part, share in zip(parts[1:], weight[1:], strict=True):
        difference = part - first
        difference *= share
        total = total + difference
    return total


def _nearest_taps(resampling: Resampling, axis: int) -> _Taps | None:
    if not resampling.moves(axis):
        return None
    nearest = np.floor(resampling.coordinates(axis) + (0.5 + _TIE)).astype(np.intp)
    index = nearest.clip(0, resampling.source[axis] - 1)[None]
    return _Taps(index, np.ones(index.shape), resampling.step[axis])


def _linear_taps(resampling: Resampling, axis: int, dtype: np.dtype[Any]) -> _Taps | None:
    if not resampling.moves(axis):
        return None
    place = resampling.coordinates(axis).clip(0, resampling.source[axis] - 1)
    below = place.astype(np.intp)
    share = place - below
    index = np.stack([below, below + (share > 0)])  # what has no share is not looked at: it may be NaN, or outside
    return _Taps(index, np.stack([1 - share, share]).astype(dtype), resampling.step[axis])


def _cubic_taps(resampling: Resampling, axis: int, dtype: np.dtype[Any]) -> _Taps | None:
    if not resampling.moves(axis):
        return None
    place, count = resampling.coordinates(axis), resampling.source[axis]
    below = np.floor(place).astype(np.intp)
    t = place - below
    index = (below + np.arange(-1, 3)[:, None]) % (2 * count)
    index = np.where(index < count, index, 2 * count - 1 - index)
    weight = np.stack([(1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 4 - 6 * (1 - t) ** 2 + 3 * (1 - t) ** 3, t**3]) / 6
    return _Taps(index, weight.astype(dtype), resampling.step[axis])


def _spline_coefficients(data: NDArray[Any], resampling: Resampling, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Coefficients of the cubic B-spline through the voxels, along the axes that have new voxels; Fortran order."""
    coefficients = np.array(data, dtype, order="F")
    if data.dtype.kind == "f" and not np.isfinite(coefficients).all():
        voxel = tuple(np.argwhere(~np.isfinite(coefficients))[0].tolist())
        raise InvalidInput(
            f"voxel {voxel} (x, y, z) is {data[voxel]}, which cubic interpolation would spread over the whole volume; "
            "take interpolation='linear'"
        )
    if resampling.moves(0):
        for z in range(0, coefficients.shape[2], _PLANES):
            lines = np.ascontiguousarray(coefficients[:, :, z : z + _PLANES])  # x varies slowest
            _filter_splines(lines)
            coefficients[:, :, z : z + _PLANES] = lines
    for axis in (1, 2):
        if resampling.moves(axis):
            _filter_splines(np.moveaxis(coefficients, axis, 0))
    return coefficients


def _filter_splines(lines: NDArray[Any]) -> None:
    """Turn samples along axis 0 into spline coefficients, in place, by one recursion forth and one back.

    Source: Unser, "Splines: a perfect fit for signal and image processing", IEEE Signal Processing Magazine 16, 1999.
    Three times as fast as ``scipy.ndimage.spline_filter1d``, and exact for short axes, too: with ``mode="reflect"``
    that gives two equal samples coefficients that differ by 8e-4 (SciPy 1.17).
    """
    pole, count = math.sqrt(3) - 2, len(lines)
    for sample in lines:
        sample *= 6
    mirrored = [min(k % (2 * count), 2 * count - 1 - k % (2 * count)) for k in range(30)]  # 0.27**30 is nothing
    lines[0] += sum(lines[k] * pole ** (i + 1) for i, k in enumerate(mirrored))
    for k in range(1, count):
        lines[k] += lines[k - 1] * pole
    lines[-1] *= pole / (pole - 1)
    for k in range(count - 2, -1, -1):
        np.subtract(lines[k + 1], lines[k], out=lines[k])
        lines[k] *= pole


def _walked(
    data: NDArray[Any],
    resampling: Resampling,
    taps: list[_Taps | None],
    work: np.dtype[Any],
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Resample plane by plane; `work` is the dtype of the arithmetic, `dtype` that of the result."""
    out = np.empty(resampling.shape, dtype, order="F")
    x, y, along_z = taps
    # in a plane as [y, x]; what leaves fewer voxels comes first
    in_plane = sorted(
        ((tap, axis) for tap, axis in ((y, 0), (x, 1)) if tap is not None), key=lambda pair: -pair[0].step
    )

    def resampled(z: int) -> NDArray[Any]:
        plane = np.ascontiguousarray(data[:, :, z].T, work)
        for tap, axis in in_plane:
            plane = tap.apply(plane, axis)
        return plane

    if along_z is None:
        for z in range(resampling.shape[2]):
            out[:, :, z] = resampled(z).T
        return out
    ready: dict[int, NDArray[Any]] = {}
    for z, (index, weight) in enumerate(zip(along_z.index.T.tolist(), along_z.weight.T, strict=True)):
        ready = {old: ready[old] if old in ready else resampled(old) for old in index}
        out[:, :, z] = _blend([ready[old] for old in index], list(weight)).T
    return out
