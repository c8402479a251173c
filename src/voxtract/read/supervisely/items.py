"""From volumes and what was matched to them to cases: aligned, with classes and scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from voxtract.classes import Category
from voxtract.errors import InvalidInput, VoxtractError
from voxtract.geometry import Plane, Reorientation, View
from voxtract.model import Case, LabelVolume, Match, Remark, Skipped, Source, VolumeFile
from voxtract.read.supervisely.alignment import UNTURNED, Look, Target, aligned, look
from voxtract.read.supervisely.colors import Classes, ColorMap, NoMapError, named_as_map, read_map, segment
from voxtract.read.supervisely.files import LabelFile, Unusable
from voxtract.read.supervisely.names import ParsedName, parse
from voxtract.read.supervisely.scores import EveryValue, ScoreTable, read_scores
from voxtract.read.supervisely.tree import Entry, upwards

LABELS_DENSITY = 50  # CT and MR compress 2 to 5 times, masks 100 times and more

Mode = Literal["auto", "semantic", "instance"]
Scores = Mapping[View, Mapping[int, Mapping[int, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The words of `open_supervisely` that hold for every item."""

    mode: Mode = "auto"
    layer: Literal["ras", "file"] = "ras"
    layer_base: Literal[1, 0] = 1
    trust: Literal["voxels"] | None = None
    resample_labels: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Mask:
    """One file of labels and what its values mean.

    Parameters
    ----------
    entry : Entry
    why : str
        Why it belongs to its volume.
    class_name : str, optional
        Class of all values, where the file is called like it.
    class_id : int, optional
        Number of the class of all values. Neither: each value is a class.
    parsed : ParsedName, optional
        Of labels of a plane.
    """

    entry: Entry
    why: str
    class_name: str | None = None
    class_id: int | None = None
    parsed: ParsedName | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A score table and its name."""

    entry: Entry
    parsed: ParsedName


@dataclass(slots=True)
class Item:
    """A volume with what was matched to it.

    Parameters
    ----------
    id : str
        Wished for; made unique later.
    where : str
        The volume, for messages.
    entry : Entry, optional
        Its NIfTI file, where there is one.
    target : Target, optional
        Its grid, where that is known otherwise.
    image : VolumeFile, optional
        The same.
    view : {"axial", "coronal", "sagittal"}, optional
        Of the plane it is named after.
    masks, tables : list
    problems : list of (where, message)
        Why its labels cannot be used.
    """

    id: str
    where: str
    entry: Entry | None = None
    target: Target | None = None
    image: VolumeFile | None = None
    view: View | None = None
    masks: list[Mask] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    why: str = "a volume"

    def fail(self, where: str, message: str) -> None:
        """Add a problem; its message may begin with `where`."""
        self.problems.append((where, message.removeprefix(f"{where}: ")))


@dataclass(slots=True)
class Listing:
    """What was found, told in the same order whatever the system lists first."""

    items: list[Item] = field(default_factory=list)
    classes: set[Category] = field(default_factory=set)  # numbered by class_names.json
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def skip(self, entry: Entry, reason: str) -> None:
        """Tell that a file is not used."""
        self.skipped.append(Skipped(entry.where, reason))

    def remark(self, where: str, message: str) -> None:
        """Tell something of a file that is used."""
        self.remarks.append(Remark(where, message))

    def lost(self, entry: Entry, message: str) -> None:
        """A file that cannot be used by mistake, not by choice: a case of its own that fails."""
        item = Item(entry.id, entry.where)
        item.fail(entry.where, message)
        self.items.append(item)


def source_of(description: str, listing: Listing, texts: Sequence[Entry], options: Options) -> Source:
    """Make cases of all items.

    Parameters
    ----------
    description : str
    listing : Listing
    texts : sequence of Entry
        Those ``.txt`` files that may be colour maps, for masks of classes with numbers.
    options : Options

    Raises
    ------
    InvalidInput
        No item is sound, or `options.strict` and anything is to be told.
    """
    maps = _Maps(listing)
    maps.read(texts)
    classes = _classes(listing, maps)
    making = _Making(listing, maps, classes, options)
    ids = _unique_ids(listing)
    cases = [making.case(item, case_id) for item, case_id in zip(listing.items, ids, strict=True)]
    cases.sort(key=lambda case: case.id)
    making.tell_stray_labels()
    maps.tell_unused()
    faults = [f"{where}: {message}" for item in listing.items for where, message in item.problems]
    skipped = tuple(sorted(listing.skipped, key=lambda one: (one.where, one.reason)))
    remarks = tuple(sorted(listing.remarks, key=lambda one: (one.where, one.message)))
    if listing.items and all(item.problems for item in listing.items):
        raise InvalidInput(f"{description}: nothing in it can be used: {_several(faults)}")
    matches = tuple(sorted(making.matches, key=lambda one: (one.case, one.role, one.where)))
    found = Source(description, tuple(cases), skipped, remarks, matches, classes.class_map())
    return checked(found, faults, options.strict)


def checked(found: Source, faults: Sequence[str], strict: bool) -> Source:
    """Return `found`; with `strict`, raise `InvalidInput` if there are faults, remarks or files that nothing uses."""
    told = [*faults, *(f"{one.where}: {one.message}" for one in found.remarks)]
    told += [f"{one.where}: left out: {one.reason}" for one in found.skipped]
    if strict and told:
        raise InvalidInput(f"{found.description}: strict=True, but {_several(told)}")
    return found


def _several(told: Sequence[str], most: int = 20) -> str:
    return "; ".join(told[:most]) + (f"; and {len(told) - most} more" if len(told) > most else "")


def _unique_ids(listing: Listing) -> list[str]:
    """Ids of the items, of several equal ones all but the first with a number."""
    listing.items.sort(key=lambda item: (item.id, item.where))
    taken = {item.id for item in listing.items}
    seen: set[str] = set()
    ids = []
    for item in listing.items:
        case_id, number = item.id, 0
        while case_id in seen or (number and case_id in taken):
            number += 1
            case_id = f"{item.id}_{number:02d}"
        if number:
            listing.remark(item.where, f"is case {case_id!r}, because another one is {item.id!r}")
        seen.add(case_id)
        ids.append(case_id)
    return ids


class _Maps:
    """Colour maps by the folder from which on they hold."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._of: dict[str, tuple[Entry, ColorMap | str]] = {}  # folder -> its map, or why it has none
        self.used: set[str] = set()

    def read(self, texts: Iterable[Entry]) -> None:
        by_folder: dict[str, list[tuple[Entry, ColorMap | str]]] = {}
        for entry in texts:
            found: ColorMap | str
            try:
                found = read_map(entry.path, entry.where)
            except NoMapError as fault:
                self._listing.skip(entry, f"is no colour map: {str(fault).removeprefix(f'{entry.where}: ')}")
                continue
            except VoxtractError as fault:
                found = str(fault)
            by_folder.setdefault(entry.folder, []).append((entry, found))
        for folder, found_maps in by_folder.items():
            self._of[folder] = self._one(found_maps)

    def _one(self, found: list[tuple[Entry, ColorMap | str]]) -> tuple[Entry, ColorMap | str]:
        """Of several texts in a folder: the one called a map, or any of equal ones."""
        named = [one for one in found if named_as_map(one[0].name)]
        chosen = named or found
        for entry, _ in (one for one in found if one not in chosen):
            self._listing.skip(entry, f"looks like a colour map, but {chosen[0][0].name} is called one")
        first, *others = chosen
        for entry, other in others:
            if isinstance(first[1], str) or isinstance(other, str) or first[1].names != other.names:
                return first[0], (
                    f"{first[0].where} and {entry.where}: two colour maps for one folder; keep the one that is right"
                )
            self._listing.remark(entry.where, f"is the same colour map as {first[0].name}")
        return first

    def of(self, folder: str) -> ColorMap | None:
        """The nearest map upwards from a folder.

        Raises
        ------
        InvalidInput
            It cannot be used.
        """
        for way in upwards(folder):
            if (found := self._of.get(way)) is not None:
                self.used.add(found[0].where)
                if isinstance(found[1], str):
                    raise InvalidInput(found[1])
                return found[1]
        return None

    def tell_unused(self) -> None:
        for entry, _ in self._of.values():
            if entry.where not in self.used:
                self._listing.skip(entry, "is a colour map for labels of planes, but there are none below its folder")


