"""Classes of what was annotated: from the segments of volume layers and the trees of a skeleton."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from voxtract.classes import Category, ClassMap, color_of
from voxtract.webknossos.boxes import Color
from voxtract.webknossos.layers import VolumeLayer
from voxtract.webknossos.skeleton import Group, Skeleton, Tree

if TYPE_CHECKING:
    from numpy.typing import NDArray

ClassBy = Literal["segment", "group", "layer"]

NO_GROUP = "no group"
_UNNAMED = "segment_{}"


@dataclass(frozen=True, slots=True)
class Thing:
    """A segment or a tree: what it is called, the path of its group, its colour as ``#rrggbb`` where it has one."""

    name: str
    group: str = ""
    color: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Labels:
    """What is known of the values of one label volume before it is read.

    Parameters
    ----------
    name : str
        Of the label volume.
    things : mapping of id to Thing
        Those that are listed.
    limit : int
        No id is larger.
    first : (n,) int64, optional
        Of a skeleton: labels are numbers of nodes, and the tree of a node is found by the first node of each tree.
    trees : (n,) int64, optional
        Ids of these trees.
    """

    name: str
    things: Mapping[int, Thing] = field(default_factory=dict)
    limit: int = 2**63 - 1
    first: NDArray[np.int64] | None = None
    trees: NDArray[np.int64] | None = None


def of_layer(name: str, layer: VolumeLayer | None, itemsize: int) -> Labels:
    """What a volume layer says of its segments; nothing for a layer of a dataset."""
    limit = 2 ** (8 * itemsize) - 1 if itemsize < 8 else 2**53 - 1  # larger ones no server writes
    if layer is None:
        return Labels(name, limit=limit)
    groups = {group.id: group for group in layer.segment_groups}
    things = {}
    for number, segment in layer.segments.items():
        if not 0 < number < 2**63:
            continue
        path: list[str] = []
        above = groups.get(-1 if segment.group_id is None else segment.group_id)
        while above is not None and len(path) < len(groups):
            path.insert(0, above.name)
            above = groups.get(-1 if above.parent is None else above.parent)
        things[number] = Thing(_line(segment.name), _line("/".join(path)), _hex(segment.color))
    return Labels(name, things, limit)


def of_skeleton(name: str, skeleton: Skeleton) -> Labels:
    """The trees of a skeleton; nodes are counted through all of them, in their order."""
    things, first, trees, count = {}, [], [], 1
    for tree, path in with_groups(skeleton):
        things[tree.id] = Thing(_line(tree.name), _line(path), _hex(tree.color))
        first.append(count)
        trees.append(tree.id)
        count += len(tree.table)
    limit = 2**32 - 1 if max(trees, default=0) < 2**32 else 2**53 - 1
    return Labels(name, things, limit, np.array(first, np.int64), np.array(trees, np.int64))


def with_groups(skeleton: Skeleton) -> Iterator[tuple[Tree, str]]:
    """All trees with the path of their group, in the order of `Skeleton.flattened_trees`."""
    waiting: list[tuple[Group, str]] = [(skeleton, "")]
    while waiting:
        group, path = waiting.pop()
        for tree in group.trees:
            yield tree, path
        below = [(one, f"{path}/{one.name}" if path else one.name) for one in group.groups]
        waiting.extend(reversed(below))


@dataclass(frozen=True, eq=False, slots=True)
class Categories(Mapping[int, int]):
    """Class of each label: those of listed ids, of all others `rest` or, where that is None, the id itself + `shift`.

    Parameters
    ----------
    known : mapping of id to class
    rest : int, optional
    shift, limit : int
        Ids up to `limit` have a class.
    labels : Labels
        Of a skeleton, where labels are nodes.
    """

    known: Mapping[int, int]
    rest: int | None
    shift: int
    labels: Labels

    def __getitem__(self, label: int) -> int:
        number = label
        if self.labels.first is not None and self.labels.trees is not None:
            tree = int(np.searchsorted(self.labels.first, label, "right")) - 1
            if tree < 0:
                raise KeyError(label)
            number = int(self.labels.trees[tree])
        if number in self.known:
            return self.known[number]
        if not 0 < number <= self.labels.limit:
            raise KeyError(label)
        return number + self.shift if self.rest is None else self.rest

    def __iter__(self) -> Iterator[int]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


