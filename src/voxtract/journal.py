"""The journal of a run: which cases are complete, so that an interrupted run can go on.

One file of JSON lines, ``.voxtract/journal.jsonl`` in the output folder. The first line holds the settings, each
further line a case whose outputs are all in place, with size and modification time of its inputs. A line is
written with one ``write`` after the outputs have their names, so a killed process leaves at most one line cut
short, the last one, and that case is done again. When a run ends, the lines are put in the order of the source:
a resumed run then leaves the very bytes that an undisturbed one leaves.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from voxtract.errors import InvalidInput, OutputError
from voxtract.model import VolumeFile
from voxtract.read.extraction import JOURNAL, findings_name, read_journal
from voxtract.report import CaseResult

Stamps = list[list[Any]]


class Journal:
    """Cases already complete in `output`, and a place to note the next.

    Parameters
    ----------
    output : Path
        Output folder of the run.
    settings : mapping of JSON values
        Everything that shapes the outputs.
    resume, overwrite : bool
        What to do where an earlier run has left a journal: go on with it, or start anew.

    Raises
    ------
    InvalidInput
        An earlier run is there and neither was asked for, or its settings differ.
    DamagedFile
        A line other than the last does not read.
    OutputError
        The journal cannot be written.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False):
        self._output = output
        self._path = output / JOURNAL
        self._lock = threading.Lock()
        self._done: dict[str, dict[str, Any]] = {}
        head = json.loads(json.dumps({"journal": 1, "settings": settings}))
        if self._path.exists() and not overwrite:
            if not resume:
                raise InvalidInput(
                    f"{output}: holds the output of an earlier run; pass resume=True (--resume) to go on with it, "
                    "overwrite=True (--overwrite) to replace it, or choose another folder"
                )
            self._done = self._read(head)
        self._write_all(head, self._done.values())
        self._head = head

    def result(
        self, case_id: str, inputs: tuple[str, ...], stamps: Stamps, part: str | None = None
    ) -> CaseResult | None:
        """The result of a case that is complete, whose inputs have not changed and whose outputs are still there.

        Raises
        ------
        InvalidInput
            It lies in another part of the data set than `part`.
        """
        line = self._done.get(case_id)
        if line is None or line["inputs"] != stamps:
            return None
        if line["split"] != part:
            raise InvalidInput(
                f"{case_id}: belongs to {part!r} now, but its files were written for {line['split']!r}: cases were "
                "added or removed since; pass overwrite=True (--overwrite) and another output folder to split anew"
            )
        if not all((self._output / name).exists() for name in (*line["outputs"], findings_name(case_id))):
            return None
        return CaseResult(case_id, "resumed", inputs, line["slices"], line["annotations"], split=part)

    def add(self, result: CaseResult, stamps: Stamps) -> None:
        """Note a case whose outputs are all in place.

        Parameters
        ----------
        result : CaseResult
            With its `files`.
        stamps : list
            What `stamp` said of the inputs before they were read.
        """
        last: dict[tuple[str, str], str] = {}
        for name in result.files:
            last[str(Path(name).parent), Path(name).suffix] = name
        line = {
            "case": result.id,
            "inputs": stamps,
            "slices": dict(result.slices),
            "annotations": dict(result.annotations),
            "split": result.split,
            "outputs": sorted(last.values()),  # the last file of each kind in each folder stands for all
        }
        with self._lock:
            try:
                with self._path.open("ab") as file:
                    whole = file.tell()
                    try:
                        file.write(_encode(line))
                        file.flush()
                    except OSError:
                        os.truncate(self._path, whole)  # half a line would make the next one unreadable
                        raise
            except OSError as why:
                raise OutputError(f"{self._path}: the journal cannot be written: {why.strerror}") from why
            self._done[result.id] = line

    def finish(self, order: Iterable[str]) -> None:
        """Put the lines in the given order of case ids."""
        with self._lock:
            self._write_all(self._head, [self._done[case_id] for case_id in order if case_id in self._done])

    def _read(self, head: dict[str, Any]) -> dict[str, dict[str, Any]]:
        found, lines = read_journal(self._output)
        old, new = found["settings"], head["settings"]
        if old and old != new:
            changed = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            raise InvalidInput(
                f"{self._output}: the run to resume had other settings: "
                + "; ".join(f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in changed)
                + "; use the same ones, or overwrite=True (--overwrite) to start anew"
            )
        return {line["case"]: line for line in lines}

    def _write_all(self, head: dict[str, Any], lines: Iterable[dict[str, Any]]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft = self._path.with_suffix(".draft")
            draft.write_bytes(b"".join(map(_encode, [head, *lines])))
            draft.replace(self._path)
        except OSError as why:
            raise OutputError(
                f"{self._path}: the output folder cannot be written: {why.strerror}; choose a folder that can"
            ) from why


def stamp(files: Iterable[VolumeFile]) -> Stamps:
    """Path, frame, size and modification time (ns) of each input; None for what the system does not tell."""
    stamps: Stamps = []
    for file in files:
        for path in file.paths:
            try:
                status = Path(path).stat()
                stamps.append([path, file.volume_index, status.st_size, status.st_mtime_ns])
            except OSError:
                stamps.append([path, file.volume_index, None, None])
    return stamps


def _encode(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"
