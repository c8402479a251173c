"""Series of files as volumes: against what was written, SimpleITK, highdicom, nibabel and pydicom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from tests.read.contract import ReaderContract, Truth
from tests.read.dicom.series import (
    BIG,
    EXPLICIT,
    FLIP,
    IMPLICIT,
    OBLIQUE,
    affine_of,
    dataset,
    item,
    numbers,
    placed,
    pydicom,
    save,
    voxels,
    write_series,
)
from voxtract.errors import DamagedFile, InvalidInput
from voxtract.geometry import Reorientation
from voxtract.model import VolumeFile
from voxtract.read import NiftiFile
from voxtract.read.dicom import DicomVolume, open_dicom

TILT = np.array([[1, 0, 0.0], [0, 1, 0.3], [0, 0, 1]])  # z leans towards y

ITK: Any = pytest.importorskip("SimpleITK", reason="an oracle of these tests")


def only(path: Path, **options: Any) -> DicomVolume:
    """The one volume of a path."""
    (case,) = open_dicom(path, **options).cases
    assert isinstance(case.image, DicomVolume)
    return case.image


def refused(path: Path, error: type[Exception] = InvalidInput, **options: Any) -> str:
    """What reading the one volume says, and its header too where the pixels are not the matter."""
    volume = only(path, **options)
    with pytest.raises(error) as caught:
        volume.read()
    assert str(caught.value).startswith(f"{volume.where}: ")
    if error is InvalidInput:
        with pytest.raises(error, match=re.escape(str(caught.value))):
            volume.header()
    return str(caught.value)


def itk_affine(image: Any) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return FLIP @ affine


def itk_series(folder: Path) -> Any:
    reader = ITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


class TestSeries(ReaderContract):
    """A folder with one file per slice, oblique, scaled, one scaling for all."""

    @pytest.fixture
    def truth(self) -> Truth:
        return Truth(voxels(), affine_of(OBLIQUE), 2.5, -1024)

    @pytest.fixture
    def file(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        folder = tmp_path / "series"
        return only(write_series(folder, truth.stored, truth.affine, RescaleSlope="2.5", RescaleIntercept="-1024"))

    @pytest.fixture
    def voxels_lost(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        folder = write_series(tmp_path / "series", truth.stored, truth.affine)
        path = folder / "IM0003.dcm"
        path.write_bytes(path.read_bytes()[:-3])
        return only(folder)

    @pytest.fixture
    def missing(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        volume = only(write_series(tmp_path / "series", truth.stored, truth.affine))
        (tmp_path / "series" / "IM0002.dcm").unlink()
        return volume


class TestOneSlice(ReaderContract):
    """A file by itself, big-endian."""

    @pytest.fixture
    def truth(self) -> Truth:
        return Truth(voxels((4, 3, 1), "u2"), affine_of())

    @pytest.fixture
    def file(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        folder = write_series(tmp_path, truth.stored, truth.affine, syntax=BIG, SliceThickness="2")
        return only(folder / "IM0001.dcm")

    @pytest.fixture
    def voxels_lost(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        path = write_series(tmp_path, truth.stored, truth.affine, SliceThickness="2") / "IM0001.dcm"
        path.write_bytes(path.read_bytes()[:-1])
        return only(path)

    @pytest.fixture
    def missing(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        path = write_series(tmp_path, truth.stored, truth.affine) / "IM0001.dcm"
        volume = only(path)
        path.unlink()
        return volume


# --- slices in space


@settings(max_examples=25)
@given(
    turn=st.tuples(*(st.floats(-1, 1) for _ in range(4))).filter(lambda q: sum(x * x for x in q) > 0.1),
    spacing=st.tuples(*(st.floats(0.1, 5) for _ in range(3))),
    origin=st.tuples(*(st.floats(-500, 500) for _ in range(3))),
    shape=st.tuples(*(st.integers(2, 5) for _ in range(3))),  # SimpleITK drops an axis of one row
    data=st.data(),
)
def test_any_orientation_comes_back_and_agrees_with_simpleitk(
    tmp_path_factory: pytest.TempPathFactory, turn: Any, spacing: Any, origin: Any, shape: Any, data: st.DataObject
) -> None:
    stored = voxels(shape)
    affine = affine_of(Rotation.from_quat(turn).as_matrix(), spacing, origin)
    order = data.draw(st.permutations(range(shape[2])))
    folder = write_series(tmp_path_factory.mktemp("series"), stored, affine, order)
    volume = only(folder).read()
    np.testing.assert_array_equal(volume.data, stored)
    np.testing.assert_allclose(volume.header.grid.affine, affine, atol=2e-5)
    theirs = itk_series(folder)
    np.testing.assert_array_equal(ITK.GetArrayFromImage(theirs).T, stored)
    np.testing.assert_allclose(itk_affine(theirs), affine, atol=1e-4)


@pytest.mark.parametrize("rotation", [np.eye(3), OBLIQUE, np.roll(np.eye(3), 1, 0), -np.eye(3)[[1, 0, 2]]])
def test_highdicom_agrees(tmp_path: Path, rotation: NDArray[Any]) -> None:
    highdicom = pytest.importorskip("highdicom", reason="an oracle of these tests")
    folder = write_series(tmp_path, voxels(), affine_of(rotation))
    theirs = highdicom.get_volume_from_series(
        [pydicom.dcmread(path) for path in folder.iterdir()], dtype=np.int16, apply_modality_transform=False
    )
    ours = only(folder).read()
    np.testing.assert_array_equal(ours.data, theirs.array[::-1].T)  # theirs: slice, row, column; slices downwards
    change = np.array([[0, 0, -1, theirs.shape[0] - 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(ours.header.grid.affine, FLIP @ theirs.affine @ change, atol=1e-6)


@pytest.mark.parametrize("rotation", [np.eye(3), OBLIQUE, np.roll(np.eye(3), 1, 0)])
def test_the_same_volume_as_nifti_gives_the_same_voxels_in_ras(tmp_path: Path, rotation: NDArray[Any]) -> None:
    folder = write_series(tmp_path / "series", voxels(), affine_of(rotation))
    ITK.WriteImage(itk_series(folder), str(tmp_path / "same.nii.gz"))
    ours, other = only(folder).read(), NiftiFile(tmp_path / "same.nii.gz").read()
    found = []
    for volume in (ours, other):
        turn = Reorientation.between(volume.header.grid, "RAS")
        found.append((turn.array(volume.data), turn.grid(volume.header.grid)))
    (mine, grid), (theirs, their_grid) = found
    assert grid.orientation == "RAS"
    np.testing.assert_array_equal(mine, theirs)
    assert grid.mismatch(their_grid) is None


def test_nibabel_places_a_slice_alike(tmp_path: Path) -> None:
    dicomwrappers: Any = pytest.importorskip("nibabel.nicom.dicomwrappers")
    folder = write_series(tmp_path, voxels((5, 7, 1)), affine_of(OBLIQUE), SliceThickness="2", SpacingBetweenSlices="2")
    theirs = dicomwrappers.wrapper_from_file(folder / "IM0001.dcm")
    ours = only(folder).header().grid.affine
    their_affine = FLIP @ theirs.affine @ np.eye(4)[[1, 0, 2, 3]]  # its first axis is the row
    np.testing.assert_allclose(ours[:, [0, 1, 3]], their_affine[:, [0, 1, 3]], atol=1e-6)


def test_a_single_slice_is_as_thick_as_its_header_says(tmp_path: Path) -> None:
    folder = write_series(tmp_path, voxels((5, 7, 1)), affine_of(OBLIQUE), SliceThickness="3.5")
    source = open_dicom(folder)
    assert source.remarks == ()
    expected = affine_of(OBLIQUE, (0.5, 0.75, 3.5))
    assert source.cases[0].image is not None
    np.testing.assert_allclose(source.cases[0].image.header().grid.affine, expected, atol=1e-9)


def test_a_single_slice_without_a_thickness_is_remarked(tmp_path: Path) -> None:
    source = open_dicom(write_series(tmp_path, voxels((5, 7, 1))))
    (remark,) = source.remarks
    assert remark.where == str(tmp_path / "IM0001.dcm")
    assert "single slice without a thickness" in remark.message


def test_slice_thickness_has_no_say_in_a_series(tmp_path: Path) -> None:
    folder = write_series(tmp_path, voxels(), SliceThickness="9", SpacingBetweenSlices="11")
    assert only(folder).header().grid.spacing_mm == pytest.approx((0.5, 0.75, 2))


def test_a_tilted_gantry_keeps_a_sheared_affine_and_is_remarked(tmp_path: Path) -> None:
    affine = affine_of(TILT)
    source = open_dicom(write_series(tmp_path, voxels(), affine))
    assert source.cases[0].image is not None
    volume = source.cases[0].image.read()
    np.testing.assert_array_equal(volume.data, voxels())
    np.testing.assert_allclose(volume.header.grid.affine, affine, atol=1e-9)
    (remark,) = source.remarks
    assert f"tilted by {np.degrees(np.arctan(0.3)):.2f} degrees" in remark.message


def test_a_missing_slice_is_refused_and_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path, voxels((2, 2, 7)), order=[0, 1, 2, 4, 5, 6])
    said = refused(folder)
    assert "1 slices are missing: the step is 2 mm, but 4 mm from 7 mm (IM0003.dcm) to 11 mm (IM0004.dcm)" in said


def test_of_two_distances_the_smaller_is_the_step(tmp_path: Path) -> None:
    said = refused(write_series(tmp_path, voxels((2, 2, 4)), order=[0, 1, 3]))
    assert "1 slices are missing: the step is 2 mm, but 4 mm from 5 mm" in said


def test_two_gaps_name_both(tmp_path: Path) -> None:
    said = refused(write_series(tmp_path, voxels((2, 2, 9)), order=[0, 1, 3, 4, 5, 8]))
    assert "3 slices are missing" in said
    assert "6 mm from 13 mm (IM0005.dcm) to 19 mm (IM0006.dcm)" in said


@pytest.mark.parametrize(("shift", "fine"), [(0.0, True), (0.015, True), (0.05, False), (-0.8, False)])
def test_distances_may_differ_by_a_hundredth_of_the_step(tmp_path: Path, shift: float, fine: bool) -> None:
    folder = write_series(tmp_path, voxels((2, 2, 5)))
    path = folder / "IM0003.dcm"
    save(placed(dataset(voxels((2, 2, 5))[:, :, 2].T, instance=3), affine_of(), 2 + shift / 2), path)
    if fine:
        np.testing.assert_array_equal(only(folder).read().data, voxels((2, 2, 5)))
    else:
        assert "slices are not evenly spaced: the step is" in refused(folder)


def test_a_slice_beside_the_line_is_refused(tmp_path: Path) -> None:
    folder = write_series(tmp_path, voxels((2, 2, 5)))
    data = placed(dataset(voxels((2, 2, 5))[:, :, 2].T, instance=3), affine_of(), 2)
    data.ImagePositionPatient[0] += 0.2
    save(data, folder / "IM0003.dcm")
    assert "IM0003.dcm at 7 mm is 0.4 voxels off the line" in refused(folder)


def test_a_file_that_is_there_twice_is_refused_and_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path, voxels((2, 2, 4)))
    (folder / "copy.dcm").write_bytes((folder / "IM0002.dcm").read_bytes())
    assert "several slices lie at one place and nothing tells them apart as volumes (7 mm: IM0002.dcm, copy.dcm)" in (
        refused(folder)
    )


def test_a_rotating_stack_is_refused(tmp_path: Path) -> None:
    for n, angle in enumerate((0, 30, 60)):
        turned = affine_of(Rotation.from_euler("x", angle, degrees=True).as_matrix())
        write_series(tmp_path, voxels((2, 2, 1)), turned, start=n + 1)
    assert "its 3 slices differ in orientation" in refused(tmp_path)


def test_images_without_a_position_are_refused_together_and_read_alone(tmp_path: Path) -> None:
    for n in (1, 2):
        save(dataset(voxels((2, 3, 1))[:, :, 0].T, instance=n), tmp_path / f"{n}.dcm")
    assert "2 images without ImagePositionPatient" in refused(tmp_path)
    source = open_dicom(tmp_path / "1.dcm")
    assert source.cases[0].image is not None
    volume = source.cases[0].image.read()
    np.testing.assert_array_equal(volume.header.grid.affine, np.eye(4))
    np.testing.assert_array_equal(volume.data, voxels((2, 3, 1)))
    assert "says nothing of where its pixels lie" in source.remarks[0].message


# --- several volumes at one place


def test_echoes_are_volumes_in_the_order_of_their_times(tmp_path: Path) -> None:
    for n, echo in enumerate((10.0, 9.0)):
        write_series(tmp_path, voxels(seed=n), start=1 + 10 * n, EchoTime=str(echo), ContentTime=f"12000{n}")
    said = refused(tmp_path)
    assert "holds 2 volumes at one place, which differ in EchoTime, ContentTime; choose volume_index=0 to 1" in said
    for index, seed in ((0, 1), (1, 0)):
        np.testing.assert_array_equal(only(tmp_path, volume_index=index).read().data, voxels(seed=seed))
    assert "volume_index=2 is out of range; 0 to 1" in refused(tmp_path, volume_index=2)


def test_two_attributes_together_tell_volumes_apart(tmp_path: Path) -> None:
    marks = [(echo, kind) for echo in ("5", "15") for kind in ("M", "P")]
    for n, (echo, kind) in enumerate(marks):
        kinds = ["ORIGINAL", "PRIMARY", kind]
        write_series(tmp_path, voxels((2, 3, 4), seed=n), start=1 + 10 * n, EchoTime=echo, ImageType=kinds)
    for n in range(4):
        np.testing.assert_array_equal(only(tmp_path, volume_index=n).read().data, voxels((2, 3, 4), seed=n))


def test_times_that_differ_from_slice_to_slice_tell_no_volumes_apart(tmp_path: Path) -> None:
    for n in range(2):
        write_series(tmp_path, voxels(seed=n), start=1 + 10 * n, AcquisitionTime=[f"1200{n}{z}" for z in range(6)])
    assert "nothing tells them apart" in refused(tmp_path)


def test_a_volume_of_several_that_lacks_a_slice_is_refused(tmp_path: Path) -> None:
    for n in range(2):
        write_series(tmp_path, voxels(seed=n), start=1 + 10 * n, EchoTime=str(n + 1))
    (tmp_path / "IM0012.dcm").unlink()
    assert "several slices lie at one place" in refused(tmp_path)


def test_volume_index_of_a_plain_series_may_only_be_0(tmp_path: Path) -> None:
    write_series(tmp_path, voxels())
    np.testing.assert_array_equal(only(tmp_path, volume_index=0).read().data, voxels())
    assert "holds 1 volume, so volume_index=1 is out of range" in refused(tmp_path, volume_index=1)


# --- numbers


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_every_integer_in_every_plain_encoding(tmp_path: Path, dtype: str, syntax: str) -> None:
    stored = voxels((3, 5, 4), dtype)
    data = only(write_series(tmp_path, stored, syntax=syntax)).read().data
    assert data.dtype == stored.dtype
    np.testing.assert_array_equal(data, stored)


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG])
@pytest.mark.parametrize(("signed", "stored_bits"), [(0, 12), (1, 12), (0, 10), (1, 13)])
def test_bits_that_do_not_count_are_cleared_as_pydicom_does(
    tmp_path: Path, signed: int, stored_bits: int, syntax: str
) -> None:
    noise = voxels((4, 5, 3), "i2" if signed else "u2")
    folder = write_series(tmp_path, noise, syntax=syntax, BitsStored=stored_bits, HighBit=stored_bits - 1)
    data = only(folder).read().data
    for z in range(3):
        path = folder / f"IM{3 - z:04d}.dcm"
        np.testing.assert_array_equal(data[:, :, z].T, pydicom.pixels.pixel_array(path))
    assert data.min() >= (-(2 ** (stored_bits - 1)) if signed else 0)
    assert data.max() < 2 ** (stored_bits - signed)


def test_a_high_bit_above_the_bits_that_count(tmp_path: Path) -> None:
    numbers_12 = voxels((4, 5, 2), "u2") >> 4
    folder = write_series(tmp_path, numbers_12 << 4 | 5, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(only(folder).read().data, numbers_12)


def test_monochrome1_is_not_inverted(tmp_path: Path) -> None:
    folder = write_series(tmp_path, voxels(), PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(only(folder).read().data, voxels())


def test_scaling_that_differs_gives_float32_values(tmp_path: Path) -> None:
    slopes, intercepts = [0.5, 1.25, 3.0, 0.1], [0.0, -3.0, 7.5, 2.0]
    folder = write_series(
        tmp_path, voxels((3, 4, 4)), RescaleSlope=numbers(slopes), RescaleIntercept=numbers(intercepts)
    )
    volume = only(folder).read()
    assert volume.data.dtype == np.float32
    assert not volume.header.is_scaled
    expected = (voxels((3, 4, 4)).astype(np.float64) * slopes + intercepts).astype(np.float32)
    np.testing.assert_array_equal(volume.data, expected)
    theirs = ITK.GetArrayFromImage(itk_series(folder)).T
    np.testing.assert_allclose(volume.data, theirs, rtol=1e-6)


def test_whole_scalings_that_differ_give_int32_values(tmp_path: Path) -> None:
    slopes, intercepts = [1.0, 2.0, 3.0, 4.0], [-1024.0, 0.0, 5.0, 1.0]
    folder = write_series(
        tmp_path, voxels((3, 4, 4)), RescaleSlope=numbers(slopes), RescaleIntercept=numbers(intercepts)
    )
    volume = only(folder).read()
    assert volume.data.dtype == np.int32
    np.testing.assert_array_equal(volume.data, (voxels((3, 4, 4)) * np.array(slopes) + intercepts).astype(np.int32))


def test_whole_values_beyond_int32_become_float32(tmp_path: Path) -> None:
    folder = write_series(tmp_path, voxels((3, 4, 2)), RescaleSlope=["1000000", "2000000"])
    assert only(folder).read().data.dtype == np.float32


@pytest.mark.parametrize(("bits", "dtype"), [(16, "<u2"), (8, "<u2"), (12, "<u2"), (8, "u1")])
@pytest.mark.parametrize("first", [0, 100])
def test_a_modality_table_is_applied(tmp_path: Path, first: int, bits: int, dtype: str) -> None:
    stored = voxels((4, 5, 3), "u1")
    table = np.random.default_rng(0).integers(0, 1 << min(bits, 12), 120)
    lut = item(LUTDescriptor=[len(table), first, bits], LUTData=table.astype(dtype).tobytes(), ModalityLUTType="US")
    lut["LUTData"].VR = "OW"
    folder = write_series(tmp_path, stored, ModalityLUTSequence=[lut])
    volume = only(folder).read()
    assert volume.data.dtype == np.int32
    np.testing.assert_array_equal(volume.data, table[np.clip(stored.astype(int) - first, 0, 119)])
    if dtype == "<u2" and bits != 12:  # pydicom knows no other
        for z in range(3):
            data = pydicom.dcmread(folder / f"IM{3 - z:04d}.dcm")
            expected = pydicom.pixels.apply_modality_lut(data.pixel_array, data)
            np.testing.assert_array_equal(volume.data[:, :, z].T, expected)


def test_a_modality_table_of_signed_numbers_may_begin_below_0(tmp_path: Path) -> None:
    stored = voxels((4, 5, 3), "i1").astype("i2")
    table = np.random.default_rng(0).integers(0, 4096, 120)
    lut = item(LUTDescriptor=[120, -60 & 0xFFFF, 16], LUTData=table.astype("<u2").tobytes(), ModalityLUTType="US")
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
    volume = only(write_series(tmp_path, stored, ModalityLUTSequence=[lut])).read()
    np.testing.assert_array_equal(volume.data, table[np.clip(stored.astype(int) + 60, 0, 119)])


def test_slices_of_two_dtypes_meet_in_one_that_holds_both(tmp_path: Path) -> None:
    stored = voxels((3, 4, 4), "u2")
    write_series(tmp_path, stored, order=[0, 1])
    write_series(tmp_path, (stored >> 1).astype("i2"), order=[2, 3], start=10)
    data = only(tmp_path).read().data
    assert data.dtype == np.int32
    np.testing.assert_array_equal(data[:, :, :2], stored[:, :, :2])
    np.testing.assert_array_equal(data[:, :, 2:], stored[:, :, 2:] >> 1)


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "f4"), ("DoubleFloatPixelData", "f8")])
def test_pixels_of_floats(tmp_path: Path, keyword: str, dtype: str) -> None:
    stored = voxels((3, 4, 1), dtype)
    data = placed(dataset(voxels((3, 4, 1))[:, :, 0].T), affine_of())
    del data.PixelData
    setattr(data, keyword, stored[:, :, 0].T.tobytes())
    save(data, tmp_path / "a.dcm")
    found = only(tmp_path / "a.dcm").read().data
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, stored)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"RescaleSlope": "0"}, "its slope is 0"),
        ({"RescaleSlope": "nan"}, "RescaleSlope is 'nan'"),
        ({"BitsStored": 17}, "BitsStored 17"),
        ({"BitsAllocated": 12}, "BitsAllocated 12"),
        ({"PixelRepresentation": 2}, "PixelRepresentation 2"),
        ({"PixelSpacing": ["0", "1"]}, "PixelSpacing [0.0, 1.0]"),
        ({"ImagePositionPatient": ["0", "1"]}, "ImagePositionPatient [0.0, 1.0]"),
        ({"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]}, "no pair of unit vectors"),
        ({"Rows": 0}, "has 0 rows"),
        ({"NumberOfFrames": 100_000_000}, "NumberOfFrames is 100000000"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}, "colour image (RGB"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour image (PALETTE COLOR"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "is a localizer"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"}, "is an RTSTRUCT"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_what_a_file_alone_is_refused_for(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = write_series(tmp_path, voxels((2, 2, 1)), **changes)
    with pytest.raises(InvalidInput) as caught:
        open_dicom(folder / "IM0001.dcm")
    assert str(caught.value).startswith(f"{folder / 'IM0001.dcm'}: ")
    assert said in str(caught.value)


# --- reading


def test_slabs_are_the_pieces_of_the_volume(tmp_path: Path) -> None:
    volume = only(write_series(tmp_path, voxels((3, 4, 7))))
    pieces = []
    for slab in volume.slabs(3):
        assert slab.flags.f_contiguous
        pieces.append(slab.copy())
    assert [piece.shape[2] for piece in pieces] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=2), voxels((3, 4, 7)))


def test_a_slab_is_read_without_the_pixels_of_the_others(tmp_path: Path) -> None:
    volume = only(write_series(tmp_path, voxels((3, 4, 6)), order=range(6)))
    last = tmp_path / "IM0006.dcm"
    last.write_bytes(last.read_bytes()[:-1])
    slabs = volume.slabs(3)
    np.testing.assert_array_equal(next(slabs), voxels((3, 4, 6))[:, :, :3])
    with pytest.raises(DamagedFile, match=r"IM0006\.dcm: its pixels are cut short"):
        next(slabs)


def test_pixels_longer_than_the_image_are_ignored(tmp_path: Path) -> None:
    stored = voxels((3, 4, 2))
    folder = write_series(tmp_path, stored, PixelData=[stored[:, :, z].T.tobytes() + b"\7" * 6 for z in range(2)])
    np.testing.assert_array_equal(only(folder).read().data, stored)


def test_nibabel_reads_back_what_is_saved_from_it(tmp_path: Path) -> None:
    volume = only(write_series(tmp_path, voxels(), affine_of(OBLIQUE))).read()
    nib.save(nib.Nifti1Image(volume.data, volume.header.grid.affine), tmp_path / "a.nii")
    back = NiftiFile(tmp_path / "a.nii").read()
    np.testing.assert_array_equal(back.data, volume.data)
    assert back.header.grid.mismatch(volume.header.grid) is None
