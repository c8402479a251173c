"""DICOM files that the tests write with pydicom: series, multi-frame files, and what goes wrong with them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pydicom: Any = pytest.importorskip("pydicom", reason="DICOM needs the extra dicom")

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
SERIES, REFERENCE, STUDY = "1.2.826.0.1.1", "1.2.826.0.1.2", "1.2.826.0.1.3"
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])

OBLIQUE = np.array([[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]])  # a rotation whose numbers are exact decimals
SPACING = (0.5, 0.75, 2.0)  # x, y, z


def affine_of(
    rotation: NDArray[Any] | None = None, spacing: Iterable[float] = SPACING, origin: Iterable[float] = (-10, 20.5, 3)
) -> NDArray[np.float64]:
    """RAS+ affine; `rotation` is in DICOM's LPS, so that (x, y, z) is right-handed there."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) * list(spacing)
    affine[:3, 3] = list(origin)
    return FLIP @ affine


def voxels(shape: tuple[int, ...] = (5, 7, 6), dtype: str = "i2", seed: int = 3) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    low, high = (np.iinfo(kind.type).min, np.iinfo(kind.type).max) if kind.kind != "f" else (-1000, 1000)
    return np.asfortranarray(random.integers(low, high, shape, endpoint=True).astype(kind))


def number(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return pydicom.valuerep.format_number_as_ds(float(value))  # type: ignore[no-any-return]


def numbers(values: Iterable[float]) -> list[str]:
    return [number(value) for value in values]


def dataset(pixels: NDArray[Any], kind: str = CT, instance: int = 1, **changes: Any) -> Any:
    """A data set of one or more frames (rows, columns) or (frames, rows, columns); `changes` are set last."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = EXPLICIT
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = kind
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.9.{instance}"
    data.PatientID, data.PatientName, data.StudyID, data.AccessionNumber = "1", "A^B", "1", ""
    data.PatientBirthDate = data.PatientSex = data.StudyDate = data.StudyTime = data.ReferringPhysicianName = ""
    data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID, data.SeriesNumber = "CT", SERIES, STUDY, 4
    data.FrameOfReferenceUID, data.InstanceNumber, data.ImageType = (
        REFERENCE,
        instance,
        ["ORIGINAL", "PRIMARY", "AXIAL"],
    )
    data.Rows, data.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    data["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for name, value in changes.items():
        setattr(data, name, value)
    return data


def placed(data: Any, affine: NDArray[np.float64], z: float = 0) -> Any:
    """Say where a slice lies: plane `z` of a volume with this RAS+ affine."""
    lps = FLIP @ affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    data.PixelSpacing = numbers([spacing[1], spacing[0]])
    data.ImageOrientationPatient = numbers([*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])])
    data.ImagePositionPatient = numbers((lps @ [0, 0, z, 1])[:3])
    return data


def save(data: Any, path: Path, syntax: str = EXPLICIT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.file_meta.TransferSyntaxUID = syntax
    if syntax == BIG:  # single bytes lie in words of two
        words = np.frombuffer(data.PixelData, f"<u{max(data.BitsAllocated // 8, 2)}")
        data.PixelData = words.byteswap().tobytes()
        data["PixelData"].VR = "OW"
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    stored: NDArray[Any],
    affine: NDArray[np.float64] | None = None,
    order: Iterable[int] | None = None,
    syntax: str = EXPLICIT,
    start: int = 1,
    **changes: Any,
) -> Path:
    """Write voxels (x, y, z) as one file per slice.

    `order` gives the slice of each file, by name; by default the last comes first, as the scanners like it. A change
    that is a list of as many values as slices is set slice by slice.
    """
    affine = affine_of() if affine is None else affine
    count = stored.shape[2]
    for position, z in enumerate(reversed(range(count)) if order is None else order):
        each = {
            name: value[z] if isinstance(value, list) and len(value) == count else value
            for name, value in changes.items()
        }
        data = placed(dataset(stored[:, :, z].T, instance=start + position), affine, z)
        for name, value in each.items():
            setattr(data, name, value)
        save(data, folder / f"IM{start + position:04d}.dcm", syntax)
    return folder


def item(**values: Any) -> Any:
    data = pydicom.Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return data


def enhanced(
    stored: NDArray[Any],
    affine: NDArray[np.float64] | None = None,
    order: Iterable[int] | None = None,
    shared: bool = True,
    kind: str = ENHANCED_MR,
    **changes: Any,
) -> Any:
    """A multi-frame data set of voxels (x, y, z), its frames in the `order` of slices.

    With `shared`, orientation and spacing are said once, else for each frame.
    """
    affine = affine_of() if affine is None else affine
    order = list(range(stored.shape[2])) if order is None else list(order)
    data = dataset(np.ascontiguousarray(stored.T[order]), kind, **changes)
    lps = FLIP @ affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    measures = item(PixelSpacing=numbers([spacing[1], spacing[0]]), SliceThickness=number(spacing[2]))
    along = item(ImageOrientationPatient=numbers([*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])]))
    same = {"PixelMeasuresSequence": [measures], "PlaneOrientationSequence": [along]}
    data.SharedFunctionalGroupsSequence = [item(**(same if shared else {}))]
    data.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=numbers((lps @ [0, 0, z, 1])[:3]))],
            FrameContentSequence=[item(InStackPositionNumber=z + 1, StackID="1", DimensionIndexValues=[1, z + 1])],
            **({} if shared else same),
        )
        for z in order
    ]
    data.DimensionIndexSequence = [
        item(
            DimensionIndexPointer=pydicom.tag.Tag("StackID"),
            FunctionalGroupPointer=pydicom.tag.Tag("FrameContentSequence"),
        ),
        item(
            DimensionIndexPointer=pydicom.tag.Tag("InStackPositionNumber"),
            FunctionalGroupPointer=pydicom.tag.Tag("FrameContentSequence"),
        ),
    ]
    return data
