"""Columns from the elements of an NML file that stand there by the million, and whose they are."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from voxtract.webknossos.errors import FormatError
from voxtract.webknossos.kept import Unknown
from voxtract.webknossos.nodes import NO_BOOL, NO_INTEGER, NO_NUMBER, NodeTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
Texts = list[str | None]  # an attribute of many elements; None where one lacks it

BOOLS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}
INTEGER = re.compile(r"\s*[+-]?\d{1,25}\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Column:
    """An attribute of many elements, and how to speak of it.

    Parameters
    ----------
    name : str
    texts : list of str or None
        None where an element lacks it.
    of : row -> str
        What to call an element.
    fault : message -> FormatError
    is_required : bool
        Whether an element that lacks it is an error.
    """

    name: str
    texts: Texts
    of: Callable[[int], str]
    fault: Callable[[str], FormatError]
    is_required: bool = True

    def integers(self) -> array[int]:
        """Whole numbers of 64 bits; NO_INTEGER where there is none."""
        try:
            found = array("q", self._converted(int))
        except (TypeError, ValueError, OverflowError):
            return array("q", map(self._integer, range(len(self.texts))))
        if (np.frombuffer(found, np.int64) == NO_INTEGER).any():
            raise self.fault(f"{self.name} {NO_INTEGER} is below what the format holds")
        return found

    def floats(self) -> array[float]:
        """Finite numbers; NO_NUMBER where there is none."""
        try:
            found = array("d", self._converted(float))
            if np.isfinite(np.frombuffer(found)).all():
                return found
        except (TypeError, ValueError):
            pass
        return array("d", map(self._float, range(len(self.texts))))

    def booleans(self) -> array[int]:
        """1 and 0; NO_BOOL where there is none."""
        return array("b", map(self._boolean, range(len(self.texts))))

    def _converted(self, convert: Callable[[Any], T]) -> Iterable[T]:
        """Numbers of the texts, as fast as it goes where nothing is wrong: most columns hold one value throughout."""
        texts = self.texts
        if texts[0] == texts[-1] and texts.count(texts[0]) == len(texts):
            return [convert(texts[0])] * len(texts)
        return map(convert, texts)

    def _integer(self, row: int) -> int:
        text = self.texts[row]
        if not text and not self.is_required:
            return NO_INTEGER
        value = parse_integer(text or "")
        if value is None or not NO_INTEGER < value < 2**63:
            raise self._wrong(row, "a whole number of 64 bits is expected")
        return value

    def _float(self, row: int) -> float:
        text = self.texts[row]
        if not text and not self.is_required:
            return NO_NUMBER
        value = parse_number(text or "")
        if value is None:
            raise self._wrong(row, "a finite number is expected")
        return value

    def _boolean(self, row: int) -> int:
        text = self.texts[row]
        if not text and not self.is_required:
            return NO_BOOL
        if text not in BOOLS:
            raise self._wrong(row, "true or false is expected")
        return BOOLS[text]

    def _wrong(self, row: int, expected: str) -> FormatError:
        text = self.texts[row]
        found = "is missing" if text is None else f"is {text[:50]!r}"
        return self.fault(f"{self.of(row)}: {self.name} {found}, {expected}")


class Rows:
    """Elements of one kind, in the order of the file: their attributes, until `take` has turned them into columns."""

    def __init__(self, element: str, take: Callable[[dict[str, Texts], int], None]) -> None:
        self.element = element
        self.waiting: list[list[str]] = []  # name, value, name, value, ...
        self.taken = 0
        self.unknown: dict[int, Unknown] = {}
        self._take = take

    def __len__(self) -> int:
        return self.taken + len(self.waiting)

    def flush(self) -> None:
        """Turn what waits into columns; a missing attribute is None there."""
        count = len(self.waiting)
        if count:
            self._take(_columns(self.waiting), count)
            self.taken += count
            self.waiting.clear()

    def last_unknown(self) -> Unknown:
        """Where the unknown parts of the last element are kept."""
        return self.unknown.setdefault(len(self) - 1, Unknown())


def _columns(rows: list[list[str]]) -> dict[str, Texts]:
    width, count = len(rows[0]), len(rows)
    if set(map(len, rows)) == {width}:
        flat = list(chain.from_iterable(rows))
        if all(flat[place::width].count(flat[place]) == count for place in range(0, width, 2)):
            return {flat[place]: flat[place + 1 :: width] for place in range(0, width, 2)}  # type: ignore[misc]
    each = [dict(zip(row[::2], row[1::2], strict=True)) for row in rows]
    return {name: [one.get(name) for one in each] for name in dict.fromkeys(chain.from_iterable(each))}


class Owners:
    """Which row of the file, and which tree, each node id belongs to.

    Attributes
    ----------
    starts : list of int
        First row of each tree, and the number of rows.
    duplicate : int or None
        An id that two nodes have.
    largest : int
    """

    def __init__(self, table: NodeTable, starts: list[int]) -> None:
        self.starts = [*starts, len(table)]
        ids = np.array(table.columns["id"], np.int64)
        self._order = None if (ids[1:] > ids[:-1]).all() else np.argsort(ids, kind="stable")
        self._sorted = ids if self._order is None else ids[self._order]
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        self.duplicate = int(self._sorted[twice[0]]) if len(twice) else None
        self.largest = int(self._sorted[-1]) if len(ids) else 0

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id, -1 where no node has it."""
        if not len(self._sorted):
            return np.full(len(ids), -1)
        places = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        rows = places if self._order is None else self._order[places]
        return np.where(self._sorted[places] == ids, rows, -1)

    def of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tree (its place in the file) of each id, -1 where no node has it."""
        rows = self.rows(ids)
        return np.where(rows < 0, -1, np.searchsorted(self.starts, rows, side="right") - 1)


def parse_integer(text: str) -> int | None:
    """Read "3" and "3.0"; None for all else."""
    if INTEGER.fullmatch(text):
        return int(text)
    value = parse_number(text)
    return int(value) if value is not None and value.is_integer() else None


def parse_number(text: str) -> float | None:
    """Read a finite number; None for all else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
