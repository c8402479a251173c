"""DICOM SEG as labels: written and read back by highdicom, paired with the series they refer to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.read.dicom.series import FLIP, OBLIQUE, affine_of, item, placed, pydicom, voxels, write_series
from voxtract.errors import DamagedFile, InvalidInput
from voxtract.model import Case
from voxtract.read.dicom import open_dicom
from voxtract.read.dicom.segments import _rgb

hd: Any = pytest.importorskip("highdicom", reason="writes the segmentations")

SHAPE = (5, 7, 6)
LABELS = ("liver", "tumour", "vessel")


def masks(*, overlap: bool, seed: int = 0) -> NDArray[np.bool_]:
    """(x, y, z, segment); no mask in the first plane, only the second segment in the last."""
    found = np.random.default_rng(seed).random((*SHAPE, 3)) < 0.4
    if not overlap:
        found[..., 1] &= ~found[..., 0]
        found[..., 2] &= ~found[..., 0] & ~found[..., 1]
    found[:, :, 0] = False
    found[:, :, -1, [0, 2]] = False
    found[0, 0, -1] = False, True, False
    return found


def describe(names: tuple[str, ...] = LABELS, **words: Any) -> list[Any]:
    code = hd.sr.CodedConcept("123037004", "SCT", "Anatomical Structure")
    return [
        hd.seg.SegmentDescription(
            number,
            name,
            code,
            code,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
            tracking_id=f"track {number}",
            tracking_uid=f"1.2.3.{number}",
            display_color=hd.color.CIELabColor.from_rgb(200, 40 * number, 20),
            **words,
        )
        for number, name in enumerate(names, 1)
    ]


def write_seg(
    path: Path, series: Path, pixels: NDArray[Any], kind: str = "BINARY", names: tuple[str, ...] = LABELS, **words: Any
) -> Path:
    """Write a SEG of `pixels` (x, y, z[, segment]) on all slices of a series."""
    sources = sorted(
        (pydicom.dcmread(file) for file in series.glob("IM*")), key=lambda data: float(data.InstanceNumber)
    )
    z = [len(sources) - int(data.InstanceNumber) for data in sources]  # the last slice is the first file
    frames = np.moveaxis(pixels, 2, 0)[z].swapaxes(1, 2)
    uid = f"1.2.826.0.1.8.{abs(hash(path.name)) % 10**9}"
    data = hd.seg.Segmentation(
        sources, np.ascontiguousarray(frames), kind, describe(names), uid, 9, f"{uid}.1", 1, "A", "B", "1", "1", **words
    )
    data.save_as(path)
    return path


def labels_of(case: Case) -> list[tuple[str, NDArray[Any], Any]]:
    return [(one.name, one.file.read().data, one.category) for one in case.labels]


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(tmp_path / "data" / "ct", voxels(SHAPE), affine_of(OBLIQUE), SliceThickness="2")


def test_segments_that_do_not_overlap_are_one_label_volume_on_the_image(series: Path) -> None:
    stored = masks(overlap=False)
    write_seg(series.parent / "seg.dcm", series, stored.astype(np.uint8))
    found = open_dicom(series.parent)
    (case,) = found.cases
    assert case.id == "ct"
    assert case.image is not None
    (labels,) = case.labels
    volume = labels.file.read()
    assert volume.data.dtype == np.uint8
    np.testing.assert_array_equal(volume.data, (stored * [1, 2, 3]).sum(axis=3))
    assert volume.data.flags.f_contiguous
    assert volume.header.grid.mismatch(case.image.header().grid) is None
    assert (labels.name, labels.category) == ("", {1: 1, 2: 2, 3: 3})
    assert labels.objects == {1: "1.2.3.1", 2: "1.2.3.2", 3: "1.2.3.3"}
    assert found.classes is not None
    assert [(one.id, one.name) for one in found.classes.categories] == [(1, "liver"), (2, "tumour"), (3, "vessel")]
    assert [(match.case, match.role) for match in found.matches] == [("ct", "image"), ("ct", "labels")]
    assert found.skipped == ()


def test_slabs_are_the_pieces_of_the_labels(series: Path) -> None:
    write_seg(series.parent / "seg.dcm", series, masks(overlap=False).astype(np.uint8))
    file = open_dicom(series.parent).cases[0].labels[0].file
    pieces = [slab.copy() for slab in file.slabs(4)]
    assert [piece.shape[2] for piece in pieces] == [4, 2]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=2), file.read().data)


def test_segments_that_overlap_are_a_label_volume_each(series: Path) -> None:
    stored = masks(overlap=True)
    write_seg(series.parent / "seg.dcm", series, stored.astype(np.uint8))
    found = labels_of(open_dicom(series.parent).cases[0])
    assert [name for name, _, _ in found] == list(LABELS)
    for number, (_, data, category) in enumerate(found, 1):
        np.testing.assert_array_equal(data, stored[..., number - 1] * number)
        assert category == {number: number}


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"])
def test_a_label_map_is_one_label_volume(series: Path, syntax: str) -> None:
    stored = (masks(overlap=False) * [1, 2, 3]).sum(axis=3).astype(np.uint16)
    write_seg(series.parent / "seg.dcm", series, stored, "LABELMAP", transfer_syntax_uid=syntax)
    found = open_dicom(series.parent)
    ((_, data, category),) = labels_of(found.cases[0])
    np.testing.assert_array_equal(data, stored)
    assert category == {1: 1, 2: 2, 3: 3}
    assert found.classes is not None
    assert [one.name for one in found.classes.categories] == list(LABELS)


def test_a_label_map_in_colours(series: Path) -> None:
    stored = (masks(overlap=False) * [1, 2, 3]).sum(axis=3).astype(np.uint8)
    path = write_seg(series.parent / "seg.dcm", series, stored, "LABELMAP")
    data = pydicom.dcmread(path)
    data.PhotometricInterpretation = "PALETTE COLOR"
    data.save_as(path)
    ((_, found, _),) = labels_of(open_dicom(series.parent).cases[0])
    np.testing.assert_array_equal(found, stored)


def test_highdicom_reads_the_same(series: Path) -> None:
    path = write_seg(series.parent / "seg.dcm", series, masks(overlap=False).astype(np.uint8))
    theirs = hd.seg.segread(path).get_volume(combine_segments=True)
    (case,) = open_dicom(path).cases
    ours = case.labels[0].file.read()
    np.testing.assert_array_equal(ours.data, theirs.array[::-1].T)
    change = np.array([[0, 0, -1, theirs.shape[0] - 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(ours.header.grid.affine, FLIP @ theirs.affine @ change, atol=1e-6)


def test_a_seg_alone_reaches_from_its_first_to_its_last_frame(series: Path) -> None:
    stored = masks(overlap=False)
    stored[:, :, 3] = False
    path = write_seg(series.parent / "seg.dcm", series, stored.astype(np.uint8))
    (case,) = open_dicom(path).cases
    assert (case.id, case.image) == ("seg", None)
    volume = case.labels[0].file.read()
    np.testing.assert_array_equal(volume.data, (stored * [1, 2, 3]).sum(axis=3)[:, :, 1:])
    affine = affine_of(OBLIQUE)
    affine[:, 3] = affine @ [0, 0, 1, 1]
    np.testing.assert_allclose(volume.header.grid.affine, affine, atol=1e-6)


def test_labels_given_apart_leave_only_pairs(tmp_path: Path, series: Path) -> None:
    other = write_series(
        series.parent / "mr", voxels(SHAPE), SeriesInstanceUID="1.2.3.4", FrameOfReferenceUID="1.2.3.5"
    )
    (tmp_path / "segs").mkdir()
    path = write_seg(tmp_path / "segs" / "seg.dcm", series, masks(overlap=False).astype(np.uint8))
    found = open_dicom(series.parent, labels=path.parent)
    assert [(case.id, len(case.labels)) for case in found.cases] == [("ct", 1)]
    assert [(skip.where, skip.reason) for skip in found.skipped] == [(str(other), "no labels refer to it")]
    with pytest.raises(InvalidInput, match="no DICOM SEG refers to any of the 1 series"):
        open_dicom(other, labels=path)


def test_a_seg_of_a_series_that_is_not_here_is_skipped(tmp_path: Path, series: Path) -> None:
    path = write_seg(tmp_path / "seg.dcm", series, masks(overlap=False).astype(np.uint8))
    other = write_series(tmp_path / "mr", voxels(SHAPE), SeriesInstanceUID="1.2.3.4", FrameOfReferenceUID="1.2.3.5")
    path.rename(other / "seg.dcm")
    found = open_dicom(other)
    assert [case.labels for case in found.cases] == [()]
    assert [skip.reason for skip in found.skipped] == ["is a DICOM SEG of a series that is not here"]


def test_two_segs_of_one_image_are_label_volumes_of_their_own(series: Path) -> None:
    first, second = masks(overlap=False), masks(overlap=False, seed=1)
    write_seg(series.parent / "a.dcm", series, first.astype(np.uint8))
    write_seg(series.parent / "b.dcm", series, second[..., :2].astype(np.uint8), names=("tumour", "bone"))
    found = open_dicom(series.parent)
    named = {name: (data, category) for name, data, category in labels_of(found.cases[0])}
    assert sorted(named) == ["a", "b"]
    np.testing.assert_array_equal(named["b"][0], (second[..., :2] * [1, 2]).sum(axis=3))
    assert found.classes is not None  # the files disagree about 1 and 2: numbered by name
    assert {one.name: one.id for one in found.classes.categories} == {"liver": 1, "tumour": 2, "vessel": 3, "bone": 4}
    assert named["a"][1] == {1: 1, 2: 2, 3: 3}
    assert named["b"][1] == {1: 2, 2: 4}


def test_segments_of_one_name_are_objects_of_one_class(series: Path) -> None:
    write_seg(
        series.parent / "a.dcm", series, masks(overlap=False).astype(np.uint8), names=("lesion", "lesion", "cyst")
    )
    found = open_dicom(series.parent)
    (labels,) = found.cases[0].labels
    assert labels.category == {1: 1, 2: 1, 3: 2}
    assert found.classes is not None
    assert [one.name for one in found.classes.categories] == ["lesion", "cyst"]


@pytest.mark.parametrize("rgb", [(255, 255, 255), (0, 0, 0), (200, 40, 20), (10, 200, 90), (30, 60, 250)])
def test_colours_are_those_that_highdicom_wrote(rgb: tuple[int, int, int]) -> None:
    shown = _rgb(tuple(hd.color.CIELabColor.from_rgb(*rgb).value))
    found = tuple(int(shown[i : i + 2], 16) for i in (1, 3, 5))
    assert np.abs(np.subtract(found, rgb)).max() <= 2


def test_fractional_segments_are_refused(series: Path) -> None:
    write_seg(
        series.parent / "seg.dcm",
        series,
        masks(overlap=True).astype(float),
        "FRACTIONAL",
        fractional_type="PROBABILITY",
    )
    found = open_dicom(series.parent)
    assert found.cases[0].labels == ()
    assert "is a DICOM SEG of the type 'FRACTIONAL'" in found.skipped[0].reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.SegmentSequence.pop(), "its frames speak of"),
        (
            lambda data: data.PerFrameFunctionalGroupsSequence[0].__delattr__("SegmentIdentificationSequence"),
            "no segment",
        ),
        (lambda data: data.PerFrameFunctionalGroupsSequence[0].__delattr__("PlanePositionSequence"), "where they lie"),
    ],
)
def test_a_seg_that_contradicts_itself_is_skipped_with_the_reason(series: Path, change: Any, said: str) -> None:
    path = write_seg(series.parent / "seg.dcm", series, masks(overlap=False).astype(np.uint8))
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)
    found = open_dicom(series.parent)
    assert said in found.skipped[0].reason


def test_frames_off_the_image_keep_a_grid_of_their_own(series: Path) -> None:
    path = write_seg(series.parent / "seg.dcm", series, masks(overlap=False).astype(np.uint8))
    data = pydicom.dcmread(path)
    for groups in data.PerFrameFunctionalGroupsSequence:
        position = groups.PlanePositionSequence[0]
        position.ImagePositionPatient = [
            float(position.ImagePositionPatient[0]) + 100,
            *position.ImagePositionPatient[1:],
        ]
    data.save_as(path)
    (case,) = open_dicom(series.parent).cases
    assert case.image is not None
    assert case.labels[0].file.header().grid.mismatch(case.image.header().grid) is not None


def test_pixels_cut_short_are_damaged(series: Path) -> None:
    path = write_seg(series.parent / "seg.dcm", series, masks(overlap=False).astype(np.uint8))
    raw = path.read_bytes()
    path.write_bytes(raw[:-4])
    file = open_dicom(series.parent).cases[0].labels[0].file
    assert file.header().grid.shape == SHAPE
    with pytest.raises(DamagedFile, match=r"seg\.dcm: its pixels are cut short"):
        file.read()


def test_structures_are_told_not_read(tmp_path: Path) -> None:
    series = write_series(tmp_path / "ct", voxels(SHAPE))
    data = placed(item(), affine_of())
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3.9"
    save_path = series / "rs.dcm"
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    pydicom.dcmwrite(save_path, data, enforce_file_format=True)
    found = open_dicom(tmp_path)
    assert [skip.reason for skip in found.skipped] == [
        "is an RTSTRUCT (contours), which is not read; export it as DICOM SEG or NIfTI"
    ]
