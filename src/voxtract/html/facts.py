"""What a report is made of: numbers of each case, worked out from its findings and from some of its images.

Each case is looked at once, in a thread of its own; what is kept of it is small, however many slices it has.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.classes import ClassMap, color_of
from voxtract.crew import Crew, default_memory_limit, default_workers
from voxtract.errors import DamagedFile, UnreadableFile, VoxtractError
from voxtract.geometry import View
from voxtract.model import Findings
from voxtract.preview import (
    Tone,
    annotated_area,
    inner_pixels,
    pick_slices,
    pixel_boxes,
    rows_of_slice,
    sampled,
    spread,
)
from voxtract.read.extraction import LEFT_OUT, ExtractedCase, Extraction
from voxtract.read.slices import read_slice
from voxtract.storage import Place

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAP_CELLS = 24  # along each side of a position map
TINY = 4  # pixels or voxels: what is not larger is rarely meant

_PICTURES = 11 << 20  # bytes of all pictures together, before base64 adds a third
_MOST_PICTURES = 3000  # strips: more would be too small to show anything
_MOST_BOXES = 150_000  # drawn over all pictures together
_PIXELS = 2_000_000  # values that the intensity histograms are made of
# (longer side of a slice in pixels, slices): the first that fits is taken
_SIZES = (
    *((256, 32), (224, 24), (192, 24), (160, 20), (144, 16), (128, 14), (112, 12)),
    *((96, 10), (80, 9), (72, 8), (64, 7), (56, 6), (48, 5), (40, 4)),
)
_MOST_STRIP = 400_000  # bytes of a strip: where there are few cases, larger ones show nothing more
_BYTES_PER_PIXEL = 0.22  # of JPEG at the second quality, for CT with its noise, made small
_OTHER = "#9aa3ad"  # colour of the classes that have none of their own
_QUALITIES = (75, 60, 40, 22)  # the first with which a strip fits its share


@dataclass(frozen=True, eq=False, slots=True)
class Strip:
    """Some slices of a case below each other in one JPEG, and the boxes on them.

    Parameters
    ----------
    jpeg : bytes
        Empty where no images were written.
    tile : (width, height)
        Of each slice in the picture.
    slices : (index, ...)
    areas : (annotated pixels, ...)
    labels : one (n,) array for each slice
    boxes : one (n, 4) int64 for each slice
        X_MIN, Y_MIN, X_MAX, Y_MAX; the largest first.
    more : (count, ...)
        Boxes that were left out as too many.
    """

    jpeg: bytes
    tile: tuple[int, int]
    slices: tuple[int, ...]
    areas: tuple[int, ...]
    labels: tuple[NDArray[Any], ...]
    boxes: tuple[NDArray[np.int64], ...]
    more: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class ViewFacts:
    """One view of one case.

    Parameters
    ----------
    view : View
    shape, spacing_mm : (x, y, z)
    orientation : str
    size : (height, width) of the images
    pixel_mm : (row, column)
    inner : (rows, columns) of a slice without padding
    count, slices, annotated : int
        Slices that the plane has, that were chosen, and that hold annotations.
    is_labelled, is_slices : bool
        Whether the case has labels; whether components lie in one slice each.
    labels : (n,) of the rows
    side_mm : (n,) float32, longest side of each box
    tiny, at_border : int
        Rows of at most `TINY` pixels; rows that touch the edge of the volume.
    positions : (MAP_CELLS, MAP_CELLS) int64, rows by the place of their center in the slice
    depths : (n,) float32, place of the center along the slice axis, 0 to 1
    strip : Strip, optional
    """

    view: View
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    size: tuple[int, int]
    pixel_mm: tuple[float, float]
    inner: tuple[int, int]
    count: int
    slices: int
    annotated: int
    is_labelled: bool
    is_slices: bool
    labels: NDArray[Any]
    side_mm: NDArray[np.float32]
    tiny: int
    at_border: int
    positions: NDArray[np.int64]
    depths: NDArray[np.float32]
    strip: Strip | None = None


@dataclass(frozen=True, eq=False, slots=True)
class CaseFacts:
    """One case; `pixels` and `inside` are samples of its values, the second from boxes only."""

    id: str
    split: str | None
    views: tuple[ViewFacts, ...] = ()
    pixels: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    inside: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What the run could not do: (case, reason) and (file, reason) pairs."""

    failed: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()


