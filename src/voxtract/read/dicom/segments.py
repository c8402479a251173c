"""DICOM SEG as label volumes: binary segments and label maps, laid on the image they were drawn on where they fit.

Standard: DICOM PS3.3 C.8.20 (segmentation), C.10.7.1.1 (colours).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.classes import ClassMap, color_of
from voxtract.errors import DamagedFile, InvalidInput, UnreadableFile
from voxtract.geometry import Grid, Shape3
from voxtract.model import Header, LabelVolume, Volume
from voxtract.read.dicom.elements import Elements
from voxtract.read.dicom.frames import Frame
from voxtract.read.dicom.geometry import LPS_TO_RAS, STRAIGHT, Stack, alike, along_normal, arrange, placed
from voxtract.read.dicom.headers import FileHeader
from voxtract.read.dicom.pixels import decode

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a file: its number, name, colour (``"#rrggbb"``) and the key by which it is tracked."""

    number: int
    name: str
    color: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """A frame, the plane it belongs to, and the label value it stands for (None: its pixels are label values)."""

    plane: int
    value: int | None
    frame: Frame


@dataclass(frozen=True, slots=True)
class SegmentVolume:
    """Segments of a DICOM SEG as a label volume; see `voxtract.model.VolumeFile`. Planes without a frame are 0.

    Parameters
    ----------
    where : str
        The file.
    layers : (Layer, ...)
    shape : (x, y, z)
    affine : 4 rows of 4 floats
        RAS+ mm.
    """

    where: str
    layers: tuple[Layer, ...]
    shape: Shape3
    affine: Rows

    @property
    def paths(self) -> tuple[str]:
        """The file."""
        return (self.where,)

    @property
    def volume_index(self) -> None:
        """None: a SEG is one volume."""
        return

    def header(self) -> Header:
        """Shape, affine and dtype; no file is opened."""
        stored = [layer.frame.encoding.dtype.itemsize for layer in self.layers if layer.value is None]
        values = [layer.value or 0 for layer in self.layers]
        dtype = np.dtype(np.uint8 if max(values, default=0) < 256 and max(stored, default=1) == 1 else np.uint16)
        return Header(Grid(self.shape, np.array(self.affine)), dtype, where=self.where)

    def read(self) -> Volume:
        """Read all label values.

        Raises
        ------
        NotFound, UnreadableFile
            The file is gone or not handed out.
        DamagedFile
            Pixels that are cut short or do not decode.
        """
        header = self.header()
        (data,) = self.slabs(self.shape[2])
        return Volume(header, data)

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Read the label values slab by slab along z; the next slab may overwrite the one before. Raises as `read`."""
        header = self.header()
        x, y, count = self.shape
        try:
            room = np.empty((x, y, min(planes, count)), header.dtype, order="F")
        except MemoryError as fault:
            raise UnreadableFile(f"{self.where}: its voxels do not fit into memory ({fault})") from fault
        for first in range(0, count, planes):
            slab = room[:, :, : min(planes, count - first)]
            slab[...] = 0
            layers = [layer for layer in self.layers if first <= layer.plane < first + planes]
            for layer, pixels in zip(layers, self._decoded(layers), strict=True):
                target = slab[:, :, layer.plane - first].T
                inside = pixels != 0
                target[inside] = pixels[inside] if layer.value is None else layer.value
            yield slab

    def _decoded(self, layers: Sequence[Layer]) -> Iterable[NDArray[Any]]:
        return decode(self.where, [layer.frame for layer in layers]) if layers else ()


@dataclass(frozen=True, eq=False, slots=True)
class Segmentation:
    """A DICOM SEG: its segments, its frames, and the series that it says it belongs to.

    Parameters
    ----------
    file : FileHeader
    segments : (Segment, ...)
    frames : ((number of the segment or None, Frame), ...)
    series : str
        SeriesInstanceUID of the image; empty where it names none.
    may_overlap : bool
        Whether segments may share voxels.
    """

    file: FileHeader
    segments: tuple[Segment, ...]
    frames: tuple[tuple[int | None, Frame], ...]
    series: str
    may_overlap: bool

    @classmethod
    def of(cls, file: FileHeader) -> Segmentation:
        """Take a SEG apart.

        Raises
        ------
        InvalidInput
            A fractional one, or one whose frames do not say where they lie or what they show.
        """
        top = file.elements
        if top is None:
            raise TypeError(f"{file.path}: no DICOM SEG")
        kind = top.text("SegmentationType")
        if kind not in ("BINARY", "LABELMAP"):
            raise InvalidInput(
                f"{file.path}: is a DICOM SEG of the type {kind!r}, but labels are BINARY or LABELMAP; "
                "export the segments as binary ones"
            )
        if any(frame.place is None for frame in file.frames):
            raise InvalidInput(f"{file.path}: is a DICOM SEG whose frames do not say where they lie; export it again")
        every = map(_segment, top.items("SegmentSequence"))
        segments = tuple(segment for segment in every if segment.number)  # label maps describe their background as 0
        numbers = _numbers(top, len(file.frames)) if kind == "BINARY" else [None] * len(file.frames)
        known = {segment.number for segment in segments}
        if not segments or any(number is not None and number not in known for number in numbers):
            raise DamagedFile(
                f"{file.path}: is a DICOM SEG of the segments {sorted(known)}, but its frames speak of "
                f"{sorted({n for n in numbers if n is not None})}; export it again"
            )
        referenced = top.item("ReferencedSeriesSequence")
        series = referenced.text("SeriesInstanceUID") if referenced else ""
        overlap = kind == "BINARY" and len(segments) > 1 and top.text("SegmentsOverlap") != "NO"
        return cls(file, segments, tuple(zip(numbers, file.frames, strict=True)), series, overlap)

    def labels(self, image: Stack | None, categories: Mapping[str, int]) -> tuple[LabelVolume, ...]:
        """Label volumes: one, or one of each segment where segments may share voxels.

        Parameters
        ----------
        image : Stack, optional
            Slices of the image. Where all frames lie on them, so do the label volumes; else they have a grid of their
            own, from the first to the last frame.
        categories : mapping of segment name to category

        Raises
        ------
        InvalidInput
            Frames that lie on no grid.
        """
        frames = [frame for _, frame in self.frames]
        planes = None if image is None else _planes_of(frames, image)
        if image is not None and planes is not None:
            count, affine = len(image.frames), image.affine
        else:
            planes, count, affine = _own_grid(self.file)
        encoding = frames[0].encoding
        shape = encoding.columns, encoding.rows, count
        rows = tuple(map(tuple, affine.tolist()))
        layers = [Layer(plane, number, frame) for plane, (number, frame) in zip(planes, self.frames, strict=True)]
        parts = [(segment,) for segment in self.segments] if self.may_overlap else [self.segments]
        found = []
        names: set[str] = set()
        for part in parts:
            mine = {segment.number for segment in part}
            volume = SegmentVolume(
                self.file.path, tuple(one for one in layers if one.value is None or one.value in mine), shape, rows
            )
            name = part[0].name if self.may_overlap else ""
            name = f"{name} {part[0].number}" if name in names else name
            names.add(name)
            category = {segment.number: categories[segment.name] for segment in part}
            keys = {segment.number: segment.key for segment in part if segment.key}
            found.append(LabelVolume(volume, name, category, keys))
        return tuple(found)


def categories_of(segmentations: Sequence[Segmentation]) -> tuple[dict[str, int], ClassMap | None]:
    """Number the names of all segments: by their own numbers where no two files disagree, else in order of appearance.

    Returns
    -------
    category of each name, and the classes (None without segments)
    """
    segments = [segment for one in segmentations for segment in one.segments]
    pairs = {(segment.name, segment.number) for segment in segments}
    names = dict.fromkeys(segment.name for segment in segments)
    if len(pairs) == len(names) == len({number for _, number in pairs}):
        numbers = dict(pairs)
    else:
        numbers = {name: number for number, name in enumerate(names, 1)}
    colors = {segment.name: segment.color for segment in reversed(segments)}
    told = {
        number: {"name": name, "color": colors[name] or color_of(number)} for name, number in sorted(numbers.items())
    }
    return numbers, ClassMap.of(told) if told else None


def _segment(item: Elements) -> Segment:
    number = item.count("SegmentNumber")
    if number is None:
        raise DamagedFile(f"{item.where}: is a DICOM SEG with a segment without a number; export it again")
    name = " ".join(str(item.dataset.get("SegmentLabel", "") or "").split()) or f"segment {number}"
    lab = item.numbers("RecommendedDisplayCIELabValue", "u2")
    key = item.text("TrackingUID") or item.text("TrackingID")
    return Segment(number, name, _rgb(lab) if len(lab) == 3 else "", key)


def _numbers(top: Elements, count: int) -> list[int | None]:
    """Number of the segment that each frame shows; from its own functional groups, else from the shared ones."""
    shared = top.item("SharedFunctionalGroupsSequence")
    each: Sequence[Elements | None] = list(top.items("PerFrameFunctionalGroupsSequence"))[:count]
    numbers: list[int | None] = []
    for groups in each or [shared] * count:
        item = (groups and groups.item("SegmentIdentificationSequence")) or (
            shared and shared.item("SegmentIdentificationSequence")
        )
        number = item.count("ReferencedSegmentNumber") if item else None
        if number is None:
            raise DamagedFile(f"{top.where}: is a DICOM SEG with a frame of no segment; export it again")
        numbers.append(number)
    return numbers


def _planes_of(frames: Sequence[Frame], image: Stack) -> list[int] | None:
    """Slice of the image on which each frame lies; None where one lies on none."""
    first = image.frames[0]
    if first.place is None or not all(alike(first, frame) for frame in frames):
        return None
    positions = np.array([placed(frame).position for frame in frames])
    world = np.concatenate([positions, np.ones((len(frames), 1))], axis=1) @ LPS_TO_RAS
    voxels = (world @ np.linalg.inv(image.affine).T)[:, :3]
    planes = np.rint(voxels[:, 2])
    off = np.abs(voxels - np.stack([np.zeros(len(frames)), np.zeros(len(frames)), planes], axis=1))
    if off.max() > STRAIGHT or planes.min() < 0 or planes.max() >= len(image.frames):
        return None
    return [int(plane) for plane in planes]


def _own_grid(file: FileHeader) -> tuple[list[int], int, NDArray[np.float64]]:
    """Planes of the frames, their number and the affine, of a SEG without its image; empty planes may be missing."""
    frames = file.frames
    position = along_normal(frames)
    order = np.argsort(position, kind="stable")
    gaps = np.diff(position[order])
    gaps = gaps[gaps > STRAIGHT * min(placed(frames[0]).spacing)]
    ends = [frames[int(order[0])], frames[int(order[-1])]]
    if not len(gaps):
        return [0] * len(frames), 1, arrange(ends[:1], None, file.path).affine
    step = float(gaps.min())
    planes = np.rint((position - position.min()) / step)
    count = int(planes.max()) + 1
    affine = arrange(ends, None, file.path).affine.copy()
    affine[:3, 2] /= count - 1
    stack = Stack(frames=(ends[0], *[ends[0]] * (count - 1)), affine=affine)
    if count > 1 << 16 or _planes_of(frames, stack) is None:
        raise InvalidInput(
            f"{file.path}: is a DICOM SEG whose frames lie on no even grid (smallest step {step:.6g} mm); "
            "give the image it was drawn on too"
        )
    return [int(plane) for plane in planes], count, affine


def _rgb(lab: tuple[int, ...]) -> str:
    """Colour of three 16-bit numbers of CIE L*a*b* (PS3.3 C.10.7.1.1) as sRGB.

    The standard means the white point D50; the tools that write segmentations take D65, and so does this.
    """
    lightness, a, b = lab[0] / 65535 * 100, lab[1] / 65535 * 255 - 128, lab[2] / 65535 * 255 - 128
    y = (lightness + 16) / 116
    ratios = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29)) * (0.95047, 1.0, 1.08883)
    to_srgb = [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]  # IEC 61966-2-1
    linear = np.clip(np.array(to_srgb) @ xyz, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{int(value):02x}" for value in np.rint(srgb * 255))
