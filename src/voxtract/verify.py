"""Are the outputs of a run still what it wrote? Sizes and checksums of all files against its journal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from isal.isal_zlib import crc32

from voxtract.crew import default_workers
from voxtract.read.extraction import manifest_name, read_journal, read_manifest
from voxtract.storage import Place, Remote, place

Fault = Literal["missing", "truncated", "changed", "unreadable"]

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that is not what the run wrote.

    Parameters
    ----------
    name : str
        Relative to the output folder.
    fault : {"missing", "truncated", "changed", "unreadable"}
    found, expected : str
    """

    name: str
    fault: Fault
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.name}: {self.fault}: {self.found}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared, and what is wrong.

    Parameters
    ----------
    output : str
    cases, files, nbytes : int
        Complete cases, files that the journal lists, and their bytes as they were written.
    ended : bool
        The run has come to its end; otherwise the files that speak of all cases are not known yet.
    failed : (case id, reason) pairs
        Cases without outputs.
    bad : (BadFile, ...)
    """

    output: str
    cases: int
    files: int
    nbytes: int
    ended: bool
    failed: tuple[tuple[str, str], ...]
    bad: tuple[BadFile, ...]

    @property
    def exit_code(self) -> int:
        """0 where every file is what was written, 1 where one is not."""
        return 1 if self.bad else 0

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "output": self.output,
            "cases": self.cases,
            "files": self.files,
            "bytes": self.nbytes,
            "ended": self.ended,
            "failed": [{"case": case, "error": error} for case, error in self.failed],
            "bad": [{"name": b.name, "fault": b.fault, "found": b.found, "expected": b.expected} for b in self.bad],
        }

    def __str__(self) -> str:
        lines = [str(bad) for bad in self.bad]
        lines.append(
            f"{self.files - len(self.bad):,} of {self.files:,} files of {self.cases:,} cases are as they were written "
            f"({self.nbytes / 1e6:,.0f} MB) in {self.output}"
        )
        if self.bad:
            lines.append("extract again with --resume after removing these files, or with --overwrite")
        if not self.ended:
            lines.append("the run has not come to its end; --resume goes on with it")
        if self.failed:
            lines.append(f"{len(self.failed):,} cases failed in the run and have no outputs")
        return "\n".join(lines)


def verify(folder: str | os.PathLike[str] | Remote, *, workers: int | None = None) -> Verification:
    """Compare every file that a run of :func:`voxtract.extract` wrote with what it noted: size and CRC-32.

    Files that the run did not write are no matter. A case whose list of files is itself damaged counts as one bad file.

    Parameters
    ----------
    folder : path or URL
        Output folder of the run.
    workers : int, optional
        Threads that read; by default the cores this process may use, for a URL 32.

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
    listed: list[tuple[str, int, int]] = []
    unlisted: list[BadFile] = []
    for case_id, line in journal.done.items():
        name = manifest_name(case_id)
        try:
            listed.extend(_manifest(root / name, int(line["manifest"], 16)))
        except (OSError, ValueError) as why:
            fault: Fault = "missing" if isinstance(why, FileNotFoundError) else "changed"
            unlisted.append(BadFile(name, fault, "cannot tell the files of the case", "the list that the run wrote"))
    listed += [(name, size, int(checksum, 16)) for name, size, checksum in journal.end or ()]
    with ThreadPoolExecutor(workers or (32 if isinstance(root, Remote) else default_workers())) as pool:
        compared = pool.map(lambda one: _compared(root, *one), listed)
        bad = [*unlisted, *(one for one in compared if one is not None)]
    return Verification(
        str(root),
        len(journal.done),
        len(listed) + len(unlisted),
        sum(size for _, size, _ in listed),
        journal.end is not None,
        tuple((case_id, line["error"]) for case_id, line in journal.failed.items()),
        tuple(bad),
    )


def _manifest(path: Place, checksum: int) -> Iterator[tuple[str, int, int]]:
    content = path.read_bytes()
    if crc32(content) != checksum:
        raise ValueError("another checksum")
    return read_manifest(content)


def _compared(root: Place, name: str, size: int, checksum: int) -> BadFile | None:
    found, seen = 0, 0
    try:
        with (root / name).open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                seen += len(block)
                found = crc32(block, found)
    except FileNotFoundError:
        return BadFile(name, "missing", "no such file", f"{size:,} bytes")
    except OSError as why:
        return BadFile(name, "unreadable", why.strerror or str(why), f"{size:,} bytes")
    if seen != size:
        return BadFile(name, "truncated" if seen < size else "changed", f"{seen:,} bytes", f"{size:,}")
    if found != checksum:
        return BadFile(name, "changed", f"checksum {found:08x}", f"{checksum:08x}")
    return None
