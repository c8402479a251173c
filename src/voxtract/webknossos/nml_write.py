"""Write NML: the same bytes for the same document, a piece at a time."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, count
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.webknossos.boxes import BoundingBox, Color, Vec3Int, check_color
from voxtract.webknossos.errors import WrongUse
from voxtract.webknossos.kept import Kept
from voxtract.webknossos.nodes import OPTIONAL, NodeTable
from voxtract.webknossos.skeleton import Group, Skeleton, Tree

if TYPE_CHECKING:
    from voxtract.webknossos.document import Document
    from voxtract.webknossos.layers import SegmentGroup, SegmentInformation, VolumeLayer

ROWS = 1 << 12  # nodes or edges that are put into text at once
AT_ONCE = 1 << 20  # characters that are written at once
DEFAULT_COLOR = (0.2, 0.5, 0.1, 1.0)  # of a user bounding box without one: servers ask for a color

_FORBIDDEN = "\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff"
_NOT_IN_ATTRIBUTES = re.compile(f'[&<>"\t\n\r{_FORBIDDEN}]')
_NOT_IN_ELEMENTS = re.compile(f"[&<>\r{_FORBIDDEN}]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
_NAME = re.compile(r"[\w.-]+")

Pairs = Iterable[tuple[str, Any]]


def write(document: Document, stream: BinaryIO, locations: Mapping[int, str] | None = None) -> None:
    """Write an NML file.

    Parameters
    ----------
    document : Document
    stream : binary file
    locations : dict of volume layer id -> name of its zip, optional
        The layers that are not in it are written without data.

    Raises
    ------
    InvalidInput
        A text with characters that XML cannot hold, metadata of another kind than texts, numbers, bools and lists of
        texts, an id that does not fit, or segment groups in circles.
    """
    waiting: list[str] = []
    size = 0
    for piece in _pieces(document, locations or {}):
        waiting.append(piece)
        size += len(piece)
        if size >= AT_ONCE:
            stream.write("".join(waiting).encode())
            waiting.clear()
            size = 0
    stream.write("".join(waiting).encode())


def attribute_text(text: str) -> str:
    """Escape text for an attribute in double quotes; line ends and tabs survive reading."""
    return _NOT_IN_ATTRIBUTES.sub(_entity, text) if _NOT_IN_ATTRIBUTES.search(text) else text


def element_text(text: str) -> str:
    """Escape text between tags."""
    return _NOT_IN_ELEMENTS.sub(_entity, text)


def _entity(found: re.Match[str]) -> str:
    entity = _ENTITIES.get(found[0])
    if entity is None:
        raise InvalidInput(
            f"the text {found.string[:100]!r} holds U+{ord(found[0]):04X}, which XML cannot hold; remove that character"
        )
    return entity


def _attributes(pairs: Pairs) -> str:
    """Text of attributes; those that are None are left out."""
    return "".join([f' {name}="{_text(value)}"' for name, value in pairs if value is not None])


def _text(value: object) -> str:
    if isinstance(value, str):
        return attribute_text(value)
    if type(value) is int:
        return str(value)
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise InvalidInput(f"{value!r} is to be written; only finite numbers can be read back by WEBKNOSSOS")
        return repr(float(value))
    return attribute_text(str(value))


def _start(name: str, pairs: Pairs, kept: Kept, key: str = "") -> str:
    """Text of a start tag without its end, so that a child or nothing may follow."""
    unknown = kept.get(key)
    return f"<{name}{_attributes(pairs)}{_attributes(unknown.attributes.items()) if unknown else ''}"


def _kept_elements(kept: Kept, key: str = "") -> Iterator[str]:
    unknown = kept.get(key)
    return (f"{element}\n" for element in unknown.elements) if unknown else iter(())


def _element(name: str, pairs: Pairs, kept: Kept, key: str = "", children: Iterable[str] = ()) -> Iterator[str]:
    """Text of an element, with what is kept of it."""
    yield _start(name, pairs, kept, key)
    is_empty = True
    for child in chain(children, _kept_elements(kept, key)):
        yield ">\n" + child if is_empty else child
        is_empty = False
    yield "/>\n" if is_empty else f"</{name}>\n"


def _pieces(document: Document, locations: Mapping[int, str]) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="utf-8"?>\n'
    yield from _element("things", (), document.kept, children=_things(document, locations))


def _things(document: Document, locations: Mapping[int, str]) -> Iterator[str]:
    kept, skeleton = document.kept, document.skeleton
    yield from _element("parameters", (), kept, "parameters", _parameters(document))
    for name, content in document.meta.items():
        yield from _element("meta", (("name", name), ("content", content)), kept, f"meta/{name}")
    trees = sorted(_trees_in_groups(skeleton), key=lambda pair: pair[0].id)
    for tree, group in trees:
        yield from _thing(tree, group)
    yield from _element("branchpoints", (), kept, "branchpoints", _branchpoints(tree for tree, _ in trees))
    yield from _element("comments", (), kept, "comments", _comments(tree for tree, _ in trees))
    yield from _element("groups", (), kept, "groups", _groups(skeleton))
    for layer in document.volumes:
        yield from _volume(layer, locations.get(layer.id))


# Parameters


def _parameters(document: Document) -> Iterator[str]:
    kept, skeleton = document.kept, document.skeleton
    experiment = (
        ("name", skeleton.dataset_name),
        ("organization", skeleton.organization_id),
        ("datasetId", skeleton.dataset_id),
        ("description", skeleton.description),
        ("wkUrl", document.wk_url),
    )
    factor, unit = skeleton.scale
    yield from _element("experiment", experiment, kept, "experiment")
    yield from _element("scale", (*zip("xyz", factor, strict=True), ("unit", unit)), kept, "scale")
    single: list[tuple[str, Any, tuple[str, ...]]] = [
        ("offset", document.offset, ("x", "y", "z")),
        ("time", document.time, ("ms",)),
        ("editPosition", document.edit_position, ("x", "y", "z")),
        ("editRotation", document.edit_rotation, ("xRot", "yRot", "zRot")),
        ("zoomLevel", document.zoom_level, ("zoom",)),
        ("activeNode", document.active_node, ("id",)),
    ]
    for name, value, attributes in single:
        if value is not None:
            values = value if len(attributes) > 1 else (value,)
            values = map(_short, values) if name in ("offset", "editPosition") else values
            yield from _element(name, zip(attributes, values, strict=True), kept, name)
    for box, number in zip(document.user_boxes, _box_ids(document.user_boxes), strict=True):
        shown = (("id", number), ("name", box.name), ("isVisible", box.is_visible))
        pairs = (*shown, *_color(DEFAULT_COLOR if box.color is None else box.color), *_geometry(box))
        yield from _element("userBoundingBox", pairs, box.kept)
    if document.task_box is not None:
        box = document.task_box
        pairs = (("name", box.name), ("isVisible", box.is_visible), *_color(box.color), *_geometry(box))
        yield from _element("taskBoundingBox", pairs, box.kept)
    if document.axes or "additionalAxes" in kept:
        yield from _element("additionalAxes", (), kept, "additionalAxes", _axes(document))


def _axes(document: Document) -> Iterator[str]:
    for axis in document.axes:
        pairs = (("name", axis.name), ("index", axis.index), ("start", axis.start), ("end", axis.stop))
        yield from _element("additionalAxis", pairs, document.kept, f"additionalAxis/{axis.name}")


def _short(value: float) -> float:
    """Whole numbers without a fraction: some readers of positions take nothing else."""
    return int(value) if math.isfinite(value) and value == int(value) else value


def _box_ids(boxes: list[BoundingBox]) -> Iterator[int]:
    """Ids of user boxes: the box's own where it has one that no box before it has, else the next free one."""
    used: set[int] = set()
    own = {box.id for box in boxes}
    free = (number for number in count() if number not in own)
    for box in boxes:
        number = next(free) if box.id is None or box.id in used else box.id
        used.add(number)
        yield number


