"""Annotations for Labelbox to import: NDJSON payloads of lines and masks on DICOM data.

Format: the NDJSON of Labelbox's import of DICOM annotations, as its SDK 6.1 (the last one that knew DICOM) takes it. A
line is one object with its key frames; a group of masks has one picture in colours for each frame, in which objects
cannot overlap. Boxes go as closed lines of five points, and centers not at all: the tools of the editor are lines and
masks. Whether the hosted product still takes them is not known.

What writes here knows no frames: a `FramePlane`, which the caller makes of the same options that read an export, says
which slice is which frame, and how its pixels lie.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import quote, urlsplit

import numpy as np

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput, check_choice
from voxtract.geometry import VIEWS, Grid, View
from voxtract.write.frame import row_categories
from voxtract.write.labelbox_schema import SCHEMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.model import Findings
    from voxtract.write.annotations import Finished, Masks
    from voxtract.write.files import Content

log = logging.getLogger("voxtract")

MOST_OF_A_NAME = 5000  # lines of one name on a data row, which the SDK checks
NAMESPACE = uuid.UUID("3ad2b7ce-5b19-5f0e-9a0f-6a4f8f0f4c7e")  # of stable uuids; any constant serves
SPREAD = (
    0x9E3779  # odd, so that its multiples modulo 2**24 are all different; about the golden ratio, so they differ much
)

__all__ = [
    "SCHEMA",
    "DataRow",
    "FramePlane",
    "LabelboxImport",
    "LineObject",
    "import_files",
    "line_payload",
    "masks_payload",
    "uuid_maker",
]

_FOLDER = ".voxtract/labelbox"
_LISTED = ("UUID", "CASE", "GROUP", "OBJECT")

Color = tuple[int, int, int]
Uuid = Callable[[str], str]


class FramePlane(Protocol):
    """How the frames and pixels of one group lie in a volume."""

    @property
    def group(self) -> str:
        """The group's name, in lower case."""

    @property
    def grid(self) -> Grid:
        """Of the volume."""

    @property
    def view(self) -> View:
        """The view of the volume whose slices are the frames."""

    def frame_of(self, index: int) -> int:
        """Number of the frame of a slice."""

    def picture(self, data: NDArray[Any], index: int) -> NDArray[Any]:
        """Slice `index` along the view's axis of (x, y, z) voxels, as rows and columns of a picture."""

    def scaled(self, picture: NDArray[Any]) -> NDArray[Any]:
        """A picture in the size that the group shows."""

    def outline(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.float64]:
        """A box of voxels as a closed line, (5, 2) points x, y of the picture."""


@dataclass(frozen=True, slots=True)
class DataRow:
    """A data row of Labelbox, by exactly one of its two names."""

    id: str = ""
    global_key: str = ""

    def __post_init__(self) -> None:
        if bool(self.id) == bool(self.global_key):
            raise InvalidInput(
                f"a data row needs either its id or its global key; found {self.id!r}, {self.global_key!r}"
            )

    def to_json(self) -> dict[str, str]:
        """As payloads name it."""
        return {"id": self.id} if self.id else {"globalKey": self.global_key}


@dataclass(frozen=True, eq=False, slots=True)
class LineObject:
    """One line through frames of a group.

    Parameters
    ----------
    key : str
        Of your own: what its uuid is made of or listed with.
    name : str
        Of the tool in the ontology.
    group : str
        In any case.
    frames : mapping of frame number to (n, 2) points
        x, y as they are drawn; n >= 2. Every one becomes a key frame.
    """

    key: str
    name: str
    group: str
    frames: Mapping[int, NDArray[np.float64]]


def uuid_maker(uuids: Literal["random", "stable"]) -> Uuid:
    """Make uuids of names: random ones, or the same for the same name in every run."""
    check_choice("uuids", uuids, ("random", "stable"))
    return (lambda _: str(uuid.uuid4())) if uuids == "random" else (lambda name: str(uuid.uuid5(NAMESPACE, name)))