def examine(extraction: Extraction) -> list[CaseFacts]:
    """Look at all cases, in their order; one that does not read says why in its `faults`."""
    views = len(extraction.settings.get("views") or ("axial",))
    pictured = spread(np.arange(len(extraction.cases)), max(1, _MOST_PICTURES // views)).tolist()
    format_ = _Format.of(len(pictured) * views)
    formats = dict.fromkeys((extraction.cases[index].id for index in pictured), format_)
    crew = Crew(default_workers(), default_memory_limit())

    def look(case: ExtractedCase) -> CaseFacts:
        return _examine(case, formats.get(case.id))

    return crew.each(look, extraction.cases)


def read_left_out(root: Place) -> LeftOut:
    """Read what the run noted about cases that failed and files that no case uses; nothing where there is no note.

    Raises
    ------
    DamagedFile, UnreadableFile
        The note does not read.
    """
    path = root / LEFT_OUT
    try:
        told = json.loads(path.read_bytes())
        failed = tuple((str(one["case"]), str(one["error"])) for one in told["failed"])
        skipped = tuple((str(one["where"]), str(one["reason"])) for one in told["skipped"])
    except FileNotFoundError:
        return LeftOut()
    except OSError as why:
        raise UnreadableFile(f"{path}: cannot be read: {why.strerror}; check its permissions") from why
    except (ValueError, KeyError, TypeError) as why:
        raise DamagedFile(f"{path}: is damaged ({why}); delete it, and the report does without") from why
    return LeftOut(failed, skipped)


@dataclass(frozen=True, slots=True)
class _Format:
    """How much room each strip has: pixels of a slice, slices, bytes, boxes and sampled values on each slice."""

    side: int
    slices: int
    nbytes: int
    boxes: int
    samples: int

    @classmethod
    def of(cls, strips: int) -> _Format:
        share = min(_MOST_STRIP, _PICTURES // max(1, strips))
        fitting = (one for one in _SIZES if one[0] ** 2 * one[1] * _BYTES_PER_PIXEL <= share)
        side, slices = next(fitting, _SIZES[-1])
        tiles = max(1, strips * slices)
        return cls(side, slices, share, max(10, _MOST_BOXES // tiles), max(50, min(20_000, _PIXELS // tiles)))


def _examine(case: ExtractedCase, format_: _Format | None) -> CaseFacts:
    try:
        found = case.findings()
    except VoxtractError as why:
        return CaseFacts(case.id, case.split, faults=(str(why),))
    faults: list[str] = []
    pixels: list[NDArray[Any]] = []
    inside: list[NDArray[Any]] = []
    views = []
    for one in found:
        area = annotated_area(one)
        strip = None
        if format_ is not None:
            strip = _strip(case.root, one, area, format_, faults, pixels, inside)
        views.append(_view_facts(one, area, strip))
    return CaseFacts(case.id, case.split, tuple(views), _joined(pixels), _joined(inside), tuple(faults))


def _view_facts(found: Findings, area: NDArray[np.int64], strip: Strip | None) -> ViewFacts:
    plane, grid, rows = found.plane, found.grid, found.rows
    sides_mm = (rows.stop - rows.start) * np.array(grid.spacing_mm)
    if found.extent == "slice":
        sides_mm = sides_mm[:, plane.axes[:2]]
    at_border = ((rows.start == 0) | (rows.stop == np.array(plane.shape))).any(axis=1)
    places = (rows.start + rows.stop) / 2 / np.array(plane.shape)
    row, column, depth = (places[:, axis] for axis in plane.axes)
    ends = ((0, 1), (0, 1))
    return ViewFacts(
        plane.view,
        plane.shape,
        grid.spacing_mm,
        grid.orientation,
        plane.size,
        plane.pixel_spacing_mm(grid.spacing_mm),
        (plane.rows, plane.columns),
        plane.count,
        len(found.slices),
        int((area > 0).sum()),
        found.labelled,
        found.extent == "slice",
        rows.class_id,
        sides_mm.max(axis=1, initial=0).astype(np.float32),
        int((rows.count <= TINY).sum()),
        int(at_border.sum()),
        np.histogram2d(row, column, MAP_CELLS, ends)[0].astype(np.int64),
        depth.astype(np.float32),
        strip,
    )


def _strip(
    root: Place,
    found: Findings,
    area: NDArray[np.int64],
    format_: _Format,
    faults: list[str],
    pixels: list[NDArray[Any]],
    inside: list[NDArray[Any]],
) -> Strip | None:
    """Make the strip of one view, and add to the samples of values; an image that does not read becomes a fault."""
    annotated = min(int((area > 0).sum()), -(-2 * format_.slices // 3))  # two thirds, so that some have none
    others = min(len(area) - int((area > 0).sum()), format_.slices - annotated)
    taken = pick_slices(found, area, format_.slices - others, others)
    areas = dict(zip(found.slices.tolist(), area.tolist(), strict=True))
    slices, images, labels, boxes, more = [], [], [], [], []
    for index in taken.tolist():
        if found.suffix:
            try:
                image = read_slice(root, found, index)
            except VoxtractError as why:
                faults.append(str(why))
                continue
            images.append(image)
            pixels.append(sampled(inner_pixels(image, found.plane), format_.samples))
        rows = rows_of_slice(found, index)
        kept = rows[np.argsort(-found.rows.count[rows], kind="stable")][: format_.boxes]
        slices.append(index)
        labels.append(found.rows.class_id[kept])
        boxes.append(pixel_boxes(found, kept))
        more.append(len(rows) - len(kept))
        if found.suffix and len(kept):
            inside.append(_inside(image, boxes[-1], format_.samples))
    if not slices:
        return None
    jpeg, tile = _encoded(images, found, format_) if images else (b"", (0, 0))
    shown = tuple(areas[index] for index in slices)
    return Strip(jpeg, tile, tuple(slices), shown, tuple(labels), tuple(boxes), tuple(more))


def _inside(image: NDArray[Any], boxes: NDArray[np.int64], most: int) -> NDArray[Any]:
    """Values in the middle half of each box, where the annotated thing mostly is."""
    parts = []
    for left, top, right, bottom in boxes.tolist():
        dx, dy = (right - left + 1) // 4, (bottom - top + 1) // 4
        middle = image[top + dy : bottom + 1 - dy, left + dx : right + 1 - dx]
        parts.append(sampled(middle, max(16, most // len(boxes))))
    return np.concatenate(parts)


def _encoded(images: Sequence[NDArray[Any]], found: Findings, format_: _Format) -> tuple[bytes, tuple[int, int]]:
    """Slices below each other as JPEG, which has millimetres alike both ways, and (width, height) of each."""
    from PIL import Image

    tone = Tone.of([inner_pixels(image, found.plane) for image in images])
    width, height = _tile_size(found, format_.side)
    tiles = []
    for image in images:  # made small before they are made grey: fewer pixels, and true means
        values = image.astype(np.float32)
        if image.dtype.kind == "f":
            np.nan_to_num(values, copy=False, posinf=0.0, neginf=0.0)
        small = Image.fromarray(values).resize((width, height), Image.Resampling.HAMMING, reducing_gap=2)
        tiles.append(np.asarray(small))
    strip = Image.fromarray(tone.grey(np.concatenate(tiles)))
    for quality in _QUALITIES:
        file = io.BytesIO()
        strip.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= format_.nbytes:
            break
    return file.getvalue(), (width, height)


def _tile_size(found: Findings, side: int) -> tuple[int, int]:
    """(width, height) in which a slice is shown: not finer than it is."""
    size_mm = np.array(found.plane.size) * found.plane.pixel_spacing_mm(found.grid.spacing_mm)
    if not (np.isfinite(size_mm).all() and size_mm.min() > 0):  # a header without spacing
        size_mm = np.array(found.plane.size, np.float64)
    finest = max(size / mm for size, mm in zip(found.plane.size, size_mm.tolist(), strict=True))
    longer = min(side, max(16, int(np.ceil(size_mm.max() * finest))))
    height, width = np.maximum(np.rint(size_mm / size_mm.max() * longer / 8), 1).astype(int).tolist()
    return 8 * width, 8 * height  # JPEG works on blocks of 8: so none holds two slices


def _joined(parts: list[NDArray[Any]]) -> NDArray[np.float32]:
    if not parts:
        return np.empty(0, np.float32)
    values: NDArray[np.float32] = np.concatenate([part.astype(np.float32) for part in parts])
    return values[np.isfinite(values)]


@dataclass(frozen=True, slots=True)
class Legend:
    """Classes that occur, in the order of their ids, and which of them a label belongs to.

    Parameters
    ----------
    names, colors : (str, ...)
    labels : (int, ...), ascending
    index : (int, ...)
        Class of each of `labels`.
    count : int
        Classes that occur; more than there are names where the rarest have become one.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    labels: tuple[int, ...]
    index: tuple[int, ...]
    count: int

    @classmethod
    def of(cls, class_map: ClassMap | None, cases: Sequence[CaseFacts], most: int = 24) -> Legend:
        """Make the legend; beyond `most` classes, the rarest become one."""
        counts: dict[int, int] = {}
        for case in cases:
            for view in case.views:
                for label, count in zip(*np.unique(view.labels, return_counts=True), strict=True):
                    counts[int(label)] = counts.get(int(label), 0) + int(count)
        labels = sorted(counts)
        ids = labels if class_map is None else class_map.ids(labels).tolist()
        rows_of = dict.fromkeys(ids, 0)
        for label, class_id in zip(labels, ids, strict=True):
            rows_of[class_id] += counts[label]
        room = most if len(rows_of) <= most else most - 1
        shown = sorted(sorted(rows_of, key=lambda class_id: -rows_of[class_id])[:room])
        names = [f"label_{n}" if class_map is None else class_map[n].name for n in shown]
        colors = [color_of(n) if class_map is None else class_map[n].color for n in shown]
        if len(shown) < len(rows_of):
            names.append(f"{len(rows_of) - len(shown):,} other classes")
            colors.append(_OTHER)
        place = {class_id: rank for rank, class_id in enumerate(shown)}
        index = tuple(place.get(class_id, len(shown)) for class_id in ids)
        return cls(tuple(names), tuple(colors), tuple(labels), index, len(rows_of))

    def classes(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """Place of the class of each label in `names`."""
        place = dict(zip(self.labels, self.index, strict=True))
        values, inverse = np.unique(labels, return_inverse=True)
        return np.array([place[value] for value in values.tolist()], np.int64)[inverse]
