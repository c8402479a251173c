"""What an export says and no label volume holds, as text that belongs beside results: its facts, its lines measured."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from voxtract.geometry import View
from voxtract.read.labelbox.fetch import shown
from voxtract.read.labelbox.planes import Options
from voxtract.read.labelbox.polylines import RASTER, Measured
from voxtract.read.labelbox.values import Answer, Issue, Label, Row

LINE_COLUMNS = (
    *("CASE", "VIEW", "SLICE", "GROUP", "FRAME", "OBJECT", "CLASS", "KEY_FRAME", "CLOSED", "POINTS"),
    *("DRAWN_X_MIN", "DRAWN_Y_MIN", "DRAWN_X_MAX", "DRAWN_Y_MAX", "DRAWN_X", "DRAWN_Y"),
    *("DRAWN_CENTROID_X", "DRAWN_CENTROID_Y", "LENGTH_PX", "LENGTH_MM"),
    *("X_MIN", "Y_MIN", "X_MAX", "Y_MAX", "CENTER_R_MM", "CENTER_A_MM", "CENTER_S_MM"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line on a frame, measured.

    Parameters
    ----------
    case, group : str
    frame : int
        As the export counts.
    index : int, optional
        The slice of the volume; None beyond it.
    feature, name : str
        The object, and its tool.
    measured : Measured
    view : {"axial", "coronal", "sagittal"}
        Whose slices the frames are.
    points : int
        How many it has.
    key_frame : bool, optional
        Whether a person drew it on this frame; None where the export does not say.
    box : (X_MIN, Y_MIN, X_MAX, Y_MAX), optional
        Of the pixels that hold its points, in slice images as they are written, inclusive, without padding.
    center_mm : (r, a, s), optional
        Middle of its box in the patient, RAS+.
    """

    case: str
    group: str
    frame: int
    index: int | None
    feature: str
    name: str
    measured: Measured
    view: View
    points: int
    key_frame: bool | None = None
    box: tuple[int, int, int, int] | None = None
    center_mm: tuple[float, float, float] | None = None


def lines_table(lines: Iterable[Line]) -> str:
    """Lines as CSV; see `LINE_COLUMNS`.

    ``DRAWN_…`` are pixels of the picture as Labelbox has it: the exact box of the points, its middle, and the mean
    along the line. ``X_MIN`` to ``Y_MAX`` are the pixels in slice images as they are written. What lies beyond the
    volume has no slice, and none of the last seven.
    """
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(LINE_COLUMNS)
    for line in lines:
        found = line.measured
        words = (line.case, line.view, line.index, line.group, line.frame, line.feature, line.name)
        drawn = (*found.box, *map(_short, (*found.center, *found.centroid, found.length_px, found.length_mm)))
        ends = (*(line.box or [None] * 4), *map(_short, line.center_mm or [None] * 3))
        table.writerow([*words, _yes(line.key_frame), _yes(found.closed), line.points, *drawn, *ends])
    return file.getvalue()


def facts(options: Options, base: int, rows: Mapping[str, Row], issues: Iterable[Issue]) -> str:
    """The options as they were taken, what the export says of each label, and the issues, as JSON.

    Addresses stand without their queries, which may hold tokens.
    """
    told = {
        "options": {**options.to_dict(), "first_frame": base, "raster": RASTER},
        "cases": {case: _row(row) for case, row in rows.items()},
        "issues": [issue.to_dict() for issue in issues],
    }
    return json.dumps(_without_queries(told), indent=1, ensure_ascii=False) + "\n"


def _row(row: Row) -> dict[str, Any]:
    label = row.label
    found = {
        "data_row": {"id": row.id, "global_key": row.global_key, "external_id": row.external_id, "url": row.url},
        "project": {"id": row.project_id, "name": row.project},
        "workflow_status": row.workflow_status,
        "last_activity_at": row.last_activity_at,
        "label": {
            "id": label.id,
            "created_at": label.created_at,
            "created_by": label.created_by,
            "benchmark": label.benchmark,
            **label.details,
        },
        "details": dict(row.details),
        "classifications": list(_classifications(label)),
    }
    return {name: value for name, value in found.items() if value}


def _classifications(label: Label) -> Iterator[dict[str, Any]]:
    """Answers on the label, on its groups, frames and objects."""
    for answers, place in _answered(label):
        if answers:
            yield {**place, "answers": [_answer(one) for one in answers]}


def _answered(label: Label) -> Iterator[tuple[tuple[Answer, ...], dict[str, Any]]]:
    yield label.attributes, {}
    for group in label.groups:
        here: dict[str, Any] = {"group": group.name}
        yield group.attributes, here
        for frame in group.frames:
            yield frame.attributes, {**here, "frame": frame.number}
            for one in frame.objects:
                yield one.attributes, {**here, "frame": frame.number, "feature": one.feature}


def _answer(one: Answer) -> dict[str, Any]:
    nested = {"nested": [_answer(deeper) for deeper in one.nested]} if one.nested else {}
    return {"name": one.name, "kind": one.kind, "answers": list(one.answers), **nested}


def _without_queries(value: Any) -> Any:
    if isinstance(value, str):
        return shown(value) if value.startswith(("http://", "https://")) else value
    if isinstance(value, dict):
        return {key: _without_queries(one) for key, one in value.items()}
    return [_without_queries(one) for one in value] if isinstance(value, list | tuple) else value


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _short(value: float | None) -> str:
    """A number to a tenth of what an export holds, without rounding errors."""
    return "" if value is None else f"{value:.4f}".rstrip("0").rstrip(".")
