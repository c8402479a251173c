"""Files that an export names by address: masks and v1 frames, over HTTP or beside the export, kept in a cache.

The key goes to hosts that the user allowed and nowhere else: a redirect to another host is followed without it. It is
in no message, no file and no ``repr``, and neither are the queries of addresses, which may hold tokens.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import logging
import os
import socket
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from voxtract.errors import InvalidInput, OutputError, UnreadableFile, VoxtractError

log = logging.getLogger("voxtract")

ALLOWED_HOSTS = ("api.labelbox.com",)
PNG = b"\x89PNG\r\n\x1a\n"
MANIFEST = "manifest.jsonl"

Kind = Literal["png", "json"]

_PIECE = 1 << 16
_AGAIN = (429, 500, 502, 503, 504)


class FetchFailed(UnreadableFile):
    """A file that an export names and that cannot be had; `code` is one word for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Limits:
    """What fetching may take.

    Parameters
    ----------
    bytes_most : int
        Of one file.
    pixels_most : int
        Of one mask, as its header declares them.
    timeout_s, total_s : float
        Of silence, and of one file with all its attempts.
    retries : int
        After a time-out, a broken connection, 429 or 5xx.
    backoff_s : float
        Before the first of them, doubled for each further one; ``Retry-After`` of the server is waited for, if it is
        longer and within `total_s`.
    redirects, parallel : int
    """

    bytes_most: int = 1 << 26
    pixels_most: int = 1 << 26
    timeout_s: float = 30.0
    total_s: float = 300.0
    retries: int = 4
    backoff_s: float = 0.5
    redirects: int = 5
    parallel: int = 8


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Gets files by address.

    Parameters
    ----------
    base : Path
        Folder of the export: relative addresses and ``file://`` may not leave it, unless `outside` is set.
    api_key : str, optional
        Sent as ``Authorization: Bearer`` to `allowed_hosts`, over https only (or to this very machine).
    allowed_hosts : names, with port or without
        No request begins at any other.
    cache : Path, optional
        Folder that keeps what came over HTTP, with a manifest of one JSON line each: address without its query,
        sha256 and size. A file is not asked for again as long as it is there.
    outside : bool
    limits : Limits

    Raises
    ------
    InvalidInput
        A key that holds spaces or control characters.
    """

    base: Path
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ALLOWED_HOSTS
    cache: Path | None = None
    outside: bool = False
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.api_key is not None and not (
            self.api_key.isascii() and self.api_key.isprintable() and " " not in self.api_key and self.api_key
        ):
            raise InvalidInput("api_key is empty or holds spaces, line breaks or other than ASCII; copy it again")

    def get(self, url: str, kind: Kind) -> bytes:
        """Get one file.

        Parameters
        ----------
        url : str
            ``https://``, ``http://``, ``file://``, or a path relative to `base`.
        kind : {"png", "json"}
            What it must look like; a login page in its place is told.

        Raises
        ------
        FetchFailed
            With one of the codes "host-not-allowed", "bad-address", "leaves-folder", "not-there", "http-status",
            "too-large", "unreachable", "not-png", "not-json".
        """
        parts = _split(url)
        if parts.scheme in ("", "file"):
            content = self._local(parts)
        elif parts.scheme in ("http", "https"):
            return self._cached(parts, kind)
        else:
            raise FetchFailed(
                "bad-address",
                f"{shown(parts)}: the scheme {parts.scheme!r} is not fetched; allowed: https, http, file, or a "
                "relative path",
            )
        _check_kind(content, kind, shown(parts), "")
        return content

    def many(self, urls: Iterable[str], kind: Kind) -> dict[str, bytes | FetchFailed]:
        """Get several files, some at a time; one that fails is there as its error."""
        wanted = list(dict.fromkeys(urls))
        with ThreadPoolExecutor(max(1, min(self.limits.parallel, len(wanted)))) as pool:
            return dict(zip(wanted, pool.map(lambda url: self._get_or_error(url, kind), wanted), strict=True))

    def _get_or_error(self, url: str, kind: Kind) -> bytes | FetchFailed:
        try:
            return self.get(url, kind)
        except FetchFailed as why:
            return why

    # --- files beside the export

    def _local(self, parts: SplitResult) -> bytes:
        if parts.netloc not in ("", "localhost"):
            raise FetchFailed("bad-address", f"{shown(parts)}: names another machine; expected file:///path")
        name = unquote(parts.path)
        if "\0" in name or not name:
            raise FetchFailed("bad-address", f"{shown(parts)}: is no path")
        base = self.base.resolve()
        try:
            path = (base / name).resolve()
        except (OSError, RuntimeError) as why:
            raise FetchFailed("bad-address", f"{shown(parts)}: is no path ({why})") from why
        if not self.outside and not path.is_relative_to(base):
            raise FetchFailed(
                "leaves-folder",
                f"{shown(parts)}: lies outside of {base}, the folder of the export; copy it there, or pass "
                "outside=True",
            )
        try:
            mode = path.stat()
            if not stat.S_ISREG(mode.st_mode):
                raise FetchFailed("bad-address", f"{path}: is no file")
            if mode.st_size > self.limits.bytes_most:
                raise _too_large(str(path), mode.st_size, self.limits.bytes_most)
            return path.read_bytes()
        except FileNotFoundError as why:
            raise FetchFailed("not-there", f"{path}: no such file; the export names it") from why
        except VoxtractError:
            raise
        except OSError as why:
            raise FetchFailed("not-there", f"{path}: cannot be read: {why.strerror or why}") from why

    # --- over HTTP

    def _cached(self, parts: SplitResult, kind: Kind) -> bytes:
        self._check_host(parts)
        if self.cache is None:
            return self._fetched(parts, kind)
        store = _store(self.cache)
        found = store.get(parts)
        if found is None:
            found = self._fetched(parts, kind)
            store.put(parts, found)
        return found

    def _check_host(self, parts: SplitResult) -> None:
        if not self._is_allowed(parts):
            raise FetchFailed(
                "host-not-allowed",
                f"{shown(parts)}: the host {_host(parts)!r} is not among the allowed ones "
                f"({', '.join(self.allowed_hosts) or 'none'}); "
                "if you trust it with your key, name it in allowed_hosts",
            )

    def _is_allowed(self, parts: SplitResult) -> bool:
        allowed = {host.lower() for host in self.allowed_hosts}
        return bool({_host(parts), parts.hostname or ""} & allowed - {""})

    def _fetched(self, parts: SplitResult, kind: Kind) -> bytes:
        deadline = time.monotonic() + self.limits.total_s
        attempt = 0
        while True:
            try:
                content, content_type = self._followed(parts, deadline)
            except _Retry as why:
                wait = max(self.limits.backoff_s * 2**attempt, why.wait_s)
                if attempt == self.limits.retries or time.monotonic() + wait > deadline:
                    tried = f"tried {attempt + 1} time{'s' * (attempt > 0)}"
                    raise FetchFailed(why.code, f"{shown(parts)}: {why}; {tried}; try again later") from None
                log.info("%s: %s; trying again in %.1f s", shown(parts), why, wait)
                time.sleep(wait)
                attempt += 1
                continue
            _check_kind(content, kind, shown(parts), content_type)
            return content

    def _followed(self, start: SplitResult, deadline: float) -> tuple[bytes, str]:
        parts = start
        for _ in range(self.limits.redirects + 1):
            same_origin = _origin(parts) == _origin(start)
            answer = self._asked(parts, with_key=same_origin)
            with answer:
                location = answer.headers.get("Location")
                if answer.status in (301, 302, 303, 307, 308) and location:
                    parts = _redirected(parts, location, start)
                    continue
                self._check_status(answer, parts)
                content = self._body(answer, parts, deadline)
                return content, answer.headers.get("Content-Type", "")
        raise FetchFailed("unreachable", f"{shown(start)}: more than {self.limits.redirects} redirects")

    def _asked(self, parts: SplitResult, with_key: bool) -> Any:
        headers = {"User-Agent": "voxtract", "Accept": "image/png, application/x-ndjson, application/json"}
        if with_key and self.api_key is not None:
            if parts.scheme != "https" and not _is_this_machine(parts.hostname or ""):
                raise FetchFailed(
                    "bad-address",
                    f"{shown(parts)}: the key is not sent over http, which anybody on the way can read; expected https",
                )
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(urlunsplit(parts), headers=headers)  # noqa: S310 - http and https only
        try:
            return _opener().open(request, timeout=self.limits.timeout_s)
        except urllib.error.URLError as why:
            raise _Retry("unreachable", f"cannot be reached ({_told(why.reason)})") from None
        except (TimeoutError, http.client.HTTPException, ConnectionError) as why:
            if isinstance(why, http.client.InvalidURL):
                raise FetchFailed("bad-address", f"{shown(parts)}: is no address") from None
            raise _Retry("unreachable", f"the connection broke ({_told(why)})") from None

    def _check_status(self, answer: Any, parts: SplitResult) -> None:
        if answer.status == 200:
            return
        if answer.status in _AGAIN or answer.status > 504:
            raise _Retry(
                "http-status", f"the server answers {answer.status}", _retry_after(answer.headers.get("Retry-After"))
            )
        advice = {
            401: "the key is missing, wrong or expired; give api_key",
            403: "the key may not see this; ask for access to the project",
            404: "it is not there; composite masks vanish 30 days after the export, so export again",
        }.get(answer.status, "export again")
        raise FetchFailed("http-status", f"{shown(parts)}: the server answers {answer.status}: {advice}")

    def _body(self, answer: Any, parts: SplitResult, deadline: float) -> bytes:
        promised = answer.headers.get("Content-Length", "")
        most = self.limits.bytes_most
        if promised.isdigit() and int(promised) > most:
            raise _too_large(shown(parts), int(promised), most)
        pieces, size = [], 0
        try:
            while piece := answer.read1(_PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > most:
                    raise _too_large(shown(parts), size, most)
                if time.monotonic() > deadline:
                    raise FetchFailed("unreachable", f"{shown(parts)}: not complete after {self.limits.total_s:g} s")
        except (TimeoutError, http.client.HTTPException, ConnectionError) as why:
            raise _Retry("unreachable", f"the connection broke ({_told(why)})") from None
        if promised.isdigit() and size < int(promised):
            raise _Retry("unreachable", f"{size} of {promised} bytes came")
        return b"".join(pieces)


def shown(parts: SplitResult | str) -> str:
    """An address for messages: without query, fragment, user and password."""
    if isinstance(parts, str):
        try:
            parts = urlsplit(parts)
        except ValueError:
            return "(no address)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class _Retry(Exception):
    """An attempt that failed, and may succeed later."""

    def __init__(self, code: str, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.wait_s = wait_s


class _AllAnswers(urllib.request.HTTPErrorProcessor):
    def http_response(self, request: Any, response: Any) -> Any:  # noqa: ARG002
        """Hand out every answer, redirects too: urllib would follow them, and send the key along."""
        return response

    https_response = http_response


@lru_cache(maxsize=1)
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_AllAnswers)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port, parts.hostname
    except ValueError as why:
        raise FetchFailed("bad-address", "the address cannot be understood; expected https://host/path") from why
    if parts.scheme in ("http", "https") and (
        not parts.hostname or parts.username or not url.isascii() or not url.isprintable() or " " in url
    ):
        raise FetchFailed("bad-address", f"{shown(parts)}: is no plain address; expected https://host/path")
    return parts


def _host(parts: SplitResult) -> str:
    """Host, with its port where one is given, in lower case."""
    return parts.netloc.rpartition("@")[2].lower()


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]


def _redirected(parts: SplitResult, location: str, start: SplitResult) -> SplitResult:
    try:
        target = _split(urljoin(urlunsplit(parts), location))
    except ValueError as why:
        raise FetchFailed("bad-address", f"{shown(start)}: redirects to what is no address") from why
    if target.scheme not in ("http", "https") or (start.scheme, target.scheme) == ("https", "http"):
        raise FetchFailed("bad-address", f"{shown(start)}: redirects to {shown(target)}; expected https")
    return target


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _told(why: object) -> str:
    """The reason of a network error, never its address."""
    if isinstance(why, TimeoutError | socket.timeout):
        return "timed out"
    return (why.strerror or type(why).__name__) if isinstance(why, OSError) else type(why).__name__


def _retry_after(value: str | None) -> float:
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _too_large(where: str, size: int, most: int) -> FetchFailed:
    return FetchFailed(
        "too-large",
        f"{where}: has {size:,} bytes or more, at most {most:,} are taken; raise Limits(bytes_most=...) if that is "
        "right",
    )


def _check_kind(content: bytes, kind: Kind, where: str, content_type: str) -> None:
    start = content.lstrip()[:40]
    if kind == "png" and not content.startswith(PNG):
        raise FetchFailed(
            "not-png",
            f"{where}: is no PNG, it begins with {_beginning(start, content_type)}; a page to log in, or another file",
        )
    if kind == "json" and start and not start.removeprefix(b"\xef\xbb\xbf").startswith((b"{", b"[")):
        raise FetchFailed("not-json", f"{where}: is no JSON, it begins with {_beginning(start, content_type)}")


def _beginning(start: bytes, content_type: str) -> str:
    kind = f" ({content_type.split(';')[0]})" if content_type else ""
    return f"{start[:12]!r}{kind}" if start else "nothing: it is empty"


# --- cache


class _Store:
    """A folder with the bodies, and a manifest that says what each is; for any number of threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._known = self._read()

    def _read(self) -> dict[str, tuple[str, int]]:
        known = {}
        try:
            lines = (self._folder / MANIFEST).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as why:
            raise UnreadableFile(
                f"{self._folder / MANIFEST}: cannot be read ({why}); choose another cache folder"
            ) from why
        for line in lines:
            try:
                entry = json.loads(line)
                known[str(entry["file"])] = (str(entry["sha256"]), int(entry["size"]))
            except (ValueError, KeyError, TypeError):  # cut short when a process was killed: that file is fetched again
                continue
        return known

    def get(self, parts: SplitResult) -> bytes | None:
        name = _key(parts)
        known = self._known.get(name)
        if known is None:
            return None
        try:
            content = (self._folder / name).read_bytes()
        except OSError:
            return None
        return content if (hashlib.sha256(content).hexdigest(), len(content)) == known else None

    def put(self, parts: SplitResult, content: bytes) -> None:
        name = _key(parts)
        entry = {"file": name, "url": shown(parts), "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        staged = self._folder / f".{name}-{os.getpid()}-{threading.get_ident()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(content)
            staged.replace(self._folder / name)
            with self._lock, (self._folder / MANIFEST).open("ab", buffering=0) as manifest:
                manifest.write(json.dumps(entry).encode() + b"\n")
                self._known[name] = (entry["sha256"], len(content))  # type: ignore[assignment]
        except OSError as why:
            raise OutputError(
                f"{self._folder}: cannot keep what was fetched: {why.strerror or why}; choose another cache folder"
            ) from why


def _key(parts: SplitResult) -> str:
    """File name of an address in the cache: a digest, for the query, which belongs to it, may hold a token."""
    return hashlib.sha256(urlunsplit(parts._replace(fragment="")).encode()).hexdigest()[:40]


_STORES: dict[Path, _Store] = {}
_MAKING = threading.Lock()


def _store(folder: Path) -> _Store:
    """The one store of a folder: a second one would not know what the first has put there meanwhile."""
    with _MAKING:
        if folder not in _STORES:
            _STORES[folder] = _Store(folder)
        return _STORES[folder]