def _classes(listing: Listing, maps: _Maps) -> Classes:
    """Number the classes of all masks; a colour map that cannot be used becomes the problem of its items."""
    named, numbered, segments = [], [], []
    for item in listing.items:
        try:
            found = {mask.entry: maps.of(mask.entry.folder) for mask in item.masks if mask.class_name is None}
        except InvalidInput as fault:
            item.fail(item.where, str(fault))
            continue
        for mask in item.masks:
            if mask.class_name is not None:
                named.append(mask.class_name)
                continue
            map_ = found[mask.entry]
            numbered.append(map_)
            if mask.class_id is not None and (map_ is None or mask.class_id not in map_.names):
                segments.append(mask.class_id)
                if map_ is not None:
                    name = segment(mask.class_id)
                    listing.remark(mask.entry.where, f"class {mask.class_id} is not in {map_.where}; called {name}")
    return Classes.of(named, numbered, segments, listing.classes)


@dataclass(slots=True)
class _Making:
    """Makes cases of items."""

    listing: Listing
    maps: _Maps
    classes: Classes
    options: Options
    matches: list[Match] = field(default_factory=list)
    bare: dict[str, list[tuple[Entry, Look]]] = field(default_factory=dict)  # volumes without labels, by folder

    def case(self, item: Item, case_id: str) -> Case:
        volume = self._volume(item)
        image = item.image if item.entry is None else item.entry.file if volume is None else volume.volume
        if item.entry is not None or item.image is not None:
            self._match(case_id, "image", item.where, item.why)
        views = None if item.view is None else (item.view,)
        looks = self._looks(item)
        target = item.target if volume is None else Target(item.where, volume.ras, volume.stored)
        if target is None and looks and item.entry is None:  # no volume is known: labels need only lie on one grid
            target = Target(looks[0].where, looks[0].ras, looks[0].stored)
        labels: list[LabelVolume] = []
        if target is not None and not item.problems:
            stored = volume or (looks[0] if looks else None)  # the file whose slices a table may count
            scores = _Scoring(item, case_id, target, UNTURNED if stored is None else stored.turn, self)
            tables = scores.match()
            for mask, found in zip(item.masks, looks, strict=True):
                try:
                    labels.append(self._labels(mask, found, target, scores, tables.get(mask.entry)))
                except VoxtractError as fault:
                    item.fail(mask.entry.where, str(fault))
        if item.problems:
            labels = [LabelVolume(_unusable(item))]
            for where, message in item.problems:
                self._match(case_id, "error", where, message)
        else:
            for mask in item.masks:
                self._match(case_id, "labels", mask.entry.where, f"{self._meaning(mask)}; {mask.why}")
        return Case(case_id, image, tuple(labels), views)

    def _volume(self, item: Item) -> Look | None:
        """Header of the item's own file."""
        if item.entry is None:
            return None
        try:
            found = look(item.entry)
        except VoxtractError as fault:
            item.fail(item.where, str(fault))
            return None
        for message in found.remarks:
            self.listing.remark(found.where, message)
        if not item.masks and parse(item.entry.name).kind != "volume":
            self.bare.setdefault(item.entry.folder, []).append((item.entry, found))
        return found

    def tell_stray_labels(self) -> None:
        """Remark on folders whose volumes look like labels: called so, or compressed as no image can be."""
        for volumes in self.bare.values():
            if all(look.density > LABELS_DENSITY or parse(entry.name).kind == "labels" for entry, look in volumes):
                names = ", ".join(entry.name for entry, _ in volumes[:5]) + (", …" if len(volumes) > 5 else "")
                self.listing.remark(
                    volumes[0][0].where.removesuffix(f"/{volumes[0][0].name}"),
                    f"{names}: taken as volumes, but look like labels; is the volume that the folder is called like "
                    "missing?",
                )

    def _looks(self, item: Item) -> list[Look]:
        found = []
        for mask in item.masks:
            try:
                found.append(look(mask.entry))
            except VoxtractError as fault:
                item.fail(mask.entry.where, str(fault))
                continue
            for message in found[-1].remarks:
                self.listing.remark(mask.entry.where, message)
        return found

    def _labels(
        self, mask: Mask, found: Look, target: Target, scoring: _Scoring, table: ScoreTable | None
    ) -> LabelVolume:
        map_ = None if mask.class_name is not None else self.maps.of(mask.entry.folder)
        needed: tuple[int, ...] = ()
        hoped: tuple[int, ...] = ()
        scores: Scores = {}
        if table is not None:
            scores = scoring.of(mask, table)
            if mask.class_id is None and sum(one.class_id is None for one in scoring.item.masks) == 1:
                hoped = tuple(n for n in table.scores if map_ is not None and n in map_.names)
                needed = tuple(n for n in table.scores if n not in hoped)
        named = None if map_ is None or mask.class_id is not None else frozenset(map_.names)
        of_table, of_map = ("" if one is None else one.where for one in (table, map_))
        file = LabelFile(found.file, self.options.strict, needed, hoped, of_table, named, of_map)
        placed, done = aligned(found, file, target, self.options.trust, self.options.resample_labels)
        if done:
            self.listing.remark(mask.entry.where, done)
        name = mask.class_name or mask.entry.stem
        return LabelVolume(placed, name, self._category(mask, map_), scores=scores)

    def _category(self, mask: Mask, map_: ColorMap | None) -> int | Mapping[int, int] | None:
        if mask.class_name is not None:
            return self.classes.ids[mask.class_name]
        if mask.class_id is None:
            return self.classes.category(map_)
        known = {} if map_ is None else map_.names
        return self.classes.ids[known.get(mask.class_id, segment(mask.class_id))]

    def _meaning(self, mask: Mask) -> str:
        """What the values of labels are, in words."""
        if mask.class_name is not None:
            return f"class {mask.class_name!r}, each value an object"
        if mask.class_id is None:
            return "each value a class"
        map_ = self.maps.of(mask.entry.folder)
        name = segment(mask.class_id) if map_ is None else map_.names.get(mask.class_id, segment(mask.class_id))
        return f"class {mask.class_id}, {name!r}, each value an object"

    def _match(self, case_id: str, role: str, where: str, why: str) -> None:
        self.matches.append(Match(case_id, role, where, why))


