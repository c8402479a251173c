"""Annotations made by hand and by Hypothesis, and what an XML file says, read the slow way."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from voxtract.webknossos import (
    AdditionalAxis,
    Annotation,
    BoundingBox,
    SegmentGroup,
    SegmentInformation,
    Skeleton,
)
from voxtract.webknossos.document import Document
from voxtract.webknossos.nml_read import read
from voxtract.webknossos.nml_write import write

SMALLEST = '<things><parameters><experiment name="d"/><scale x="1" y="1" z="1"/></parameters>{}</things>'

FULL = """<?xml version="1.0" encoding="utf-8"?>
<!-- a comment before the root -->
<things schema="7" xmlns:lab="urn:lab">
  <groups lab:sorted="yes">
    <group id="40" name="outer &lt;1&gt;" isExpanded="true" lab:mood="good">
      <group name="inner" id="41" isExpanded="false"><lab:note>kept</lab:note></group>
    </group>
    <group id="42" name="no trees"/>
  </groups>
  <comments><comment content="a &quot;b&quot;&#10;&#9;c" node="5" lab:by="me"/><comment node="9" content=""/></comments>
  <branchpoints><branchpoint id="6" time="1700000000002"/><branchpoint id="9"/></branchpoints>
  <meta name="writer" content="by hand"/>
  <meta content="0123456789abcdef01234567" name="annotationId"/>
  <meta name="username" content="J&#246;rg"/>
  <meta name="taskId" content="77" lab:x="1"/>
  <thing name="axon" groupId="41" id="31" color.r="0.25" color.g="0.5" color.b="0.75" color.a="0.5" isVisible="false"
         type="AGGLOMERATE">
    <nodes lab:n="3">
      <node id="5" x="-1" y="2" z="3" radius="12.5" rotX="0.1" rotY="90.0" rotZ="359.9" inVp="2" inMag="4" bitDepth="8"
            interpolation="false" time="1700000000001" additionalCoordinate-t="7" lab:q="a&amp;b"/>
      <node z="33" y="22" id="6" x="11"/>
      <node id="9" x="1.5" y="2.4" z="-2.6" interpolation="true"><lab:mark at="1">deep <b>er</b></lab:mark></node>
    </nodes>
    <edges><edge target="6" source="5"/><edge source="9" target="6" lab:w="2"/></edges>
    <metadata>
      <metadataEntry key="text" stringValue="t"/>
      <metadataEntry key="int" numberValue="3"/>
      <metadataEntry key="float" numberValue="0.5"/>
      <metadataEntry key="flag" boolValue="false"/>
      <metadataEntry key="list" stringListValue-1="y" stringListValue-0="x" stringListValue-2="z"/>
      <metadataEntry key="nothing"/>
      <metadataEntry key="odd" dateValue="today"/>
    </metadata>
    <lab:trace/>
  </thing>
  <thing id="30" comment="old name" colorr="0.1" colorg="0.2" colorb="0.3" colora="0.4" groupId="-1">
    <nodes><node id="70" x="3.0" y="4.0" z="5.0"/></nodes><edges/>
  </thing>
  <thing id="32" colorr="-1" colorg="-1" colorb="-1" colora="-1" groupId=""><nodes/><edges/></thing>
  <parameters>
    <scale x="0.5" y="0.5" z="1.25" unit="\u00b5m"/>
    <experiment name="cortex &amp; co" organization="org" datasetId="d1" description="" wkUrl="https://wk.example.org"/>
    <time ms="1700000000000"/>
    <editPosition x="10" y="20.5" z="30" additionalCoordinate-t="3"/>
    <editRotation xRot="0.5" yRot="90.0" zRot="-1.0"/>
    <zoomLevel zoom="2"/>
    <activeNode id="6"/>
    <userBoundingBox id="4" name="first" isVisible="false" color.r="0.25" color.g="0.5" color.b="0.75" color.a="1.0"
                     topLeftX="1" topLeftY="2" topLeftZ="3" width="4" height="5" depth="6" lab:z="1"><lab:in/>
    </userBoundingBox>
    <userBoundingBox id="9" color.r="" color.g="" color.b="" color.a="" topLeftX="-5.0" topLeftY="0"
                     topLeftZ="0" width="1" height="10" depth="0"/>
    <taskBoundingBox topLeftX="100" topLeftY="200" topLeftZ="300" width="64" height="32" depth="16"/>
    <additionalAxes><additionalAxis name="t" index="1" start="-2" end="10" lab:u="s"/></additionalAxes>
    <lab:setting on="true"/>
  </parameters>
  <volume id="3" name="cells" format="wkw" fallbackLayer="seg" largestSegmentId="18446744073709551615" mappingName="m"
          mappingIsLocked="true" editedMappingEdgesLocation="edges.zip" editedMappingBaseMappingName="base" lab:v="1">
    <segments>
      <segment id="1" name="Cell 1" created="1700000000003" isVisible="false" anchorPositionX="1" anchorPositionY="2"
               anchorPositionZ="3" additionalCoordinate-t="4" color.r="1.0" color.g="0.0" color.b="0.5" color.a="1.0"
               groupId="2" lab:s="2">
        <metadata><metadataEntry key="reviewed" boolValue="true"/></metadata>
      </segment>
      <segment id="18446744073709551615" name=""/>
      <segment id="9007199254740993" color.r="" color.g="" color.b="" color.a=""/>
    </segments>
    <groups><group name="A" id="1"><group id="2" name="A.1" lab:g="3"/></group></groups>
    <!-- comments may stand anywhere -->
  </volume>
  <volume id="0" fallbackLayer="seg"/>
  <lab:extra a="&lt;">text &amp; more<inner/></lab:extra>
