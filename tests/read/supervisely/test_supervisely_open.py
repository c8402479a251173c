"""From a path to a source: archives, projects, and the rows that a run makes of it."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import voxtract
from tests.read.supervisely.trees import (
    LPS,
    RAS,
    case_of,
    image,
    labels,
    nifti,
    plant,
    problem,
    quiet,
    refusal,
    table,
    told,
)
from tests.read.test_archives import packed as archive_of
from voxtract.classes import ClassMap
from voxtract.errors import DamagedFile, InvalidInput, VoxtractError
from voxtract.read.supervisely import Layout, open_supervisely
from voxtract.write.supervisely import VolumeProject, write_cases

CT, LUNG = image(), labels(1, 2)


def packed(path: Path, root: Path) -> Path:
    """An archive of a folder's content."""
    files = {one.relative_to(root).as_posix(): one.read_bytes() for one in sorted(root.rglob("*")) if one.is_file()}
    path.write_bytes(archive_of(files, path.name[path.name.index(".") :]))
    return path


# --- archives


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz", "set.tar.xz"])
def test_an_archive_is_read_like_its_folder(tmp_path: Path, name: str) -> None:
    plant(tmp_path / "in", {"p/CT.nii.gz": CT, "p/CT/lung.nii.gz": LUNG, "q/MR.nii": CT, "q/x.txt": "hello"})
    path = packed(tmp_path / name, tmp_path / "in")
    source = open_supervisely(path)
    assert table(source, tmp_path) == {
        "p_CT": (f"{name}/p/CT.nii.gz", {f"{name}/p/CT/lung.nii.gz": 1}),
        "q_MR": (f"{name}/q/MR.nii", {}),
    }
    case = case_of(source, "p_CT")
    np.testing.assert_array_equal(case.labels[0].file.read().data, LUNG)
    assert list(case.labels[0].file.paths) == [str(path)]
    assert list(told(source, tmp_path)[0]) == [f"{name}/q/x.txt"]


def test_folders_that_hold_nothing_but_a_folder_are_passed(tmp_path: Path) -> None:
    plant(tmp_path / "in", {"export/2024/CT.nii": CT, "export/2024/CT/lung.nii": LUNG, "export/.DS_Store": b""})
    source = quiet(open_supervisely(packed(tmp_path / "a.zip", tmp_path / "in")))
    assert table(source, tmp_path) == {"CT": ("a.zip/export/2024/CT.nii", {"a.zip/export/2024/CT/lung.nii": 1})}


def test_archives_in_a_folder_and_in_archives_are_folders(tmp_path: Path) -> None:
    plant(tmp_path / "masks", {"lung.nii": LUNG})
    plant(tmp_path / "p2", {"MR.nii": CT})
    packed(tmp_path / "p2" / "MR.zip", tmp_path / "masks")
    plant(tmp_path / "in", {"CT.nii": CT})
    packed(tmp_path / "in" / "CT.tar.gz", tmp_path / "masks")
    packed(tmp_path / "in" / "p2.zip", tmp_path / "p2")
    before = sorted(tmp_path.rglob("*"))
    source = quiet(open_supervisely(tmp_path / "in"))
    assert table(source, tmp_path) == {
        "CT": ("in/CT.nii", {"in/CT.tar.gz/lung.nii": 1}),
        "p2_MR": ("in/p2.zip/MR.nii", {"in/p2.zip/MR/lung.nii": 1}),
    }
    np.testing.assert_array_equal(case_of(source, "p2_MR").labels[0].file.read().data, LUNG)
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked among the user's files


def test_an_archive_whose_content_lies_there_already_is_told(tmp_path: Path) -> None:
    plant(tmp_path / "in", {"CT.nii": CT, "CT/lung.nii": LUNG})
    packed(tmp_path / "in" / "CT.zip", tmp_path / "in" / "CT")
    source = open_supervisely(tmp_path / "in")
    assert told(source, tmp_path) == (
        {"in/CT.zip/lung.nii": [f"has the place of {tmp_path}/in/CT/lung.nii; rename the archive"]},
        {},
    )


