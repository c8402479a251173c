"""Which volumes a DICOM file or a tree of them holds: files are listed, their headers read, series told apart."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from voxtract.errors import InvalidInput, NotFound, UnreadableFile, VoxtractError
from voxtract.model import Case, LabelVolume, Match, Remark, Skipped, Source
from voxtract.read.dicom.files import has_mark, need_pydicom
from voxtract.read.dicom.frames import Frame
from voxtract.read.dicom.geometry import Stack, alike, arrange
from voxtract.read.dicom.headers import FileHeader, Refusal, read_header
from voxtract.read.dicom.segments import Segmentation, categories_of
from voxtract.read.dicom.volume import DicomVolume

SUFFIXES = (".dcm", ".dicom", ".ima")
FILES_LOOKED_AT = 200  # before a folder is held to be no tree of DICOM files

PathLike = str | os.PathLike[str]


@dataclass(slots=True)
class _Listing:
    """What was found, and what a person should hear of it."""

    images: list[FileHeader] = field(default_factory=list)
    segmentations: list[FileHeader] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)  # series -> what of it was left out, and why

    def skip(self, path: str, reason: str, series: str = "") -> None:
        self.skipped.append(Skipped(path, reason))
        if series:
            self.left.setdefault(series, []).append(f"{Path(path).name} {reason}")


@dataclass(eq=False, slots=True)
class _Group:
    """Frames of one series that may be one volume."""

    frames: list[Frame]
    series: str
    reference: str
    number: int | None
    modality: str

    @property
    def paths(self) -> list[str]:
        return sorted({frame.path for frame in self.frames})


def is_dicom(path: PathLike) -> bool:
    """Whether a file is DICOM, or a folder (with its folders) holds a DICOM file among its first 200 files."""
    path = Path(path)
    if not path.is_dir():
        return has_mark(path)
    for looked_at, found in enumerate(_files(path, [])):
        if looked_at == FILES_LOOKED_AT:
            return False
        if has_mark(found):
            return True
    return False


def open_dicom(
    path: PathLike | None,
    *,
    labels: PathLike | None = None,
    volume_index: int | None = None,
    force: bool = False,
) -> Source:
    """List the volumes of a DICOM file, of the folder of a series, or of a tree of series; headers are read, no pixel.

    Files are grouped by series, frame of reference, size and orientation; each group is a case, called after its file,
    or after its folder and, where that holds several, the series number. Its slices are sorted by position.

    DICOM SEG objects become the labels of the series that they refer to. Where there is no series at all, each is a
    case of its own.

    Parameters
    ----------
    path : path, optional
        A file or folder; the folders in it are looked into too, links to folders are not.
    labels : path, optional
        A DICOM SEG, or a folder of them. Then only series with labels are cases, and SEG objects below `path` are left
        out.
    volume_index : int, optional
        Which volume, 0-based, of series that hold several at one place (time, echo, b-value).
    force : bool
        Read files whose header lacks the mark ``DICM`` too.

    Returns
    -------
    Source
        A series that is no volume (missing slices, duplicates, orientations that differ) is a case too: reading it
        says what is wrong. Files that belong to no case are in ``skipped``. Tilted slices, missing geometry and
        the like are in ``remarks``.

    Raises
    ------
    NotFound
        Nothing there, or no file with a volume.
    InvalidInput
        A single file that is no volume; pydicom is not installed; no labels that fit a series.
    UnreadableFile
        A folder that the system does not list.
    """
    need_pydicom(path if path is not None else labels)
    listing, others = _Listing(), _Listing()
    if path is not None:
        _list(Path(path), force, listing)
    if labels is not None:
        _list(Path(labels), force, others)
        for file in others.images:
            others.skip(file.path, "is no DICOM SEG, but labels were expected")
        for file in listing.segmentations:
            listing.skip(file.path, f"is a DICOM SEG, but labels are taken from {labels}")
        listing.segmentations = others.segmentations
        listing.skipped += others.skipped
        listing.remarks += others.remarks
    description = " with labels from ".join(str(one) for one in (path, labels) if one is not None)
    source = _source(listing, Path(path if path is not None else labels or ""), volume_index, description)
    if path is None or labels is None:
        return source
    pairs = tuple(case for case in source.cases if case.image is not None and case.labels)
    if not pairs:
        raise InvalidInput(f"{description}: no DICOM SEG refers to any of the {len(source.cases)} series")
    alone = [
        Skipped(case.image.where, "no labels refer to it") for case in source.cases if case.image and not case.labels
    ]
    return Source(description, pairs, (*source.skipped, *alone), source.remarks, source.matches, source.classes)


# --- listing


def _list(path: Path, force: bool, listing: _Listing) -> None:
    """Read the headers of a file, or of all files below a folder."""
    single = not path.is_dir()
    if single and not os.path.lexists(path):
        raise NotFound(f"{path}: no such file or folder; check the spelling")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for found in [str(path)] if single else _files(path, listing.skipped):
            heard.clear()
            try:
                file = read_header(found, force=force)
            except Refusal as refusal:
                if single:
                    raise InvalidInput(f"{path}: {refusal}") from refusal
                listing.skip(found, str(refusal), refusal.series)
            except VoxtractError as fault:
                if single:
                    raise
                listing.skip(found, str(fault).removeprefix(f"{found}: "))
            else:
                (listing.segmentations if file.is_segmentation else listing.images).append(file)
                said = (*file.remarks, *(str(one.message) for one in heard))
                listing.remarks += [Remark(found, one) for one in dict.fromkeys(said)]
    if not listing.images and not listing.segmentations:
        told = ""
        if listing.skipped:
            first = listing.skipped[0]
            told = f" ({len(listing.skipped)} files skipped, first {first.where}: {first.reason})"
        raise NotFound(f"{path}: holds no DICOM volume; give the folder of a series{told}")


def _files(folder: Path, skipped: list[Skipped]) -> Iterator[str]:
    """All files below a folder, sorted by name; hidden ones are left out."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError) as fault:
        raise NotFound(f"{folder}: no such folder; check the spelling") from fault
    except OSError as fault:
        raise UnreadableFile(f"{folder}: cannot be listed: {fault.strerror}; check its permissions") from fault
    for entry in entries:
        if entry.name.startswith("."):
            skipped.append(Skipped(entry.path, "hidden (its name begins with a dot)"))
        elif not entry.is_dir():
            yield entry.path
        elif entry.is_symlink():  # may lead in a circle
            skipped.append(Skipped(entry.path, "is a link to a folder; give that folder itself"))
        else:
            try:
                yield from _files(Path(entry.path), skipped)
            except UnreadableFile as fault:
                skipped.append(Skipped(entry.path, str(fault)))


