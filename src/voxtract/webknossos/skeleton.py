"""Skeletons: groups of trees, whose nodes are kept as columns, so that a million of them stay small and quick.

Group, tree and node ids are three separate number spaces in files; new ids of all three come from one counter (`Ids`).
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.webknossos.boxes import Color, Vec3Int, check_color
from voxtract.webknossos.kept import Kept
from voxtract.webknossos.nodes import ROTATION, Node, NodeTable, Vector, View, check_integer, check_vector, stored
from voxtract.webknossos.units import NANOMETRES

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T", "Group", "Tree")
MetadataValue = str | int | float | bool | list[str]


class Ids:
    """The counter that new groups, trees and nodes of a skeleton take their ids from."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = 0

    def new(self) -> int:
        """Return an id above all seen so far."""
        if self.last >= 2**63 - 1:
            raise InvalidInput(f"no id is left above {self.last}; renumber the groups, trees and nodes")
        self.last += 1
        return self.last

    def seen(self, number: int) -> None:
        """Let new ids be larger than `number`."""
        self.last = max(self.last, number)


class Tree:
    """A tree of nodes and edges; it may have cycles or several pieces.

    Trees are made by `Group.add_tree`.

    Attributes
    ----------
    id : int
        Number, unique among the trees of the skeleton.
    name : str
    color : (red, green, blue, alpha) or None
        Numbers from 0 to 1.
    metadata : dict of str -> str, number, bool or list of str
    is_visible : bool
    table : NodeTable
        The nodes as columns, for code that looks at very many.
    edge_ids : array of int64
        Node ids of source, target, source, target, ...
    kept : dict
        What the file says of the tree that this version does not know.
    """

    __slots__ = ("_color", "_id", "_ids", "_row_of", "edge_ids", "is_visible", "kept", "metadata", "name", "table")

    def __init__(self, number: int, name: str, ids: Ids, color: Sequence[float] | None = None) -> None:
        self._id = number
        self._ids = ids
        self._row_of: dict[int, int] = {}  # of the first nodes; brought up to date when it is asked
        self.name = name or f"tree{number}"
        self.color = color
        self.metadata: dict[str, MetadataValue] = {}
        self.is_visible = True
        self.table = NodeTable()
        self.edge_ids: array[int] = array("q")
        self.kept: Kept = {}

    @property
    def id(self) -> int:
        """Number of the tree, unique among the trees of the skeleton."""
        return self._id

    @property
    def color(self) -> Color | None:
        """Red, green, blue, alpha from 0 to 1; RGB gets alpha 1 when it is assigned; None: no color."""
        return self._color

    @color.setter
    def color(self, color: Sequence[float] | None) -> None:
        self._color = check_color(color, f"tree {self._id}")

    def add_node(
        self,
        position: Iterable[int],
        comment: str | None = None,
        radius: float | None = None,
        rotation: Iterable[float] | None = None,
        inVp: int | None = None,
        inMag: int | None = None,
        bitDepth: int | None = None,
        interpolation: bool | None = None,
        time: int | None = None,
        is_branchpoint: bool = False,
        branchpoint_time: int | None = None,
    ) -> Node:
        """Add a node, with the next free id.

        Parameters
        ----------
        position : (x, y, z) int
            Voxel of mag 1.
        comment : str, optional
            Markdown.
        radius : float, optional
            In nanometres.
        rotation : (x, y, z) float, optional
            Angles in degrees.
        inVp, inMag, bitDepth, interpolation, time : optional
            What the viewer showed when the node was set, and when, in ms since 1970.
        is_branchpoint : bool
        branchpoint_time : int, optional
            In ms since 1970; makes the node a branch point.

        Returns
        -------
        Node

        Raises
        ------
        InvalidInput
            A value that is no number of its kind; the tree is unchanged.
        """
        place = Vec3Int(position)
        angles = (None,) * 3 if rotation is None else check_vector(rotation, "rotation of the new node")
        given = {
            "radius": radius,
            "inVp": inVp,
            "inMag": inMag,
            "bitDepth": bitDepth,
            "interpolation": interpolation,
            "time": time,
            **dict(zip(ROTATION, angles, strict=True)),
        }
        optional = {name: stored(name, value) for name, value in given.items()}
        marked = None if branchpoint_time is None else check_integer(branchpoint_time, "branchpoint_time")
        row = self.table.append(self._ids.new(), place, optional)
        if comment is not None:
            self.table.comments[row] = str(comment)
        if is_branchpoint or marked is not None:
            self.table.branchpoints[row] = marked
        return Node(self, row)

    def add_edge(self, node_1: Node | int, node_2: Node | int) -> None:
        """Connect two nodes of this tree, each given as a node or by its id.

        Raises
        ------
        InvalidInput
            A node that is not in this tree.
        """
        self.edge_ids.extend((self._own(node_1), self._own(node_2)))

    @property
    def nodes(self) -> View[Node]:
        """The nodes, in the order in which they were added."""
        return View(len(self.table), lambda row: Node(self, row))

    @property
    def edges(self) -> View[tuple[Node, Node]]:
        """Pairs (source, target) of nodes, in the order in which they were added."""
        ids = self.edge_ids
        return View(
            len(ids) // 2,
            lambda edge: (self.get_node_by_id(ids[2 * edge]), self.get_node_by_id(ids[2 * edge + 1])),
        )

    def get_node_by_id(self, node_id: int) -> Node:
        """Find a node of this tree.

        Raises
        ------
        InvalidInput
            There is none of this id.
        """
        row = self._row(node_id)
        if row is None:
            raise InvalidInput(f"tree {self.id} ({self.name}) has no node {node_id}")
        return Node(self, row)

    def has_node(self, node_id: int) -> bool:
        """Whether a node of this id is in the tree."""
        return self._row(node_id) is not None

    def get_node_positions(self) -> NDArray[np.int64]:
        """(N, 3) int64 voxels x, y, z of mag 1 of all nodes, a copy."""
        exact = np.array([self.table.columns[axis] for axis in "xyz"], dtype=np.float64).reshape(3, -1)
        return np.floor(exact.T + 0.5).astype(np.int64)

    def __len__(self) -> int:
        return len(self.table)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, node: object) -> bool:
        return isinstance(node, Node) and node._tree is self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tree):
            return NotImplemented
        return self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"Tree(id={self.id}, name={self.name!r}, {len(self.table)} nodes, {len(self.edge_ids) // 2} edges)"

    def _facts(self) -> tuple[Any, ...]:
        known = (self._id, self.name, self._color, self.metadata, self.is_visible, self.kept)
        return (*known, self.table, self.edge_ids)

    def _row(self, node_id: int) -> int | None:
        numbers, rows = self.table.columns["id"], self._row_of
        if len(rows) < len(numbers):
            rows.update(zip(numbers[len(rows) :], range(len(rows), len(numbers)), strict=True))
        return rows.get(node_id)

    def _own(self, node: Node | int) -> int:
        number = node.id if isinstance(node, Node) else check_integer(node, "node id")
        if (isinstance(node, Node) and node._tree is not self) or not self.has_node(number):
            raise InvalidInput(f"node {number} is not in tree {self.id} ({self.name}); edges join nodes of one tree")
        return number


