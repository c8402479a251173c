"""Requests to one WEBKNOSSOS server: patient with a bad line, careful with the token, whole files or none.

::

    VoxtractError
    └── ServerError (RuntimeError)          the server, or the way to it, does not give what was asked for
        └── UnexpectedAnswer (AssertionError)   it answers, but with something else: a web page, other JSON, a cut file

A token travels in the header ``X-Auth-Token`` and nowhere else; a sharing token also as ``sharingToken``. Neither is
ever sent to a host that a redirect leads to, and neither is in a message, a log line or a repr.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import ssl
import struct
import time
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin

from voxtract.errors import InvalidInput, NotFound, OutputError, UnreadableFile, VoxtractError
from voxtract.webknossos.urls import censored, same_server, shown

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("voxtract")

T = TypeVar("T")

ATTEMPTS = 5
FIRST_WAIT_S = 0.5  # doubles with each attempt: 0.5 + 1 + 2 + 4 = 7.5 seconds in all
LONGEST_WAIT_S = 60.0  # where the server names a time itself
LONGEST_CONNECT_S = 30.0
MAX_REDIRECTS = 5
MAX_JSON_BYTES = 1 << 28
_ERROR_BYTES = 1 << 16
_ERROR_CHARACTERS = 2000
_PASSING = {429, *range(500, 600)}
_PASSING_UPLOAD = _PASSING - {504}  # where a gateway loses patience, the server may go on and keep the file
_REDIRECTS = {301, 302, 303, 307, 308}
_HINTS = {
    400: "the server does not understand the request",
    401: "give a token: webknossos_context(token=...) or WK_TOKEN",
    403: "this token may not see it; take one of a user who does, from the server's page on tokens",
    404: "check the id, the server's address and, for what is not public, the token",
}


class ServerError(VoxtractError, RuntimeError):
    """A server that does not give what was asked for.

    Parameters
    ----------
    message : str
    status : int, optional
        HTTP status, where there was an answer.
    passing : bool
        Whether the same request may succeed later.
    wait_s : float, optional
        Seconds after which the server wants to be asked again.
    """

    def __init__(
        self, message: str, status: int | None = None, *, passing: bool = False, wait_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.passing = passing
        self.wait_s = wait_s


class UnexpectedAnswer(ServerError, AssertionError):
    """An answer that is not what the protocol has there: a web page, other JSON, a file cut short."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to send as a form: one text field, one file part whose field and file name are `name`."""

    path: Path
    name: str
    fields: Mapping[str, str]


