"""Nodes of a tree as columns, and as the views of one row that users see."""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from voxtract.errors import InvalidInput
from voxtract.webknossos.boxes import Vec3Int
from voxtract.webknossos.kept import Unknown

if TYPE_CHECKING:
    from voxtract.webknossos.skeleton import Tree

T = TypeVar("T")
Vector = tuple[float, float, float]

# What a column holds where a node lacks the value; no file can hold these, so they are free.
NO_NUMBER = -math.inf
NO_INTEGER = -(2**63)
NO_BOOL = -1

# Columns of a node table beside "id", "x", "y" and "z", which every node has: type code and the value for "none".
OPTIONAL: dict[str, tuple[str, float]] = {
    "radius": ("d", NO_NUMBER),
    "rotX": ("d", NO_NUMBER),
    "rotY": ("d", NO_NUMBER),
    "rotZ": ("d", NO_NUMBER),
    "inVp": ("q", NO_INTEGER),
    "inMag": ("q", NO_INTEGER),
    "bitDepth": ("q", NO_INTEGER),
    "interpolation": ("b", NO_BOOL),
    "time": ("q", NO_INTEGER),
}

ROTATION = ("rotX", "rotY", "rotZ")


class NodeTable:
    """Nodes of one tree, a column per value.

    Parameters
    ----------
    columns : dict
        "id" (int64), "x", "y", "z" (float64), and those of `OPTIONAL` that at least one node may have.
    comments : dict of row -> text
    branchpoints : dict of row -> time in ms or None
    coordinates : dict of axis name -> dict of row -> int
        Places along axes beyond x, y, z.
    unknown : dict of row -> Unknown
    """

    __slots__ = ("branchpoints", "columns", "comments", "coordinates", "unknown")

    def __init__(self) -> None:
        self.columns: dict[str, array[Any]] = {"id": array("q"), "x": array("d"), "y": array("d"), "z": array("d")}
        self.comments: dict[int, str] = {}
        self.branchpoints: dict[int, int | None] = {}
        self.coordinates: dict[str, dict[int, int]] = {}
        self.unknown: dict[int, Unknown] = {}

    def __len__(self) -> int:
        return len(self.columns["id"])

    def extend(self, columns: dict[str, array[Any]]) -> None:
        """Append rows, all columns of one length; "id", "x", "y" and "z" are among them."""
        before, count = len(self), len(columns["id"])
        for name in columns.keys() - self.columns.keys():
            self.columns[name] = nothing(name, before)
        for name, column in self.columns.items():
            column.extend(columns[name] if name in columns else nothing(name, count))

    def rows(self, start: int, stop: int) -> NodeTable:
        """Copy the columns of some rows; what is kept in dicts stays behind."""
        part = NodeTable()
        part.columns = {name: column[start:stop] for name, column in self.columns.items()}
        return part

    def append(self, number: int, place: Iterable[int], optional: dict[str, float]) -> int:
        """Append one node whose optional values are as columns hold them; return its row."""
        row = len(self)
        for name, value in optional.items():
            if name not in self.columns and value != OPTIONAL[name][1]:
                self.columns[name] = nothing(name, row)
        values = optional | {"id": number, **dict(zip("xyz", place, strict=True))}
        for name, column in self.columns.items():
            column.append(values[name])
        return row

    def get(self, row: int, name: str) -> Any:
        """Value of an optional column, or None."""
        column = self.columns.get(name)
        none = OPTIONAL[name][1]
        return None if column is None or column[row] == none else column[row]

    def set(self, row: int, name: str, value: Any) -> None:
        """Set the value of an optional column; None takes it away."""
        held = stored(name, value)
        if name not in self.columns:
            if value is None:
                return
            self.columns[name] = nothing(name, len(self))
        self.columns[name][row] = held

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeTable):
            return NotImplemented
        return (
            self._filled() == other._filled()
            and self.comments == other.comments
            and self.branchpoints == other.branchpoints
            and self.unknown == other.unknown
            and _without_empty(self.coordinates) == _without_empty(other.coordinates)
        )

    __hash__ = None  # type: ignore[assignment]

    def _filled(self) -> dict[str, array[Any]]:
        """Columns in which at least one node has a value."""
        return {
            name: column
            for name, column in self.columns.items()
            if name not in OPTIONAL or column.count(OPTIONAL[name][1]) < len(column)
        }


