"""The output folder of a run, opened again: its settings, its cases, and what was found in them.

The folder ``.voxtract`` inside holds the journal (which cases are complete) and the findings of each case.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from voxtract.classes import ClassMap
from voxtract.errors import DamagedFile, NotFound, UnreadableFile
from voxtract.geometry import Grid, Plane
from voxtract.model import Components, Findings
from voxtract.storage import Place, Remote, place

JOURNAL = ".voxtract/journal.jsonl"
JOURNAL_PARTS = ".voxtract/journal"  # where a store cannot append: a file for each line that is still to be added
LEFT_OUT = ".voxtract/left_out.json"  # cases that failed and files that no case uses
_DONE = {"case", "inputs", "slices", "annotations", "split", "outputs", "manifest"}
_FAILED = {"case", "inputs", "error"}
_END = {"end"}
_READERS = 32  # objects of a journal read at once


@dataclass(frozen=True, slots=True)
class ExtractedCase:
    """A case whose outputs are complete.

    Parameters
    ----------
    id : str
    inputs : (path, ...)
        Files it was made from, as the run named them.
    root : Path, or Remote for a URL
        Output folder of the run.
    split : str, optional
        Part of the data set it belongs to.
    """

    id: str
    inputs: tuple[str, ...]
    root: Place
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
    root : Path, or Remote for a URL
        The folder.
    settings : dict
        Settings of the run by name, as JSON values.
    cases : (ExtractedCase, ...)
        Complete cases, in the order of the source once the run has ended.
    """

    root: Place
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


def open_extraction(folder: str | os.PathLike[str] | Remote) -> Extraction:
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
    root = place(folder)
    journal = read_journal(root)
    cases = tuple(
        ExtractedCase(line["case"], tuple(str(stamp[0]) for stamp in line["inputs"]), root, line["split"])
        for line in journal.done.values()
    )
    return Extraction(root, journal.head["settings"], cases)


@dataclass(frozen=True, slots=True)
class JournalLines:
    """What the journal of a run says.

    Parameters
    ----------
    head : dict
        ``settings`` of the run and ``versions`` of what made it.
    done, failed : dict of case id to line
        The last line of each case: one that was done again has several.
    end : list of (name, size, checksum), optional
        Files that speak of all cases, once the run has ended.
    """

    head: dict[str, Any]
    done: dict[str, dict[str, Any]]
    failed: dict[str, dict[str, Any]]
    end: list[tuple[str, int, str]] | None = None


def read_journal(root: Place) -> JournalLines:
    """Read the journal of an output folder.

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
    found = JournalLines({"settings": {}, "versions": {}}, {}, {})
    for number, line in enumerate(whole, 1):
        try:
            found = _with_line(found, json.loads(line), first=number == 1)
        except ValueError as why:
            raise DamagedFile(
                f"{path}: line {number} of {len(whole) + bool(rest)} is damaged; without it nobody can say "
                "what is complete: pass overwrite=True (--overwrite) to start anew"
            ) from why
    for part in _parts(root) if isinstance(root, Remote) else ():
        try:
            found = _with_line(found, json.loads(part), first=False)
        except ValueError as why:
            raise DamagedFile(
                f"{root / JOURNAL_PARTS}: a file of the journal is damaged ({part[:60]!r} …); without it nobody can "
                "say what is complete: pass overwrite=True (--overwrite) to start anew"
            ) from why
    return found


def _parts(root: Remote) -> list[bytes]:
    """Lines of the journal that are not in it yet, in the order of their names."""
    try:
        entries = (root / JOURNAL_PARTS).entries()
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(lambda entry: entry.path.read_bytes(), entries))
    except FileNotFoundError:
        return []
    except OSError as why:
        raise UnreadableFile(f"{root / JOURNAL_PARTS}: the journal of the run cannot be read: {why.strerror}") from why


def _with_line(found: JournalLines, line: Any, *, first: bool) -> JournalLines:
    """The journal with one line more.

    Raises
    ------
    ValueError
        It is none.
    """
    keys = line.keys() if isinstance(line, dict) else set()
    if first and {"settings", "versions"} <= keys:
        return replace(found, head=line)
    if not first and keys == _END:
        return replace(found, end=line["end"])
    for kind, other, wanted in ((found.done, found.failed, _DONE), (found.failed, found.done, _FAILED)):
        if not first and wanted <= keys:
            other.pop(line["case"], None)
            kind[line["case"]] = line
            return replace(found, end=None)
    raise ValueError("no line of a journal")


def manifest_name(case_id: str) -> str:
    """File that lists the outputs of a case, relative to the output folder."""
    return f".voxtract/outputs/{case_id}.txt"


def read_manifest(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, size and CRC-32 of each file that a manifest lists.

    Raises
    ------
    ValueError
        It is damaged.
    """
    for line in content.decode("utf-8", "surrogateescape").split("\n")[:-1]:
        checksum, size, name = line.split(" ", 2)
        yield name, int(size), int(checksum, 16)


def read_findings(path: Place) -> tuple[Findings, ...]:
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
