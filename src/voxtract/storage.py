"""Files at URLs: ``s3://``, ``gs://``, ``az://``, ``https://``, ``memory://`` and what else fsspec knows.

`place` turns what a user names into a `pathlib.Path`, or for a URL into a `Remote`, which has as much of a path's
interface as this package uses. No other module knows URLs. What goes wrong is raised as an `OSError` with ``errno`` and
``strerror``, as a path does it, so that those who open files explain it alike.

A request that fails for a reason that may pass (no answer, too slow an answer, 429, 5xx) is tried again, `TRIES` times
in all, with growing pauses.

Credentials belong into the environment or into fsspec's configuration
(https://filesystem-spec.readthedocs.io/en/latest/features.html#configuration), but a URL may hold some too:
``user:password@``, ``?token=``, the query of a signed URL. So a `Remote` is shown without them, and errors neither
quote what a library says nor carry its exceptions along, which do.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import random
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from voxtract.errors import BackendUnavailable, InvalidInput

log = logging.getLogger("voxtract")

TRIES = 5
WAIT_S = 0.5  # before the second try; doubled before each further one
DEADLINE_S = 60.0  # for one request: 8 MiB then come with 140 kB/s at least, and less is as good as nothing
LISTING_S = 600.0  # for a whole listing: 1,000 names a request

FIRST = 64 << 10  # bytes of the first request: a header lies there
BLOCK = 8 << 20  # ... of those that follow, four times the one before up to this
AHEAD = 3  # blocks on their way while one is worked on
_SMALL = 8 << 20  # files up to this are sent from memory, in one request

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_QUERY = re.compile(r"\?[^/]*=.*$")
_USER = re.compile(r"(?<=://)[^/@]*@")
_READ_ONLY = {"http", "https"}
_ONE_FOR_ALL = {"s3", "s3a", "gs", "gcs"}  # buckets of one owner; others have the server in the URL
_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_PASSING_ERRNO = {errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, getattr(errno, "EREMOTEIO", errno.EIO)}
# What the libraries below fsspec raise beside OSError and TimeoutError.
_FOREIGN = (
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)


class Info(NamedTuple):
    """What a store says of a file or folder.

    Parameters
    ----------
    is_folder : bool
    size : int, optional
        Bytes of a file; None where the server does not tell.
    mark : str, optional
        Changes when the content does: the ETag, or the time of the last change.
    """

    is_folder: bool
    size: int | None
    mark: str | None


class Entry(NamedTuple):
    """A file or folder in a folder; as `os.DirEntry`."""

    name: str
    path: Remote
    folder: bool

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self.folder

    def is_symlink(self) -> bool:
        """There are no links."""
        return False


@dataclass(frozen=True, slots=True, repr=False)
class Remote:
    """A file or folder at a URL; its text is the URL without credentials.

    Parameters
    ----------
    url : str
        In full; of a chain (``zip://a.nii::s3://bucket/many.zip``) the first part is the path.
    """

    url: str

    def __str__(self) -> str:
        return "::".join(_shown(part) for part in self.url.split("::"))

    def __repr__(self) -> str:
        return f"Remote({str(self)!r})"

    def __truediv__(self, name: str) -> Remote:
        name = name.removeprefix("./")
        first, mark, rest = self.url.partition("::")
        first, query = _without_query(first)
        joined = first + name if first.endswith("/") else f"{first}/{name}"
        return Remote(joined + query + mark + rest)

    @property
    def protocol(self) -> str:
        """What stands before ``://``."""
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        path = _without_query(self.url.partition("::")[0])[0].partition("://")[2]
        return path.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The last ending of the name, with its dot."""
        return Path(self.name).suffix

    @property
    def parent(self) -> Remote:
        """The folder that it lies in; of the topmost one, itself."""
        first, mark, rest = self.url.partition("::")
        first, query = _without_query(first)
        protocol, _, path = first.partition("://")
        folder = path.rstrip("/").rpartition("/")[0]
        return Remote(f"{protocol}://{folder}{query}{mark}{rest}") if folder else self

    def resolve(self) -> Remote:
        """Return itself: a URL is absolute."""
        return self

    def is_symlink(self) -> bool:
        """There are no links."""
        return False

    def info(self) -> Info:
        """Ask the store; raises `OSError`."""
        found = self._ask("info")
        mark = next((found[key] for key in _MARKS if found.get(key)), None)
        return Info(found["type"] == "directory", found.get("size"), None if mark is None else str(mark))

    def is_dir(self) -> bool:
        """Whether there is a folder; raises `OSError` where the store does not say."""
        if self.protocol in _READ_ONLY:  # pages that link to files are no folders
            return False
        try:
            return self.info().is_folder
        except FileNotFoundError:
            return False

    def is_file(self) -> bool:
        """Whether there is a file; raises `OSError` where the store does not say."""
        try:
            return not self.info().is_folder
        except FileNotFoundError:
            return False

    def exists(self) -> bool:
        """Whether anything is there; raises `OSError` where the store does not say."""
        try:
            self.info()
        except FileNotFoundError:
            return False
        return True

    def entries(self) -> list[Entry]:
        """Files and folders in it, sorted by name; raises `OSError`."""
        found = []
        for one in self._ask("ls", deadline=LISTING_S, detail=True):
            name = one["name"].rstrip("/").rpartition("/")[2]
            if name and one["name"].strip("/") != self._path().strip("/"):  # an object may stand for the folder itself
                found.append(Entry(name, self / name, one["type"] == "directory"))
        return sorted(found, key=lambda entry: entry.name)

    def read_bytes(self, first: int = 0, nbytes: int | None = None) -> bytes:
        """Content of a small file, or of `nbytes` of any from `first` on, as far as it has them; raises `OSError`."""
        if nbytes is None:
            content: bytes = self._ask("cat_file")
            return content
        part: bytes = self._ask("cat_file", start=first, end=first + nbytes)
        return part if len(part) <= nbytes else part[first : first + nbytes]  # a server need not hand out parts

    def open(self, mode: str = "rb", buffering: int = -1) -> BinaryIO:  # noqa: ARG002 - as of a path
        """Open a file to read its bytes as they come; raises `OSError`."""
        if mode != "rb":
            raise ValueError(f"mode {mode!r}")
        return cast("BinaryIO", Reader(self))

    def write(self, content: bytes, *, new: bool = False) -> None:
        """Write a file, which appears when it is complete; raises `OSError`.

        Parameters
        ----------
        new : bool
            Raise `FileExistsError` where there is one, if the store can tell (S3, Google, Azure, memory).
        """
        named: dict[str, Any] = {"mode": "create"} if new else {}
        self._ask("pipe_file", content, **named)

    def upload(self, path: str) -> None:
        """Write a file from one on disk; raises `OSError`."""
        size = Path(path).stat().st_size
        if size <= _SMALL:
            self.write(Path(path).read_bytes())
            return
        self._ask("put_file", deadline=DEADLINE_S * (1 + size / BLOCK), before=(path,))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file; raises `OSError`."""
        try:
            self._ask("rm_file")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self) -> None:
        """Remove a folder with all that is in it, if there is one; raises `OSError`."""
        try:
            self._ask("rm", deadline=LISTING_S, recursive=True)
        except FileNotFoundError:
            return

    def check_writable(self) -> None:
        """Raise `InvalidInput` where this kind of URL can only be read."""
        if self.protocol in _READ_ONLY or "::" in self.url:
            raise InvalidInput(
                f"{self}: can be read, but not written to; give a folder, or a URL as s3://, gs:// or az://"
            )

    def _path(self) -> str:
        """The path as the file system wants it."""
        path: str = self._filesystem()._strip_protocol(self.url.partition("::")[0])
        return path

    def _filesystem(self) -> Any:
        first, mark, rest = self.url.partition("::")
        protocol, _, path = first.partition("://")
        host = "" if mark or protocol in _ONE_FOR_ALL else path.partition("/")[0]
        try:
            return _filesystem(f"{protocol}://{host}{mark}{rest}", os.getpid())
        except ImportError as why:
            raise BackendUnavailable(
                f"{self}: {protocol}:// needs the package {_package(why)}, which is not installed; "
                "pip install 'voxtract[cloud]'"
            ) from None
        except ValueError:
            raise InvalidInput(
                f"{self}: the protocol {protocol!r} is not known; give a path, or s3://, gs://, az:// or https://"
            ) from None

    def _ask(self, method: str, *words: Any, deadline: float = 0, before: tuple[str, ...] = (), **named: Any) -> Any:
        """Call a method of the file system, several times where it fails for a reason that may pass."""
        filesystem, path = self._filesystem(), self._path()
        if filesystem.async_impl:
            named["timeout"] = deadline or DEADLINE_S
        try:
            return tried(lambda: getattr(filesystem, method)(*before, path, *words, **named))
        except FileNotFoundError:
            if self.protocol in _BUCKETS and "/" not in path.strip("/"):
                raise _missing("no such bucket") from None
            raise