def nothing(name: str, count: int) -> array[Any]:
    """Make an optional column of `count` nodes that lack the value."""
    code, none = OPTIONAL[name]
    return array(code, [none]) * count


def _without_empty(coordinates: dict[str, dict[int, int]]) -> dict[str, dict[int, int]]:
    return {name: values for name, values in coordinates.items() if values}


def rounded(value: float) -> int:
    """Round as the servers do: halves go up."""
    return math.floor(value + 0.5)


def check_vector(values: Iterable[float], what: str) -> Vector:
    """Return three finite numbers as floats; InvalidInput otherwise."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise InvalidInput(f"{what}: {values!r}; give three finite numbers x, y, z")
    return numbers[0], numbers[1], numbers[2]


def check_integer(value: Any, what: str) -> int:
    """Return a whole number of 64 bits; InvalidInput otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidInput(f"{what}: {value!r}; give a whole number") from None
    if not NO_INTEGER < number < 2**63:
        raise InvalidInput(f"{what}: {number} does not fit 64 bits")
    return number


def stored(name: str, value: Any) -> float:
    """Check the value of an optional column and return what the column holds for it."""
    code, none = OPTIONAL[name]
    if value is None:
        return none
    if code == "b":
        return bool(value)
    if code == "q":
        return check_integer(value, name)
    number = float(value)
    if not math.isfinite(number):
        raise InvalidInput(f"{name}: {value!r}; give a finite number or None")
    return number


class _Optional(Generic[T]):
    """Attribute of a node that lies in an optional column; None: the node has none."""

    def __init__(self, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, node: None, owner: type[Node]) -> _Optional[T]: ...
    @overload
    def __get__(self, node: Node, owner: type[Node]) -> T | None: ...
    def __get__(self, node: Node | None, owner: type[Node]) -> _Optional[T] | T | None:
        if node is None:
            return self
        value: T | None = node._table.get(node._row, self._name)
        return value

    def __set__(self, node: Node, value: T | None) -> None:
        node._table.set(node._row, self._name, value)


