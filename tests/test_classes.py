"""Class maps: read, written and read again; every label finds its class, or is named."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtract.classes import PALETTE, Category, ClassMap, color_of
from voxtract.errors import InvalidInput

labels = st.integers(1, 1 << 62)
names = st.text('ab Ü漢*,"\\\t', min_size=1, max_size=8).filter(lambda text: bool(text.strip()))
colors = st.text("0123456789abcdefABCDEF", min_size=6, max_size=6).map("#{}".format)


@st.composite
def class_maps(draw: st.DrawFn) -> dict[Any, Any]:
    """What a user may write: integer or text labels, names alone or with a colour, with or without the rest."""
    keys = draw(st.lists(labels | st.just("*"), min_size=1, max_size=6, unique=True))
    called = draw(st.lists(names, min_size=len(keys), max_size=len(keys), unique_by=lambda name: name.strip()))
    written: dict[Any, Any] = {}
    for key, name in zip(keys, called, strict=True):
        told: Any = draw(st.sampled_from(["name", "mapping", "color"]))
        key = draw(st.sampled_from([key, str(key)]))
        written[key] = name if told == "name" else {"name": name}
        if told == "color":
            written[key]["color"] = draw(colors)
    return written


@settings(deadline=None)
@given(written=class_maps())
def test_what_was_written_is_read(written: dict[Any, Any]) -> None:
    found = ClassMap.of(written)
    assert len(found.categories) == len(written)
    assert [category.id for category in found.categories] == sorted(category.id for category in found.categories)
    assert (found.rest is not None) == ("*" in written)
    for key, told in written.items():
        name, color = (told["name"], told.get("color")) if isinstance(told, dict) else (told, None)
        (category,) = [category for category in found.categories if category.name == name.strip()]
        assert category.id == (found.rest if key == "*" else int(key))
        assert category.color == (color_of(category.id) if color is None else color.lower())
        assert found[category.id] == category


@settings(deadline=None)
@given(written=class_maps())
def test_goes_through_json_unchanged(written: dict[Any, Any]) -> None:
    found = ClassMap.of(written)
    assert ClassMap.of(json.loads(json.dumps(found.to_dict()))) == found
    assert ClassMap.of(found) is found


@settings(deadline=None)
@given(written=class_maps(), data=st.data())
def test_every_label_has_its_class_or_is_named(written: dict[Any, Any], data: st.DataObject) -> None:
    found = ClassMap.of(written)
    known = {int(key) for key in written if key != "*"}
    asked = data.draw(st.lists(labels | st.sampled_from(sorted(known) or [1]), max_size=20))
    unknown = sorted({label for label in asked if label not in known})
    if unknown and "*" not in written:
        with pytest.raises(InvalidInput) as caught:
            found.ids(asked)
        listed = re.search(r"label values (.*?)(, …)? are in no class", str(caught.value))
        assert listed is not None
        assert [int(text) for text in listed[1].split(", ")] == unknown[:10]
        assert (listed[2] is not None) == (len(unknown) > 10)
        return
    ids = found.ids(np.array(asked, np.int64))
    assert ids.dtype == np.int64
    assert ids.tolist() == [label if label in known else found.rest for label in asked]


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "i8", "u8"])
def test_labels_of_every_dtype(dtype: str) -> None:
    organs = ClassMap.of({1: "liver", 3: "tumour", "*": "other"})
    assert organs.ids(np.array([3, 1, 9, 3, 4], dtype)).tolist() == [3, 1, 4, 3, 4]
    assert organs.ids(np.array([], dtype)).tolist() == []
    largest = np.array([np.iinfo(dtype).max], dtype)
    assert organs.ids(largest).tolist() == [4]


def test_the_rest_has_a_number_of_its_own() -> None:
    assert ClassMap.of({"*": "lesion"}).rest == 1
    found = ClassMap.of({"*": "lesion", 7: "organ", 2: "bone"})
    assert [(c.id, c.name) for c in found.categories] == [(2, "bone"), (7, "organ"), (8, "lesion")]
    assert found.ids([8, 7, 1]).tolist() == [8, 7, 8]  # a label of that number is among the rest


def test_classes_of_labels_that_were_given_none() -> None:
    found = ClassMap.of_labels(np.array([5, 1, 5, 12], np.uint16))
    assert found.categories == (
        Category(1, "label_1", PALETTE[0]),
        Category(5, "label_5", PALETTE[4]),
        Category(12, "label_12", PALETTE[3]),
    )
    assert found.ids([12, 1]).tolist() == [12, 1]
    assert ClassMap.of(found.to_dict()) == found
    assert ClassMap.of_labels([]).categories == ()


def test_colours_are_those_of_the_palette_in_turn() -> None:
    assert [color_of(label) for label in range(1, 2 * len(PALETTE) + 1)] == [*PALETTE, *PALETTE]
    assert len(set(PALETTE)) == len(PALETTE)
    assert all(re.fullmatch(r"#[0-9a-f]{6}", color) for color in PALETTE)


@pytest.mark.parametrize("value", [{}, [], None, "liver", 3, [(1, "liver")]])
def test_what_is_no_class_map(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"class_map .* names no class; write \{1: \"liver\", 2: \"tumour\"\}"):
        ClassMap.of(value)


@pytest.mark.parametrize("key", [0, -1, 1.5, 1.0, "1.0", "one", "", "01", "+1", None, True, (1,), "1e3", "**", 2**63])
def test_what_is_no_label(key: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        ClassMap.of({key: "liver"})
    assert f"label {key!r} must be a whole number from 1" in str(caught.value)


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", None, 3, ["liver"], {"color": "#ffffff"}])
def test_what_is_no_name(name: Any) -> None:
    with pytest.raises(InvalidInput, match=r"label 7 has the name .*expected a text of one line"):
        ClassMap.of({7: name})


@pytest.mark.parametrize("color", ["red", "#fff", "#gggggg", "#1234567", 255, None, "#12345\n"])
def test_what_is_no_colour(color: Any) -> None:
    with pytest.raises(InvalidInput, match=r"label 7 has the colour .*expected the form '#rrggbb'"):
        ClassMap.of({7: {"name": "liver", "color": color}})


def test_what_a_class_does_not_have() -> None:
    with pytest.raises(InvalidInput, match=r"label 7 has .*'colour'.*expected 'name' and perhaps 'color'"):
        ClassMap.of({7: {"name": "liver", "colour": "#ffffff"}})
    with pytest.raises(KeyError):
        ClassMap.of({7: "liver"})[1]


@pytest.mark.parametrize("value", [{1: "liver", "1": "tumour"}, {1: "liver", 2: "liver"}, {1: "liver", 2: " liver "}])
def test_what_is_there_twice(value: Any) -> None:
    with pytest.raises(InvalidInput, match="every label and every name must be there once"):
        ClassMap.of(value)


def test_a_label_in_no_class_comes_with_what_to_do() -> None:
    with pytest.raises(InvalidInput) as caught:
        ClassMap.of({1: "liver", 4: "tumour"}).ids(np.array([4, 9, 2, 9]))
    text = str(caught.value)
    assert "label values 2, 9 are in no class" in text
    assert "the class map has 1, 4" in text
    for advice in ("add them", '"*" for all others', "classes="):
        assert advice in text


def test_labels_without_a_name_of_their_own_are_each_a_class() -> None:
    classes = ClassMap.of({2: "liver", "#": "Segment_{}"})
    assert classes.ids([7, 2, 7]).tolist() == [7, 2, 7]
    assert classes[7] == Category(7, "Segment_7", color_of(7))
    assert [(c.id, c.name) for c in classes.covering([7, 2, 1]).categories] == [
        (1, "Segment_1"),
        (2, "liver"),
        (7, "Segment_7"),
    ]
    assert ClassMap.of(json.loads(json.dumps(classes.to_dict()))) == classes
    assert ClassMap.of({"#": "Segment_{}"}).ids([3]).tolist() == [3]
    assert ClassMap.of({2: "liver"}).covering([5]).categories == ClassMap.of({2: "liver"}).categories
    with pytest.raises(KeyError):
        ClassMap.of({2: "liver"})[5]
    with pytest.raises(InvalidInput, match=r"expected a text with \{\} for the label"):
        ClassMap.of({"#": "Segment"})
