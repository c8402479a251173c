"""Layout "by name": ``CTChest.nii.gz``, and its labels ``CTChest/lung.nii.gz``, a file per class; or ``.nrrd``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from voxtract.errors import InvalidInput
from voxtract.read.supervisely.class_names import ClassNames
from voxtract.read.supervisely.items import Item, Listing, Mask
from voxtract.read.supervisely.names import parse
from voxtract.read.supervisely.tree import Entry

Folders = Mapping[str, Sequence[Entry]]


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which folder holds the labels of which volume.

    Parameters
    ----------
    beside, elsewhere : mapping of a volume's way to a folder
    contested : mapping of a volume's way to folders
        It cannot be told which is meant.
    """

    beside: Mapping[str, str]
    elsewhere: Mapping[str, str]
    contested: Mapping[str, Sequence[str]]

    @property
    def claimed(self) -> set[str]:
        """Folders whose files are labels."""
        told = {folder for folders in self.contested.values() for folder in folders}
        return {*self.beside.values(), *self.elsewhere.values(), *told}


def pair(entries: Sequence[Entry]) -> Pairing:
    """Find the folder of labels of each volume: the one beside it, else the only one of its name.

    Of two volumes whose names differ in the suffix alone it cannot be told which the folder beside them is of.

    A folder is never that of a volume below it. One elsewhere is no candidate if it is that of the volume beside it,
    or holds a volume that is called like it or has labels of its own.
    """
    folders = by_folder(entries)
    beside: dict[str, str] = {}
    labels: set[str] = set()  # folders whose files are labels
    for entry in sorted(entries, key=_from_the_top):
        folder = f"{entry.folder}/{entry.stem}" if entry.folder else entry.stem
        if entry.folder not in labels and folder in folders:
            beside[entry.way] = folder
            labels.add(folder)
    volumes = {entry.folder for entry in entries if entry.way in beside}  # folders that hold volumes
    volumes |= {entry.folder for entry in entries if entry.folder.rpartition("/")[2] == entry.stem}
    named: dict[str, list[str]] = {}
    for folder in sorted(folders.keys() - labels - volumes - {""}):
        named.setdefault(folder.rpartition("/")[2], []).append(folder)
    wanted: list[tuple[Entry, list[str]]] = []
    for entry in sorted(entries, key=_from_the_top):
        found = [one for one in named.get(entry.stem, ()) if not f"{entry.folder}/".startswith(f"{one}/")]
        if found and entry.folder not in labels and entry.way not in beside:
            wanted.append((entry, found))
    rivals = Counter(folder for _, found in wanted for folder in found)
    elsewhere: dict[str, str] = {}
    contested: dict[str, Sequence[str]] = {}
    for entry, found in sorted(wanted, key=lambda one: len(one[1]) > 1 or rivals[one[1][0]] > 1):  # the sure ones first
        left = [one for one in found if one not in volumes]
        if not left or entry.folder in labels:
            continue
        if len(found) == 1 and rivals[found[0]] == 1:
            elsewhere[entry.way] = found[0]
        else:
            contested[entry.way] = left
        labels.update(left)
        volumes.add(entry.folder)
    volumes_of = Counter(beside.values())
    for way in [way for way, folder in beside.items() if volumes_of[folder] > 1]:
        contested[way] = [beside.pop(way)]
    return Pairing(beside, elsewhere, contested)


def _from_the_top(entry: Entry) -> tuple[int, str]:
    return entry.way.count("/"), entry.way


def by_folder(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Files by the folder they lie in."""
    folders: dict[str, list[Entry]] = {}
    for entry in entries:
        folders.setdefault(entry.folder, []).append(entry)
    return folders


def add_by_name(entries: Sequence[Entry], pairing: Pairing, names: ClassNames, listing: Listing) -> None:
    """Add every volume with its labels; each file in no folder of labels is a volume."""
    folders = by_folder(entries)
    claimed = pairing.claimed
    for entry in entries:
        if entry.folder in claimed:
            continue
        named = parse(entry.name)
        item = Item(entry.id, entry.where, entry, view=None if named.inner else named.view)
        listing.items.append(item)
        if entry.way in pairing.contested:
            places = " or ".join(pairing.contested[entry.way])
            rivals = [one for one in entries if one.way in pairing.contested and one.stem == entry.stem]
            others = f", for which {' and '.join(one.where for one in rivals)} look" if len(rivals) > 1 else ""
            twins = len({one.folder for one in rivals}) < len(rivals)
            advice = "remove one of the volumes" if twins else "put the folder of labels beside its volume"
            item.fail(entry.where, f"its labels may be in {places}{others}; {advice}")
            continue
        why = "lies in the folder beside the volume, which has its name"
        folder = pairing.beside.get(entry.way)
        if folder is None and (folder := pairing.elsewhere.get(entry.way)) is not None:
            why = f"lies in {folder}, the only folder of the volume's name"
            listing.remark(entry.where, f"its labels are in {folder}, the only folder of its name, not beside it")
        try:
            classes = {} if folder is None else names.of(folder)
        except InvalidInput as fault:
            item.fail(entry.where, str(fault))
            continue
        listing.classes.update(classes.values())
        for mask in () if folder is None else folders[folder]:
            name = classes[mask.stem].name if mask.stem in classes else mask.stem
            if any(one.class_name == name for one in item.masks):
                item.fail(mask.where, f"a second file of class {name!r} for one volume; remove one of them")
            item.masks.append(Mask(mask, why, class_name=name))
