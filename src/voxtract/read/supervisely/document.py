"""JSON of a project, taken apart with messages that say where in which file something is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxtract.errors import DamagedFile, InvalidInput, NotFound, UnreadableFile

LARGEST = 1 << 31  # bytes of a JSON file; annotations with embedded masks of thousands of objects stay far below


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """A JSON value and where it stands, as ``scan.json: objects[3].classTitle``.

    Every accessor raises `InvalidInput` that says where, what is there and what was expected.
    """

    where: str
    value: Any

    def get(self, name: str) -> Node | None:
        """Member of an object; None where it is missing or null."""
        if not isinstance(self.value, dict):
            raise self.unlike("an object {...}")
        found = self.value.get(name)
        return None if found is None else self._at(name, found)

    def need(self, name: str) -> Node:
        """Member of an object that must be there."""
        found = self.get(name)
        if found is None:
            raise InvalidInput(f"{self.where}: has no {name!r}; export the project again")
        return found

    def members(self) -> Iterator[tuple[str, Node]]:
        """Names and members of an object."""
        if not isinstance(self.value, dict):
            raise self.unlike("an object {...}")
        return ((name, self._at(name, value)) for name, value in self.value.items())

    def each(self, name: str) -> list[Node]:
        """Entries of the list `name`; none where it is missing or null."""
        found = self.get(name)
        return [] if found is None else found.entries()

    def entries(self) -> list[Node]:
        """Entries of a list."""
        if not isinstance(self.value, list):
            raise self.unlike("a list [...]")
        return [Node(f"{self.where}[{number}]", value) for number, value in enumerate(self.value)]

    def text(self) -> str:
        """A text."""
        if not isinstance(self.value, str):
            raise self.unlike("a text")
        return self.value

    def integer(self) -> int:
        """A whole number, also one written as 3.0."""
        number = self.number()
        if number != int(number):
            raise self.unlike("a whole number")
        return int(self.value)

    def number(self) -> float:
        """A finite number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not math.isfinite(self.value):
            raise self.unlike("a number")
        return float(self.value)

    def numbers(self, count: int) -> tuple[float, ...]:
        """A list of `count` numbers."""
        found = tuple(entry.number() for entry in self.entries())
        if len(found) != count:
            raise self.unlike(f"{count} numbers")
        return found

    def unlike(self, expected: str) -> InvalidInput:
        """Say that this value is not what was expected."""
        text = json.dumps(self.value)
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        return InvalidInput(f"{self.where}: is {shown}, expected {expected}; repair it or export the project again")

    def _at(self, name: str, value: Any) -> Node:
        return Node(f"{self.where}.{name}" if ": " in self.where else f"{self.where}: {name}", value)


def load(path: Path) -> Node:
    """Read a JSON file.

    Raises
    ------
    NotFound, UnreadableFile
        Not there; not handed out by the system.
    DamagedFile
        No JSON.
    InvalidInput
        Larger than `LARGEST`.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise InvalidInput(f"{path}: has {size} bytes, more than {LARGEST}; is it an annotation?")
        return Node(str(path), json.loads(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError as fault:
        raise NotFound(f"{path}: no such file; export the project again") from fault
    except OSError as fault:
        raise UnreadableFile(f"{path}: cannot be read: {fault.strerror or fault}; check permissions") from fault
    except InvalidInput:
        raise
    except (ValueError, RecursionError) as fault:
        raise DamagedFile(f"{path}: is no JSON file ({fault}); export the project again") from fault
