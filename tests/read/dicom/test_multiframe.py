"""Files with many frames: functional groups, RT dose, frames without geometry, compressed frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.read.dicom.series import (
    BIG,
    ENHANCED_CT,
    EXPLICIT,
    FLIP,
    OBLIQUE,
    affine_of,
    dataset,
    enhanced,
    item,
    number,
    numbers,
    placed,
    pydicom,
    save,
    voxels,
)
from tests.read.dicom.test_volume import only, refused
from voxtract.errors import DamagedFile, InvalidInput
from voxtract.read.dicom import open_dicom

RLE, JPEG_LS, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
JPEG_LOSSLESS, JPEG_EXTENDED, MPEG2 = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.100"
SCRAMBLED = [3, 0, 5, 1, 4, 2]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("order", [None, SCRAMBLED])
def test_frames_in_any_order_lie_where_their_groups_say(tmp_path: Path, order: Any, shared: bool) -> None:
    path = save(enhanced(voxels(), affine_of(OBLIQUE), order, shared), tmp_path / "many.dcm")
    volume = only(path).read()
    np.testing.assert_array_equal(volume.data, voxels())
    assert volume.data.flags.f_contiguous
    np.testing.assert_allclose(volume.header.grid.affine, affine_of(OBLIQUE), atol=1e-9)
    slabs = np.concatenate([slab.copy() for slab in only(path).slabs(4)], axis=2)
    np.testing.assert_array_equal(slabs, voxels())


def test_highdicom_agrees_on_scrambled_frames(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom", reason="an oracle of these tests")
    data = enhanced(voxels(), affine_of(OBLIQUE), SCRAMBLED, kind=ENHANCED_CT)
    data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [
        item(RescaleSlope="2", RescaleIntercept="-1000", RescaleType="HU")
    ]
    path = save(data, tmp_path / "many.dcm")
    theirs = highdicom.imread(path).get_volume(dtype=np.float64)
    ours = only(path).read()
    assert (ours.header.slope, ours.header.intercept) == (2, -1000)
    np.testing.assert_array_equal(ours.data * 2.0 - 1000, theirs.array[::-1].T)  # theirs: slice, row, column; downwards
    change = np.array([[0, 0, -1, 5], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(ours.header.grid.affine, FLIP @ theirs.affine @ change, atol=1e-6)


def test_scaling_frame_by_frame(tmp_path: Path) -> None:
    data = enhanced(voxels(), order=SCRAMBLED)
    data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [
        item(RescaleSlope="9", RescaleIntercept="9")  # the frames' own come first
    ]
    for z, groups in zip(SCRAMBLED, data.PerFrameFunctionalGroupsSequence, strict=True):
        groups.PixelValueTransformationSequence = [item(RescaleSlope=number(z + 0.5), RescaleIntercept=number(-z))]
    volume = only(save(data, tmp_path / "many.dcm")).read()
    expected = (voxels().astype(np.float64) * (np.arange(6) + 0.5) - np.arange(6)).astype(np.float32)
    assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data, expected)


def test_a_modality_table_for_all_frames(tmp_path: Path) -> None:
    stored = voxels(dtype="u1")
    table = np.random.default_rng(0).integers(0, 4096, 256)
    lut = item(LUTDescriptor=[256, 0, 16], LUTData=table.astype("<u2").tobytes(), ModalityLUTType="US")
    lut["LUTData"].VR = "OW"
    volume = only(save(enhanced(stored, order=SCRAMBLED, ModalityLUTSequence=[lut]), tmp_path / "many.dcm")).read()
    np.testing.assert_array_equal(volume.data, table[stored])


def test_several_volumes_in_one_file_are_told_apart_by_its_dimensions(tmp_path: Path) -> None:
    both = np.concatenate([voxels(seed=1), voxels(seed=2)], axis=2)
    data = enhanced(both)
    for n, groups in enumerate(data.PerFrameFunctionalGroupsSequence):
        z, phase = n % 6, n // 6
        groups.PlanePositionSequence[0].ImagePositionPatient = numbers([10, 20, 2 * z])
        groups.FrameContentSequence[0].DimensionIndexValues = [2 - phase, z + 1]
    data.DimensionIndexSequence[0].DimensionIndexPointer = pydicom.tag.Tag("TemporalPositionIndex")
    path = save(data, tmp_path / "many.dcm")
    assert "holds 2 volumes at one place, which differ in index of TemporalPositionIndex" in refused(path)
    np.testing.assert_array_equal(only(path, volume_index=0).read().data, voxels(seed=2))
    np.testing.assert_array_equal(only(path, volume_index=1).read().data, voxels(seed=1))


def test_two_stacks_in_one_file_are_two_cases(tmp_path: Path) -> None:
    data = enhanced(voxels(), shared=False)
    for groups in data.PerFrameFunctionalGroupsSequence[4:]:
        groups.PlaneOrientationSequence[0] = item(ImageOrientationPatient=["0", "1", "0", "0", "0", "1"])
        z = float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
        groups.PlanePositionSequence[0].ImagePositionPatient = numbers([z, 0, 0])
    source = open_dicom(save(data, tmp_path / "many.dcm"))
    assert [case.id for case in source.cases] == ["many_4", "many_4_2"]
    volumes = [case.image.read() for case in source.cases if case.image is not None]
    np.testing.assert_array_equal(volumes[0].data, voxels()[:, :, :4])
    np.testing.assert_array_equal(volumes[1].data, voxels()[:, :, 4:])
    assert [volume.header.grid.orientation for volume in volumes] == ["LPS", "PSL"]
    assert any("has 2 orientations or sizes: a case each" in remark.message for remark in source.remarks)


def test_fewer_descriptions_than_frames_are_refused(tmp_path: Path) -> None:
    data = enhanced(voxels())
    del data.PerFrameFunctionalGroupsSequence[5]
    with pytest.raises(InvalidInput, match="describes 5 frames, but NumberOfFrames is 6"):
        open_dicom(save(data, tmp_path / "many.dcm"))


def test_more_descriptions_than_frames_are_remarked(tmp_path: Path) -> None:
    data = enhanced(voxels())
    data.NumberOfFrames = 4
    source = open_dicom(save(data, tmp_path / "many.dcm"))
    assert "describes 6 frames, but NumberOfFrames is 4" in source.remarks[0].message
    assert source.cases[0].image is not None
    np.testing.assert_array_equal(source.cases[0].image.read().data, voxels()[:, :, :4])


def test_frames_without_geometry_are_read_as_stored_and_remarked(tmp_path: Path) -> None:
    path = save(dataset(np.ascontiguousarray(voxels().T), PixelSpacing=["2", "2"]), tmp_path / "us.dcm")
    source = open_dicom(path)
    assert source.cases[0].image is not None
    volume = source.cases[0].image.read()
    np.testing.assert_array_equal(volume.data, voxels())
    np.testing.assert_array_equal(volume.header.grid.affine, np.eye(4))
    (remark,) = source.remarks
    assert "says nothing of where its pixels lie" in remark.message


def test_one_position_says_nothing_of_many_frames(tmp_path: Path) -> None:
    data = placed(dataset(np.ascontiguousarray(voxels().T)), affine_of())
    source = open_dicom(save(data, tmp_path / "us.dcm"))
    assert "says nothing of where its pixels lie" in source.remarks[0].message


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("down", [False, True])
def test_a_dose_grid_lies_at_its_offsets(tmp_path: Path, relative: bool, down: bool) -> None:
    data = placed(dataset(np.ascontiguousarray(voxels(dtype="u2").T), DoseGridScaling="0.25"), affine_of())
    at = float(data.ImagePositionPatient[2])
    offsets = [(-2.0 if down else 2.0) * n for n in range(6)]
    data.GridFrameOffsetVector = numbers(offsets if relative else [at + offset for offset in offsets])
    volume = only(save(data, tmp_path / "dose.dcm")).read()
    assert (volume.header.slope, volume.header.intercept) == (0.25, 0)
    expected = affine_of(origin=(-10, 20.5, 3 - 10 * down))
    np.testing.assert_allclose(volume.header.grid.affine, expected, atol=1e-9)
    stored = voxels(dtype="u2")
    np.testing.assert_array_equal(volume.data, stored[:, :, ::-1] if down else stored)


def test_a_dose_grid_with_too_few_offsets_is_refused(tmp_path: Path) -> None:
    data = placed(dataset(np.ascontiguousarray(voxels().T), GridFrameOffsetVector=["0", "2"]), affine_of())
    with pytest.raises(InvalidInput, match="GridFrameOffsetVector has 2 numbers for 6 frames"):
        open_dicom(save(data, tmp_path / "dose.dcm"))


# --- compressed


@pytest.mark.parametrize("syntax", [RLE, JPEG_LS])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
@pytest.mark.parametrize("table", [True, False])
def test_compressed_frames(tmp_path: Path, syntax: str, dtype: str, table: bool) -> None:
    if syntax == JPEG_LS:
        pytest.importorskip("jpeg_ls", reason="pyjpegls encodes it")
    stored = np.tile(voxels((8, 9, 6), dtype) // 4, (2, 2, 1))
    data = enhanced(stored, order=SCRAMBLED)
    data.compress(syntax, generate_instance_uid=False, encapsulate_ext=not table and syntax == RLE)
    pydicom.dcmwrite(tmp_path / "many.dcm", data, enforce_file_format=True)
    volume = only(tmp_path / "many.dcm").read()
    assert volume.data.dtype == stored.dtype
    np.testing.assert_array_equal(volume.data, stored)


def test_compressed_data_that_do_not_decode_are_damaged(tmp_path: Path) -> None:
    data = enhanced(voxels())
    data.compress(RLE, generate_instance_uid=False)
    pydicom.dcmwrite(tmp_path / "many.dcm", data, enforce_file_format=True)
    raw = (tmp_path / "many.dcm").read_bytes()
    (tmp_path / "many.dcm").write_bytes(raw[:-60])
    assert refused(tmp_path / "many.dcm", DamagedFile)


def encapsulated(path: Path, syntax: str, **changes: Any) -> Path:
    """A file that says it is compressed in a way; its frame is none."""
    data = placed(dataset(voxels((3, 4, 1))[:, :, 0].T, **changes), affine_of())
    data.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return save(data, path, syntax)


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_EXTENDED])
def test_the_package_that_reads_jpeg_lossless_is_named(tmp_path: Path, syntax: str) -> None:
    decoder = pydicom.pixels.get_decoder(syntax)
    if "gdcm" in decoder.available_plugins or "pylibjpeg" in decoder.available_plugins:
        pytest.skip("a decoder is installed")
    path = encapsulated(tmp_path / "a.dcm", syntax, BitsStored=12, HighBit=11)
    volume = only(path)
    assert volume.header().grid.shape == (3, 4, 1)
    with pytest.raises(InvalidInput, match=r"is compressed as JPEG .* needs GDCM; pip install python-gdcm"):
        volume.read()


@pytest.mark.parametrize(("syntax", "package"), [(J2K, "pylibjpeg and pylibjpeg-openjpeg"), (JPEG_LS, "pyjpegls")])
def test_the_extra_is_named_where_its_decoders_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str, package: str
) -> None:
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", property(lambda _: False))
    with pytest.raises(
        InvalidInput, match=rf"needs {package}, which is not installed; pip install 'voxtract\[dicom\]'"
    ):
        only(encapsulated(tmp_path / "a.dcm", syntax)).read()


def test_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"is compressed as MPEG2 .*, which is not read"):
        only(encapsulated(tmp_path / "a.dcm", MPEG2)).read()


def test_big_endian_frames_in_any_order(tmp_path: Path) -> None:
    volume = only(save(enhanced(voxels(), order=SCRAMBLED), tmp_path / "many.dcm", BIG)).read()
    np.testing.assert_array_equal(volume.data, voxels())


def test_a_truncated_file_of_many_frames_is_damaged(tmp_path: Path) -> None:
    path = save(enhanced(voxels()), tmp_path / "many.dcm", EXPLICIT)
    path.write_bytes(path.read_bytes()[:-1])
    assert "its pixels are cut short" in refused(path, DamagedFile)
