"""Volume projects as Supervisely keeps them on disk: ``meta.json``, ``volume/``, ``ann/``, ``mask/``."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from voxtract.classes import Category, ClassMap, color_of
from voxtract.errors import InvalidInput, NotFound, UnreadableFile, VoxtractError
from voxtract.geometry import VIEWS, Grid
from voxtract.model import Case, LabelVolume, Match, Remark, Skipped, Source, VolumeFile
from voxtract.read.nrrd import NrrdFile
from voxtract.read.oriented import Oriented
from voxtract.read.supervisely import names
from voxtract.read.supervisely.annotation import Annotation, Solid, grid_of, parse
from voxtract.read.supervisely.document import Node, load
from voxtract.read.supervisely.drawings import Drawn, DrawnFile, in_layers
from voxtract.read.supervisely.masks import EmbeddedMask, MaskFile, Placed, embedded_shape

META = "meta.json"
_OF_PROJECT = {META, "key_id_map.json", "class2idx.json"}
_OF_DATASET = {"volume", "ann", "mask", "interpolation", "datasets"}
_PIXEL_VALUE = re.compile(r"Mask pixel value: ([0-9]+)")
_JUNK = {".ds_store", "__macosx", "thumbs.db", "desktop.ini"}
_WITHIN = 0.1  # voxels that corners of the same volume may lie apart in two headers


def is_project(path: Path) -> bool:
    """Whether a folder holds a volume project: ``meta.json`` beside a dataset with ``volume`` or ``ann``."""
    return (path / META).is_file() and any(True for _ in _datasets(path, "", []))


def open_project(path: Path) -> Source:
    """List the volumes of a project; annotations and the headers of volumes are read, no voxels.

    Each figure in space is a label volume of its own, because figures may overlap. Figures on slices are painted into
    as few label volumes as need be, which are looked at in their own view only. All are on the RAS grid of the volume.
    A label value is the tag ``label value`` of the object; in an annotation without such tags it is the id of the
    class where each class has one object, and otherwise a number from 1 on in the order of the objects. The id of a
    class is the n of the description ``Mask pixel value: n``, or else the next free number.

    Parameters
    ----------
    path : Path
        The folder with ``meta.json``.

    Returns
    -------
    Source
        An item that cannot be read is in ``skipped`` with the reason, and the others are cases. Tags are in
        ``matches``; comments on scores are not kept, which a remark says.

    Raises
    ------
    NotFound, UnreadableFile, DamagedFile, InvalidInput
        No project, a ``meta.json`` that cannot be worked with, or no item that can be read.
    """
    listing = _Listing(path)
    classes = listing.read_classes(load(path / META))
    datasets = list(_datasets(path, "", listing.skipped))
    if not datasets:
        raise NotFound(f"{path}: holds no dataset with the folders 'volume' and 'ann'; give the folder with {META}")
    for name, folder in datasets:
        listing.read_dataset(name if len(datasets) > 1 else "", folder)
    if not listing.cases:
        first = f"; the first of {len(listing.skipped)}: {listing.skipped[0].reason}" if listing.skipped else ""
        raise InvalidInput(f"{path}: no volume of the project can be used{first}")
    return Source(
        f"{path} (Supervisely volume project, {_count(len(listing.cases), 'volume')} in "
        f"{_count(len(datasets), 'dataset')})",
        tuple(listing.cases),
        tuple(listing.skipped),
        tuple(listing.remarks),
        tuple(listing.matches),
        classes,
    )


@dataclass(slots=True)
class _Listing:
    """What has been found so far."""

    path: Path
    ids: dict[str, int] = field(default_factory=dict)  # class name -> category
    cases: list[Case] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    matches: list[Match] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def skip(self, where: Path | str, reason: str) -> None:
        self.skipped.append(Skipped(str(where), reason))

    # --- meta.json

    def read_classes(self, meta: Node) -> ClassMap | None:
        """Number the classes of the project."""
        told: list[tuple[str, str | None, int | None]] = []
        for entry in meta.need("classes").entries():
            title = entry.need("title").text()
            if title in {name for name, _, _ in told}:
                raise InvalidInput(f"{entry.where}.title: {title!r} is there twice; rename one of the classes")
            told.append((title, self._color(entry), self._pixel_value(entry)))
        count = Counter(value for _, _, value in told)
        for title, _, value in told:
            if value is not None and count[value] == 1:
                self.ids[title] = value
            elif value is not None:
                self.remarks.append(
                    Remark(meta.where, f"class {title!r}: pixel value {value} is that of another class, too; not used")
                )
        free = (n for n in range(1, len(told) + 1 + len(self.ids)) if n not in set(self.ids.values()))
        numbers = {title: self.ids[title] if title in self.ids else next(free) for title, _, _ in told}
        self.ids = numbers
        categories = [Category(numbers[title], title, color or color_of(numbers[title])) for title, color, _ in told]
        return ClassMap(tuple(sorted(categories, key=lambda one: one.id))) if categories else None

    def _color(self, entry: Node) -> str | None:
        color = entry.get("color")
        if color is None:
            return None
        if not re.fullmatch("#[0-9a-fA-F]{6}", color.text()):
            self.remarks.append(Remark(color.where, f"{color.text()!r} is no colour of the form '#rrggbb'; not used"))
            return None
        return color.text().lower()

    def _pixel_value(self, entry: Node) -> int | None:
        description = entry.get("description")
        found = _PIXEL_VALUE.search("" if description is None else description.text())
        return int(found[1]) if found and 1 <= int(found[1]) < 1 << 63 else None

    # --- datasets and items

    def read_dataset(self, name: str, folder: Path) -> None:
        """List the items of one dataset."""
        volumes = {entry.name: Path(entry.path) for entry in self._files(folder / "volume", (".nrrd",))}
        annotations = {entry.name: Path(entry.path) for entry in self._files(folder / "ann", (".json",))}
        left = dict(annotations)
        for volume, path in volumes.items():
            own = [found for found in (f"{volume}.json", f"{volume[:-5]}.json") if found in left]
            if not own:
                self.skip(path, f"has no annotation; expected {folder / 'ann' / volume}.json, also for none drawn")
                continue
            self._add(name, folder, volume, path, left.pop(own[0]))
            for other in own[1:]:
                self.skip(left.pop(other), f"{own[0]} beside it is the annotation of the same volume")
        for annotation, path in left.items():
            volume = annotation[: -len(".json")]
            self._add(name, folder, volume if volume.lower().endswith(".nrrd") else f"{volume}.nrrd", None, path)
        for kind in ("mask", "interpolation"):
            used = {self._item_folder(folder, kind, item).name for item in (*volumes, *_items_of(left))}
            for entry in _entries(folder / kind):
                if kind == "interpolation":
                    self.skip(entry.path, "obsolete surfaces; the masks are read instead")
                elif entry.name not in used and not _is_junk(entry.name):
                    self.skip(entry.path, "belongs to no volume of the dataset")

    def _files(self, folder: Path, suffixes: tuple[str, ...]) -> list[os.DirEntry[str]]:
        found = []
        for entry in _entries(folder):
            if entry.name.lower().endswith(suffixes) and not entry.name.startswith("."):
                found.append(entry)
            elif not _is_junk(entry.name):
                self.skip(entry.path, f"is no {' or '.join(suffixes)} file")
        return found

    def _add(self, dataset: str, folder: Path, item: str, volume: Path | None, annotation: Path) -> None:
        """Add one item, or say why not."""
        case_id = self._unique("_".join([*dataset.split("/"), item[:-5]] if dataset else [item[:-5]]), annotation)
        try:
            found = _Item(case_id, volume, annotation, self._item_folder(folder, "mask", item), self.ids)
            self.cases.append(found.case())
        except VoxtractError as fault:
            self.skip(volume or annotation, str(fault))
            return
        self.skipped += found.skipped
        self.remarks += found.remarks
        self.matches += found.matches

    def _unique(self, wanted: str, where: Path) -> str:
        name, number = wanted, 0
        while name in self.taken:
            number += 1
            name = f"{wanted}_{number:02d}"
        if number:
            self.remarks.append(Remark(str(where), f"there is another {wanted!r}; this one is called {name!r}"))
        self.taken.add(name)
        return name

    @staticmethod
    def _item_folder(folder: Path, kind: str, item: str) -> Path:
        """Folder with the masks of an item: called like its volume, or without .nrrd as old releases did."""
        old = folder / kind / item[:-5]
        return old if old.is_dir() and not (folder / kind / item).is_dir() else folder / kind / item


class _Item:
    """One volume and its annotation on their way to a case."""

    def __init__(
        self, case_id: str, volume: Path | None, annotation: Path, masks: Path, ids: Mapping[str, int]
    ) -> None:
        self._id, self._volume, self._path, self._masks, self._ids = case_id, volume, annotation, masks, ids
        self._names: set[str] = set()
        self.skipped: list[Skipped] = []
        self.remarks: list[Remark] = []
        self.matches: list[Match] = []
        self._said: Annotation = parse(load(annotation), ids)
        self._labels = _numbers(self._said, ids)

    def case(self) -> Case:
        """Put the case together.

        Raises
        ------
        VoxtractError
            Something about it cannot be worked with.
        """
        image, grid = self._image()
        labels = [*self._solids(grid), *self._sketches(grid)]
        self.skipped += [Skipped(where, why) for where, why in self._said.skipped]
        self.remarks += [Remark(where, message) for where, message in self._said.remarks]
        self._match("annotation", self._path, f"{len(labels)} label volumes")
        for tag in self._said.tags:
            self._match("tag", self._path, tag)
        if image is None and not labels:
            raise InvalidInput(f"{self._path}: there are neither voxels nor figures; nothing to do for this item")
        plane = names.parse(self._id)
        return Case(self._id, image, tuple(labels), None if plane.view is None or plane.inner else (plane.view,))

    def _match(self, role: str, where: Path | str, why: str) -> None:
        self.matches.append(Match(self._id, role, str(where), why))

    def _image(self) -> tuple[VolumeFile | None, Grid]:
        """Give the volume on its RAS grid, and the grid; no volume where only annotations were downloaded."""
        told = grid_of(self._said)
        if self._volume is None or _size(self._volume) == 0:
            if told is None:
                raise InvalidInput(f"{self._path}: volumeMeta does not say where the volume lies, and there is none")
            why = "the file is empty" if self._volume else "there is no file in volume/"
            self.remarks.append(Remark(str(self._volume or self._path), f"no voxels: {why}; annotations alone"))
            return None, told
        file = NrrdFile(self._volume)
        found = file.described()
        if found.space or told is None:
            image: VolumeFile = Oriented(file)
            grid = image.header().grid
            self.remarks += [Remark(file.where, remark) for remark in found.remarks]
        else:
            image, grid = Placed(file, told), Grid(found.shape, told.affine)
            self.remarks.append(Remark(file.where, f"names no space; taken as on the grid that {self._path} gives"))
        if grid.shape != self._said.shape:
            raise InvalidInput(
                f"{file.where}: has {' x '.join(map(str, grid.shape))} voxels along R, A, S, but {self._path} speaks "
                f"of {' x '.join(map(str, self._said.shape))}; export both again"
            )
        if told is not None and _apart(grid, told) > _WITHIN:
            self.remarks.append(
                Remark(str(self._path), f"volumeMeta puts the volume elsewhere than {file.where} does, which is taken")
            )
        self._match("image", file.where, "the volume of the item")
        return image, grid

    def _solids(self, grid: Grid) -> Iterator[LabelVolume]:
        """Make a label volume of each figure in space."""
        files = {entry.name.lower(): Path(entry.path) for entry in _entries(self._masks)}
        unused = dict(files)
        for solid in self._said.solids:
            thing = self._said.things[solid.thing]
            label = self._labels[thing.key]
            keys = [solid.key, "-".join(re.findall("(.{8})(.{4})(.{4})(.{4})(.{12})", solid.key)[0])]
            path = next((files[f"{key}.nrrd"] for key in keys if f"{key}.nrrd" in files), None)
            if path is None:
                file: VolumeFile = self._embedded(solid, grid, label)
            else:
                unused.pop(path.name.lower(), None)
                file = MaskFile(path, grid, label)
            self._match("labels", file.where, f"object {thing.key} of class {thing.title!r}, label {label}")
            yield LabelVolume(
                file,
                self._name(thing.title),
                self._ids[thing.title],
                {label: thing.key},
                {
                    view: {index: {label: score} for index, score in found.items()}
                    for view, found in solid.scores.items()
                },
            )
        for path in unused.values():
            if not _is_junk(path.name):
                self.skipped.append(Skipped(str(path), "is the mask of no figure of the annotation"))

    def _embedded(self, solid: Solid, grid: Grid, label: int) -> VolumeFile:
        """Take the mask in the annotation, unless it is the placeholder that downloads carry."""
        expected = self._masks / f"{solid.key}.nrrd"
        if solid.embedded is None:
            raise NotFound(f"{expected}: no such mask, and {solid.where} has none of its own; download it again")
        shape = embedded_shape(solid.embedded)
        if shape != grid.shape:
            raise NotFound(
                f"{expected}: no such mask, and that in {solid.where} has {' x '.join(map(str, shape))} voxels, not "
                f"the volume's {' x '.join(map(str, grid.shape))}; download it again"
            )
        return EmbeddedMask(self._path, solid.embedded.where, solid.embedded.text(), grid, label)

    def _sketches(self, grid: Grid) -> Iterator[LabelVolume]:
        """Paint the figures on slices, view by view."""
        for view in VIEWS:
            drawn = [one for one in self._said.sketches if one.view == view]
            layers = in_layers([(one.index, self._labels[one.thing], one.thing, one.drawing) for one in drawn])
            for layer in layers:
                figures = [drawn[position] for position in layer]
                things = {self._labels[one.thing]: self._said.things[one.thing] for one in figures}
                scores: dict[int, dict[int, float]] = {}
                for one in figures:
                    if one.score is not None:
                        scores.setdefault(one.index, {})[self._labels[one.thing]] = one.score
                shapes = tuple(Drawn(one.index, self._labels[one.thing], one.drawing) for one in figures)
                file = DrawnFile(self._path, view, grid, shapes)
                self._match("labels", file.where, f"{len(figures)} figures drawn on slices")
                yield LabelVolume(
                    file,
                    self._name(view),
                    {label: self._ids[thing.title] for label, thing in things.items()},
                    {label: thing.key for label, thing in things.items()},
                    {view: scores} if scores else {},
                    (view,),
                )

    def _name(self, wanted: str) -> str:
        """``liver``, ``liver 2``, ...: each name once."""
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted} {number}"
        self._names.add(name)
        return name


def _numbers(said: Annotation, ids: Mapping[str, int]) -> dict[str, int]:
    """Label value of each object; see `open_project`."""
    things = said.things.values()
    labels = {thing.key: thing.label for thing in things if thing.label is not None}
    classes = [ids[thing.title] for thing in things]
    if not labels and len(set(classes)) == len(classes):
        return {thing.key: ids[thing.title] for thing in things}
    taken = set(labels.values())
    free = (n for n in range(1, len(classes) + len(taken) + 1) if n not in taken)
    return {thing.key: labels[thing.key] if thing.key in labels else next(free) for thing in things}


def _items_of(annotations: Iterable[str]) -> Iterator[str]:
    for name in annotations:
        stem = name[: -len(".json")]
        yield stem if stem.lower().endswith(".nrrd") else f"{stem}.nrrd"


def _apart(one: Grid, other: Grid) -> float:
    """Distance of the farthest corner of two grids of one shape, in voxels of the first."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(one.shape) - 1)
    apart = np.abs(one.points_mm(corners) - other.points_mm(corners)).max()
    return float(apart / min(one.spacing_mm))


