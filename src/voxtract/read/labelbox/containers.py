"""JSON values out of any file that Labelbox writes, one at a time: arrays, NDJSON, objects one after the other.

A file is read piece by piece, so that memory is that of its largest value. A value that is no JSON is told and left
out; reading goes on behind it. The lenient mode also takes what documentation shows: comments, commas too many,
brackets that are missing or stray.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from voxtract.errors import InvalidInput

CHUNK = 1 << 20
LONGEST = 1 << 30  # of one value in bytes; a whole label with all its frames has a few MB
LENIENT_MOST = 1 << 28  # of a file that is repaired, which happens in memory

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_NESTING = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
_GARBAGE = re.compile(r"[^\s,{}\[\]]*")
_NEAR_THE_END = 64  # a number, a word or an escape that the buffer cuts in two fails no farther from its end
_TOKEN = re.compile(r'("(?:[^"\\\n]|\\.)*")|(//[^\n]*|/\*.*?\*/)|([{}\[\]])|(,)|(\s+)|([^\s"{}\[\],/]+|.)', re.DOTALL)
_CLOSER = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class Found:
    """A JSON value, the line it begins in (1-based) and its place in an array such as ``[3]``."""

    value: Any
    line: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in the file that is no JSON, or was repaired, and where."""

    message: str
    line: int
    path: str = ""


def read_values(file: BinaryIO, *, lenient: bool = False) -> Iterator[Found | Fault]:
    """Find the container and give its values in order.

    ======================  ===========================================================
    the file holds          values
    ======================  ===========================================================
    an array                its elements
    NDJSON                  each line; a bad one is a fault, the next ones are read
    one or more objects     each, pretty-printed or not, with or without space between
    ======================  ===========================================================

    Parameters
    ----------
    file : binary file that can seek
        UTF-8, with or without a byte order mark.
    lenient : bool
        Repair comments, superfluous commas and brackets that do not match; each repair but for comments is told as a
        fault, and the values are given nevertheless. The file is held in memory.

    Raises
    ------
    InvalidInput
        A file too large to be repaired in memory.
    """
    if lenient:
        yield from _lenient(file)
        return
    file.seek(0)
    first = _first_character(file)
    file.seek(0)
    if first == "":
        yield Fault("the file is empty; export it again", 1)
    elif first == "[":
        yield from _array(_Text(file))
    elif first == "{" and not _is_lines(file):
        file.seek(0)
        yield from _objects(_Text(file))
    else:
        file.seek(0)
        yield from _lines(file)


def _first_character(file: BinaryIO) -> str:
    while chunk := file.read(4096):
        text = chunk.decode("utf-8-sig", "replace").strip()
        if text:
            return text[0]
    return ""


def _is_lines(file: BinaryIO) -> bool:
    """Whether a file that begins with an object has one on each line; two lines tell."""
    first, second = (_line(file) for _ in range(2))
    if _is_json(first) or _is_json(second):
        return True
    text = first.decode("utf-8-sig", "replace").strip()
    return not (_begins_with_value(text) or (second and _opens(text)))


def _line(file: BinaryIO) -> bytes:
    """The next line that is not blank; empty at the end."""
    while line := file.readline(LONGEST):
        if line.strip():
            return line
    return b""


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return True


def _begins_with_value(text: str) -> bool:
    try:
        _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _opens(text: str) -> bool:
    depth = 0
    for token in _NESTING.finditer(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token.group(), 0)
    return depth > 0


# --- NDJSON


def _lines(file: BinaryIO) -> Iterator[Found | Fault]:
    number = 0
    while line := file.readline(LONGEST):
        number += 1
        if len(line) == LONGEST and not line.endswith(b"\n"):
            yield Fault(f"the line is longer than {LONGEST:,} bytes; split the file", number)
            while line and not line.endswith(b"\n"):
                line = file.readline(CHUNK)
            continue
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as why:
            yield Fault(f"the line is no JSON ({_reason(why)}); export it again", number)
            continue
        yield Found(value, number)


def _reason(why: Exception) -> str:
    """What a decoder says, without the text that it quotes."""
    if isinstance(why, json.JSONDecodeError):
        return f"{why.msg}, character {why.pos + 1}"
    return "not UTF-8" if isinstance(why, UnicodeDecodeError) else "nested too deeply or a number too long"


# --- arrays and objects one after the other


