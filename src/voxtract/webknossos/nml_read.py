"""Read NML: every fact, in time linear in the size of the file.

The file goes through expat once. The elements that stand there by the million (nodes, edges, comments, branch points)
are gathered as attribute lists and turned into columns a piece of the file at a time; all others are read by frames, a
stack of which mirrors the open elements. What no frame knows is kept as it stands and written back by `nml_write`.
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO
from xml.parsers import expat

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.document import AdditionalAxis, Document
from voxtract.webknossos.errors import FormatError
from voxtract.webknossos.kept import Kept, Unknown
from voxtract.webknossos.layers import SegmentGroup, SegmentInformation, VolumeLayer
from voxtract.webknossos.nml_columns import INTEGER, Column, Owners, Rows, Texts
from voxtract.webknossos.nml_elements import COORDINATE, Attributes, Frame, Make, metadata_value
from voxtract.webknossos.nml_write import attribute_text, element_text
from voxtract.webknossos.nodes import NO_INTEGER, OPTIONAL, NodeTable, rounded
from voxtract.webknossos.skeleton import Group, MetadataValue, Skeleton, Tree
from voxtract.webknossos.units import NANOMETRES, UNIT_SYMBOLS

if TYPE_CHECKING:
    from numpy.typing import NDArray

Handler = Callable[[str, list[str]], None]

PIECE = 1 << 17  # bytes of the file that are parsed at once
LARGEST_TOKEN = 64 << 20  # bytes of one tag or text; expat holds it in memory until it ends


def read(stream: BinaryIO, where: str) -> Document:
    """Read an NML file.

    Parameters
    ----------
    stream : binary file
        Read once, from here to its end.
    where : str
        What messages call it.

    Raises
    ------
    FormatError
        Not well-formed, with a document type (where entity bombs live), without what the format requires, a number that
        is none, two trees, nodes, groups or layers of one id, or a reference to a node or group that is not there.

    Warns
    -----
    UserWarning
        An offset that is not 0 (nothing is moved by it); two ``<meta>`` or metadata entries of one name, or two
        comments or branch points of one node, of which the last counts.
    """
    reader = _Reader(where)
    try:
        return reader.read(stream)
    finally:
        vars(reader).clear()  # its handlers refer back to it: without this, all it holds would stay until a collection


class _Reader:
    def __init__(self, where: str) -> None:
        self.where = where
        self.document = Document(Skeleton("Unnamed Experiment", (1, 1, 1)))
        self.kept = self.document.kept
        self.seen: set[str] = set()  # elements that may stand once
        self.trees: list[tuple[Tree, int, int, int | None]] = []  # with first node, first edge, and id of its group
        self.groups: dict[int, Group] = {}
        self.tree_ids: set[int] = set()
        self.table = NodeTable()  # of all trees, one after the other
        self.sources: array[int] = array("q")
        self.targets: array[int] = array("q")
        self.comments: tuple[list[str | None], array[int]] = ([], array("q"))
        self.branchpoints: tuple[array[int], array[int]] = (array("q"), array("q"))
        self.nodes = Rows("node", self.take_nodes)
        self.edges = Rows("edge", self.take_edges)
        self.comment_rows = Rows("comment", self.take_comments)
        self.branch_rows = Rows("branchpoint", self.take_branchpoints)
        self.many = (self.nodes, self.edges, self.comment_rows, self.branch_rows)
        self.gatherers = {rows.element: self.gatherer(rows) for rows in self.many}
        self.stack = [Frame({}, "", {"things": self.things})]
        self.parser = expat.ParserCreate()
        self.parser.ordered_attributes = True
        self.parser.StartDoctypeDeclHandler = self.refuse_doctype
        self.listen()

    def read(self, stream: BinaryIO) -> Document:
        parsed = 0
        try:
            while piece := stream.read(PIECE):
                self.parser.Parse(piece, False)
                parsed += len(piece)
                self.flush()
                if parsed - self.parser.CurrentByteIndex > LARGEST_TOKEN:
                    raise self.fault(f"a tag or text of more than {LARGEST_TOKEN:,} bytes; this is no annotation")
            self.parser.Parse(b"", True)
        except FormatError:
            raise
        except (expat.ExpatError, LookupError, ValueError) as why:
            raise self.fault(f"is no well-formed XML ({why}); download or export it again") from why
        self.flush()
        if "parameters" not in self.seen:
            raise self.fault("has no <parameters>, which name the dataset and its scale; this is no NML file")
        self.finish()
        return self.document

    def flush(self) -> None:
        for rows in self.many:
            rows.flush()

    def fault(self, message: str) -> FormatError:
        return FormatError(f"{self.where}: line {self.parser.CurrentLineNumber}: {message}")

    def warn(self, message: str) -> None:
        warnings.warn(f"{self.where}: {message}", UserWarning, stacklevel=6)

    def refuse_doctype(self, *_: object) -> None:
        raise self.fault("has a document type, which no NML file has and in which entity bombs hide; it is not read")

    # Elements in general

    def listen(self) -> None:
        """Have the frames read what comes."""
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end

    def start(self, name: str, attributes: list[str]) -> None:
        make = self.stack[-1].children.get(name)
        if make is None:
            if len(self.stack) == 1:
                raise self.fault(f"begins with <{name[:50]}>, an NML file begins with <things>")
            self.collect(name, attributes, self.stack[-1].unknown)
            return
        values = Attributes(name, dict(zip(attributes[::2], attributes[1::2], strict=True)), self.fault)
        frame = make(values)
        if values.left:
            frame.unknown.attributes.update(values.left)
        self.stack.append(frame)
        if frame.rows is not None:
            self.parser.StartElementHandler, self.parser.EndElementHandler = self.gatherers[frame.rows.element]

    def end(self, _: str) -> None:
        self.stack.pop()

    def gatherer(self, rows: Rows) -> tuple[Handler, Callable[[str], None]]:
        """Make what gathers the children of an element of which there may be millions: it runs for each of them."""
        inside = False
        element, append = rows.element, rows.waiting.append

        def start(name: str, attributes: list[str]) -> None:
            nonlocal inside
            if name == element and not inside:
                inside = True
                append(attributes)
            else:
                self.collect(name, attributes, rows.last_unknown() if inside else self.stack[-1].unknown)

        def end(_: str) -> None:
            nonlocal inside
            if inside:
                inside = False
            else:
                self.stack.pop()
                self.listen()

        return start, end

    def collect(self, name: str, attributes: list[str], unknown: Unknown) -> None:
        """Keep an element, which has just begun, as text."""
        before = self.parser.StartElementHandler, self.parser.EndElementHandler
        parts: list[str] = []
        depth = 0
        is_open = False  # the last start tag still lacks its >

        def start(name: str, attributes: list[str]) -> None:
            nonlocal depth, is_open
            pairs = zip(attributes[::2], attributes[1::2], strict=True)
            parts.append(
                (">" if is_open else "") + f"<{name}" + "".join(f' {k}="{attribute_text(v)}"' for k, v in pairs)
            )
            depth, is_open = depth + 1, True

        def text(data: str) -> None:
            nonlocal is_open
            parts.append((">" if is_open else "") + element_text(data))
            is_open = False

        def end(name: str) -> None:
            nonlocal depth, is_open
            parts.append("/>" if is_open else f"</{name}>")
            depth, is_open = depth - 1, False
            if not depth:
                unknown.elements.append("".join(parts))
                self.parser.StartElementHandler, self.parser.EndElementHandler = before
                self.parser.CharacterDataHandler = None

        start(name, attributes)
        self.parser.StartElementHandler, self.parser.EndElementHandler = start, end
        self.parser.CharacterDataHandler = text

    def leaf(self, key: str) -> Frame:
        return Frame(self.kept, key, {})

    def once(self, name: str) -> None:
        if name in self.seen:
            raise self.fault(f"<{name}> stands there twice")
        self.seen.add(name)

    def once_only(self, key: str, values: Attributes, message: str) -> None:
        if key in self.seen:
            raise values.fault(message)
        self.seen.add(key)

    # The document

    def things(self, _: Attributes) -> Frame:
        return Frame(
            self.kept,
            "",
            {
                "parameters": self.parameters,
                "meta": self.meta,
                "thing": self.thing,
                "branchpoints": lambda _: Frame(self.kept, "branchpoints", {}, self.branch_rows),
                "comments": lambda _: Frame(self.kept, "comments", {}, self.comment_rows),
                "groups": lambda _: Frame(self.kept, "groups", {"group": self.group_in(self.document.skeleton)}),
                "volume": self.volume,
            },
        )

    def meta(self, values: Attributes) -> Frame:
        name, content = values.text("name"), values.text("content")
        if name is None:
            raise values.fault("name is missing")
        if name in self.document.meta:
            self.warn(f"meta {name!r} stands there twice; the last one counts")
        self.document.meta[name] = content or ""
        return self.leaf(f"meta/{name}")

    def parameters(self, _: Attributes) -> Frame:
        self.once("parameters")
        readers: dict[str, Callable[[Attributes], None]] = {
            "experiment": self.experiment,
            "scale": self.scale,
            "offset": self.offset,
            "time": self.time,
            "editPosition": self.edit_position,
            "editRotation": self.edit_rotation,
            "zoomLevel": self.zoom_level,
            "activeNode": self.active_node,
        }

        def single(name: str, reader: Callable[[Attributes], None]) -> Make:
            def make(values: Attributes) -> Frame:
                self.once(name)
                reader(values)
                return self.leaf(name)

            return make

        children = {name: single(name, reader) for name, reader in readers.items()}
        axes: dict[str, Make] = {"additionalAxis": self.additional_axis}
        children |= {
            "userBoundingBox": self.user_box,
            "taskBoundingBox": self.task_box,
            "additionalAxes": lambda _: Frame(self.kept, "additionalAxes", axes),
        }
        return Frame(self.kept, "parameters", children)

    def experiment(self, values: Attributes) -> None:
        skeleton = self.document.skeleton
        skeleton.dataset_name = values.text("name") or "Unnamed Experiment"
        skeleton.organization_id = values.text("organization")
        skeleton.dataset_id = values.text("datasetId")
        skeleton.description = values.text("description")
        self.document.wk_url = values.text("wkUrl")

    def scale(self, values: Attributes) -> None:
        unit = (values.text("unit") or "").strip()
        unit = UNIT_SYMBOLS.get(unit, unit)
        if unit not in NANOMETRES:
            known = ", ".join([*NANOMETRES, *filter(None, UNIT_SYMBOLS)])
            raise values.fault(f"unit is {unit[:50]!r}; known are {known}")
        self.document.skeleton.scale = (values.vector("x", "y", "z"), unit)

    def offset(self, values: Attributes) -> None:
        self.document.offset = values.vector("x", "y", "z")
        if any(self.document.offset):
            self.warn(f"has the offset {self.document.offset}; nodes and boxes are not moved by it")

    def time(self, values: Attributes) -> None:
        self.document.time = values.integer("ms")

    def edit_position(self, values: Attributes) -> None:
        self.document.edit_position = values.vector("x", "y", "z")

    def edit_rotation(self, values: Attributes) -> None:
        self.document.edit_rotation = values.vector("xRot", "yRot", "zRot")

    def zoom_level(self, values: Attributes) -> None:
        text = values.left.get("zoom", "")
        self.document.zoom_level = values.integer("zoom") if INTEGER.fullmatch(text) else values.number("zoom")

    def active_node(self, values: Attributes) -> None:
        self.document.active_node = values.integer("id")

    def additional_axis(self, values: Attributes) -> Frame:
        name = values.text("name") or ""
        axis = AdditionalAxis(name, values.whole("index"), values.whole("start"), values.whole("end"))
        self.document.axes.append(axis)
        return self.leaf(f"additionalAxis/{name}")

    def user_box(self, values: Attributes) -> Frame:
        box = self.box(values)
        self.document.user_boxes.append(box)
        return Frame(box.kept, "", {})

    def task_box(self, values: Attributes) -> Frame:
        self.once("taskBoundingBox")
        self.document.task_box = box = self.box(values)
        return Frame(box.kept, "", {})

    def box(self, values: Attributes) -> BoundingBox:
        shown = values.boolean("isVisible")
        try:
            return BoundingBox(
                [values.whole(f"topLeft{axis}") for axis in "XYZ"],
                [values.whole(side) for side in ("width", "height", "depth")],
                values.text("name"),
                True if shown is None else shown,
                values.color(),
                id=values.integer("id"),
            )
        except FormatError:
            raise
        except InvalidInput as why:
            raise values.fault(str(why)) from why

    # Trees and their groups

    def thing(self, values: Attributes) -> Frame:
        skeleton = self.document.skeleton
        number = values.whole("id")
        if number in self.tree_ids:
            raise values.fault(f"there are two trees of the id {number}")
        self.tree_ids.add(number)
        skeleton._ids.seen(number)
        # Oldest files have the name in `comment`.
        name = values.text("name") if "name" in values.left else values.text("comment")
        tree = Tree(number, name or "", skeleton._ids, values.color())
        shown = values.boolean("isVisible")
        tree.is_visible = True if shown is None else shown
        group = values.integer("groupId")
        self.trees.append((tree, len(self.nodes), len(self.edges), None if group == -1 else group))
        return Frame(
            tree.kept,
            "",
            {
                "nodes": lambda _: Frame(tree.kept, "nodes", {}, self.nodes),
                "edges": lambda _: Frame(tree.kept, "edges", {}, self.edges),
                "metadata": self.metadata_of(tree.metadata, tree.kept),
            },
        )

    def metadata_of(self, found: dict[str, MetadataValue], kept: Kept) -> Make:
        def entry(values: Attributes) -> Frame:
            key = values.text("key") or ""
            if key in found:
                self.warn(f"the metadata entry {key!r} stands there twice; the last one counts")
            found[key] = metadata_value(values)
            return Frame(kept, f"metadata/{key}", {})

        return lambda _: Frame(kept, "metadata", {"metadataEntry": entry})

    def group_in(self, parent: Group) -> Make:
        def make(values: Attributes) -> Frame:
            number = values.whole("id")
            if number in self.groups:
                raise values.fault(f"there are two groups of the id {number}")
            parent._ids.seen(number)
            group = self.groups[number] = Group(number, values.text("name") or "", parent._ids)
            expanded = values.boolean("isExpanded")
            group.is_expanded = True if expanded is None else expanded
            parent._groups.append(group)
            return Frame(group.kept, "", {"group": self.group_in(group)})

        return make

    # Elements by the million

    def take_nodes(self, columns: dict[str, Texts], count: int) -> None:
        numbers = columns.get("id", [None] * count)

        def column(name: str, *, is_required: bool = False) -> Column:
            texts = columns.get(name, [None] * count)
            return Column(name, texts, lambda row: f"node {numbers[row] or ''}", self.fault, is_required)

        found: dict[str, array[Any]] = {"id": column("id", is_required=True).integers()}
        for axis in "xyz":
            found[axis] = column(axis, is_required=True).floats()
        for name in columns:
            if name in OPTIONAL:
                code = OPTIONAL[name][0]
                one = column(name)
                found[name] = one.floats() if code == "d" else one.integers() if code == "q" else one.booleans()
            elif name.startswith(COORDINATE):
                rows = zip(range(self.nodes.taken, self.nodes.taken + count), column(name).integers(), strict=True)
                at = self.table.coordinates.setdefault(name.removeprefix(COORDINATE), {})
                at.update((row, place) for row, place in rows if place != NO_INTEGER)
        self.table.extend(found)
        self.keep_attributes(self.nodes, columns, {"id", "x", "y", "z", *OPTIONAL}, COORDINATE)

    def take_edges(self, columns: dict[str, Texts], count: int) -> None:
        self.sources.extend(self.numbers("an edge", "source", columns, count))
        self.targets.extend(self.numbers("an edge", "target", columns, count))
        self.keep_attributes(self.edges, columns, {"source", "target"})

    def take_comments(self, columns: dict[str, Texts], count: int) -> None:
        contents, nodes = self.comments
        nodes.extend(self.numbers("a comment", "node", columns, count))
        contents.extend(columns.get("content", [""] * count))
        self.keep_attributes(self.comment_rows, columns, {"node", "content"})

    def take_branchpoints(self, columns: dict[str, Texts], count: int) -> None:
        nodes, times = self.branchpoints
        nodes.extend(self.numbers("a branch point", "id", columns, count))
        times.extend(self.numbers("a branch point", "time", columns, count, is_required=False))
        self.keep_attributes(self.branch_rows, columns, {"id", "time"})

    def numbers(
        self, what: str, name: str, columns: dict[str, Texts], count: int, *, is_required: bool = True
    ) -> array[int]:
        return Column(name, columns.get(name, [None] * count), lambda _: what, self.fault, is_required).integers()

    def keep_attributes(self, rows: Rows, columns: dict[str, Texts], known: set[str], prefix: str = "id") -> None:
        for name in columns.keys() - known:
            if name.startswith(prefix):
                continue
            for row, value in enumerate(columns[name], rows.taken):
                if value is not None:
                    rows.unknown.setdefault(row, Unknown()).attributes[name] = value

    # Volume layers

    def volume(self, values: Attributes) -> Frame:
        number = values.whole("id")
        self.once_only(f"volume layer {number}", values, f"there are two volume layers of the id {number}")
        layer = VolumeLayer(number, values.text("name") or "Volume")
        layer.location = values.text("location")
        layer.data_format = values.text("format")
        if layer.data_format not in (None, "wkw", "zarr3"):
            raise values.fault(f"format is {layer.data_format[:50]!r}; wkw or zarr3 is expected")
        layer.fallback_layer = values.text("fallbackLayer") or None
        if values.left.get("largestSegmentId"):
            layer.largest_segment_id = values.whole("largestSegmentId", 0, 2**64 - 1)
        values.left.pop("largestSegmentId", None)
        layer.mapping_name = values.text("mappingName")
        layer.mapping_is_locked = values.boolean("mappingIsLocked")
        layer.edited_mapping_edges_location = values.text("editedMappingEdgesLocation")
        layer.edited_mapping_base_mapping_name = values.text("editedMappingBaseMappingName")
        self.document.volumes.append(layer)
        groups = {"group": self.segment_group_in(layer, None)}
        return Frame(
            layer.kept,
            "",
            {
                "segments": lambda _: Frame(layer.kept, "segments", {"segment": self.segment_of(layer)}),
                "groups": lambda _: Frame(layer.kept, "groups", groups),
            },
        )

    def segment_of(self, layer: VolumeLayer) -> Make:
        def make(values: Attributes) -> Frame:
            number = values.whole("id", 0, 2**64 - 1)
            if number in layer.segments:
                raise values.fault(f"layer {layer.name!r} has two segments of the id {number}")
            anchor = [values.number(f"anchorPosition{axis}") for axis in "XYZ"]
            shown = values.boolean("isVisible")
            segment = layer.segments[number] = SegmentInformation(
                values.text("name"),
                None if None in anchor else tuple(rounded(place or 0) for place in anchor),
                values.color(),
                created=values.integer("created"),
                is_visible=True if shown is None else shown,
                group_id=values.integer("groupId"),
                additional_coordinates=values.coordinates(),
            )
            metadata = self.metadata_of(segment.metadata, segment.kept)
            return Frame(segment.kept, "", {"metadata": metadata})

        return make

    def segment_group_in(self, layer: VolumeLayer, parent: int | None) -> Make:
        def make(values: Attributes) -> Frame:
            number = values.whole("id")
            twice = f"layer {layer.name!r} has two segment groups of the id {number}"
            self.once_only(f"segment group {number} of layer {layer.id}", values, twice)
            group = SegmentGroup(number, values.text("name") or "", parent)
            layer.segment_groups.append(group)
            return Frame(group.kept, "", {"group": self.segment_group_in(layer, number)})

        return make

    # What can be told only at the end of the file: references, and which rows are whose

    def finish(self) -> None:
        for name in ("experiment", "scale"):
            if name not in self.seen:
                raise self.fault(f"<parameters> hold no <{name}>, which the format requires")
        self.put_trees_into_groups()
        owners = Owners(self.table, [start for _, start, _, _ in self.trees])
        if owners.duplicate is not None:
            raise self.fault(f"there are two nodes of the id {owners.duplicate}")
        self.document.skeleton._ids.seen(owners.largest)
        self.hand_out_edges(owners)
        self.hand_out_nodes(owners)

    def put_trees_into_groups(self) -> None:
        for tree, _, _, group_id in self.trees:
            group = self.document.skeleton if group_id is None else self.groups.get(group_id)
            if group is None:
                raise self.fault(f"tree {tree.id} ({tree.name}) is in group {group_id}, which is not in the file")
            group._trees.append(tree)

    def hand_out_edges(self, owners: Owners) -> None:
        pairs = np.stack([np.frombuffer(self.sources, np.int64), np.frombuffer(self.targets, np.int64)], axis=1)
        starts = [start for _, _, start, _ in self.trees]
        stops = [*starts, len(pairs)][1:]
        wanted = np.repeat(np.arange(len(self.trees)), np.subtract(stops, starts) if starts else [])
        for ends in pairs.T:
            wrong = np.flatnonzero(owners.of(ends) != wanted)
            if len(wrong):
                tree = self.trees[int(wanted[wrong[0]])][0]
                source, target = pairs[wrong[0]].tolist()
                raise self.fault(
                    f"tree {tree.id} ({tree.name}) has an edge from node {source} to node {target}, but node "
                    f"{int(ends[wrong[0]])} is not in that tree"
                )
        for (tree, *_), start, stop in zip(self.trees, starts, stops, strict=True):
            tree.edge_ids.frombytes(pairs[start:stop].tobytes())
        for row, unknown in self.edges.unknown.items():
            index = int(wanted[row])
            self.trees[index][0].kept[f"edge/{row - starts[index]}"] = unknown

    def hand_out_nodes(self, owners: Owners) -> None:
        for index, (tree, *_) in enumerate(self.trees):
            start, stop = owners.starts[index], owners.starts[index + 1]
            if stop > start:
                tree.table = self.table if stop - start == len(self.table) else self.table.rows(start, stop)
        coordinates, self.table.coordinates = self.table.coordinates, {}
        for axis, places in coordinates.items():
            for (table, row), place in zip(self.located(owners, list(places)), places.values(), strict=True):
                table.coordinates.setdefault(axis, {})[row] = place
        for (table, row), unknown in zip(
            self.located(owners, list(self.nodes.unknown)), self.nodes.unknown.values(), strict=True
        ):
            table.unknown[row] = unknown
        contents, nodes = self.comments
        for number, (table, row), content in zip(nodes, self.named(owners, nodes, "comment"), contents, strict=True):
            if row in table.comments:
                self.warn(f"node {number} has two comments; the last one counts")
            table.comments[row] = content or ""
        nodes, times = self.branchpoints
        for number, (table, row), time in zip(nodes, self.named(owners, nodes, "branch point"), times, strict=True):
            if row in table.branchpoints:
                self.warn(f"node {number} is a branch point twice; the last one counts")
            table.branchpoints[row] = None if time == NO_INTEGER else time
        for rows, ids in ((self.comment_rows, self.comments[1]), (self.branch_rows, self.branchpoints[0])):
            for row, unknown in rows.unknown.items():
                tree = self.trees[int(owners.of(np.array(ids[row : row + 1]))[0])][0]
                tree.kept[f"{rows.element}/{ids[row]}"] = unknown

    def located(self, owners: Owners, rows: list[int] | NDArray[np.int64]) -> Iterator[tuple[NodeTable, int]]:
        """Table, and row in it, of rows of the whole file."""
        at = np.asarray(rows, np.int64)
        trees = np.searchsorted(owners.starts, at, side="right") - 1
        inside = at - np.array(owners.starts)[trees]
        return ((self.trees[tree][0].table, row) for tree, row in zip(trees.tolist(), inside.tolist(), strict=True))

    def named(self, owners: Owners, ids: array[int], what: str) -> Iterator[tuple[NodeTable, int]]:
        """Table, and row in it, of nodes that something refers to by their ids."""
        rows = owners.rows(np.frombuffer(ids, np.int64))
        lost = np.flatnonzero(rows < 0)
        if len(lost):
            raise self.fault(f"there is a {what} of node {ids[lost[0]]}, which is not in the file")
        return self.located(owners, rows)
