"""The annotation of one volume, ``ann/<volume>.json``, as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, Grid, Plane, Shape3, View
from voxtract.read.supervisely.document import Node
from voxtract.read.supervisely.drawings import Drawing, drawing

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABEL_TAG = "label value"  # on an object: the number it had in the label volume it was written from

Scores = dict[View, dict[int, float]]  # view -> slice of the RAS grid -> score

_OF_NORMAL: dict[tuple[int, ...], View] = {(0, 0, 1): "axial", (0, 1, 0): "coronal", (1, 0, 0): "sagittal"}
_PLANE_KEY = re.compile(r"([01])-([01])-([01])")
_TO_RAS = {"RAS": (1, 1, 1), "LAS": (-1, 1, 1), "LPS": (-1, -1, 1)}
_KEY = re.compile("[0-9a-f]{32}")
_MASKS = ("mask_3d",)


@dataclass(frozen=True, slots=True)
class Thing:
    """An object: its class by name, and the number that a tag gives it."""

    key: str
    title: str
    label: int | None
    where: str


@dataclass(frozen=True, slots=True)
class Solid:
    """A mask in space; `embedded` is its data in the annotation, where there are any."""

    key: str
    thing: str
    embedded: Node | None
    scores: Scores
    where: str


@dataclass(frozen=True, slots=True)
class Sketch:
    """A figure on a slice of the RAS grid."""

    thing: str
    view: View
    index: int
    drawing: Drawing
    score: float | None


@dataclass(slots=True)
class Annotation:
    """What an annotation says.

    Parameters
    ----------
    shape : (x, y, z)
        Of the RAS grid.
    affine : (4, 4) float64, optional
        RAS+ mm, where the annotation has one.
    things : mapping of key to Thing
        In the order of the file.
    solids, sketches : figures in space, figures on slices
    tags : texts such as ``contrast = yes``, with whose they are
    skipped : (where, why) of figures that are of no use
    remarks : (where, what) a person should look at
    """

    shape: Shape3
    affine: NDArray[np.float64] | None
    things: dict[str, Thing] = field(default_factory=dict)
    solids: list[Solid] = field(default_factory=list)
    sketches: list[Sketch] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)

    def remark(self, where: str, message: str) -> None:
        """Add a remark."""
        self.remarks.append((where, message))


def parse(root: Node, known: Mapping[str, int]) -> Annotation:
    """Take an annotation apart.

    Parameters
    ----------
    root : Node
        The JSON file.
    known : names of the classes of the project

    Raises
    ------
    InvalidInput
        A field that is missing or of another kind, a class or an object that is not known, a key that is there twice,
        a slice outside of the volume, a score that is no number.
    """
    found = _volume(root.need("volumeMeta"))
    for entry in root.each("objects"):
        thing = _thing(entry, known, found)
        if thing.key in found.things:
            raise InvalidInput(f"{entry.where}.key: {thing.key} is there twice; repair it or export the project again")
        found.things[thing.key] = thing
    _note_tags(root, "volume", found)
    for figure in root.each("spatialFigures"):
        _add_solid(figure, found)
    for plane in root.each("planes"):
        view = _view(plane)
        for entry in plane.each("slices"):
            index = entry.need("index").integer()
            if not 0 <= index < Plane(view, found.shape).count:
                raise entry.need("index").unlike(f"a slice from 0 to {Plane(view, found.shape).count - 1}")
            for figure in entry.each("figures"):
                _add_sketch(figure, view, index, found)
    comments = [where for where, message in found.remarks if message == _COMMENT]
    if len(comments) > 1:  # one line says it
        found.remarks = [one for one in found.remarks if one[1] != _COMMENT]
        found.remark(root.where, f"{len(comments)} comments on scores are not kept, the first at {comments[0]}")
    return found


def key_of(node: Node) -> str:
    """Read a key: 32 hexadecimal digits, with or without dashes; it names a file.

    Raises
    ------
    InvalidInput
        Anything else.
    """
    key = node.text().replace("-", "").lower()
    if not _KEY.fullmatch(key):
        raise node.unlike("a key of 32 hexadecimal digits")
    return key


def _volume(meta: Node) -> Annotation:
    sizes = meta.need("dimensionsIJK")
    x, y, z = (sizes.need(axis).integer() for axis in "xyz")
    if min(x, y, z) < 1 or max(x, y, z) >= 1 << 31:
        raise sizes.unlike("sizes of at least 1")
    found = Annotation((x, y, z), None)
    axes = meta.get("ACS")
    signs = _TO_RAS.get("RAS" if axes is None else axes.text().upper())
    if signs is None:
        found.remark(meta.where, f"its axes are called {axes.text() if axes else ''!r}; taken as RAS")
    matrix = meta.get("IJK2WorldMatrix")
    if matrix is not None:
        found.affine = np.array(matrix.numbers(16)).reshape(4, 4)
    elif meta.get("spacing") and meta.get("origin") and meta.get("directions"):
        directions = np.array(meta.need("directions").numbers(9)).reshape(3, 3)
        found.affine = np.eye(4)
        found.affine[:3, :3] = directions * meta.need("spacing").numbers(3)
        found.affine[:3, 3] = meta.need("origin").numbers(3)
    if found.affine is not None:
        found.affine[:3] *= np.array(signs or (1, 1, 1))[:, None]
        if np.linalg.matrix_rank(found.affine[:3, :3]) < 3:
            raise meta.unlike("a matrix or directions that span a volume")
    for name, plain in (("rescaleSlope", 1), ("rescaleIntercept", 0)):
        value = meta.get(name)
        if value is not None and value.number() != plain:
            found.remark(value.where, f"{value.number():g} is not applied: the voxels are taken as they are stored")
    return found


def _thing(entry: Node, known: Mapping[str, int], found: Annotation) -> Thing:
    title = entry.need("classTitle")
    if title.text() not in known:
        raise InvalidInput(
            f"{title.where}: {title.text()!r} is no class of the project; meta.json has "
            f"{', '.join(map(repr, known)) or 'none'}: add it there or export the project again"
        )
    label = None
    for tag in entry.each("tags"):
        value = tag.get("value")
        if tag.need("name").text() == LABEL_TAG and value is not None:
            label = value.integer()
            if not 1 <= label < 1 << 63:
                raise value.unlike("a label value from 1 on")
    key = key_of(entry.need("key"))
    _note_tags(entry, f"object {key}", found)
    return Thing(key, title.text(), label, entry.where)


def _note_tags(entry: Node, owner: str, found: Annotation) -> None:
    for tag in entry.each("tags"):
        name, value = tag.need("name").text(), tag.get("value")
        if name != LABEL_TAG:
            found.tags.append(f"{owner}: {name}" + ("" if value is None else f" = {value.value}"))


def _owner(figure: Node, found: Annotation) -> str:
    key = figure.need("objectKey")
    if key_of(key) not in found.things:
        raise InvalidInput(f"{key.where}: {key.text()} is no object of this annotation; export the project again")
    return key_of(key)


def _add_solid(figure: Node, found: Annotation) -> None:
    thing, kind = _owner(figure, found), figure.need("geometryType").text()
    if kind not in _MASKS:
        found.skipped.append((figure.where, f"a figure of type {kind!r} in space, which has no voxels"))
        return
    geometry = figure.get("geometry")
    mask = None if geometry is None else geometry.get("mask_3d")
    embedded = None if mask is None else mask.get("data")
    _note_tags(figure, f"figure {figure.need('key').text()}", found)
    found.solids.append(Solid(key_of(figure.need("key")), thing, embedded, _scores(figure, found), figure.where))


def _add_sketch(figure: Node, view: View, index: int, found: Annotation) -> None:
    thing, shape = _owner(figure, found), drawing(figure)
    if shape is None:
        kind = figure.need("geometryType").text()
        found.skipped.append((figure.where, f"a figure of type {kind!r}, which is not read"))
        return
    columns, rows, _ = Plane(view, found.shape).axes
    width, height = found.shape[columns], found.shape[rows]
    left, top, right, bottom = shape.box
    if right < 0 or bottom < 0 or left >= width or top >= height:
        found.skipped.append((figure.where, f"a figure outside of its slice of {width} x {height} pixels"))
        return
    if left < 0 or top < 0 or right >= width or bottom >= height:
        found.remark(figure.where, f"reaches out of its slice of {width} x {height} pixels; what is outside is cut off")
    _note_tags(figure, f"figure {figure.need('key').text()}", found)
    scores = _scores(figure, found)
    score = scores.get(view, {}).pop(index, None)
    if any(scores.values()):
        found.remark(figure.where, "has scores of other slices than its own, which are not read")
    found.sketches.append(Sketch(thing, view, index, shape, score))


def _view(plane: Node) -> View:
    name = plane.get("name")
    if name is not None and name.text() in VIEWS:
        return next(view for view in VIEWS if view == name.text())
    normal = plane.need("normal")
    view = _OF_NORMAL.get(tuple(abs(normal.need(axis).integer()) for axis in "xyz"))
    if view is None:
        raise plane.unlike("a plane called 'axial', 'coronal' or 'sagittal', or its normal")
    return view


def _scores(figure: Node, found: Annotation) -> Scores:
    """Scores by view and slice of the RAS grid; comments and what else is there gets a remark."""
    scores: Scores = {}
    data = figure.get("customData")
    for name, slices in () if data is None else data.members():
        digits = _PLANE_KEY.fullmatch(name)
        view = _OF_NORMAL.get(tuple(map(int, digits.groups()))) if digits else None
        if view is None:
            found.remark(slices.where, "is not known and not read")
            continue
        for text, entry in slices.members():
            told = entry.get("score")
            score = None if told is None else _score(told)
            if not text.isdecimal() or int(text) >= Plane(view, found.shape).count:
                last = Plane(view, found.shape).count - 1
                found.remark(entry.where, f"is outside of the volume, whose {view} slices are 0 to {last}; not read")
            elif score is not None:
                scores.setdefault(view, {})[int(text)] = score
            if entry.get("comment") is not None and entry.need("comment").value != "":
                found.remark(entry.where, _COMMENT)
    return scores


_COMMENT = "its comment is not kept"


def _score(told: Node) -> float | None:
    if told.value == "":
        return None
    try:
        score = float(told.text()) if isinstance(told.value, str) else told.number()
    except ValueError as fault:
        raise told.unlike("a number, as text") from fault
    if not np.isfinite(score):
        raise told.unlike("a finite number")
    return score


def grid_of(found: Annotation) -> Grid | None:
    """The RAS grid, where the annotation says where it lies."""
    return None if found.affine is None else Grid(found.shape, found.affine)