</things>
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def parsed(text: str | bytes) -> Document:
    return read(io.BytesIO(text.encode() if isinstance(text, str) else text), "test.nml")


def written(document: Document) -> str:
    stream = io.BytesIO()
    write(document, stream)
    return stream.getvalue().decode()


Fact = tuple[str, str, Any]

# What says which element is meant, where several of one name stand beside each other.
KEYS = {
    "metadataEntry": ["key"],
    "meta": ["name"],
    "comment": ["node"],
    "edge": ["source", "target"],
    "additionalAxis": ["name"],
}


def facts(text: str) -> Counter[Fact]:
    """Every attribute and text of an XML file, with the way to it; numbers by value, nothing that is empty."""
    found: Counter[Fact] = Counter()

    def walk(element: ET.Element, way: str) -> None:
        keys = KEYS.get(element.tag, ["id"])
        way += f"/{element.tag}" + "".join(f"[{key}={element.get(key)}]" for key in keys if element.get(key))
        for name, value in element.attrib.items():
            if value:
                found[way, name, _value(value)] += 1
        if element.text and element.text.strip():
            found[way, "text", element.text.strip()] += 1
        for child in element:
            walk(child, way)

    walk(ET.fromstring(text), "")  # made here, or by the code under test
    return found


def _value(text: str) -> Any:
    try:
        return int(text)  # ids beyond 2**53 must not become floats
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


# What XML can hold: no surrogates, no control characters but tab and line ends.
TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff")
    | st.sampled_from("\t\n\r &<>\"'"),
    max_size=6,
)
NAMES = st.text("ab.-_ cÄ1", min_size=1, max_size=5)
INT64 = st.integers(-(2**63) + 1, 2**63 - 1)
SMALL = st.integers(-(2**40), 2**40)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
UNIT = st.floats(0, 1)
COLORS = st.none() | st.tuples(UNIT, UNIT, UNIT, UNIT)
VALUES = TEXT | INT64 | FLOATS | st.booleans() | st.lists(TEXT, max_size=3)
METADATA = st.dictionaries(TEXT, VALUES, max_size=3)
AXES = st.sampled_from(["t", "angle-1", "q.r"])
COORDINATES = st.dictionaries(AXES, INT64, max_size=2)
POINTS = st.tuples(SMALL, SMALL, SMALL)
VECTORS = st.tuples(FLOATS, FLOATS, FLOATS)


@st.composite
def boxes(draw: st.DrawFn) -> BoundingBox:
    size = draw(st.tuples(*[st.integers(0, 2**31)] * 3))
    return BoundingBox(
        draw(POINTS), size, draw(TEXT), draw(st.booleans()), draw(COLORS), id=draw(st.none() | st.integers(0, 9))
    )


