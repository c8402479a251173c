"""Cut slice images out of a volume: permute, pad, rescale and cast in one pass through the cache.

A volume read from NIfTI is Fortran-ordered (x is fastest), a slice image is C-ordered (columns are fastest), so every
slice is a transpose. Walking either side with a stride of a power of two makes all lines fall into a few cache sets
and costs 2 to 4 times; therefore the voxels pass through a scratch tile: read in runs as they lie in memory, written
to rows that are 64 bytes longer than they need to be, and transposed from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.compute.normalize import PixelRule
    from voxtract.geometry import Plane

# Measured by benchmarks/bench_tiff.py over 160 x 512 x 512 voxels of 1, 2 and 4 bytes.
_TILE_BYTES = 512 << 10  # scratch tile; 128 KiB to 1 MiB are alike, smaller ones cost calls, larger ones leave L2
_TILE_VOXELS = 64 << 10  # ... where they are computed with, 512 KiB as float64
_LINE_BYTES = 64  # added to each scratch row, so that a column of it spreads over all cache sets
_RUN_BYTES = 128  # sagittal slices cut together, so that a cache line is read once; 64 costs half as much again
_BLOCK_BYTES = 1 << 20  # images cut at once where neighbours share no cache line
_SHARED_BLOCK_BYTES = 32 << 20  # ... and the most where they do


def slices_per_block(data: NDArray[Any], plane: Plane, dtype: np.dtype[Any]) -> int:
    """How many neighbouring slices are best cut by one call of `cut`.

    Parameters
    ----------
    data : (x, y, z) array
        The volume; its memory order decides.
    plane : Plane
    dtype : numpy.dtype
        Of the images (`PixelRule.dtype`).

    Returns
    -------
    int: at least 1; the images of a block take at most 32 MiB, or one image where that is larger

    Notes
    -----
    Where the cut axis is the fastest in memory (sagittal slices of a Fortran-ordered volume), one slice reads a
    whole cache line for each voxel, so blocks are as deep as two lines. Else they are as deep as fills 1 MiB.
    """
    height, width = plane.size
    image_bytes = max(1, height * width * dtype.itemsize)
    row, column, index = (abs(data.strides[axis]) for axis in plane.axes)
    if index < min(row, column):
        return max(1, min(_RUN_BYTES // data.itemsize, _SHARED_BLOCK_BYTES // image_bytes))
    return max(1, _BLOCK_BYTES // image_bytes)


def cut(
    data: NDArray[Any],
    plane: Plane,
    first: int,
    last: int,
    rule: PixelRule,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Cut the slices ``first <= index < last`` and pad them to the size of the plane.

    Parameters
    ----------
    data : (x, y, z) array of `rule.stored`
        Any memory order and strides.
    plane : Plane
        View, shape of `data`, size of the images.
    first, last : int
        Half-open range of slices; `slices_per_block` says how many are best.
    rule : PixelRule
        How a stored voxel becomes a pixel.
    out : (last - first, height, width) array of `rule.dtype`, optional
        Filled and returned; without it a new C-contiguous array.

    Returns
    -------
    (last - first, height, width) array of `rule.dtype`; image k is slice ``first + k``

    Raises
    ------
    InvalidInput
        `data` is not the volume that `plane` and `rule` speak of, `out` does not fit, or there are no such slices.

    Notes
    -----
    Releases the GIL while it copies. Needs up to 2 MiB of scratch beside `out`.
    """
    data = np.asarray(data)  # a memory map would carry its class through every view below
    if data.shape != plane.shape or data.dtype.newbyteorder("=") != rule.stored:
        raise InvalidInput(
            f"voxels {data.shape} of {data.dtype}, but the plane is of {plane.shape} and the rule of {rule.stored}"
        )
    if not 0 <= first <= last <= plane.count:
        raise InvalidInput(f"slices {first} to {last} of {plane.count} {plane.view} ones; expected 0 <= first <= last")
    shape = (last - first, *plane.size)
    if out is None:
        out = np.empty(shape, rule.dtype)
    elif out.shape != shape or out.dtype != rule.dtype:
        raise InvalidInput(f"out is {out.shape} of {out.dtype}; expected {shape} of {rule.dtype}")
    top, left = plane.pad
    inside = out[:, top : top + plane.rows, left : left + plane.columns]
    _fill_border(out, plane, rule.pad_value)
    row, column, index = plane.axes
    _move(data.transpose(index, row, column)[first:last], inside, rule)
    return out


def _fill_border(out: NDArray[Any], plane: Plane, value: float) -> None:
    top, left = plane.pad
    bottom, right = top + plane.rows, left + plane.columns
    out[:, :top] = value
    out[:, bottom:] = value
    out[:, top:bottom, :left] = value
    out[:, top:bottom, right:] = value


def _move(source: NDArray[Any], target: NDArray[Any], rule: PixelRule) -> None:
    """Copy (slice, row, column) voxels into pixels of the same shape, tile by tile."""
    if not source.size:
        return
    forwards = tuple(slice(None, None, -1 if stride < 0 else 1) for stride in source.strides)
    source, target = source[forwards], target[forwards]
    if source.strides[0] < source.strides[1]:
        source, target = source.swapaxes(0, 1), target.swapaxes(0, 1)
    # What is left to transpose, if anything, are the two axes at the end.
    if source.strides[1] < source.strides[2]:
        source, target = source.swapaxes(1, 2), target.swapaxes(1, 2)
    elif rule.is_copy:
        np.copyto(target, source)
        return
    _move_tiles(source, target, rule)


def _move_tiles(source: NDArray[Any], target: NDArray[Any], rule: PixelRule) -> None:
    """Move tile by tile; the last axis of `source` is its fastest, that of `target` may be any."""
    depth, lines, run = source.shape
    pitch = run + _LINE_BYTES // source.itemsize
    voxels = _TILE_BYTES // source.itemsize if rule.is_copy else _TILE_VOXELS
    lines = min(lines, max(1, voxels // pitch))
    depth = min(depth, max(1, voxels // (pitch * lines)))
    tile = np.zeros((depth, lines, pitch), rule.stored)  # zeros: what pads the rows goes through the arithmetic too
    for i in range(0, source.shape[0], depth):
        for j in range(0, source.shape[1], lines):
            part = source[i : i + depth, j : j + lines]
            inside = slice(part.shape[0]), slice(part.shape[1]), slice(run)
            _copy_runs(part, tile[inside])
            np.copyto(target[i : i + depth, j : j + lines], rule.pixels(tile)[inside])


def _copy_runs(source: NDArray[Any], target: NDArray[Any]) -> None:
    """Copy where both run along their last axis; a run is one element to NumPy, whose loop costs more than 64 bytes."""
    if source.dtype == target.dtype and source.strides[-1] == target.strides[-1] == source.itemsize:
        run = np.dtype((np.void, source.shape[-1] * source.itemsize))
        source, target = source.view(run), target.view(run)
    np.copyto(target, source)
