"""Score tables: ``Layer,Label-2,Label-4``, a row per slice."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voxtract.errors import InvalidInput, UnreadableFile

if TYPE_CHECKING:
    from pathlib import Path

_WHOLE = re.compile("[-+]?[0-9]+")
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """One table.

    Parameters
    ----------
    where : str
    scores : mapping of label to Layer to score
        Layers as written; a label without a single score is there, too.
    remarks : (str, ...)
        Columns that are not known.
    """

    where: str
    scores: Mapping[int, Mapping[int, float]]
    remarks: tuple[str, ...]

    @property
    def last(self) -> int | None:
        """The highest Layer with a score."""
        return max((layer for column in self.scores.values() for layer in column), default=None)


class EveryValue(Mapping[int, float]):
    """One score for every label value of a volume: all its objects are of the class that was scored.

    Listed, it has the single key 0, which is no object's value.
    """

    def __init__(self, score: float) -> None:
        self._score = score

    def __getitem__(self, value: int) -> float:
        return self._score

    def __iter__(self) -> Iterator[int]:
        return iter((0,))

    def __len__(self) -> int:
        return 1


def read_scores(path: Path, where: str, layer_base: int = 1) -> ScoreTable:
    """Read a score table.

    Cells may have blanks around them; a cell without text is no score. A byte order mark is passed over.

    Parameters
    ----------
    path : Path
    where : str
        Its name for messages.
    layer_base : {1, 0}
        Number of the first slice.

    Raises
    ------
    InvalidInput
        No ``Layer``, no ``Label-<n>``, or a column twice; a Layer that is no whole number, below `layer_base` or there
        twice; a score that is no finite number; a row of another length; parted by semicolons; no UTF-8. The message
        names row and column.
    UnreadableFile
        The system does not hand it out.
    """
    header, rows = _rows(path, where)
    columns: dict[int, int] = {}  # label -> position
    remarks = []
    layers = [i for i, name in enumerate(header) if name.lower() == "layer"]
    if len(layers) != 1:
        raise InvalidInput(f"{where}: row 1 has {len(layers)} columns 'Layer', expected one; found {_listed(header)}")
    for i, name in enumerate(header):
        found = re.fullmatch("label-([0-9]+)", name, re.IGNORECASE)
        if found and (int(found[1]) in columns or int(found[1]) < 1):
            why = "is there twice" if int(found[1]) in columns else "names the background"
            raise InvalidInput(f"{where}: row 1: column {name!r} {why}; give each label from 1 on one column")
        if found:
            columns[int(found[1])] = i
        elif i not in layers:
            remarks.append(f"column {name!r} is not known and not read; known are Layer and Label-<n>")
    if not columns:
        raise InvalidInput(f"{where}: row 1 has no column 'Label-<n>', only {_listed(header)}; name one per label")
    scores: dict[int, dict[int, float]] = {label: {} for label in sorted(columns)}
    seen: dict[int, int] = {}
    for number, row in rows:
        if len(row) != len(header):
            raise InvalidInput(f"{where}: row {number} has {len(row)} cells, but row 1 has {len(header)}")
        layer = _layer(row[layers[0]], f"{where}: row {number}, column 'Layer'", layer_base)
        if layer in seen:
            raise InvalidInput(f"{where}: row {number}: Layer {layer} is there already, in row {seen[layer]}")
        seen[layer] = number
        for label, i in columns.items():
            if row[i]:
                scores[label][layer] = _score(row[i], f"{where}: row {number}, column {header[i]!r}")
    return ScoreTable(where, scores, tuple(remarks))


def _rows(path: Path, where: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and rows with their line numbers, cells stripped."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as fault:
        raise UnreadableFile(f"{where}: cannot be read: {fault.strerror}; check its permissions") from fault
    if len(raw) > MAX_BYTES:
        raise InvalidInput(f"{where}: has more than {MAX_BYTES} bytes, which no score table needs")
    try:
        text = raw.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except UnicodeDecodeError as fault:
        raise InvalidInput(
            f"{where}: is no text in UTF-8 ({fault.reason} at byte {fault.start}); save it so"
        ) from fault
    except csv.Error as fault:
        raise InvalidInput(f"{where}: is no table of values parted by commas ({fault})") from fault
    if not rows:
        raise InvalidInput(f"{where}: is empty; expected a row 'Layer,Label-1' and one per slice")
    header = rows[0][1]
    if len(header) == 1 and ";" in header[0]:
        raise InvalidInput(f"{where}: its cells are parted by semicolons; save it with commas, and decimal points")
    return header, rows[1:]


def _layer(cell: str, where: str, base: int) -> int:
    if not _WHOLE.fullmatch(cell):
        raise InvalidInput(f"{where}: {cell!r} is no whole number")
    if int(cell) < base:
        hint = "; the export application counts from 0: read its tables with layer_base=0" if int(cell) == 0 else ""
        raise InvalidInput(f"{where}: {cell} is below {base}, the number of the first slice{hint}")
    return int(cell)


def _score(cell: str, where: str) -> float:
    try:
        score = float(cell)
    except ValueError as fault:
        raise InvalidInput(f"{where}: {cell!r} is no number; leave the cell empty where there is no score") from fault
    if not math.isfinite(score):
        raise InvalidInput(f"{where}: {cell!r} is not finite; leave the cell empty where there is no score")
    return score


def _listed(header: list[str]) -> str:
    return ", ".join(map(repr, header[:10])) + (", …" if len(header) > 10 else "")