class Connection:
    """Sends requests; for any number of threads.

    Parameters
    ----------
    timeout_s : float
        Seconds without a byte after which a connection counts as dropped.
    sleep : callable
        Waits between attempts, in seconds.

    Raises
    ------
    InvalidInput
        The package httpx is not installed; the message has the install line.

    Notes
    -----
    Errors of the connection, and the answers 429 and 5xx, are tried again, up to `ATTEMPTS` times in all; everything
    else fails at once. All methods raise `ServerError` with method, URL and status.
    """

    def __init__(self, timeout_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        if find_spec("httpx") is None:
            raise InvalidInput(
                "WEBKNOSSOS servers need the package httpx, which is not installed; pip install 'voxtract[webknossos]'"
            )
        import httpx

        self._timeout_s = timeout_s
        self._sleep = sleep
        self._http = httpx.Client(
            verify=_trusted(),
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, LONGEST_CONNECT_S)),
            headers={"User-Agent": "voxtract"},
        )
        _hush(logging.getLogger("httpx"))
        self.close = weakref.finalize(self, self._http.close)

    def get_json(self, url: str, params: Mapping[str, str] | None = None, token: str | None = None) -> Any:
        """GET and decode JSON."""
        return self._patiently(lambda: self._send(url, params, token, None, _decoded))

    def post_file(self, url: str, upload: Upload, token: str | None) -> Any:
        """POST a form with a file, and decode the JSON that comes back.

        Raises
        ------
        ServerError
            Also, at once, where the connection was lost after all was sent, and where the server redirects.
        NotFound, UnreadableFile
            The file is not there, or cannot be read.
        """
        return self._patiently(lambda: self._send(url, None, token, upload, _decoded))

    def get_bytes(self, url: str, token: str | None, size: int) -> bytes | None:
        """GET exactly `size` bytes; None where the server has nothing there (404)."""

        def take(response: httpx.Response) -> bytes:
            body = _body(response, size + 1)
            if len(body) != size:
                found = f"{len(body)}" if len(body) < size else f"more than {size}"
                raise UnexpectedAnswer(
                    f"GET {shown(url)}: {found} bytes came, but {size} were expected", 200, passing=len(body) < size
                )
            return body

        try:
            return self._patiently(lambda: self._send(url, None, token, None, take))
        except ServerError as fault:
            if fault.status == 404:
                return None
            raise

    def get_file(
        self,
        url: str,
        params: Mapping[str, str] | None,
        token: str | None,
        folder: Path,
        check: Callable[[str, Path], str | None],
    ) -> Path:
        """GET a file into `folder`, which is made where missing, under the name that the server gives.

        Parameters
        ----------
        check : callable
            Takes the name and the file, still under another name; returns what is wrong with it, if it was cut short.

        Returns
        -------
        Path
            Replaces a file of that name once it is complete; nothing is left behind otherwise.

        Raises
        ------
        OutputError
            It cannot be written: disk full, no permission.
        UnexpectedAnswer
            The server gives no name, or `check` finds fault with the file each time.
        """

        def take(response: httpx.Response) -> Path:
            name = _file_name(response)
            with _whole_file(folder, name) as (part, final):
                with _writing(part), part.open("xb") as file:
                    for block in response.iter_bytes(1 << 20):
                        file.write(block)
                fault = check(name, part)
                if fault:
                    raise UnexpectedAnswer(f"GET {shown(url)}: {name} {fault}", 200, passing=True)
            return final

        return self._patiently(lambda: self._send(url, params, token, None, take, encoding="identity"))

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask until there is an answer, with growing waits."""
        attempt = 1
        while True:
            try:
                return ask()
            except ServerError as fault:
                if not fault.passing:
                    raise
                if attempt == ATTEMPTS:
                    again = f"{fault}; tried {ATTEMPTS} times; check the connection, or try again later"
                    raise type(fault)(again, fault.status) from fault.__cause__
                wait_s = min(max(FIRST_WAIT_S * 2 ** (attempt - 1), fault.wait_s or 0), LONGEST_WAIT_S)
                log.warning("%s; trying again in %g s", fault, wait_s)
            self._sleep(wait_s)
            attempt += 1

    def _send(
        self,
        url: str,
        params: Mapping[str, str] | None,
        token: str | None,
        upload: Upload | None,
        take: Callable[[httpx.Response], T],
        *,
        encoding: str = "gzip, deflate",
    ) -> T:
        """Send one request, follow redirects of a GET, and give the good answer to `take`."""
        method = "GET" if upload is None else "POST"
        known = (token, (params or {}).get("sharingToken"))
        headers = {"Accept-Encoding": encoding} | ({"X-Auth-Token": token} if token else {})
        for _ in range(MAX_REDIRECTS + 1):
            with (
                _upload_parts(upload) as parts,
                self._explained(f"{method} {shown(url)}", parts, known),
                self._http.stream(method, url, params=params, headers=headers, **parts) as response,
            ):
                if response.status_code not in _REDIRECTS:
                    _check_status(response, f"{method} {shown(url)}", upload is not None)
                    return take(response)
                target = _redirect(response, url, method)
            if not same_server(url, target):
                headers.pop("X-Auth-Token", None)  # and never comes back, also where a further redirect returns here
            url, params = target, None
        raise ServerError(f"{method} {shown(url)}: redirected more than {MAX_REDIRECTS} times; check the address")

    @contextmanager
    def _explained(self, request: str, parts: dict[str, Any], known: tuple[str | None, ...]) -> Iterator[None]:
        """Let what httpx raises leave as `ServerError`, and no error with a token in it."""
        import httpx

        try:
            yield
        except ServerError as fault:  # whatever part of an answer it quotes
            fault.args = (censored(str(fault), *known),)
            raise
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError) as fault:  # may quote a header
            why = censored(str(fault), *known)
            raise ServerError(f"{request}: cannot be sent ({why}); check the server's address") from None
        except httpx.DecodingError as fault:
            raise UnexpectedAnswer(f"{request}: the compressed answer is damaged", passing=not parts) from fault
        except httpx.TransportError as fault:
            why = censored(str(fault), *known) or type(fault).__name__
            if _is_certificate(fault):
                raise ServerError(
                    f"{request}: the server's certificate is not trusted ({why}); check the address, or point "
                    "SSL_CERT_FILE to the certificates of your organisation"
                ) from fault
            if isinstance(fault, httpx.TimeoutException):
                why = f"nothing came for {self._timeout_s:g} s; timeout= or WK_TIMEOUT allows more"
            if _may_have_arrived(parts, fault):
                raise ServerError(
                    f"{request}: the connection was lost after the whole file was sent ({why}); look whether the "
                    "annotation is on the server before sending it again"
                ) from fault
            what = "no connection" if isinstance(fault, _not_connected()) else "the connection was lost"
            raise ServerError(f"{request}: {what} ({why})", passing=True) from fault


def value_of(answer: Any, keys: str, kind: type[T], where: str) -> T:
    """Return a value of decoded JSON.

    Parameters
    ----------
    keys : str
        Names joined with dots, e.g. ``"dataStore.url"``; nothing for the whole.
    kind : type
        What the value must be.

    Raises
    ------
    UnexpectedAnswer
        There is none, or it is something else.
    """
    value = answer
    for key in filter(None, keys.split(".")):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        what = f"{keys!r} in the answer" if keys else "the answer"
        raise UnexpectedAnswer(
            f"{where}: expected {what} to be a {kind.__name__}, but found {type(value).__name__}; is this a WEBKNOSSOS "
            "server, of a version that this program knows?"
        )
    return value


def _decoded(response: httpx.Response) -> Any:
    request = f"{response.request.method} {shown(str(response.request.url))}"
    body = _body(response, MAX_JSON_BYTES + 1)
    if len(body) > MAX_JSON_BYTES:
        raise UnexpectedAnswer(f"{request}: the answer has more than {MAX_JSON_BYTES} bytes", 200)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as fault:
        raise _page(response, body) or UnexpectedAnswer(f"{request}: the answer is no JSON ({fault})", 200) from fault


def _body(response: httpx.Response, most: int) -> bytes:
    """Read at most `most` bytes, or a little more."""
    body = bytearray()
    for block in response.iter_bytes(1 << 16):
        body += block
        if len(body) >= most:
            break
    return bytes(body)


def _page(response: httpx.Response, body: bytes) -> UnexpectedAnswer | None:
    """Make an error of a web page, which a login or a proxy puts before the server; None of anything else."""
    if "html" not in response.headers.get("content-type", "") and not body.lstrip()[:20].lower().startswith(
        (b"<!doctype html", b"<html")
    ):
        return None
    return UnexpectedAnswer(
        f"{response.request.method} {shown(str(response.request.url))}: answered with a web page{_title(body)} instead "
        "of data; check the server's address, and whether a login or a proxy stands before it",
        response.status_code,
    )


def _title(body: bytes) -> str:
    found = re.search(r"<title[^>]*>(.*?)</title>", body.decode(errors="replace"), re.DOTALL | re.IGNORECASE)
    return f" ({' '.join(found[1].split())[:200]!r})" if found else ""


def _check_status(response: httpx.Response, request: str, sends: bool) -> None:
    """Raise what the server says unless the answer is good."""
    status = response.status_code
    if status == 200:
        return
    body = _body(response, _ERROR_BYTES)
    said = _said(response, body)[:_ERROR_CHARACTERS]
    hint = _HINTS.get(status, "")
    raise ServerError(
        f"{request}: status {status}" + (f": {said}" if said else "") + (f"; {hint}" if hint else ""),
        status,
        passing=status in (_PASSING_UPLOAD if sends else _PASSING),
        wait_s=_retry_after_s(response),
    )


def _said(response: httpx.Response, body: bytes) -> str:
    """The reason in an answer: the server's messages, the title of a web page, or the text."""
    text = body.decode(errors="replace")
    if _page(response, body):
        return f"a web page{_title(body)}"
    try:
        messages = json.loads(text)["messages"]
        return "; ".join(str(value) for message in messages for value in message.values()) or text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return text


