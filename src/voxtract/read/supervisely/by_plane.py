"""Layout "by plane": ``axl_anatomic.nii.gz`` and its labels ``axl_inference.nii.gz``, in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from voxtract.read.supervisely.items import Item, Listing, Mask, Mode, Table
from voxtract.read.supervisely.names import VIEW_OF, ParsedName, natural
from voxtract.read.supervisely.tree import Entry

Named = tuple[Entry, ParsedName]
Key = tuple[str, str, tuple[str, str]]  # folder, plane, patient and case


@dataclass(slots=True)
class Group:
    """Files of one plane of one patient in one folder."""

    volumes: list[Named] = field(default_factory=list)
    masks: list[Named] = field(default_factory=list)
    tables: list[Named] = field(default_factory=list)

    def add(self, entry: Entry, parsed: ParsedName) -> None:
        """Add a file where its kind belongs."""
        {"volume": self.volumes, "labels": self.masks, "scores": self.tables}[parsed.kind or ""].append((entry, parsed))


def grouped(named: Sequence[Named]) -> dict[Key, Group]:
    """Bring files whose names say kind and plane together, sorted."""
    groups: dict[Key, Group] = {}
    for entry, parsed in sorted(named, key=lambda one: (one[0].folder, natural(one[0].name))):
        key = (entry.folder, parsed.plane or "", parsed.owner or ("", ""))
        groups.setdefault(key, Group()).add(entry, parsed)
    return dict(sorted(groups.items()))


def add_by_plane(named: Sequence[Named], mode: Mode, listing: Listing) -> None:
    """Add every volume with the labels of its folder, plane and patient."""
    groups = grouped(named)
    planes: dict[str, set[str]] = {}
    for (folder, plane, owner), group in groups.items():
        if group.volumes:
            planes.setdefault(folder, set()).add(plane)
        items = [_item(entry, parsed) for entry, parsed in group.volumes]
        listing.items += items
        if not items:
            _tell_alone(folder, plane, owner, group, groups, listing)
        elif len(items) == 1:
            items[0].masks = [
                _mask(one, f"the labels of plane {plane} in the folder of the volume") for one in group.masks
            ]
            items[0].tables = [Table(*one) for one in group.tables]
        else:
            _by_word(items, group, listing)
        for item in items:
            set_classes(item, mode, listing)
    _tell_mixed_modes(groups, listing)
    for folder, found in planes.items():
        if missing := [plane for plane in VIEW_OF if plane not in found]:
            where = next(entry for (one, *_), group in groups.items() if one == folder for entry, _ in group.volumes)
            listing.remark(
                where.where.removesuffix(f"/{where.name}"),
                f"has volumes of {', '.join(sorted(found))}, but none of {', '.join(missing)}",
            )


def _item(entry: Entry, parsed: ParsedName) -> Item:
    return Item(entry.id, entry.where, entry, view=parsed.view, why=f"a volume of plane {parsed.plane} by its name")


def _mask(named: Named, why: str) -> Mask:
    return Mask(named[0], why, parsed=named[1])


def _tell_alone(
    folder: str, plane: str, owner: tuple[str, str], group: Group, groups: dict[Key, Group], listing: Listing
) -> None:
    """Labels and tables without a volume."""
    others = [
        entry.name
        for (one, its, of), found in groups.items()
        if (one, its) == (folder, plane) and of != owner
        for entry, _ in found.volumes
    ]
    more = f"; {', '.join(others)} belongs to another patient or case by the UUIDs of its name" if others else ""
    looked = folder or "the top folder"
    for entry, _ in group.masks:
        listing.skip(entry, f"labels without a volume: no '{plane}…anatomic' of the same UUIDs in {looked}{more}")
    for entry, _ in group.tables:
        listing.skip(entry, f"scores without a volume: no '{plane}…anatomic' of the same UUIDs in {looked}")


def _by_word(items: Sequence[Item], group: Group, listing: Listing) -> None:
    """Several volumes of one plane: those called alike but for the word that says the kind belong together."""
    owners: dict[Entry, list[int]] = {}
    for entry, parsed in (*group.masks, *group.tables):
        exact = [i for i, (_, volume) in enumerate(group.volumes) if volume.base == parsed.base]
        owners[entry] = exact or [i for i, (_, volume) in enumerate(group.volumes) if volume.base == parsed.series]
    unclear = [entry for entry, _ in group.masks if len(owners[entry]) != 1]
    if unclear:
        for item in items:
            names = ", ".join(entry.name for entry, _ in group.volumes)
            item.fail(
                unclear[0].where,
                f"its folder has {len(items)} volumes of its plane ({names}), and its name does not say which it "
                "belongs to; name it like one of them with another word for 'anatomic', or give each its own folder",
            )
        return
    for named in group.masks:
        item = items[owners[named[0]][0]]
        item.masks.append(_mask(named, "is called like the volume but for the word that says labels"))
        listing.remark(
            named[0].where, f"its folder has {len(items)} volumes of its plane; {item.where} is called like it"
        )
    for entry, parsed in group.tables:
        if len(owners[entry]) == 1:
            items[owners[entry][0]].tables.append(Table(entry, parsed))
        else:
            for item in items:
                item.fail(entry.where, f"its folder has {len(items)} volumes of its plane, and it is called like none")


def set_classes(item: Item, mode: Mode, listing: Listing) -> None:
    """Decide whether values are classes (semantic) or each file is one (instance), and number the files."""
    if not item.masks or mode == "semantic" or (mode == "auto" and len(item.masks) == 1):
        return
    item.masks.sort(key=lambda mask: natural(mask.entry.name))
    ids = [mask.parsed.index if mask.parsed is not None else None for mask in item.masks]
    told = [index for index in ids if index is not None]
    if len(set(told)) < len(told):
        ids = list(range(1, len(ids) + 1))
        names = ", ".join(mask.entry.name for mask in item.masks)
        listing.remark(item.where, f"several label files have one number; classes count from 1 in this order: {names}")
    elif None in ids:
        first = ids.index(None)
        if 1 in ids or ids.count(None) > 1:
            item.fail(
                item.masks[first].entry.where,
                f"is one of {len(ids)} label files of {item.where}, each of one class, but has no number at its end, "
                "and class 1 is taken; add one",
            )
            return
        ids[first] = 1
    if 0 in ids:
        entry = item.masks[ids.index(0)].entry
        item.fail(entry.where, "its number 0 cannot be a class, which is background; number the files from 1")
        return
    item.masks[:] = [replace(mask, class_id=index) for mask, index in zip(item.masks, ids, strict=True)]


def _tell_mixed_modes(groups: dict[Key, Group], listing: Listing) -> None:
    """In one folder, one plane has a single file with a number while another has several."""
    several = {folder for (folder, *_), group in groups.items() if len(group.masks) > 1 and group.volumes}
    for (folder, *_), group in groups.items():
        if folder in several and len(group.masks) == 1 and group.masks[0][1].is_numbered and group.volumes:
            listing.remark(
                group.masks[0][0].where,
                "mixed mode: the only label file of its plane, so its values are classes, while other planes of its "
                'folder have a file per class; mode="instance" or "semantic" makes them alike',
            )
