"""Label volumes as integers, whatever they were stored as."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.model import Header, Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.geometry import Shape3

BLOCK = 1 << 16  # voxels; 2**14 and 2**18 are slower or equal for float32 (30 and 23 ms against 23 for 42 Mvoxel)
DTYPES = tuple(np.dtype(name) for name in ("uint8", "int16", "int32", "int64"))  # tried in this order
EXACT = 2.0**53  # above, float64 does not hold every integer


def stored_labels(volume: Volume, threshold: float | None = None) -> NDArray[Any]:
    """Give the label values of a volume as integers.

    Parameters
    ----------
    volume : Volume
        Its data (x, y, z) may be integers, booleans or floats, of any strides; contiguous in either order is fastest.
    threshold : float, optional
        Make a mask instead: 1 where the value (stored * slope + intercept) is > `threshold`, else 0, also for NaN.

    Returns
    -------
    (x, y, z) array
        Unscaled integers and booleans: the very array of `volume`. Otherwise a new one of the memory order of the
        data; with `threshold` uint8, else the first of uint8, int16, int32, int64 that holds all values.
        Negative values stay.

    Raises
    ------
    InvalidInput
        `threshold` is not finite; or there is none and a value is NaN, infinite, fractional, or beyond 2**53. The
        message names the first such voxel in memory order (not raster order).
    """
    header, data = volume.header, volume.data
    if threshold is not None and not math.isfinite(threshold):
        raise InvalidInput(f"{header.where}: threshold={threshold} is no limit; give a finite number")
    if threshold is None and data.dtype.kind in "iub" and not header.is_scaled:
        return data
    axes = sorted(range(data.ndim), key=lambda axis: -abs(data.strides[axis]))  # slowest first: memory order
    ordered = data.transpose(axes)
    flat = ordered.reshape(-1)  # a view of contiguous data, else one copy
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and overflow are found by their results
            result = _integral(flat, header) if threshold is None else _above(flat, header, threshold)
    except _NoLabel as found:
        index = np.empty(data.ndim, dtype=int)
        index[axes] = np.unravel_index(found.position, ordered.shape)
        raise _complaint(header.where, found.value, tuple(index.tolist())) from None
    return result.reshape(ordered.shape).transpose(np.argsort(axes))


def foreground_box(labels: NDArray[Any]) -> tuple[Shape3, Shape3] | None:
    """Find the box of all labels above 0.

    Parameters
    ----------
    labels : (x, y, z) integer or bool array
        Any strides; it is read once, in memory order.

    Returns
    -------
    (start, stop), half-open voxels x, y, z; None where there is no label

    Examples
    --------
    >>> labels = np.zeros((4, 5, 6), np.int16)
    >>> labels[1, 2, 3] = labels[2, 4, 3] = 7
    >>> foreground_box(labels)
    ((1, 2, 3), (3, 5, 4))
    """
    axes = sorted(range(3), key=lambda axis: -abs(labels.strides[axis]))  # slowest first
    forwards = tuple(slice(None, None, -1 if stride < 0 else 1) for stride in labels.strides)
    planes = labels[forwards].transpose(axes)
    highest = np.zeros(planes.shape[1:], labels.dtype)  # along the slowest axis
    seen = np.zeros(len(planes), np.bool_)
    for i, plane in enumerate(planes):
        seen[i] = plane.max(initial=0) > 0
        if seen[i]:
            np.maximum(highest, plane, out=highest)
    if not seen.any():
        return None
    start, stop = [0, 0, 0], [0, 0, 0]
    present = [seen, *(np.logical_or.reduce(highest > 0, axis=axis) for axis in (1, 0))]
    for axis, above in zip(axes, present, strict=True):
        where = np.flatnonzero(above if labels.strides[axis] >= 0 else above[::-1])
        start[axis], stop[axis] = int(where[0]), int(where[-1]) + 1
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


class _NoLabel(Exception):
    def __init__(self, position: int, value: float) -> None:
        self.position, self.value = position, value


def _complaint(where: str, value: float, voxel: tuple[int, ...]) -> InvalidInput:
    inexact = math.isfinite(value) and abs(value) > EXACT
    why = "cannot be told from its neighbours in floating point" if inexact else "is no integer"
    return InvalidInput(
        f"{where}: voxel {voxel} (x, y, z) has the value {value!r}, which {why}; labels must be integers. "
        "Is this the image instead of its labels? To make a mask of it pass threshold=, for instance threshold=0.5"
    )


def _values(block: NDArray[Any], header: Header) -> NDArray[Any]:
    """Values of a block; float64 where the file scales them, as stored where it does not."""
    return block * np.float64(header.slope) + header.intercept if header.is_scaled else block


def _above(flat: NDArray[Any], header: Header, threshold: float) -> NDArray[np.uint8]:
    mask = np.empty(flat.shape, np.bool_)
    # Integers are compared as such: fast, and exact in 64 bits. float32 is compared in float64, or 0.1 > 0.1.
    as_integers = flat.dtype.kind in "iu" and not header.is_scaled
    limit = math.floor(threshold) if as_integers else np.float64(threshold)
    for start in range(0, flat.size, BLOCK):
        part = slice(start, start + BLOCK)
        np.greater(_values(flat[part], header), limit, out=mask[part])
    return mask.view(np.uint8)


def _integral(flat: NDArray[Any], header: Header) -> NDArray[Any]:
    dtypes = iter(DTYPES)
    result = np.empty(flat.shape, next(dtypes))
    for start in range(0, flat.size, BLOCK):
        part = slice(start, start + BLOCK)
        block = _values(flat[part], header)
        while not _copied(block, result[part]):
            _check(block, start)
            result = _widened(result, start, next(dtypes))
    return result


def _copied(block: NDArray[Any], target: NDArray[Any]) -> bool:
    """Cast into `target`; whether every value came through, which is also how what does not fit is found."""
    np.copyto(target, block, casting="unsafe")
    # result_type of (float32, int32) is float64: no false equality from rounding. int64 is checked against EXACT.
    return bool((target.astype(np.result_type(target, block)) == block).all()) and (
        target.dtype.itemsize < 8 or bool((np.abs(block) <= EXACT).all())
    )


def _check(block: NDArray[Any], start: int) -> None:
    wide = block.astype(np.float64, copy=False)
    wrong = np.flatnonzero(~((np.rint(wide) == wide) & (np.abs(wide) <= EXACT)))
    if wrong.size:
        raise _NoLabel(start + int(wrong[0]), float(wide[wrong[0]]))


def _widened(result: NDArray[Any], done: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    wider = np.empty(result.shape, dtype)
    wider[:done] = result[:done]
    return wider
