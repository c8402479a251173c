"""The demo's data set: known lesions at known places, whatever the orientation on disk."""

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from voxtract import phantoms
from voxtract.errors import NotFound, OutputError
from voxtract.phantoms import CLASSES, DemoCase, DemoData, Ellipsoid, Lesion, make_data_set

CASES = ["ct-01", "ct-02-lps", "ct-03-asl", "mr-head"]
PHANTOMS = CASES[:3]
TOUCHING = np.ones((3, 3, 3))


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    return make_data_set(tmp_path_factory.mktemp("demo"))


def case_of(data_set: DemoData, name: str) -> DemoCase:
    return next(case for case in data_set.cases if case.id == name)


def labels_of(case: DemoCase) -> tuple[NDArray[Any], NDArray[np.float64]]:
    file = nibabel.Nifti1Image.from_filename(case.labels)
    return np.asarray(file.dataobj), file.affine


def raw_header(path: Path) -> tuple[int, float, float]:
    """Data type code, slope and intercept as the bytes of the file say, with no library between."""
    content = gzip.decompress(path.read_bytes())
    return struct.unpack_from("<h", content, 70)[0], *struct.unpack_from("<ff", content, 112)


def test_images_and_labels_lie_under_the_same_names_and_nothing_else_does(data_set: DemoData) -> None:
    assert [case.id for case in data_set.cases] == CASES
    names = [f"{name}.nii.gz" for name in CASES]
    assert sorted(path.name for path in data_set.images.iterdir()) == names
    assert sorted(path.name for path in data_set.labels.iterdir()) == names
    assert [case.image.name for case in data_set.cases] == [case.labels.name for case in data_set.cases] == names


@pytest.mark.parametrize("name", CASES)
def test_image_and_labels_share_the_grid(data_set: DemoData, name: str) -> None:
    case = case_of(data_set, name)
    image, labels = (nibabel.Nifti1Image.from_filename(path) for path in (case.image, case.labels))
    assert image.shape == labels.shape
    np.testing.assert_array_equal(image.affine, labels.affine)
    assert labels.get_data_dtype() == np.uint8


def test_every_run_writes_the_same_bytes(data_set: DemoData, tmp_path: Path) -> None:
    again = make_data_set(tmp_path)
    for first, second in zip(data_set.cases, again.cases, strict=True):
        assert first.image.read_bytes() == second.image.read_bytes()
        assert first.labels.read_bytes() == second.labels.read_bytes()
        assert first.lesions == second.lesions


def test_the_files_cover_what_breaks_careless_code(data_set: DemoData) -> None:
    files = [nibabel.Nifti1Image.from_filename(case.image) for case in data_set.cases]
    assert ["".join(nibabel.aff2axcodes(file.affine)) for file in files] == ["RAS", "LPS", "ASL", "LAS"]
    assert len({file.shape for file in files}) == 4
    assert all(len(set(file.header.get_zooms())) > 1 for file in files)  # anisotropic
    uint16, int16 = 512, 4
    stored = [raw_header(case.image) for case in data_set.cases]
    assert stored == [(int16, 1.0, 0.0), (uint16, 1.0, -1024.0), (int16, 1.0, 0.0), (int16, 1.0, 0.0)]


@pytest.mark.parametrize("name", PHANTOMS)
def test_components_are_where_the_formula_says(data_set: DemoData, name: str) -> None:
    case = case_of(data_set, name)
    labels, affine = labels_of(case)
    found = []
    for label in np.unique(labels[labels > 0]).tolist():
        pieces, _ = ndimage.label(labels == label, TOUCHING)
        places = [where for where in ndimage.find_objects(pieces) if where]
        found += [(label, tuple(s.start for s in where), tuple(s.stop for s in where)) for where in places]
    boxes = [(lesion.label, lesion.box(affine)) for lesion in case.lesions]
    assert sorted(found) == sorted((label, box.start, box.stop) for label, box in boxes)
    assert {label for label, _ in boxes} == {1, 2, 3}


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_voxel_is_labelled_when_its_point_in_the_patient_is_inside(data_set: DemoData, name: str) -> None:
    case = case_of(data_set, name)
    labels, affine = labels_of(case)
    expected = np.zeros_like(labels)
    near = ndimage.binary_dilation(labels > 0, iterations=2)  # elsewhere both are zero, and it would take long
    voxels = np.argwhere(near)
    points = nibabel.affines.apply_affine(affine, voxels)
    for lesion in case.lesions:
        for part in lesion.parts:
            inside = (((points - part.center_mm) / part.radius_mm) ** 2).sum(axis=1) <= 1
            expected[tuple(voxels[inside].T)] = lesion.label
    np.testing.assert_array_equal(labels, expected)


