"""Class colour maps, ``<id> <name> <R> <G> <B>`` a line, and from them the classes of a source."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voxtract.classes import Category, ClassMap, color_of
from voxtract.errors import InvalidInput, UnreadableFile

if TYPE_CHECKING:
    from pathlib import Path

# Where names and label values would get in each other's way, classes with names are numbered from here.
NAMED = 1_000_000
MAX_BYTES = 1 << 20  # of a map; a text of more is something else

_WHOLE = re.compile("[-+]?[0-9]+")


@dataclass(frozen=True, slots=True)
class ColorMap:
    """Names and colours of ids.

    Parameters
    ----------
    where : str
    names : mapping of id to name
    colors : mapping of id to ``"#rrggbb"``
        Of the ids that were given one.
    """

    where: str
    names: Mapping[int, str]
    colors: Mapping[int, str]


class NoMapError(ValueError):
    """A text that was not meant as a colour map."""


def named_as_map(name: str) -> bool:
    """Whether the name of a text says that it is a colour map."""
    return "color" in name.lower() or "colour" in name.lower()


def read_map(path: Path, where: str) -> ColorMap:
    """Read a colour map.

    Blanks or tabs part the fields, a name may have blanks, the colour may be missing; empty lines, lines that begin
    with ``#`` and a byte order mark are passed over.

    Raises
    ------
    InvalidInput
        A line of another form, an id below 1 or there twice, a name there twice, a colour beyond 0 to 255; the message
        has the number of the line.
    NoMapError
        The same for a text whose name and lines do not say that it is a colour map.
    UnreadableFile
        The system does not hand it out.
    """
    meant = named_as_map(path.name)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as fault:
        raise UnreadableFile(f"{where}: cannot be read: {fault.strerror}; check its permissions") from fault
    try:
        if len(raw) > MAX_BYTES:
            raise InvalidInput(f"{where}: has more than {MAX_BYTES} bytes, which no colour map needs")
        lines = raw.decode("utf-8-sig").splitlines()
        fields = [(n, line.split()) for n, line in enumerate(lines, 1) if line.strip() and line.strip()[0] != "#"]
        meant = meant or (bool(fields) and all(_is_full(one) for _, one in fields))
        return _map(where, fields)
    except UnicodeDecodeError as fault:
        problem = f"{where}: is no text in UTF-8 ({fault.reason} at byte {fault.start})"
        raise (InvalidInput if meant else NoMapError)(f"{problem}; save it as UTF-8") from fault
    except InvalidInput as fault:
        if meant:
            raise
        raise NoMapError(str(fault)) from fault


def _is_full(fields: list[str]) -> bool:
    return len(fields) >= 5 and all(_WHOLE.fullmatch(field) for field in (fields[0], *fields[-3:]))


def _map(where: str, lines: list[tuple[int, list[str]]]) -> ColorMap:
    names: dict[int, str] = {}
    colors: dict[int, str] = {}
    for number, fields in lines:
        line = f"{where}: line {number}, {' '.join(fields)!r}"
        if not _WHOLE.fullmatch(fields[0]) or len(fields) < 2:
            raise InvalidInput(f"{line}: expected an id, a name and perhaps a colour, as in '1 left lung 255 0 0'")
        label, name = int(fields[0]), " ".join(fields[1:])
        if label < 1:
            raise InvalidInput(f"{line}: the id must be 1 or more, 0 is background")
        if _is_full(fields):
            name, color = " ".join(fields[1:-3]), [int(field) for field in fields[-3:]]
            if not all(0 <= part <= 255 for part in color):
                raise InvalidInput(f"{line}: the colour must be three numbers from 0 to 255")
            colors[label] = "#{:02x}{:02x}{:02x}".format(*color)
        if label in names:
            raise InvalidInput(f"{line}: id {label} is there twice; give each class an id of its own")
        if name in names.values():
            raise InvalidInput(f"{line}: the name {name!r} is there twice; give each class a name of its own")
        names[label] = name
    if not names:
        raise InvalidInput(f"{where}: names no class")
    return ColorMap(where, names, colors)


class CategoryOf(Mapping[int, int]):
    """Category of each label value: another number where it has a name, else the value."""

    def __init__(self, named: Mapping[int, int]) -> None:
        self._named = dict(named)

    def __getitem__(self, value: int) -> int:
        return self._named.get(value, value)

    def __iter__(self) -> Iterator[int]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)


@dataclass(frozen=True, slots=True)
class Classes:
    """Categories of all label volumes of a source.

    Parameters
    ----------
    ids : mapping of name to category id
    colors : mapping of name to ``"#rrggbb"``
    same : bool
        Label values and ids of colour maps are the category ids.
    """

    ids: Mapping[str, int]
    colors: Mapping[str, str]
    same: bool

    @classmethod
    def of(
        cls,
        named: Sequence[str],
        maps: Sequence[ColorMap | None],
        segments: Sequence[int],
        told: Collection[Category] = (),
    ) -> Classes:
        """Number the classes.

        Where nothing speaks against it, ids of colour maps and of ``class_names.json`` are category ids, and a value
        without a name is ``Segment_<value>``. Classes that are named by files alone count from 1 in order of their
        names. Where the same id means different things in one source, because folders have different maps or classes
        are named by files, too, those with names are numbered from `NAMED` on in order of their names.

        Parameters
        ----------
        named : names that files give
        maps : colour map of each volume that is labelled by number; None for one without
        segments : ids without a name that occur in names of files
        told : what ``class_names.json`` says of classes that are named by files
        """
        known = sorted({one.where: one for one in maps if one is not None}.values(), key=lambda one: one.where)
        names = {(label, name) for one in known for label, name in one.names.items()} | {(c.id, c.name) for c in told}
        labels = {label for label, _ in names}
        colors = {name: one.colors[n] for one in reversed(known) for n, name in one.names.items() if n in one.colors}
        colors = {one.name: one.color for one in sorted(told, key=lambda one: (one.id, one.color))} | colors
        everything = sorted({*named, *(name for _, name in names)})
        single = len(labels) == len({name for _, name in names}) == len(names) and labels.isdisjoint(segments)
        same = single and {one.name for one in told}.issuperset(named) and not (names and None in maps)
        if same:
            ids = {name: label for label, name in sorted(names)}
        elif not maps:
            ids = {name: number for number, name in enumerate(everything, 1)}
        else:
            ids = {name: NAMED + number for number, name in enumerate(everything, 1)}
        for label in segments:
            ids.setdefault(segment(label), label)
        return cls(ids, colors, same)

    def category(self, map_: ColorMap | None) -> CategoryOf | None:
        """Categories of the values of a volume that is labelled by number."""
        if self.same or map_ is None:
            return None
        return CategoryOf({label: self.ids[name] for label, name in map_.names.items()})

    def class_map(self) -> ClassMap:
        """Names and colours by category id; what has no name is a segment."""
        told = {n: {"name": name, "color": self.colors.get(name, color_of(n))} for name, n in self.ids.items()}
        return ClassMap.of({**told, "#": segment("{}")})


def segment(label: int | str) -> str:
    """Name of a class that was given none."""
    return f"Segment_{label}"