def classes_of(
    volumes: Sequence[Labels], by: ClassBy
) -> tuple[ClassMap, list[int | Mapping[int, int] | None], list[dict[int, str]]]:
    """Make classes of the labels of all label volumes.

    Parameters
    ----------
    volumes : sequence of Labels
    by : {"segment", "group", "layer"}
        Each segment or tree is a class; those of a group are one, or those of a layer.

    Returns
    -------
    the classes, and for each volume the class of its labels (`LabelVolume.category`) and keys (`LabelVolume.objects`)

    Notes
    -----
    By segment, the id of the class is that of the segment where there is one layer. The ids of several layers mean
    different things: those of the second are counted from 2**32 on, or from 2**53 where ids have 64 bits, and so on.
    """
    if by == "layer":
        categories = [Category(n, volume.name, color_of(n)) for n, volume in enumerate(volumes, 1)]
        keys = [_keys(volume) for volume in volumes]
        return ClassMap(tuple(_unique(categories))), list(range(1, len(volumes) + 1)), keys
    if by == "group":
        return _by_group(volumes)
    step = 2**32 if all(volume.limit < 2**32 for volume in volumes) else 2**53
    categories, of_volume = [], list[int | Mapping[int, int] | None]()
    for n, volume in enumerate(volumes):
        shift = n * step
        plain = len(volumes) == 1 and volume.first is None
        things = {id_: thing for id_, thing in sorted(volume.things.items()) if plain or id_ <= volume.limit}
        categories += [
            Category(number + shift, thing.name or _UNNAMED.format(number + shift), thing.color or color_of(number))
            for number, thing in things.items()
        ]
        of_volume.append(None if plain else Categories({m: m + shift for m in things}, None, shift, volume))
    return ClassMap(tuple(_unique(categories)), unnamed=_UNNAMED), of_volume, [{} for _ in volumes]


def _by_group(
    volumes: Sequence[Labels],
) -> tuple[ClassMap, list[int | Mapping[int, int] | None], list[dict[int, str]]]:
    names = sorted({thing.group for volume in volumes for thing in volume.things.values() if thing.group})
    number_of = {name: n for n, name in enumerate([*names, ""], 1)}
    of_volume: list[int | Mapping[int, int] | None] = [
        Categories({n: number_of[thing.group] for n, thing in volume.things.items()}, number_of[""], 0, volume)
        for volume in volumes
    ]
    categories = [Category(n, name or NO_GROUP, color_of(n)) for name, n in number_of.items()]
    return ClassMap(tuple(_unique(categories))), of_volume, [_keys(volume) for volume in volumes]


def _keys(volume: Labels) -> dict[int, str]:
    """Names of the segments, where the class is not the segment."""
    return {} if volume.first is not None else {n: thing.name for n, thing in volume.things.items() if thing.name}


def _unique(categories: Iterable[Category]) -> list[Category]:
    """The same with the id behind names that would stand for two classes."""
    listed = list(categories)
    often = Counter(category.name for category in listed)
    return [
        Category(one.id, f"{one.name} ({one.id})", one.color) if often[one.name] > 1 or _misleads(one) else one
        for one in listed
    ]


def _misleads(one: Category) -> bool:
    """Whether a class is called like the one of another id that has no name."""
    return re.fullmatch(r"segment_\d+", one.name) is not None and one.name != _UNNAMED.format(one.id)


def _line(text: str | None) -> str:
    """Text on one line."""
    return " ".join((text or "").split())


def _hex(color: Color | None) -> str | None:
    if color is None:
        return None
    return "#" + "".join(f"{min(255, max(0, round(255 * part))):02x}" for part in color[:3])
