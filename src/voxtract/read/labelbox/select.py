"""Which labels of an export are taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from voxtract.errors import InvalidInput, check_choice
from voxtract.read.labelbox.values import Report, Row

Words = str | Sequence[str] | None
Period = tuple[str | None, str | None] | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Labels to take; what is None does not matter.

    Parameters
    ----------
    project : str or several, optional
        Ids or names.
    label : str or several, optional
        Ids.
    annotator : str or several, optional
        As the export gives `created_by`: an e-mail address, or its pseudonym.
    benchmark : {"only", "exclude"}, optional
        Labels that others of the same export were compared with.
    latest : bool
        Of each data row in each project the label that was created last.
    last_activity_at, label_created_at : (from, to), optional
        ISO 8601 times, inclusive; either may be None. A time without zone is UTC, a date is its first moment.
    workflow_status : str or several, optional
        As the export gives it, case does not matter; for v1 the name of the task.

    Raises
    ------
    InvalidInput
        Another word for `benchmark`, or a time that is none.
    """

    project: Words = None
    label: Words = None
    annotator: Words = None
    benchmark: Literal["only", "exclude"] | None = None
    latest: bool = False
    last_activity_at: Period = None
    label_created_at: Period = None
    workflow_status: Words = None

    def __post_init__(self) -> None:
        check_choice("benchmark", self.benchmark, (None, "only", "exclude"))
        for word in ("last_activity_at", "label_created_at"):
            for end in getattr(self, word) or ():
                if end is not None and time_of(end) is None:
                    raise InvalidInput(f"{word} {end!r} is no time; write 2024-05-01 or 2024-05-01T12:00:00Z")

    def takes(self, row: Row, report: Report) -> bool:
        """Whether a row is among those taken, as far as it can tell alone; a time that is missing is told."""
        if self.project is not None and not {row.project_id, row.project} & set(_words(self.project)) - {""}:
            return False
        if self.label is not None and row.label.id not in _words(self.label):
            return False
        if self.annotator is not None and row.label.created_by.lower() not in {
            w.lower() for w in _words(self.annotator)
        }:
            return False
        statuses = None if self.workflow_status is None else {w.lower() for w in _words(self.workflow_status)}
        if statuses is not None and row.workflow_status.lower() not in statuses:
            return False
        return _within(self.label_created_at, row.label.created_at, "label_created_at", row, report) and _within(
            self.last_activity_at, row.last_activity_at, "last_activity_at", row, report
        )

    def among(self, rows: Iterable[Row], benchmarks: set[str], report: Report) -> list[Row]:
        """Of the rows that `takes` left those that benchmark and latest leave; `benchmarks` are ids of labels."""
        kept = list(rows)
        if self.benchmark is not None:
            kept = [row for row in kept if (row.label.id in benchmarks) == (self.benchmark == "only")]
        return _latest(kept, report) if self.latest else kept


def time_of(value: str) -> datetime | None:
    """Read an ISO 8601 time; None of anything else."""
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _words(value: Words) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _within(period: Period, value: str, word: str, row: Row, report: Report) -> bool:
    if period is None:
        return True
    time = time_of(value)
    if time is None:
        said = f"says {value!r}" if value else "does not say"
        here = row.place.at(label=row.label.id)
        report(
            here.issue(
                "not-filterable",
                f"the export {said} for {word}, so the filter leaves the label out; export with the details",
            )
        )
        return False
    first, last = (None if end is None else time_of(end) for end in period)
    return (first is None or time >= first) and (last is None or time <= last)


def _latest(rows: list[Row], report: Report) -> list[Row]:
    newest: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = (row.id, row.project_id, row.project)
        other = newest.setdefault(key, row)
        if other is row:
            continue
        time, before = time_of(row.label.created_at), time_of(other.label.created_at)
        if time is None or before is None:
            report(
                row.place.at(label=row.label.id).issue(
                    "not-filterable",
                    "the export does not say when each of several labels was created, so latest takes the last one in "
                    "the file; export with label_details",
                )
            )
        if time is None or before is None or time >= before:
            newest[key] = row
    kept = {id(row) for row in newest.values()}
    return [row for row in rows if id(row) in kept]