def line_payload(row: DataRow, line: LineObject, make: Uuid, *, benchmark: bool = False) -> dict[str, Any]:
    """One line of NDJSON for a line; frames that follow each other make one segment.

    Raises
    ------
    InvalidInput
        An unknown group, no name, no frame, a frame below 0, fewer than two points, or a point that is not finite.

    Examples
    --------
    >>> points = np.array([[1, 2], [3.5, 4]])
    >>> line = LineObject("vessel 1", "vessel", "Axial", {3: points, 4: points + 1})
    >>> payload = line_payload(DataRow(global_key="ct-01"), line, uuid_maker("stable"))
    >>> payload["segments"][0]["keyframes"][0]
    {'frame': 3, 'line': [{'x': 1.0, 'y': 2.0}, {'x': 3.5, 'y': 4.0}], 'classifications': []}
    """
    if not line.frames:
        raise InvalidInput(f"line {line.key!r}: has no frame; leave it out")
    frames = sorted(line.frames)
    segments: list[dict[str, Any]] = []
    for before, frame in zip([None, *frames], frames, strict=False):
        if before is None or frame != before + 1:
            segments.append({"keyframes": []})
        points = _points(line.frames[frame], f"line {line.key!r}, frame {frame}")
        segments[-1]["keyframes"].append({"frame": _frame(frame), "line": points, "classifications": []})
    head = _head(row, line.group, f"line/{line.key}", make, benchmark)
    return {**head, "name": _tool(line.name), "classifications": [], "segments": segments}


def masks_payload(
    row: DataRow,
    group: str,
    frames: Mapping[int, str],
    instances: Sequence[tuple[str, Color]],
    make: Uuid,
    *,
    benchmark: bool = False,
) -> dict[str, Any]:
    """One line of NDJSON for all masks of a group.

    Parameters
    ----------
    row : DataRow
    group : str
    frames : mapping of frame number to address
        Where the picture of each frame lies, for Labelbox to fetch.
    instances : (tool name, colour) of each object
    make : function
        See `uuid_maker`.
    benchmark : bool
        Whether it is a benchmark.

    Raises
    ------
    InvalidInput
        An unknown group, no frame or object, black or one colour twice, an address without http(s) and host.
    """
    if not frames or not instances:
        raise InvalidInput(f"masks of group {group!r}: there is no frame or no object; leave them out")
    colors = [color for _, color in instances]
    if len(set(colors)) < len(colors) or (0, 0, 0) in colors:
        raise InvalidInput(f"masks of group {group!r}: colours {colors} must differ, and black is the background")
    return {
        **_head(row, group, "masks", make, benchmark),
        "masks": {
            "frames": [{"index": _frame(n), "instanceURI": check_url(frames[n])} for n in sorted(frames)],
            "instances": [{"colorRGB": list(color), "name": _tool(name)} for name, color in instances],
        },
    }


