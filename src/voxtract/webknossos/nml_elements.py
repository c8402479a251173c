"""One XML element of an NML file: its attributes, and the frame that says what it may hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from voxtract.webknossos.boxes import Color
from voxtract.webknossos.errors import FormatError
from voxtract.webknossos.kept import Kept, Unknown
from voxtract.webknossos.nml_columns import BOOLS, INTEGER, Rows, parse_integer, parse_number
from voxtract.webknossos.nodes import Vector
from voxtract.webknossos.skeleton import MetadataValue

COORDINATE = "additionalCoordinate-"

Make = Callable[["Attributes"], "Frame"]

_LIST_VALUE = re.compile(r"stringListValue-(\d{1,9})", re.ASCII)


class Attributes:
    """Attributes of one element; what is taken is gone, so that what is left is unknown."""

    __slots__ = ("_element", "_fault", "left")

    def __init__(self, element: str, values: dict[str, str], fault: Callable[[str], FormatError]) -> None:
        self._element = element
        self.left = values
        self._fault = fault

    def fault(self, message: str) -> FormatError:
        """Make an error about this element."""
        return self._fault(f"<{self._element}>: {message}")

    def text(self, name: str) -> str | None:
        """Take a text."""
        return self.left.pop(name, None)

    def integer(self, name: str) -> int | None:
        """Take a whole number; empty is none."""
        text = self.left.pop(name, None)
        if not text:
            return None
        value = parse_integer(text)
        if value is None:
            raise self.fault(f"{name} is {text[:50]!r}, a whole number is expected")
        return value

    def whole(self, name: str, least: int = -(2**63) + 1, most: int = 2**63 - 1) -> int:
        """Take an integer that must be there."""
        value = self.integer(name)
        if value is None:
            raise self.fault(f"{name} is missing")
        if not least <= value <= most:
            raise self.fault(f"{name} is {value}, which is outside of {least} to {most}")
        return value

    def number(self, name: str) -> float | None:
        """Take a finite number; empty is none."""
        text = self.left.pop(name, None)
        if not text:
            return None
        value = parse_number(text)
        if value is None:
            raise self.fault(f"{name} is {text[:50]!r}, a finite number is expected")
        return value

    def vector(self, *names: str) -> Vector:
        """Take three numbers that must be there."""
        x, y, z = (self.number(name) for name in names)
        if x is None or y is None or z is None:
            raise self.fault(f"one of {', '.join(names)} is missing")
        return x, y, z

    def boolean(self, name: str) -> bool | None:
        """Take true or false; empty is none."""
        text = self.left.pop(name, None)
        if not text:
            return None
        if text not in BOOLS:
            raise self.fault(f"{name} is {text[:50]!r}, true or false is expected")
        return BOOLS[text]

    def color(self) -> Color | None:
        """Take the colour in its present or its old form (there -1 means none)."""
        prefix = "color" if "colorr" in self.left else "color."
        red, green, blue, alpha = (self.number(prefix + channel) for channel in "rgba")
        if red is None and green is None and blue is None:
            return None
        if red is None or green is None or blue is None:
            raise self.fault("one of the color's red, green and blue is missing")
        return None if red < 0 else (red, green, blue, 1.0 if alpha is None else alpha)

    def coordinates(self) -> dict[str, int]:
        """Take the places along axes beyond x, y, z."""
        names = [name for name in self.left if name.startswith(COORDINATE)]
        return {name.removeprefix(COORDINATE): self.whole(name) for name in names}


@dataclass(slots=True)
class Frame:
    """An open element: where its unknown parts are kept, and what it may hold.

    Parameters
    ----------
    kept : dict
    key : str
        Its unknown parts are ``kept[key]``.
    children : dict of name -> function from attributes to frame
    rows : Rows, optional
        Its children are of one kind and very many, and are gathered there.
    """

    kept: Kept
    key: str
    children: dict[str, Make]
    rows: Rows | None = None

    @property
    def unknown(self) -> Unknown:
        """Where its unknown parts are kept."""
        return self.kept.setdefault(self.key, Unknown())


def metadata_value(values: Attributes) -> MetadataValue:
    """Take the value of a metadata entry: a text, number, bool or list of texts."""
    text = values.text("stringValue")
    if text is not None:
        return text
    number = values.left.get("numberValue")
    if number is not None:
        found = values.integer("numberValue") if INTEGER.fullmatch(number) else values.number("numberValue")
        if found is None:
            raise values.fault("numberValue is empty")
        return found
    flag = values.boolean("boolValue")
    if flag is not None:
        return flag
    places = sorted((int(match[1]), match[0]) for match in map(_LIST_VALUE.fullmatch, values.left) if match)
    return [values.left.pop(name) for _, name in places]
