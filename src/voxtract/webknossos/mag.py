"""Magnifications: how many voxels of mag 1 one voxel of a coarser copy covers along x, y, z."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import Box, Shape3

if TYPE_CHECKING:
    from numpy.typing import NDArray

MagLike: TypeAlias = "Mag | int | str | Sequence[int]"

LARGEST = 2**31  # voxel coordinates of mag 1 end here: the servers hold them as 32-bit integers

_TEXT = re.compile(r"(\d{1,10})(?:-(\d{1,10})-(\d{1,10}))?")


class Mag(tuple[int, int, int]):
    """A magnification (x, y, z); each factor is a power of two.

    Parameters
    ----------
    value : Mag, int, str or three ints
        ``1``, ``"1"``, ``"1-1-1"``, ``(2, 2, 1)``, ``"2-2-1"``.

    Raises
    ------
    InvalidInput
        Anything else, or a factor that is no power of two.

    Notes
    -----
    Mags compare and sort as tuples, so the finest of a pyramid comes first. The text form is the name of its folder.

    Examples
    --------
    >>> Mag("1-1-1") == Mag(1), str(Mag((2, 2, 1))), str(Mag(4))
    (True, '2-2-1', '4')
    """

    __slots__ = ()

    def __new__(cls, value: MagLike | NDArray[Any]) -> Mag:
        """Parse any of the forms."""
        factors = _factors(value)
        if len(factors) != 3 or any(n < 1 or n & (n - 1) or n > LARGEST for n in factors):
            raise InvalidInput(
                f"mag {value!r} is none; give a power of two, or three of them as in '2-2-1' or (2, 2, 1)"
            )
        return super().__new__(cls, factors)

    def __getnewargs__(self) -> tuple[Sequence[int]]:
        return (tuple(self),)

    @property
    def name(self) -> str:
        """Name of its folder: ``1`` where the factors are equal, else ``x-y-z``."""
        return str(self[0]) if self[0] == self[1] == self[2] else "-".join(map(str, self))

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Mag({self.name!r})"

    @property
    def volume(self) -> int:
        """Voxels of mag 1 that one voxel covers."""
        return self[0] * self[1] * self[2]

    def times(self, voxel: Iterable[int]) -> Shape3:
        """Mag-1 voxel at which voxel (x, y, z) of this mag begins."""
        x, y, z = (int(n) * factor for n, factor in zip(voxel, self, strict=True))
        return x, y, z

    def grown(self, box: Box) -> Box:
        """Voxels of this mag that touch the mag-1 `box`."""
        return Box(
            tuple(n // factor for n, factor in zip(box.start, self, strict=True)),
            tuple(-(-n // factor) for n, factor in zip(box.stop, self, strict=True)),
        )

    def full(self, box: Box) -> Box:
        """Mag-1 voxels of a box of voxels of this mag."""
        return Box(self.times(box.start), self.times(box.stop))


def _factors(value: Any) -> tuple[int, ...]:
    """Read the factors; nothing where the form is unknown."""
    if isinstance(value, str):
        match = _TEXT.fullmatch(value)
        return tuple(int(n or match[1]) for n in match.groups()) if match and match[0].isascii() else ()
    if isinstance(value, int | np.integer):
        return (int(value),) * 3
    if not isinstance(value, Sequence | np.ndarray):
        return ()
    return tuple(map(int, value)) if all(isinstance(n, int | np.integer) for n in value) else ()


def union(boxes: Iterable[Box]) -> Box | None:
    """Smallest box around all `boxes` that hold a voxel; None where none does."""
    full = [box for box in boxes if all(box.shape)]
    if not full:
        return None
    x, y, z = (min(box.start[axis] for box in full) for axis in range(3))
    right, bottom, back = (max(box.stop[axis] for box in full) for axis in range(3))
    return Box((x, y, z), (right, bottom, back))