def _retry_after_s(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"[0-9]{1,6}", value) else None


def _redirect(response: httpx.Response, url: str, method: str) -> str:
    """Where a redirect leads to; only a GET is sent there."""
    location = response.headers.get("location", "")
    try:
        target: str = urljoin(url, location)
        same_server(url, target)  # raises for what is no web address
    except (ValueError, InvalidInput):  # quotes the address
        raise UnexpectedAnswer(f"{method} {shown(url)}: redirected to {shown(location)!r}, no web address") from None
    if method != "GET":
        raise ServerError(
            f"{method} {shown(url)}: the server sends uploads on to {shown(target)}; if you trust "
            "it, give that server's address instead",
            response.status_code,
        )
    return target


@contextmanager
def _upload_parts(upload: Upload | None) -> Iterator[dict[str, Any]]:
    """Arguments of a request that sends the file, opened anew for each attempt."""
    if upload is None:
        yield {}
        return
    try:
        file = upload.path.open("rb")
    except FileNotFoundError as fault:
        raise NotFound(f"{upload.path}: no such file; check the spelling") from fault
    except OSError as fault:
        raise UnreadableFile(f"{upload.path}: cannot be read: {fault.strerror or fault}") from fault
    with file:
        yield {"data": dict(upload.fields), "files": {upload.name: (upload.name, file, "application/zip")}}