def check_url(url: str) -> str:
    """Return an address that Labelbox can fetch.

    Raises
    ------
    InvalidInput
        It has no http(s), no host, or holds spaces.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or " " in url or not url.isprintable():
        raise InvalidInput(
            f"mask address {url!r}: Labelbox fetches masks over http or https; put the PNG files on a server, and give "
            "where as mask_base_url='https://host/folder'"
        )
    return url


def color_of(number: int) -> Color:
    """Colour of object `number`, 1 to 2**24 - 1; no two are alike and none is black.

    Raises
    ------
    InvalidInput
        More objects than there are colours.
    """
    if not 0 < number < 1 << 24:
        raise InvalidInput(
            f"object {number}: a mask has colours for {(1 << 24) - 1:,} objects; split them over imports"
        )
    value = number * SPREAD % (1 << 24)
    return value >> 16, value >> 8 & 255, value & 255


def composite(
    masks: Iterable[tuple[str, NDArray[np.bool_]]], colors: Mapping[str, Color], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], dict[str, int], dict[str, int]]:
    """Put the objects of one frame into one picture. Where they overlap the first one stays.

    Parameters
    ----------
    masks : (key, (height, width) bool array) of each object
        A key may come several times.
    colors : mapping of key to colour
    size : (height, width)

    Returns
    -------
    (height, width, 3) uint8 picture, pixels of each object in it, pixels that each object lost to others
    """
    picture = np.zeros((*size, 3), np.uint8)
    owner = np.zeros(size, np.int64)
    numbers = {key: n for n, key in enumerate(colors, 1)}
    kept: dict[str, int] = {}
    lost: dict[str, int] = {}
    for key, mask in masks:
        free = mask & (owner == 0)
        taken = np.count_nonzero(mask & (owner != 0) & (owner != numbers[key]))
        owner[free] = numbers[key]
        picture[free] = colors[key]
        kept[key] = kept.get(key, 0) + int(np.count_nonzero(free))
        if taken:
            lost[key] = lost.get(key, 0) + int(taken)
    return picture, kept, lost


def encode_picture(picture: NDArray[np.uint8]) -> bytes:
    """Turn a (height, width, 3) picture into a PNG, without loss."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True, eq=False, slots=True)