Place = Path | Remote

# Where file systems say what changes with the content, best first.
_MARKS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "Last-Modified", "mtime", "created")


def place(given: str | os.PathLike[str] | Remote) -> Place:
    """Turn a path or URL into what it is worked with; ``file://`` is a path."""
    if isinstance(given, Remote):
        return given
    if isinstance(given, str):
        if given.startswith("file://"):
            return Path(given.removeprefix("file://"))
        if is_url(given):
            return Remote(given)
    return Path(given)


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than a path.

    Examples
    --------
    >>> is_url("s3://bucket/a.nii.gz"), is_url("data/a.nii.gz"), is_url("c:/a")
    (True, False, False)
    """
    return _URL.match(text) is not None and "://" in text


def _without_query(url: str) -> tuple[str, str]:
    """Cut a URL at its query; in names of objects a question mark may stand for itself."""
    if url.startswith(("http://", "https://")):
        before, mark, query = url.partition("?")
        return before, mark + query
    found = _QUERY.search(url)
    return (url, "") if found is None else (url[: found.start()], found.group())


def _shown(url: str) -> str:
    url = _without_query(url)[0]
    found = _USER.search(url)
    if found is None or (url.startswith(("az:", "abfs")) and ":" not in found[0]):  # container@account
        return url
    return url[: found.start()] + url[found.end() :]


@lru_cache(maxsize=64)
def _filesystem(root: str, process: int) -> Any:  # noqa: ARG001 - a forked process makes its own
    """File system of a URL; one for all threads, while fsspec itself would make one, and connect, for each."""
    from fsspec.config import conf
    from fsspec.core import url_to_fs

    protocol = root.partition("://")[0]
    words: dict[str, Any] = {}
    if protocol in _BUCKETS | _READ_ONLY:
        # Listings would be kept for ever, so that a file that was changed would look as it was; and one of our own,
        # since it is set up otherwise than others expect it.
        words = {"use_listings_cache": False, "skip_instance_cache": True}
    told = conf.get(protocol, {})
    if protocol in ("s3", "s3a") and "config_kwargs" not in told:
        words["config_kwargs"] = {"retries": {"total_max_attempts": 1}}  # `tried` does it, and knows when to stop
    if protocol in _READ_ONLY and "client_kwargs" not in told:
        from aiohttp import ClientTimeout

        words["client_kwargs"] = {"timeout": ClientTimeout(total=None, sock_connect=15, sock_read=DEADLINE_S)}
    filesystem, _ = url_to_fs(root, **words)
    if protocol in ("s3", "s3a"):
        filesystem.retries = 1
    return filesystem


def _package(why: ImportError) -> str:
    """The package that fsspec asks for ("Install s3fs to access S3"), or the module that is not there."""
    found = re.search(r"[Ii]nstall ['\"]?(\w+)", str(why))
    return found[1] if found else why.name or "fsspec"


# --- what may go wrong


def tried(call: Callable[[], Any]) -> Any:
    """Call a function, several times where it fails for a reason that may pass.

    Raises
    ------
    OSError
        In words, with the matching ``errno``.
    """
    attempt = 1
    while True:
        try:
            return call()
        except _caught() as why:
            fault = explained(why)
            if attempt == TRIES or not _passes(why):
                if attempt > 1 and fault.strerror:
                    fault.strerror += f" (it was tried {attempt} times)"
                raise fault from None  # the exceptions of the libraries quote URLs in full
            log.debug("%s; trying again", fault.strerror)
            time.sleep(WAIT_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))  # noqa: S311 - spreads the tries
            attempt += 1


def _caught() -> tuple[type[BaseException], ...]:
    """All that file systems raise where a store does not do what it was asked for."""
    return (OSError, NotImplementedError, *_foreign())


def _foreign() -> tuple[type[BaseException], ...]:
    modules = ((sys.modules.get(module), name) for module, name in _FOREIGN)
    return tuple(getattr(module, name) for module, name in modules if hasattr(module, name))


def explained(why: BaseException) -> OSError:
    """Say in words what an exception of fsspec or a library below it means; its own words may hold credentials."""
    status = _status(why)
    kinds = {type(one).__name__ for one in _causes(why)}
    if isinstance(why, FileExistsError):
        return FileExistsError(errno.EEXIST, "there is one of this name already")
    if isinstance(why, IsADirectoryError):
        return IsADirectoryError(errno.EISDIR, "is a folder")
    if status in (401, 403) or isinstance(why, PermissionError) or any("Credential" in kind for kind in kinds):
        said = f" ({status})" if status else ""
        lacking = "there are no credentials for" if any("NoCredential" in kind for kind in kinds) else "no access to"
        return PermissionError(
            errno.EACCES, f"{lacking} this place{said}; look into the credentials of the environment and their rights"
        )
    if _passes(why):
        if status:
            return OSError(errno.EAGAIN, f"the store is busy or out of order (it answers {status}); try again later")
        if any(isinstance(one, TimeoutError) for one in _causes(why)) or any("Timeout" in kind for kind in kinds):
            return TimeoutError(errno.ETIMEDOUT, "the store does not answer in time; try again later")
        return OSError(
            errno.EAGAIN,
            f"the store is not reached, or the connection broke ({_kind(why)}); check address and network",
        )
    if isinstance(why, FileNotFoundError) or status == 404:
        bucket = any(re.search("(bucket|container) does not exist|NoSuchBucket", str(one)) for one in _causes(why))
        return FileNotFoundError(
            errno.ENOENT, f"there is {'no such bucket' if bucket else 'nothing of this name'}; check the spelling"
        )
    if isinstance(why, OSError) and why.errno and why.strerror and type(why).__module__ == "builtins" and not status:
        return OSError(why.errno, os.strerror(why.errno))
    return OSError(errno.EIO, f"the store refuses ({status or _kind(why)})")


def _missing(what: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, f"there is {what}; check the spelling")


def _kind(why: BaseException) -> str:
    """Name of the exception that all began with; what it says stays out."""
    return [type(one).__name__ for one in _causes(why)][-1]


def _passes(why: BaseException) -> bool:
    """Whether it may go well the next time."""
    status = _status(why)
    if status is not None:
        return status in _PASSING
    causes = list(_causes(why))
    if any("Credential" in type(one).__name__ for one in causes):
        return False
    if any(isinstance(one, TimeoutError | ConnectionError) for one in causes):
        return True
    if any(isinstance(one, OSError) and one.errno in _PASSING_ERRNO for one in causes):
        return True
    # a library's word without an answer of the store: it was not reached, or the connection broke
    return any(isinstance(one, _foreign()) and not isinstance(one, ValueError) for one in causes)


def _causes(why: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = why
    while one is not None:
        yield one
        one = one.__cause__


def _status(why: BaseException) -> int | None:
    """Status of the answer of an HTTP server that led to an exception."""
    for one in _causes(why):
        response = getattr(one, "response", None)
        told = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        if (status := _error(told)) is not None:
            return status
        if type(one).__module__.startswith("aiohttp.http"):  # numbers what is wrong with an answer like a request
            continue
        for name in ("status", "status_code", "code"):
            if (status := _error(getattr(one, name, None))) is not None:
                return status
    return None


def _error(status: Any) -> int | None:
    return status if isinstance(status, int) and 400 <= status < 600 else None


# --- reading


class Reader(io.RawIOBase):
    """Bytes of a file at a URL, as they come; for one thread.

    Stores are asked for one block after the other, the next ones while one is worked on; servers of ``https://``, which
    need not hand out parts, and all others are read as a stream, which begins anew after a step back. At most
    `AHEAD` + 1 blocks of `BLOCK` bytes are held.

    Raises
    ------
    OSError
        On opening and on reading.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        info = remote.info()
        if info.is_folder:
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        if info.size is None:
            raise OSError(errno.EIO, "the server does not say how large it is; download it first")
        self.size = info.size
        self._filesystem, self._path = remote._filesystem(), remote._path()
        streams = remote.protocol in _READ_ONLY or not (self._filesystem.async_impl or remote.protocol == "memory")
        self._stream = _Stream(self._filesystem, self._path) if streams else None
        self._crew = None if streams else ThreadPoolExecutor(AHEAD, "voxtract-fetch")
        self._coming: deque[tuple[int, int, Future[bytes]]] = deque()
        self._position = self._first = 0
        self._block = memoryview(b"")
        self._length = FIRST

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position; the next read goes there."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the block at hand reaches; 0 at the end of the file."""
        if self._position >= self.size:
            return 0
        if not self._first <= self._position < self._first + len(self._block):
            self._block = memoryview(self._next())
            self._first = self._position
        begin = self._position - self._first
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._block) - begin)
        target[:count] = self._block[begin : begin + count]
        self._position += count
        return count

    def close(self) -> None:
        """Let go of what is on its way."""
        if self._crew is not None:
            self._crew.shutdown(wait=False, cancel_futures=True)
        self._coming.clear()
        if self._stream is not None:
            self._stream.close()
        super().close()

    def _next(self) -> bytes:
        """The block that begins at the position."""
        begin = self._position
        goes_on = 0 < begin == self._first + len(self._block)
        if not goes_on:
            self._length = FIRST
        if self._coming and self._coming[0][0] == begin:
            content = self._coming.popleft()[2].result()
        else:
            while self._coming:
                self._coming.pop()[2].cancel()
            content = self._whole(begin, self._end(begin))
        if goes_on and self._crew is not None:
            begin = self._coming[-1][1] if self._coming else begin + len(content)
            while begin < self.size and len(self._coming) < AHEAD:
                end = self._end(begin)
                self._coming.append((begin, end, self._crew.submit(self._whole, begin, end)))
                begin = end
        return content

    def _end(self, begin: int) -> int:
        """End of the block that begins there; the next one will be larger."""
        end = min(self.size, begin + self._length)
        self._length = min(BLOCK, self._length * 4)
        return end

    def _whole(self, begin: int, end: int) -> bytes:
        try:
            content: bytes = tried(partial(self._range if self._stream is None else self._stream.read, begin, end))
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "it vanished while it was read; put it back") from None
        if len(content) != end - begin:
            raise OSError(
                errno.EIO,
                f"it changed while it was read: {begin + len(content):,} bytes came, not {self.size:,}; do it again",
            )
        return content

    def _range(self, begin: int, end: int) -> bytes:
        words = {"timeout": DEADLINE_S} if self._filesystem.async_impl else {}
        content: bytes = self._filesystem.cat_file(self._path, start=begin, end=end, **words)
        return content


