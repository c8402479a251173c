"""Which of the layouts a tree of files has, decided file by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from voxtract.errors import InvalidInput, NotFound
from voxtract.model import Source
from voxtract.read.supervisely.by_name import add_by_name, by_folder, pair
from voxtract.read.supervisely.by_plane import Named, add_by_plane, grouped
from voxtract.read.supervisely.by_table import KnownVolume, add_by_table
from voxtract.read.supervisely.class_names import CLASS_NAMES, ClassNames
from voxtract.read.supervisely.items import Listing, Options, source_of
from voxtract.read.supervisely.names import ParsedName, parse
from voxtract.read.supervisely.tree import Entry, Tree

Layout = Literal["auto", "by_name", "by_plane", "annotations"]


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Files by what their names say; NRRD files can only be read by volume name."""

    volumes: list[Entry]
    tables: list[Entry]
    texts: list[Entry]
    mappings: list[Entry]
    class_names: list[Entry]
    parsed: dict[Entry, ParsedName]

    @property
    def nifti(self) -> list[Entry]:
        """Volumes and labels in NIfTI."""
        return [entry for entry in self.volumes if entry.is_nifti]

    def planes(self, kind: str, *, inner: bool) -> list[Named]:
        """Files of a kind whose plane is known; `inner` also those that have it inside of a word."""
        return [
            (entry, name)
            for entry, name in self.parsed.items()
            if name.kind == kind
            and name.plane is not None
            and (inner or not name.inner)
            and (entry.is_nifti or not entry.is_volume)
        ]


def open_tree(
    tree: Tree,
    layout: Layout,
    volumes: Sequence[KnownVolume] | None,
    dataset: str | None,
    options: Options,
) -> Source:
    """List the items of a tree in the layout it has, or that is asked for.

    Raises
    ------
    NotFound
        No volume.
    InvalidInput
        Nothing in it fits the layout asked for, or nothing can be used.
    """
    listing = Listing(skipped=list(tree.skipped))
    files = _sorted(tree, listing)
    if not files.volumes:
        more = f"; {listing.skipped[0].where}: {listing.skipped[0].reason}" if listing.skipped else ""
        raise NotFound(f"{tree.where}: holds no .nii, .nii.gz or .nrrd file{more}")
    inner, forced = True, layout != "auto"
    if not forced:
        layout, inner = _choose(files, volumes is not None)
    names = ClassNames(files.class_names)
    if layout == "by_name":
        add_by_name(files.volumes, pair(files.volumes), names, listing)
        _tell_unused(files, [], listing, "by name")
        told = "by volume name"
    elif layout == "by_plane":
        told = _by_plane(files, names, inner, forced, options, listing)
    else:
        told = "annotations of volumes that lie elsewhere"
        masks = files.planes("labels", inner=inner)
        tables = files.planes("scores", inner=inner)
        if not masks and not files.mappings:
            raise InvalidInput(f"{tree.where}: no file is called like labels of a plane, as 'axl_inference.nii.gz'")
        add_by_table(files.nifti, [*masks, *tables], files.mappings, volumes, dataset, options.mode, listing)
        used = {mask.entry for item in listing.items for mask in item.masks}
        _tell_names(used, files, listing)
        _tell_unplaced(files, {*used, *(entry for entry, _ in masks)}, listing)
        _tell_unused(files, tables, listing, None)
    for entry in names.unused.values():
        listing.skip(entry, "names classes of files in folders called like their volumes, but there are none below it")
    if not listing.items:
        raise InvalidInput(f"{tree.where}: nothing in it fits the layout {told}: {_first(listing)}")
    if layout == "by_name":
        for entry in files.texts:
            listing.skip(entry, "is a text; classes here are named by files, no colour map is used")
        files.texts.clear()
    return source_of(f"{tree.where}: Supervisely, {told}", listing, files.texts, options)


def _sorted(tree: Tree, listing: Listing) -> _Sorted:
    files = _Sorted([], [], [], [], [], {})
    kinds = {".csv": files.tables, ".txt": files.texts, ".json": files.mappings}
    for entry in tree.entries:
        if entry.is_volume:
            files.volumes.append(entry)
        elif entry.name == CLASS_NAMES:
            files.class_names.append(entry)
        elif (found := kinds.get(entry.path.suffix.lower())) is not None:
            found.append(entry)
        else:
            listing.skip(entry, "is no .nii, .nii.gz or .nrrd file, score table, colour map or mapping")
    files.parsed.update({entry: parse(entry.name) for entry in (*files.volumes, *files.tables)})
    return files


def _choose(files: _Sorted, has_table: bool) -> tuple[Layout, bool]:
    """Layout, and whether planes inside of words count: only where every NIfTI file has one and a kind."""
    nifti = [files.parsed[entry] for entry in files.nifti]
    inner = all(name.plane is not None and name.kind is not None for name in nifti)
    if files.planes("volume", inner=inner):
        return "by_plane", inner
    masks = files.planes("labels", inner=inner)
    if has_table:
        return "annotations", inner
    plain = any(
        name.kind is None and (name.plane is None or name.inner > inner)
        for name in map(files.parsed.__getitem__, files.volumes)
    )
    if masks and not (plain and pair(files.volumes).claimed):
        return "annotations", inner
    return "by_name", inner


