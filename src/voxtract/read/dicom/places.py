"""What a header says of each frame: where it lies, what its numbers mean, what tells it from others at its place.

Standard: DICOM PS3.3 (image plane C.7.6.2, functional groups C.7.6.16, modality LUT C.11.1, RT dose C.8.8.3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.read.dicom.elements import Elements
from voxtract.read.dicom.frames import Frame, Mark, Place, Table

# Attributes by which several volumes at one place may differ, where each frame is a file ...
_DECIMAL_MARKS = (
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "EchoNumbers",
    "EchoTime",
    "InversionTime",
    "TriggerTime",
    "FlipAngle",
    "FrameReferenceTime",
)
_DOUBLE_MARKS = ("DiffusionBValue", "DiffusionGradientOrientation", "TemporalPositionTimeOffset")
_TEXT_MARKS = ("ImageType", "ComplexImageComponent", "AcquisitionDateTime", "AcquisitionTime", "ContentTime")
MARKS = (*_DECIMAL_MARKS, *_DOUBLE_MARKS, *_TEXT_MARKS)
# ... and in the functional groups of a multi-frame file: sequences on the way, attribute, how it is stored.
_GROUP_MARKS = (
    (("FrameContentSequence",), "TemporalPositionIndex", "u4"),
    (("FrameContentSequence",), "FrameAcquisitionNumber", "u2"),
    (("TemporalPositionSequence",), "TemporalPositionTimeOffset", "f8"),
    (("MREchoSequence",), "EffectiveEchoTime", "f8"),
    (("MRDiffusionSequence",), "DiffusionBValue", "f8"),
    (("MRDiffusionSequence", "DiffusionGradientDirectionSequence"), "DiffusionGradientOrientation", "f8"),
    (("CardiacSynchronizationSequence",), "NominalCardiacTriggerDelayTime", "f8"),
    (("MRImageFrameTypeSequence",), "FrameType", "text"),
    (("MRImageFrameTypeSequence",), "ComplexImageComponent", "text"),
    (("CTImageFrameTypeSequence",), "FrameType", "text"),
)


def frames_of(elements: Elements, first: Frame, count: int) -> list[Frame]:
    """Describe all frames of a file.

    Parameters
    ----------
    elements : Elements
        Of the file.
    first : Frame
        Where its pixels begin and how they are stored.
    count : int
        Frames in the file.

    Raises
    ------
    DamagedFile, InvalidInput
        Some are not described, or not so that it can be.
    """
    shared = elements.item("SharedFunctionalGroupsSequence")
    each = list(elements.items("PerFrameFunctionalGroupsSequence"))
    if shared is None and not each:
        frames = _plain_frames(elements, first, count)
    elif 0 < len(each) < count:
        raise DamagedFile(
            f"{elements.where}: describes {len(each)} frames, but NumberOfFrames is {count}; export the file again"
        )
    else:
        names = _dimensions(elements)
        groups = [_Groups(elements, one, shared) for one in each[:count]] or [_Groups(elements, None, shared)] * count
        frames = [_group_frame(first, one, names) for one in groups]
    step = first.encoding.nbytes if first.encoding.storage == "plain" else 0
    return [replace(frame, number=n, offset=first.offset + n * step) for n, frame in enumerate(frames)]


def _plain_frames(elements: Elements, first: Frame, count: int) -> list[Frame]:
    """Frames of a file that describes all of them at once."""
    slope, intercept = _rescale(elements)
    if (dose := elements.decimal("DoseGridScaling")) is not None:
        slope, intercept = dose, 0.0
    one = replace(
        first,
        place=_place(elements, elements, elements),
        slope=_usable(slope, elements.where),
        intercept=intercept,
        table=_table(elements),
        marks=_marks(elements),
    )
    if count == 1:
        return [one]
    offsets = elements.decimals("GridFrameOffsetVector")
    if not offsets or one.place is None:  # one position says nothing of the others
        return [replace(one, place=None)] * count
    if len(offsets) != count:
        raise DamagedFile(
            f"{elements.where}: GridFrameOffsetVector has {len(offsets)} numbers for {count} frames; export it again"
        )
    return [replace(one, place=place) for place in _along_grid(one.place, offsets)]


def _along_grid(place: Place, offsets: tuple[float, ...]) -> list[Place]:
    """Places of the frames of an RT dose (PS3.3 C.8.8.3.2): relative to the first, or as z of the patient."""
    normal = np.cross(place.orientation[:3], place.orientation[3:])
    origin = 0.0
    if offsets[0] != 0:  # then they are z themselves, allowed for axial planes only
        origin = place.position[2]
        normal = np.array([0.0, 0.0, 1.0])
    places = []
    for offset in offsets:
        x, y, z = (np.array(place.position) + (offset - origin) * normal).tolist()
        places.append(replace(place, position=(x, y, z)))
    return places


@dataclass(frozen=True, slots=True)
class _Groups:
    """Functional groups of a frame: its own ones, else those shared by all."""

    top: Elements
    own: Elements | None
    shared: Elements | None

    def item(self, *sequences: str) -> Elements | None:
        for groups in (self.own, self.shared):
            item = groups
            for sequence in sequences:
                item = None if item is None else item.item(sequence)
            if item is not None:
                return item
        return None


def _group_frame(first: Frame, groups: _Groups, dimensions: tuple[str, ...]) -> Frame:
    measures = groups.item("PixelMeasuresSequence")
    where = first.path
    place = _place(groups.item("PlanePositionSequence"), groups.item("PlaneOrientationSequence"), measures)
    values = groups.item("PixelValueTransformationSequence")
    slope, intercept = _rescale(values or groups.top)
    return replace(
        first,
        place=place,
        thickness=measures.decimal("SliceThickness") if measures else first.thickness,
        slope=_usable(slope, where),
        intercept=intercept,
        table=_table(groups.top),
        marks=_group_marks(groups, dimensions),
    )


def _place(position: Elements | None, orientation: Elements | None, measures: Elements | None) -> Place | None:
    """Where a frame lies; None where nothing says so.

    Raises
    ------
    InvalidInput
        Numbers that cannot be: not as many as there should be, directions that are no right angle, no spacing.
    """
    if position is None or orientation is None:
        return None
    at, along = position.decimals("ImagePositionPatient"), orientation.decimals("ImageOrientationPatient")
    if not at or not along:
        return None
    spacing = () if measures is None else measures.decimals("PixelSpacing")
    if len(at) != 3 or len(along) != 6 or len(spacing) != 2 or min(spacing) <= 0:
        raise InvalidInput(
            f"{position.where}: its place cannot be worked with: ImagePositionPatient {list(at)}, "
            f"ImageOrientationPatient {list(along)}, PixelSpacing {list(spacing)}; expected 3, 6 and 2 numbers, "
            "the spacing above 0"
        )
    row, column = np.array(along[:3]), np.array(along[3:])
    lengths = np.sqrt(row @ row), np.sqrt(column @ column)
    if max(abs(n - 1) for n in lengths) > 1e-2 or abs(row @ column) > 1e-2:  # written with two decimals, some are
        raise InvalidInput(
            f"{position.where}: ImageOrientationPatient {list(along)} is no pair of unit vectors at a right angle; "
            "export the file again"
        )
    directions = (*(row / lengths[0]).tolist(), *(column / lengths[1]).tolist())
    return Place((at[0], at[1], at[2]), directions, (spacing[0], spacing[1]))


def _rescale(elements: Elements) -> tuple[float, float]:
    slope, intercept = elements.decimal("RescaleSlope"), elements.decimal("RescaleIntercept")
    return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept


def _usable(slope: float, where: str) -> float:
    if slope == 0:
        raise InvalidInput(f"{where}: its slope is 0, which makes all values one; export the file again")
    return slope


def _table(elements: Elements) -> Table | None:
    """The modality LUT; see PS3.3 C.11.1.1.1."""
    item = elements.item("ModalityLUTSequence")
    if item is None:
        return None
    count, first, bits = (*item.numbers("LUTDescriptor", "u2"), 0, 0, 0)[:3]
    if elements.count("PixelRepresentation"):
        first = (*item.numbers("LUTDescriptor", "i2"), 0, 0)[1]
    count = count or 1 << 16
    values = item.numbers("LUTData", "u2")
    if len(values) * 2 in (count, count + 1) and bits == 8:  # two entries of 8 bits to a word
        values = tuple(byte for word in values for byte in (word & 0xFF, word >> 8))[:count]
    if len(values) != count or bits not in range(8, 17):
        raise InvalidInput(
            f"{elements.where}: its modality LUT has {len(values)} entries of {bits} bits, "
            f"its descriptor says {count}; "
            "export the file again"
        )
    return Table(first, values)


# --- what tells frames at one place apart


def _marks(elements: Elements) -> tuple[Mark, ...]:
    found: list[Mark] = []
    for keyword in _DECIMAL_MARKS:
        found.append((keyword, _numbers(elements.words(keyword))))
    found += [(keyword, elements.numbers(keyword, "f8")) for keyword in _DOUBLE_MARKS]
    found += [(keyword, elements.words(keyword)) for keyword in _TEXT_MARKS]
    return tuple(mark for mark in found if mark[1])


def _numbers(words: tuple[str, ...]) -> tuple[Any, ...]:
    """Numbers, so that 9 comes before 10; a word that is none makes the attribute useless, not the file."""
    try:
        return tuple(map(float, words))
    except ValueError:
        return ()


def _group_marks(groups: _Groups, dimensions: tuple[str, ...]) -> tuple[Mark, ...]:
    found: dict[str, tuple[Any, ...]] = {}
    content = groups.item("FrameContentSequence")
    if content is not None:
        indices = _binary(content, "DimensionIndexValues", "u4")
        if len(indices) == len(dimensions):
            found |= {name: (index,) for name, index in zip(dimensions, indices, strict=True)}
    for way, keyword, kind in _GROUP_MARKS:
        item = groups.item(*way)
        if item is not None and (values := _binary(item, keyword, kind)):
            found[keyword] = values
    return tuple(found.items())


def _binary(item: Elements, keyword: str, kind: str) -> tuple[Any, ...]:
    return item.words(keyword) if kind == "text" else item.numbers(keyword, kind)


def _dimensions(elements: Elements) -> tuple[str, ...]:
    """Names of the dimensions along which a multi-frame file counts its frames."""
    from pydicom.datadict import keyword_for_tag

    names: list[str] = []
    for number, item in enumerate(elements.items("DimensionIndexSequence"), 1):
        group, element = (*item.numbers("DimensionIndexPointer", "u2"), 0, 0)[:2]
        name = f"index of {keyword_for_tag(group << 16 | element) or f'dimension {number}'}"
        names.append(f"{name} ({number})" if name in names else name)
    return tuple(names)
