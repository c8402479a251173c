"""Where the lines of a journal lie, and what keeps two runs from writing into it at once.

On disk (`FileBook`) a line is appended to ``.voxtract/journal.jsonl`` and reaches the disk before the next (fsync), and
a lock of the system (flock) on ``.voxtract/lock`` ends with the process, however it ends.

A store for objects (`ObjectBook`) cannot append and has no locks. A line is an object of its own under
``.voxtract/journal``, named after its case; they are joined when a run goes on and when it ends. The lock is an object
too: who holds it, and when it was last seen, written again every `BEAT_S` seconds.

- Of two runs that begin at the same time, one is refused where the store has conditional writes (S3, Google, Azure,
  memory); elsewhere both read the lock back, and the one that was overwritten stops.
- A run that was killed leaves its lock. On the machine where it ran this is seen at once; elsewhere the lock is taken
  over when it is `STALE_S` seconds old, by the clocks of the two machines, which should agree to a few seconds.
- A run whose lock was taken over, because its machine slept or its network was down, notices at its next beat or line
  and stops. Until then both write; what they write is the same for the same inputs and settings.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from voxtract.errors import InvalidInput, OutputError
from voxtract.read.extraction import JOURNAL, JOURNAL_PARTS
from voxtract.storage import Place, Remote

log = logging.getLogger("voxtract")

LOCK = ".voxtract/lock"
BEAT_S = 20.0
STALE_S = 90.0
_PATIENCE_S = 10  # with a beat that does not come through while a run ends


class Book(Protocol):
    """The lines of a journal, with the lock held."""

    def exists(self) -> bool:
        """Whether a run has left lines."""

    def append(self, case_id: str | None, line: bytes) -> None:
        """Add a line, of a case or (None) at the end of the run; raises `OutputError`. For any number of threads."""

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """Replace all lines at once; raises `OutputError`."""

    def close(self) -> None:
        """Let go of the lock."""


def open_book(output: Place) -> Book:
    """Lock the journal of an output folder.

    Raises
    ------
    InvalidInput
        Another run is going on there, or the URL can only be read.
    OutputError
        It cannot be written.
    """
    return ObjectBook(output) if isinstance(output, Remote) else FileBook(output)


class FileBook:
    """Lines in a file; see `open_book`."""

    def __init__(self, output: Path) -> None:
        self._path = output / JOURNAL
        self._mutex = threading.Lock()
        self._lock = _locked(output)

    def exists(self) -> bool:
        """See `Book`."""
        return self._path.exists()

    def append(self, case_id: str | None, line: bytes) -> None:  # noqa: ARG002
        """See `Book`."""
        try:
            with self._mutex, self._path.open("ab") as file:
                whole = file.tell()
                try:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    os.truncate(self._path, whole)  # half a line would make the next one unreadable
                    raise
        except OSError as why:
            raise OutputError(f"{self._path}: the journal cannot be written: {why.strerror}") from why

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """See `Book`."""
        try:
            draft = self._path.with_suffix(".draft")
            with self._mutex, draft.open("wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError as why:
            raise OutputError(
                f"{self._path}: the output folder cannot be written: {why.strerror}; choose a folder that can"
            ) from why

    def close(self) -> None:
        """See `Book`."""
        self._lock.truncate(0)
        self._lock.close()


class ObjectBook:
    """Lines in objects; see `open_book`."""

    def __init__(self, output: Remote) -> None:
        output.check_writable()
        self._path, self._parts = output / JOURNAL, output / JOURNAL_PARTS
        self._lock = Lease(output)

    def exists(self) -> bool:
        """See `Book`."""
        try:
            return self._path.exists()
        except OSError as why:
            raise self._explained(why) from why

    def append(self, case_id: str | None, line: bytes) -> None:
        """See `Book`."""
        self._lock.check()
        try:
            if case_id is None:
                self._path.write(self._path.read_bytes() + line)
            else:
                (self._parts / f"{case_id}.json").write(line)
        except OSError as why:
            raise self._explained(why) from why

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """See `Book`."""
        self._lock.check()
        try:
            self._path.write(b"".join(lines))
            with suppress(FileNotFoundError):  # a run that is killed here finds them again: they say the same
                for entry in self._parts.entries():
                    entry.path.unlink(missing_ok=True)
        except OSError as why:
            raise self._explained(why) from why

    def close(self) -> None:
        """See `Book`."""
        self._lock.close()

    def _explained(self, why: OSError) -> OutputError:
        return OutputError(f"{self._path}: the journal cannot be written: {why.strerror}")


class Lease:
    """A lock in a store: an object that says who holds it and is written again while he lives."""

    def __init__(self, output: Remote) -> None:
        self._output, self._path = output, output / LOCK
        self._me = {"owner": _owner(), "process": _process(), "token": secrets.token_hex(8)}
        self._lost: str | None = None
        self._closed = threading.Event()
        try:
            self._take()
        except OSError as why:
            raise OutputError(f"{output}: cannot be written: {why.strerror}") from why
        self._beats = threading.Thread(target=self._beat, name="voxtract-lock", daemon=True)
        self._beats.start()

    def check(self) -> None:
        """Raise `OutputError` where another run has taken the lock over."""
        if self._lost is not None:
            raise OutputError(
                f"{self._output}: another run ({self._lost}) has taken over, since nothing was heard of this one for "
                f"{STALE_S:.0f} s; let that one end, or stop it and go on with resume=True (--resume)"
            )

    def close(self) -> None:
        """Give the lock back."""
        self._closed.set()
        self._beats.join(_PATIENCE_S)
        with suppress(OSError):
            if self._held_by() == self._me["token"]:
                self._path.unlink(missing_ok=True)

    def _take(self) -> None:
        for _ in range(3):  # somebody else may let go of it, or take it, at the same time
            told = self._told()
            if told is not None:
                self._refuse_unless_gone(told)
                self._path.unlink(missing_ok=True)
            with suppress(FileExistsError):
                self._write(new=True)
            if self._held_by() == self._me["token"]:
                return
        raise self._refused(self._told() or {}, 0)

    def _refuse_unless_gone(self, told: dict[str, Any]) -> None:
        """Raise `InvalidInput` unless the run that holds the lock is dead, or has not been heard of for long."""
        silent = time.time() - float(told.get("time", 0))
        if silent < STALE_S and not _is_dead(told.get("process")):
            raise self._refused(told, silent)
        log.debug("%s: the lock of %s is taken over", self._output, told.get("owner"))

    def _refused(self, told: dict[str, Any], silent: float) -> InvalidInput:
        return InvalidInput(
            f"{self._output}: another run is writing there ({told.get('owner', 'an unknown process')}, heard of "
            f"{max(0, silent):.0f} s ago); wait for it, stop it, or choose another folder. If it was killed, its lock "
            f"ends {STALE_S:.0f} s after it was last heard of"
        )

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            try:
                told = self._told() or {}
                if told.get("token") not in (None, self._me["token"]):
                    self._lost = str(told.get("owner"))
                    return
                self._write()
            except OSError as why:  # the next beat may come through
                log.warning("%s: the lock cannot be renewed: %s", self._output, why.strerror)

    def _write(self, *, new: bool = False) -> None:
        self._path.write(json.dumps({**self._me, "time": time.time()}).encode(), new=new)

    def _told(self) -> dict[str, Any] | None:
        """What the lock says; None where there is none."""
        try:
            told = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return told if isinstance(told, dict) else {}

    def _held_by(self) -> object:
        return (self._told() or {}).get("token")


def _locked(output: Path) -> IO[str]:
    """Open and lock the lock file; it says who holds it."""
    path = output / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as why:
        raise OutputError(
            f"{output}: the output folder cannot be written: {why.strerror}; choose a folder that can"
        ) from why
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as why:
        file.seek(0)
        owner = file.read(200).strip() or "an unknown process"
        file.close()
        raise InvalidInput(
            f"{output}: another run is writing there ({owner}); wait for it, stop it, or choose another folder"
        ) from why
    except OSError:  # a file system without locks
        return file
    file.truncate(0)
    file.write(f"{_owner()}\n")
    file.flush()
    return file


def _owner() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _process() -> list[Any] | None:
    """What tells this process from all others of all machines; None where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - it is no path
        return [boot, space, os.getpid(), _begin(os.getpid())]
    except OSError:
        return None


def _begin(pid: int) -> str:
    """When a process began: a number that is given again does not mean the same process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _is_dead(process: Any) -> bool:
    """Whether a process of this machine is no more; of others nobody knows here."""
    mine = _process()
    if mine is None or not isinstance(process, list) or process[:2] != mine[:2]:
        return False
    try:
        return _begin(int(process[2])) != str(process[3])
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
