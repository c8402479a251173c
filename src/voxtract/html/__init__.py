"""Pages that need nothing but themselves: one HTML file each, no network, no library.

`report` shows an extraction, `checked` what `voxtract.check` found. This module puts a page together and is the one
place where text becomes HTML: every name goes through `esc`, all data through `json_script`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from importlib.resources import files
from typing import Any

_MOST_ITEMS = 40  # of a remark; the rest is counted


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to look at.

    Parameters
    ----------
    title : str
    why : str
        What it means, in a sentence.
    items : (text, link) pairs
        One each; the link is the id of an element of the page, or empty.
    is_fault : bool
        Something is broken, not just unusual.
    """

    title: str
    why: str
    items: Sequence[tuple[str, str]]
    is_fault: bool = False


def esc(value: object) -> str:
    """Text of `value` for use in HTML, also within quotes."""
    return escape(str(value))


def json_script(element_id: str, data: object) -> str:
    r"""Data for the page's script. No text in it can end the script element or open a comment.

    >>> json_script("x", ["</script><!--"])
    '<script type="application/json" id="x">["\\u003c/script\\u003e\\u003c!--"]</script>'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="{esc(element_id)}">{text}</script>'


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page, with its heading on the left, or above where it is wide; `lead` and `content` are HTML."""

    id: str
    title: str
    lead: str
    content: str
    is_wide: bool = False

    def html(self) -> str:
        """The element."""
        name = esc(self.id)
        return (
            f'<section id="{name}" class="part{" wide" if self.is_wide else ""}" aria-labelledby="{name}-title">'
            f'<div class="head"><h2 id="{name}-title">{esc(self.title)}</h2><p>{self.lead}</p></div>'
            f'<div class="body">{self.content}</div></section>'
        )


def page(
    title: str,
    kind: str,
    about: str,
    figures: Iterable[tuple[str, str]],
    sections: Sequence[Section],
    data: object = None,
) -> str:
    """Put a page together.

    Parameters
    ----------
    title : str
        What the page is about, as text.
    kind : str
        What it is, in a word or two.
    about : str
        A line under the title, as text.
    figures : iterable of (what, how many)
        Key numbers, as text.
    sections : sequence of Section
    data : JSON values, optional
        For the script.

    Returns
    -------
    str: HTML that loads nothing; its content security policy lets it load nothing
    """
    style, script = (files(__name__).joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    links = "".join(f'<li><a href="#{esc(one.id)}">{esc(one.title)}</a></li>' for one in sections)
    cells = "".join(f"<div><dt>{esc(what)}</dt><dd>{esc(value)}</dd></div>" for what, value in figures)
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    text = "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f'<meta http-equiv="Content-Security-Policy" content="{esc(policy)}">',
            '<link rel="icon" href="data:,">',
            f"<title>{esc(title)} · voxtract {esc(kind)}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#main">Skip to the content</a>',
            '<header class="top">',
            f'<p class="kind">voxtract {esc(kind)}</p>',
            '<button id="theme" type="button" aria-pressed="false">Dark</button>',
            f"<h1>{esc(title)}</h1>",
            f'<p class="about">{esc(about)}</p>',
            f'<nav aria-label="Parts of the page"><ul>{links}</ul></nav>',
            "</header>",
            '<main id="main">',
            f'<dl class="numbers">{cells}</dl>',
            *(section.html() for section in sections),
            "</main>",
            '<footer class="end">',
            f"Made by voxtract {esc(version('voxtract'))}. This file is all there is: it loads and sends nothing.",
            "</footer>",
            json_script("data", data) if data is not None else "",
            f"<script>{script}</script>",
            "</body>",
            "</html>\n",
        ]
    )
    return text.encode("utf-8", "replace").decode()  # file names need not be UTF-8


def table(label: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A table that scrolls within its frame where it is wider.

    Parameters
    ----------
    label : str
        What it shows, for those who do not see it.
    head : sequence of str
        Text.
    rows : sequences of str
        HTML; the first cell of each is its heading.
    words : int
        So many columns from the left hold words; the others hold numbers, which stand to the right.
    """
    kinds = ["words" if column < words else "figure" for column in range(len(head))]
    above = "".join(f'<th scope="col" class="{kind}">{esc(text)}</th>' for kind, text in zip(kinds, head, strict=True))
    lines = []
    for first, *others in rows:
        cells = "".join(f'<td class="{kind}">{cell}</td>' for kind, cell in zip(kinds[1:], others, strict=True))
        lines.append(f'<tr><th scope="row" class="words">{first}</th>{cells}</tr>')
    return (
        f'<div class="scroll" role="region" aria-label="{esc(label)}" tabindex="0"><table><thead><tr>{above}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def remarks_list(remarks: Sequence[Remark]) -> str:
    """What to look at, the most serious first; each opens to its items."""
    if not remarks:
        return '<p class="fine-line">Nothing stands out.</p>'
    return "".join(_remark(remark) for remark in sorted(remarks, key=lambda remark: not remark.is_fault))


def _remark(remark: Remark) -> str:
    items = "".join(
        f'<li><a href="#{esc(link)}">{esc(text)}</a></li>' if link else f"<li>{esc(text)}</li>"
        for text, link in remark.items[:_MOST_ITEMS]
    )
    if len(remark.items) > _MOST_ITEMS:
        items += f"<li>… and {len(remark.items) - _MOST_ITEMS:,} more</li>"
    kind, word = ("fault", "Fault") if remark.is_fault else ("notice", "Notice")
    return (
        f'<details class="remark {kind}"{" open" if remark.is_fault else ""}><summary><span class="dot" '
        f'aria-hidden="true"></span><span class="sr">{word}: </span><span class="what">{esc(remark.title)}</span> '
        f'<span class="count">{len(remark.items):,}</span></summary><p>{esc(remark.why)}</p><ul>{items}</ul></details>'
    )


def data_uri(mime: str, content: bytes) -> str:
    """Bytes as an address that holds them."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def plural(count: int, noun: str) -> str:
    """Number and noun.

    >>> plural(1, "case"), plural(1200, "slice"), plural(2, "box")
    ('1 case', '1,200 slices', '2 boxes')
    """
    ending = "" if count == 1 else "es" if noun.endswith("x") else "s"
    return f"{count:,} {noun}{ending}"


def times(values: Iterable[Any]) -> str:
    """Sizes as in ``192 × 160 × 52``."""
    return " × ".join(f"{value:.4g}" if isinstance(value, float) else f"{value}" for value in values)
