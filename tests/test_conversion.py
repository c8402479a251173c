"""Volumes and annotations from one form into another and back: the same voxels, classes, objects and scores."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

import voxtract
from tests.conftest import WriteNifti
from tests.test_labelling import CLASSES, InMemory, image, overlapping, painted
from voxtract.cli import CONVERT_TO, main
from voxtract.conversion import TARGETS
from voxtract.errors import InvalidInput
from voxtract.model import Case, LabelVolume, Source

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def apart() -> tuple[LabelVolume, LabelVolume]:
    """Two objects of two classes that share no voxel."""
    lung = painted("uint8", (1, np.s_[0:2, 1:5, 1:4]), (3, np.s_[5:7, 0:1, 2:3]))
    tumour = painted("int32", (9, np.s_[2:5, 2:4, 2:4]))
    return LabelVolume(InMemory(lung, "lung"), "lung", 1), LabelVolume(InMemory(tumour, "tumour"), "tumour", {9: 2})


def source(*volumes: LabelVolume, case: str = "a") -> Source:
    return Source("in memory", (Case(case, image(), volumes),), classes=CLASSES)


def voxels(path: Path) -> NDArray[Any]:
    data: NDArray[Any] = np.asanyarray(loaded(path).dataobj)
    return data


def loaded(path: Path) -> Any:
    return nib.load(path)


def test_to_nifti_and_back(tmp_path: Path) -> None:
    report = voxtract.convert(source(*apart()), tmp_path / "out", "nifti")
    assert (report.exit_code, [r.status for r in report.results]) == (0, ["done"])
    np.testing.assert_array_equal(voxels(tmp_path / "out/images/a.nii.gz"), image().data)
    labels = voxels(tmp_path / "out/labels/a.nii.gz")
    lung, tumour = (volume.file.read().data for volume in apart())
    np.testing.assert_array_equal(labels, np.where(tumour > 0, 2, np.where(lung > 0, 1, 0)))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(loaded(tmp_path / "out/labels/a.nii.gz").affine, AFFINE)
    told = json.loads((tmp_path / "out/classes.json").read_text())
    report = voxtract.extract(tmp_path / "out", tmp_path / "boxes", class_map=told)
    assert set(report.components["CLASS"]) == {"lung, left", "tumour"}


def test_objects_stay_apart_where_asked_for(tmp_path: Path) -> None:
    voxtract.convert(source(*apart()), tmp_path, "nifti", objects=True)
    labels = voxels(tmp_path / "labels/a.nii.gz")
    lung, tumour = (volume.file.read().data for volume in apart())
    np.testing.assert_array_equal(labels, np.where(tumour > 0, 3, np.where(lung == 3, 2, lung)))


def test_labels_alone_stay_as_they_are(tmp_path: Path, write_nifti: WriteNifti) -> None:
    data = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    write_nifti(tmp_path / "in/a.nii.gz", data, np.array([[0, -1, 0, 3], [2, 0, 0, 4], [0, 0, 3, 5], [0, 0, 0, 1.0]]))
    voxtract.convert(voxtract.open_source(labels=tmp_path / "in"), tmp_path / "out", "nifti")
    one, other = loaded(tmp_path / "in/a.nii.gz"), loaded(tmp_path / "out/labels/a.nii.gz")
    np.testing.assert_array_equal(voxels(tmp_path / "out/labels/a.nii.gz"), data)
    np.testing.assert_array_equal(one.affine, other.affine)
    assert one.get_data_dtype() == other.get_data_dtype()


def test_what_overlaps_is_refused_or_the_later_wins(tmp_path: Path) -> None:
    report = voxtract.convert(source(*overlapping()), tmp_path / "a", "nifti", progress=False)
    assert "tumour: shares 8 voxels with other labels of its case" in str(report.failed[0].error)
    assert not list((tmp_path / "a").rglob("*.nii.gz"))
    voxtract.convert(source(*overlapping()), tmp_path / "b", "nifti", lossy=True)
    tumour = overlapping()[1].file.read().data
    assert (voxels(tmp_path / "b/labels/a.nii.gz")[tumour > 0] == 2).all()


def test_to_a_supervisely_project_and_back(tmp_path: Path) -> None:
    """Overlaps, objects and scores come back, and the boxes are the same."""
    voxtract.convert(source(*overlapping()), tmp_path / "project", "supervisely")
    back = voxtract.open_source(tmp_path / "project")
    assert "Supervisely" in back.description
    columns = ("CLASS", "AREA", "SCORE")
    one = voxtract.extract(source(*overlapping()), tmp_path / "one", data_mode="box", extra_columns=columns).components
    two = voxtract.extract(back, tmp_path / "two", data_mode="box", extra_columns=columns).components
    keys = ["SLICE", "CLASS", "X_MIN", "Y_MIN", "X_MAX", "Y_MAX", "COUNT", "SCORE", "CENTER_R_MM"]
    rows = [sorted(map(str, frame[keys].itertuples(index=False))) for frame in (one, two)]
    assert rows[0] == rows[1]
    assert one["SCORE"].notna().sum() == 2


def test_to_the_layout_that_supervisely_imports(tmp_path: Path) -> None:
    report = voxtract.convert(source(*apart(), case="CT1"), tmp_path / "out", "supervisely-nifti")
    assert report.exit_code == 0
    assert {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.nii.gz")} == {
        "CT1.nii.gz",
        "CT1/lung, left.nii.gz",
        "CT1/tumour.nii.gz",
    }
    back = voxtract.open_source(tmp_path / "out")
    assert [volume.name for volume in back.cases[0].labels] == ["lung, left", "tumour"]


def test_to_boxes(tmp_path: Path) -> None:
    voxtract.convert(source(*overlapping()), tmp_path, "coco", masks=True)
    told = json.loads((tmp_path / "coco.json").read_text())
    assert len(told["annotations"]) == 6


def test_the_command(tmp_path: Path, write_nifti: WriteNifti, capfd: pytest.CaptureFixture[str]) -> None:
    for folder in ("images", "labels"):
        write_nifti(tmp_path / "in" / folder / "a.nii.gz", np.ones((4, 4, 4), np.uint8), AFFINE)
    (tmp_path / "in/images/bad.nii.gz").write_bytes(b"no")
    (tmp_path / "in/labels/bad.nii.gz").write_bytes(b"no")
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--to", "supervisely"]) == 1
    assert "bad.nii.gz" in capfd.readouterr().err
    assert main(["inspect", str(tmp_path / "out"), "--read", "headers"]) == 0
    shown = capfd.readouterr().out
    assert "label_1" in shown
    words = ["--from", "supervisely", "--to", "nifti", "--with", "objects=true"]
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "back"), *words]) == 0
    (labels,) = (tmp_path / "back/labels").iterdir()
    assert (voxels(labels) == 1).all()
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "back"), "--to", "nifti"]) == 2
    assert "is not empty" in capfd.readouterr().err
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "x"), "--to", "dicom"]) == 2
    assert "to 'dicom' is not known" in capfd.readouterr().err


def test_words_that_a_form_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="objects: not known for 'supervisely'; allowed: dataset"):
        voxtract.convert(source(*apart()), tmp_path, "supervisely", objects=True)
    assert set(CONVERT_TO) == set(TARGETS)