def test_bad_archives(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK no")
    assert refusal(DamagedFile, tmp_path / "a.zip").startswith(f"{tmp_path}/a.zip: the archive is damaged")
    plant(tmp_path / "in", {"CT.nii": CT, "b.zip": b"PK no"})
    (tmp_path / "a.zip").rename(tmp_path / "in" / "a.zip")
    assert set(told(open_supervisely(tmp_path / "in"), tmp_path)[0]) == {"in/a.zip", "in/b.zip"}
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../CT.nii", b"")
    assert "leaves the folder" in refusal(InvalidInput, tmp_path / "evil.zip")


def test_messages_of_files_in_archives_name_the_archive(tmp_path: Path) -> None:
    plant(
        tmp_path / "in", {"CT.nii": CT, "CT/lung.nii": b"broken", "MR.nii": CT, "MR/x.nii": labels(1, shape=(4, 5, 7))}
    )
    plant(tmp_path / "in", {"T1.nii": CT, "T1/x.nii": labels(1, dtype="f4") / 2})
    source = open_supervisely(packed(tmp_path / "a.zip", tmp_path / "in"))
    assert problem(source, "CT").startswith(f"{tmp_path}/a.zip/CT/lung.nii: ")
    assert problem(source, "MR").startswith(
        f"{tmp_path}/a.zip/MR/x.nii: lies on another grid than its volume {tmp_path}/a.zip/MR.nii: shape"
    )
    with pytest.raises(InvalidInput, match=f"^{tmp_path}/a.zip/T1/x.nii: voxel .* is 0.5"):
        case_of(source, "T1").labels[0].file.read()


# --- projects


@pytest.fixture
def project(tmp_path: Path) -> Path:
    plant(tmp_path / "in", {"axl_anatomic.nii": CT, "axl_mask.nii": labels(1, 2), "cor_anatomic.nii": CT})
    source = open_supervisely(tmp_path / "in", layout="by_plane")
    classes = ClassMap.of({1: "a", 2: "b"})
    write_cases(VolumeProject(classes, "data"), source.cases, tmp_path / "project")
    return tmp_path / "project"


def test_a_project_is_recognised(project: Path) -> None:
    layouts: tuple[Layout, ...] = ("auto", "project")
    for layout in layouts:
        source = open_supervisely(project, layout=layout)
        case = next(case for case in source.cases if case.id.endswith("axl_anatomic"))
        assert case.image is not None
        np.testing.assert_array_equal(case.image.read().data, CT)
        assert len(case.labels) == 2


def test_a_project_in_an_archive_is_known_by_the_archive(project: Path, tmp_path: Path) -> None:
    path = packed(tmp_path / "p.zip", project.parent / "project")
    found = open_supervisely(path)
    assert len(found.cases) == 2
    for case in found.cases:
        for file in (case.image, *(one.file for one in case.labels)):
            assert file is not None
            assert file.where.startswith(f"{path}/data/")
            assert file.header().where == file.where
            assert list(file.paths) == [str(path)]
    assert all(one.where.startswith(str(path)) for one in found.matches)
    assert str(path) in found.description


def test_the_volumes_of_annotations_may_be_a_project(project: Path, tmp_path: Path) -> None:
    plant(tmp_path / "more", {"axl_inference.nii": labels(5), "cor_inference.nii": labels(6)})
    source = quiet(open_supervisely(tmp_path / "more", volumes=project))
    case = case_of(source, "data_axl_anatomic")
    assert case.image is not None
    np.testing.assert_array_equal(case.image.read().data, CT)
    np.testing.assert_array_equal(case.labels[0].file.read().data, labels(5))


def test_no_project(tmp_path: Path) -> None:
    plant(tmp_path, {"CT.nii": CT, "meta.json": "{}"})
    assert list(told(open_supervisely(tmp_path), tmp_path)[0]) == ["meta.json"]
    with pytest.raises(VoxtractError):
        open_supervisely(tmp_path, layout="project")


def test_strict_speaks_of_projects_too(project: Path) -> None:
    (project / "data" / "mask" / "axl_anatomic.nrrd" / "stray.nrrd").write_bytes(b"")
    assert open_supervisely(project).skipped
    assert "strict=True, but " in refusal(InvalidInput, project, strict=True)


# --- words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"mode": "both"}, "mode 'both' is not known; allowed: 'auto', 'semantic', 'instance'"),
        ({"layer": "lps"}, "layer 'lps' is not known; allowed: 'ras', 'file'"),
        ({"layer_base": 2}, "layer_base 2 is not known; allowed: 1, 0"),
        ({"trust": "header"}, "trust 'header' is not known; allowed: None, 'voxels'"),
    ],
)
def test_a_word_that_is_not_allowed(tmp_path: Path, words: dict[str, str], said: str) -> None:
    assert refusal(InvalidInput, tmp_path, **words) == said