def _geometry(box: BoundingBox) -> Pairs:
    names = ("topLeftX", "topLeftY", "topLeftZ", "width", "height", "depth")
    return zip(names, (*box.topleft, *box.size), strict=True)


def _color(color: Color | None) -> Pairs:
    return () if color is None else zip(("color.r", "color.g", "color.b", "color.a"), color, strict=True)


# Trees, their groups, and what is said of their nodes


def _trees_in_groups(skeleton: Skeleton) -> Iterator[tuple[Tree, int | None]]:
    for tree in skeleton.trees:
        yield tree, None
    for group in skeleton.flattened_groups():
        for tree in group.trees:
            yield tree, group.id


def _thing(tree: Tree, group: int | None) -> Iterator[str]:
    shown = (("name", tree.name or f"tree{tree.id}"), ("isVisible", tree.is_visible))
    yield from _element(
        "thing", (("id", tree.id), *_color(tree.color), *shown, ("groupId", group)), tree.kept, "", _parts(tree)
    )


def _parts(tree: Tree) -> Iterator[str]:
    yield from _element("nodes", (), tree.kept, "nodes", _nodes(tree.table))
    yield from _element("edges", (), tree.kept, "edges", _edges(tree))
    yield from _metadata(tree.metadata, tree.kept, f"tree {tree.id}")


