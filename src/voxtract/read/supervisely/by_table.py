"""Layout "annotations": labels of planes whose volumes lie elsewhere and are known from a table."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from voxtract.errors import InvalidInput, NotFound, UnreadableFile
from voxtract.geometry import Grid
from voxtract.model import Source, VolumeFile
from voxtract.read.oriented import turn_of
from voxtract.read.supervisely.alignment import Target
from voxtract.read.supervisely.by_plane import Named, grouped, set_classes
from voxtract.read.supervisely.items import Item, Listing, Mask, Mode, Table
from voxtract.read.supervisely.names import ParsedName, natural, parse, stem_of
from voxtract.read.supervisely.tree import Entry

Rows = Iterable[Mapping[str, Any]]


@dataclass(frozen=True, eq=False, slots=True)
class KnownVolume:
    """A volume that is not among the files.

    Parameters
    ----------
    dataset, name : str
        As ``"patient 1"`` and ``"axl_anatomic.nrrd"``.
    id : int, optional
        By which a mapping names it.
    grid : Grid, optional
        Shape and affine of its voxels.
    image : VolumeFile, optional
    """

    dataset: str
    name: str
    id: int | None = None
    grid: Grid | None = None
    image: VolumeFile | None = None

    @property
    def where(self) -> str:
        """Its name for messages."""
        return f"{self.dataset}/{self.name}" if self.dataset else self.name

    @property
    def parsed(self) -> ParsedName:
        """What its name says."""
        return parse(self.name)


def read_volumes(given: str | Path | Rows) -> list[KnownVolume]:
    """Read a table of volumes.

    Parameters
    ----------
    given : path, or rows
        A ``.csv`` or ``.json`` (a list of objects) with the columns `dataset`, `name`, `id`, and perhaps `shape`
        (three numbers) and `affine` (16 or 12 numbers row by row, voxel to RAS+ mm); or such rows.

    Raises
    ------
    NotFound, UnreadableFile
        No such file, or the system does not hand it out.
    InvalidInput
        Another form, a row without a name, or an id that is there twice.
    """
    where, rows = ("volumes", list(given)) if not isinstance(given, str | Path) else (str(given), _rows(Path(given)))
    found = [_known(row, f"{where}: row {n}") for n, row in enumerate(rows, 1)]
    if not found:
        raise InvalidInput(f"{where}: names no volume; expected rows with dataset, name and id")
    ids = [one.id for one in found if one.id is not None]
    for number in ids:
        if ids.count(number) > 1:
            raise InvalidInput(f"{where}: id {number} is there twice; an id belongs to one volume")
    return sorted(found, key=lambda one: (one.dataset, one.name))


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as fault:
        raise NotFound(f"{path}: no such table of volumes; check the spelling") from fault
    except UnicodeDecodeError as fault:
        raise InvalidInput(f"{path}: is no text in UTF-8; save it so") from fault
    except OSError as fault:
        raise UnreadableFile(f"{path}: cannot be read: {fault.strerror}; check its permissions") from fault
    if path.suffix.lower() == ".csv":
        return [row for row in csv.DictReader(text.splitlines()) if any(row.values())]
    try:
        rows = json.loads(text)
    except ValueError as fault:
        raise InvalidInput(f"{path}: is no JSON ({fault}); expected a list of objects, or a .csv") from fault
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidInput(f"{path}: is no list of objects with dataset, name and id")
    return rows


def _known(row: Mapping[str, Any], where: str) -> KnownVolume:
    name, dataset, number = (row.get(key) for key in ("name", "dataset", "id"))
    if not isinstance(name, str) or not name.strip():
        raise InvalidInput(f"{where}: has no name; found {sorted(map(str, row))}")
    shape = _numbers(row.get("shape"), where, "shape", (3,))
    affine = _numbers(row.get("affine"), where, "affine", (12, 16))
    if (shape is None) != (affine is None):
        raise InvalidInput(f"{where}: has a shape or an affine, but not the other; give both or none")
    grid = None
    if shape is not None and affine is not None:
        full = np.eye(4)
        full[:3] = np.reshape(affine, (-1, 4))[:3]
        if not np.isfinite([*shape, *affine]).all() or min(shape) < 1 or any(n % 1 for n in shape):
            raise InvalidInput(f"{where}: shape {shape} must be three whole numbers from 1 on, and the affine finite")
        x, y, z = map(int, shape)
        grid = Grid((x, y, z), full)
    return KnownVolume(str(dataset or "").strip(), name.strip(), _id(number, where), grid)


def _numbers(value: Any, where: str, column: str, counts: tuple[int, ...]) -> list[float] | None:
    if value is None or value == "":
        return None
    flat = re.findall(r"[^\s,;\[\]()x]+", value) if isinstance(value, str) else np.ravel(value).tolist()
    try:
        numbers = [float(one) for one in flat]
    except (TypeError, ValueError) as fault:
        raise InvalidInput(f"{where}: {column} {value!r} is not made of numbers") from fault
    if len(numbers) not in counts:
        raise InvalidInput(f"{where}: {column} has {len(numbers)} numbers, expected {' or '.join(map(str, counts))}")
    return numbers


def _id(value: Any, where: str) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not re.fullmatch("[0-9]+", str(value).strip()):
        raise InvalidInput(f"{where}: id {value!r} is no whole number")
    return int(value)


def read_mapping(entry: Entry) -> dict[str, int]:
    """Read ``{"file" or "dataset/file": volume id}``.

    Raises
    ------
    InvalidInput
        Another form, or a key twice.
    UnreadableFile
        The system does not hand it out.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise InvalidInput(f"{entry.where}: has a key twice; name each file once")
        return dict(pairs)

    form = 'expected {"cor_inference_1.nii": 123, "dataset/cor_inference_1.nii": 456}'
    try:
        found = json.loads(entry.path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except InvalidInput:
        raise
    except (ValueError, RecursionError) as fault:
        raise InvalidInput(f"{entry.where}: is no JSON ({fault}); {form}") from fault
    except OSError as fault:
        raise UnreadableFile(f"{entry.where}: cannot be read: {fault.strerror}; check its permissions") from fault
    if not isinstance(found, dict) or not found:
        raise InvalidInput(f"{entry.where}: maps no file to a volume; {form}")
    mapping = {}
    for key, value in found.items():
        number = _id(value if isinstance(value, int | str) else None, f"{entry.where}: {key!r}")
        if number is None:
            raise InvalidInput(f"{entry.where}: {key!r} has the value {value!r}, which is no id; {form}")
        mapping[key] = number
    return mapping


def add_by_table(
    entries: Sequence[Entry],
    named: Sequence[Named],
    mappings: Sequence[Entry],
    volumes: Sequence[KnownVolume] | None,
    dataset: str | None,
    mode: Mode,
    listing: Listing,
) -> None:
    """Add every volume that labels were found for.

    Parameters
    ----------
    entries : sequence of Entry
        All NIfTI files, which a mapping may name.
    named : sequence of (Entry, ParsedName)
        Labels and score tables whose names say plane and kind.
    mappings : sequence of Entry
        ``.json`` files.
    volumes : sequence of KnownVolume, optional
        None: labels of one folder, plane and patient are taken to belong to one volume that is not known.
    dataset : str, optional
        Take volumes of this one, for all files; else of the only one there is, else of that a file's folder names.
    """
    masks = [one for one in named if one[1].kind == "labels"]
    owners: dict[Entry, tuple[KnownVolume, str]]
    if volumes is None:
        if mappings:
            raise InvalidInput(f"{mappings[0].where}: maps files to volumes by id, so volumes= must say which they are")
        _add_unknown(named, mode, listing)
        return
    if dataset is not None and all(one.dataset != dataset for one in volumes):
        known = ", ".join(sorted({one.dataset for one in volumes}))
        raise InvalidInput(f"dataset {dataset!r} is not in the table of volumes; it has {known}")
    chosen = [one for one in volumes if dataset is None or one.dataset == dataset]
    if len(mappings) > 1:
        raise InvalidInput(f"{mappings[0].where} and {mappings[1].where}: two mappings; keep one")
    if mappings:
        owners = _mapped(mappings[0], entries, volumes, listing)
        for entry, _ in masks:
            if entry not in owners:
                listing.skip(entry, f"is not named in {mappings[0].name}")
    else:
        owners = _matched(masks, chosen, listing)
    items: dict[str, Item] = {}
    for entry, (volume, why) in sorted(owners.items(), key=lambda one: (one[0].folder, natural(one[0].name))):
        item = items.setdefault(volume.where, _item(volume))
        item.masks.append(Mask(entry, why, parsed=parse(entry.name)))
    _add_tables(items.values(), [Table(*one) for one in named if one[1].kind == "scores"], listing)
    for item in items.values():
        _set_classes(item, mode, listing)
        listing.items.append(item)


def _item(volume: KnownVolume) -> Item:
    target = None
    if volume.grid is not None:
        ras = turn_of(volume.grid, "RAS", volume.where).grid(volume.grid)
        target = Target(volume.where, ras, volume.grid)
    case_id = "_".join([*filter(None, volume.dataset.split("/")), stem_of(volume.name)])
    return Item(case_id, volume.where, target=target, image=volume.image, view=volume.parsed.view)


def _add_unknown(named: Sequence[Named], mode: Mode, listing: Listing) -> None:
    for (folder, plane, owner), group in grouped(named).items():
        if not group.masks:
            for entry, _ in group.tables:
                listing.skip(entry, "scores labels, but there are none of its plane in its folder")
            continue
        name = "_".join([*filter(None, folder.split("/")), *filter(None, owner), plane])
        item = Item(name, group.masks[0][0].where, view=group.masks[0][1].view)
        why = f"the labels of plane {plane} in one folder"
        item.masks = [Mask(entry, why, parsed=parsed) for entry, parsed in group.masks]
        item.tables = [Table(*one) for one in group.tables]
        listing.remark(item.where, "its volume is not known, so its place cannot be checked; volumes= tells")
        _set_classes(item, mode, listing)
        listing.items.append(item)


def _mapped(
    mapping: Entry, entries: Sequence[Entry], volumes: Sequence[KnownVolume], listing: Listing
) -> dict[Entry, tuple[KnownVolume, str]]:
    """Follow a mapping; what it names and is not there becomes a case that fails."""
    by_id = {one.id: one for one in volumes if one.id is not None}
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
        by_name.setdefault(f"{entry.parent}/{entry.name}", []).append(entry)
    owners: dict[Entry, tuple[KnownVolume, str]] = {}
    numbers = read_mapping(mapping)
    for key, number in sorted(numbers.items()):
        found = by_name.get(key, [])
        if len(found) > 1 and "/" not in key:  # those that longer keys name are not meant
            found = [one for one in found if f"{one.parent}/{one.name}" not in numbers]
        wrong = ""
        if len(found) != 1:
            those = ", ".join(one.way for one in found[:5])
            wrong = f"names {key!r}, " + (
                f"but {len(found)} files are: {those}" if found else "but there is no such file"
            )
        elif number not in by_id:
            wrong = f"sends {key!r} to volume {number}, which the table of volumes does not have"
        elif found[0] in owners:
            wrong = f"sends {found[0].way} to two volumes"
        if wrong:
            item = Item(stem_of(key.replace("/", "_")) or "mapping", mapping.where)
            item.fail(mapping.where, wrong)
            listing.items.append(item)
            continue
        owners[found[0]] = by_id[number], f"{mapping.name} sends it to volume {number}"
        plane = parse(found[0].name).plane
        if plane is not None and by_id[number].parsed.plane not in (None, plane):
            listing.remark(found[0].where, f"is of plane {plane}, but its mapping sends it to {by_id[number].where}")
    return owners


def _matched(
    masks: Sequence[Named], volumes: Sequence[KnownVolume], listing: Listing
) -> dict[Entry, tuple[KnownVolume, str]]:
    """Match labels and volumes by name, in the data set that the folder names where there are several."""
    datasets = {one.dataset for one in volumes}
    owners: dict[Entry, tuple[KnownVolume, str]] = {}
    for entry, parsed in masks:
        candidates = list(volumes)
        if len(datasets) > 1:
            folder = _dataset_of(entry, datasets)
            if folder is None:
                listing.lost(entry, f"no data set is called like its folder; there are {', '.join(sorted(datasets))}")
                continue
            candidates = [one for one in volumes if one.dataset == folder]
        found, why = _steps(parsed, candidates)
        if len(found) == 1:
            owners[entry] = found[0], why
        elif found:
            names = ", ".join(one.where for one in found[:5])
            listing.lost(entry, f"{len(found)} volumes fit it ({why}): {names}; a JSON mapping can say which")
        else:
            listing.lost(entry, why)
    return owners


def _dataset_of(entry: Entry, datasets: set[str]) -> str | None:
    """The data set whose name is, or ends, the folder of a file."""
    ways = entry.path.parent.parts
    tails = ("/".join(ways[i:]) for i in range(len(ways)))
    return next((tail for tail in tails if tail in datasets), None)


def volumes_of_project(root: Path, source: Source) -> list[KnownVolume]:
    """Volumes of a local project, ``<dataset>/volume/<name>``, with their images; they have no number."""
    found = []
    for image in (case.image for case in source.cases if case.image is not None):
        *folders, _, name = Path(image.where).relative_to(root).parts
        dataset = "/".join(part for i, part in enumerate(folders) if not (i % 2 and part == "datasets"))
        found.append(KnownVolume(dataset, name, None, image.header().grid, image))
    return sorted(found, key=lambda one: (one.dataset, one.name))


def _steps(parsed: ParsedName, volumes: Sequence[KnownVolume]) -> tuple[list[KnownVolume], str]:
    """Volumes that fit by the first of the steps that gives any, and what it was; none, and why."""
    same = [one for one in volumes if one.parsed.plane == parsed.plane]
    exact = [one for one in same if one.parsed.base == parsed.base and one.parsed.owner == parsed.owner]
    if exact:
        return exact, "is called like the volume but for the word that says labels"
    if parsed.owner is not None:
        mine = [one for one in same if one.parsed.owner == parsed.owner]
        if mine:
            return mine, "has the plane and the UUIDs of the volume"
        others = ", ".join(one.where for one in same[:5])
        return [], f"no volume of plane {parsed.plane} has its UUIDs" + (
            f"; {others} belongs to another patient or case" if others else ""
        )
    bare = [one for one in same if one.parsed.owner is None]
    if bare:
        return bare, "has the plane of the volume"
    return [], f"no volume of plane {parsed.plane} is in the table" + (
        f" without UUIDs ({len(same)} have some, which its name lacks)" if same else ""
    )


def _add_tables(items: Iterable[Item], tables: Sequence[Table], listing: Listing) -> None:
    """Give each table to the volume whose labels lie in its folder and are of its plane and patient."""
    owners: dict[tuple[str, str | None, object], list[Item]] = {}
    for item in items:
        keys = {(mask.entry.folder, mask.parsed.plane, mask.parsed.owner) for mask in item.masks if mask.parsed}
        for key in keys:
            owners.setdefault(key, []).append(item)
    for table in tables:
        found = owners.get((table.entry.folder, table.parsed.plane, table.parsed.owner), [])
        if not found:
            listing.skip(table.entry, "scores labels, but there are none of its plane in its folder")
        elif len(found) > 1:
            listing.lost(table.entry, f"may score the labels of {', '.join(item.where for item in found)}")
        else:
            found[0].tables.append(table)


def _set_classes(item: Item, mode: Mode, listing: Listing) -> None:
    """As for planes with volumes, but a file without a number is semantic also among several."""
    numbered = [mask for mask in item.masks if mask.parsed is not None and mask.parsed.is_numbered]
    if mode != "auto" or len(item.masks) == 1 or len(numbered) == len(item.masks):
        set_classes(item, mode, listing)
        return
    listing.remark(
        item.where, "mixed mode: of its label files some have a number, and are a class each, some have none"
    )
    ids = [mask.parsed.index for mask in numbered if mask.parsed is not None]
    if len(set(ids)) < len(ids) or 0 in ids:
        item.fail(numbered[0].entry.where, f"the numbers {ids} of label files must differ and be 1 or more")
        return
    item.masks[:] = [
        replace(mask, class_id=mask.parsed.index) if mask.parsed is not None else mask for mask in item.masks
    ]
