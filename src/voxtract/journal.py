"""The journal of a run: what is complete, so that an interrupted run can go on, and what it was made of.

One file of JSON lines, ``.voxtract/journal.jsonl`` in the output folder. The first line holds the settings and the
versions of what made it. Each further line is a case: one whose outputs are all in place, with path, size, time and
checksum of its inputs and the checksum of its manifest, or one that failed, with the reason. A manifest,
``.voxtract/outputs/<case>.txt``, has a line for each file: CRC-32, bytes, name. The last line says that the run has
ended and lists the files that speak of all cases.

A line is written with one ``write``, after the outputs have their names, and reaches the disk before the next case
is noted. A killed process thus leaves at most one line cut short, the last one, and that case is done again.
When a run ends, the lines are put in the order of the source: a resumed run then leaves the very bytes that an
undisturbed one leaves.

While a run goes on it holds a lock on ``.voxtract/lock``; a second run over the same folder is refused. Where the lines
lie, on disk and in a store for objects, and what the lock is there, is a matter of book.py.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from isal.isal_zlib import crc32

from voxtract.book import open_book
from voxtract.errors import InvalidInput
from voxtract.model import VolumeFile
from voxtract.read.extraction import findings_name, manifest_name, read_journal
from voxtract.report import CaseResult
from voxtract.storage import Place, Remote, is_url, place
from voxtract.write.files import Batch, Note

log = logging.getLogger("voxtract")

_BLOCK = 1 << 20

Stamps = list[list[Any]]


class Journal:
    """Cases already complete in `output`, and a place to note the next; a context manager that holds the lock.

    Parameters
    ----------
    output : Path, or Remote for a URL
        Output folder of the run.
    settings : mapping of JSON values
        Everything that shapes the outputs.
    resume, overwrite : bool
        What to do where an earlier run has left a journal: go on with it, or start anew.

    Raises
    ------
    InvalidInput
        An earlier run is there and neither was asked for, or its settings differ; or another run is going on there.
    DamagedFile
        A line other than the last does not read.
    OutputError
        The journal cannot be written.
    """

    def __init__(self, output: Place, settings: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False):
        self._output = output
        self._mutex = threading.Lock()
        self._done: dict[str, dict[str, Any]] = {}
        self._failed: dict[str, dict[str, Any]] = {}
        self._head = json.loads(json.dumps({"journal": 2, "settings": settings, "versions": _versions()}))
        self._book = open_book(output)
        try:
            if self._book.exists() and not overwrite:
                if not resume:
                    raise InvalidInput(
                        f"{output}: holds the output of an earlier run; pass resume=True (--resume) to go on with it, "
                        "overwrite=True (--overwrite) to replace it, or choose another folder"
                    )
                self._done = self._earlier()
            self._write_all(self._done.values())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the lock."""
        self._book.close()

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
        if line is None or not _unchanged(line["inputs"], stamps):
            return None
        if line["split"] != part:
            raise InvalidInput(
                f"{case_id}: belongs to {part!r} now, but its files were written for {line['split']!r}: cases were "
                "added or removed since; pass overwrite=True (--overwrite) and another output folder to split anew"
            )
        kept = (*line["outputs"], findings_name(case_id), manifest_name(case_id))
        if not _all_there(self._output, kept):
            return None
        return CaseResult(case_id, "resumed", inputs, line["slices"], line["annotations"], split=part)

    def add(self, result: CaseResult, stamps: Stamps, manifest: Note) -> None:
        """Note a case whose outputs are all in place.

        Parameters
        ----------
        result : CaseResult
            With its `files`.
        stamps : list
            What `stamp` said of the inputs before they were read.
        manifest : Note
            What `write_manifest` returned.
        """
        last: dict[tuple[str, str], str] = {}
        for name in result.files:
            last[str(Path(name).parent), Path(name).suffix] = name
        line = {
            "case": result.id,
            "inputs": _hashed(stamps),
            "slices": dict(result.slices),
            "annotations": dict(result.annotations),
            "split": result.split,
            "outputs": sorted(last.values()),  # the last file of each kind in each folder stands for all
            "manifest": f"{manifest.crc32:08x}",
        }
        self._book.append(result.id, _encode(line))
        with self._mutex:
            self._done[result.id] = line

    def add_failed(self, result: CaseResult, stamps: Stamps) -> None:
        """Note a case that failed; a run that goes on does it again."""
        line = {"case": result.id, "inputs": stamps, "error": str(result.error)}
        self._book.append(result.id, _encode(line))
        with self._mutex:
            self._failed[result.id] = line

    def finish(self, order: Iterable[str]) -> None:
        """Put the lines in the given order of case ids."""
        lines = (self._failed.get(case_id) or self._done.get(case_id) for case_id in order)
        with self._mutex:
            self._write_all(line for line in lines if line is not None)

    def end(self, notes: Sequence[Note]) -> None:
        """Note that the run has ended, and the files that speak of all its cases."""
        self._book.append(None, _encode({"end": [[note.name, note.size, f"{note.crc32:08x}"] for note in notes]}))

    def _earlier(self) -> dict[str, dict[str, Any]]:
        found = read_journal(self._output)
        old, new = found.head["settings"], self._head["settings"]
        if old and old != new:
            changed = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            raise InvalidInput(
                f"{self._output}: the run to resume had other settings: "
                + "; ".join(f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in changed)
                + "; use the same ones, or overwrite=True (--overwrite) to start anew"
            )
        return found.done

    def _write_all(self, lines: Iterable[dict[str, Any]]) -> None:
        self._book.rewrite(map(_encode, [self._head, *lines]))