def _nodes(table: NodeTable) -> Iterator[str]:
    tails = _tails(table)
    for start in range(0, len(table), ROWS):
        part = table.rows(start, start + ROWS)
        template, columns = '<node id="%d"', [iter(part.columns["id"])]
        for name in ("radius", "x", "y", "z", *(name for name in OPTIONAL if name != "radius")):
            text, column = _column(name, part.columns.get(name))
            template += text
            columns += column
        if tails:
            template += "%s"
            columns.append(tails.get(row, "/>\n") for row in range(start, start + len(part)))
        else:
            template += "/>\n"
        yield "".join(map(template.__mod__, zip(*columns, strict=True)))


def _column(name: str, column: Any) -> tuple[str, list[Iterator[Any]]]:
    """Attribute `name` of many nodes: its place in the template, and what is put there."""
    if name in ("x", "y", "z"):
        is_whole = (np.floor(exact := np.frombuffer(column)) == exact).all()
        return f' {name}="%s"', [map(int, column) if is_whole else map(_short, column)]
    if column is None:
        return "", []
    none = OPTIONAL[name][1]
    lacking = column.count(none)
    if lacking == len(column):
        return "", []
    if name == "interpolation":
        return "%s", [map(("", f' {name}="false"', f' {name}="true"').__getitem__, (value + 1 for value in column))]
    if lacking:
        return "%s", [(f' {name}="{value!r}"' if value != none else "" for value in column)]
    if column.count(column[0]) == len(column):
        return f' {name}="{column[0]!r}"', []
    return f' {name}="%r"', [iter(column)]


def _tails(table: NodeTable) -> dict[int, str]:
    """Text of the end of a node, by row, where more than its columns is said of it."""
    attributes: dict[int, list[str]] = {}
    for axis, places in sorted(table.coordinates.items()):
        name = _coordinate(axis)
        for row, place in places.items():
            attributes.setdefault(row, []).append(f' {name}="{place}"')
    tails = {row: "".join(text) + "/>\n" for row, text in attributes.items()}
    for row, unknown in table.unknown.items():
        text = "".join(attributes.get(row, [])) + _attributes(unknown.attributes.items())
        tails[row] = text + (f">{''.join(unknown.elements)}</node>\n" if unknown.elements else "/>\n")
    return tails


def _coordinate(axis: str) -> str:
    if not _NAME.fullmatch(axis):
        raise InvalidInput(f"the additional axis {axis!r} cannot be written; use letters, digits and . _ - in its name")
    return f"additionalCoordinate-{axis}"


def _edges(tree: Tree) -> Iterator[str]:
    kept = {key for key in tree.kept if key.startswith("edge/")}
    ids = tree.edge_ids
    if kept:
        for edge, (source, target) in enumerate(zip(ids[::2], ids[1::2], strict=True)):
            yield from _element("edge", (("source", source), ("target", target)), tree.kept, f"edge/{edge}")
        return
    for start in range(0, len(ids), 2 * ROWS):
        part = ids[start : start + 2 * ROWS]
        pairs = zip(part[::2], part[1::2], strict=True)
        yield "".join(map('<edge source="%d" target="%d"/>\n'.__mod__, pairs))


def _branchpoints(trees: Iterable[Tree]) -> Iterator[str]:
    for tree in trees:
        ids = tree.table.columns["id"]
        for row, time in sorted(tree.table.branchpoints.items()):
            yield from _element("branchpoint", (("id", ids[row]), ("time", time)), tree.kept, f"branchpoint/{ids[row]}")


def _comments(trees: Iterable[Tree]) -> Iterator[str]:
    for tree in trees:
        ids = tree.table.columns["id"]
        for row, content in sorted(tree.table.comments.items()):
            key = f"comment/{ids[row]}"
            if key in tree.kept:
                yield from _element("comment", (("node", ids[row]), ("content", content)), tree.kept, key)
            else:
                yield f'<comment node="{ids[row]}" content="{attribute_text(content)}"/>\n'


def _groups(skeleton: Skeleton) -> Iterator[str]:
    def start(group: Group) -> str:
        pairs = (("id", group.id), ("name", group.name), ("isExpanded", group.is_expanded))
        return _start("group", pairs, group.kept)

    return _nested(skeleton.groups, lambda group: group.groups, start)