class Node:
    """A node of a tree: a view of one row, so that changes are changes of the tree.

    Two nodes are equal when all their values are, ids included.

    Attributes
    ----------
    radius : float or None
        In nanometres.
    inVp, inMag, bitDepth : int or None
        Viewport in which the node was set, binary logarithm of the mag and bits per voxel that it showed.
    time : int or None
        When the node was set, in ms since 1970.
    """

    __slots__ = ("_row", "_tree")

    def __init__(self, tree: Tree, row: int) -> None:
        self._tree = tree
        self._row = row

    @property
    def _table(self) -> NodeTable:
        return self._tree.table

    @property
    def id(self) -> int:
        """Number of the node, unique among the nodes of the skeleton."""
        number: int = self._table.columns["id"][self._row]
        return number

    @property
    def position(self) -> Vec3Int:
        """Voxel (x, y, z) of mag 1; a fraction in a file is rounded here, and written back as it was."""
        columns = self._table.columns
        return Vec3Int(rounded(columns[axis][self._row]) for axis in "xyz")

    @position.setter
    def position(self, position: Iterable[int]) -> None:
        for axis, value in zip("xyz", Vec3Int(position), strict=True):
            self._table.columns[axis][self._row] = value

    @property
    def rotation(self) -> Vector | None:
        """Angles of the view in which the node was set, in degrees; None: not known."""
        values = [self._table.get(self._row, name) for name in ROTATION]
        if values == [None] * 3:
            return None
        x, y, z = (value or 0.0 for value in values)
        return x, y, z

    @rotation.setter
    def rotation(self, rotation: Iterable[float] | None) -> None:
        values = (None,) * 3 if rotation is None else check_vector(rotation, f"node {self.id}: rotation")
        for name, value in zip(ROTATION, values, strict=True):
            self._table.set(self._row, name, value)

    radius = _Optional[float]("radius")
    inVp = _Optional[int]("inVp")  # noqa: N815 - the API's names
    inMag = _Optional[int]("inMag")  # noqa: N815
    bitDepth = _Optional[int]("bitDepth")  # noqa: N815
    time = _Optional[int]("time")

    @property
    def interpolation(self) -> bool | None:
        """Whether the view was interpolated when the node was set; None: not known."""
        value = self._table.get(self._row, "interpolation")
        return None if value is None else bool(value)

    @interpolation.setter
    def interpolation(self, interpolation: bool | None) -> None:
        self._table.set(self._row, "interpolation", None if interpolation is None else bool(interpolation))

    @property
    def comment(self) -> str | None:
        """Markdown; None: no comment, which is not the same as an empty one."""
        return self._table.comments.get(self._row)

    @comment.setter
    def comment(self, comment: str | None) -> None:
        if comment is None:
            self._table.comments.pop(self._row, None)
        else:
            self._table.comments[self._row] = str(comment)

    @property
    def is_branchpoint(self) -> bool:
        """Whether the node is marked as a branch point."""
        return self._row in self._table.branchpoints

    @is_branchpoint.setter
    def is_branchpoint(self, is_branchpoint: bool) -> None:
        if is_branchpoint:
            self._table.branchpoints.setdefault(self._row)
        else:
            self._table.branchpoints.pop(self._row, None)

    @property
    def branchpoint_time(self) -> int | None:
        """When the node was marked as a branch point, in ms since 1970; setting it marks the node."""
        return self._table.branchpoints.get(self._row)

    @branchpoint_time.setter
    def branchpoint_time(self, time: int | None) -> None:
        if time is not None:
            self._table.branchpoints[self._row] = check_integer(time, f"node {self.id}: branchpoint_time")
        elif self.is_branchpoint:
            self._table.branchpoints[self._row] = None

    @property
    def additional_coordinates(self) -> dict[str, int]:
        """Place along axes beyond x, y, z; assign a dict to change it."""
        return {axis: values[self._row] for axis, values in self._table.coordinates.items() if self._row in values}

    @additional_coordinates.setter
    def additional_coordinates(self, coordinates: dict[str, int]) -> None:
        for values in self._table.coordinates.values():
            values.pop(self._row, None)
        for axis, value in coordinates.items():
            place = check_integer(value, f"node {self.id}: coordinate {axis!r}")
            self._table.coordinates.setdefault(axis, {})[self._row] = place

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Node) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        comment = "" if self.comment is None else f", comment={self.comment!r}"
        return f"Node(id={self.id}, position={tuple(self.position)}{comment})"

    def _values(self) -> tuple[Any, ...]:
        table, row = self._table, self._row
        return (
            *(table.columns[name][row] for name in ("id", "x", "y", "z")),
            *(table.get(row, name) for name in OPTIONAL),
            self.comment,
            self.is_branchpoint,
            self.branchpoint_time,
            self.additional_coordinates,
        )


class View(Sequence[T]):
    """A sequence whose items are made when they are asked for."""

    __slots__ = ("_count", "_make")

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count = count
        self._make = make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        places = range(self._count)[index]
        return self._make(places) if isinstance(places, int) else [self._make(place) for place in places]

    def __iter__(self) -> Iterator[T]:
        return map(self._make, range(self._count))

    def __repr__(self) -> str:
        return repr(list(self)) if self._count <= 20 else f"<{self._count} items>"