class Group:
    """A named group of trees and of further groups.

    Groups are made by `add_group`; the outermost one is the `Skeleton`.

    Attributes
    ----------
    id : int
        Number, unique among the groups of the skeleton.
    name : str
    is_expanded : bool
        Whether the viewer shows what is in it.
    kept : dict
        What the file says of the group that this version does not know.
    """

    __slots__ = ("_groups", "_id", "_ids", "_nodes_indexed", "_tree_of_node", "_trees", "is_expanded", "kept", "name")

    def __init__(self, number: int, name: str, ids: Ids) -> None:
        self._id = number
        self._ids = ids
        self._groups: list[Group] = []
        self._trees: list[Tree] = []
        self._tree_of_node: dict[int, Tree] = {}  # as far as it was asked for; nodes never leave their tree
        self._nodes_indexed: dict[int, int] = {}  # of each tree, by its id
        self.name = name
        self.is_expanded = True
        self.kept: Kept = {}

    @property
    def id(self) -> int:
        """Number of the group, unique among the groups of the skeleton."""
        return self._id

    def add_group(self, name: str) -> Group:
        """Add an empty group, with the next free id."""
        group = Group(self._ids.new(), name, self._ids)
        self._groups.append(group)
        return group

    def add_tree(self, name_or_tree: str | Tree, color: Sequence[float] | None = None) -> Tree:
        """Add an empty tree, or a copy of a tree.

        Parameters
        ----------
        name_or_tree : str or Tree
            A copy takes new ids for the tree and its nodes, so it may come from this skeleton, too.
        color : RGB or RGBA, optional
            Numbers from 0 to 1. A copy has the color of its original where none is given.

        Returns
        -------
        Tree

        Raises
        ------
        InvalidInput
            A color that is none.
        """
        if isinstance(name_or_tree, Tree):
            tree = _copied(name_or_tree, self._ids, color)
        else:
            check_color(color, f"tree {name_or_tree!r}")
            tree = Tree(self._ids.new(), name_or_tree, self._ids, color)
        self._trees.append(tree)
        return tree

    @property
    def groups(self) -> Iterator[Group]:
        """The groups directly in this one."""
        return iter(self._groups)

    @property
    def trees(self) -> Iterator[Tree]:
        """The trees directly in this group."""
        return iter(self._trees)

    @property
    def children(self) -> Iterator[Group | Tree]:
        """The groups, then the trees directly in this group."""
        yield from self._groups
        yield from self._trees

    def flattened_groups(self) -> Iterator[Group]:
        """All groups below this one, each before the groups in it."""
        return (group for depth, group in self._outline() if depth)

    def flattened_trees(self) -> Iterator[Tree]:
        """All trees of this group and of those below it."""
        return (tree for _, group in self._outline() for tree in group._trees)

    def get_group_by_id(self, group_id: int) -> Group:
        """Find a group below this one; InvalidInput where there is none of this id."""
        return _only(self.flattened_groups(), "group", group_id)

    def get_tree_by_id(self, tree_id: int) -> Tree:
        """Find a tree of this group or of those below it; InvalidInput where there is none of this id."""
        return _only(self.flattened_trees(), "tree", tree_id)

    def get_node_by_id(self, node_id: int) -> Node:
        """Find a node of any tree of this group or of those below it; InvalidInput where there is none of this id."""
        tree = self._tree_of_node.get(node_id) or self._indexed().get(node_id)
        if tree is None:
            raise InvalidInput(f"there is no node {node_id} in {self!r}")
        return tree.get_node_by_id(node_id)

    def get_total_node_count(self) -> int:
        """Count the nodes of all trees of this group and of those below it."""
        return sum(len(tree.table) for tree in self.flattened_trees())

    def get_max_tree_id(self) -> int:
        """Return the largest id of a tree, 0 where there is none."""
        return max((tree.id for tree in self.flattened_trees()), default=0)

    def get_max_node_id(self) -> int:
        """Return the largest id of a node, 0 where there is none."""
        return max((max(tree.table.columns["id"], default=0) for tree in self.flattened_trees()), default=0)

    def __eq__(self, other: object) -> bool:
        return self._facts() == other._facts() if isinstance(other, Group) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        trees = sum(1 for _ in self.flattened_trees())
        nodes = self.get_total_node_count()
        return f"{type(self).__name__}(id={self.id}, name={self.name!r}, {trees} trees, {nodes} nodes)"

    def _outline(self) -> Iterator[tuple[int, Group]]:
        """Yield this group and all below it with their depths, each before those in it; files nest them at will."""
        waiting: list[tuple[int, Group]] = [(0, self)]
        while waiting:
            depth, group = waiting.pop()
            yield depth, group
            waiting.extend((depth + 1, below) for below in reversed(group._groups))

    def _indexed(self) -> dict[int, Tree]:
        """The tree of each node, brought up to date; looking up many nodes takes time in their number, not more."""
        for tree in self.flattened_trees():
            done = self._nodes_indexed.get(tree.id, 0)
            if done < len(tree.table):
                self._tree_of_node.update(dict.fromkeys(tree.table.columns["id"][done:], tree))
                self._nodes_indexed[tree.id] = len(tree.table)
        return self._tree_of_node

    def _facts(self) -> list[Any]:
        return [
            (
                depth,
                group._id,
                group.name,
                group.is_expanded,
                group.kept,
                sorted(group._trees, key=lambda tree: tree.id),
            )
            for depth, group in self._outline()
        ]