def write_manifest(batch: Batch, case_id: str) -> Note:
    """Add the list of all files of a batch to it."""
    lines = [f"{note.crc32:08x} {note.size} {note.name}\n" for note in sorted(batch.notes.values())]
    batch.write(manifest_name(case_id), "".join(lines))
    return batch.notes[manifest_name(case_id)]


def stamp(files: Iterable[VolumeFile]) -> Stamps:
    """Path, frame, size and modification time (ns, or of a URL the mark of its content) of each input.

    None for what the system or the store does not tell. URLs are named without credentials.
    """
    return [[str(path), file.volume_index, *_size_and_time(place(path))] for file in files for path in file.paths]


def _size_and_time(path: Place) -> tuple[int | None, int | str | None]:
    try:
        if isinstance(path, Remote):
            info = path.info()
            return info.size, info.mark
        status = path.stat()
    except OSError:
        return None, None
    return status.st_size, status.st_mtime_ns


def _all_there(output: Place, names: Sequence[str]) -> bool:
    if isinstance(output, Remote):  # a store takes its time to answer, but answers many at once
        try:
            with ThreadPoolExecutor(len(names)) as pool:
                return all(pool.map(lambda name: (output / name).exists(), names))
        except OSError as why:
            log.warning("%s: cannot be looked at, so the case is done again: %s", output, why.strerror)
            return False
    return all((output / name).exists() for name in names)


def _unchanged(noted: Stamps, now: Stamps) -> bool:
    """Whether inputs are what they were: by size and time, or, where only the time differs, by what they hold."""
    if len(noted) != len(now):
        return False
    for (*old, checksum), new in zip(noted, now, strict=True):
        if new[3] is None and is_url(new[0]):  # its server has no mark for what it holds
            return False
        if old[:3] != new[:3] or (old[3] != new[3] and (checksum is None or checksum != _checksum(new[0]))):
            return False
    return True


def _hashed(stamps: Stamps) -> Stamps:
    return [[*one, _checksum(one[0])] for one in stamps]


def _checksum(path: str) -> str | None:
    """CRC-32 of a file; of one in gzip the checksum and length of what it holds, which stand at its end.

    None of what is at a URL: the store has its own mark for it.
    """
    if is_url(path):
        return None
    try:
        with Path(path).open("rb") as file:
            if path.endswith(".gz"):
                file.seek(-min(8, os.fstat(file.fileno()).st_size), os.SEEK_END)
                return f"gzip:{file.read(8).hex()}"
            checksum = 0
            while block := file.read(_BLOCK):
                checksum = crc32(block, checksum)
    except OSError:
        return None
    return f"crc32:{checksum:08x}"


def _versions() -> dict[str, str]:
    """Versions of what shapes the outputs."""
    from importlib.metadata import version  # 20 ms, which a run without a journal need not wait for

    return {name: version(name) for name in ("voxtract", "numpy", "scipy")}


def _encode(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"
