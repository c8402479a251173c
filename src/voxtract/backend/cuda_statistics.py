"""Statistics of a volume on a CUDA device: the numbers of `voxtract.compute.normalize.Statistics`.

Knows a `Device`, not CuPy. A volume comes as one or more pieces, in memory order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, cached_property
from typing import Any

import numpy as np

from voxtract.backend.cuda_cut import address, as_stored, type_options
from voxtract.backend.launch import Array, Device, compiled, launch
from voxtract.compute.moments import BLOCK, Blocks, of_sums
from voxtract.compute.normalize import PERCENTILES, Place, Statistics

# As in kernels/statistics.cu.
_THREADS = 256
_MANY = 1024
_COUNTER_BYTES = 2

_WAVES = 8  # blocks for each multiprocessor: enough to fill it, few enough that their results are soon added up


class DeviceStatistics(Statistics):
    """Numbers about all voxels of a volume, each worked out when it is first asked for.

    Parameters
    ----------
    device : Device
    dtype : numpy.dtype
        Of the voxels.
    pieces : callable
        Gives the voxels as 1D device arrays, in memory order; the length of all but the last is a multiple of
        `voxtract.compute.moments.BLOCK`. Called again for each number.

    Notes
    -----
    Each number is one pass over the voxels and waits for the device; percentiles of 32 bits are two to five.
    """

    def __init__(self, device: Device, dtype: np.dtype[Any], pieces: Callable[[], Iterable[Array]]) -> None:
        self._device = device
        self._dtype = np.dtype(np.uint8) if dtype == np.bool_ else dtype
        self._pieces = pieces

    @cached_property
    def extent(self) -> tuple[float, float]:
        """Smallest and largest stored number."""
        lows, highs = [], []
        for piece in self._pieces():
            blocks = self._blocks(piece)
            stored = as_stored(np.empty(0, self._dtype)).dtype
            low, high = self._device.empty(blocks, stored), self._device.empty(blocks, stored)
            seen = self._device.empty(blocks, np.dtype(np.int32))
            self._launch("extremes", blocks, piece, low, high, seen)
            some = self._device.to_host(seen) > 0
            lows.append(self._device.to_host(low)[some].view(self._dtype))
            highs.append(self._device.to_host(high)[some].view(self._dtype))
        none = np.empty(0, self._dtype)
        low, high = np.concatenate([none, *lows]), np.concatenate([none, *highs])
        return (float(low.min()), float(high.max())) if len(low) else (0.0, 0.0)

    @cached_property
    def moments(self) -> tuple[float, float]:
        """Mean and (population) standard deviation of the stored numbers; see `voxtract.compute.moments`."""
        if self._dtype.kind in "iu" and self._dtype.itemsize <= 4:
            return of_sums(*self._sums())
        return Blocks.join([self._block_moments(piece) for piece in self._pieces()]).moments()

    @cached_property
    def percentiles(self) -> tuple[float, float]:
        """The `PERCENTILES` of the stored numbers, with linear interpolation."""
        width = min(16, 8 * self._dtype.itemsize)
        top = 8 * self._dtype.itemsize - width

        @cache
        def upto(shift: int, prefix: int) -> np.ndarray[Any, np.dtype[np.int64]]:
            return np.asarray(self._digits(shift, prefix).cumsum(), np.int64)

        def number(rank: int) -> float:
            key = 0
            for shift in range(top, -1, -width):
                counts = upto(shift, key)
                digit = int(np.searchsorted(counts, rank, "right"))
                rank -= int(counts[digit - 1]) if digit else 0
                key = key << width | digit
            return _number(key, self._dtype)

        count = int(upto(top, 0)[-1])
        if not count:
            return 0.0, 0.0
        places = [Place.of(percent, count) for percent in PERCENTILES]
        low, high = (place.between(number(place.below), number(place.above)) for place in places)
        return low, high

    def _sums(self) -> tuple[int, int, int]:
        """Count, sum and sum of squares, exact."""
        count, total, squares = 0, 0, 0
        for piece in self._pieces():
            blocks = self._blocks(piece)
            out = self._device.empty((blocks, 5), np.dtype(np.int64))
            self._launch("sums", blocks, piece, out)
            # each within 63 bits; all of them together need not be
            h, low, hh, hl, ll = (sum(column) for column in zip(*self._device.to_host(out).tolist(), strict=True))
            count += piece.size
            total += (h << 16) + low
            squares += (hh << 32) + (hl << 17) + ll
        return count, total, squares

    def _block_moments(self, piece: Array) -> Blocks:
        blocks = -(-piece.size // BLOCK)
        count = self._device.empty(blocks, np.dtype(np.int32))
        mean, squares = (self._device.empty(blocks, np.dtype(np.float64)) for _ in range(2))
        kernel = compiled(self._device, "statistics", "blocks", type_options("STORED", self._dtype))
        launch(kernel, blocks, _THREADS, (as_stored(piece), np.int64(piece.size), count, mean, squares))
        host = self._device.to_host
        return Blocks(host(count).astype(np.int64), host(mean), host(squares))

    def _digits(self, shift: int, prefix: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """How often each digit occurs from bit `shift` on, where the bits above are `prefix`."""
        digits = 1 << min(16, 8 * self._dtype.itemsize)
        counts = self._device.zeros(digits, np.dtype(np.uint64))
        parts = 1
        while digits * _COUNTER_BYTES // parts > self._device.shared_bytes:
            parts *= 2
        for piece in self._pieces():
            blocks = min(-(-piece.nbytes // (16 * _MANY)), max(1, self._device.multiprocessors))
            places = (np.int32(shift), np.uint64(prefix), counts)
            self._launch(
                "digits", (blocks, parts, 1), piece, *places, threads=_MANY, shared=digits * _COUNTER_BYTES // parts
            )
        return self._device.to_host(counts)

    def _blocks(self, piece: Array) -> int:
        return int(min(-(-piece.nbytes // (16 * _THREADS)), _WAVES * self._device.multiprocessors))

    def _launch(
        self,
        name: str,
        grid: int | tuple[int, int, int],
        piece: Array,
        *more: Any,
        threads: int = _THREADS,
        shared: int = 0,
    ) -> None:
        kernel = compiled(self._device, "statistics", name, type_options("STORED", self._dtype))
        wide = np.int32(address(piece) % 16 == 0)
        launch(kernel, grid, threads, (as_stored(piece), np.int64(piece.size), wide, *more), shared)


def _number(key: int, dtype: np.dtype[Any]) -> float:
    """Turn a key (kernels/statistics.cu) back into the number it stands for."""
    top = 1 << 8 * dtype.itemsize - 1
    if dtype.kind == "i" or (dtype.kind == "f" and key & top):
        key ^= top
    elif dtype.kind == "f":
        key ^= 2 * top - 1
    return float(np.array([key], f"u{dtype.itemsize}").view(dtype)[0])
