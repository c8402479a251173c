"""Skeletons built, changed and searched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxtract.errors import InvalidInput
from voxtract.webknossos import Annotation, Group, Skeleton, Tree


@pytest.fixture
def skeleton() -> Skeleton:
    """Two trees in two groups and one outside, ids 1 to 10."""
    skeleton = Skeleton("cortex", (1, 2, 3))
    outer = skeleton.add_group("outer")
    inner = outer.add_group("inner")
    a = inner.add_tree("a", color=(1, 0, 0))
    a.add_edge(a.add_node((1, 2, 3)), a.add_node((4, 5, 6), comment="end"))
    b = outer.add_tree("b", color=(0, 1, 0, 0.5))
    b.add_node((7, 8, 9))
    skeleton.add_tree("c").add_node((0, 0, 0))
    return skeleton


def test_ids_come_from_one_counter(skeleton: Skeleton) -> None:
    assert skeleton.id == 0
    assert [group.id for group in skeleton.flattened_groups()] == [1, 2]
    assert sorted(tree.id for tree in skeleton.flattened_trees()) == [3, 6, 8]
    assert sorted(node.id for tree in skeleton.flattened_trees() for node in tree.nodes) == [4, 5, 7, 9]


def test_groups_list_what_is_in_them(skeleton: Skeleton) -> None:
    (outer,) = skeleton.groups
    (inner,) = outer.groups
    assert [tree.name for tree in skeleton.trees] == ["c"]
    assert [child.name for child in outer.children] == ["inner", "b"]
    assert [tree.name for tree in outer.flattened_trees()] == ["b", "a"]
    assert list(outer.flattened_groups()) == [inner]
    assert [outer.get_total_node_count(), skeleton.get_total_node_count()] == [3, 4]
    assert [skeleton.get_max_tree_id(), skeleton.get_max_node_id()] == [8, 9]
    assert [inner.get_max_tree_id(), inner.get_max_node_id()] == [3, 5]
    empty = Skeleton("d", (1, 1, 1))
    assert [empty.get_max_tree_id(), empty.get_max_node_id(), empty.get_total_node_count()] == [0, 0, 0]
    assert empty.add_tree("t").get_node_positions().shape == (0, 3)


def test_finding_by_id(skeleton: Skeleton) -> None:
    assert skeleton.get_group_by_id(2).name == "inner"
    assert skeleton.get_tree_by_id(6).name == "b"
    assert skeleton.get_node_by_id(5).comment == "end"
    later = skeleton.get_tree_by_id(6).add_node((1, 1, 1))
    assert skeleton.get_node_by_id(later.id) == later
    inner = skeleton.get_group_by_id(2)
    for find, number in [
        (skeleton.get_group_by_id, 3),
        (skeleton.get_group_by_id, 0),
        (skeleton.get_tree_by_id, 4),
        (skeleton.get_node_by_id, 3),
        (inner.get_node_by_id, 7),
        (inner.get_tree_by_id, 6),
        (skeleton.get_tree_by_id(3).get_node_by_id, 7),
    ]:
        with pytest.raises(ValueError, match=f"{number}"):
            find(number)


def test_looking_up_every_node_does_not_scan_the_trees_each_time() -> None:
    skeleton = Skeleton("d", (1, 1, 1))
    ids = [skeleton.add_tree("t").add_node((n, 0, 0)).id for n in range(3000)]
    looked: list[int] = []
    original = Group.flattened_trees

    def counted(group: Group) -> Any:
        looked.append(1)
        return original(group)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Group, "flattened_trees", counted)
        assert [skeleton.get_node_by_id(number).position.x for number in ids] == list(range(3000))
    assert len(looked) == 1


def test_colors() -> None:
    tree = Skeleton("d", (1, 1, 1)).add_tree("t")
    assert Skeleton("d", (1, 1, 1)).add_tree("t").color is None
    tree.color = (0.1, 0.2, 0.3)
    assert tree.color == (0.1, 0.2, 0.3, 1.0)
    wrong: list[Any] = [(1, 2), "red", (1, 2, None), (1, 2, float("inf"))]
    for color in wrong:
        with pytest.raises(InvalidInput, match="color"):
            tree.color = color
    skeleton = Skeleton("d", (1, 1, 1))
    with pytest.raises(InvalidInput, match="color"):
        skeleton.add_tree("t", color=(1,))
    assert list(skeleton.trees) == []


def test_nodes_are_views_of_their_tree() -> None:
    tree = Skeleton("d", (1, 1, 1)).add_tree("t")
    node = tree.add_node((1, 2, 3), "c", 4.5, (1, 2, 3), 1, 2, 8, False, 77, True, 88)
    assert (node.comment, node.radius, node.rotation, node.inVp, node.inMag) == ("c", 4.5, (1, 2, 3), 1, 2)
    assert (node.bitDepth, node.interpolation, node.time, node.is_branchpoint, node.branchpoint_time) == (
        8,
        False,
        77,
        True,
        88,
    )
    same = tree.nodes[0]
    same.position = (7, 8, 9)
    same.comment = same.radius = same.rotation = same.interpolation = same.time = None
    same.inVp = same.inMag = same.bitDepth = None
    same.is_branchpoint = False
    assert (node.position, node.comment, node.radius, node.rotation, node.time) == ((7, 8, 9), None, None, None, None)
    assert (node.inVp, node.inMag, node.bitDepth, node.interpolation) == (None, None, None, None)
    assert (node.is_branchpoint, node.branchpoint_time) == (False, None)
    node.branchpoint_time = 5
    assert same.is_branchpoint
    node.branchpoint_time = None
    assert same.is_branchpoint
    node.additional_coordinates = {"t": 4}
    assert same.additional_coordinates == {"t": 4}
    same.additional_coordinates = {}
    assert node.additional_coordinates == {}
    assert node == same
    assert hash(node) == hash(same)
    assert node in tree
    assert repr(node) == "Node(id=2, position=(7, 8, 9))"


@pytest.mark.parametrize(
    "wrong",
    [
        {"position": (1, 2)},
        {"position": (1, 2, 0.5)},
        {"radius": float("nan")},
        {"rotation": (1, 2)},
        {"rotation": (1, 2, float("inf"))},
        {"inVp": 1.5},
        {"inMag": 2**63},
        {"time": -(2**63)},
        {"bitDepth": "8"},
        {"branchpoint_time": "now"},
    ],
)
def test_what_a_node_refuses_leaves_the_tree_unchanged(wrong: dict[str, Any]) -> None:
    skeleton = Skeleton("d", (1, 1, 1))
    tree = skeleton.add_tree("t")
    node = tree.add_node((1, 1, 1))
    with pytest.raises(InvalidInput):
        tree.add_node(**{"position": (0, 0, 0), **wrong})
    assert len(tree.nodes) == 1
    for name, value in wrong.items():
        with pytest.raises(InvalidInput):
            setattr(node, name, value)
    assert tree.add_node((0, 0, 0)).id == 3


def test_edges(skeleton: Skeleton) -> None:
    a, b = skeleton.get_tree_by_id(3), skeleton.get_tree_by_id(6)
    a.add_edge(5, 4)
    a.add_edge(a.nodes[0], 4)
    assert [(source.id, target.id) for source, target in a.edges] == [(4, 5), (5, 4), (4, 4)]
    assert a.edges[-1][0] == a.nodes[0]
    for ends in [(4, 7), (b.nodes[0], 4), (4, "x")]:
        with pytest.raises(InvalidInput, match=r"not in tree 3|whole number"):
            a.add_edge(*ends)  # type: ignore[arg-type]
    assert len(a.edges) == 3


def test_views_are_sequences(skeleton: Skeleton) -> None:
    nodes = skeleton.get_tree_by_id(3).nodes
    assert [node.id for node in nodes] == [4, 5]
    assert [node.id for node in nodes[::-1]] == [5, 4]
    assert nodes[-1].id == 5
    assert [node.id for node in reversed(nodes)] == [5, 4]
    with pytest.raises(IndexError):
        nodes[2]


def test_positions_are_a_copy(skeleton: Skeleton) -> None:
    tree = skeleton.get_tree_by_id(3)
    positions = tree.get_node_positions()
    assert positions.dtype == np.int64
    positions[:] = 0
    assert tree.get_node_positions().tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_copied_tree_has_ids_of_its_own(skeleton: Skeleton) -> None:
    original = skeleton.get_tree_by_id(3)
    original.metadata["list"] = ["x"]
    original.nodes[1].additional_coordinates = {"t": 3}
    for target in (skeleton, Skeleton("other", (1, 1, 1)), skeleton.add_group("more")):
        copy = target.add_tree(original)
        assert copy.color == (1.0, 0.0, 0.0, 1.0)
        assert copy.id != original.id
        assert not {node.id for node in copy.nodes} & {copy.id}
        assert copy.get_node_positions().tolist() == original.get_node_positions().tolist()
        assert [(a.comment, b.comment) for a, b in copy.edges] == [(None, "end")]
        assert copy.nodes[1].additional_coordinates == {"t": 3}
        copy.nodes[0].position = (0, 0, 0)
        copy.nodes[1].comment = "changed"
        copy.metadata["list"] = []
        assert original.nodes[0].position == (1, 2, 3)
        assert original.nodes[1].comment == "end"
        assert original.metadata == {"list": ["x"]}
    assert skeleton.add_tree(original, color=(0, 0, 1)).color == (0.0, 0.0, 1.0, 1.0)


CHANGES: list[Callable[[Skeleton], object]] = [
    lambda s: setattr(s, "dataset_name", "x"),
    lambda s: setattr(s, "voxel_size", (9, 9, 9)),
    lambda s: setattr(s, "organization_id", "x"),
    lambda s: setattr(s, "description", "x"),
    lambda s: setattr(s, "dataset_id", "x"),
    lambda s: s.add_group("x"),
    lambda s: s.add_tree("x"),
    lambda s: setattr(s.get_group_by_id(2), "name", "x"),
    lambda s: setattr(s.get_group_by_id(2), "is_expanded", False),
    lambda s: setattr(s.get_tree_by_id(3), "name", "x"),
    lambda s: setattr(s.get_tree_by_id(3), "color", (0, 0, 0)),
    lambda s: setattr(s.get_tree_by_id(3), "is_visible", False),
    lambda s: s.get_tree_by_id(3).metadata.update(x=1),
    lambda s: s.get_tree_by_id(3).add_node((0, 0, 0)),
    lambda s: s.get_tree_by_id(3).add_edge(4, 5),
    *(
        lambda s, name=name, value=value: setattr(s.get_node_by_id(4), name, value)
        for name, value in {
            "position": (0, 0, 0),
            "radius": 1.0,
            "rotation": (0, 0, 0),
            "inVp": 0,
            "inMag": 0,
            "bitDepth": 0,
            "interpolation": False,
            "time": 0,
            "comment": "",
            "is_branchpoint": True,
            "branchpoint_time": 0,
            "additional_coordinates": {"t": 0},
        }.items()
    ),
]


@pytest.mark.parametrize("change", range(len(CHANGES)))
def test_every_change_makes_skeletons_differ(change: int) -> None:
    def made() -> Skeleton:
        skeleton = Skeleton("cortex", (1, 2, 3))
        tree = skeleton.add_group("outer").add_group("inner").add_tree("a", color=(1, 0, 0))
        tree.add_edge(tree.add_node((1, 2, 3)), tree.add_node((4, 5, 6), comment="end"))
        return skeleton

    skeleton, other = made(), made()
    assert skeleton == other
    CHANGES[change](other)
    assert skeleton != other
    CHANGES[change](skeleton)
    assert skeleton == other


def test_a_value_taken_away_again_makes_no_difference() -> None:
    tree, other = (Skeleton("d", (1, 1, 1)).add_tree("t") for _ in range(2))
    for one in (tree, other):
        one.add_node((0, 0, 0))
    tree.nodes[0].radius = 3
    tree.nodes[0].additional_coordinates = {"t": 3}
    tree.nodes[0].radius = None
    tree.nodes[0].additional_coordinates = {}
    assert tree == other
    assert tree != 1
    assert isinstance(tree, Tree)


@pytest.mark.parametrize("voxel_size", [(1, 2), (1, 2, float("nan")), "abc", (1, 2, None)])
def test_voxel_sizes_that_are_none(voxel_size: Any) -> None:
    with pytest.raises(InvalidInput, match="voxel_size"):
        Skeleton("d", voxel_size)
    with pytest.raises(InvalidInput, match="unit 'cubit' is not known; allowed: nanometer"):
        Skeleton("d", (1, 1, 1)).scale = ((1, 1, 1), "cubit")


def test_trees_without_a_name_are_called_by_their_id(tmp_path: Path) -> None:
    skeleton = Skeleton("d", (1, 1, 1))
    assert skeleton.add_tree("").name == "tree1"


@pytest.mark.parametrize("name", ["axons.nml", "axons.zip"])
def test_skeletons_are_saved_and_loaded(skeleton: Skeleton, tmp_path: Path, name: str) -> None:
    skeleton.save(tmp_path / name)
    assert Skeleton.load(tmp_path / name) == skeleton
    annotation = Annotation.load(str(tmp_path / name))
    assert (annotation.name, annotation.time, annotation.skeleton) == ("axons", None, skeleton)


def test_groups_of_any_depth_are_compared_and_counted() -> None:
    def deep() -> Skeleton:
        skeleton = Skeleton("d", (1, 1, 1))
        group: Group = skeleton
        for _ in range(3000):
            group = group.add_group("g")
        group.add_tree("t").add_node((1, 1, 1))
        return skeleton

    assert deep() == deep()
    assert deep().get_total_node_count() == 1
    assert "1 trees" in repr(deep())
