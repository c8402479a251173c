"""Connected components on a CUDA device: the launches of kernels/components.cu, their memory, and the result.

How many runs and components a volume has is only known when the device has found them. Nothing waits for that: the
kernels get memory for as many as masks usually have, one copy to the host brings the counts and the first rows, and
only where the memory was too small are they launched once more, with what they need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.backend.launch import C_NAMES, Array, Device, compiled, launch
from voxtract.compute.components import Extent, Objects, check_connectivity, check_labels
from voxtract.compute.runs import Memory
from voxtract.errors import InvalidInput
from voxtract.geometry import Plane, View, check_view
from voxtract.model import Components

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Fixed by kernels/components.cu
_STATE = 16  # words of state
_RUNS, _COMPONENTS = 0, 1
_COLUMNS = 12
_THREADS = 256
_SLICE_THREADS = 384
_TILE = 4 * _THREADS  # words or runs per tile
_MOST_RUNS = 2**32 - 2

# A slice of more words is left to the launches that spread it over the device, where slices are too few to fill it.
_LARGE_SLICE = 1 << 18  # 8 Mvoxel; by reasoning, not measured

_ROWS = 1 << 14  # rows that there is room for at first: 1.5 MB
_COPIED = 1 << 11  # rows that are copied with the counts: 196 kB


def find_components(
    device: Device,
    labels: Array,
    view: View,
    *,
    extent: Extent = "slice",
    connectivity: int | None = None,
    objects: Objects = "components",
    mass: bool = False,
) -> Components:
    """Find the connected components of a label volume in the memory of `device`, or its labels as wholes.

    Parameters
    ----------
    device : Device
    labels : (x, y, z) integer or bool array of that device
        0 and below is background. Without gaps in any order of the axes nothing is copied, else it is once.
    view, extent, connectivity, objects, mass
        As in `voxtract.compute.components.find_components`.

    Returns
    -------
    Components
        Equal to what the CPU finds, bit for bit.

    Raises
    ------
    InvalidInput
        As on the CPU; or more than 2**32 - 2 runs.

    Notes
    -----
    Waits for the device once, or a second time where there are more runs or components than masks usually have.
    Device memory: 3 bytes for 8 voxels (5 where each slice is done by a block), 12 to 24 for each run, 96 for each
    component.
    """
    check_labels(labels, extent, objects)
    connectivity = check_connectivity(connectivity, extent)
    plane = Plane(check_view(view), (labels.shape[0], labels.shape[1], labels.shape[2]))
    axes = Memory.of(labels).axes
    data = device.contiguous(labels.transpose(axes))
    data = data.view(np.uint8) if data.dtype == np.bool_ else data
    lattice = _Lattice.of(axes, plane, extent)
    if not lattice.words:
        return lattice.components(np.empty((0, _COLUMNS), np.uint64), data.dtype, mass)
    rows = _Search(device, data, lattice, extent, connectivity, objects).run()
    return lattice.components(rows, data.dtype, mass)


@dataclass(frozen=True, slots=True)
class _Lattice:
    """The axes along which the kernels see a volume: slices of lines, and runs along the lines.

    Parameters
    ----------
    axes : voxel axes that slices, lines and positions in a line count
    size : voxels along them
    step : distance in memory along them, in voxels
    weight : what a step along them adds to the raster position
    """

    axes: tuple[int, int, int]
    size: tuple[int, int, int]
    step: tuple[int, int, int]
    weight: tuple[int, int, int]

    @classmethod
    def of(cls, memory: tuple[int, int, int], plane: Plane, extent: Extent) -> _Lattice:
        """See a volume whose memory has these voxel axes, slowest first."""
        row, column, index = plane.axes
        weights = {index: plane.rows * plane.columns, row: plane.columns, column: 1}
        # A run must stay in its slice: where the slice axis is the fastest, runs lie across the memory.
        a, b, c = ((0, 1, 2), (1, 0, 2), (2, 0, 1))[memory.index(index) if extent == "slice" else 0]
        shape = plane.shape
        steps = (shape[memory[1]] * shape[memory[2]], shape[memory[2]], 1)
        x, y, z = memory[a], memory[b], memory[c]
        return cls(
            axes=(x, y, z),
            size=(shape[x], shape[y], shape[z]),
            step=(steps[a], steps[b], steps[c]),
            weight=(weights[x], weights[y], weights[z]),
        )

    @property
    def line_words(self) -> int:
        """Words of 32 voxels per line."""
        return (self.size[2] + 31) // 32

    @property
    def words(self) -> int:
        """Words of 32 voxels in all."""
        return self.size[0] * self.size[1] * self.line_words

    def components(self, rows: NDArray[np.uint64], dtype: np.dtype[Any], mass: bool) -> Components:
        """Rows of the kernels, put into raster order, as voxel coordinates."""
        rows = rows[np.argsort(~rows[:, 6], kind="stable")]
        start, stop = np.empty((len(rows), 3), np.int64), np.empty((len(rows), 3), np.int64)
        total = np.empty((len(rows), 3), np.int64) if mass else None
        for axis, column, sums in zip(self.axes, (4, 2, 0), (10, 9, 8), strict=True):
            start[:, axis] = ~rows[:, column]
            stop[:, axis] = rows[:, column + 1] + np.uint64(column != 0)
            if total is not None:
                total[:, axis] = rows[:, sums]
        if total is not None:  # slice_components leaves out the sum over slice indices, which are all the same
            axis = self.axes[0]
            thin = stop[:, axis] - start[:, axis] == 1
            total[thin, axis] = start[thin, axis] * rows[thin, 7].astype(np.int64)
        return Components(start, stop, rows[:, 11].astype(dtype), rows[:, 7].astype(np.int64), total)


@dataclass(frozen=True, eq=False, slots=True)
class _Runs:
    """What the kernels after the first share: the volume's arguments, its masks and state, room for so many runs."""

    volume: tuple[Any, ...]
    bits: Array
    first: Array
    state: Array
    room: np.uint64