# --- from files to cases


def _source(listing: _Listing, root: Path, volume_index: int | None, description: str) -> Source:
    groups = _groups(listing)
    segmentations = _segmentations(listing)
    categories, classes = categories_of(segmentations)
    ids = _ids([group.paths for group in groups], [group.number for group in groups], root)
    folders = [_folder(group.paths) for group in groups]
    labels: dict[int, list[LabelVolume]] = {}
    matches: list[Match] = []
    remarks = listing.remarks
    volumes, stacks = [], []
    for group, name, folder in zip(groups, ids, folders, strict=True):
        volume = DicomVolume(_where(folder, folders.count(folder), name), tuple(group.frames), volume_index)
        stack = _arranged(volume)
        volumes.append(volume)
        stacks.append(stack)
        remarks += [Remark(volume.where, said) for said in (stack.remarks if stack else ())]
        remarks += [
            Remark(volume.where, f"left out of this series: {said}") for said in listing.left.get(group.series, ())
        ]
        matches.append(Match(name, "image", volume.where, _why(group)))
    alone = []
    for one in segmentations:
        index = _image_of(one, groups, stacks)
        try:
            found = one.labels(None if index is None else stacks[index], categories)
        except InvalidInput as fault:
            listing.skip(one.file.path, str(fault).removeprefix(f"{one.file.path}: "))
            continue
        if index is not None:
            labels.setdefault(index, []).extend(found)
            matches.append(Match(ids[index], "labels", one.file.path, f"a DICOM SEG of series {groups[index].series}"))
        elif groups:
            listing.skip(one.file.path, "is a DICOM SEG of a series that is not here")
        else:
            alone.append((one.file.path, found))
    cases = [
        Case(name, volume, _named_apart(labels.get(n, [])))
        for n, (name, volume) in enumerate(zip(ids, volumes, strict=True))
    ]
    names = _ids([[path] for path, _ in alone], [None] * len(alone), root)
    cases += [Case(name, labels=found) for name, (_, found) in zip(names, alone, strict=True)]
    if not cases:
        first = listing.skipped[0]
        raise NotFound(f"{description}: holds no DICOM volume; {first.where}: {first.reason}")
    skipped = tuple(sorted(listing.skipped, key=lambda skip: skip.where))
    return Source(f"{description} (DICOM)", tuple(cases), skipped, tuple(remarks), tuple(matches), classes)


def _groups(listing: _Listing) -> list[_Group]:
    """Frames that may be one volume, in the order of their first file."""
    series: dict[tuple[str, str], list[FileHeader]] = {}
    for file in listing.images:
        series.setdefault((file.series or file.path, file.reference), []).append(file)
    found = []
    for files in series.values():
        found += _apart(files, listing)
    return sorted(found, key=lambda group: group.paths[0])


