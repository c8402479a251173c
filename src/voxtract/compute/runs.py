"""Runs of equal label along one axis of a volume, found block by block in the order of its memory.

A *run* is a maximal stretch of one positive label inside one line of voxels. Blocks of about `BLOCK` bytes stay
in a core's cache while several NumPy passes go over them; background is skipped eight bytes at a time.

Words used here: the axes of the memory are a2, a1, a0 (a0 has the smallest stride). Runs lie along the last axis
of the *order* b2, b1, b0, which is either (a2, a1, a0) or, `crossed`, (a2, a0, a1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Labels = NDArray[Any]

BLOCK = 1 << 19  # bytes; fastest of 2**17 .. 2**22 in bench_components: voxels and marks stay in a 1 MiB L2 cache
_WORD = 8  # bytes that are looked at together to skip background


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs in the order of b2 (`plane`), b1 (`row`), b0 (`start`); all (n,), `stop` is past the end of the run."""

    plane: Index
    row: Index
    start: Index
    stop: Index
    label: Labels

    def __len__(self) -> int:
        return len(self.plane)

    def tail(self, position: int) -> Runs:
        """Runs from `position` on."""
        return Runs(*(values[position:] for values in self._fields()))

    @classmethod
    def join(cls, parts: list[Runs]) -> Runs:
        """All runs of `parts`, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(*map(np.concatenate, zip(*(part._fields() for part in parts), strict=True)))

    def _fields(self) -> tuple[Index, Index, Index, Index, Labels]:
        return self.plane, self.row, self.start, self.stop, self.label


@dataclass(frozen=True, slots=True)
class Memory:
    """A label volume as its memory sees it: axes by falling stride, none of them backwards.

    Parameters
    ----------
    data : (a2, a1, a0) array
        A view of the volume; nothing is copied.
    axes : voxel axis of a2, a1, a0
    flipped : whether the voxel coordinate falls along a2, a1, a0
    """

    data: Labels
    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def of(cls, labels: Labels) -> Memory:
        """Look at (x, y, z) `labels` of any strides."""
        # An axis of length one or stride zero (a broadcast array) says nothing about the memory: it goes first.
        weight = [abs(s) if n > 1 and s else np.inf for n, s in zip(labels.shape, labels.strides, strict=True)]
        x, y, z = sorted(range(3), key=lambda axis: -weight[axis])
        flipped = tuple(labels.strides[axis] < 0 for axis in (x, y, z))
        data = labels.transpose(x, y, z)[tuple(slice(None, None, -1 if f else 1) for f in flipped)]
        return cls(data.view(np.uint8) if data.dtype == bool else data, (x, y, z), (flipped[0], flipped[1], flipped[2]))


def batches(data: Labels, crossed: bool, limit: int) -> Iterator[Runs]:
    """Yield the runs of (a2, a1, a0) `data`, whole planes at a time, at least `limit` runs in each but the last.

    `crossed` cuts runs along a1 instead of a0. Batches without runs do not appear.
    """
    parts: list[Runs] = []
    waiting = 0
    for runs, ends_plane in _blocks(data, crossed):
        if len(runs):
            parts.append(runs)
            waiting += len(runs)
        if ends_plane and waiting >= limit:
            yield Runs.join(parts)
            parts, waiting = [], 0
    if parts:
        yield Runs.join(parts)


def _blocks(data: Labels, crossed: bool) -> Iterator[tuple[Runs, bool]]:
    """Yield the runs of one block after the other, and whether the block ends a plane."""
    planes, rows, columns = data.shape
    if not data.size:
        return
    scan = _Scan(data.dtype)
    row_bytes = columns * data.dtype.itemsize
    step = max(1, BLOCK // (rows * row_bytes))
    height = rows if crossed else min(rows, max(1, BLOCK // row_bytes))
    for plane in range(0, planes, step):
        for row in range(0, rows, height):
            block = data[plane : plane + step, row : row + height]
            runs = scan.across(block, plane) if crossed else scan.along(block, plane, row)
            yield runs, row + height >= rows


class _Scan:
    """Finds the runs of one block; keeps its buffers from block to block."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype.newbyteorder("=")
        self.shift = (_WORD // self.dtype.itemsize).bit_length() - 1  # voxel number >> shift = word number
        none = np.empty(0, np.int64)
        self.none = Runs(none, none, none, none, np.empty(0, self.dtype))
        self.padded = np.empty((0, 0), self.dtype)
        self.marks = np.empty(0, bool)

    def along(self, block: Labels, plane: int, row: int) -> Runs:
        """Runs along the last axis of a (planes, rows, columns) block that begins at `plane` and `row`."""
        _, height, columns = block.shape
        block = block.reshape(-1, columns)
        rows = block if self._is_words(block, block.nbytes) else self._padded(block)
        words = rows.reshape(-1).view(np.uint64)
        filled = words != 0
        count = np.count_nonzero(filled)
        if not count:
            return self.none
        if 3 * count > len(words):  # dense: look at every voxel
            rows = rows if len(rows.T) > columns else self._padded(block)
            start, stop, labels = _between(*self._edges(rows.reshape(-1)), rows.size)
            line = start // len(rows.T)
        else:  # sparse: only at words with foreground and the word after each, whose zeros end the last run
            filled[1:] |= filled[:-1]
            chosen = np.flatnonzero(filled)
            edges, labels = self._edges(words.take(chosen).view(self.dtype))
            edges = (chosen.take(edges >> self.shift) << self.shift) + (edges & ((1 << self.shift) - 1))
            start, stop, labels = _between(edges, labels, rows.size)
            line, start, stop, labels = _cut_at_row_ends(start, stop, labels, len(rows.T))
        first = line * len(rows.T)
        start, stop = start - first, stop - first
        if len(block) == height:
            return Runs(np.full(len(line), plane), line + row if row else line, start, stop, labels)
        planes = line // height
        line -= planes * height
        planes += plane
        return Runs(planes, line, start, stop, labels)

    def across(self, block: Labels, plane: int) -> Runs:
        """Runs along the middle axis of a (planes, rows, columns) block from `plane` on, in the order plane, column."""
        planes, rows, columns = block.shape
        lines = block.reshape(-1, columns)
        words = (lines if self._is_words(lines, lines.strides[0]) else self._padded(lines)).view(np.uint64)
        width = words.shape[1]
        filled = words != 0
        count = np.count_nonzero(filled)
        if not count:
            return self.none
        if 4 * count > words.size:  # dense: turning the block is cheaper than sorting
            return self.along(_turned(block, self.dtype), plane, 0)
        marked = filled.reshape(planes, rows, width)
        marked[:, 1:] |= marked[:, :-1]
        chosen = np.flatnonzero(filled)
        here = words.reshape(-1).take(chosen)
        above = words.reshape(-1).take(chosen - width, mode="wrap")
        row_of = chosen // width
        above[row_of % rows == 0] = 0  # nothing lies above the first row of a plane
        here_voxels = here.view(self.dtype)
        edges = np.flatnonzero(here_voxels != above.view(self.dtype))
        word = edges >> self.shift
        row = row_of.take(word)
        column = ((chosen.take(word) - row * width) << self.shift) + (edges & ((1 << self.shift) - 1))
        plane_of = row // rows
        line = plane_of * columns + column
        row -= plane_of * rows
        # Edges come by row; a stable sort by line leaves the rows of each line in order. 16 bits sort by radix.
        order = np.argsort(line.astype(np.uint16) if planes * columns < 1 << 16 else line, kind="stable")
        position = (line * rows + row).take(order)
        start, stop, labels = _between(position, here_voxels.take(edges).take(order), planes * columns * rows)
        line = start // rows
        first = line * rows
        plane_of = line // columns
        line -= plane_of * columns
        plane_of += plane
        return Runs(plane_of, line, start - first, np.minimum(stop - first, rows), labels)

    def _edges(self, flat: Labels) -> tuple[Index, Labels]:
        """Positions whose label differs from the one before (background before the first), and their labels."""
        if len(self.marks) < len(flat):
            self.marks = np.empty(len(flat), bool)
        marks = self.marks[: len(flat)]
        marks[0] = flat[0] != 0
        np.not_equal(flat[1:], flat[:-1], out=marks[1:])
        edges = np.flatnonzero(marks)
        return edges, flat.take(edges)

    def _is_words(self, rows: Labels, size: int) -> bool:
        """Whether (rows, columns) voxels can be looked at as words, given what has to be a whole number of them."""
        return rows.flags.c_contiguous and rows.dtype.isnative and size % _WORD == 0 == rows.ctypes.data % _WORD

    def _padded(self, rows: Labels) -> Labels:
        """Copy (rows, columns) voxels to rows of whole words that end in background: a gap that no run crosses."""
        columns = rows.shape[1]
        per_word = 1 << self.shift
        width = (columns + per_word) // per_word * per_word
        if self.padded.shape[1] != width or len(self.padded) < len(rows):
            self.padded = np.empty((len(rows), width), self.dtype)
        copy = self.padded[: len(rows)]
        copy[:, :columns] = rows
        copy[:, columns:] = 0
        return copy


def _turned(block: Labels, dtype: np.dtype[Any]) -> Labels:
    """Copy (planes, rows, columns) to (planes, columns, rows).

    Goes through a buffer with rows 64 bytes longer: reading down the columns of rows whose length is a power of two
    would use few sets of the cache (measured: 1.8 times as fast for 512 x 512 uint8).
    """
    planes, rows, columns = block.shape
    buffer = np.empty((rows, columns + 64 // dtype.itemsize), dtype)
    out = np.empty((planes, columns, rows), dtype)
    for source, target in zip(block, out, strict=True):
        buffer[:, :columns] = source
        target[...] = buffer[:, :columns].T
    return out


def _between(edges: Index, labels: Labels, end: int) -> tuple[Index, Index, Labels]:
    """Stretches of positive label: from an edge to the next one, or to `end`."""
    if not len(edges):
        return edges, edges, labels
    if len(edges) % 2:
        edges = np.append(edges, end)
    if not labels[1::2].any() and (labels[::2] > 0).all():  # label and background take turns
        return edges[::2].copy(), edges[1::2].copy(), labels[::2].copy()
    inside = labels > 0
    stop = np.append(edges[1:], end)[: len(labels)]
    return edges[: len(labels)].compress(inside), stop.compress(inside), labels.compress(inside)


def _cut_at_row_ends(start: Index, stop: Index, labels: Labels, width: int) -> tuple[Index, Index, Index, Labels]:
    """Cut stretches of the memory into pieces of rows that are `width` long: row, start, stop, label."""
    line = start // width
    pieces = (stop - 1) // width - line
    if not pieces.any():
        return line, start, stop, labels
    pieces += 1
    line = np.repeat(line, pieces) + np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = np.maximum(np.repeat(start, pieces), line * width)
    stop = np.minimum(np.repeat(stop, pieces), (line + 1) * width)
    return line, start, stop, np.repeat(labels, pieces)