@dataclass(frozen=True, eq=False, slots=True)
class _Search:
    """One volume on one device, and what is looked for in it."""

    device: Device
    data: Array
    lattice: _Lattice
    extent: Extent
    connectivity: int
    objects: Objects

    def run(self) -> NDArray[np.uint64]:
        """Rows of all components, in any order."""
        runs, rows = self.lattice.words, _ROWS
        while True:
            memory = self._launch_all(runs, rows)
            host = self.device.to_host(memory[: _STATE + min(rows, _COPIED) * _COLUMNS])
            found_runs, found = int(host[_RUNS]), int(host[_COMPONENTS])
            if found_runs > _MOST_RUNS:
                raise InvalidInput(
                    f"the labels have {found_runs} runs of equal label, more than the {_MOST_RUNS} that the CUDA "
                    "backend can number; cut the volume along the slice axis, or pass backend='cpu' (--backend cpu)"
                )
            if found_runs <= runs and found <= rows:
                break
            # Where the runs had no room, components were not counted; there are no more of them than runs.
            runs, rows = max(runs, found_runs), max(rows, found or found_runs)
        if found > min(rows, _COPIED):
            host = self.device.to_host(memory[: _STATE + found * _COLUMNS])
        return host[_STATE : _STATE + found * _COLUMNS].reshape(found, _COLUMNS)

    def _launch_all(self, run_room: int, row_room: int) -> Array:
        """Launch all kernels; gives state and rows in one piece of memory."""
        device, lattice = self.device, self.lattice
        per_slice = self.extent == "slice" and self.objects == "components" and not self._are_slices_few_and_large()
        run_tiles = lattice.size[0] if per_slice else -(-lattice.words // _TILE)
        name_tiles = 0 if per_slice else -(-run_room // _TILE)
        memory = device.zeros(_STATE + row_room * _COLUMNS + run_tiles + name_tiles, np.dtype(np.uint64))
        state, rows, tiles = (
            memory[:_STATE],
            memory[_STATE : _STATE + row_room * _COLUMNS],
            memory[_STATE + row_room * _COLUMNS :],
        )
        bits = device.empty((lattice.words, 2), np.dtype(np.uint32))
        first = device.empty(lattice.words, np.dtype(np.uint32))
        volume = (self.data, *map(np.uint32, lattice.size), *map(np.int64, lattice.step))
        runs = _Runs(volume, bits, first, state, np.uint64(run_room))
        self._launch("find_runs", -(-lattice.words // _THREADS), *volume, np.int64(self.data.size), bits, state)
        if per_slice:
            self._launch_slices(runs, rows, tiles)
        else:
            self._launch_grid(runs, rows, tiles[:run_tiles], tiles[run_tiles:])
        return memory

    def _are_slices_few_and_large(self) -> bool:
        slices = self.lattice.size[0]
        return slices < self.device.multiprocessors and self.lattice.words // slices > _LARGE_SLICE

    def _launch_slices(self, runs: _Runs, rows: Array, tiles: Array) -> None:
        device, lattice = self.device, self.lattice
        marks = device.empty((lattice.words, 2), np.dtype(np.uint32))
        spill = device.empty(3 * int(runs.room), np.dtype(np.uint32))
        self._launch(
            "slice_components", lattice.size[0],
            *runs.volume, *map(np.int64, lattice.weight), runs.bits, runs.first, marks, spill, runs.room,
            np.int32(self.connectivity), rows, np.uint64(len(rows) // _COLUMNS), runs.state, tiles,
            block=_SLICE_THREADS,
        )  # fmt: skip

    def _launch_grid(self, runs: _Runs, rows: Array, run_tiles: Array, name_tiles: Array) -> None:
        device, lattice, room = self.device, self.lattice, int(runs.room)
        parents, numbers = (device.empty(room, np.dtype(np.uint32)) for _ in range(2))
        places = device.empty(room, np.dtype(np.uint64))
        run_labels = device.empty(room, self.data.dtype)
        in_turn = 8 * device.multiprocessors  # blocks that take pieces of work until there are none
        self._launch(
            "number_runs", min(len(run_tiles), in_turn),
            *runs.volume, runs.bits, runs.first, parents, places, run_labels, runs.room, runs.state, run_tiles,
        )  # fmt: skip
        if self.objects == "components":
            self._launch(
                "join_runs", -(-lattice.words // _THREADS),
                *runs.volume, runs.bits, runs.first, parents, np.int32(self.connectivity),
                np.int32(self.extent == "volume"), runs.room, runs.state,
            )  # fmt: skip
        else:
            slots = device.zeros(1 << room.bit_length(), np.dtype(np.uint32))
            self._launch(
                "join_labels", min(-(-room // _THREADS), in_turn),
                np.uint32(lattice.size[1] * lattice.line_words), parents, places, run_labels,
                np.int32(self.extent == "slice"), slots, np.uint64(len(slots) - 1), runs.room, runs.state,
            )  # fmt: skip
        self._launch(
            "name_components", min(len(name_tiles), in_turn), parents, numbers, runs.room, runs.state, name_tiles
        )
        self._launch(
            "measure_runs", min(-(-room // (8 * _THREADS)), in_turn),
            *runs.volume[2:4], *map(np.int64, lattice.weight), runs.bits, parents, places, run_labels, numbers, rows,
            runs.room, np.uint64(len(rows) // _COLUMNS), runs.state,
        )  # fmt: skip

    def _launch(self, name: str, grid: int, *args: Any, block: int = _THREADS) -> None:
        launch(compiled(self.device, "components", name, options(self.data.dtype)), grid, block, args)


def options(dtype: np.dtype[Any]) -> tuple[str, ...]:
    """What kernels/components.cu is compiled with for labels of this dtype."""
    return f"-DLABEL={C_NAMES[dtype]}", f"-DLABEL_BYTES={dtype.itemsize}"
