"""``voxtract preview``: slices of an extraction on a contact sheet, as they were written, with the boxes over them.

The images are read back from their files and the boxes from the findings, so the sheet shows what a model will be
trained on. What `voxtract.html` shows of single slices comes from here too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput, NotFound, check_choice
from voxtract.geometry import Plane, View, check_view
from voxtract.model import Findings
from voxtract.read.extraction import ExtractedCase, Extraction, open_extraction
from voxtract.read.slices import read_slice
from voxtract.storage import Place, Remote, place
from voxtract.write.remote import staging as staging_of
from voxtract.write.sheet import Tile, contact_sheet, png

if TYPE_CHECKING:
    from numpy.typing import NDArray

Choose = Literal["spread", "largest"]

_CHOICES = ("spread", "largest")
_LEVELS = 512  # of grey before the tone curve
_SAMPLES = 40_000  # pixels that decide on a tone curve: enough for its ends
_CLIP = 3.0  # times the mean: how much of the grey a value may take that half of the image has, such as air


def preview(
    folder: str | os.PathLike[str] | Remote,
    output: str | os.PathLike[str] | Remote | None = None,
    *,
    cases: Sequence[str] | None = None,
    views: Sequence[View] | None = None,
    tiles: int = 24,
    choose: Choose = "spread",
    columns: int = 6,
    tile_px: int = 300,
) -> Place:
    """Draw slices of an extraction in a grid, with boxes, class colours and names.

    Slices with annotations are taken first, spread evenly over the cases and views. They keep the order of the cases.

    Parameters
    ----------
    folder : path
        Output folder of :func:`voxtract.extract`.
    output : path, optional
        PNG file to write; by default ``preview.png`` in `folder`. One that is there is replaced.
    cases : sequence of str, optional
        Ids of the cases to draw; by default all.
    views : sequence of {"axial", "coronal", "sagittal"}, optional
        By default those that were extracted.
    tiles : int
        The most slices to draw.
    choose : {"spread", "largest"}
        Annotated slices of a case spread over all that it has, or those with the most annotated pixels.
    columns : int
        Slices beside each other.
    tile_px : int
        Longer side of each slice on the sheet, in pixels; millimetres are the same both ways.

    Returns
    -------
    Path, or Remote for a URL
        The file.

    Raises
    ------
    NotFound
        `folder` holds no extraction, none of its cases is complete, or an image of it is gone.
    InvalidInput
        A case or view that is not there, images that were not written, a number below 1, another file type.
    DamagedFile, UnreadableFile
        The journal, the findings or an image do not read.
    OutputError
        `output` cannot be written.
    """
    check_choice("choose", choose, _CHOICES)
    extraction = open_extraction(folder)
    target = place(output) if output is not None else extraction.root / "preview.png"
    if target.suffix.lower() != ".png":
        raise InvalidInput(f"{target}: a contact sheet is a PNG file; give a name that ends with .png")
    if min(tiles, columns, tile_px) < 1:
        raise InvalidInput(f"tiles {tiles}, columns {columns}, tile_px {tile_px}: each must be at least 1")
    found = _chosen_findings(extraction, cases, views)
    classes = extraction.class_map or ClassMap.of_labels(np.concatenate([one.rows.class_id for one in found]))
    picks = _picked(found, tiles, choose)
    drawn = [
        tile for one, slices in zip(found, picks, strict=True) for tile in _tiles(extraction, one, slices, classes)
    ]
    total = sum(len(one.slices) for one in found)
    title = f"{extraction.root.resolve().name}: {len(drawn):,} of {total:,} slices"
    sheet = contact_sheet(drawn, columns=columns, tile_px=tile_px, title=title, classes=classes)
    with staging_of(target.parent) as staging:
        staging.write(target.name, png(sheet))
    return target


def _chosen_findings(
    extraction: Extraction, cases: Sequence[str] | None, views: Sequence[View] | None
) -> list[Findings]:
    """Findings with images, of the cases and views asked for."""
    if not extraction.cases:
        raise NotFound(f"{extraction.root}: no case is complete yet; let the run end, or see why its cases failed")
    wanted = None if views is None else {check_view(view) for view in views}
    found = [one for case in _chosen_cases(extraction, cases) for one in case.findings()]
    there = {one.plane.view for one in found}
    if wanted is not None and wanted - there:
        raise InvalidInput(
            f"{extraction.root}: has no {', '.join(sorted(wanted - there))} slices; it has {', '.join(sorted(there))}"
        )
    found = [one for one in found if one.suffix and len(one.slices) and (wanted is None or one.plane.view in wanted)]
    if not found:
        raise InvalidInput(f"{extraction.root}: no images were written, so there is nothing to draw; extract images")
    return found


def _chosen_cases(extraction: Extraction, wanted: Sequence[str] | None) -> Sequence[ExtractedCase]:
    if wanted is None:
        return extraction.cases
    known = {case.id: case for case in extraction.cases}
    unknown = [case_id for case_id in wanted if case_id not in known]
    if unknown or not wanted:
        some = ", ".join(list(known)[:5]) + (", …" if len(known) > 5 else "")
        raise InvalidInput(
            f"{extraction.root}: has no complete case {', '.join(map(repr, unknown)) or '(none was named)'}; "
            f"it has {len(known):,}: {some}"
        )
    return [known[case_id] for case_id in dict.fromkeys(wanted)]


def _picked(found: Sequence[Findings], tiles: int, choose: Choose) -> list[NDArray[np.int64]]:
    """Slices to draw of each of `found`: annotated ones spread over all, the others where there is room left."""
    areas = [annotated_area(one) for one in found]
    annotated = [int((area > 0).sum()) for area in areas]
    shares = shared_out(annotated, tiles)
    rest = shared_out([len(a) - n for a, n in zip(areas, annotated, strict=True)], tiles - sum(shares))
    return [
        pick_slices(one, area, share, others, choose)
        for one, area, share, others in zip(found, areas, shares, rest, strict=True)
    ]


def _tiles(extraction: Extraction, found: Findings, slices: NDArray[np.int64], classes: ClassMap) -> list[Tile]:
    """Tiles of one case and view, with one tone curve for all of them."""
    if not len(slices):
        return []
    images = [read_slice(extraction.root, found, index) for index in slices.tolist()]
    tone = Tone.of([inner_pixels(image, found.plane) for image in images])
    tiles = []
    for index, image in zip(slices.tolist(), images, strict=True):
        rows = rows_of_slice(found, index)
        caption = f"{found.case_id}  {found.plane.view} {index}"
        spacing_mm = found.plane.pixel_spacing_mm(found.grid.spacing_mm)
        labels = classes.ids(found.rows.class_id[rows])
        tiles.append(Tile(tone.grey(image), pixel_boxes(found, rows), labels, caption, spacing_mm, (0, 255)))
    return tiles


# ------------------------------------------------------------------------------------------- which slices, which rows


def annotated_area(found: Findings) -> NDArray[np.int64]:
    """Annotated pixels of each chosen slice; of 3D components the pixels of their boxes.

    Returns
    -------
    (n,) int64, one for each of ``found.slices``
    """
    rows, (row, column, axis) = found.rows, found.plane.axes
    sides = rows.stop - rows.start
    pixels = rows.count if found.extent == "slice" else sides[:, row] * sides[:, column]
    change = np.zeros(found.plane.count + 1, np.int64)
    np.add.at(change, rows.start[:, axis], pixels)
    np.subtract.at(change, rows.stop[:, axis], pixels)
    area: NDArray[np.int64] = np.cumsum(change)[found.slices]
    return area


def pick_slices(
    found: Findings, area: NDArray[np.int64], annotated: int, others: int, choose: Choose = "spread"
) -> NDArray[np.int64]:
    """Choose so many annotated slices and so many others, in order; `area` is `annotated_area` of `found`."""
    marked = np.flatnonzero(area)
    if choose == "largest":
        taken = marked[np.argsort(-area[marked], kind="stable")][:annotated]
    else:
        taken = spread(marked, annotated)
    rest = spread(np.flatnonzero(area == 0), others)
    slices: NDArray[np.int64] = found.slices[np.sort(np.concatenate([taken, rest]))]
    return slices


def spread(values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` of `values`, evenly spread: the middle of each of `count` equal parts."""
    count = min(count, len(values))
    taken: NDArray[np.int64] = values[(2 * np.arange(count) + 1) * len(values) // (2 * max(count, 1))]
    return taken


def shared_out(available: Sequence[int], total: int) -> list[int]:
    """Share `total` out as evenly as what each has `available` allows; where there is less than one each, spread.

    >>> shared_out([5, 1, 9], 9), shared_out([3, 3, 0, 3, 3], 2)
    ([4, 1, 4], [0, 1, 0, 0, 1])
    """
    shares = [0] * len(available)
    left = min(total, sum(available))
    while left > 0:
        open_ = np.flatnonzero(np.array(available) > shares)
        each = left // len(open_)
        for index in (spread(open_, left) if each == 0 else open_).tolist():
            give = min(max(each, 1), available[index] - shares[index])
            shares[index] += give
            left -= give
    return shares


def rows_of_slice(found: Findings, index: int) -> NDArray[np.int64]:
    """Positions of the rows that slice `index` cuts, in their order."""
    axis = found.plane.axes[2]
    cut = (found.rows.start[:, axis] <= index) & (index < found.rows.stop[:, axis])
    return np.flatnonzero(cut).astype(np.int64, copy=False)


def pixel_boxes(found: Findings, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Boxes in pixels of the padded image: (n, 4) int64 X_MIN, Y_MIN, X_MAX, Y_MAX, inclusive."""
    first: NDArray[Any] = found.plane.pixel(found.rows.start[rows])
    last: NDArray[Any] = found.plane.pixel(found.rows.stop[rows] - 1)
    return np.concatenate([first[:, :2], last[:, :2]], axis=1)


# ------------------------------------------------------------------------------------------------------ their pixels


def inner_pixels(image: NDArray[Any], plane: Plane) -> NDArray[Any]:
    """The part of an image that is not padding."""
    top, left = plane.pad
    return image[top : top + plane.rows, left : left + plane.columns]


@dataclass(frozen=True, eq=False, slots=True)
class Tone:
    """How values become grey for looking at them.

    Between the 0.5th and the 99.8th percentile, the curve is steeper where many pixels are: tissues that are close
    to each other can be told apart in a CT of air and bone as in an MR of any scale, and nobody has to know the
    modality. It is a histogram equalisation with clipped bins, as in CLAHE (Pizer et al. 1987, "Adaptive histogram
    equalization and its variations"), but one curve for all slices of a case.

    Parameters
    ----------
    low, high : float
        Values at the two ends of the curve.
    curve : (512,) uint8
    """

    low: float
    high: float
    curve: NDArray[np.uint8]

    @classmethod
    def of(cls, images: Sequence[NDArray[Any]]) -> Tone:
        """Make the curve from a sample of the finite pixels of `images`."""
        most = max(500, _SAMPLES // max(1, len(images)))
        samples = np.concatenate([sampled(image, most) for image in images]).astype(np.float64)
        samples = samples[np.isfinite(samples)]
        low, high = np.percentile(samples, [0.5, 99.8]).tolist() if samples.size else (0.0, 0.0)
        if not low < high:  # one value: mid grey
            return cls(low - 1, low + 1, np.linspace(0, 255, _LEVELS).astype(np.uint8))
        levels = (np.clip(samples, low, high) - low) * ((_LEVELS - 1) / (high - low))
        counts = np.bincount(levels.astype(np.int64), minlength=_LEVELS)
        clipped = np.minimum(counts, _CLIP * counts.mean()) + 0.3 * counts.mean()  # no part of the curve is flat
        rising = np.cumsum(clipped) - clipped / 2
        return cls(low, high, np.rint(255 * rising / clipped.sum()).astype(np.uint8))

    def grey(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """8-bit grey of an image; what is no number is black."""
        level = image.astype(np.float32)
        level -= np.float32(self.low)
        level *= np.float32((_LEVELS - 1) / (self.high - self.low))
        if image.dtype.kind == "f":
            np.nan_to_num(level, copy=False, nan=0.0, posinf=_LEVELS, neginf=0.0)
        np.clip(level, 0, _LEVELS - 1, out=level)
        return self.curve[level.astype(np.uint16)]


def sampled(image: NDArray[Any], most: int) -> NDArray[Any]:
    """At most about `most` pixels of an image, on a regular grid: (n,) array."""
    step = max(1, int(np.ceil(np.sqrt(image.size / most))))
    return image[step // 2 :: step, step // 2 :: step].ravel()