def _by_plane(files: _Sorted, names: ClassNames, inner: bool, forced: bool, options: Options, listing: Listing) -> str:
    """Volumes and labels of planes; where volumes have a folder of labels or one of their own, these too."""
    named = [one for kind in ("volume", "labels", "scores") for one in files.planes(kind, inner=inner)]
    own, unwanted = (set(), {}) if forced else _labelled_by_folder(files, named)
    named = [one for one in named if one[0] not in own]
    taken = {entry for entry, _ in named}
    left = [
        entry
        for entry in files.volumes
        if entry in own or not (entry in taken or entry in unwanted or _is_named_for_planes(files.parsed[entry]))
    ]
    left = [] if forced else left
    pairing = pair(left)
    folders = {entry.folder for entry in taken}
    by_name = [
        entry
        for entry in left
        if entry in own or entry.way in pairing.beside or entry.folder in pairing.claimed or entry.folder not in folders
    ]
    add_by_plane(named, options.mode, listing)
    _tell_names(taken, files, listing)
    _tell_unplaced(files, {*taken, *by_name, *unwanted}, listing)
    for entry, volume in unwanted.items():
        listing.skip(entry, f"lies in the folder called like {volume}, whose labels are those of its plane")
    _tell_unused(files, [one for one in named if one[1].kind == "scores"], listing, "by plane")
    if not by_name:
        return "by plane"
    add_by_name(by_name, pairing, names, listing)
    if not any(name.kind != "scores" for _, name in named):
        return "by volume name"
    listing.remark(by_name[0].where, f"is read by volume name, as are {len(by_name)} files of a tree read by plane")
    return "by plane, and by volume name"


def _labelled_by_folder(files: _Sorted, named: Sequence[Named]) -> tuple[set[Entry], dict[Entry, str]]:
    """Volumes whose labels lie in the folder called like them, with these labels; labels that give way to others.

    Such a volume may be named after a plane: ``axl_anatomic`` exported by volume name. Where it has labels of its plane
    as well, they are taken.
    """
    folders = by_folder(files.volumes)
    of_planes = {entry.folder for entry, name in named if name.kind != "scores"}
    labelled = {entry for group in grouped(named).values() if group.masks for entry, _ in group.volumes}
    labels = {entry for entry, name in named if name.kind == "labels"}
    own: set[Entry] = set()
    unwanted: dict[Entry, str] = {}
    for entry in files.volumes:
        folder = f"{entry.folder}/{entry.stem}" if entry.folder else entry.stem
        if entry in labels or folder not in folders or folder in of_planes:
            continue
        if entry in labelled:
            unwanted.update(dict.fromkeys(folders[folder], entry.name))
        else:
            own.update((entry, *folders[folder]))
    return own, unwanted


def _is_named_for_planes(name: ParsedName) -> bool:
    """Whether a name is meant for a plane, though it cannot be used as it is."""
    return bool(name.problem) or name.kind == "volume" or (name.plane is not None and not name.inner)


def _tell_names(used: set[Entry], files: _Sorted, listing: Listing) -> None:
    for entry in sorted(used, key=lambda entry: entry.way):
        for message in files.parsed[entry].remarks:
            listing.remark(entry.where, message)


def _tell_unplaced(files: _Sorted, used: set[Entry], listing: Listing) -> None:
    """Volumes and labels that the layout has no place for."""
    for entry in files.volumes:
        name = files.parsed[entry]
        if entry in used:
            continue
        if not entry.is_nifti:
            listing.skip(entry, "is NRRD, which is read by volume name; volumes and labels of planes are NIfTI")
        elif name.problem:
            listing.lost(entry, f"{name.problem}; keep one")
        elif name.kind is None:
            listing.skip(
                entry, "its name does not say what it is; expected a word as 'anatomic', 'mask' or 'inference'"
            )
        elif name.plane is None:
            listing.skip(entry, "its name has no plane; expected 'axl', 'cor' or 'sag', parted from the rest by _")
        else:
            listing.skip(entry, "is called like a volume, but only labels are read here")


def _tell_unused(files: _Sorted, tables: Sequence[Named], listing: Listing, layout: str | None) -> None:
    """Tables and mappings that the layout has no use for."""
    taken = {entry for entry, _ in tables}
    for entry in files.tables:
        if entry not in taken:
            listing.skip(entry, "is no score table of a plane; those are called as 'axl_score.csv'")
    for entry in files.mappings if layout is not None else ():
        listing.skip(entry, "a mapping is used only for labels without volumes")


def _first(listing: Listing) -> str:
    first = listing.skipped[0] if listing.skipped else None
    return f"{first.where}: {first.reason}" if first is not None else "no volume"
