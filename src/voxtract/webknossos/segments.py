"""Boxes, voxel counts and centroids of all segments of a layer, from its stored chunks.

The voxels of a chunk become runs of equal ids along x; runs are sorted by id and reduced, chunk by chunk, and the rows
of chunks once more. So time goes with the stored voxels, memory with the segments and one chunk, whatever the box of
the layer is. Segments are id by id, in however many pieces they lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from voxtract.geometry import Box, Shape3
from voxtract.webknossos.mag import Mag, union

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MERGE_ROWS = 1 << 15  # rows of chunks that are gathered before they are merged


class Chunked(Protocol):
    """One mag of a layer whose stored chunks can be gone through."""

    @property
    def mag(self) -> Mag:
        """Of the voxels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels."""

    def chunks(self) -> Iterator[tuple[Shape3, NDArray[Any]]]:
        """First voxel of each stored chunk, in this mag, and its voxels (x, y, z)."""


@dataclass(frozen=True, eq=False, slots=True)
class Segments:
    """The segments of a layer in voxels of mag 1, ascending by id.

    Parameters
    ----------
    id : (n,) integer, dtype of the layer
        Only positive ones: 0 is background.
    start, stop : (n, 3) int64
        Half-open box, axes x, y, z, tight up to the mag that was looked at.
    count : (n,) int64
        Voxels of mag 1.
    centroid : (n, 3) float64
        Mean of the voxel indices of mag 1, where voxel i is the point i.
    """

    id: NDArray[Any]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    count: NDArray[np.int64]
    centroid: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.id)

    @property
    def box(self) -> Box | None:
        """Smallest box around all segments; None where there is none."""
        if not len(self):
            return None
        return Box(tuple(self.start.min(axis=0).tolist()), tuple(self.stop.max(axis=0).tolist()))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Parts of segments in voxels of the mag; `total` is the sum of the voxel indices."""

    id: NDArray[Any]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    count: NDArray[np.int64]
    total: NDArray[np.int64]

    def moved(self, offset: NDArray[np.int64]) -> _Rows:
        return _Rows(
            self.id,
            self.start + offset,
            self.stop + offset,
            self.count,
            self.total + self.count[:, None] * offset,
        )

    def merged(self) -> _Rows:
        """One row for each id, ascending."""
        order = np.argsort(self.id, kind="stable")
        ids = self.id[order]
        first = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else np.zeros(0, np.int64)
        if not len(first):
            return self
        return _Rows(
            ids[first],
            np.minimum.reduceat(self.start[order], first, axis=0),
            np.maximum.reduceat(self.stop[order], first, axis=0),
            np.add.reduceat(self.count[order], first),
            np.add.reduceat(self.total[order], first, axis=0),
        )


def find_segments(source: Chunked) -> Segments:
    """Go through the stored chunks once and measure every segment.

    Parameters
    ----------
    source : ChunkStore, mag of a dataset's layer, or anything with its `mag`, `dtype` and `chunks()`

    Returns
    -------
    Segments

    Raises
    ------
    DamagedFile, InvalidInput
        As `source.chunks()`.
    """
    merged = _runs(np.zeros((1, 1, 1), source.dtype))
    parts: list[_Rows] = []
    waiting = 0
    origin: NDArray[np.int64] | None = None  # sums are taken from here, so that they stay small
    for start, voxels in source.chunks():
        place = np.array(start, np.int64)
        origin = place if origin is None else origin
        if not voxels.any():
            continue
        parts.append(_runs(voxels).merged().moved(place - origin))
        waiting += len(parts[-1].id)
        if waiting > max(_MERGE_ROWS, len(merged.id)):
            merged, parts, waiting = _joined([merged, *parts]), [], 0
    rows = _joined([merged, *parts])
    mag = np.array(source.mag)
    first = np.zeros(3, np.int64) if origin is None else origin
    return Segments(
        rows.id,
        (rows.start + first) * mag,
        (rows.stop + first) * mag,
        rows.count * source.mag.volume,
        (rows.total / rows.count[:, None] + first) * mag + (mag - 1) / 2,
    )


def nonzero_box(source: Chunked) -> Box | None:
    """Smallest box around the voxels that are not 0, in voxels of mag 1; None where there are none.

    Tight up to the mag that is looked at. One chunk is held at a time.

    Raises
    ------
    DamagedFile, InvalidInput
        As `source.chunks()`.
    """
    box: Box | None = None
    for start, voxels in source.chunks():
        filled = voxels != 0
        if filled.any():
            ends = [np.flatnonzero(filled.any(axis=axes))[[0, -1]] for axes in ((1, 2), (0, 2), (0, 1))]
            low, high = (tuple(int(end[n]) + zero for end, zero in zip(ends, start, strict=True)) for n in (0, 1))
            box = union([Box(low, tuple(n + 1 for n in high)), *([box] if box else [])])
    return source.mag.full(box) if box else None


def _runs(voxels: NDArray[Any]) -> _Rows:
    """Runs of equal positive ids along x in an array (x, y, z)."""
    width, height, _ = voxels.shape
    flat = voxels.reshape(-1, order="F")
    begins = np.ones(flat.shape, np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[::width] = True
    first = np.flatnonzero(begins)
    length = np.diff(first, append=flat.size)
    keep = flat[first] > 0
    first, length = first[keep], length[keep]
    row, x = np.divmod(first, width)
    z, y = np.divmod(row, height)
    start = np.stack([x, y, z], axis=1)
    stop = np.stack([x + length, y + 1, z + 1], axis=1)
    total = start * length[:, None]
    total[:, 0] += length * (length - 1) // 2
    return _Rows(flat[first], start, stop, length, total)


def _joined(parts: Sequence[_Rows]) -> _Rows:
    names = ("id", "start", "stop", "count", "total")
    return _Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names)).merged()
