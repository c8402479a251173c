"""A Labelbox export as cases: which labels are taken, which volume each belongs to, what is painted of it."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput, NotFound, VoxtractError
from voxtract.geometry import View
from voxtract.model import Case, LabelVolume, Match, Remark, Skipped, Source, VolumeFile
from voxtract.read.labelbox.fetch import ALLOWED_HOSTS, Fetcher, Limits
from voxtract.read.labelbox.painting import GroupLabels, Painting, keys_of, layers_at_most, names_of, paint
from voxtract.read.labelbox.planes import GroupPlane, Options, Ordered, base_of
from voxtract.read.labelbox.polylines import measure
from voxtract.read.labelbox.rows import Tally, read_rows
from voxtract.read.labelbox.select import Selection
from voxtract.read.labelbox.told import Line, facts, lines_table
from voxtract.read.labelbox.values import Drawn, Group, Issue, Place, Polyline, Row
from voxtract.read.nifti import NiftiFile

Volumes = Mapping[str, "str | os.PathLike[str]"] | str | os.PathLike[str]

KEY_VARIABLE = "LABELBOX_API_KEY"  # of the environment
ENDINGS = ("", ".nii.gz", ".nii", ".dcm")  # of a volume that is named by a key
_UNSAFE = re.compile(r"[^\w.+=@ -]+")
_counter = itertools.count()


@dataclass(frozen=True, eq=False, slots=True)
class LabelboxSource(Source):
    """A `Source` that also keeps what an export says and no label volume can hold.

    Parameters
    ----------
    rows : mapping of case id to Row
    issues : (Issue, ...)
        All that was wrong when it was opened; `remarks` has the same for people.
    options : Options
        As given, to be put beside results.
    base : int
        Number of the first frame that was taken.
    heard : dict of issues to None
        What goes wrong when label volumes are read, as they are.
    """

    rows: Mapping[str, Row] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()
    options: Options = field(default_factory=Options)
    base: int = 1
    heard: dict[Issue, None] = field(default_factory=dict)

    def late_remarks(self) -> tuple[Remark, ...]:
        """Masks that could not be had, points outside of pictures and the like, of the volumes read so far."""
        known = set(self.issues)
        return tuple(_remark(issue) for issue in self.heard if issue not in known)

    def lines(self) -> Iterator[Line]:
        """Measure every line of every case; headers of the images are read.

        Raises
        ------
        VoxtractError
            A header that cannot be read.
        """
        for case in self.cases:
            yield from self.lines_of(case)

    def lines_of(self, case: Case) -> Iterator[Line]:
        """Measure every line of one case; raises as `lines`."""
        assert case.image is not None  # noqa: S101 - every case of an export has one
        groups = [g for g in self.rows[case.id].label.groups if g.frames and self.options.view_of(g.name) is not None]
        if not groups:
            return
        grid = case.image.header().grid
        for group in groups:
            plane = GroupPlane.of(group.name, grid, self.options, self.base, case.image)
            for frame in group.frames:
                for one in frame.objects:
                    if isinstance(one.geometry, Polyline):
                        yield _line(case.id, frame.number, one, one.geometry, plane, self.options)

    def files(self) -> Iterator[tuple[str, str]]:
        """What belongs beside every output: names and texts of files.

        Yields
        ------
        ``labelbox.json``
            The options, what the export says besides what was drawn, and the issues; see `voxtract.read.labelbox.told`.
        ``lines.csv``
            Every line, measured, where there are any; those of an image that cannot be read are missing.
        """
        issues = dict.fromkeys([*self.issues, *self.heard])
        yield "labelbox.json", facts(self.options, self.base, self.rows, issues)
        found: list[Line] = []
        for case in self.cases:
            try:
                found += self.lines_of(case)
            except VoxtractError:  # told when its turn came
                continue
        if found:
            yield "lines.csv", lines_table(found)


def _line(case: str, frame: int, one: Drawn, line: Polyline, plane: GroupPlane, options: Options) -> Line:
    found = measure(line, plane, options.closed)
    index = plane.slice_of(frame)
    box = center_mm = None
    if index is not None:
        box = plane.box(line.points)
        r, a, s = plane.grid.points_mm(plane.voxels(np.array([found.center]), frame))[0].tolist()
        center_mm = r, a, s
    words = (case, plane.group, frame, index, one.feature, one.name, found)
    return Line(*words, plane.view, len(line.points), one.key_frame, box, center_mm)


def open_labelbox(
    export: str | os.PathLike[str],
    *,
    volumes: Volumes,
    options: Options = Options(),  # noqa: B008 - frozen
    selection: Selection = Selection(),  # noqa: B008 - frozen
    open_volume: Callable[[Path], VolumeFile] = NiftiFile,
    lenient: bool = False,
    strict: bool = False,
    api_key: str | None = None,
    allowed_hosts: Sequence[str] = ALLOWED_HOSTS,
    cache: str | os.PathLike[str] | None = None,
    outside: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    pseudonymise: str | None = None,
    prefetch: bool = False,
) -> LabelboxSource:
    """List the labels of a Labelbox export of DICOM data as cases.

    Parameters
    ----------
    export : path
        What ``export_v2`` or the streaming export gave (array, NDJSON or single objects), or a v1 export.
    volumes : mapping or path
        Where the volume of each data row lies: a mapping of global key, external id or id of the data row to a path, or
        a folder whose files or folders are named by them, as they are or with .nii.gz, .nii or .dcm.
    options : Options
        How frames and pixels lie in the volumes.
    selection : Selection
        Which labels are taken; all by default, each as a case of its own.
    open_volume : function of a path to a volume file
        Opens a file or folder as a volume; reads nothing yet.
    lenient : bool
        Repair samples that are no strict JSON.
    strict : bool
        Every issue is an error: those found now are raised now, those found in a mask when it is read.
    api_key, allowed_hosts, cache, outside, limits
        For masks and v1 frames that lie at an address; see `Fetcher`. The key is by default that in the environment
        variable ``LABELBOX_API_KEY``, where neither a list of processes nor a shell's history shows it.
    pseudonymise : str, optional
        A secret of your own, with which e-mail addresses become pseudonyms; see `read_rows`.
    prefetch : bool
        Fetch and paint everything now: afterwards it is in the cache, all issues are known, and there are only as many
        label volumes as overlaps ask for.

    Returns
    -------
    LabelboxSource
        A case for each label (data row, project, label) whose volume was found: its id is the key of the data row,
        with the label's id if it has several. A label volume for each group, or more where objects may overlap, named
        ``<group>`` and ``<group>_2``; its values number the objects of the case from 1, `objects` has the feature ids,
        `category` their tools. Masks are fetched when it is read.

    Raises
    ------
    NotFound, UnreadableFile
        The export, or the folder of volumes.
    InvalidInput
        Nothing in the export can be a case; two volumes for one data row; contradicting evidence for
        ``frame_base="auto"``; with `strict`, any issue.
    """
    export = Path(export)
    if isinstance(volumes, str | os.PathLike) and not Path(volumes).is_dir():
        raise NotFound(
            f"{os.fspath(volumes)}: no such folder; give the folder of the volumes, or a mapping of keys to paths"
        )
    key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE) or None
    fetcher = Fetcher(export.parent, key, tuple(allowed_hosts), None if cache is None else Path(cache), outside, limits)
    tally = Tally()
    benchmarks: set[str] = set()
    skipped: list[Skipped] = []
    rows = []
    found = read_rows(
        export,
        tally,
        lenient=lenient,
        fetch=lambda url: fetcher.get(url, "json"),
        groups=tuple(options.groups),
        pseudonymise=pseudonymise,
    )
    for row in found:
        benchmarks.update({row.label.benchmark} - {""})
        if row.label.skipped:
            skipped.append(Skipped(row.place.at(label=row.label.id).where, "its annotator skipped it"))
        elif selection.takes(row, tally.report):
            rows.append(row)
    rows = selection.among(rows, benchmarks, tally.report)
    opener = _Opener(volumes, open_volume)
    opened = []
    matches = []
    for row, case in zip(rows, _ids(rows), strict=True):
        where = row.place.at(label=row.label.id).where
        path, why = opener.find(row)
        if path is None:
            skipped.append(Skipped(where, why))
            continue
        matches.append(Match(case, "image", str(path), why))
        matches.append(Match(case, "labels", where, f"label {row.label.id} of project {row.project or row.project_id}"))
        opened.append((case, row, open_volume(path)))
    if not opened:
        raise InvalidInput(_nothing(export, tally, skipped))
    base, remark = base_of(options, *_evidence(opened, options))
    classes = _classes(row for _, row, _ in opened)
    number = next(_counter)
    heard: dict[Issue, None] = {}
    reading = _Reading(options, base, fetcher, classes, strict, heard, number)
    cases = [_case(case, row, image, reading) for case, row, image in opened]
    if prefetch:
        cases = [_settled(case, tally) for case in cases]
    issues = tuple(tally.issues)
    if strict and issues:
        raise InvalidInput(f"{issues[0]} (the first of {len(issues)} issues)")
    remarks = [Remark(str(export), one) for one in (remark, _stored(opened, options)) if one]
    remarks += map(_remark, issues)
    return LabelboxSource(
        _description(export, cases, tally, skipped, options, base),
        tuple(cases),
        tuple(skipped),
        tuple(remarks),
        tuple(matches),
        classes,
        {case: row for case, row, _ in opened},
        issues,
        options,
        base,
        heard,
    )


def _remark(issue: Issue) -> Remark:
    return Remark(issue.where, f"{issue.message} [{issue.code}]")


# --- volumes


@dataclass(frozen=True, slots=True)
class _Opener:
    volumes: Volumes
    open_volume: Callable[[Path], VolumeFile]

    def find(self, row: Row) -> tuple[Path | None, str]:
        """Path of the volume of a data row, and by which key it was found; None and what is missing."""
        keys = {"global key": row.global_key, "external id": row.external_id, "id": row.id}
        for word, key in keys.items():
            if not key:
                continue
            path = self._given(key) if isinstance(self.volumes, Mapping) else self._in_folder(Path(self.volumes), key)
            if path is not None:
                return path, f"by its {word} {key!r}"
        known = ", ".join(f"{word} {key!r}" for word, key in keys.items() if key)
        place = "the mapping of volumes" if isinstance(self.volumes, Mapping) else os.fspath(self.volumes)
        return None, f"{place} has no volume for {known}; add it, or name the file by one of these"

    def _given(self, key: str) -> Path | None:
        path = self.volumes.get(key)  # type: ignore[union-attr]
        return None if path is None else Path(path)

    def _in_folder(self, folder: Path, key: str) -> Path | None:
        if "\0" in key:
            return None
        stems = dict.fromkeys([key, _stem(key)])
        found = [path for stem in stems for end in ENDINGS if (path := folder / f"{stem}{end}").exists()]
        root = folder.resolve()
        found = [
            path for path in dict.fromkeys(found) if path.resolve().is_relative_to(root) and path.resolve() != root
        ]
        if len(found) > 1:
            raise InvalidInput(
                f"{found[0]} and {found[1]}: both are named {key!r}; remove one, or give a mapping of keys to paths"
            )
        return found[0] if found else None


def _stem(key: str) -> str:
    return next((key[: -len(end)] for end in ENDINGS[1:] if key.lower().endswith(end)), key)


# --- cases


def _ids(rows: Sequence[Row]) -> list[str]:
    """An id for each row that can be a folder name: its key, with the label where the data row has several."""
    names = [_UNSAFE.sub("_", _stem(row.global_key or row.external_id or row.id)).strip(" .") or "row" for row in rows]
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    taken: set[str] = set()
    found = []
    for name, row in zip(names, rows, strict=True):
        wanted = name if counts[name] == 1 else f"{name}_{_UNSAFE.sub('_', row.label.id) or 'label'}"
        unique = wanted
        for again in itertools.count(2):
            if unique not in taken:
                break
            unique = f"{wanted}_{again}"
        taken.add(unique)
        found.append(unique)
    return found


def _evidence(opened: Iterable[tuple[str, Row, VolumeFile]], options: Options) -> tuple[list[str], list[str]]:
    """Labels with a frame 0, and labels with a frame as high as its axis is long; asked only for frame_base "auto"."""
    zeros: list[str] = []
    lasts: list[str] = []
    if options.frame_base != "auto":
        return zeros, lasts
    for _, row, image in opened:
        grid = None
        for group in row.label.groups:
            if not group.frames or options.view_of(group.name) is None:
                continue
            grid = grid or image.header().grid
            count = GroupPlane.of(group.name, grid, options, 1, image).count
            where = row.place.at(label=row.label.id, group=group.name).where
            if group.frames[0].number == 0:
                zeros.append(where)
            if any(frame.number == count for frame in group.frames):
                lasts.append(where)
    return zeros, lasts


def _stored(opened: Iterable[tuple[str, Row, VolumeFile]], options: Options) -> str:
    """What to say where "stored" can only mean the order of the voxels, which may not be that of a DICOM file."""
    unknown = [image.where for _, _, image in opened if not isinstance(image, Ordered)]
    if options.slice_order != "stored" or not unknown:
        return ""
    return (
        f"slice_order 'stored' is taken as the order of the voxels in {unknown[0]}"
        + f" and {len(unknown) - 1} more" * (len(unknown) > 1)
        + ": it does not know that of the DICOM file it was made from"
    )


def _classes(rows: Iterable[Row]) -> ClassMap | None:
    """A class for each tool, numbered by name."""
    names = {name for row in rows for group in row.label.groups for name in names_of(group).values()}
    told = sorted({_tool(name) for name in names})
    return ClassMap.of(dict(enumerate(told, 1))) if told else None


def _tool(name: str) -> str:
    return " ".join(name.split()) or "unnamed"


@dataclass(frozen=True, eq=False, slots=True)
class _Reading:
    """How the label volumes of all cases are painted; `opened` counts the exports that this process has opened."""

    options: Options
    base: int
    fetcher: Fetcher
    classes: ClassMap | None
    strict: bool
    heard: dict[Issue, None]
    opened: int

    def volumes(self, image: VolumeFile, group: Group, place: Place, count: int) -> list[LabelVolume]:
        """Label volumes of a group, whose objects are numbered from `count` + 1 on."""
        names = names_of(group)
        values = tuple((feature, kind, count + i) for i, (feature, kind) in enumerate(keys_of(group), 1))
        painting = Painting(image, group, values, self.options, self.base, self.fetcher, place, self.opened)
        ids = {category.name: category.id for category in self.classes.categories} if self.classes else {}
        category = {value: ids[_tool(names[feature, kind])] for feature, kind, value in values}
        objects = {value: feature for feature, _, value in values}
        layers = max(layers_at_most(group, self.options).values(), default=0) + 1
        return [
            LabelVolume(
                GroupLabels(painting, layer, self.strict, self.heard),
                group.name + (f"_{layer + 1}" if layer else ""),
                category,
                objects,
                views=(_view(painting),),
            )
            for layer in range(layers)
        ]


def _case(case: str, row: Row, image: VolumeFile, reading: _Reading) -> Case:
    groups = [group for group in row.label.groups if reading.options.view_of(group.name) is not None]
    drawn = [group for group in groups if group.frames]
    place = row.place.at(label=row.label.id)
    volumes: list[LabelVolume] = []
    count = 0
    for group in drawn or groups:  # where nothing was drawn, empty volumes say so
        volumes += reading.volumes(image, group, place, count)
        count += len(keys_of(group))
    views = tuple(dict.fromkeys(view for volume in volumes for view in volume.views or ()))
    return Case(case, image, tuple(volumes), views or None)


def _view(painting: Painting) -> View:
    """The view of the volume as it is read whose slices a group is; its name, of one that cannot be read."""
    try:
        return painting.plane().view
    except VoxtractError:  # reading the case says what is wrong
        return painting.options.view_of(painting.group.name) or "axial"


def _settled(case: Case, tally: Tally) -> Case:
    """The same case with everything painted, and no label volume more than its overlaps ask for."""
    volumes = []
    for volume in case.labels:
        labels: GroupLabels = volume.file  # type: ignore[assignment]
        try:
            found = paint(labels.painting)
        except VoxtractError as why:
            tally.report(labels.painting.place.at(group=labels.painting.group.name).issue("not-painted", str(why)))
            volumes.append(volume)
            continue
        if labels.layer == 0:
            tally.issues.extend(found.issues)
        if labels.layer <= max(found.layers.values(), default=0):
            volumes.append(volume)
    return replace(case, labels=tuple(volumes))


# --- words


def _assumed(options: Options, base: int) -> str:
    words = ("pixel_origin", "planes", "slice_order", "inplane", "reverse", "flip_rows", "flip_cols")
    told = [
        f"{word} {value if isinstance(value, str) else ' '.join(value)}"
        for word in words
        if (value := getattr(options, word))
    ]
    return f"first frame {base}, {', '.join(told)}"


def _description(
    export: Path, cases: Sequence[Case], tally: Tally, skipped: Sequence[Skipped], options: Options, base: int
) -> str:
    others = sum(tally.other_kinds.values())
    words = [f"{len(cases)} labels with volumes"]
    words += [f"{len(skipped)} skipped"] * bool(skipped)
    words += [f"{tally.unlabelled} data rows without a label"] * bool(tally.unlabelled)
    words += [f"{others} labels on other media ({', '.join(sorted(tally.other_kinds))})"] * bool(others)
    words += [f"{len(tally.issues)} issues"] * bool(tally.issues)
    assumed = f"not documented by Labelbox and taken as: {_assumed(options, base)}; compare a slice with its drawing"
    return f"{export} (Labelbox export: {', '.join(words)}; {assumed})"


def _nothing(export: Path, tally: Tally, skipped: Sequence[Skipped]) -> str:
    why = [f"{tally.unlabelled} data rows have no label"] if tally.unlabelled else []
    if tally.other_kinds:
        why.append(f"{sum(tally.other_kinds.values())} labels are on other media")
    if skipped:
        why.append(f"{len(skipped)} were left out, the first because {skipped[0].reason}")
    if tally.issues:
        why.append(f"{len(tally.issues)} issues, the first: {tally.issues[0]}")
    reasons = "; ".join(why) or "nothing was selected"
    return f"{export}: holds no label that can be a case ({reasons}); check the selection and volumes="
