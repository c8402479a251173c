"""Connected components of a label volume: boxes, voxel counts and coordinate sums, without a label image.

The runs of equal label along one memory axis (runs.py) are joined to the runs of neighbouring lines that they
touch; then everything that is wanted is reduced per component from the runs, batch by batch of whole planes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from voxtract.compute.runs import FAR, Memory, Runs, batches, number_components, numbered, unite
from voxtract.errors import InvalidInput, check_choice
from voxtract.geometry import Plane, Shape3, View, check_view
from voxtract.model import Components

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from voxtract.compute.runs import Index, Labels

Extent = Literal["slice", "volume"]
Objects = Literal["components", "labels"]


class ComponentWords(TypedDict):
    """Keywords of `find_components`, which describes them."""

    extent: Extent
    connectivity: int | None
    objects: Objects
    mass: bool


BATCH = 1 << 16  # runs joined at once; 2**14 .. 2**17 differ by less than the noise of bench_components


def find_components(
    labels: NDArray[Any],
    view: View,
    *,
    extent: Extent = "slice",
    connectivity: int | None = None,
    objects: Objects = "components",
    mass: bool = False,
) -> Components:
    """Find the connected components of a label volume, or its labels as wholes.

    Parameters
    ----------
    labels : (x, y, z) integer or bool array
        Any width, any strides; 0 and below is background. Nothing is written to it.
    view : {"axial", "coronal", "sagittal"}
        Which slices, and which raster order the rows follow.
    extent : {"slice", "volume"}
        Components of every slice on its own, or of the volume.
    connectivity : int, optional
        Steps along axes that neighbours may be apart: 1 (4 neighbours in a slice, 6 in a volume), 2 (8; 18) or
        3 (26, volume only). Default: all neighbours.
    objects : {"components", "labels"}
        One row per component, or per label value (of each slice or of the volume) however many pieces it has.
    mass : bool
        Also sum the voxel coordinates (`Components.total`).

    Returns
    -------
    Components
        Rows in raster order (slice, row, column of the view) of each component's first voxel; `label` has the
        dtype of `labels` (uint8 for bool).

    Raises
    ------
    InvalidInput
        Not three axes, not integers, or a word or number that is not allowed.

    Notes
    -----
    Needs memory for the runs, not for a copy of the volume. Voxels that touch but differ in label are not joined.

    Examples
    --------
    >>> labels = np.zeros((4, 5, 2), np.uint8)
    >>> labels[0:2, 1, 0] = labels[2, 2, 0] = 7          # touch at a corner
    >>> found = find_components(labels, "axial")
    >>> found.start.tolist(), found.stop.tolist(), found.count.tolist()
    ([[0, 1, 0]], [[3, 3, 1]], [3])
    >>> len(find_components(labels, "axial", connectivity=1))
    2
    """
    labels = np.asarray(labels)
    check_labels(labels, extent, objects)
    reach = check_connectivity(connectivity, extent)
    plane = Plane(check_view(view), (labels.shape[0], labels.shape[1], labels.shape[2]))
    memory = Memory.of(labels)
    lattice = _Lattice.of(memory, plane, extent)
    _keep_freed_memory()
    parts = batches(memory.data, lattice.crossed, BATCH)
    found = _reduced(parts, lattice, memory.data.dtype, objects, reach, mass)
    return lattice.components(found, memory.data.dtype.newbyteorder("="), mass)


def find_components_in_chunks(
    layers: Iterable[Iterable[tuple[Shape3, NDArray[Any]]]],
    shape: Shape3,
    dtype: DTypeLike,
    view: View,
    *,
    extent: Extent = "slice",
    connectivity: int | None = None,
    objects: Objects = "components",
    mass: bool = False,
) -> Components:
    """Find the components of a volume of which only chunks are stored; the rest is background.

    Parameters
    ----------
    layers : iterable of iterables of (start, chunk)
        Chunks are (x, y, z) arrays that begin at the voxel `start` and do not overlap. Those of a layer lie in the
        same planes along z, layers come by rising z; within a layer any order will do.
    shape : (x, y, z)
        Of the volume; it may have any size, only what is stored is looked at.
    dtype : dtype
        Of the chunks.
    view, extent, connectivity, objects, mass
        As of `find_components`.

    Returns
    -------
    Components
        What `find_components` gives for the whole volume, also where components reach over chunks.

    Raises
    ------
    InvalidInput
        As `find_components`, or a volume whose voxels int64 cannot count.

    Notes
    -----
    Needs memory for the runs of one layer, its chunks one at a time, and the rows found.

    Examples
    --------
    >>> chunk = np.ones((2, 2, 2), np.uint8)
    >>> layers = [[((0, 0, 0), chunk), ((2, 0, 0), chunk)], [((2, 0, 2), chunk)]]
    >>> found = find_components_in_chunks(layers, (10**6, 10**6, 10**4), np.uint8, "axial", extent="volume")
    >>> found.start.tolist(), found.stop.tolist(), found.count.tolist()
    ([[0, 0, 0]], [[4, 2, 4]], [24])
    """
    dtype = np.dtype(dtype).newbyteorder("=")
    check_labels(np.empty((0, 0, 0), dtype), extent, objects)
    reach = check_connectivity(connectivity, extent)
    if math.prod(n + 1 for n in shape) > np.iinfo(np.int64).max:
        raise InvalidInput(f"a volume of {' x '.join(map(str, shape))} voxels has more than int64 can count")
    memory = Memory(np.empty((0, 0, 0), dtype), (2, 1, 0), (False, False, False))
    lattice = _Lattice.of(memory, Plane(check_view(view), shape), extent)
    parts = (runs for runs in (_of_layer(layer, lattice) for layer in layers) if runs is not None)
    found = _reduced(parts, lattice, dtype, objects, reach, mass)
    return lattice.components(found, dtype, mass)


def _of_layer(layer: Iterable[tuple[Shape3, NDArray[Any]]], lattice: _Lattice) -> Runs | None:
    """Runs of the chunks of a layer in the order of the volume; one that goes on in the next chunk is one run."""
    parts: list[Runs] = []
    for start, chunk in layer:
        offset = [start[axis] for axis in lattice.axes]
        data = np.ascontiguousarray(chunk.transpose(2, 1, 0))
        for runs in batches(data.view(np.uint8) if data.dtype == np.bool_ else data, lattice.crossed, BATCH):
            parts.append(runs.moved(*offset))
    if not parts:
        return None
    runs = Runs.join(parts)
    order = np.lexsort((runs.start, runs.row, runs.plane))
    runs = runs.take(order)
    same_line = (runs.plane[1:] == runs.plane[:-1]) & (runs.row[1:] == runs.row[:-1])
    goes_on = same_line & (runs.start[1:] == runs.stop[:-1]) & (runs.label[1:] == runs.label[:-1])
    if not goes_on.any():
        return runs
    first = np.flatnonzero(np.concatenate(([True], ~goes_on)))
    last = np.append(first[1:], len(runs)) - 1
    return replace(runs.take(first), stop=runs.stop.take(last))


def _reduced(
    parts: Iterable[Runs], lattice: _Lattice, dtype: np.dtype[Any], objects: Objects, reach: int, mass: bool
) -> _Table:
    """One row for each component or label of the runs, which come in whole planes."""
    if objects == "labels":
        return _whole_labels(parts, lattice, dtype, mass)
    return _Joiner(lattice, reach, mass).run(parts, dtype)


def _keep_freed_memory() -> None:
    """Have the allocator keep arrays of some MB for the next one instead of asking the system for zeroed pages.

    glibc raises its limit for doing so to the largest block it has seen freed (mallopt(3), M_MMAP_THRESHOLD). The block
    is never touched, so it costs microseconds; without it 512 x 512 x 16 voxels of noise cost 26,000 page faults.
    """
    np.empty((1 << 25) - (1 << 16), np.uint8)  # 32 MiB and its header is the most that is taken into account


def check_labels(labels: Labels, extent: str, objects: str) -> None:
    """Raise `InvalidInput` unless `find_components` takes these, on whatever device."""
    if labels.ndim != 3:
        raise InvalidInput(f"labels have {labels.ndim} axes {labels.shape}; expected the three axes (x, y, z)")
    if labels.dtype.kind not in "biu":
        raise InvalidInput(f"labels are {labels.dtype}; expected integers or bool: convert them, or set a threshold")
    check_choice("extent", extent, ("slice", "volume"))
    check_choice("objects", objects, ("components", "labels"))


def check_connectivity(connectivity: int | None, extent: str) -> int:
    """Give the connectivity that is meant; `InvalidInput` if there is none such."""
    most = 2 if extent == "slice" else 3
    if connectivity is None:
        return most
    if connectivity not in range(1, most + 1):
        raise InvalidInput(
            f"connectivity {connectivity!r} in a {extent}; allowed: {', '.join(map(str, range(1, most + 1)))}"
        )
    return int(connectivity)


def _whole_labels(batches: Iterable[Runs], lattice: _Lattice, dtype: np.dtype[Any], mass: bool) -> _Table:
    """One row per label, or per slice and label."""
    parts = [lattice.empty(dtype, mass)]
    for runs in batches:
        slices = None if lattice.cut is None else (runs.plane, runs.row)[lattice.cut]
        parts.append(lattice.table(runs, *_label_numbers(runs.label, slices), mass))
    found = _Table.join(parts)
    return found.reduce(*_label_numbers(found.label, None if lattice.cut is None else found.first[lattice.cut]))


@dataclass(frozen=True, slots=True)
class _Table:
    """Rows to be reduced: first and last voxel along b2, b1, b0, count, coordinate sums, raster position, label."""

    first: tuple[Index, Index, Index]
    last: tuple[Index, Index, Index]
    count: Index
    total: tuple[Index, ...]  # empty unless asked for
    raster: Index  # where the first voxel lies in raster order
    label: Labels

    def reduce(self, target: Index, size: int) -> _Table:
        """Merge all rows with the same `target` into one of `size` rows."""
        count = np.zeros(size, np.int64)
        np.add.at(count, target, self.count)
        label = np.empty(size, self.label.dtype)
        label[target] = self.label
        return _Table(
            first=_three(_scatter(np.minimum, target, values, size, FAR) for values in self.first),
            last=_three(_scatter(np.maximum, target, values, size, -1) for values in self.last),
            count=count,
            total=tuple(_scatter(np.add, target, values, size, 0) for values in self.total),
            raster=_scatter(np.minimum, target, self.raster, size, FAR),
            label=label,
        )

    def take(self, rows: Index) -> _Table:
        """The rows at these positions."""
        return _Table(
            first=_three(values.take(rows) for values in self.first),
            last=_three(values.take(rows) for values in self.last),
            count=self.count.take(rows),
            total=tuple(values.take(rows) for values in self.total),
            raster=self.raster.take(rows),
            label=self.label.take(rows),
        )

    @classmethod
    def join(cls, parts: list[_Table]) -> _Table:
        """All rows of `parts`, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            first=_three(np.concatenate(values) for values in zip(*(part.first for part in parts), strict=True)),
            last=_three(np.concatenate(values) for values in zip(*(part.last for part in parts), strict=True)),
            count=np.concatenate([part.count for part in parts]),
            total=tuple(np.concatenate(values) for values in zip(*(part.total for part in parts), strict=True)),
            raster=np.concatenate([part.raster for part in parts]),
            label=np.concatenate([part.label for part in parts]),
        )


