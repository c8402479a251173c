"""What a link names, and where a token may go."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtract.errors import InvalidInput
from voxtract.webknossos.urls import (
    ANNOTATION_TYPES,
    AnnotationAddress,
    ShortLink,
    censored,
    check_base,
    parse_annotation,
    parse_short_link,
    same_server,
    shown,
)

ID = "5f7d3a8b0100008900e4c1aa"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ID, AnnotationAddress(ID)),
        (f" {ID}\n", AnnotationAddress(ID)),
        (ID.upper(), AnnotationAddress(ID.upper())),
        (f"https://webknossos.org/annotations/{ID}", AnnotationAddress(ID, "https://webknossos.org")),
        (f"https://webknossos.org/annotations/{ID}/", AnnotationAddress(ID, "https://webknossos.org")),
        (f"http://localhost:9000/annotations/{ID}", AnnotationAddress(ID, "http://localhost:9000")),
        (f"http://[::1]:9000/annotations/{ID}", AnnotationAddress(ID, "http://[::1]:9000")),
        (f"https://WK.Example.org/annotations/{ID}", AnnotationAddress(ID, "https://wk.example.org")),
        (f"https://example.org/a/b/annotations/{ID}", AnnotationAddress(ID, "https://example.org/a/b")),
        (f"https://h.org/annotations/{ID}?token=abc&x=1", AnnotationAddress(ID, "https://h.org")),
        (f"https://h.org/annotations/{ID}#1,2,3", AnnotationAddress(ID, "https://h.org", None, (1, 2, 3))),
        (
            f"https://h.org/annotations/Task/{ID}?a#-10,20.5,3e2,0,1.337,42",
            AnnotationAddress(ID, "https://h.org", "Task", (-10, 20.5, 300)),
        ),
        (f"https://h.org/annotations/{ID}#1,2", AnnotationAddress(ID, "https://h.org")),
        (f"https://h.org/annotations/{ID}#nan,inf,2", AnnotationAddress(ID, "https://h.org")),
        (f'https://h.org/annotations/{ID}#{{"position":[1,2,3]}}', AnnotationAddress(ID, "https://h.org")),
    ],
)
def test_links_to_annotations(text: str, expected: AnnotationAddress) -> None:
    assert parse_annotation(text) == expected


@given(
    host=st.from_regex(r"[a-z][a-z0-9-]{0,8}(\.[a-z]{2,5}){0,2}(:[1-9][0-9]{0,3})?", fullmatch=True),
    scheme=st.sampled_from(["http", "https"]),
    prefix=st.lists(st.from_regex(r"[a-z0-9_~-]{1,6}", fullmatch=True), max_size=3),
    kind=st.sampled_from([None, *ANNOTATION_TYPES]),
    digits=st.text("0123456789abcdefABCDEF", min_size=24, max_size=24),
    rest=st.sampled_from(["", "?", "?a=b", "#", "?token=x#"]),
)
def test_what_a_link_is_made_of_is_found_in_it(
    host: str, scheme: str, prefix: list[str], kind: str | None, digits: str, rest: str
) -> None:
    base = "/".join([f"{scheme}://{host}", *prefix])
    link = "/".join([base, "annotations", *([kind] if kind else []), digits]) + rest
    assert parse_annotation(link) == AnnotationAddress(digits, base, kind)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither an id of 24 hexadecimal digits nor a link"),
        (ID[:-1], "neither an id"),
        (ID + "0", "neither an id"),
        ("my annotation", "neither an id"),
        ("https://h.org/datasets/x", "https://h.org/datasets/x: is no link to an annotation"),
        (f"https://h.org/annotations/{ID[:-1]}", "is no link to an annotation"),
        (f"https://h.org/annotations/{ID}/download", "is no link to an annotation"),
        (f"https://h.org/annotations/Sketch/{ID}", "'Sketch' is no type of annotation; allowed: Explorational, Task"),
        (f"ftp://h.org/annotations/{ID}", "starts with https://"),
        (f"h.org/annotations/{ID}", "starts with https://"),
        (f"https:///annotations/{ID}", "starts with https://"),
        (f"https://h.org:99999/annotations/{ID}", "is no URL"),
        (f"https://[::1/annotations/{ID}", "is no URL"),
        (f"https://h.org\\.evil.net/annotations/{ID}", "is no URL"),
    ],
)
def test_what_is_no_link_is_told(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        parse_annotation(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://h.org/datasets/x?token=SECRET",
        "https://h.org/annotations/12#SECRET",
        f"https://user:SECRET@h.org/annotations/{ID}",
        f"https://h.org:99999/annotations/{ID}?token=SECRET",
        f"https://user:SECRET@h.org:99999/annotations/{ID}",
    ],
)
def test_a_bad_link_is_told_without_what_is_secret_in_it(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"h\.org") as caught:
        parse_annotation(text)
    assert "SECRET" not in str(caught.value)


def test_short_links() -> None:
    assert parse_short_link("https://h.org/links/aB3_-x") == ShortLink("https://h.org", "aB3_-x")
    assert parse_short_link("https://h.org/wk/links/aB3#1,2,3") == ShortLink("https://h.org/wk", "aB3")
    assert parse_short_link(f"https://h.org/annotations/{ID}") is None
    assert parse_short_link("https://h.org/links/") is None
    assert parse_short_link(ID) is None


def test_the_address_of_a_server() -> None:
    assert check_base(" https://Webknossos.org/ ") == "https://webknossos.org"
    assert check_base("http://localhost:9000/wk//?a=b#c") == "http://localhost:9000/wk"
    for wrong in ("webknossos.org", "", "file:///etc/passwd", "https://", "https://h.org:0"):
        with pytest.raises(InvalidInput, match=r"https://webknossos\.org"):
            check_base(wrong)


@pytest.mark.parametrize(
    ("trusted", "url", "expected"),
    [
        ("https://a.org", "https://a.org/x?y", True),
        ("https://a.org/prefix", "https://a.org:443", True),
        ("http://a.org", "https://a.org", True),
        ("http://a.org:80", "https://A.org:443", True),
        ("https://a.org", "http://a.org", False),
        ("http://a.org:9000", "https://a.org:9000", False),
        ("https://a.org", "https://a.org:8443", False),
        ("https://a.org", "https://b.a.org", False),
        ("https://a.org", "https://a.org.b.net", False),
        ("http://127.0.0.1:1", "http://localhost:1", False),
    ],
)
def test_only_the_same_host_is_the_same_server(trusted: str, url: str, expected: bool) -> None:
    assert same_server(trusted, url) is expected


def test_what_is_shown_has_no_secret() -> None:
    assert shown("https://user:SECRET@h.org:1/a/b?token=SECRET#SECRET") == "https://h.org:1/a/b"
    assert "SECRET" not in shown("https://user:SECRET@[h.org/a?token=SECRET")
    text = "bad\n\x1b[31mtoken SE/CRET and SE%2FCRET at http://h.org/?sharingToken=other&b=1"
    assert censored(text, "SE/CRET", None) == "bad  [31mtoken *** and *** at http://h.org/?sharingToken=***&b=1"