class Skeleton(Group):
    """The outermost group, and the dataset that its positions are of.

    Parameters
    ----------
    dataset_name : str
    voxel_size : (x, y, z)
        Nanometres; -1 on all axes: not known.
    organization_id, description, dataset_id : str, optional

    Raises
    ------
    InvalidInput
        A voxel size that is not three finite numbers.

    Examples
    --------
    >>> skeleton = Skeleton("cortex", (11.24, 11.24, 28))
    >>> tree = skeleton.add_group("axons").add_tree("axon 1", color=(1, 0, 0))
    >>> tree.add_edge(tree.add_node((1, 2, 3), comment="start"), tree.add_node((4, 5, 6)))
    >>> tree.get_node_positions().tolist(), skeleton.get_total_node_count(), skeleton.get_node_by_id(3).comment
    ([[1, 2, 3], [4, 5, 6]], 2, 'start')
    """

    __slots__ = ("_scale", "dataset_id", "dataset_name", "description", "organization_id")

    def __init__(
        self,
        dataset_name: str,
        voxel_size: Iterable[float],
        organization_id: str | None = None,
        description: str | None = None,
        dataset_id: str | None = None,
    ) -> None:
        super().__init__(0, "Root", Ids())
        self.dataset_name = dataset_name
        self.voxel_size = voxel_size
        self.organization_id = organization_id
        self.description = description
        self.dataset_id = dataset_id

    @property
    def voxel_size(self) -> Vector:
        """Size of a voxel along x, y, z in nanometres; -1 on all axes: not known."""
        factor, unit = self._scale
        if factor == (-1.0, -1.0, -1.0):
            return factor
        x, y, z = (value * NANOMETRES[unit] for value in factor)
        return x, y, z

    @voxel_size.setter
    def voxel_size(self, voxel_size: Iterable[float]) -> None:
        self._scale = (check_vector(voxel_size, "voxel_size"), "nanometer")

    @property
    def scale(self) -> tuple[Vector, str]:
        """Size of a voxel as a file says it: three numbers and the name of their unit, a key of `NANOMETRES`."""
        return self._scale

    @scale.setter
    def scale(self, scale: tuple[Iterable[float], str]) -> None:
        factor, unit = scale
        if unit not in NANOMETRES:
            raise InvalidInput(f"unit {unit!r} is not known; allowed: {', '.join(NANOMETRES)}")
        self._scale = (check_vector(factor, "scale"), unit)

    @classmethod
    def load(cls, file_path: str | os.PathLike[str]) -> Skeleton:
        """Read the skeleton of an annotation file, .nml or .zip; errors as `Annotation.load`."""
        from voxtract.webknossos.annotation import Annotation

        return Annotation.load(file_path).skeleton

    def save(self, out_path: str | os.PathLike[str]) -> None:
        """Write an annotation of this skeleton alone, .nml or .zip, called as the file; errors as `Annotation.save`."""
        from voxtract.webknossos.annotation import Annotation

        Annotation(os.path.splitext(os.path.basename(out_path))[0], skeleton=self, time=None).save(out_path)  # noqa: PTH119, PTH122

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Skeleton):
            return NotImplemented
        return self._dataset() == other._dataset() and self._facts() == other._facts()

    __hash__ = None  # type: ignore[assignment]

    def _dataset(self) -> tuple[Any, ...]:
        return self.dataset_name, self.voxel_size, self.organization_id, self.description, self.dataset_id


def _only(candidates: Iterable[T], kind: str, number: int) -> T:
    for one in candidates:
        if one.id == number:  # groups and trees have ids
            return one
    raise InvalidInput(f"there is no {kind} {number}")


def _copied(tree: Tree, ids: Ids, color: Sequence[float] | None) -> Tree:
    copy = Tree(ids.new(), tree.name, ids, tree.color if color is None else color)
    copy.metadata = {key: list(value) if isinstance(value, list) else value for key, value in tree.metadata.items()}
    copy.is_visible = tree.is_visible
    copy.kept = {place: one.copy() for place, one in tree.kept.items()}
    old = tree.table
    table = old.rows(0, len(old))
    table.columns["id"] = array("q", [ids.new() for _ in range(len(old))])
    table.comments = dict(old.comments)
    table.branchpoints = dict(old.branchpoints)
    table.coordinates = {axis: dict(values) for axis, values in old.coordinates.items()}
    table.unknown = {row: one.copy() for row, one in old.unknown.items()}
    copy.table = table
    renamed = dict(zip(old.columns["id"], table.columns["id"], strict=True))
    copy.edge_ids = array("q", map(renamed.__getitem__, tree.edge_ids))
    return copy