class _Stream:
    """One open connection, or file of another library, read onwards; opened anew for any other position."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self._file: Any = None
        self._position = 0

    def read(self, begin: int, end: int) -> bytes:
        """Bytes ``begin <= i < end``; fewer at the end of the file."""
        until = time.monotonic() + DEADLINE_S
        try:
            if self._file is None or begin != self._position:
                self._open(begin, until)
            return b"".join(self._pieces(end - begin, until))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the connection or file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, begin: int, until: float) -> None:
        self.close()
        self._position = 0
        if "http" in self._filesystem.protocol:
            headers = {"Accept-Encoding": "identity", "Range": f"bytes={begin}-"}
            self._file = self._filesystem.open(self._path, block_size=0, size=1, headers=headers)
            if self._file.r.status == 206:  # it does hand out parts
                self._position = begin
        else:
            self._file = self._filesystem.open(self._path, "rb")
        while self._position < begin:
            if not any(map(len, self._pieces(min(BLOCK, begin - self._position), until))):
                return

    def _pieces(self, count: int, until: float) -> Iterator[bytes]:
        while count:
            piece: bytes = self._file.read(count)
            if not piece:
                return
            if time.monotonic() > until:
                raise TimeoutError(errno.ETIMEDOUT, "too slow")
            self._position += len(piece)
            count -= len(piece)
            yield piece