@st.composite
def skeletons(draw: st.DrawFn) -> Skeleton:
    optional = st.none() | TEXT
    skeleton = Skeleton(draw(TEXT.filter(bool)), draw(VECTORS), draw(optional), draw(optional), draw(optional))
    groups = [skeleton, *(skeleton.add_group(draw(TEXT)) for _ in range(draw(st.integers(0, 2))))]
    groups += [draw(st.sampled_from(groups)).add_group(draw(TEXT)) for _ in range(draw(st.integers(0, 3)))]
    for group in groups[1:]:
        group.is_expanded = draw(st.booleans())
    for _ in range(draw(st.integers(0, 4))):
        tree = draw(st.sampled_from(groups)).add_tree(draw(TEXT), draw(COLORS))
        tree.metadata = draw(METADATA)
        tree.is_visible = draw(st.booleans())
        for _ in range(draw(st.integers(0, 4))):
            node = tree.add_node(
                draw(POINTS),
                comment=draw(st.none() | TEXT),
                radius=draw(st.none() | FLOATS),
                rotation=draw(st.none() | VECTORS),
                inVp=draw(st.none() | INT64),
                inMag=draw(st.none() | INT64),
                bitDepth=draw(st.none() | INT64),
                interpolation=draw(st.none() | st.booleans()),
                time=draw(st.none() | INT64),
                is_branchpoint=draw(st.booleans()),
                branchpoint_time=draw(st.none() | INT64),
            )
            node.additional_coordinates = draw(COORDINATES)
        if len(tree.nodes):
            ends = st.sampled_from(list(tree.nodes))
            for _ in range(draw(st.integers(0, 4))):
                tree.add_edge(draw(ends), draw(ends))
    return skeleton


@st.composite
def segments(draw: st.DrawFn) -> SegmentInformation:
    return SegmentInformation(
        draw(st.none() | TEXT),
        draw(st.none() | POINTS),
        draw(COLORS),
        draw(METADATA),
        created=draw(st.none() | INT64),
        is_visible=draw(st.booleans()),
        group_id=draw(st.none() | INT64),
        additional_coordinates=draw(COORDINATES),
    )


@st.composite
def any_annotation(draw: st.DrawFn) -> Annotation:
    """Annotations with everything but voxels."""
    annotation = Annotation(
        draw(NAMES).strip(". ") or "a",
        skeleton=draw(skeletons()),
        owner_name=draw(st.none() | TEXT),
        annotation_id=draw(st.none() | TEXT),
        time=draw(st.none() | INT64),
        edit_position=draw(st.none() | VECTORS),
        edit_rotation=draw(st.none() | VECTORS),
        zoom_level=draw(st.none() | INT64 | FLOATS),
        metadata=draw(
            st.dictionaries(TEXT.filter(lambda name: name not in ("username", "annotationId")), TEXT, max_size=3)
        ),
        task_bounding_box=draw(st.none() | boxes()),
        user_bounding_boxes=draw(st.lists(boxes(), max_size=3)),
    )
    annotation.active_node = draw(st.none() | INT64)
    annotation.wk_url = draw(st.none() | TEXT)
    axes = draw(st.dictionaries(AXES, st.tuples(SMALL, SMALL, SMALL), max_size=2))
    annotation.additional_axes = [AdditionalAxis(name, *numbers) for name, numbers in axes.items()]
    for _ in range(draw(st.integers(0, 2))):
        layer = annotation.add_volume_layer(draw(TEXT.filter(bool)), fallback_layer=draw(st.none() | TEXT.filter(bool)))
        layer.largest_segment_id = draw(st.none() | st.integers(0, 2**64 - 1))
        layer.data_format = draw(st.sampled_from([None, "wkw", "zarr3"]))
        layer.segments.update(draw(st.dictionaries(st.integers(0, 2**64 - 1), segments(), max_size=3)))
        layer.segment_groups = draw(segment_groups())
        layer.mapping_name = draw(st.none() | TEXT)
        layer.mapping_is_locked = draw(st.none() | st.booleans())
        layer.edited_mapping_base_mapping_name = draw(st.none() | TEXT)
    return annotation


@st.composite
def segment_groups(draw: st.DrawFn) -> list[SegmentGroup]:
    """Groups as a walk through their tree meets them."""
    ids = draw(st.lists(INT64, unique=True, max_size=4))
    way: list[int] = []
    groups = []
    for number in ids:
        del way[draw(st.integers(0, len(way))) :]
        groups.append(SegmentGroup(number, draw(TEXT), way[-1] if way else None))
        way.append(number)
    return groups
