"""Every container gives the same values; a value that is damaged stops nothing."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.read.labelbox.exports import v2_row
from voxtract.errors import InvalidInput
from voxtract.read.labelbox import Tally, containers, read_rows
from voxtract.read.labelbox.containers import Fault, Found, read_values


def values(content: bytes | str, **options: Any) -> list[Any]:
    raw = content.encode() if isinstance(content, str) else content
    return [one.value for one in read_values(io.BytesIO(raw), **options) if isinstance(one, Found)]


def faults(content: bytes | str, **options: Any) -> list[Fault]:
    raw = content.encode() if isinstance(content, str) else content
    return [one for one in read_values(io.BytesIO(raw), **options) if isinstance(one, Fault)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), json_values, max_size=4)


@pytest.fixture
def tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads so short that every value is cut by them."""
    monkeypatch.setattr(containers, "CHUNK", 3)


@given(data=st.lists(objects, min_size=1, max_size=4), indent=st.none() | st.integers(0, 3), chunk=st.integers(1, 9))
def test_all_containers_of_the_same_objects_give_them(data: list[Any], indent: int | None, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(containers, "CHUNK", chunk)
        assert values(json.dumps(data, indent=indent)) == data
        assert values(json.dumps(data, indent=indent, ensure_ascii=False)) == data
        assert values("\ufeff" + json.dumps(data, indent=indent)) == data
        assert values("".join(json.dumps(one) + "\r\n\n" for one in data)) == data
        assert values("".join(json.dumps(one) for one in data)) == data
        assert values(json.dumps(data, indent=indent), lenient=True) == data
        assert values(json.dumps(data[0], indent=indent)) == data[:1]
        assert values("".join(json.dumps(one, indent=2) for one in [{"a": 1}, *data])) == [{"a": 1}, *data]


def test_an_array_of_scalars_at_the_end_of_a_chunk_is_whole(tiny_chunks: None) -> None:
    assert values("[123456789, 1.5e10, true, null]") == [123456789, 1.5e10, True, None]


@pytest.mark.parametrize("content", ["", " \n\n "])
def test_an_empty_file_is_said_to_be_empty(content: str) -> None:
    (fault,) = faults(content)
    assert "empty" in fault.message


def test_an_empty_array_has_nothing() -> None:
    assert list(read_values(io.BytesIO(b" [ ] \n"))) == []


def test_a_bad_line_is_told_and_the_next_one_read() -> None:
    content = b'{"a": 1}\n{"a": \n\xff\xfe\n' + b"[" * 100_000 + b"\n" + b"9" * 5000 + b'\n{"a": 2}'
    assert values(content) == [{"a": 1}, {"a": 2}]
    assert [fault.line for fault in faults(content)] == [2, 3, 4, 5]
    assert "UTF-8" in faults(content)[1].message


def test_a_bad_first_line_does_not_make_the_rest_one_object() -> None:
    assert values('{"a": \n{"a": 2}\n{"a": 3}\n') == [{"a": 2}, {"a": 3}]


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize(
    ("content", "expected", "path"),
    [
        ('[{"a": 1}, {"a": nope, "b": ["}"]}, {"a": 3}]', [{"a": 1}, {"a": 3}], "[1]"),
        ('[{"a": 1}, oh, {"a": 3}]', [{"a": 1}, {"a": 3}], "[1]"),
        ('[{"a": 1}, {"a": "\udcff"}, {"a": 3}]', [{"a": 1}, {"a": 3}], "[1]"),
        ('[{"a": 1}, {"a": 2', [{"a": 1}], "[1]"),
        ('[{"a": 1},', [{"a": 1}], ""),
        ('[{"a": 1}', [{"a": 1}], ""),
        ('[{"a": 1} {"a": 2}]', [{"a": 1}, {"a": 2}], ""),
        ('[{"a": 1}] {"a": 2}', [{"a": 1}], ""),
    ],
)
def test_a_damaged_element_is_told_and_the_others_read(
    monkeypatch: pytest.MonkeyPatch, content: str, expected: list[Any], path: str, chunk: int
) -> None:
    monkeypatch.setattr(containers, "CHUNK", chunk)
    raw = content.encode("utf-8", "surrogateescape")
    assert values(raw) == expected
    fault, *others = faults(raw)
    assert fault.path == path
    assert all("the array has no end" in other.message for other in others)


def test_lines_of_values_in_pretty_files_are_right(tiny_chunks: None) -> None:
    content = '[\n {\n  "a": 1\n },\n\n {"b": 2}\n]'
    assert [one.line for one in read_values(io.BytesIO(content.encode()))] == [2, 6]
    content = '{\n  "a": 1\n}\n{\n"b": 2}'
    assert [one.line for one in read_values(io.BytesIO(content.encode()))] == [1, 4]


@pytest.mark.parametrize(
    ("content", "expected", "told"),
    [
        ('{"u": "https://x/*y*/"} // end', [{"u": "https://x/*y*/"}], []),
        ('/* a\n */ {"a": 1, /* , */ "b": [1, 2,], }', [{"a": 1, "b": [1, 2]}], []),
        ('[{"a": 1},\n{"a": 2},', [{"a": 1}, {"a": 2}], ["a missing ']' was added at the end"]),
        ('{"a": 1}}\n{"b": 2}', [{"a": 1}, {"b": 2}], ["a stray '}' was left out"]),
        ('{"r": [{"x": 1}, "n": 2}', [], None),
        ('{"r": [{"x": 1}\n}\n{"b": 2}', [{"r": [{"x": 1}]}, {"b": 2}], ["a missing ']' was put before '}'"]),
        (r'{"a": "\"// no\\"} // yes', [{"a": '"// no\\'}], []),
    ],
)
def test_lenient_repairs_samples_and_says_so(content: str, expected: list[Any], told: list[str] | None) -> None:
    assert values(content, lenient=True) == expected
    if told is not None:
        assert [fault.message for fault in faults(content, lenient=True)] == told


def test_strict_refuses_what_lenient_repairs() -> None:
    assert values('// a comment\n{"a": 1,}') == []
    assert len(faults('// a comment\n{"a": 1,}')) == 2


def test_lenient_refuses_what_is_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "LENIENT_MOST", 10)
    with pytest.raises(InvalidInput, match="lenient"):
        values('{"a": "0123456789"}', lenient=True)


@given(st.text(alphabet='{}[]",:/* \n\\a1', max_size=40))
def test_whatever_the_text_lenient_ends_and_strict_ends(text: str) -> None:
    list(read_values(io.BytesIO(text.encode())))
    list(read_values(io.BytesIO(text.encode()), lenient=True))


def test_a_line_that_is_too_long_is_told_and_the_next_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "LONGEST", 20)
    assert values('{"a": 1}\n{"a": "01234567890123456789"}\n{"b": 2}') == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("form", ["ndjson", "array"])
def test_memory_does_not_grow_with_the_number_of_rows(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak(rows: int) -> int:
        path = tmp_path / "export"
        line = json.dumps(v2_row({"groups": {}}))
        separator, (first, last) = {"ndjson": ("\n", ("", "")), "array": (",\n", ("[", "]"))}[form]
        with path.open("w") as file:
            file.write(first)
            file.writelines((separator if i else "") + line for i in range(rows))
            file.write(last)
        tracemalloc.start()
        count = sum(1 for _ in read_rows(path, Tally()))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == rows
        return most

    monkeypatch.setattr(containers, "CHUNK", 1 << 15)
    peak(10)  # what is imported and cached once
    assert peak(3000) < 1.5 * peak(1500)
