"""Coarser mags of labels: each voxel takes the id that most of the finer voxels below it have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import Box, Shape3
from voxtract.webknossos.mag import Mag
from voxtract.webknossos.mag_view import MagView, StoredArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_ROWS = 1 << 20  # places that are looked at together
_BAND_BYTES = 1 << 26  # of voxels that are written at a time: each time, the file around them is written anew


def downsample_labels(voxels: NDArray[Any], factor: Shape3) -> NDArray[Any]:
    """Take the most frequent value of each block of voxels; of several that are as frequent, the smallest.

    Parameters
    ----------
    voxels : (x, y, z) integer array
        Sides are multiples of `factor`.
    factor : (x, y, z)
        Voxels of a block.

    Returns
    -------
    (x, y, z) array of the same dtype, Fortran-ordered

    Raises
    ------
    InvalidInput
        A side is no multiple of the factor.

    Notes
    -----
    The values of each block are sorted and their runs compared, for all blocks at once.

    Examples
    --------
    >>> downsample_labels(np.array([5, 5, 0, 5, 7, 5, 5, 1]).reshape(8, 1, 1), (4, 1, 1)).ravel().tolist()
    [5, 5]
    """
    if any(n % f for n, f in zip(voxels.shape, factor, strict=True)):
        raise InvalidInput(f"an array of {voxels.shape} voxels cannot be cut into blocks of {factor}; pad it first")
    x, y, z = (n // f for n, f in zip(voxels.shape, factor, strict=True))
    blocks = voxels.reshape((factor[0], x, factor[1], y, factor[2], z), order="F")
    values = np.sort(blocks.transpose(0, 2, 4, 5, 3, 1).reshape((math.prod(factor), z, y, x)), axis=0)
    best = values[0].copy()
    if len(values) > 1 and not np.array_equal(values[0], values[-1]):
        run = np.ones(best.shape, np.int64)
        most = run.copy()
        for before, value in pairwise(values):
            run = np.where(value == before, run + 1, 1)
            longer = run > most
            most[longer], best[longer] = run[longer], value[longer]
    out: NDArray[Any] = best.transpose(2, 1, 0)
    return out


def rebuild_mags(finest: MagView, coarser: Iterable[MagView], changed: NDArray[np.int64] | None = None) -> None:
    """Compute coarser mags of a label layer from its voxels in `finest`.

    Parameters
    ----------
    finest : MagView
    coarser : mags of the same layer
        Each is computed from the next finer one that it is a multiple of.
    changed : (n, 2, 3) int, optional
        Boxes (start, stop) in voxels of `finest`, outside of which the coarser mags are right already; all that is
        stored where it is None.

    Raises
    ------
    InvalidInput
        A mag that is no multiple of `finest`, or a layer with several channels.
    DamagedFile, OutputError
        A chunk does not decode; it cannot be written.
    """
    if finest.layer.num_channels != 1:
        raise InvalidInput(f"{finest.where}: has {finest.layer.num_channels} channels, but labels have one")
    if changed is None:
        shards = [(box.start, box.stop) for box in finest.array.shards()]
        changed = np.array(shards, np.int64).reshape((-1, 2, 3))
    done = [finest]
    for view in sorted(coarser, key=lambda view: tuple(view.mag)):
        sources = [source for source in done if factor_between(source.mag, view.mag)]
        factor = factor_between(sources[-1].mag, view.mag) if sources else None
        if factor is None:
            raise InvalidInput(f"{view.where}: is no multiple of mag {finest.mag}, so it cannot be computed from it")
        mag = np.array(view.mag)
        starts = touched_chunks(changed * np.array(finest.mag), np.array(view.array.chunk) * mag)
        _rebuild(sources[-1].array, view.array, factor, starts // mag)
        done.append(view)


def factor_between(fine: Mag, coarse: Mag) -> Shape3 | None:
    """How many voxels of `fine` one of `coarse` covers along x, y, z; None where that is no whole number."""
    if fine == coarse or any(b % a for a, b in zip(fine, coarse, strict=True)):
        return None
    x, y, z = (b // a for a, b in zip(fine, coarse, strict=True))
    return x, y, z


def touched_chunks(boxes: NDArray[np.int64], chunk: NDArray[np.int64]) -> NDArray[np.int64]:
    """First voxels (m, 3) of the chunks that meet any of the boxes (n, 2, 3), each once; sorted by z, y, x."""
    low, high = boxes[:, 0] // chunk, -(-boxes[:, 1] // chunk)
    span = high - low
    found: list[NDArray[np.int64]] = []
    for sides in np.unique(span, axis=0):
        inside = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), axis=-1).reshape((-1, 3))
        here = low[(span == sides).all(axis=1)]
        for first in range(0, len(here), max(1, _MOST_ROWS // len(inside))):
            part = here[first : first + max(1, _MOST_ROWS // len(inside))]
            found.append(np.unique((part[:, None] + inside).reshape((-1, 3)), axis=0))
    if not found:
        return np.zeros((0, 3), np.int64)
    starts = np.unique(np.concatenate(found), axis=0)
    return starts[np.lexsort(starts.T)] * chunk


def overlay(
    array: StoredArray,
    starts: NDArray[np.int64],
    side: Sequence[int],
    voxels: Callable[[int], NDArray[Any]],
) -> None:
    """Write pieces of a label array, many at a time, so that a file is rewritten seldom.

    Parameters
    ----------
    array : StoredArray
        With one channel.
    starts : (n, 3) int64
        First voxel of each piece.
    side : (x, y, z)
        Voxels of a piece.
    voxels : number of a piece -> (x, y, z) array
        Pieces are asked for one by one.
    """
    for group in _bands(array, starts, np.array(side)):
        low, high = starts[group].min(axis=0), (starts[group] + side).max(axis=0)
        region = array.read(Box(tuple(low.tolist()), tuple(high.tolist())))
        for number in group.tolist():
            place = starts[number] - low
            region[0][tuple(map(slice, place, place + side))] = voxels(number)
        x, y, z = low.tolist()
        array.write((x, y, z), region)


def _bands(array: StoredArray, starts: NDArray[np.int64], side: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Groups of pieces that lie in one file and one row of pieces along z, and fit into `_BAND_BYTES`."""
    shard = np.maximum(np.array(array.shard), side)
    row_bytes = int(shard[0] * side[2]) * array.dtype.itemsize
    height = max(int(side[1]), _BAND_BYTES // row_bytes)
    keys = np.concatenate([starts // shard, starts[:, 2:] // side[2], starts[:, 1:2] // height], axis=1)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    ends = np.flatnonzero(np.diff(group.ravel()[order])) + 1
    yield from (part for part in np.split(order, ends) if len(part))


def _rebuild(source: StoredArray, target: StoredArray, factor: Shape3, starts: NDArray[np.int64]) -> None:
    def piece(number: int) -> NDArray[Any]:
        low, high = starts[number] * factor, (starts[number] + target.chunk) * factor
        fine = source.read(Box(tuple(low.tolist()), tuple(high.tolist())))[0]
        return downsample_labels(fine, factor)

    overlay(target, starts, target.chunk, piece)
