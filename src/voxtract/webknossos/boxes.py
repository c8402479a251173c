"""Boxes and integer vectors as WEBKNOSSOS counts them: voxels of mag 1, axes (x, y, z), top left plus size."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.webknossos.kept import Kept

if TYPE_CHECKING:
    from numpy.typing import NDArray

Color = tuple[float, float, float, float]

DEFAULT_NAME = "Unnamed Bounding Box"


class Vec3Int(tuple[int, int, int]):
    """Three integers x, y, z that are a tuple and can be calculated with, element by element.

    Raises
    ------
    InvalidInput
        Not three values, or one that is no whole number.

    Examples
    --------
    >>> Vec3Int(4, 5, 6) + (1, 0, 2), Vec3Int([4, 5, 6]).y, Vec3Int(1, 2, 3) * 2
    (Vec3Int(5, 5, 8), 5, Vec3Int(2, 4, 6))
    """

    __slots__ = ()

    def __new__(cls, first: int | Iterable[int], y: int | None = None, z: int | None = None) -> Vec3Int:
        """Take three values, or one iterable of three."""
        values = (first, y, z) if y is not None or not isinstance(first, Iterable) else tuple(first)
        if len(values) != 3:
            raise InvalidInput(f"{values!r} has {len(values)} values; x, y and z are needed")
        return super().__new__(cls, map(_whole, values))

    @property
    def x(self) -> int:
        """First value."""
        return self[0]

    @property
    def y(self) -> int:
        """Second value."""
        return self[1]

    @property
    def z(self) -> int:
        """Third value."""
        return self[2]

    def to_np(self) -> NDArray[np.int64]:
        """(3,) int64 array."""
        return np.array(self, dtype=np.int64)

    def to_tuple(self) -> tuple[int, int, int]:
        """Plain tuple."""
        return self[0], self[1], self[2]

    def to_list(self) -> list[int]:
        """Plain list."""
        return list(self)

    def __add__(self, other: int | Iterable[int]) -> Vec3Int:  # type: ignore[override]
        return self._with(other, operator.add)

    __radd__ = __add__

    def __sub__(self, other: int | Iterable[int]) -> Vec3Int:
        return self._with(other, operator.sub)

    def __mul__(self, other: int | Iterable[int]) -> Vec3Int:  # type: ignore[override]
        return self._with(other, operator.mul)

    __rmul__ = __mul__  # type: ignore[assignment]

    def __floordiv__(self, other: int | Iterable[int]) -> Vec3Int:
        return self._with(other, operator.floordiv)

    def __mod__(self, other: int | Iterable[int]) -> Vec3Int:
        return self._with(other, operator.mod)

    def __neg__(self) -> Vec3Int:
        return Vec3Int(-self[0], -self[1], -self[2])

    def __repr__(self) -> str:
        return f"Vec3Int({self[0]}, {self[1]}, {self[2]})"

    def __reduce__(self) -> tuple[type[Vec3Int], tuple[int, ...]]:
        return Vec3Int, tuple(self)

    def _with(self, other: int | Iterable[int], operation: Callable[[int, int], int]) -> Vec3Int:
        values = tuple(other) if isinstance(other, Iterable) else (other,) * 3
        return Vec3Int(operation(a, b) for a, b in zip(self, values, strict=True))


def _whole(value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        if isinstance(value, (float, np.floating)) and float(value).is_integer():
            return int(value)
        raise InvalidInput(f"{value!r} is no whole number; voxel positions and sizes are integers") from None


def check_color(color: Sequence[float] | None, where: str) -> Color | None:
    """Return RGBA as four floats; RGB gets alpha 1, None stays None.

    Raises
    ------
    InvalidInput
        Neither three nor four finite numbers.
    """
    if color is None:
        return None
    try:
        values = [float(value) for value in color]
    except (TypeError, ValueError):
        values = []
    if len(values) not in (3, 4) or not all(map(math.isfinite, values)):
        raise InvalidInput(
            f"{where}: color {color!r}; give red, green, blue and, if wanted, alpha as numbers from 0 to 1"
        )
    red, green, blue, alpha = (*values, 1.0)[:4]
    return red, green, blue, alpha


@dataclass(frozen=True)
class BoundingBox:
    """Voxels ``topleft <= index < bottomright`` of mag 1, with what WEBKNOSSOS shows beside them.

    Parameters
    ----------
    topleft : (x, y, z) int
        First voxel inside; may be negative.
    size : (x, y, z) int
        Voxels along each axis, not negative.
    name : str, optional
        "Unnamed Bounding Box" where it is not given.
    is_visible : bool
    color : RGB or RGBA, optional
        Numbers from 0 to 1; alpha is 1 where it is left out.
    id : int, optional
        Number of a user bounding box in its file; given when the file is written where it is None.
    kept : dict
        What the file says of the box that this version does not know.

    Raises
    ------
    InvalidInput
        Values that are no whole numbers, a negative size, a color that is none.

    Notes
    -----
    Two boxes are equal when they hold the same voxels, whatever their names and colors.

    Examples
    --------
    >>> box = BoundingBox((10, 20, 30), (4, 4, 1), name="soma", color=(1, 0, 0))
    >>> box.bottomright, box.color, box == BoundingBox((10, 20, 30), (4, 4, 1))
    (Vec3Int(14, 24, 31), (1.0, 0.0, 0.0, 1.0), True)
    """

    topleft: Vec3Int
    size: Vec3Int
    name: str = field(default=DEFAULT_NAME, compare=False)
    is_visible: bool = field(default=True, compare=False)
    color: Color | None = field(default=None, compare=False)
    id: int | None = field(default=None, compare=False, repr=False)
    kept: Kept = field(default_factory=dict, compare=False, repr=False)

    def __init__(
        self,
        topleft: Iterable[int],
        size: Iterable[int],
        name: str | None = None,
        is_visible: bool = True,
        color: Sequence[float] | None = None,
        *,
        id: int | None = None,  # noqa: A002 - the format's word
    ) -> None:
        name = DEFAULT_NAME if name is None else name
        put = object.__setattr__  # the values are brought into shape before the box is frozen
        put(self, "topleft", Vec3Int(topleft))
        put(self, "size", Vec3Int(size))
        if min(self.size) < 0:
            raise InvalidInput(f"box {name!r}: size {tuple(self.size)}; a size is not negative")
        put(self, "name", name)
        put(self, "is_visible", bool(is_visible))
        put(self, "color", check_color(color, f"box {name!r}"))
        put(self, "id", id)
        put(self, "kept", {})

    @property
    def bottomright(self) -> Vec3Int:
        """The voxel one past the last along each axis."""
        return self.topleft + self.size

    @property
    def is_empty(self) -> bool:
        """Whether no voxel lies inside."""
        return 0 in self.size
