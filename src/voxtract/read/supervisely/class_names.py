"""``class_names.json``: which class a file called after one is of, and the number and colour of that class.

Supervisely has no such file: there a class is called like its file, and has no number. `voxtract.write.supervisely`
writes it, because some names cannot be those of files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from voxtract.classes import Category, ClassMap
from voxtract.errors import InvalidInput, UnreadableFile, VoxtractError
from voxtract.read.supervisely.tree import Entry, upwards

CLASS_NAMES = "class_names.json"

_FORM = 'expected {"file name without suffix": {"id": 1, "name": "liver", "color": "#ff0000"}}'


class ClassNames:
    """Classes by name of a file, each from the nearest ``class_names.json`` upwards."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.unused = {entry.folder: entry for entry in entries}
        self._of: dict[str, Mapping[str, Category] | str] = {}  # folder -> what holds there, or why nothing does
        for folder, entry in self.unused.items():
            try:
                self._of[folder] = read_class_names(entry)
            except VoxtractError as fault:
                self._of[folder] = str(fault)

    def of(self, folder: str) -> Mapping[str, Category]:
        """Classes of the files of a folder; none where there is no such file.

        Raises
        ------
        InvalidInput
            It cannot be used.
        """
        for way in upwards(folder):
            if (found := self._of.get(way)) is not None:
                self.unused.pop(way, None)
                if isinstance(found, str):
                    raise InvalidInput(found)
                return found
        return {}


def read_class_names(entry: Entry) -> dict[str, Category]:
    """Read the class of each file, by its name without suffix.

    Raises
    ------
    InvalidInput
        Another form; an id with two names or colours, or a name with two ids.
    UnreadableFile
        The system does not hand it out.
    """
    try:
        found = json.loads(entry.path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as fault:
        raise InvalidInput(f"{entry.where}: is no JSON ({fault}); {_FORM}") from fault
    except OSError as fault:
        raise UnreadableFile(f"{entry.where}: cannot be read: {fault.strerror}; check its permissions") from fault
    if not isinstance(found, dict):
        raise InvalidInput(f"{entry.where}: does not name files; {_FORM}")
    named = {stem: _category(told, f"{entry.where}: {stem!r}") for stem, told in found.items()}
    classes = set(named.values())
    if not len(classes) == len({one.id for one in classes}) == len({one.name for one in classes}):
        raise InvalidInput(f"{entry.where}: an id has two names or colours, or a name has two ids; {_FORM}")
    return named


def _category(told: object, where: str) -> Category:
    if not isinstance(told, dict) or told.keys() != {"id", "name", "color"} or not isinstance(told["id"], int):
        raise InvalidInput(f"{where} is {json.dumps(told)[:60]}; {_FORM}")
    try:
        (category,) = ClassMap.of({told["id"]: {"name": told["name"], "color": told["color"]}}).categories
    except InvalidInput as fault:
        raise InvalidInput(f"{where}: {fault}") from fault
    return category