def test_box_of_a_known_ball_in_three_orientations() -> None:
    lesion = Lesion(1, (Ellipsoid((4.0, -6.0, 10.0), (2.8, 2.8, 5.5)),))  # reaches 1, 1 and 1 voxels
    ras = np.array([[2, 0, 0, -20], [0, 2, 0, -20], [0, 0, 5, 0], [0, 0, 0, 1]], float)
    assert (lesion.box(ras).start, lesion.box(ras).stop) == ((11, 6, 1), (14, 9, 4))
    lps = np.array([[-2, 0, 0, 20], [0, -2, 0, 20], [0, 0, 5, 0], [0, 0, 0, 1]], float)
    assert (lesion.box(lps).start, lesion.box(lps).stop) == ((7, 12, 1), (10, 15, 4))
    sar = np.array([[0, 0, 2, -20], [0, 2, 0, -20], [5, 0, 0, 0], [0, 0, 0, 1]], float)
    assert (lesion.box(sar).start, lesion.box(sar).stop) == ((1, 6, 11), (4, 9, 14))


@pytest.mark.parametrize("name", PHANTOMS)
def test_some_lesions_touch_another_class_and_some_split_in_a_slice(data_set: DemoData, name: str) -> None:
    labels, affine = labels_of(case_of(data_set, name))
    bone_and_around = ndimage.binary_dilation(labels == 3)
    assert (bone_and_around & (labels == 1)).any()
    liver, _ = ndimage.label(labels == 2, TOUCHING)
    up = int(np.argmax(np.abs(affine[2, :3])))
    pieces = [
        ndimage.label(np.take(liver == one, i, axis=up), np.ones((3, 3)))[1]
        for one in range(1, int(liver.max()) + 1)
        for i in range(labels.shape[up])
    ]
    assert max(pieces) > 1


@pytest.mark.parametrize("name", PHANTOMS)
def test_the_image_is_in_hounsfield_units_and_shows_the_lesions(data_set: DemoData, name: str) -> None:
    case = case_of(data_set, name)
    file = nibabel.Nifti1Image.from_filename(case.image)
    image, (labels, _) = file.get_fdata(), labels_of(case)
    assert abs(np.median(image[:4, :4, :4]) + 1000) < 25  # air in the corner
    for label, expected in {1: 45, 2: 40, 3: 30}.items():
        assert abs(np.median(image[labels == label]) - expected) < 10
    for label in (1, 2):  # darker or brighter than what is around
        pieces = labels == label
        rim = ndimage.binary_dilation(pieces, iterations=3) & ~ndimage.binary_dilation(labels > 0, iterations=2)
        assert abs(np.median(image[rim]) - np.median(image[pieces])) > 50


def test_the_mr_scan_is_the_first_frame_of_nibabels_and_what_is_bright_in_it(data_set: DemoData) -> None:
    case = case_of(data_set, "mr-head")
    source = nibabel.Nifti1Image.from_filename(Path(nibabel.__file__).parent / "tests/data/example4d.nii.gz")
    file = nibabel.Nifti1Image.from_filename(case.image)
    np.testing.assert_array_equal(np.asarray(file.dataobj), np.asarray(source.dataobj)[..., 0])
    np.testing.assert_allclose(file.affine, source.affine, atol=1e-5)
    labels, _ = labels_of(case)
    image = np.asarray(file.dataobj)
    assert set(np.unique(labels).tolist()) == {0, 4}
    assert CLASSES[4] == "bright tissue"
    assert np.median(image[labels == 4]) > 1.2 * np.median(image[(labels == 0) & (image > 200)])
    pieces, _ = ndimage.label(labels, TOUCHING)
    assert np.bincount(pieces.ravel()).min() >= 30


def test_gzip_members_carry_no_time_and_no_name(data_set: DemoData) -> None:
    for case in data_set.cases:
        assert case.image.read_bytes()[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"


def test_a_file_in_the_place_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken"):
        make_data_set(tmp_path / "taken")


def test_a_case_that_cannot_be_written_is_an_output_error_and_leaves_no_half_file(tmp_path: Path) -> None:
    (tmp_path / "images" / "ct-01.nii.gz").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"ct-01\.nii\.gz"):
        make_data_set(tmp_path)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["ct-01.nii.gz"]


def test_a_nibabel_without_its_test_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantoms, "_RECIPES", ())
    monkeypatch.setattr(phantoms, "_MR_FILE", ("tests", "data", "gone.nii.gz"))
    with pytest.raises(NotFound, match=r"gone\.nii\.gz.*install nibabel with pip"):
        make_data_set(tmp_path)