def _may_have_arrived(parts: dict[str, Any], fault: Exception) -> bool:
    """Whether a file was sent to its end, so that sending it again might make two annotations of it."""
    if not parts or isinstance(fault, _not_connected()):
        return False
    ((_, file, _),) = parts["files"].values()
    return not file.read(1)


def _not_connected() -> tuple[type[Exception], ...]:
    """Errors of a connection that was never there."""
    import httpx

    return httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout


def _is_certificate(fault: BaseException | None) -> bool:
    while fault is not None:
        if isinstance(fault, ssl.SSLCertVerificationError):
            return True
        fault = fault.__cause__ or fault.__context__
    return False


def _file_name(response: httpx.Response) -> str:
    """The name in ``Content-Disposition``, without any folder."""
    header = Message()
    header["Content-Disposition"] = response.headers.get("content-disposition", "")
    name: str = re.split(r"[/\\]", str(header.get_filename("")))[-1]
    name = "".join(c if c.isprintable() else "_" for c in name)
    path = Path(name)
    request = f"{response.request.method} {shown(str(response.request.url))}"
    if path.suffix not in (".nml", ".zip") or len(name.encode()) > 255:
        page = None if name else _page(response, _body(response, _ERROR_BYTES))
        raise page or UnexpectedAnswer(
            f"{request}: the file is called {name[:300]!r}, but a name that ends in .nml or .zip was expected", 200
        )
    return name


def cut_short(name: str, path: Path) -> str | None:
    """Say how a downloaded .nml or .zip was cut short, if it was."""
    if name.endswith(".zip"):
        try:
            with zipfile.ZipFile(path) as archive:  # cut behind an inner zip, it looks like that one
                whole = any(entry.endswith(".nml") for entry in archive.namelist())
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error):
            whole = False
        return None if whole else "is no complete zip file with an .nml file in it"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return None if b"</things>" in file.read() else "is no complete NML file, which ends in </things>"


@contextmanager
def _whole_file(folder: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """A name to write under and the final name, which the file gets once the block ends well."""
    part, final = folder / f".voxtract-{secrets.token_hex(8)}.part", folder / name
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield part, final
        with _writing(final):
            part.replace(final)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise OutputError(
            f"{path}: cannot be written: {fault.strerror or fault}; check permissions and disk"
        ) from fault


@cache
def _trusted() -> ssl.SSLContext:
    """Certificates to trust, as httpx finds them; read once, as that takes as long as a request."""
    import httpx

    return httpx.create_ssl_context()


class _Hush(logging.Filter):
    """httpx logs the URL of each request; what stands in it after ``token=`` is nobody's business."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = censored(record.getMessage()), ()
        return True


def _hush(logger: logging.Logger) -> None:
    if not any(isinstance(known, _Hush) for known in logger.filters):
        logger.addFilter(_Hush())