def _datasets(folder: Path, prefix: str, skipped: list[Skipped]) -> Iterator[tuple[str, Path]]:
    """Names (``parent/child``) and folders of the datasets in a project or in ``datasets`` of one."""
    for entry in _entries(folder):
        if (not prefix and entry.name in _OF_PROJECT) or _is_junk(entry.name):
            continue
        name, inside = f"{prefix}{entry.name}", Path(entry.path)
        if not entry.is_dir() or not any((inside / part).is_dir() for part in ("volume", "ann", "datasets")):
            skipped.append(Skipped(entry.path, "is no dataset: it has neither 'volume' nor 'ann'"))
            continue
        if any((inside / part).is_dir() for part in ("volume", "ann")):
            yield name, inside
        for other in _entries(inside):
            if other.name not in _OF_DATASET and not _is_junk(other.name):
                skipped.append(Skipped(other.path, "is no part of a dataset that is read"))
        yield from _datasets(inside / "datasets", f"{name}/", skipped)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Entries of a folder by name; none where it is not there."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as fault:
        raise UnreadableFile(f"{folder}: cannot be listed: {fault.strerror}; check its permissions") from fault


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as fault:
        raise UnreadableFile(f"{path}: cannot be looked at: {fault.strerror}; check its permissions") from fault


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _is_junk(name: str) -> bool:
    return name.lower() in _JUNK or name.startswith("._")