def _unusable(item: Item) -> Unusable:
    (where, why), *others = item.problems
    return Unusable(where, why + "".join(f"; and {other}: {told}" for other, told in others))


@dataclass(slots=True)
class _Scoring:
    """Which score table belongs to which mask of an item, and what its layers are."""

    item: Item
    case_id: str
    target: Target
    turn: Reorientation
    making: _Making

    def match(self) -> dict[Entry, ScoreTable]:
        """Find the table of each mask: the one named like it, else the only one of its plane."""
        item, listing = self.item, self.making.listing
        if not item.masks:
            for table in item.tables:
                listing.skip(table.entry, f"scores labels, but {item.where} has none")
            return {}
        own: dict[Entry, Table] = {}
        for mask in item.masks:
            base = mask.parsed.base if mask.parsed is not None else None
            for table in item.tables:
                if table.parsed.base == base:
                    own.setdefault(mask.entry, table)
        rest = [table for table in item.tables if table not in own.values()]
        bare = [mask for mask in item.masks if mask.entry not in own]
        if len(rest) > 1 and bare:
            names = ", ".join(table.entry.where for table in rest)
            item.fail(bare[0].entry.where, f"several score tables may belong to it: {names}; name one like the labels")
            return {}
        if bare and rest:
            own |= {mask.entry: rest[0] for mask in bare}
        else:
            for table in rest:
                listing.skip(table.entry, "scores labels that have a table named more like them")
        read: dict[Entry, ScoreTable] = {}
        for table in sorted({one.entry.way: one for one in own.values()}.values(), key=lambda one: one.entry.way):
            try:
                read[table.entry] = self._read(table)
            except VoxtractError as fault:
                item.fail(table.entry.where, str(fault))
        return {mask: read[table.entry] for mask, table in own.items() if table.entry in read}

    def _read(self, table: Table) -> ScoreTable:
        making, item = self.making, self.item
        found = read_scores(table.entry.path, table.entry.where, making.options.layer_base)
        for message in found.remarks:
            making.listing.remark(found.where, message)
        count, base = self._plane.count, making.options.layer_base
        if found.last is not None and found.last - base >= count:
            raise InvalidInput(
                f"{found.where}: Layer {found.last} is beyond the last of {count} {self._plane.view} slices "
                f"({base} to {count - 1 + base}) of {item.where}"
            )
        ids = [mask.class_id for mask in item.masks]
        if None not in ids and (unknown := [n for n in found.scores if n not in ids]):
            raise InvalidInput(
                f"{found.where}: column 'Label-{unknown[0]}' speaks of class {unknown[0]}, but the files of "
                f"{item.where} are of the classes {', '.join(map(str, ids))}"
            )
        if self._flipped and making.options.layer == "ras":
            making.listing.remark(
                found.where,
                f"score frames flipped: the file's {self._plane.view} slices run against RAS, and Layers are taken as "
                'RAS slices; layer="file" takes them as slices of the file',
            )
        why = f"{table.parsed.plane} table beside the labels"
        making.matches.append(Match(self.case_id, "scores", found.where, why))
        return found

    def of(self, mask: Mask, table: ScoreTable) -> Scores:
        """Scores of the objects of a mask by RAS slice."""
        slices: dict[int, dict[int, float]] = {}
        columns = table.scores if mask.class_id is None else {mask.class_id: table.scores.get(mask.class_id, {})}
        for label, column in columns.items():
            for layer, score in column.items():
                slices.setdefault(self._slice(layer), {})[label] = score
        if mask.class_id is None:
            return {self._plane.view: dict(sorted(slices.items()))}
        every = {index: EveryValue(scores[mask.class_id]) for index, scores in sorted(slices.items())}
        return {self._plane.view: every} if every else {}

    def _slice(self, layer: int) -> int:
        index = layer - self.making.options.layer_base
        return self._plane.count - 1 - index if self._flipped and self.making.options.layer == "file" else index

    @property
    def _plane(self) -> Plane:
        return Plane(self.item.view or "axial", self.target.ras.shape)

    @property
    def _flipped(self) -> bool:
        return self.turn.flip[self._plane.axes[2]]
