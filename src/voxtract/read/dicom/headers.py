"""What the header of a DICOM file says: where its pixels are, how they are stored, and where each frame lies.

Standard: DICOM PS3.3 (image plane C.7.6.2, image pixel C.7.6.3, modality LUT C.11.1, functional groups C.7.6.16,
RT dose C.8.8.3) and PS3.5 (encoding). Only the header is read.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.read.dicom.elements import Elements, tag_of
from voxtract.read.dicom.files import HEAD, MARK, opened, parsing
from voxtract.read.dicom.frames import Encoding, Frame, Storage
from voxtract.read.dicom.places import MARKS, frames_of

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset
    from pydicom.tag import BaseTag

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # Segmentation, Label Map Segmentation
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
DIRECTORY = "1.2.840.10008.1.3.10"
DEFLATED = "1.2.840.10008.1.2.1.99"
LOCALIZERS = ("LOCALIZER", "SCOUT")

_KEYWORDS = (
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "Modality",
    "FrameOfReferenceUID",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceThickness",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "GridFrameOffsetVector",
    "DoseGridScaling",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "SegmentSequence",
    "SegmentationType",
    "SegmentsOverlap",
    "ReferencedSeriesSequence",
    *MARKS,
)


@dataclass(frozen=True, eq=False, slots=True)
class FileHeader:
    """A file with pixels, and what it says of its series; `elements` are kept of a DICOM SEG only."""

    path: str
    series: str
    number: int | None
    modality: str
    reference: str
    frames: tuple[Frame, ...]
    elements: Elements | None = None
    remarks: tuple[str, ...] = ()

    @property
    def is_segmentation(self) -> bool:
        """Whether it is a DICOM SEG."""
        return self.elements is not None


class Refusal(Exception):
    """Why a file gives no frames, and the series it belongs to, where that could be told."""

    def __init__(self, reason: str, series: str = ""):
        super().__init__(reason)
        self.series = series


def read_header(path: str, *, force: bool = False) -> FileHeader:
    """Read the header of a DICOM file; its pixels are not touched.

    Parameters
    ----------
    path : str
    force : bool
        Take it as DICOM though the mark ``DICM`` is missing.

    Raises
    ------
    Refusal
        It is whole, but no image of one number per pixel: a plan, a report, a localizer, colours, no DICOM at all.
    NotFound, UnreadableFile
        It cannot be opened.
    DamagedFile, InvalidInput
        It cannot be taken apart, or breaks the rules of the standard.
    """
    with opened(path) as file:
        if not force and file.read(HEAD)[-len(MARK) :] != MARK:
            raise Refusal("is no DICOM file: the mark DICM is missing (force=True reads one without a file header)")
        file.seek(0)
        with parsing(path):
            return _read(file, path, force)


def _read(file: BinaryIO, path: str, force: bool) -> FileHeader:
    import pydicom

    data = pydicom.dcmread(file, stop_before_pixels=True, force=force, specific_tags=_tags())
    elements = Elements(data, path)
    series = elements.text("SeriesInstanceUID")
    try:
        return _header(data, elements, series, _pixels(file, data))
    except InvalidInput as fault:  # of what a file is said, its series should hear
        raise Refusal(str(fault).removeprefix(f"{path}: "), series) from fault


@cache
def _tags() -> list[BaseTag | int]:
    return list(map(tag_of, _KEYWORDS))


def _header(data: FileDataset, elements: Elements, series: str, pixels: _Pixels) -> FileHeader:
    _refuse_others(data, elements, pixels, series)
    encoding = _encoding(data, elements, pixels)
    count = elements.whole("NumberOfFrames") or 1
    size = os.stat(elements.where).st_size  # noqa: PTH116 - a str
    if not 1 <= count <= max(size, 1):
        raise DamagedFile(
            f"{elements.where}: NumberOfFrames is {count}, but the file has {size} bytes; export it again"
        )
    first = Frame(
        elements.where,
        0,
        pixels.offset,
        replace(encoding, count=count),
        None,
        elements.decimal("SliceThickness"),
        _instance(elements),
    )
    return FileHeader(
        elements.where,
        series,
        elements.whole("SeriesNumber"),
        elements.text("Modality"),
        elements.text("FrameOfReferenceUID"),
        tuple(frames_of(elements, first, count)),
        elements if elements.text("SOPClassUID") in SEGMENTATIONS else None,
        _remarks(elements, count),
    )


def _instance(elements: Elements) -> int | None:
    """The instance number; None where it is none, which hinders nobody who sorts by position."""
    word = next(iter(elements.words("InstanceNumber")), "")
    return int(word) if re.fullmatch(r"[+-]?[0-9]{1,12}", word) else None


def _remarks(elements: Elements, count: int) -> tuple[str, ...]:
    described = sum(1 for _ in elements.items("PerFrameFunctionalGroupsSequence"))
    if described <= count:
        return ()
    return (f"describes {described} frames, but NumberOfFrames is {count}: the first descriptions are used",)


def _refuse_others(data: FileDataset, elements: Elements, pixels: _Pixels, series: str) -> None:
    """Raise `Refusal` for what is DICOM, but no image of one number per pixel."""
    kind = elements.text("SOPClassUID")
    if kind == STRUCTURES:
        raise Refusal("is an RTSTRUCT (contours), which is not read; export it as DICOM SEG or NIfTI", series)
    if not pixels.keyword:
        if data.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY:
            raise Refusal("is a DICOMDIR, an index of other files, which is not needed")
        if not kind:
            raise Refusal("holds no pixels and does not say what it is: no DICOM, or damaged", series)
        raise Refusal(f"holds no pixels ({_kind_name(kind)})", series)
    if any(word.upper() in LOCALIZERS for word in elements.words("ImageType")):
        raise Refusal("is a localizer (ImageType), no part of a volume", series)
    samples, colours = elements.count("SamplesPerPixel") or 1, elements.text("PhotometricInterpretation")
    painted = "PALETTE COLOR" if kind in SEGMENTATIONS else ""  # label maps may bring the colours to show them in
    if samples != 1 or colours not in ("", "MONOCHROME1", "MONOCHROME2", painted):
        raise Refusal(
            f"is a colour image ({colours}, {samples} samples per pixel), but a volume has one number", series
        )


def _kind_name(kind: str) -> str:
    from pydicom.uid import UID

    return UID(kind).name


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Keyword of the element with the pixels, empty where there is none, where its value begins, and its form."""

    keyword: str
    offset: int
    vr: str = ""
    is_compressed: bool = False