# --- a run


def test_rows_of_a_run_are_those_of_an_oracle(tmp_path: Path) -> None:
    """Boxes in RAS of each class and value, found with nibabel and SciPy."""
    rng = np.random.default_rng(7)
    volume = rng.integers(0, 200, (9, 8, 7)).astype("i2")
    masks = {"lung": (volume > 150).astype("u1"), "tumor": (volume < 20).astype("u2") * 3}
    root = tmp_path / "in"
    nifti(root / "CT.nii.gz", volume, LPS)
    for name, data in masks.items():
        turned = nib.as_closest_canonical(nib.Nifti1Image(data, LPS))  # the masks lie in RAS, the volume does not
        nifti(root / "CT" / f"{name}.nii.gz", np.asarray(turned.dataobj), turned.affine)
    source = quiet(open_supervisely(root))
    report = voxtract.extract(
        source, tmp_path / "out", data_mode="box", objects="labels", extra_columns=("CLASS", "LABEL"), images=None
    )
    assert report.failed == ()
    found = set()
    for path in (tmp_path / "out").rglob("*.csv"):
        with path.open() as file:
            for row in csv.DictReader(file):
                box = tuple(int(row[name]) for name in ("Z_MIN", "Y_MIN", "X_MIN", "Y_MAX", "X_MAX"))
                found.add((row["CLASS"], int(row["LABEL"]), *box))
    expected = set()
    for name, data in masks.items():
        for z in range(7):
            plane = data[::-1, ::-1, z]
            for value, where in enumerate(ndimage.find_objects(plane.astype(int)), 1):
                if where is not None:
                    rows, columns = where
                    expected.add((name, value, z, rows.start, columns.start, rows.stop - 1, columns.stop - 1))
    assert found == expected


def test_one_bad_item_fails_alone_in_a_run(tmp_path: Path) -> None:
    plant(tmp_path / "in", {"a.nii": CT, "a/x.nii": labels(1, shape=(4, 5, 7)), "b.nii": CT, "b/x.nii": LUNG})
    report = voxtract.extract(open_supervisely(tmp_path / "in"), tmp_path / "out")
    assert [(case.id, case.status) for case in report.results] == [("a", "failed"), ("b", "done")]
    assert "lies on another grid" in str(report.results[0].error)


def test_a_plane_is_cut_in_its_own_view(tmp_path: Path) -> None:
    plant(tmp_path / "in", {f"{plane}_anatomic.nii": CT for plane in ("axl", "cor", "sag")}, RAS)
    voxtract.extract(open_supervisely(tmp_path / "in"), tmp_path / "out", views=None, annotations=None)
    count = {path.name: len(list(path.glob("*.tif"))) for path in (tmp_path / "out").glob("*/*al")}
    assert count == {"axial": 6, "coronal": 5, "sagittal": 4}


def test_a_tree_of_many_items(tmp_path: Path) -> None:
    one = nifti(tmp_path / "one.nii", labels(1)).read_bytes()
    for n in range(300):
        folder = tmp_path / "in" / f"site{n % 7}"
        (folder / f"CT{n}").mkdir(parents=True)
        (folder / f"CT{n}.nii").write_bytes(one)
        (folder / f"CT{n}" / "lung.nii").write_bytes(one)
    source = open_supervisely(tmp_path / "in")
    assert len(source.cases) == 300
    assert all(len(case.labels) == 1 for case in source.cases)