class LabelboxImport:
    """``labelbox.ndjson`` for the run, with ``labelbox_uuids.csv``, and PNG files of masks; see `AnnotationFormat`.

    Parameters
    ----------
    rows : mapping of case id to DataRow
    plane : function of Findings to a FramePlane
        Of the volume as it was read: what was reoriented, resampled or cropped does not lie on Labelbox's frames.
    kind : {"box", "mask"}
        Boxes as closed lines, or masks.
    class_map : ClassMap, optional
        Its names are those of the tools in the ontology.
    mask_base_url : str, optional
        Where you put the folder ``labelbox_masks`` of the output for Labelbox to fetch; needed for masks.
    join : {"rows", "objects"}
        Whether each box is an object, or all boxes of one label value, one in each slice.
    uuids : {"random", "stable"}
        Stable ones are the same for the same data row, group and object in every run.
    benchmark : bool
        Mark all of it as benchmark.

    Raises
    ------
    InvalidInput
        Another word, or masks without `mask_base_url`.
    """

    rows: Mapping[str, DataRow]
    plane: Callable[[Findings], FramePlane]
    kind: Literal["box", "mask"] = "box"
    class_map: ClassMap | None = None
    mask_base_url: str | None = None
    join: Literal["rows", "objects"] = "rows"
    uuids: Literal["random", "stable"] = "random"
    benchmark: bool = False

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("box", "mask"))
        check_choice("join", self.join, ("rows", "objects"))
        uuid_maker(self.uuids)
        if self.kind == "mask":
            check_url(self.mask_base_url or "")

    def case_files(self, found: Findings, masks: Masks | None) -> Iterator[tuple[str, Content]]:
        """Pictures of one view of one case, and the part that is left for the end of the run.

        Raises
        ------
        InvalidInput
            A case without a data row; components of the volume; findings on another grid or view than the plane;
            ``kind="mask"`` without masks; ``join="objects"`` where a slice has an object twice.
        """
        if not len(found.rows):
            return
        if found.extent != "slice":
            raise InvalidInput(
                f"{found.case_id}: holds components of the volume, but Labelbox takes what lies in slices"
            )
        row = self.rows.get(found.case_id)
        if row is None:
            raise InvalidInput(f"{found.case_id}: no data row is known for this case; name it in rows")
        plane = self._plane(found)
        if self.kind == "box":
            make = uuid_maker(self.uuids)
            lines = list(self._lines(found, plane))
            payloads = [line_payload(row, line, make, benchmark=self.benchmark) for line in lines]
            keys = [line.key for line in lines]
        else:
            if masks is None:
                raise InvalidInput(f"{found.case_id}: masks are needed for kind='mask'; pass masks=True")
            payload, pictures = self._masks(found, plane, row, masks)
            yield from pictures
            payloads, keys = [payload], ["masks"]
        name = f"{_FOLDER}/{found.case_id}_{found.plane.view}"
        listed = [
            (payload["uuid"], found.case_id, plane.group, key) for payload, key in zip(payloads, keys, strict=True)
        ]
        yield f"{name}.csv", _csv(listed)
        yield f"{name}.ndjson", "".join(json.dumps(payload) + "\n" for payload in payloads)

    def run_files(self, run: Finished) -> Iterator[tuple[str, Iterable[bytes]]]:
        """The NDJSON file, and which object each uuid in it is.

        Raises
        ------
        InvalidInput
            More lines of one name on a data row than Labelbox takes.
        """
        parts = [f"{_FOLDER}/{found.case_id}_{found.plane.view}" for found in run.findings() if len(found.rows)]
        yield "labelbox.ndjson", _checked(run.part(f"{part}.ndjson") for part in parts)
        head = _csv([_LISTED]).encode()
        yield "labelbox_uuids.csv", (head, *(run.part(f"{part}.csv") for part in parts))

    def _plane(self, found: Findings) -> FramePlane:
        plane = self.plane(found)
        mismatch = plane.grid.mismatch(found.grid)
        if mismatch or plane.view != found.plane.view:
            raise InvalidInput(
                f"{found.case_id}: its {found.plane.view} slices do not lie on the frames of group {plane.group} "
                f"({mismatch or f'which are {plane.view}'}); extract without reorient, spacing, resize and crop"
            )
        return plane

    def _lines(self, found: Findings, plane: FramePlane) -> Iterator[LineObject]:
        names = [category.name for category in row_categories(found, self.class_map)]
        axis = found.plane.axes[2]
        keys = _keys(found)
        starts, stops = found.rows.start.tolist(), found.rows.stop.tolist()
        lines: dict[str, LineObject] = {}
        for i, key in enumerate(keys):
            index = starts[i][axis]
            whole = key if self.join == "objects" else f"{key}/slice {index}/{i}"
            frame = plane.frame_of(index)
            before = lines.get(whole)
            if before is not None and frame in before.frames:
                raise InvalidInput(
                    f"{found.case_id}: object {key} is there twice in {found.plane.view} slice {index}, but a line is "
                    "one; pass join='rows', or extract with objects='labels'"
                )
            frames = {} if before is None else before.frames
            lines[whole] = LineObject(
                whole, names[i], plane.group, {**frames, frame: plane.outline(starts[i], stops[i])}
            )
        yield from lines.values()

    def _masks(
        self, found: Findings, plane: FramePlane, row: DataRow, masks: Masks
    ) -> tuple[dict[str, Any], list[tuple[str, Content]]]:
        names = [category.name for category in row_categories(found, self.class_map)]
        keys = _keys(found)
        colors = {key: color_of(n) for n, key in enumerate(dict.fromkeys(keys), 1)}
        pictures: list[tuple[str, Content]] = []
        addresses: dict[int, str] = {}
        kept: Counter[str] = Counter()
        lost: Counter[str] = Counter()
        for index, rows in found.by_slice():
            if not len(rows):
                continue
            frame = plane.frame_of(index)
            drawn = [(keys[i], self._picture(found, plane, i, masks)) for i in rows.tolist()]
            picture, here, gone = composite(drawn, colors, drawn[0][1].shape[:2])
            kept.update(here)
            lost.update(gone)
            name = f"{found.case_id}/{plane.group}/{frame}.png"
            addresses[frame] = f"{(self.mask_base_url or '').rstrip('/')}/{quote(name)}"
            pictures.append((f"labelbox_masks/{name}", encode_picture(picture)))
        for key, pixels in lost.items():
            log.warning(
                "%s: object %s loses %d of %d pixels in group %s to objects that it overlaps, since a frame has one "
                "picture",
                found.case_id,
                key,
                pixels,
                pixels + kept[key],
                plane.group,
            )
        of_key = dict(zip(reversed(keys), reversed(names), strict=True))
        instances = [(of_key[key], color) for key, color in colors.items() if kept[key]]
        make = uuid_maker(self.uuids)
        return masks_payload(row, plane.group, addresses, instances, make, benchmark=self.benchmark), pictures

    def _picture(self, found: Findings, plane: FramePlane, i: int, masks: Masks) -> NDArray[np.bool_]:
        row, column, normal = found.plane.axes
        start, stop = found.rows.start[i].tolist(), found.rows.stop[i].tolist()
        image = np.zeros((found.plane.rows, found.plane.columns), bool)
        image[start[row] : stop[row], start[column] : stop[column]] = masks(i)
        return plane.scaled(plane.picture(np.expand_dims(image, normal), 0))