def _nested(tops: Iterable[Any], below: Callable[[Any], Iterable[Any]], start: Callable[[Any], str]) -> Iterator[str]:
    """Text of groups in groups, which files nest without limit."""
    waiting: list[Any] = [*reversed(list(tops))]
    while waiting:
        group = waiting.pop()
        if isinstance(group, str):
            yield group
            continue
        inner = list(below(group))
        elements = "".join(_kept_elements(group.kept))
        yield start(group) + (">\n" if inner or elements else "/>\n")
        if inner or elements:
            waiting += [f"{elements}</group>\n", *reversed(inner)]


def _metadata(metadata: Mapping[str, object], kept: Kept, where: str) -> Iterator[str]:
    if metadata or "metadata" in kept:
        yield from _element("metadata", (), kept, "metadata", _entries(metadata, kept, where))


def _entries(metadata: Mapping[str, object], kept: Kept, where: str) -> Iterator[str]:
    for key, value in metadata.items():
        pairs: list[tuple[str, Any]]
        if isinstance(value, bool | np.bool_):
            pairs = [("boolValue", value)]
        elif isinstance(value, numbers.Real):
            pairs = [("numberValue", value)]
        elif isinstance(value, str):
            pairs = [("stringValue", value)]
        elif isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            pairs = [(f"stringListValue-{place}", one) for place, one in enumerate(value)]
        else:
            raise WrongUse(f"{where}: metadata {key!r} is {value!r}; give a text, number, bool or list of texts")
        yield from _element("metadataEntry", [("key", key), *pairs], kept, f"metadata/{key}")


# Volume layers


def _volume(layer: VolumeLayer, location: str | None) -> Iterator[str]:
    pairs = (
        ("id", layer.id),
        ("name", layer.name),
        ("location", location),
        ("format", layer.data_format),
        ("fallbackLayer", layer.fallback_layer),
        ("largestSegmentId", layer.largest_segment_id),
        ("mappingName", layer.mapping_name),
        ("mappingIsLocked", layer.mapping_is_locked),
        ("editedMappingEdgesLocation", layer.edited_mapping_edges_location),
        ("editedMappingBaseMappingName", layer.edited_mapping_base_mapping_name),
    )
    yield from _element("volume", pairs, layer.kept, "", _segments_and_groups(layer))


def _segments_and_groups(layer: VolumeLayer) -> Iterator[str]:
    yield from _element("segments", (), layer.kept, "segments", _segments(layer))
    yield from _element("groups", (), layer.kept, "groups", _segment_groups(layer))


def _segments(layer: VolumeLayer) -> Iterator[str]:
    for number, segment in layer.segments.items():
        where = f"segment {number} of layer {layer.name!r}"
        pairs = _segment(number, segment, where)
        yield from _element("segment", pairs, segment.kept, "", _metadata(segment.metadata, segment.kept, where))


def _segment(number: object, segment: SegmentInformation, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(number, numbers.Integral) or not 0 <= int(number) < 2**64:
        raise WrongUse(f"{where}: an id is a whole number from 0 to 2**64 - 1")
    yield from (("id", number), ("name", segment.name), ("isVisible", segment.is_visible), ("created", segment.created))
    if segment.anchor_position is not None:
        names = ("anchorPositionX", "anchorPositionY", "anchorPositionZ")
        yield from zip(names, Vec3Int(segment.anchor_position), strict=True)
    yield from ((_coordinate(axis), place) for axis, place in segment.additional_coordinates.items())
    yield from _color(check_color(segment.color, where))
    yield ("groupId", segment.group_id)


def _segment_groups(layer: VolumeLayer) -> Iterator[str]:
    below: dict[int | None, list[SegmentGroup]] = {}
    for group in layer.segment_groups:
        below.setdefault(group.parent, []).append(group)
    _check_segment_groups(layer, below)

    def start(group: SegmentGroup) -> str:
        return _start("group", (("id", group.id), ("name", group.name)), group.kept)

    return _nested(below.get(None, []), lambda group: below.get(group.id, []), start)


def _check_segment_groups(layer: VolumeLayer, below: Mapping[int | None, list[SegmentGroup]]) -> None:
    ids = {group.id for group in layer.segment_groups}
    if len(ids) < len(layer.segment_groups):
        raise WrongUse(f"layer {layer.name!r}: two segment groups have one id; each needs its own")
    reached: list[int | None] = [None]
    for parent in reached:
        reached += [group.id for group in below.get(parent, [])]
    led_to = set(reached)
    lost = next((group for group in layer.segment_groups if group.id not in led_to), None)
    if lost is not None:
        raise WrongUse(
            f"layer {layer.name!r}: segment group {lost.id} ({lost.name}) has the parent {lost.parent}, which does not "
            "lead to the top; give the id of a group of this layer, or None"
        )