def _apart(files: Sequence[FileHeader], listing: _Listing) -> list[_Group]:
    """Split a series by size and orientation.

    Single slices beside larger groups are left out, as scouts are. A series of nothing but slices that differ stays
    together: it is refused when it is read.
    """
    groups: list[_Group] = []
    for file in files:
        new = (file.series, file.reference, file.number, file.modality)
        if len(file.frames) > 1 and file.frames[0].place is None:  # a volume by itself
            groups.append(_Group(list(file.frames), *new))
            continue
        for frame in file.frames:
            for group in groups:
                if alike(group.frames[0], frame) and not (frame.place is None and len(group.frames) > len(group.paths)):
                    group.frames.append(frame)
                    break
            else:
                groups.append(_Group([frame], *new))
    if len(groups) < 2:
        return groups
    large = [group for group in groups if len(group.frames) > 1]
    if not large:
        first = groups[0]
        first.frames = [frame for group in groups for frame in group.frames]
        return [first]
    for group in groups:
        if len(group.frames) == 1:
            listing.skip(
                group.frames[0].path,
                "is a single slice of another orientation or size than the other slices of its series",
                group.series,
            )
    if len(large) > 1:
        listing.remarks.append(
            Remark(
                _folder(large[0].paths), f"series {large[0].series} has {len(large)} orientations or sizes: a case each"
            )
        )
    return large


def _arranged(volume: DicomVolume) -> Stack | None:
    """The slices in order; None where they are no volume, which reading them will say."""
    try:
        return arrange(volume.frames, volume.volume_index, volume.where)
    except InvalidInput:
        return None


def _why(group: _Group) -> str:
    number = "" if group.number is None else f" {group.number}"
    frames, files = len(group.frames), len(group.paths)
    return f"{group.modality or 'image'} series{number}: {frames} slices in {files} file{'s' * (files > 1)}"


# --- names


def _folder(paths: Sequence[str]) -> str:
    """The folder of several files, or the one file."""
    return paths[0] if len(paths) == 1 else os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120


def _where(folder: str, volumes: int, name: str) -> str:
    return folder if volumes == 1 else f"{folder} (case {name})"


def _ids(files: Sequence[Sequence[str]], numbers: Sequence[int | None], root: Path) -> list[str]:
    """Case ids: the way from `root` to the file or folder, joined by ``_``; then what tells several there apart."""
    bases = [_base(Path(_folder(paths)), root) for paths in files]
    taken: set[str] = set()
    ids = []
    for base, number in zip(bases, numbers, strict=True):
        name = base if bases.count(base) == 1 or number is None else f"{base}_{number}"
        name = (
            name
            if name not in taken
            else next(n for i in range(2, len(bases) + 2) if (n := f"{name}_{i}") not in taken)
        )
        taken.add(name)
        ids.append(name)
    return ids


def _base(path: Path, root: Path) -> str:
    parts = path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-1:]
    name = "_".join(parts) or root.resolve().name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix) and name[: -len(suffix)].strip("."):
            name = name[: -len(suffix)]
    return name if name.strip(".") else "dicom"


# --- segmentations


def _segmentations(listing: _Listing) -> list[Segmentation]:
    found = []
    for file in listing.segmentations:
        try:
            found.append(Segmentation.of(file))
        except InvalidInput as fault:
            listing.skip(file.path, str(fault).removeprefix(f"{file.path}: "))
    return found


def _image_of(one: Segmentation, groups: Sequence[_Group], stacks: Sequence[Stack | None]) -> int | None:
    """The series that a SEG refers to; without such a reference, the only one in its frame of reference."""
    if one.series:
        named = [i for i, group in enumerate(groups) if group.series == one.series]
    else:
        reference = one.file.reference
        named = [i for i, group in enumerate(groups) if reference and group.reference == reference]
        named = named if len(named) == 1 else []
    fitting = [i for i in named if (stack := stacks[i]) and alike(stack.frames[0], one.file.frames[0])]
    return next(iter(fitting or named), None)


def _named_apart(labels: Sequence[LabelVolume]) -> tuple[LabelVolume, ...]:
    """Label volumes of one case, each with a name of its own."""
    if len(labels) < 2:
        return tuple(labels)
    taken: set[str] = set()
    found = []
    for one in labels:
        base = one.name or Path(one.file.where).stem
        name = next(n for i in range(1, len(labels) + 1) if (n := base if i == 1 else f"{base} {i}") not in taken)
        taken.add(name)
        found.append(LabelVolume(one.file, name, one.category, one.objects))
    return tuple(found)