class _Text:
    """The text of a file behind a window that moves on."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.text = ""
        self.at = 0
        self.line = 1
        self.ended = False

    def more(self) -> bool:
        """Read on; what lies before `at` is forgotten. False at the end."""
        if self.ended:
            return False
        rest = self.text[self.at :]
        chunk = self._file.read(max(CHUNK, len(rest)))  # doubled, so that a long value is not decoded too often
        self.ended = not chunk
        self.text, self.at = rest + self._decoder.decode(chunk, not chunk), 0
        return True

    def move(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def next(self) -> str:
        """The next character that is no space, or nothing at the end."""
        while True:
            self.move(_SPACE.match(self.text, self.at).end())  # type: ignore[union-attr]
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def value(self, path: str) -> Found | Fault:
        """Take the value that begins here."""
        line = self.line
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as why:
                if self._may_be_cut(why) and self.more():
                    continue
                return self._skip(f"no JSON ({why.msg})", path)
            except (ValueError, RecursionError) as why:
                return self._skip(f"no JSON ({_reason(why)})", path)
            if end > len(self.text) - _NEAR_THE_END and not isinstance(value, dict | list) and self.more():
                continue  # the rest of a number may follow
            readable = _is_unicode(self.text, self.at, end)
            self.move(end)
            return Found(value, line, path) if readable else Fault("not UTF-8; export it again", line, path)

    def _may_be_cut(self, why: json.JSONDecodeError) -> bool:
        if len(self.text) - self.at > LONGEST:
            return False
        return why.msg.startswith("Unterminated string") or why.pos > len(self.text) - _NEAR_THE_END

    def _skip(self, message: str, path: str) -> Fault:
        """Go behind a value that cannot be decoded, as its brackets tell."""
        line, opener = self.line, self.text[self.at : self.at + 1]
        while True:
            end = _closing(self.text, self.at) if opener in "{[" else _GARBAGE.match(self.text, self.at).end()  # type: ignore[union-attr]
            if 0 <= end < len(self.text) or not self.more():
                break
        if end < 0:
            self.move(len(self.text))
            return Fault(f"{message}, and it has no end: the file is cut short; export it again", line, path)
        self.move(max(end, self.at + 1))
        return Fault(f"{message}; export it again, or pass lenient=True for a commented sample", line, path)


def _is_unicode(text: str, start: int, end: int) -> bool:
    part = text[start:end]
    if part.isascii():
        return True
    try:
        part.encode()
    except UnicodeEncodeError:  # bytes that were no UTF-8
        return False
    return True


def _closing(text: str, start: int) -> int:
    """Index behind the bracket that closes the one at `start`, or -1."""
    depth = 0
    for token in _NESTING.finditer(text, start):
        character = token.group()
        if character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
            if depth == 0:
                return token.end()
    return -1


def _array(text: _Text) -> Iterator[Found | Fault]:
    text.next()
    text.move(text.at + 1)
    number = 0
    if text.next() == "]":
        text.move(text.at + 1)
    else:
        while True:
            if text.next() == "":
                yield Fault("the array has no end: the file is cut short; export it again", text.line)
                return
            yield text.value(f"[{number}]")
            number += 1
            after = text.next()
            if after == "":
                continue
            if after not in ",]":
                yield Fault(f"{after!r} follows element {number - 1}, but a comma or ']' was expected", text.line)
                continue
            text.move(text.at + 1)
            if after == "]":
                break
    if text.next():
        yield Fault("something follows the array and is not read; remove it, or pass lenient=True", text.line)


def _objects(text: _Text) -> Iterator[Found | Fault]:
    while text.next():
        yield text.value("")


# --- lenient


def _lenient(file: BinaryIO) -> Iterator[Found | Fault]:
    file.seek(0)
    content = file.read(LENIENT_MOST + 1)
    if len(content) > LENIENT_MOST:
        raise InvalidInput(
            f"the file has more than {LENIENT_MOST:,} bytes, too many for lenient=True, which is for samples; "
            "open it without"
        )
    repaired, faults = _repaired(content.decode("utf-8-sig", "replace"))
    yield from faults
    for found in _objects(_Text(io.BytesIO(repaired.encode("utf-8", "replace")))):
        if isinstance(found, Found) and isinstance(found.value, list):
            for number, value in enumerate(found.value):
                yield Found(value, found.line, f"[{number}]")
        else:
            yield found


def _repaired(text: str) -> tuple[str, list[Fault]]:
    """Text without comments, with brackets that match; line breaks stay. What else was changed is told."""
    out: list[str] = []
    open_: list[str] = []
    faults: list[Fault] = []
    comma = -1  # where the last token was a comma
    line = 1
    for match in _TOKEN.finditer(text):
        string, comment, bracket, is_comma, space, _ = match.groups()
        token = match.group()
        if comment or space:
            out.append("\n" * token.count("\n") or " ")
            line += token.count("\n")
            continue
        if bracket in _CLOSER:
            open_.append(token)
        elif bracket:
            if comma >= 0:
                out[comma] = " "
            if token not in (_CLOSER[one] for one in open_):
                faults.append(Fault(f"a stray {token!r} was left out", line))
                continue
            while _CLOSER[open_[-1]] != token:
                missing = _CLOSER[open_.pop()]
                faults.append(Fault(f"a missing {missing!r} was put before {token!r}", line))
                out.append(missing)
            open_.pop()
        if is_comma:
            comma = len(out) if comma < 0 and open_ else comma
            out.append(token if comma == len(out) else " ")
            continue
        comma = -1
        out.append(token)
        line += token.count("\n") if string else 0
    if comma >= 0:
        out[comma] = " "
    for one in reversed(open_):
        faults.append(Fault(f"a missing {_CLOSER[one]!r} was added at the end", line))
        out.append(_CLOSER[one])
    return "".join(out), faults
