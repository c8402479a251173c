"""The output folder of a run, opened again: its settings, its cases, and what was found in them.

The folder ``.voxtract`` inside holds the journal (which cases are complete) and the findings of each case.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voxtract.classes import ClassMap
from voxtract.errors import DamagedFile, NotFound, UnreadableFile
from voxtract.geometry import Grid, Plane
from voxtract.model import Components, Findings

JOURNAL = ".voxtract/journal.jsonl"
LEFT_OUT = ".voxtract/left_out.json"  # cases that failed and files that no case uses
_KEYS = {"case", "inputs", "slices", "annotations", "split", "outputs"}


@dataclass(frozen=True, slots=True)
class ExtractedCase:
    """A case whose outputs are complete.

    Parameters
    ----------
    id : str
    inputs : (path, ...)
        Files it was made from, as the run named them.
    root : Path
        Output folder of the run.
    split : str, optional
        Part of the data set it belongs to.
    """

    id: str
    inputs: tuple[str, ...]
    root: Path
    split: str | None = None

    def findings(self) -> tuple[Findings, ...]:
        """What was found, one for each view.

        Raises
        ------
        DamagedFile
            The file does not read as it was written, or is missing.
        UnreadableFile
            The operating system does not hand it out.
        """
        return read_findings(self.root / findings_name(self.id))


@dataclass(frozen=True, slots=True)
class Extraction:
    """What a run has left in its output folder.

    Parameters
    ----------
    root : Path
        The folder.
    settings : dict
        Settings of the run by name, as JSON values.
    cases : (ExtractedCase, ...)
        Complete cases, in the order of the source once the run has ended.
    """

    root: Path
    settings: dict[str, Any]
    cases: tuple[ExtractedCase, ...]

    def findings(self) -> Iterator[Findings]:
        """Findings of all cases and views, in the order of the cases; one case in memory at a time."""
        for case in self.cases:
            yield from case.findings()

    def part(self, name: str) -> bytes:
        """Content of a file in the folder.

        Raises
        ------
        DamagedFile
            It is not there.
        """
        try:
            return (self.root / name).read_bytes()
        except OSError as why:
            raise DamagedFile(
                f"{self.root / name}: cannot be read ({why.strerror}), though the journal says the case is complete; "
                "extract it again with overwrite=True (--overwrite)"
            ) from why

    @property
    def class_map(self) -> ClassMap | None:
        """Classes that the run was given."""
        told = self.settings.get("class_map")
        return None if told is None else ClassMap.of(told)


def findings_name(case_id: str) -> str:
    """File of a case's findings, relative to the output folder."""
    return f".voxtract/findings/{case_id}.rows"


def open_extraction(folder: str | os.PathLike[str]) -> Extraction:
    """Open the output folder of :func:`voxtract.extract`.

    Raises
    ------
    NotFound
        No such folder, or nothing was extracted to it.
    DamagedFile
        Its journal does not read.
    UnreadableFile
        The operating system does not hand the journal out.
    """
    root = Path(folder)
    head, lines = read_journal(root)
    last = {line["case"]: line for line in lines}  # a case done again by a run that was killed has two lines
    cases = tuple(
        ExtractedCase(line["case"], tuple(str(stamp[0]) for stamp in line["inputs"]), root, line["split"])
        for line in last.values()
    )
    return Extraction(root, head["settings"], cases)


def read_journal(root: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the journal of an output folder: its head, and a line for each complete case.

    A last line that was cut short by a kill is dropped.

    Raises
    ------
    NotFound, DamagedFile, UnreadableFile
        As `open_extraction`.
    """
    path = root / JOURNAL
    try:
        lines = path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError) as why:
        raise NotFound(
            f"{root}: holds no extraction ({JOURNAL} is missing); give the output folder of `voxtract extract`"
        ) from why
    except OSError as why:
        raise UnreadableFile(f"{path}: the journal of the run cannot be read: {why.strerror}") from why
    whole, rest = lines[:-1], lines[-1]  # a line cut short has no line end: `rest`
    parsed = []
    for number, line in enumerate(whole, 1):
        try:
            parsed.append(_checked(json.loads(line), _KEYS if number > 1 else {"settings"}))
        except ValueError as why:
            raise DamagedFile(
                f"{path}: line {number} of {len(whole) + bool(rest)} is damaged; without it nobody can say "
                "what is complete: pass overwrite=True (--overwrite) to start anew"
            ) from why
    return (parsed[0], parsed[1:]) if parsed else ({"settings": {}}, [])


def _checked(line: Any, keys: set[str]) -> dict[str, Any]:
    if not isinstance(line, dict) or not keys <= line.keys():
        raise ValueError(f"a line without {keys}")
    return line


def read_findings(path: Path) -> tuple[Findings, ...]:
    """Read what `write.findings` wrote; see `ExtractedCase.findings`."""
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
        if checksum != b"%08x" % zlib.crc32(body):
            raise ValueError("wrong checksum")
        file = io.BytesIO(body)
        head = json.loads(file.readline())
        return tuple(
            _findings(one, np.load(file, allow_pickle=False), np.load(file, allow_pickle=False)) for one in head
        )
    except FileNotFoundError as why:
        raise DamagedFile(
            f"{path}: is missing, though the journal says the case is complete; extract it again with overwrite=True"
        ) from why
    except (ValueError, KeyError, TypeError, EOFError) as why:
        raise DamagedFile(
            f"{path}: the findings are damaged ({why}); extract the case again with overwrite=True"
        ) from why
    except OSError as why:
        raise UnreadableFile(f"{path}: cannot be read: {why.strerror}") from why


def _findings(told: dict[str, Any], slices: Any, rows: Any) -> Findings:
    shape = tuple(told["shape"])
    size = told["target_size"]
    return Findings(
        told["case"],
        Plane(told["view"], shape, None if size is None else tuple(size)),
        Grid(shape, np.array(told["affine"])),
        Components(**{name: rows[name] for name in rows.dtype.names}),
        told["extent"],
        slices,
        told["stem"],
        told["suffix"],
        told["labelled"],
        told["split"],
        tuple({int(label): key for label, key in volume.items()} for volume in told["objects"]),
    )
