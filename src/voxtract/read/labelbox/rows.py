"""Rows of an export, streamed: ``export_v2`` and the streaming export here, v1 in legacy.py.

Format: Labelbox's pages on exporting data and its DICOM sample payloads; the few places where samples, SDK and
readers of other projects differ take all forms that were seen.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from voxtract.errors import InvalidInput, NotFound, UnreadableFile
from voxtract.read.labelbox import legacy
from voxtract.read.labelbox.containers import Fault, read_values
from voxtract.read.labelbox.parts import (
    answers_of,
    check_groups,
    check_kinds,
    elements,
    frame_number,
    line_of,
    mapping,
    mask_of,
    text,
    unique_frames,
    unique_objects,
    unknown_group,
    without_emails,
)
from voxtract.read.labelbox.values import (
    GROUPS,
    Drawn,
    Frame,
    Group,
    Issue,
    Label,
    MaskRef,
    Place,
    Polyline,
    Ranges,
    Report,
    Row,
    Spot,
)

_ERROR_KEYS = ("errors", "error", "message")


@dataclass(slots=True)
class Tally:
    """What reading an export met besides rows: issues, and how many labels gave no row and why."""

    issues: list[Issue] = field(default_factory=list)
    unlabelled: int = 0  # data rows without a label
    other_kinds: Counter[str] = field(default_factory=Counter)  # labels on other media

    def report(self, issue: Issue) -> None:
        """Keep an issue."""
        self.issues.append(issue)


def read_rows(
    export: Path,
    tally: Tally,
    *,
    lenient: bool = False,
    fetch: Callable[[str], bytes] | None = None,
    groups: Collection[str] = (),
    pseudonymise: str | None = None,
    report: Report | None = None,
) -> Iterator[Row]:
    """Read the labels of an export one by one; memory is that of the largest row.

    Parameters
    ----------
    export : Path
        Any container of `read_values`, of either generation.
    tally : Tally
        Counts what gives no row; keeps the issues if `report` is not given.
    lenient : bool
        Repair samples that are no strict JSON.
    fetch : function of an address to bytes, optional
        Gets the frames of v1 exports, which hold an address for each group. It raises `UnreadableFile`, `NotFound` or
        `InvalidInput`, which become an issue.
    groups : names
        Known besides axial, coronal and sagittal.
    pseudonymise : str, optional
        A secret of your own: e-mail addresses in all that is passed on become ``user-`` and 12 digits that the secret
        and the address give, the same in every export.
    report : function of an `Issue`, optional

    Yields
    ------
    Row
        In the order of the file, each with one label; skipped ones too.

    Raises
    ------
    NotFound, UnreadableFile
        The file is not there or not handed out.
    InvalidInput
        A folder, or in lenient mode a file too large for it.
    """
    read = _Reader(tally, report or tally.report, fetch, frozenset(GROUPS) | {g.lower() for g in groups}, pseudonymise)
    try:
        with export.open("rb") as file:
            yield from read.rows(file, str(export), lenient)
    except FileNotFoundError as why:
        if isinstance(why, NotFound):
            raise
        raise NotFound(f"{export}: no such export; check the spelling") from why
    except IsADirectoryError as why:
        raise InvalidInput(
            f"{export}: is a folder, but the file of a Labelbox export was expected; give the file"
        ) from why
    except OSError as why:
        if isinstance(why, UnreadableFile):
            raise
        raise UnreadableFile(f"{export}: cannot be read: {why.strerror or why}; check permissions and disk") from why


@dataclass(frozen=True, slots=True)
class _Reader:
    tally: Tally
    report: Report
    fetch: Callable[[str], bytes] | None
    groups: frozenset[str]
    secret: str | None

    def rows(self, file: BinaryIO, name: str, lenient: bool) -> Iterator[Row]:
        for found in read_values(file, lenient=lenient):
            place = Place(name, found.line, found.path)
            if isinstance(found, Fault):
                self.report(place.issue("repaired" if lenient else "not-json", found.message))
            elif not isinstance(found.value, dict):
                self.report(
                    place.issue(
                        "not-a-data-row", f"a {type(found.value).__name__} stands where a data row was expected"
                    )
                )
            elif legacy.is_label(found.value):
                row = legacy.row(found.value, place, self.report, self.fetch, self.groups, self._private)
                if row is not None:
                    yield row
            elif legacy.is_frame(found.value):
                self.report(
                    place.issue(
                        "frame-without-label",
                        "a v1 frame says neither its label nor its group; give the export that names this file",
                    )
                )
            else:
                yield from self._row(found.value, place)

    def _private(self, value: Any) -> Any:
        return value if self.secret is None else without_emails(value, self._pseudonym)

    def _pseudonym(self, address: str) -> str:
        return pseudonym(address, self.secret or "")

    def _row(self, value: Mapping[str, Any], place: Place) -> Iterator[Row]:
        data = value.get("data_row")
        if not isinstance(data, dict) or not text(data.get("id")):
            self.report(place.issue(*_no_row(value)))
            return
        place = place.at(data_row=text(data["id"]))
        projects = value.get("projects")
        labelled = False
        for project_id, project in mapping(projects).items():
            for label in elements(mapping(project).get("labels")):
                labelled = True
                if not isinstance(label, dict):
                    self.report(
                        place.issue("not-a-label", f"a {type(label).__name__} stands where a label was expected")
                    )
                    continue
                kind = text(label.get("label_kind"))
                if kind.upper() not in ("DICOM", "") or (
                    not kind and "groups" not in mapping(label.get("annotations"))
                ):
                    self.tally.other_kinds[kind or "unknown"] += 1
                    continue
                yield self._labelled(value, data, project_id, project, label, place)
        self.tally.unlabelled += not labelled

    def _labelled(
        self,
        value: Mapping[str, Any],
        data: Mapping[str, Any],
        project_id: str,
        project: Mapping[str, Any],
        label: Mapping[str, Any],
        place: Place,
    ) -> Row:
        details = mapping(project.get("project_details"))
        private = self._private
        return Row(
            place,
            place.data_row,
            self._label(label, place.at(label=text(label.get("id")))),
            text(data.get("global_key")),
            text(data.get("external_id")),
            text(data.get("row_data")),
            project_id,
            text(project.get("name")) or text(project.get("project_name")),
            text(details.get("workflow_status")) or text(details.get("task_name")),
            text(mapping(data.get("details")).get("last_activity_at")),
            {
                **private({key: one for key, one in value.items() if key not in ("projects", "data_row")}),
                "details": private(dict(mapping(data.get("details")))),
                "project_details": private(dict(details)),
            },
        )

    def _label(self, label: Mapping[str, Any], place: Place) -> Label:
        told, performance = mapping(label.get("label_details")), mapping(label.get("performance_details"))
        skipped = performance.get("skipped") is True
        found = label.get("annotations")
        if not isinstance(found, dict) or not isinstance(found.get("groups"), dict):
            if not skipped:
                self.report(
                    place.issue(
                        "no-annotations",
                        "the label has no annotations with groups, though it was not skipped; it counts as empty",
                    )
                )
            found = {} if not isinstance(found, dict) else found
        groups = self._groups(found, place)
        check_groups({group.name: group.frames for group in groups}, place, self.report)
        private = self._private
        return Label(
            text(label.get("id")),
            groups,
            answers_of(found.get("classifications")),
            skipped,
            text(told.get("created_at")),
            private(text(told.get("created_by"))),
            text(performance.get("benchmark_reference_label")),
            {"label_details": private(dict(told)), "performance_details": private(dict(performance))},
        )

    def _groups(self, annotations: Mapping[str, Any], place: Place) -> tuple[Group, ...]:
        segments = {text(name).lower(): one for name, one in mapping(annotations.get("segments")).items()}
        keys = _key_frames(annotations.get("key_frame_feature_map"))
        groups: dict[str, Group] = {}
        for key, group in mapping(annotations.get("groups")).items():
            name = key.strip().lower()
            here = place.at(group=name)
            if name in groups:
                self.report(
                    here.issue(
                        "group-twice", f"the group is there twice, the second time as {key!r}; the first one is kept"
                    )
                )
                continue
            if name not in self.groups:
                self.report(here.issue("unknown-group", unknown_group(key)))
            if not isinstance(group, dict):
                self.report(
                    here.issue(
                        "bad-group", f"a {type(group).__name__} stands where a group was expected; it counts as empty"
                    )
                )
                group = {}
            known = None if keys is None else keys.get(name, frozenset())
            frames = unique_frames(self._frames(group.get("frames"), here, known), here, self.report)
            check_kinds(frames, here, self.report)
            ranges = self._segments(segments.get(name), here)
            _compare(ranges, frames, here, self.report)
            groups[name] = Group(name, frames, ranges, answers_of(group.get("classifications")))
        return tuple(groups.values())

    def _frames(self, frames: object, place: Place, keys: _KeyFrames | None) -> Iterator[Frame]:
        if not isinstance(frames, dict | None):
            self.report(
                place.issue(
                    "bad-frames",
                    f"a {type(frames).__name__} stands where frames were expected; the group counts as empty",
                )
            )
        for key, frame in mapping(frames).items():
            number = frame_number(key)
            if number is None or not isinstance(frame, dict):
                self.report(
                    place.issue(
                        "bad-frame", f"frame {key!r} is no whole number from 0 on, or no object; it is left out"
                    )
                )
                continue
            spot = Spot(place, number)
            objects = unique_objects(self._objects(frame.get("objects"), spot, keys), spot, self.report)
            yield Frame(number, objects, answers_of(frame.get("classifications")))

    def _objects(self, objects: object, spot: Spot, keys: _KeyFrames | None) -> Iterator[Drawn]:
        pairs = [("", one) for one in objects] if isinstance(objects, list) else mapping(objects).items()
        for key, one in pairs:
            spot.feature = feature = (text(one.get("feature_id")) if isinstance(one, dict) else "") or key
            if not feature or not isinstance(one, dict):
                self.report(spot.issue("bad-object", "an object has no feature id, or is none; it is left out"))
                continue
            if key and key != feature:
                self.report(
                    spot.issue(
                        "feature-id-differs",
                        f"the object stands under {key!r}, but calls itself {feature!r}, which is taken",
                    )
                )
            geometry = self._geometry(one, spot)
            if geometry is not None:
                known = None if keys is None else (feature, spot.frame) in keys
                yield Drawn(feature, text(one.get("name")), geometry, known, answers_of(one.get("classifications")))

    def _geometry(self, one: Mapping[str, Any], spot: Spot) -> Polyline | MaskRef | None:
        kind = one.get("annotation_kind")
        if kind == "DICOMPolyline":
            return line_of(one.get("line"), spot, self.report)
        if kind == "DICOMSegmentationMask":
            composite = one.get("composite_mask")
            if isinstance(composite, dict):
                color = composite.get("color_rgb")
                return mask_of(composite.get("url"), () if color is None else color, spot, self.report)
            return mask_of(mapping(one.get("mask")).get("url"), None, spot, self.report)
        self.report(
            spot.issue(
                "unknown-kind",
                f"the object is a {kind!r}, expected DICOMPolyline or DICOMSegmentationMask; it is left out",
            )
        )
        return None

    def _segments(self, segments: object, place: Place) -> tuple[tuple[str, Ranges], ...]:
        found = []
        for feature, ranges in mapping(segments).items():
            good = []
            for one in elements(ranges):
                first, last = map(frame_number, one) if isinstance(one, list) and len(one) == 2 else (None, None)
                if first is not None and last is not None and first <= last:
                    good.append((first, last))
            if not isinstance(ranges, list) or len(good) != len(ranges):
                self.report(
                    place.at(feature=feature).issue(
                        "bad-segments", "the segments are no pairs of first and last frame; those are left out"
                    )
                )
            found.append((feature, tuple(good)))
        return tuple(found)


_KeyFrames = Set[tuple[str, int]]  # feature and frame


def _key_frames(value: object) -> Mapping[str, _KeyFrames] | None:
    """Frames of each group that a person drew: ``{"6": true, "7": false}`` or ``[6]``; None where it is not said."""
    if not isinstance(value, dict):
        return None
    found: dict[str, set[tuple[str, int]]] = {}
    for feature, groups in value.items():
        for group, frames in mapping(groups).items():
            drawn = found.setdefault(group.strip().lower(), set())
            for key in frames if isinstance(frames, dict) else elements(frames):
                number = frame_number(key)
                if number is not None and (isinstance(frames, list) or frames[key] is True):
                    drawn.add((feature, number))
    return found


def _compare(segments: tuple[tuple[str, Ranges], ...], frames: tuple[Frame, ...], place: Place, report: Report) -> None:
    """Tell where segments and frames disagree; what is in `frames` counts."""
    if not segments:
        return
    drawn: dict[str, list[int]] = {}
    for frame in frames:
        for one in frame.objects:
            drawn.setdefault(one.feature, []).append(frame.number)
    covered = dict(segments)
    for feature in dict.fromkeys([*covered, *drawn]):
        ranges, numbers = covered.get(feature, ()), sorted(set(drawn.get(feature, ())))
        if numbers and ranges == ((numbers[0], numbers[-1]),) and numbers[-1] - numbers[0] == len(numbers) - 1:
            continue
        outside = [n for n in numbers if not any(a <= n <= b for a, b in ranges)]
        missing = sum(b - a + 1 for a, b in ranges) - (len(numbers) - len(outside))
        here = place.at(feature=feature)
        if outside:
            report(
                here.issue(
                    "segments-differ",
                    f"{len(outside)} frames, the first {outside[0]}, lie outside of the segments {list(ranges)}; they "
                    "are taken",
                )
            )
        if missing > 0:
            report(
                here.issue(
                    "segments-gap",
                    f"the segments {list(ranges)} cover {missing} frames that the export does not hold; nothing is put "
                    "there unless fill says so",
                )
            )


def _no_row(value: Mapping[str, Any]) -> tuple[str, str]:
    """Code and message for an object that is no data row."""
    if any(key in value for key in _ERROR_KEYS):
        told = " ".join(str(value[key]) for key in _ERROR_KEYS if key in value)
        return "error-row", f"the export reports an error instead of a data row: {told[:300]}"
    return "not-a-data-row", f"an object without data_row.id; it has the keys {', '.join(list(value)[:8]) or '(none)'}"


def pseudonym(address: str, secret: str) -> str:
    """A name for an e-mail address that only who has the secret can make again."""
    return "user-" + hmac.new(secret.encode(), address.strip().lower().encode(), hashlib.sha256).hexdigest()[:12]
