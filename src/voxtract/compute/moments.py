"""Mean and standard deviation whose last bit does not depend on the device, the threads or the number of pieces.

Integers of up to 32 bits: exact sums, so that any order will do. All else: blocks of `BLOCK` numbers in memory order,
in each of which element i is added to element i + half, half = `BLOCK` / 2, ... 1; blocks are joined in the same
manner, by the formula of Chan, Golub and LeVeque (1979). kernels/statistics.cu does the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BLOCK = 4096  # numbers; one block of threads on a device holds them in registers


@dataclass(frozen=True, slots=True)
class Blocks:
    """What is known of each block of numbers.

    Parameters
    ----------
    count : (n,) int64
        Finite numbers in the block.
    mean, squares : (n,) float64
        Their mean, and the sum of the squares of what they differ from it.
    """

    count: NDArray[np.int64]
    mean: Floats
    squares: Floats

    @classmethod
    def of(cls, numbers: NDArray[Any]) -> Blocks:
        """Work out the blocks of a 1D array; what is NaN or infinite counts as not there."""
        whole = -(-len(numbers) // BLOCK) * BLOCK
        values = np.zeros(whole)
        values[: len(numbers)] = numbers
        finite = np.isfinite(values)
        finite[len(numbers) :] = False
        rows, there = values.reshape(-1, BLOCK), finite.reshape(-1, BLOCK)
        count = np.count_nonzero(there, axis=1)
        some_missing = bool((count < BLOCK).any())
        if some_missing:
            values[~finite] = 0
        mean = _halved(rows) / np.maximum(count, 1)
        away = rows - mean[:, None]
        away *= away
        if some_missing:
            away[~there] = 0
        return cls(count, mean, _halved(away))

    @classmethod
    def join(cls, parts: list[Blocks]) -> Blocks:
        """Put the blocks of consecutive parts after each other."""
        count = np.concatenate([part.count for part in parts]) if parts else np.zeros(0, np.int64)
        mean = np.concatenate([part.mean for part in parts]) if parts else np.zeros(0)
        return cls(count, mean, np.concatenate([part.squares for part in parts]) if parts else np.zeros(0))

    def moments(self) -> tuple[float, float]:
        """Mean and (population) standard deviation of all numbers; 0 where there are none."""
        keep = self.count > 0
        count, mean, squares = self.count[keep].astype(np.float64), self.mean[keep], self.squares[keep]
        if not len(count):
            return 0.0, 0.0
        while len(count) > 1:
            half = len(count) // 2
            (n, more), (a, b), (p, q) = ((v[:half], v[half : 2 * half]) for v in (count, mean, squares))
            both, step = n + more, b - a
            last = slice(2 * half, None)  # the odd one waits for the next round
            squares = np.concatenate([p + q + step * step * (n * more / both), squares[last]])
            mean = np.concatenate([a + step * (more / both), mean[last]])
            count = np.concatenate([both, count[last]])
        return float(mean[0]), math.sqrt(squares[0] / count[0])


def of_sums(count: int, total: int, squares: int) -> tuple[float, float]:
    """Mean and (population) standard deviation of `count` integers from their exact sum and sum of squares.

    >>> of_sums(4, 1 + 2 + 3 + 4, 1 + 4 + 9 + 16)
    (2.5, 1.118033988749895)
    """
    if not count:
        return 0.0, 0.0
    return total / count, math.sqrt(Fraction(count * squares - total * total, count * count))


def _halved(rows: Floats) -> Floats:
    """Sum of each row of `BLOCK` numbers, as a tree."""
    half = BLOCK // 2
    sums = rows[:, :half] + rows[:, half:]
    while half > 1:
        half //= 2
        sums[:, :half] += sums[:, half : 2 * half]
    return sums[:, 0]
