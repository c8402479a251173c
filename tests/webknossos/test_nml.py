"""NML: every fact read and written back, whatever the order; broken files refused with a reason."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.webknossos.annotations import FULL, SMALLEST, facts, parsed, written
from voxtract.errors import InvalidInput
from voxtract.webknossos import (
    AdditionalAxis,
    BoundingBox,
    FormatError,
    SegmentGroup,
    SegmentInformation,
    WrongUse,
    nml_read,
)
from voxtract.webknossos.kept import Unknown
from voxtract.webknossos.nodes import rounded
from voxtract.webknossos.units import NANOMETRES


def test_parameters_and_meta_of_the_full_file() -> None:
    document = parsed(FULL)
    skeleton = document.skeleton
    assert (skeleton.dataset_name, skeleton.organization_id, skeleton.dataset_id) == ("cortex & co", "org", "d1")
    assert (skeleton.description, document.wk_url) == ("", "https://wk.example.org")
    assert skeleton.scale == ((0.5, 0.5, 1.25), "micrometer")
    assert skeleton.voxel_size == (500.0, 500.0, 1250.0)
    assert (document.time, document.offset, document.active_node) == (1700000000000, None, 6)
    assert (document.edit_position, document.edit_rotation) == ((10, 20.5, 30), (0.5, 90, -1))
    assert document.zoom_level == 2
    assert type(document.zoom_level) is int
    assert document.axes == [AdditionalAxis("t", 1, -2, 10)]
    assert document.meta == {
        "writer": "by hand",
        "annotationId": "0123456789abcdef01234567",
        "username": "Jörg",
        "taskId": "77",
    }


def test_boxes_of_the_full_file() -> None:
    document = parsed(FULL)
    first, second = document.user_boxes
    assert first == BoundingBox((1, 2, 3), (4, 5, 6))
    assert (first.name, first.is_visible, first.color, first.id) == ("first", False, (0.25, 0.5, 0.75, 1), 4)
    assert second == BoundingBox((-5, 0, 0), (1, 10, 0))
    assert (second.name, second.is_visible, second.color, second.id) == ("Unnamed Bounding Box", True, None, 9)
    assert document.task_box == BoundingBox((100, 200, 300), (64, 32, 16))


def test_trees_of_the_full_file() -> None:
    skeleton = parsed(FULL).skeleton
    axon = skeleton.get_tree_by_id(31)
    assert (axon.name, axon.color, axon.is_visible) == ("axon", (0.25, 0.5, 0.75, 0.5), False)
    assert axon.metadata == {
        "text": "t",
        "int": 3,
        "float": 0.5,
        "flag": False,
        "list": ["x", "y", "z"],
        "nothing": [],
        "odd": [],
    }
    assert type(axon.metadata["flag"]) is bool
    assert type(axon.metadata["int"]) is int
    old, bare = skeleton.get_tree_by_id(30), skeleton.get_tree_by_id(32)
    assert (old.name, old.color, old.is_visible) == ("old name", (0.1, 0.2, 0.3, 0.4), True)
    assert (bare.name, bare.color, len(bare.nodes)) == ("tree32", None, 0)
    outer, empty = skeleton.groups
    (inner,) = outer.groups
    assert [(g.id, g.name, g.is_expanded) for g in (outer, inner, empty)] == [
        (40, "outer <1>", True),
        (41, "inner", False),
        (42, "no trees", True),
    ]
    assert [tree.id for tree in inner.trees] == [31]
    assert [tree.id for tree in skeleton.trees] == [30, 32]


def test_nodes_of_the_full_file() -> None:
    axon = parsed(FULL).skeleton.get_tree_by_id(31)
    five, six, nine = axon.nodes
    assert (five.id, five.position, five.radius, five.rotation) == (5, (-1, 2, 3), 12.5, (0.1, 90, 359.9))
    assert (five.inVp, five.inMag, five.bitDepth, five.interpolation) == (2, 4, 8, False)
    assert (five.time, five.comment, five.additional_coordinates) == (1700000000001, 'a "b"\n\tc', {"t": 7})
    assert (five.is_branchpoint, six.is_branchpoint, six.branchpoint_time) == (False, True, 1700000000002)
    assert six.position == (11, 22, 33)
    assert [six.radius, six.rotation, six.inVp, six.time, six.interpolation, six.comment] == [None] * 6
    assert (nine.position, nine.comment, nine.interpolation) == ((2, 2, -3), "", True)  # halves go up, as on servers
    assert (nine.is_branchpoint, nine.branchpoint_time) == (True, None)
    assert [(a.id, b.id) for a, b in axon.edges] == [(5, 6), (9, 6)]
    assert axon.get_node_positions().tolist() == [[-1, 2, 3], [11, 22, 33], [2, 2, -3]]


def test_volume_layers_of_the_full_file() -> None:
    cells, old = parsed(FULL).volumes
    assert (cells.id, cells.name, cells.data_format, cells.fallback_layer) == (3, "cells", "wkw", "seg")
    assert (cells.largest_segment_id, cells.mapping_name, cells.mapping_is_locked) == (2**64 - 1, "m", True)
    assert (cells.edited_mapping_edges_location, cells.edited_mapping_base_mapping_name) == ("edges.zip", "base")
    first = SegmentInformation(
        "Cell 1",
        (1, 2, 3),
        (1, 0, 0.5, 1),
        {"reviewed": True},
        created=1700000000003,
        is_visible=False,
        group_id=2,
        additional_coordinates={"t": 4},
        kept={"": Unknown({"lab:s": "2"})},
    )
    assert cells.segments == {1: first, 2**64 - 1: SegmentInformation(""), 9007199254740993: SegmentInformation()}
    assert cells.segment_groups == [
        SegmentGroup(1, "A"),
        SegmentGroup(2, "A.1", 1, {"": Unknown({"lab:g": "3"})}),
    ]
    assert (old.id, old.name, old.data_format, old.segments) == (0, "Volume", None, {})


def test_every_fact_of_the_full_file_is_written_back() -> None:
    lost = facts(FULL) - facts(written(parsed(FULL)))
    assert {fact[1:] for fact in lost} == {
        ("unit", "\u00b5m"),  # by its full name
        ("comment", "old name"),  # now in `name`
        *((f"color{channel}", value) for channel, value in zip("rgba", (0.1, 0.2, 0.3, 0.4), strict=True)),
        *((f"color{channel}", -1) for channel in "rgba"),
        ("groupId", -1),
    }


def test_what_is_added_to_the_full_file_are_names_and_defaults() -> None:
    added = facts(written(parsed(FULL))) - facts(FULL)
    assert {fact[1] for fact in added} == {"unit", "name", "isVisible", "isExpanded", *(f"color.{c}" for c in "rgba")}


def test_writing_twice_changes_nothing() -> None:
    once = written(parsed(FULL))
    assert parsed(once) == parsed(written(parsed(once)))
    assert written(parsed(once)) == once


def test_unknown_elements_keep_their_text() -> None:
    text = written(parsed(FULL))
    assert '<lab:extra a="&lt;">text &amp; more<inner/></lab:extra>' in text
    assert '<lab:mark at="1">deep <b>er</b></lab:mark></node>' in text
    assert "<lab:note>kept</lab:note>" in text


def test_order_of_what_is_written() -> None:
    root = ET.fromstring(written(parsed(FULL)))
    assert list(dict.fromkeys(child.tag for child in root)) == [
        "parameters",
        "meta",
        "thing",
        "branchpoints",
        "comments",
        "groups",
        "volume",
        "{urn:lab}extra",
    ]
    assert [thing.get("id") for thing in root.findall("thing")] == ["30", "31", "32"]


def test_new_ids_are_above_every_id_of_the_file() -> None:
    skeleton = parsed(FULL).skeleton
    tree = skeleton.add_group("new").add_tree("new")
    assert (tree.add_node((0, 0, 0)).id, tree.id) == (73, 72)
    alone = parsed(SMALLEST.format('<groups><group id="99" name="g"/></groups>')).skeleton
    assert alone.add_tree("t").id == 100


def test_a_missing_declaration_bom_and_other_encodings() -> None:
    plain = SMALLEST.format('<meta name="m" content="ü"/>')
    for text in (
        plain.encode(),
        b"\xef\xbb\xbf" + plain.encode(),
        plain.encode("utf-16"),
        b'<?xml version="1.0" encoding="iso-8859-1"?>' + plain.encode("latin-1"),
    ):
        assert parsed(text).meta == {"m": "ü"}


def test_sections_may_stand_several_times() -> None:
    nodes = '<nodes><node id="{}" x="1" y="1" z="1"/></nodes>'
    text = SMALLEST.format(
        f'<thing id="1" name="a">{nodes.format(1)}<edges><edge source="1" target="2"/></edges>{nodes.format(2)}</thing>'
        '<comments><comment node="1" content="a"/></comments><comments><comment node="2" content="b"/></comments>'
        '<groups><group id="1" name="x"/></groups><groups><group id="2" name="y"/></groups>'
    )
    document = parsed(text)
    assert [node.comment for node in document.skeleton.get_tree_by_id(1).nodes] == ["a", "b"]
    assert [group.name for group in document.skeleton.groups] == ["x", "y"]
    assert parsed(written(document)) == document


@pytest.mark.parametrize(
    ("unit", "nanometres"),
    [
        ("nm", 1),
        ("um", 1e3),
        ("\u03bcm", 1e3),
        ("mm", 1e6),
        ("\u00c5", 0.1),
        ("\u212b", 0.1),
        ("in", 25.4e6),
        ("m", 1e9),
        *NANOMETRES.items(),
    ],
)
def test_units(unit: str, nanometres: float) -> None:
    text = SMALLEST.replace('z="1"/>', f'z="1" unit="{unit}"/>').format("")
    assert parsed(text).skeleton.voxel_size == pytest.approx((nanometres,) * 3)


def test_an_unknown_voxel_size_stays_unknown() -> None:
    text = SMALLEST.replace('x="1" y="1" z="1"', 'x="-1" y="-1" z="-1" unit="micrometer"').format("")
    document = parsed(text)
    assert document.skeleton.voxel_size == (-1.0, -1.0, -1.0)
    assert parsed(written(document)).skeleton.scale == ((-1, -1, -1), "micrometer")


def test_fractions_of_positions_are_written_back_until_the_node_is_moved() -> None:
    document = parsed(FULL)
    nine = document.skeleton.get_node_by_id(9)
    assert '<node id="9" x="1.5" y="2.4" z="-2.6"' in written(document)
    nine.position = (7, 8, 9)
    assert '<node id="9" x="7" y="8" z="9"' in written(document)


# Many nodes, against a reader that is slow and obvious

NUMBERS = st.sampled_from(["0", "3", "3.0", "-7", "120.5", "1e3", "2.25", " 4 "])
INTEGERS = st.sampled_from(["0", "8", "-1", "3.0", "9007199254740993"])
ATTRIBUTES: dict[str, Any] = {
    "radius": NUMBERS,
    "rotX": NUMBERS,
    "rotY": NUMBERS,
    "rotZ": NUMBERS,
    "inVp": INTEGERS,
    "inMag": INTEGERS,
    "bitDepth": INTEGERS,
    "interpolation": st.sampled_from(["true", "false", "True", "False"]),
    "time": INTEGERS,
    "additionalCoordinate-t": INTEGERS,
    "unheard": st.sampled_from(["a", ""]),
}


@st.composite
def node_attributes(draw: st.DrawFn) -> dict[str, str]:
    found = {axis: draw(NUMBERS) for axis in "xyz"}
    found |= {name: draw(values) for name, values in ATTRIBUTES.items() if draw(st.booleans())}
    return dict(draw(st.permutations(list(found.items()))))


def expected_node(element: ET.Element) -> dict[str, Any]:
    def number(name: str) -> float | None:
        return float(element.get(name, "nan")) if element.get(name) else None

    def integer(name: str) -> int | None:
        text = element.get(name)
        return None if text is None else int(text.removesuffix(".0"))

    rotation = [number(name) for name in ("rotX", "rotY", "rotZ")]
    said = element.get("interpolation")
    return {
        "position": tuple(rounded(float(element.get(axis, "nan"))) for axis in "xyz"),
        "radius": number("radius"),
        "rotation": None if rotation == [None] * 3 else tuple(value or 0.0 for value in rotation),
        "interpolation": None if said is None else said.lower() == "true",
        **{name: integer(name) for name in ("inVp", "inMag", "bitDepth", "time")},
        "t": integer("additionalCoordinate-t"),
        "unheard": element.get("unheard"),
    }


@given(trees=st.lists(st.lists(node_attributes(), max_size=6), max_size=4), piece=st.integers(20, 400))
def test_nodes_are_read_as_one_at_a_time(trees: list[list[dict[str, str]]], piece: int) -> None:
    number = 0
    body = ""
    for place, attributes in enumerate(trees):
        body += f'<thing id="{place}" name="t"><nodes>'
        for one in attributes:
            number += 1
            pairs = "".join(f' {name}="{value}"' for name, value in one.items())
            body += f'<node{pairs} id="{number}"/>'
        body += "</nodes><edges/></thing>"
    text = SMALLEST.format(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nml_read, "PIECE", piece)
        document = parsed(text)
    elements = {int(element.get("id", "")): element for element in ET.fromstring(text).iter("node")}
    assert document.skeleton.get_total_node_count() == len(elements)
    for tree in document.skeleton.flattened_trees():
        for row, node in enumerate(tree.nodes):
            expected = expected_node(elements[node.id])
            assert node.additional_coordinates == ({} if expected["t"] is None else {"t": expected.pop("t")})
            unheard = expected.pop("unheard")
            assert tree.table.unknown.get(row, Unknown()).attributes.get("unheard") == unheard
            expected.pop("t", None)
            assert {name: getattr(node, name) for name in expected} == expected
    lost = facts(text) - facts(written(document))
    assert {fact[1] for fact in lost} <= {"interpolation"}  # True is written as true


# Refused


def thing(nodes: str = "", edges: str = "", more: str = "", number: int = 1) -> str:
    return f'<thing id="{number}" name="t"><nodes>{nodes}</nodes><edges>{edges}</edges></thing>{more}'


NODE = '<node id="1" x="1" y="2" z="3"/>'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (thing('<node id="1" x="nan" y="2" z="3"/>'), "node 1: x is 'nan', a finite number"),
        (thing('<node id="1" x="inf" y="2" z="3"/>'), "node 1: x is 'inf'"),
        (thing('<node id="1" x="one" y="2" z="3"/>'), "node 1: x is 'one'"),
        (thing('<node id="1" x="" y="2" z="3"/>'), "node 1: x is ''"),
        (thing('<node id="1" y="2" z="3"/>'), "node 1: x is missing"),
        (thing('<node x="1" y="2" z="3"/>'), "id is missing"),
        (thing(NODE + '<node id="2" x="1" y="2" z="3" radius="wide"/>'), "node 2: radius is 'wide'"),
        (thing('<node id="1" x="1" y="2" z="3" inVp="1.5"/>'), "inVp is '1.5', a whole number"),
        (thing('<node id="1" x="1" y="2" z="3" interpolation="maybe"/>'), "interpolation is 'maybe', true or false"),
        (thing('<node id="9223372036854775808" x="1" y="2" z="3"/>'), "id is '9223372036854775808'"),
        (thing('<node id="-9223372036854775808" x="1" y="2" z="3"/>'), "-9223372036854775808"),
        (thing(NODE + NODE), "two nodes of the id 1"),
        (thing(NODE) + thing(NODE, number=2), "two nodes of the id 1"),
        (thing() + thing(), "two trees of the id 1"),
        (thing(NODE, '<edge source="1" target="2"/>'), "edge from node 1 to node 2, but node 2 is not in that tree"),
        (
            thing(NODE) + thing('<node id="2" x="1" y="1" z="1"/>', '<edge source="1" target="2"/>', number=2),
            "edge from node 1 to node 2, but node 1 is not in that tree",
        ),
        (thing(NODE, '<edge source="1"/>'), "an edge: target is missing"),
        (thing(NODE) + '<comments><comment node="5" content="x"/></comments>', "comment of node 5, which is not in"),
        ('<comments><comment node="5" content="x"/></comments>', "comment of node 5"),
        (thing(NODE) + '<branchpoints><branchpoint id="6"/></branchpoints>', "branch point of node 6"),
        ('<thing id="1" name="t" groupId="7"><nodes/></thing>', "tree 1 (t) is in group 7, which is not in the file"),
        ('<thing name="t"/>', "<thing>: id is missing"),
        ('<thing id="one" name="t"/>', "id is 'one'"),
        ('<thing id="1" color.r="red" color.g="0" color.b="0"/>', "color.r is 'red'"),
        ('<thing id="1" color.r="1"/>', "red, green and blue is missing"),
        ('<groups><group id="1"/><group id="1"/></groups>', "two groups of the id 1"),
        ("<meta content='x'/>", "<meta>: name is missing"),
        ('<volume name="v"/>', "<volume>: id is missing"),
        ('<volume id="1"/><volume id="1"/>', "two volume layers of the id 1"),
        ('<volume id="1" format="zarr"/>', "format is 'zarr'; wkw or zarr3"),
        ('<volume id="1" largestSegmentId="18446744073709551616"/>', "largestSegmentId is 18446744073709551616"),
        ('<volume id="1"><segments><segment/></segments></volume>', "<segment>: id is missing"),
        ('<volume id="1"><segments><segment id="-1"/></segments></volume>', "id is -1"),
        ('<volume id="1"><segments><segment id="1"/><segment id="1"/></segments></volume>', "two segments of the id 1"),
        (
            '<volume id="1"><groups><group id="1"><group id="1"/></group></groups></volume>',
            "two segment groups of the id 1",
        ),
        ("<parameters/>", "<parameters> stands there twice"),
    ],
)
def test_broken_content_is_refused_with_its_reason(body: str, message: str) -> None:
    with pytest.raises(FormatError, match=re.escape(message)) as caught:
        parsed(SMALLEST.format(body))
    assert str(caught.value).startswith("test.nml: line ")
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no well-formed XML"),
        ("<things>", "no well-formed XML"),
        ("<things><parameters>", "no well-formed XML"),
        (FULL[: len(FULL) // 2], "no well-formed XML"),
        ("<things></thing>", "mismatched tag"),
        ("<html><body>502 Bad Gateway</body></html>", "begins with <html>"),
        ('{"messages": []}', "no well-formed XML"),
        ("<things/>", "has no <parameters>"),
        ("<things><parameters/></things>", "no <experiment>"),
        ('<things><parameters><experiment name="d"/></parameters></things>', "no <scale>"),
        ('<things><parameters><scale x="1" y="1" z="1"/></parameters></things>', "no <experiment>"),
        (SMALLEST.replace('z="1"', 'z="NaN"').format(""), "<scale>: z is 'NaN'"),
        (SMALLEST.replace('z="1"', "").format(""), "one of x, y, z is missing"),
        (SMALLEST.replace('z="1"', 'z="1" unit="furlong"').format(""), "unit is 'furlong'; known are nanometer"),
        (
            SMALLEST.replace("</parameters>", '<userBoundingBox topLeftX="0" width="3"/></parameters>').format(""),
            "<userBoundingBox>: topLeftY is missing",
        ),
        (
            SMALLEST.replace(
                "</parameters>",
                '<taskBoundingBox topLeftX="0" topLeftY="0" topLeftZ="0" width="-3" height="1" depth="1"/>'
                "</parameters>",
            ).format(""),
            "a size is not negative",
        ),
        ("<things \x00/>", "no well-formed XML"),
        ('<?xml version="1.0" encoding="klingon"?>' + SMALLEST.format(""), "no well-formed XML"),
        ('<?xml version="1.0" encoding="shift_jis"?>' + SMALLEST.format(""), "no well-formed XML"),
    ],
)
def test_files_that_are_no_nml(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=re.escape(message)):
        parsed(text)


def test_a_broken_byte_is_refused() -> None:
    with pytest.raises(FormatError, match="no well-formed XML"):
        parsed(SMALLEST.format("<meta name='m' content='@'/>").encode().replace(b"@", b"\xff"))


BOMBS = {
    "laughs": '<!DOCTYPE things [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>',
    "parameter entities": '<!DOCTYPE things [<!ENTITY % p "<!ENTITY q 1>"> %p;]>',
    "a file": '<!DOCTYPE things [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
    "an address": '<!DOCTYPE things SYSTEM "http://127.0.0.1:1/things.dtd">',
    "nothing": "<!DOCTYPE things>",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_document_types_are_refused(bomb: str) -> None:
    with pytest.raises(FormatError, match="entity bombs hide"):
        parsed(BOMBS[bomb] + SMALLEST.format('<meta name="m" content="&b;"/>'))


def test_a_tag_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nml_read, "LARGEST_TOKEN", 1 << 20)

    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            start = SMALLEST.format('<meta name="').encode() if not self.given else b""
            self.given += size
            assert self.given < 10 << 20
            return (start.removesuffix(b"</things>") + b"a" * size)[:size]

    with pytest.raises(FormatError, match="a tag or text of more than 1,048,576 bytes"):
        nml_read.read(Endless(), "endless.nml")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('<meta name="m" content="1"/><meta name="m" content="2"/>', "meta 'm' stands there twice"),
        (
            thing(NODE) + '<comments><comment node="1" content="1"/><comment node="1" content="2"/></comments>',
            "node 1 has two comments",
        ),
        (thing(NODE) + '<branchpoints><branchpoint id="1"/><branchpoint id="1"/></branchpoints>', "branch point twice"),
        (
            '<thing id="1"><metadata><metadataEntry key="k"/><metadataEntry key="k"/></metadata></thing>',
            "metadata entry 'k' stands there twice",
        ),
    ],
)
def test_what_stands_there_twice_is_told(body: str, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        parsed(SMALLEST.format(body))


def test_an_offset_is_told_and_written_back() -> None:
    text = SMALLEST.replace("</parameters>", '<offset x="1" y="0" z="0"/></parameters>').format(thing(NODE))
    with pytest.warns(UserWarning, match="nodes and boxes are not moved"):
        document = parsed(text)
    assert document.skeleton.get_node_by_id(1).position == (1, 2, 3)
    assert '<offset x="1" y="0" z="0"/>' in written(document)


def test_groups_and_unknown_elements_of_any_depth() -> None:
    depth = 3000
    groups = "".join(f'<group id="{number}" name="g">' for number in range(1, depth)) + "</group>" * (depth - 1)
    deep = "<a>" * depth + "</a>" * depth
    document = parsed(SMALLEST.format(f"<groups>{groups}</groups>{deep}"))
    again = parsed(written(document))
    assert again == document
    assert len(list(again.skeleton.flattened_groups())) == depth - 1
    assert document.kept[""].elements == [deep.replace("<a></a>", "<a/>")]


# Writing


@pytest.mark.parametrize("character", ["\x00", "\x0b", "\ud800", "\uffff"])
def test_characters_that_xml_cannot_hold_are_refused(character: str) -> None:
    document = parsed(SMALLEST.format(thing(NODE)))
    document.skeleton.get_node_by_id(1).comment = f"a{character}b"
    with pytest.raises(InvalidInput, match=f"U\\+{ord(character):04X}, which XML cannot hold"):
        written(document)


@pytest.mark.parametrize("value", [None, {"a": 1}, [1, 2], object(), b"x"])
def test_metadata_of_other_kinds_is_refused(value: Any) -> None:
    document = parsed(SMALLEST.format(thing(NODE)))
    document.skeleton.get_tree_by_id(1).metadata["k"] = value
    with pytest.raises(WrongUse, match="tree 1: metadata 'k'"):
        written(document)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    document = parsed(SMALLEST.format(thing(NODE)))
    document.skeleton.get_tree_by_id(1).metadata["k"] = value
    with pytest.raises(InvalidInput, match="only finite numbers"):
        written(document)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([SegmentGroup(1, "a", 2)], "segment group 1 .* has the parent 2"),
        ([SegmentGroup(1, "a", 2), SegmentGroup(2, "b", 1)], "does not lead to the top"),
        ([SegmentGroup(1, "a"), SegmentGroup(1, "b", 1)], "two segment groups have one id"),
    ],
)
def test_segment_groups_in_circles_are_refused(groups: list[SegmentGroup], message: str) -> None:
    document = parsed(SMALLEST.format('<volume id="0" name="v"/>'))
    document.volumes[0].segment_groups = groups
    with pytest.raises(WrongUse, match=message):
        written(document)


@pytest.mark.parametrize("number", [-1, 2**64, 1.5, "1"])
def test_segment_ids_that_do_not_fit_are_refused(number: Any) -> None:
    document = parsed(SMALLEST.format('<volume id="0" name="v"/>'))
    document.volumes[0].segments[number] = SegmentInformation()
    with pytest.raises(WrongUse, match="an id is a whole number from 0"):
        written(document)


def test_user_boxes_get_ids_of_their_own() -> None:
    document = parsed(SMALLEST.format(""))
    ids = [None, 1, 1, None, 0]
    document.user_boxes = [BoundingBox((n, 0, 0), (1, 1, 1), id=number) for n, number in enumerate(ids)]
    again = parsed(written(document)).user_boxes
    assert [box.id for box in again] == [2, 1, 3, 4, 0]
    assert [box.color for box in again] == [(0.2, 0.5, 0.1, 1)] * 5
    assert [box.name for box in again] == ["Unnamed Bounding Box"] * 5


def test_numpy_numbers_are_written_as_numbers() -> None:
    document = parsed(SMALLEST.format(thing(NODE)))
    metadata: dict[str, Any] = {"a": np.float32(0.5), "b": np.int16(3), "c": np.bool_(True)}
    document.skeleton.get_tree_by_id(1).metadata = metadata
    assert parsed(written(document)).skeleton.get_tree_by_id(1).metadata == {"a": 0.5, "b": 3, "c": True}


def test_many_nodes_of_mixed_kinds_are_written_in_order() -> None:
    document = parsed(SMALLEST.format(thing()))
    tree = document.skeleton.get_tree_by_id(1)
    count = 40_000  # more than are put into text at once
    for number in range(count):
        tree.add_node(
            (number, 0, 0), radius=number / 2 if number % 3 else None, interpolation=[None, True, False][number % 3]
        )
    tree.edge_ids = array("q", [tree.nodes[0].id, tree.nodes[1].id] * count)
    again = parsed(written(document))
    assert again == document
    assert len(again.skeleton.get_tree_by_id(1).edges) == count