def _pixels(file: BinaryIO, data: FileDataset) -> _Pixels:
    """Look at the element before which pydicom has stopped."""
    if _syntax(data) == DEFLATED:  # pydicom has inflated the whole of it, elsewhere
        return _Pixels("PixelData", 0)
    start = file.tell()
    head = file.read(12)
    order: Literal["little", "big"] = "little" if data.original_encoding[1] else "big"
    tag = int.from_bytes(head[0:2], order) << 16 | int.from_bytes(head[2:4], order)
    keyword = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}.get(tag, "")
    explicit = head[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN")  # with a length of four bytes, after two that are empty
    length = head[8:12] if explicit else head[4:8]
    vr = head[4:6].decode() if explicit else "OW"
    return _Pixels(keyword, start + (12 if explicit else 8), vr, length == b"\xff\xff\xff\xff")


def _syntax(data: FileDataset) -> str:
    return str(data.file_meta.get("TransferSyntaxUID", "") or "")


def _encoding(data: FileDataset, elements: Elements, pixels: _Pixels) -> Encoding:
    rows, columns = elements.count("Rows"), elements.count("Columns")
    if not rows or not columns:
        raise InvalidInput(f"{elements.where}: has {rows} rows and {columns} columns of pixels; export the file again")
    order = "<" if data.original_encoding[1] else ">"
    if pixels.keyword != "PixelData":
        bits = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}[pixels.keyword]
        return Encoding(rows, columns, np.dtype(f"{order}f{bits // 8}"), bits, bits - 1, _syntax(data), "plain")
    allocated = elements.count("BitsAllocated")
    stored = elements.count("BitsStored") or allocated
    high, signed = elements.count("HighBit"), elements.count("PixelRepresentation")
    high = (stored or 1) - 1 if high is None else high
    if allocated not in (1, 8, 16, 32) or stored is None or not stored - 1 <= high < allocated or signed not in (0, 1):
        raise InvalidInput(
            f"{elements.where}: its pixels cannot be worked with: BitsAllocated {allocated}, BitsStored {stored}, "
            f"HighBit {high}, PixelRepresentation {signed}; expected 1, 8, 16 or 32 bits and 0 or 1"
        )
    dtype = np.dtype(f"{order}{'i' if signed else 'u'}{max(allocated // 8, 1)}")
    storage: Storage = "bits" if allocated == 1 else "plain"
    if pixels.is_compressed:
        storage = "compressed"
    elif _syntax(data) == DEFLATED or (order == ">" and allocated <= 8 and pixels.vr == "OW"):
        storage = "whole"  # in big-endian words, the bytes are swapped
    return Encoding(rows, columns, dtype, stored, high, _syntax(data), storage)