def import_files(
    payloads: Iterable[Mapping[str, Any]], listed: Iterable[tuple[str, str, str, str]]
) -> Iterator[tuple[str, str]]:
    """``labelbox.ndjson`` of payloads, and ``labelbox_uuids.csv``: which (uuid, case, group, object) is which.

    Raises
    ------
    InvalidInput
        More lines of one name on a data row than Labelbox takes.
    """
    yield "labelbox.ndjson", b"".join(_checked(json.dumps(one).encode() + b"\n" for one in payloads)).decode()
    yield "labelbox_uuids.csv", _csv([_LISTED, *listed])


def _keys(found: Findings) -> list[str]:
    """What each row's object is called: as the tool it comes from calls it, else by volume and label value."""
    rows = found.rows
    volumes = [0] * len(rows) if rows.volume is None else rows.volume.tolist()
    known = dict(enumerate(found.objects))
    return [
        known.get(volume, {}).get(label) or (f"{volume}/{label}" if rows.volume is not None else str(label))
        for volume, label in zip(volumes, rows.label.tolist(), strict=True)
    ]


def _head(row: DataRow, group: str, key: str, make: Uuid, benchmark: bool) -> dict[str, Any]:
    name = group.strip().lower()
    check_choice("group", name, VIEWS)
    told = row.to_json()
    head: dict[str, Any] = {"uuid": make(json.dumps([told, name, key])), "dataRow": told, "groupKey": name}
    return {**head, "isBenchmarkReferenceLabel": True} if benchmark else head


def _frame(number: int) -> int:
    if number < 0:
        raise InvalidInput(f"frame {number}: frames count from 0 or 1; check frame_base")
    return int(number)


def _tool(name: str) -> str:
    if not name.strip():
        raise InvalidInput("an object has no name; give it that of its tool in the ontology")
    return name


def _points(points: NDArray[np.float64], where: str) -> list[dict[str, float]]:
    told = np.asarray(points, np.float64).tolist()
    if len(told) < 2 or any(len(point) != 2 or not all(map(math.isfinite, point)) for point in told):
        raise InvalidInput(f"{where}: expected two or more finite points x, y; found {told[:3]}")
    return [{"x": x, "y": y} for x, y in told]


def _csv(rows: Iterable[Sequence[str]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def _checked(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts as they are, counted on the way."""
    counts: Counter[tuple[str, str]] = Counter()
    for part in parts:
        for line in part.splitlines():
            payload = json.loads(line)
            if "name" not in payload:
                continue
            row = json.dumps(payload["dataRow"])
            counts[row, payload["name"]] += 1
            if counts[row, payload["name"]] > MOST_OF_A_NAME:
                raise InvalidInput(
                    f"data row {row}: has more than {MOST_OF_A_NAME} lines called {payload['name']!r}, which Labelbox "
                    "does not take; choose fewer slices, pass join='objects', or kind='mask'"
                )
        yield part
