"""v1 exports: an array of labels, each group of which names an address with its frames."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from voxtract.errors import InvalidInput, NotFound, UnreadableFile
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
)
from voxtract.read.labelbox.values import Drawn, Frame, Group, Label, Place, Report, Row, Spot

Fetch = Callable[[str], bytes]

_TAKEN = (
    "ID",
    "DataRow ID",
    "Labeled Data",
    "Label",
    "Created By",
    "Created At",
    "External ID",
    "Project Name",
    "Skipped",
)


def is_label(value: Mapping[str, Any]) -> bool:
    """Whether an object is a label of a v1 export."""
    return "Label" in value and ("ID" in value or "DataRow ID" in value)


def is_frame(value: Mapping[str, Any]) -> bool:
    """Whether an object is a frame of a v1 export."""
    return "frameNumber" in value and "data_row" not in value


def row(
    value: Mapping[str, Any],
    place: Place,
    report: Report,
    fetch: Fetch | None,
    groups: Collection[str],
    private: Callable[[Any], Any],
) -> Row | None:
    """Turn a label of a v1 export into a row; its frames are fetched.

    Returns
    -------
    Row or None
        None, and an issue, where the data row is not named.
    """
    data_row = text(value.get("DataRow ID"))
    place = place.at(data_row=data_row, label=text(value.get("ID")))
    if not data_row:
        report(place.issue("not-a-data-row", "the label does not say its 'DataRow ID'; it is left out"))
        return None
    skipped = value.get("Skipped") in (True, 1)
    found = value.get("Label")
    if not isinstance(found, dict) or not isinstance(found.get("groups"), list):
        if not skipped:
            report(
                place.issue("no-annotations", "the label has no groups, though it was not skipped; it counts as empty")
            )
        found = {}
    parsed = _groups(elements(found.get("groups")), place, report, fetch, groups)
    check_groups({group.name: group.frames for group in parsed}, place, report)
    workflow = mapping(value.get("DataRow Workflow Info"))
    rest = private({key: one for key, one in value.items() if key not in _TAKEN})
    project = text(value.get("Project Name"))
    label = Label(
        place.label,
        parsed,
        answers_of(found.get("classifications")),
        skipped,
        text(value.get("Created At")),
        private(text(value.get("Created By"))),
        text(value.get("Benchmark ID")),
        rest,
    )
    return Row(
        place.at(label=""),
        data_row,
        label,
        text(value.get("Global Key")),
        text(value.get("External ID")),
        text(value.get("Labeled Data")),
        "",
        project,
        text(workflow.get("taskName")),
    )


def _groups(
    groups: list[Any], place: Place, report: Report, fetch: Fetch | None, known: Collection[str]
) -> tuple[Group, ...]:
    found: dict[str, Group] = {}
    for group in groups:
        name = text(mapping(group).get("name")).strip().lower()
        here = place.at(group=name)
        if not name:
            report(here.issue("bad-group", "a group has no name; it is left out"))
            continue
        if name in found:
            report(here.issue("group-twice", "the group is there twice; the first one is kept"))
            continue
        if name not in known:
            report(here.issue("unknown-group", unknown_group(name)))
        frames = unique_frames(_frames(group.get("frames"), here, report, fetch), here, report)
        check_kinds(frames, here, report)
        found[name] = Group(name, frames, (), answers_of(group.get("classifications")))
    return tuple(found.values())


def _frames(frames: object, place: Place, report: Report, fetch: Fetch | None) -> Iterator[Frame]:
    if isinstance(frames, list):
        values: Iterator[Any] = iter(frames)
    elif isinstance(frames, str) and frames.strip():
        values = _fetched(frames.strip(), place, report, fetch)
    else:
        if frames not in (None, "", {}):
            report(
                place.issue(
                    "bad-frames",
                    f"a {type(frames).__name__} stands where the address of frames was expected; the group counts as "
                    "empty",
                )
            )
        return
    for value in values:
        number = frame_number(mapping(value).get("frameNumber"))
        if number is None:
            report(place.issue("bad-frame", "a frame has no whole frameNumber from 0 on; it is left out"))
            continue
        spot = Spot(place, number)
        objects = unique_objects(_objects(value.get("objects"), spot, report), spot, report)
        yield Frame(number, objects, answers_of(value.get("classifications")))


def _fetched(url: str, place: Place, report: Report, fetch: Fetch | None) -> Iterator[Any]:
    if fetch is None:
        report(
            place.issue(
                "frames-missing",
                "the frames lie at an address, and fetching was not allowed; the group counts as empty",
            )
        )
        return
    try:
        content = fetch(url)
    except (UnreadableFile, NotFound, InvalidInput) as why:
        report(place.issue("frames-missing", f"the frames cannot be had, so the group counts as empty: {why}"))
        return
    if not content.strip():  # a group on which nothing was drawn
        return
    for found in read_values(io.BytesIO(content)):
        if isinstance(found, Fault):
            report(place.issue("not-json", f"line {found.line}{found.path} of the frames: {found.message}"))
        else:
            yield found.value


def _objects(objects: object, spot: Spot, report: Report) -> Iterator[Drawn]:
    values = list(mapping(objects).values()) or elements(objects)
    for value in values:
        one = mapping(value)
        spot.feature = feature = text(one.get("featureId"))
        if not feature:
            report(spot.issue("bad-object", "an object has no featureId, or is none; it is left out"))
            continue
        if "line" in one:
            geometry: Any = line_of(one["line"], spot, report)
        elif "instanceURI" in one:
            geometry = mask_of(one["instanceURI"], None, spot, report)
        else:
            keys = ", ".join(
                sorted(set(one) - {"featureId", "schemaId", "title", "value", "color", "keyframe", "classifications"})
            )
            report(
                spot.issue(
                    "unknown-kind",
                    f"the object has neither 'line' nor 'instanceURI', but {keys or 'nothing'}; it is left out",
                )
            )
            continue
        if geometry is not None:
            key = one.get("keyframe")
            name = text(one.get("title")) or text(one.get("value"))
            yield Drawn(
                feature, name, geometry, key if isinstance(key, bool) else None, answers_of(one.get("classifications"))
            )