def _three(values: Iterable[Index]) -> tuple[Index, Index, Index]:
    a, b, c = values
    return a, b, c


def _scatter(function: np.ufunc, target: Index, values: Index, size: int, start: int) -> Index:
    out = np.full(size, start, np.int64)
    function.at(out, target, values)
    return out


@dataclass(frozen=True, slots=True)
class _Lattice:
    """The axes b2, b1, b0 along which runs are found (see runs.py), and the way back to voxels.

    Parameters
    ----------
    axes : voxel axes of b2, b1, b0
    size : voxels along them
    flipped : whether the voxel coordinate falls along them
    weight : what one step of the voxel coordinate along them adds to the raster position
    crossed : runs lie along a1 of the memory
    cut : which of b2 (0) and b1 (1) counts the slices; None where the volume is one piece
    """

    axes: tuple[int, int, int]
    size: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    weight: tuple[int, int, int]
    crossed: bool
    cut: int | None

    @classmethod
    def of(cls, memory: Memory, plane: Plane, extent: Extent) -> _Lattice:
        row, column, index = plane.axes
        step = {index: plane.rows * plane.columns, row: plane.columns, column: 1}
        # Runs must not leave their slice, so they cannot lie along the slice axis.
        crossed = extent == "slice" and memory.axes[2] == index
        order = (0, 2, 1) if crossed else (0, 1, 2)
        a, b, c = (memory.axes[i] for i in order)
        return cls(
            axes=(a, b, c),
            size=(plane.shape[a], plane.shape[b], plane.shape[c]),
            flipped=(memory.flipped[order[0]], memory.flipped[order[1]], memory.flipped[order[2]]),
            weight=(step[a], step[b], step[c]),
            crossed=crossed,
            cut=None if extent == "volume" else (a, b, c).index(index),
        )

    def table(self, runs: Runs, target: Index, size: int, mass: bool) -> _Table:
        """Reduce runs with the same `target` (each of 0 .. size - 1 occurs) to one row.

        Runs come in the order of plane, row and column, so the first and the last of each target tell most of it.
        """
        order = np.arange(len(runs))
        head, tail = _scatter(np.minimum, target, order, size, FAR), np.empty(size, np.int64)
        tail[target] = order  # where an index occurs more than once, the last value stays
        planes = runs.plane.take(head), runs.plane.take(tail)
        if self.cut is None:
            rows = _scatter(np.minimum, target, runs.row, size, FAR), _scatter(np.maximum, target, runs.row, size, -1)
        else:
            rows = runs.row.take(head), runs.row.take(tail)
        starts = _scatter(np.minimum, target, runs.start, size, FAR)
        stops = _scatter(np.maximum, target, runs.stop, size, -1)
        length = runs.stop - runs.start
        sums = (runs.plane * length, runs.row * length, (runs.start + runs.stop - 1) * length // 2) if mass else ()
        return _Table(
            first=(planes[0], rows[0], starts),
            last=(planes[1], rows[1], stops - 1),
            count=_scatter(np.add, target, length, size, 0),
            total=tuple(_scatter(np.add, target, values, size, 0) for values in sums),
            raster=_scatter(np.minimum, target, self.raster(runs), size, FAR),
            label=runs.label.take(head),
        )

    def raster(self, runs: Runs) -> Index:
        """Raster position of the first voxel of each run."""
        low, high = (runs.plane, runs.row, runs.start), (runs.plane, runs.row, runs.stop - 1)
        position = np.zeros(len(runs), np.int64)
        for a, b, size, flipped, weight in zip(low, high, self.size, self.flipped, self.weight, strict=True):
            position += (size - 1 - b if flipped else a) * weight
        return position

    def components(self, table: _Table, dtype: np.dtype[Any], mass: bool) -> Components:
        """Rows in raster order and voxel coordinates."""
        table = table.take(np.argsort(table.raster, kind="stable"))
        start, stop = np.empty((len(table.count), 3), np.int64), np.empty((len(table.count), 3), np.int64)
        total = np.empty((len(table.count), 3), np.int64) if mass else None
        for b, (axis, size, flipped) in enumerate(zip(self.axes, self.size, self.flipped, strict=True)):
            start[:, axis] = size - 1 - table.last[b] if flipped else table.first[b]
            stop[:, axis] = size - table.first[b] if flipped else table.last[b] + 1
            if total is not None:
                total[:, axis] = (size - 1) * table.count - table.total[b] if flipped else table.total[b]
        return Components(start, stop, table.label.astype(dtype, copy=False), table.count, total)

    def empty(self, dtype: np.dtype[Any], mass: bool) -> _Table:
        """No rows."""
        none = np.empty(0, np.int64)
        return self.table(Runs(none, none, none, none, np.empty(0, dtype)), none, 0, mass)

    def contacts(self, connectivity: int) -> list[tuple[int, int]]:
        """Earlier lines that a run can touch: distance in padded positions, columns by which the runs may miss."""
        line, plane = self.size[2] + 1, (self.size[1] + 1) * (self.size[2] + 1)
        if self.cut is not None:
            return [(line if self.cut == 0 else plane, connectivity - 1)]
        straight = [(line, min(connectivity - 1, 1)), (plane, min(connectivity - 1, 1))]
        diagonal = [(plane - line, connectivity - 2), (plane + line, connectivity - 2)]
        return straight + diagonal if connectivity > 1 else straight

    def position(self, runs: Runs) -> tuple[Index, Index]:
        """Start and stop of runs, counted with one more column per line and line per plane: gaps no run crosses."""
        base = (runs.plane * (self.size[1] + 1) + runs.row) * (self.size[2] + 1)
        return base + runs.start, base + runs.stop


class _Joiner:
    """Joins runs batch by batch; what may still grow is carried from one batch to the next."""

    def __init__(self, lattice: _Lattice, connectivity: int, mass: bool) -> None:
        self.lattice, self.mass = lattice, mass
        self.contacts = lattice.contacts(connectivity)
        self.parts: list[_Table] = []
        self.rows = 0  # of all `parts`
        self.limit = 4 * BATCH  # how many may wait before they are merged
        self.ids: list[Index] = []  # provisional component number of each row in `parts`
        self.same: list[tuple[Index, Index]] = []  # provisional numbers that turned out to be one component
        self.known = 0  # provisional numbers given out
        self.carried: Runs | None = None  # the last plane of the batch before
        self.carried_ids = np.empty(0, np.int64)

    def run(self, batches: Iterable[Runs], dtype: np.dtype[Any]) -> _Table:
        """Find all components of the runs, which come in whole planes."""
        lattice = self.lattice
        for runs in batches:
            if lattice.cut == 0:  # planes are slices: each batch is complete
                numbers, size = number_components(runs, 0, lattice.position(runs), self.contacts)
                self.parts.append(lattice.table(runs, numbers, size, self.mass))
            else:
                self._add(runs)
                if self.rows > self.limit:
                    self._merge()
        if not self.parts:
            return lattice.empty(dtype, self.mass)
        if lattice.cut != 0:
            self._merge()
        return _Table.join(self.parts)

    def _add(self, fresh: Runs) -> None:
        lattice = self.lattice
        runs = fresh if self.carried is None else Runs.join([self.carried, fresh])
        carried = len(runs) - len(fresh)
        numbers, size = number_components(runs, carried, lattice.position(runs), self.contacts)
        # A component keeps the number that one of its carried runs has; the others' numbers mean the same one.
        ids = _scatter(np.minimum, numbers[:carried], self.carried_ids, size, FAR)
        kept = ids.take(numbers[:carried])
        self.same.append((self.carried_ids.compress(kept != self.carried_ids), kept.compress(kept != self.carried_ids)))
        new = np.flatnonzero(ids == FAR)
        ids[new] = self.known + np.arange(len(new))
        self.known += len(new)
        present = np.zeros(size, bool)
        present[numbers[carried:]] = True
        rows = np.flatnonzero(present)
        rank = np.empty(size, np.int64)
        rank[rows] = np.arange(len(rows))
        self.parts.append(lattice.table(fresh, rank.take(numbers[carried:]), len(rows), self.mass))
        self.ids.append(ids.take(rows))
        self.rows += len(rows)
        position = int(np.searchsorted(runs.plane, runs.plane[-1]))
        self.carried, self.carried_ids = runs.tail(position), ids.take(numbers[position:])

    def _merge(self) -> None:
        """Give one row and one number to what turned out to be one component."""
        first, second = (np.concatenate(ids) for ids in zip(*self.same, strict=True))
        numbers, size = numbered(unite(np.arange(self.known), first, second))
        self.parts = [_Table.join(self.parts).reduce(numbers.take(np.concatenate(self.ids)), size)]
        self.ids, self.same = [np.arange(size)], [(first[:0], second[:0])]
        self.carried_ids = numbers.take(self.carried_ids)
        self.known = self.rows = size
        self.limit = 2 * size + 4 * BATCH  # merge only what is worth it


def _label_numbers(label: Labels, slices: Index | None) -> tuple[Index, int]:
    """Numbers for the labels, or for each pair of slice and label."""
    numbers, size = _codes(label)
    return (numbers, size) if slices is None else _codes(numbers + size * _codes(slices)[0])


def _codes(values: NDArray[Any]) -> tuple[Index, int]:
    """Numbers 0, 1, ... for the values in rising order, and how many."""
    if not len(values):
        return np.empty(0, np.int64), 0
    most = int(values.max())
    if most < 4 * len(values) + 1024:  # a table is quicker than sorting
        present = np.zeros(most + 1, np.int64)
        present[values] = 1
        number = np.cumsum(present)
        return number.take(values) - 1, int(number[-1])
    unique, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64, copy=False), len(unique)
