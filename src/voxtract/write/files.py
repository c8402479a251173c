"""Put files in place whole: a file has its name only once all its bytes are written.

A file is written into a hidden folder inside the output folder, which is on the same file system, and renamed.
A killed run leaves that folder behind, never half a file; the next run over the same output folder removes it. Whether
its owner still lives is told by a lock (flock) that the system drops when a process ends, however it ends.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from isal.isal_zlib import crc32  # 3 times as fast as zlib's

from voxtract.errors import OutputError, VoxtractError
from voxtract.storage import Place

Content = str | bytes | Sequence[bytes | memoryview]

_PREFIX = ".voxtract-staging-"
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class Staging:
    r"""Writes files into a folder so that each appears complete or not at all; for any number of threads.

    Parameters
    ----------
    root : Path
        Output folder; made where it is missing.

    Raises
    ------
    OutputError
        On entering: the folder cannot be made or written to.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Staging(Path(folder)) as staging:
    ...         staging.write("case 1/rows.csv", "X,Y,Z\n")
    ...     Path(folder, "case 1", "rows.csv").read_text()
    'X,Y,Z\n'
    """

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root)
        self._final = self._root  # what messages call it
        self._names = itertools.count()  # next() is atomic
        self._folders: set[str] = set()  # known to be there
        self._stage = ""
        self._lock = -1

    def __enter__(self) -> Staging:
        try:
            Path(self._root).mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self._root)
            self._stage, self._lock = _new_stage(self._root)
        except OSError as why:
            raise _explained(why, self._root, self._root, 0) from why
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._stage, ignore_errors=True)
        os.close(self._lock)

    def write(self, name: str, content: Content) -> None:
        """Write one file; as `Batch.write`, but it is in place at once."""
        with self.batch() as batch:
            batch.write(name, content)

    @property
    def root(self) -> Place:
        """The output folder."""
        return Path(self._root)

    def write_pieces(self, name: str, pieces: Iterable[bytes]) -> Note:
        """Write one file that need not fit into memory; as `write`."""
        note = Note(name, 0, 0)
        staged = self._new()
        try:
            with Path(staged).open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                    note = note.extended([piece])
        except OSError as why:
            if isinstance(why, VoxtractError):
                raise
            raise self._explained(why, name, 0) from why
        self._put_in_place([(staged, name)])
        return note

    @contextmanager
    def batch(self, *, noted: bool = False) -> Iterator[Batch]:
        """Collect files that are put in place at the end of the block, and none of them if the block fails.

        Parameters
        ----------
        noted : bool
            Note size and CRC-32 of each file, see `Batch.notes`.

        Raises
        ------
        OutputError
            A file cannot be put in place; see `Batch.write`.
        """
        batch = Batch(self, noted=noted)
        try:
            yield batch
            self._put_in_place(batch.files)
        except BaseException:
            for staged, _ in batch.files:
                remove(staged)
            raise

    def _new(self) -> str:
        """Where a file or folder is staged."""
        return f"{self._stage}/{next(self._names)}"

    def _fill(self, staged: str, name: str, parts: Sequence[bytes | memoryview], flags: int = _FLAGS) -> None:
        """Write a staged file that is to have the name `name`."""
        try:
            _write(staged, parts, flags)
        except OSError as why:
            raise self._explained(why, name, _size(parts)) from why

    def _put_in_place(self, files: Sequence[tuple[str, str]]) -> None:
        """Give staged files and folders their names."""
        for staged, name in files:
            final = f"{self._root}/{name}"
            try:
                self._make_folder(final)
                self._put(staged, final)
            except OSError as why:
                raise self._explained(why, name, 0) from why

    def _put(self, staged: str, final: str) -> None:
        """Rename; a folder takes the place of another one, which a rename alone does only where that is empty."""
        try:
            os.replace(staged, final)  # noqa: PTH105 - once per slice, and a Path costs more than the call
        except OSError as why:
            if why.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not Path(staged).is_dir():
                raise
            old = self._new()
            Path(final).replace(old)
            Path(staged).replace(final)
            remove(old)

    def _explained(self, why: OSError, name: str, size: int) -> OutputError:
        place = self._stage if self._final != self._root else f"{self._root}/{name}"
        return _explained(why, f"{self._final}/{name}", place, size)

    def _make_folder(self, final: str) -> None:
        folder = final[: final.rindex("/")]
        if folder not in self._folders:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)


class Note(NamedTuple):
    """What is known of a file that was written.

    Parameters
    ----------
    name : str
        Relative to the output folder.
    size : int
        Bytes.
    crc32 : int
        Checksum of them (that of gzip and PNG); it finds what a disk or a copy has damaged, not what was forged.
    """

    name: str
    size: int
    crc32: int

    def extended(self, parts: Sequence[bytes | memoryview]) -> Note:
        """The same with more bytes at the end."""
        checksum = self.crc32
        for part in parts:
            checksum = crc32(part, checksum)
        return Note(self.name, self.size + _size(parts), checksum)


class Batch:
    """Files of one `Staging` that appear together; for any number of threads."""

    def __init__(self, staging: Staging, *, noted: bool = False) -> None:
        self._staging = staging
        self._noted = noted
        self._grown: dict[str, str] = {}
        self.files: list[tuple[str, str]] = []
        self.notes: dict[str, Note] = {}

    def write(self, name: str, content: Content) -> None:
        """Write one file; one that is there already is replaced when the batch ends.

        Parameters
        ----------
        name : str
            Path relative to the output folder; folders on the way are made.
        content : str, bytes or sequence of contiguous buffers
            Text is written as UTF-8, buffers one after the other without joining them.

        Raises
        ------
        OutputError
            Nothing is left under the name that was not there before. The message names the file and says what is
            in the way: no permission, no space (how much is needed and how much there is), a name too long, ...
        """
        staged, parts = self._staging._new(), _parts(content)
        try:
            self._staging._fill(staged, name, parts)
        except BaseException:
            remove(staged)
            raise
        self.files.append((staged, name))
        self.note(Note(name, 0, 0), parts)

    def append(self, name: str, content: Content) -> None:
        """Write at the end of a file that this batch makes piece by piece; for one thread at a time.

        Parameters and errors are those of `write`. The first piece begins the file anew.
        """
        if name not in self._grown:
            self._grown[name] = self._staging._new()
            self.files.append((self._grown[name], name))
        parts = _parts(content)
        self._staging._fill(self._grown[name], name, parts, _APPEND)
        self.note(self.notes.get(name, Note(name, 0, 0)), parts)

    def folder(self, name: str) -> BatchFolder:
        """Begin a folder that appears whole, in place of one that is there already.

        Parameters
        ----------
        name : str
            Path relative to the output folder; folders on the way are made.

        Raises
        ------
        OutputError
            As `write`.
        """
        staged = self._staging._new()
        try:
            Path(staged).mkdir()
        except OSError as why:
            raise self._staging._explained(why, name, 0) from why
        self.files.append((staged, name))
        return BatchFolder(self._staging, self, name, staged)

    def note(self, before: Note, parts: Sequence[bytes | memoryview]) -> None:
        """Note what was written to a file after what is known of it."""
        if self._noted:
            self.notes[before.name] = before.extended(parts)


@dataclass(frozen=True, slots=True)
class BatchFolder:
    """A folder of a `Batch`, and what is in it; for any number of threads."""

    staging: Staging
    batch: Batch
    name: str
    staged: str

    def write(self, name: str, content: Content) -> None:
        """Write a file; as `Batch.write`, but `name` is relative to this folder."""
        path, parts, final = f"{self.staged}/{name}", _parts(content), f"{self.name}/{name}"
        try:
            os.makedirs(path[: path.rindex("/")], exist_ok=True)  # noqa: PTH103 - once per slice, as above
        except OSError as why:
            raise self.staging._explained(why, final, 0) from why
        self.staging._fill(path, final, parts)
        self.batch.note(Note(final, 0, 0), parts)


def _parts(content: Content) -> Sequence[bytes | memoryview]:
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")  # file names need not be UTF-8
    return [content] if isinstance(content, bytes) else content


def remove(staged: str) -> None:
    """Remove a staged file or folder."""
    if Path(staged).is_dir():
        shutil.rmtree(staged, ignore_errors=True)
    else:
        Path(staged).unlink(missing_ok=True)


def _write(path: str, parts: Sequence[bytes | memoryview], flags: int) -> None:
    file = os.open(path, flags, 0o666)
    try:
        written = os.writev(file, parts)
        if written != _size(parts):
            _write_rest(file, parts, written)
    finally:
        os.close(file)


def _write_rest(file: int, parts: Sequence[bytes | memoryview], written: int) -> None:
    """Go on after a short write: at 2 GiB, after a signal, or when the disk fills up (the next write then fails)."""
    for part in parts:
        rest = memoryview(part).cast("B")[written:]
        written = max(0, written - memoryview(part).nbytes)
        while rest:
            rest = rest[os.write(file, rest) :]


def _size(parts: Sequence[bytes | memoryview]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def _new_stage(root: str) -> tuple[str, int]:
    """Make and lock a staging folder; again where another run, just starting, removes it before it is locked."""
    while True:
        stage = f"{root}/{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        Path(stage).mkdir(0o700)
        with suppress(FileNotFoundError):
            lock = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # a file system without locks: then nobody can take the folder for abandoned
                fcntl.flock(lock, fcntl.LOCK_EX)
            if Path(stage).exists():
                return stage, lock
            os.close(lock)


def _remove_abandoned(root: str) -> None:
    """Remove staging folders of runs that were killed; those of runs still alive are locked."""
    with os.scandir(root) as entries:
        stages = [e.path for e in entries if e.name.startswith(_PREFIX) and e.is_dir(follow_symlinks=False)]
    for stage in stages:
        with suppress(OSError):  # of a run alive, of another user, or gone meanwhile
            lock = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(stage)
            finally:
                os.close(lock)


def _explained(why: OSError, path: str, place: str, size: int) -> OutputError:
    """Say in words what `why` means for `path`, which was being written at `place`, and what to do."""
    reason = why.strerror or str(why)
    if why.errno in (errno.ENOSPC, errno.EDQUOT):
        where = "" if path.startswith(place) else f" in {place}, where it is made"
        reason = (
            f"no space left{where}: {size:,} bytes are needed, {_free(place):,} are free; "
            "make room or choose another disk"
        )
    elif why.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = f"no permission to write there ({reason}); choose another output folder or change its permissions"
    elif why.errno in (errno.EEXIST, errno.ENOTDIR):
        file = why.filename2 or why.filename
        reason = f"a file is in the way of a folder ({file}); move it or choose another output folder"
    elif why.errno == errno.EISDIR:
        reason = "a folder of this name is in the way; move it or choose another output folder"
    elif why.errno == errno.ENAMETOOLONG:
        longest = max(path.split("/"), key=lambda part: len(os.fsencode(part)))
        reason = (
            f"the name is too long: {longest!r} has {len(os.fsencode(longest))} bytes, most file systems allow 255 "
            "and 4,095 for the whole path; shorten the case's file name"
        )
    return OutputError(f"{path}: cannot be written: {reason}")


def _free(path: str) -> int:
    """Free bytes on the disk of `path` or of the nearest folder above it that exists."""
    place = Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free
