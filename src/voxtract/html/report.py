"""``voxtract report``: an extraction as one HTML file, to look at a data set before anything is trained on it."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput, NotFound
from voxtract.geometry import VIEWS
from voxtract.html import Remark, Section, data_uri, esc, page, plural, remarks_list, table, times
from voxtract.html.charts import Series, histogram, outlines, position_map
from voxtract.html.facts import TINY, CaseFacts, LeftOut, Legend, Strip, ViewFacts, examine, read_left_out
from voxtract.read.extraction import Extraction, open_extraction
from voxtract.settings import Settings
from voxtract.storage import Place, Remote
from voxtract.storage import place as place_of
from voxtract.write.remote import staging as staging_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.geometry import View

_SIGMAS = 2.0
_INTENSITY_BINS = 96
_NOT_PICTURED = "counted, but not pictured: there are too many cases"


def build_report(
    folder: str | os.PathLike[str] | Remote, output: str | os.PathLike[str] | Remote | None = None
) -> Place:
    """Write a report about an extraction: one HTML file that needs no network.

    Numbers of the data set and of its classes, sizes in millimetres, positions, intensities, what stands out or failed,
    and slices of each case with the boxes over them. All cases are counted; pictures become smaller and fewer as there
    are more cases, so that 1,000 cases take less than 20 MB.

    Parameters
    ----------
    folder : path
        Output folder of :func:`voxtract.extract`.
    output : path, optional
        HTML file to write; by default ``report.html`` in `folder`. One that is there is replaced.

    Returns
    -------
    Path, or Remote for a URL
        The file.

    Raises
    ------
    NotFound
        `folder` holds no extraction, or none of its cases is complete.
    InvalidInput
        Another file type than HTML.
    DamagedFile, UnreadableFile
        The journal does not read. Findings and images that do not read are named in the report.
    OutputError
        `output` cannot be written.
    """
    extraction = open_extraction(folder)
    target = place_of(output) if output is not None else extraction.root / "report.html"
    if target.suffix.lower() not in (".html", ".htm"):
        raise InvalidInput(f"{target}: a report is an HTML file; give a name that ends with .html")
    left_out = read_left_out(extraction.root)
    if not extraction.cases and not left_out.failed:
        raise NotFound(f"{extraction.root}: no case is complete yet; let the run end, or see why its cases failed")
    cases = examine(extraction)
    text = _page(extraction, cases, Legend.of(extraction.class_map, cases), left_out)
    with staging_of(target.parent) as staging:
        staging.write(target.name, text)
    return target


def _page(extraction: Extraction, cases: Sequence[CaseFacts], legend: Legend, left_out: LeftOut) -> str:
    views = [view for view in VIEWS if any(one.view == view for case in cases for one in case.views)]
    remarks = _remarks(cases, extraction, left_out)
    failed = f", {len(left_out.failed):,} failed" if left_out.failed else ""
    about = f"{plural(len(cases), 'case')}{failed} · {', '.join(views) or 'no views'}"
    sections = [
        Section("look", "Worth a look", "Faults come first. What is unusual need not be wrong.", remarks_list(remarks)),
        Section("classes", "Classes", _classes_lead(cases), _classes(cases, legend, views) + _splits(cases, legend)),
        Section(
            "distributions",
            "Distributions",
            "Longest side and place of each box, by view. Rows run down and columns to the right, as in the images.",
            "".join(_view_charts(cases, legend, view) for view in views) + _other_charts(cases, views),
        ),
        Section("volumes", "Volumes", "As they were cut: turned, resampled and cropped.", _volumes(cases, views)),
        Section("settings", "Settings", "Those of the run that are not the default.", _settings(extraction.settings)),
        Section(
            "cases",
            "Cases",
            "Slices as they were written, in grey made for looking. Arrow keys move the slider that has the focus.",
            _toolbar(legend, views, cases) + _gallery(cases, legend),
            is_wide=True,
        ),
    ]
    name = extraction.root.resolve().name or "extraction"
    return page(name, "report", about, _numbers(cases, legend, left_out), sections, _data(cases, legend, views))


# ------------------------------------------------------------------------------------------------------------ numbers


def _numbers(cases: Sequence[CaseFacts], legend: Legend, left_out: LeftOut) -> list[tuple[str, str]]:
    found = [view for case in cases for view in case.views]
    pairs = [
        ("cases", f"{len(cases):,}"),
        ("slices", f"{sum(view.slices for view in found):,}"),
        ("of them annotated", f"{sum(view.annotated for view in found):,}"),
        ("annotations", f"{sum(len(view.labels) for view in found):,}"),
        ("classes", f"{legend.count:,}"),
    ]
    return [*pairs, ("failed cases", f"{len(left_out.failed):,}")] if left_out.failed else pairs


def _classes_lead(cases: Sequence[CaseFacts]) -> str:
    is_slices = any(view.is_slices for case in cases for view in case.views)
    return (
        "A box for each connected component of each slice: an object counts once in every slice that cuts it."
        if is_slices
        else "A box for each connected component of the volume, the same in every view."
    )


def _classes(cases: Sequence[CaseFacts], legend: Legend, views: Sequence[View]) -> str:
    if not legend.names:
        return '<p class="fine-line">No annotations.</p>'
    size = len(legend.names)
    of_view = {view: np.zeros(size, np.int64) for view in views}
    in_cases = np.zeros(size, np.int64)
    sides: list[list[NDArray[np.float32]]] = [[] for _ in range(size)]
    for case in cases:
        there = np.zeros(size, np.bool_)
        for view in case.views:
            classes = legend.classes(view.labels)
            counts = np.bincount(classes, minlength=size)
            of_view[view.view] += counts
            there |= counts > 0
            for place in np.flatnonzero(counts).tolist():
                sides[place].append(view.side_mm[classes == place])
        in_cases += there
    total = np.sum(list(of_view.values()), axis=0)
    rows = []
    for place in range(size):
        low, middle, high = np.percentile(np.concatenate(sides[place]), [5, 50, 95]).tolist()
        style = f"--c:{esc(legend.colors[place])};--w:{total[place] / max(1, total.max()):.3f}"
        rows.append(
            [
                _swatch(legend, place),
                f"{in_cases[place]:,}",
                *(f"{of_view[view][place]:,}" for view in views),
                f'<span class="share" style="{style}">{100 * total[place] / max(1, total.sum()):.1f} %</span>',
                f"{middle:.3g}",
                f"{low:.3g} to {high:.3g}",
            ]
        )
    head = ["class", "cases", *(f"{view} boxes" for view in views), "share", "longest side, mm", "5 to 95 %"]
    return table("Annotations of each class", head, rows)


def _splits(cases: Sequence[CaseFacts], legend: Legend) -> str:
    """Parts of the data set; nothing where it was not split."""
    names = sorted({case.split for case in cases if case.split is not None})
    if not names:
        return ""
    rows = []
    for name in names:
        own = [case for case in cases if case.split == name]
        found = [view for case in own for view in case.views]
        counts = np.zeros(len(legend.names), np.int64)
        for view in found:
            counts += np.bincount(legend.classes(view.labels), minlength=len(legend.names))
        rows.append(
            [
                esc(name),
                f"{len(own):,}",
                f"{sum(view.slices for view in found):,}",
                *(f"{n:,}" for n in counts.tolist()),
            ]
        )
    return "<h3>Parts</h3>" + table("Parts of the data set", ["part", "cases", "slices", *legend.names], rows)


def _swatch(legend: Legend, place: int) -> str:
    return f'<i class="swatch" style="--c:{esc(legend.colors[place])}"></i>{esc(legend.names[place])}'


def _volumes(cases: Sequence[CaseFacts], views: Sequence[View]) -> str:
    firsts = [case.views[0] for case in cases if case.views]
    if not firsts:
        return '<p class="fine-line">None reads.</p>'
    shapes = np.array([view.shape for view in firsts])
    spacings = np.array([view.spacing_mm for view in firsts])
    rows = []
    for axis, name in enumerate("xyz"):
        rows.append(
            [
                name,
                _span(shapes[:, axis]),
                _span(spacings[:, axis]),
                _span(shapes[:, axis] * spacings[:, axis]),
            ]
        )
    axes = Counter(view.orientation for view in firsts)
    sizes = Counter((view.view, view.size) for case in cases for view in case.views)
    facts = [
        ("axes", ", ".join(f"{codes} in {plural(count, 'case')}" for codes, count in axes.most_common(6))),
        *(
            (
                f"{view} images",
                _some([f"{times(size)} pixels ({n:,})" for (of, size), n in sizes.most_common() if of == view]),
            )
            for view in views
        ),
    ]
    said = "".join(f"<div><dt>{esc(what)}</dt><dd>{esc(value)}</dd></div>" for what, value in facts)
    head = ["axis", "voxels", "spacing, mm", "extent, mm"]
    return table("Shape and spacing of the volumes", head, rows) + f'<dl class="facts">{said}</dl>'


def _span(values: NDArray[Any]) -> str:
    low, middle, high = (f"{value:.4g}" for value in np.percentile(values, [0, 50, 100]).tolist())
    return low if low == high else f'{low} to {high} <span class="quiet">median {middle}</span>'


def _some(texts: Sequence[str], most: int = 4) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most:,} other sizes" if len(texts) > most else "")


def _settings(settings: dict[str, Any]) -> str:
    usual = dataclasses.asdict(Settings())
    changed = {name: value for name, value in settings.items() if _plain(value) != _plain(usual.get(name))}
    if not changed:
        return '<p class="fine-line">All by default.</p>'
    said = "".join(
        f"<div><dt>{esc(name)}</dt><dd>{esc(_setting(value))}</dd></div>" for name, value in sorted(changed.items())
    )
    return f'<dl class="facts">{said}</dl>'


def _plain(value: Any) -> Any:
    """`value` as JSON gives it back."""
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {one['name'] if isinstance(one, dict) else one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# ------------------------------------------------------------------------------------------------------------- charts


def _view_charts(cases: Sequence[CaseFacts], legend: Legend, view: View) -> str:
    found = [one for case in cases for one in case.views if one.view == view]
    classes = _joined([legend.classes(one.labels) for one in found], np.int64)
    sides = _joined([one.side_mm for one in found], np.float32)
    depths = _joined([one.depths for one in found], np.float32)
    if not len(classes):
        return f'<h3>{esc(view.capitalize())}</h3><p class="none">no annotations</p>'
    positions = np.sum([one.positions for one in found], axis=0)
    size_mm = np.median([np.array(one.inner) * one.pixel_mm for one in found], axis=0).tolist()

    def by_class(values: NDArray[np.float32]) -> list[Series]:
        kinds = zip(legend.names, legend.colors, strict=True)
        return [Series(name, values[classes == place], color) for place, (name, color) in enumerate(kinds)]

    middle = f"median {np.median(sides):.3g} mm, 5 to 95 %: {_range(sides, 5, 95)} mm"
    charts = [
        (
            "Size",
            middle,
            histogram(
                by_class(sides),
                label=f"Longest side of the {view} boxes: {middle}",
                x_label="longest side, mm",
                y_label="boxes",
            ),
        ),
        (
            "Depth",
            "center of each box, first to last slice",
            histogram(
                by_class(100 * depths),
                label=f"Where along the {view} slices the boxes lie, in percent from the first to the last",
                x_label="% of the slices",
                y_label="boxes",
                span=(0, 100),
            ),
        ),
        (
            "Position",
            "center of each box in its slice",
            position_map(positions, (size_mm[0], size_mm[1]), label=f"Where in the {view} slices the boxes lie"),
        ),
    ]
    return f"<h3>{esc(view.capitalize())}</h3>" + _figures(charts)


def _other_charts(cases: Sequence[CaseFacts], views: Sequence[View]) -> str:
    counts = {view: np.array([one.slices for c in cases for one in c.views if one.view == view]) for view in views}
    charts = []
    for view, slices in counts.items():
        said = (
            f"{plural(len(slices), 'case')}, median {np.median(slices):.4g}, from {slices.min():,} to {slices.max():,}"
        )
        charts.append(
            (
                f"{view.capitalize()} slices of a case",
                said,
                histogram(
                    [Series("cases", slices)],
                    label=f"{view.capitalize()} slices of a case: {said}",
                    x_label="slices",
                    y_label="cases",
                    whole=True,
                ),
            )
        )
    pixels = _joined([case.pixels for case in cases], np.float32)
    inside = _joined([case.inside for case in cases], np.float32)
    if len(pixels):
        low, high = np.percentile(pixels, [0.1, 99.9]).tolist()
        edges = np.linspace(low, high if high > low else low + 1, _INTENSITY_BINS + 1)
        said = f"sample of {len(pixels):,} pixels, median {np.median(pixels):.4g}"
        found = [
            Series("all pixels", np.histogram(pixels, edges)[0]),
            Series("in the middle of boxes", np.histogram(inside, edges)[0]),
        ]
        charts.append(
            (
                "Intensity",
                said,
                outlines(found, edges, label=f"Values of the images: {said}", x_label="value in the file"),
            )
        )
    return "<h3>All cases</h3>" + _figures(charts) if charts else ""


def _figures(charts: Iterable[tuple[str, str, str]]) -> str:
    figures = "".join(
        f'<figure><figcaption><b>{esc(title)}</b> <span class="quiet">{esc(said)}</span></figcaption>{chart}</figure>'
        for title, said, chart in charts
    )
    return f'<div class="figures">{figures}</div>'


def _range(values: NDArray[Any], low: float, high: float) -> str:
    return " to ".join(f"{value:.3g}" for value in np.percentile(values, [low, high]).tolist())


def _joined(parts: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts])


# ------------------------------------------------------------------------------------------------------ what stands out


def _remarks(cases: Sequence[CaseFacts], extraction: Extraction, left_out: LeftOut) -> list[Remark]:
    remarks = [
        Remark(
            "Cases that failed",
            "They are not in the data set. Mend them and extract again with resume=True.",
            [(f"{case}: {reason}", "") for case, reason in left_out.failed],
            is_fault=True,
        ),
        Remark(
            "Files of the extraction that do not read",
            "They were complete when the run ended. Extract these cases again.",
            [(fault, f"case-{place}") for place, case in enumerate(cases) for fault in case.faults],
            is_fault=True,
        ),
        Remark(
            "Files that no case uses",
            "They lay in the source and were left out.",
            [(f"{where}: {reason}", "") for where, reason in left_out.skipped],
        ),
        Remark(
            "Unusual number of slices",
            f"Further than {_SIGMAS:g} standard deviations from the mean of all cases.",
            _unusual_counts(cases),
        ),
        Remark(
            "Labels without annotations",
            "The case has labels, but no box came of them: an empty mask, or all were filtered out.",
            _of_cases(cases, lambda view: view.is_labelled and not len(view.labels)),
        ),
        Remark(
            "Cases without labels",
            "Their slices look like slices without objects to a detector.",
            _of_cases(cases, lambda view: not view.is_labelled),
        ),
        Remark(
            "Tiny boxes",
            f"At most {TINY} pixels or voxels are annotated in them; min_size= leaves such out.",
            _of_views(cases, lambda view: view.tiny),
        ),
    ]
    if extraction.settings.get("crop") != "foreground":  # there they touch the edge by design
        remarks.append(
            Remark(
                "Boxes at the edge of the volume",
                "They may go on beyond it: sizes and centers are those of the part that can be seen.",
                _of_views(cases, lambda view: view.at_border),
            )
        )
    return [remark for remark in remarks if remark.items]


def _unusual_counts(cases: Sequence[CaseFacts]) -> list[tuple[str, str]]:
    items = []
    for view in VIEWS:
        found = [
            (place, case.id, one.slices) for place, case in enumerate(cases) for one in case.views if one.view == view
        ]
        counts = np.array([count for *_, count in found])
        if not len(counts) or not counts.std():
            continue
        mean, deviation = float(counts.mean()), float(counts.std())
        items += [
            (f"{case_id}: {count:,} {view} slices, all cases {mean:.4g} ± {deviation:.3g}", f"case-{place}")
            for place, case_id, count in found
            if abs(count - mean) > _SIGMAS * deviation
        ]
    return items


def _of_cases(cases: Sequence[CaseFacts], holds: Callable[[ViewFacts], bool]) -> list[tuple[str, str]]:
    """Cases of which `holds` is true in every view."""
    return [
        (case.id, f"case-{place}")
        for place, case in enumerate(cases)
        if case.views and all(holds(view) for view in case.views)
    ]


def _of_views(cases: Sequence[CaseFacts], counted: Callable[[ViewFacts], int]) -> list[tuple[str, str]]:
    """Views in which `counted` is not 0, the most first."""
    found = [(counted(view), place, case.id, view) for place, case in enumerate(cases) for view in case.views]
    found = sorted((one for one in found if one[0]), key=lambda one: -one[0])
    return [
        (f"{case_id}, {view.view}: {count:,} of {plural(len(view.labels), 'box')}", f"case-{place}")
        for count, place, case_id, view in found
    ]


# ------------------------------------------------------------------------------------------------------------ gallery


def _toolbar(legend: Legend, views: Sequence[View], cases: Sequence[CaseFacts]) -> str:
    chips = "".join(
        f'<label class="chip" style="--c:{esc(color)}"><input type="checkbox" name="class" value="{place}" checked>'
        f"<span>{esc(name)}</span></label>"
        for place, (name, color) in enumerate(zip(legend.names, legend.colors, strict=True))
    )
    choices = "".join(
        f'<label class="choice"><input type="radio" name="view" value="{place}"{" checked" if not place else ""}>'
        f"<span>{esc(view)}</span></label>"
        for place, view in enumerate(views)
    )
    return (
        '<form id="tools" class="tools" role="search" aria-label="Choose cases">'
        + (f"<fieldset><legend>View</legend>{choices}</fieldset>" if len(views) > 1 else "")
        + (f"<fieldset><legend>Classes</legend>{chips}</fieldset>" if chips else "")
        + '<label class="find"><span>Case</span><input type="search" id="find" autocomplete="off" '
        'placeholder="part of a name"></label>'
        f'<output id="shown" role="status">{plural(len(cases), "case")}</output></form>'
        '<noscript><p class="none">The pictures need the script of this page.</p></noscript>'
    )


def _gallery(cases: Sequence[CaseFacts], legend: Legend) -> str:
    sides = [max(view.strip.tile) for case in cases for view in case.views if view.strip is not None]
    width = min(320, max(150, int(np.median(sides) * 1.6))) if sides else 220
    cards = "".join(_card(place, case, legend) for place, case in enumerate(cases))
    return f'<div id="gallery" class="gallery" style="--card:{width}px">{cards}</div>'


def _card(place: int, case: CaseFacts, legend: Legend) -> str:
    present = sorted({int(n) for view in case.views for n in np.unique(legend.classes(view.labels))})
    part = f'<span class="part-name">{esc(case.split)}</span>' if case.split is not None else ""
    name = esc(case.id)
    body = f'<p class="none">{esc("; ".join(case.faults[:2]) or _NOT_PICTURED)}</p>'
    if any(view.strip is not None for view in case.views):
        body = (
            '<div class="stage"><svg role="img" preserveAspectRatio="xMidYMid meet"></svg></div>'
            '<div class="scrub"><svg class="bars" aria-hidden="true" preserveAspectRatio="none"></svg>'
            f'<input type="range" min="0" value="0" step="1" aria-label="Slice of {name}"></div><p class="now"></p>'
        )
    if case.views:
        first = case.views[0]
        body += f'<p class="quiet small">{times(first.shape)} voxels of {times(_rounded(first.spacing_mm))} mm</p>'
    return (
        f'<article class="card" id="case-{place}" data-case="{place}" data-name="{name}" '
        f'data-classes="{" ".join(map(str, present))}" tabindex="-1"><h3>{name}</h3>{part}{body}</article>'
    )


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.3g}") for value in values)


def _data(cases: Sequence[CaseFacts], legend: Legend, views: Sequence[View]) -> dict[str, Any]:
    """What the script needs; short names, since there are thousands of each."""
    return {
        "classes": [{"name": n, "color": c} for n, c in zip(legend.names, legend.colors, strict=True)],
        "views": list(views),
        "cases": [
            [_view_data(view, view.strip, legend, views) for view in case.views if view.strip is not None]
            for case in cases
        ],
    }


def _view_data(view: ViewFacts, strip: Strip, legend: Legend, views: Sequence[View]) -> dict[str, Any]:
    row, column = view.pixel_mm if min(view.pixel_mm) > 0 and np.isfinite(view.pixel_mm).all() else (1.0, 1.0)
    return {
        "view": views.index(view.view),
        "count": view.count,
        "size": [view.size[1], view.size[0]],
        "mm": [column, row],
        "tile": list(strip.tile),
        "slices": list(strip.slices),
        "areas": list(strip.areas),
        "boxes": [
            np.concatenate([legend.classes(labels)[:, None], boxes], axis=1).ravel().tolist()
            for labels, boxes in zip(strip.labels, strip.boxes, strict=True)
        ],
        "more": list(strip.more),
        "jpeg": data_uri("image/jpeg", strip.jpeg) if strip.jpeg else "",
    }
