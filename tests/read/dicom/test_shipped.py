"""Real files that come with pydicom, against SimpleITK, highdicom and pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.read.dicom.series import pydicom
from tests.read.dicom.test_volume import ITK, itk_affine, itk_series, only, refused
from voxtract.errors import DamagedFile, InvalidInput, NotFound
from voxtract.read.dicom import open_dicom

FILES = Path(pydicom.data.__file__).parent / "test_files"
TREE = FILES / "dicomdirtests"


def test_a_clean_ct_series() -> None:
    folder = TREE / "98892001" / "CT5N"
    ours = only(folder).read()
    theirs = itk_series(folder)
    scaled = ours.data.astype(np.int32) * int(ours.header.slope) + int(ours.header.intercept)
    np.testing.assert_array_equal(ITK.GetArrayFromImage(theirs).T, scaled)
    np.testing.assert_allclose(ours.header.grid.affine, itk_affine(theirs), atol=1e-4)
    assert ours.header.grid.spacing_mm[2] == pytest.approx(2.5)
    instances = {
        float(d.ImagePositionPatient[2]): int(d.InstanceNumber) for d in map(pydicom.dcmread, folder.iterdir())
    }
    assert [instances[z] for z in sorted(instances)] == sorted(instances.values(), reverse=True)  # against the position


def test_highdicom_agrees_on_it() -> None:
    highdicom: Any = pytest.importorskip("highdicom", reason="an oracle of these tests")
    folder = TREE / "98892001" / "CT5N"
    theirs = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in folder.iterdir()])
    ours = only(folder).read()
    np.testing.assert_array_equal(ours.data * ours.header.slope + ours.header.intercept, theirs.array[::-1].T)


def test_a_hole_of_202_mm_is_refused() -> None:
    said = refused(TREE / "77654033" / "CT2")
    assert "161 slices are missing: the step is 1.25 mm, but 202.5 mm from" in said


def test_scouts_are_no_volume() -> None:
    with pytest.raises(NotFound, match=r"2 files skipped, first .*6293: is a localizer"):
        open_dicom(TREE / "98892001" / "CT2N")


def test_a_rotating_stack_is_refused() -> None:
    assert "its 7 slices differ in orientation" in refused(TREE / "98892003" / "MR700")


def test_three_series_in_one_folder() -> None:
    found = open_dicom(TREE / "98892003" / "MR2")
    series = {str(pydicom.dcmread(path).SeriesInstanceUID) for path in (TREE / "98892003" / "MR2").iterdir()}
    assert len(found.cases) == len(series) == 3
    assert len({case.id for case in found.cases}) == 3


@pytest.mark.parametrize(
    "name",
    ["_RLE", "_jp2klossless", "_jpeg_ls_lossless", "_bigendian", "_implicit", "_expb", "_padded"],
)
def test_the_same_pixels_in_all_encodings(name: str) -> None:
    if name == "_jpeg_ls_lossless":
        pytest.importorskip("jpeg_ls", reason="pyjpegls decodes it")
    plain, other = only(FILES / "MR_small.dcm").read(), only(FILES / f"MR_small{name}.dcm").read()
    np.testing.assert_array_equal(plain.data, other.data)
    assert plain.data.dtype == other.data.dtype == np.int16
    assert plain.header.grid.mismatch(other.header.grid) is None
    np.testing.assert_array_equal(plain.data[:, :, 0].T, pydicom.dcmread(FILES / "MR_small.dcm").pixel_array)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"])
def test_single_slices_agree_with_pydicom_and_simpleitk(name: str) -> None:
    ours = only(FILES / name).read()
    np.testing.assert_array_equal(ours.data[:, :, 0].T, pydicom.dcmread(FILES / name).pixel_array)
    theirs = ITK.ReadImage(str(FILES / name))
    assert np.abs(itk_affine(theirs) - ours.header.grid.affine)[:, [0, 1, 3]].max() < 1e-4


@pytest.mark.parametrize("name", ["rtdose", "rtdose_rle", "rtdose_expb"])
def test_a_dose_grid(name: str) -> None:
    ours = only(FILES / f"{name}.dcm").read()
    data = pydicom.dcmread(FILES / "rtdose.dcm")
    np.testing.assert_array_equal(ours.data.T, data.pixel_array)
    assert ours.header.slope == float(data.DoseGridScaling)
    assert ours.header.grid.shape == (10, 10, 15)
    last = ours.header.grid.affine @ [0, 0, 14, 1]
    assert last[2] == pytest.approx(float(data.ImagePositionPatient[2]) + float(data.GridFrameOffsetVector[14]))


@pytest.mark.parametrize("name", ["liver_1frame.dcm", "liver_expb_1frame.dcm"])
def test_a_segmentation(name: str) -> None:
    found = open_dicom(FILES / name)
    (case,) = found.cases
    volume = case.labels[0].file.read()
    pixels = pydicom.dcmread(FILES / "liver_1frame.dcm").pixel_array
    assert pixels.any()
    np.testing.assert_array_equal(volume.data[:, :, 0].T, pixels)
    assert found.classes is not None
    assert found.classes.categories[0].name == "Liver"
    assert "describes 3 frames, but NumberOfFrames is 1" in found.remarks[0].message


def test_a_deflated_file() -> None:
    ours = only(FILES / "image_dfl.dcm").read()
    np.testing.assert_array_equal(ours.data[:, :, 0].T, pydicom.dcmread(FILES / "image_dfl.dcm").pixel_array)


def test_a_truncated_file_is_damaged() -> None:
    said = refused(FILES / "MR_truncated.dcm", DamagedFile)
    assert "64 x 64 of int16 need 9692 bytes, but the file has 9630" in said


def test_a_file_without_a_file_header_that_is_damaged_too() -> None:
    with pytest.raises(InvalidInput, match="force=True"):
        open_dicom(FILES / "no_meta.dcm")
    with pytest.raises(InvalidInput, match="holds no pixels and does not say what it is"):
        open_dicom(FILES / "no_meta.dcm", force=True)  # begins with a byte too many


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("badVR.dcm", "NumberOfFrames is '1A'"),
        ("SC_rgb_jpeg_gdcm.dcm", "is a colour image (RGB, 3 samples per pixel)"),
        ("examples_palette.dcm", "is a colour image (PALETTE COLOR"),
        ("rtplan.dcm", "holds no pixels (RT Plan Storage)"),
        ("reportsi.dcm", "holds no pixels (Basic Text SR Storage)"),
        ("dicomdirtests/DICOMDIR", "is a DICOMDIR"),
        ("zipMR.gz", "is no DICOM file"),
    ],
)
def test_what_is_no_volume_says_why(name: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_dicom(FILES / name)
    assert said in str(caught.value)


def test_structures_are_told_not_read() -> None:
    with pytest.raises(InvalidInput, match="is an RTSTRUCT"):
        open_dicom(FILES / "rtstruct.dcm", force=True)


def test_a_whole_tree_is_listed_and_every_file_accounted_for() -> None:
    found = open_dicom(TREE)
    used = {path for case in found.cases if case.image is not None for path in case.image.paths}
    skipped = {skip.where for skip in found.skipped}
    every = {str(path) for path in TREE.rglob("*") if path.is_file()}
    assert used | skipped == every
    assert not used & skipped
