"""Addresses of WEBKNOSSOS: which annotation a link names, which server it is on, and who may see a token.

Nothing here talks to a server. What leaves as text (`shown`, `censored`) holds no token.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from voxtract.errors import InvalidInput

ANNOTATION_TYPES = ("Explorational", "Task", "CompoundTask", "CompoundProject", "CompoundTaskType")
EXAMPLE = "https://webknossos.org/annotations/5f7d3a8b0100008900e4c1aa"

_ID = re.compile(r"[0-9a-fA-F]{24}")
_ANNOTATION = re.compile(r"(?P<prefix>.*)/annotations/(?:(?P<type>[A-Za-z]+)/)?(?P<id>[^/]*)/?")
_SHORT = re.compile(r"(?P<prefix>.*)/links/(?P<key>[A-Za-z0-9_-]+)/?")
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+")  # two URL parsers may disagree about anything else
_TOKEN = re.compile(r"(token=)[^&\s\"'<>#]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AnnotationAddress:
    """What a link to an annotation says.

    Parameters
    ----------
    id : str
        24 hexadecimal digits.
    base : str, optional
        Server, ``https://host[:port][/prefix]`` without a trailing slash; None where only an id was given.
    annotation_type : str, optional
        One of `ANNOTATION_TYPES`, where the link has it.
    position : (x, y, z), optional
        Where the link points to, in voxels.

    Examples
    --------
    >>> parse_annotation("https://example.org/wk/annotations/Task/5f7d3a8b0100008900e4c1aa?a=1#10,20.5,30,0,1.3")
    ... # doctest: +NORMALIZE_WHITESPACE
    AnnotationAddress(id='5f7d3a8b0100008900e4c1aa', base='https://example.org/wk', annotation_type='Task',
                      position=(10.0, 20.5, 30.0))
    """

    id: str
    base: str | None = None
    annotation_type: str | None = None
    position: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class ShortLink:
    """A link ``<base>/links/<key>``, which only the server can turn into an address."""

    base: str
    key: str


def is_url(text: str) -> bool:
    """Whether `text` is meant as a link, not as an id."""
    return "/" in text or ":" in text


def parse_annotation(id_or_url: str) -> AnnotationAddress:
    """Read the id of an annotation, or a link to one.

    Raises
    ------
    InvalidInput
        Neither 24 hexadecimal digits nor ``http(s)://host[/prefix]/annotations/[type/]id``, with or without ``?...``
        and ``#x,y,z,...``. The query, where tokens stand, is not repeated.
    """
    text = id_or_url.strip()
    if not is_url(text):
        return AnnotationAddress(check_id(text))
    parts = _split(text)
    found = _ANNOTATION.fullmatch(parts.path)
    if found is None or not _ID.fullmatch(found["id"]):
        raise InvalidInput(
            f"{shown(text)}: is no link to an annotation, which ends in /annotations/ and an id of 24 hexadecimal "
            f"digits, as in {EXAMPLE}; copy it from the browser"
        )
    kind = found["type"]
    if kind is not None and kind not in ANNOTATION_TYPES:
        raise InvalidInput(
            f"{shown(text)}: {kind!r} is no type of annotation; allowed: {', '.join(ANNOTATION_TYPES)}, or none"
        )
    return AnnotationAddress(found["id"], _base(parts, found["prefix"]), kind, _position(parts.fragment))


def parse_short_link(text: str) -> ShortLink | None:
    """Read a link ``<base>/links/<key>``; None for everything else."""
    if not is_url(text):
        return None
    parts = _split(text.strip())
    found = _SHORT.fullmatch(parts.path)
    return None if found is None else ShortLink(_base(parts, found["prefix"]), found["key"])


def check_id(text: str, what: str = "annotation") -> str:
    """Return `text` if it is an id of 24 hexadecimal digits; InvalidInput otherwise."""
    if not _ID.fullmatch(text):
        link = f" nor a link such as {EXAMPLE}" if what == "annotation" else ""
        raise InvalidInput(
            f"{what} {text[:100]!r} is {'neither' if link else 'not'} an id of 24 hexadecimal digits{link}"
        )
    return text


def check_base(url: str) -> str:
    """Return the URL of a server without a trailing slash, query or fragment.

    Raises
    ------
    InvalidInput
        Not ``http(s)://host[:port][/prefix]``, or with a user and password in it, which would end up in messages.
    """
    parts = _split(url.strip())
    return _base(parts, parts.path)


def same_server(trusted: str, url: str) -> bool:
    """Whether what is meant for the server of `trusted` may be sent to `url`: same host and port, never less encrypted.

    >>> same_server("https://example.org", "https://EXAMPLE.org:443/api")
    True
    >>> same_server("http://example.org", "https://example.org"), same_server("https://example.org", "http://example.org")
    (True, False)
    >>> same_server("https://example.org", "https://example.org.evil.net")
    False
    """
    (scheme, host, port), (other, other_host, other_port) = _origin(trusted), _origin(url)
    upgraded = (scheme, port, other, other_port) == ("http", 80, "https", 443)
    return host == other_host and ((scheme, port) == (other, other_port) or upgraded)


def shown(url: str) -> str:
    """Return `url` as messages name it: without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))[:300]
    except ValueError:
        return repr(url.partition("?")[0].partition("#")[0].rpartition("@")[2][:300])


def censored(text: str, *secrets: str | None) -> str:
    """Return text of a server on one line, printable, with every token in it replaced."""
    for secret in filter(None, secrets):
        for form in {secret, quote(secret), quote(secret, safe="")}:
            text = text.replace(form, "***")
    text = _TOKEN.sub(r"\1***", text)
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        port = parts.port  # raises for 99999 and for words
    except ValueError as fault:
        raise InvalidInput(f"{shown(text)}: is no URL; give one such as https://webknossos.org") from fault
    if parts.scheme not in _PORTS or not _HOST.fullmatch(parts.hostname or "") or port == 0:
        raise InvalidInput(
            f"{shown(text)}: is no URL of a server, which starts with https:// and a host, as in https://webknossos.org"
        )
    if "@" in parts.netloc:
        raise InvalidInput(f"{shown(text)}: leave out user and password before the host, and give a token instead")
    return parts


def _base(parts: SplitResult, prefix: str) -> str:
    return urlunsplit((parts.scheme, parts.netloc.lower(), prefix.rstrip("/"), "", ""))


def _origin(url: str) -> tuple[str, str, int]:
    parts = _split(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]


def _position(fragment: str) -> tuple[float, float, float] | None:
    """Read ``x,y,z,...``; what else stands behind the # is the viewer's business."""
    try:
        x, y, z = map(float, fragment.split(",")[:3])
    except ValueError:
        return None
    return (x, y, z) if all(map(math.isfinite, (x, y, z))) else None
