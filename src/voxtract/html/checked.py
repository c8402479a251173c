"""What `voxtract.check` found, as one HTML file in the dress of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from voxtract.check import CheckedVolume, CheckReport, Problem
from voxtract.html import Remark, Section, esc, page, plural, remarks_list, table, times

_MEANING = {
    "unreadable": ("Files that do not read", "Copy or export them again; an extraction skips these cases."),
    "mismatch": ("Labels that do not lie on their image", "Boxes would be in the wrong place; an extraction refuses."),
    "not integral": ("Labels that are not integers", "An extraction refuses these cases."),
    "duplicate": ("Volumes with the same voxels", "The same thing under different names."),
    "grid": ("Grids that differ", "Spacing, orientation and dtype should be one in a data set, or made one."),
    "values": ("Images with unusual values", "NaN, infinite, or the same everywhere."),
    "empty": ("Labels without a label", "Their slices become examples without objects."),
    "alone": ("Cases without a partner", "Image or labels are missing."),
    "left out": ("Files that no case uses", "They lie in the source; no case has taken them."),
}
_MOST_LABELS = 6  # of a volume; the rest is counted


def check_html(report: CheckReport) -> str:
    """Show what a check found, as a page that needs no network.

    Parameters
    ----------
    report : CheckReport

    Returns
    -------
    str: HTML
    """
    remarks = [*_remarks(report.faults, is_fault=True), *_remarks(report.warnings, is_fault=False)]
    cases = len({volume.case for volume in report.volumes})
    figures = [
        ("cases", f"{cases:,}"),
        ("volumes", f"{len(report.volumes):,}"),
        ("faults", f"{len(report.faults):,}"),
        ("warnings", f"{len(report.warnings):,}"),
    ]
    about = "Nothing stands in the way of an extraction."
    if report.faults:
        about = f"{plural(len(report.faults), 'fault')} to mend before an extraction."
    sections = [
        Section(
            "look", "What was found", "Faults come first. What is unusual need not be wrong.", remarks_list(remarks)
        ),
        Section("grids", "Grids", "How many volumes have which.", _grids(report.volumes)),
        Section(
            "volumes",
            "Volumes",
            "Range of the finite values; of labels, how many voxels each has.",
            _volumes(report.volumes),
            is_wide=True,
        ),
    ]
    return page(report.source, "check", about, figures, sections)


def _remarks(problems: Iterable[Problem], *, is_fault: bool) -> list[Remark]:
    """One remark for each kind, in the order in which they first come."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append((problem.text, ""))
    return [Remark(*_MEANING[kind], items, is_fault) for kind, items in kinds.items()]


def _grids(volumes: Sequence[CheckedVolume]) -> str:
    rows = []
    for role in ("image", "labels"):
        own = [volume for volume in volumes if volume.role == role and volume.error is None]
        for name, words in (
            ("orientation", Counter(volume.orientation for volume in own)),
            ("dtype", Counter(volume.dtype for volume in own)),
            ("spacing, mm", Counter(times(float(f"{mm:.4g}") for mm in volume.spacing_mm) for volume in own)),
            ("shape", Counter(times(volume.shape) for volume in own)),
        ):
            if words:
                said = [f"{word} ({count:,})" for word, count in words.most_common(_MOST_LABELS)]
                more = f" and {len(words) - _MOST_LABELS:,} others" if len(words) > _MOST_LABELS else ""
                rows.append([esc(f"{role} {name}"), esc(", ".join(said) + more)])
    facts = "".join(f"<div><dt>{what}</dt><dd>{value}</dd></div>" for what, value in rows)
    return f'<dl class="facts">{facts}</dl>'


def _volumes(volumes: Sequence[CheckedVolume]) -> str:
    head = ["case", "role", "shape", "spacing, mm", "axes", "dtype", "range", "NaN, infinite", "labels: voxels"]
    return table("Volumes", head, map(_row, volumes), words=2)


def _row(volume: CheckedVolume) -> list[str]:
    name, role = esc(volume.case), f'<span title="{esc(volume.where)}">{esc(volume.role)}</span>'
    if volume.error is not None:
        return [name, role, '<span class="bad">does not read</span>', *[""] * 6]
    bad = f'<span class="bad">{volume.nan:,}, {volume.infinite:,}</span>'
    return [
        name,
        role,
        times(volume.shape),
        times(float(f"{mm:.4g}") for mm in volume.spacing_mm),
        esc(volume.orientation),
        esc(volume.dtype),
        "" if volume.range is None else f"{volume.range[0]:.5g} to {volume.range[1]:.5g}",
        bad if volume.nan or volume.infinite else "0",
        _labels(volume),
    ]


def _labels(volume: CheckedVolume) -> str:
    if volume.role != "labels":
        return ""
    if not volume.labels:
        return '<span class="bad">none</span>'
    said = [f"{label}: {count:,}" for label, count in list(volume.labels.items())[:_MOST_LABELS]]
    more = f" and {len(volume.labels) - _MOST_LABELS:,} more" if len(volume.labels) > _MOST_LABELS else ""
    return esc(", ".join(said) + more)
