"""What lies at the edges of the layouts: NRRD, ``class_names.json``, planes by volume name, trees of any depth."""

from __future__ import annotations

import csv
import json
import logging
import os
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import voxtract
from tests.read.supervisely.trees import (
    LPS,
    RAS,
    SHAPE,
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
from tests.read.test_oriented import CODES, affine_of
from voxtract.cli import main
from voxtract.errors import InvalidInput, NotFound
from voxtract.model import Case
from voxtract.read.formats import recognised
from voxtract.read.supervisely import open_supervisely
from voxtract.read.supervisely.colors import NAMED, Classes, ColorMap
from voxtract.read.supervisely.files import _labels
from voxtract.write import nrrd
from voxtract.write.supervisely import VolumeProject, write_cases

CT, ONE, MANY = image(), labels(1), labels(1, 2, 5)


def plant_nrrd(path: Path, data: NDArray[Any], affine: NDArray[np.float64] = RAS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(bytes(part) for part in _parts(nrrd.encode(data, affine))))


def _parts(content: Any) -> Any:
    return [content] if isinstance(content, bytes | bytearray | memoryview) else content


# --- NRRD by volume name


def test_the_nrrd_variant_of_the_export(tmp_path: Path) -> None:
    """Written by somebody else's library, as ITK has it: along L, P, S."""
    pynrrd = pytest.importorskip("nrrd", reason="pynrrd is the other reader and writer of NRRD")
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([1.0, 2.0, 3.0]),
        "space origin": [-3.0, -8.0, 0.0],
        "encoding": "gzip",
    }
    files = {"CT.nrrd": CT, "CT/lung.nrrd": labels(1, 2), "CT/left lung.lower.nrrd": labels(300, dtype="u2")}
    for name, data in files.items():
        (tmp_path / "ds" / name).parent.mkdir(parents=True, exist_ok=True)
        pynrrd.write(str(tmp_path / "ds" / name), data, header)
    source = quiet(voxtract.open_source(tmp_path))
    assert table(source, tmp_path / "ds") == {
        "CT": ("CT.nrrd", {"CT/lung.nrrd": 2, "CT/left lung.lower.nrrd": 1}),
    }
    (case,) = source.cases
    assert case.image is not None
    for file, data in ((case.image, CT), *((one.file, files[f"CT/{one.name}.nrrd"]) for one in case.labels)):
        volume = file.read()
        np.testing.assert_array_equal(volume.data, data[::-1, ::-1])
        assert volume.data.dtype == data.dtype
        np.testing.assert_allclose(volume.header.grid.affine, RAS)  # its corner is at 3 - 3, 8 - 8 mm


def test_nrrd_and_nifti_may_lie_together_by_name(tmp_path: Path) -> None:
    nifti(tmp_path / "CT.nii.gz", CT)
    plant_nrrd(tmp_path / "CT/lung.nrrd", ONE)
    plant_nrrd(tmp_path / "axl_anatomic.nrrd", CT)
    plant_nrrd(tmp_path / "axl_anatomic/sag_mask.nrrd", ONE)
    source = quiet(open_supervisely(tmp_path))
    assert table(source, tmp_path) == {
        "CT": ("CT.nii.gz", {"CT/lung.nrrd": 1}),
        "axl_anatomic": ("axl_anatomic.nrrd", {"axl_anatomic/sag_mask.nrrd": 2}),
    }
    assert case_of(source, "axl_anatomic").views == ("axial",)
    nifti(tmp_path / "CT/lung.nii", ONE)
    assert "a second file of class 'lung' for one volume" in problem(open_supervisely(tmp_path), "CT")


def test_planes_are_not_read_from_nrrd_and_that_is_told(tmp_path: Path) -> None:
    plant(tmp_path, {f"{plane}_anatomic.nii": CT for plane in ("axl", "cor", "sag")})
    plant_nrrd(tmp_path / "axl_mask.nrrd", ONE)
    source = open_supervisely(tmp_path)
    assert told(source, tmp_path) == (
        {"axl_mask.nrrd": ["is NRRD, which is read by volume name; volumes and labels of planes are NIfTI"]},
        {},
    )
    assert [case.labels for case in source.cases] == [(), (), ()]


@pytest.mark.parametrize("other", ["CT.nii", "CT.nrrd"])
def test_two_volumes_of_one_name_leave_it_open_whose_the_labels_are(tmp_path: Path, other: str) -> None:
    plant(tmp_path, {"CT.nii.gz": CT, "CT/lung.nii.gz": ONE, "MR.nii": CT})
    if other.endswith("nrrd"):
        plant_nrrd(tmp_path / other, CT)
    else:
        nifti(tmp_path / other, CT)
    source = open_supervisely(tmp_path)
    for case in ("CT", "CT_01"):
        message = problem(source, case)
        assert f"its labels may be in CT, for which {tmp_path}/CT.nii" in message
        assert message.endswith("; remove one of the volumes")
    assert case_of(source, "MR").image is not None


@pytest.mark.parametrize("content", [b"", b"NRRD0004\n", b"hello"])
def test_a_file_that_is_no_nrrd_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    plant(tmp_path, {"CT.nii": CT, "MR.nii": CT})
    (tmp_path / "CT").mkdir()
    (tmp_path / "CT/lung.nrrd").write_bytes(content)
    assert problem(open_supervisely(tmp_path), "CT").startswith(f"{tmp_path}/CT/lung.nrrd: ")


def test_what_a_nrrd_header_leaves_open_is_remarked(tmp_path: Path) -> None:
    head = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\nencoding: raw\nendian: little\n\n"
    plant(tmp_path, {"CT.nrrd": head + bytes(240)})
    remarks = told(open_supervisely(tmp_path), tmp_path)[1]
    assert list(remarks) == ["CT.nrrd"]
    assert "which way is right, anterior and superior" in remarks["CT.nrrd"][-1]


# --- class_names.json


def named(**classes: tuple[int, str, str]) -> str:
    return json.dumps({stem: dict(zip(("id", "name", "color"), told, strict=True)) for stem, told in classes.items()})


def test_names_of_classes_hold_for_their_folder_and_below_and_the_nearest_wins(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "CT.nii": CT, "CT/a_b.nii": ONE, "CT/plain.nii": ONE,
            "class_names.json": named(a_b=(7, "a/b", "#112233"), plain=(3, "plain", "#445566")),
            "site/MR.nii": CT, "site/MR/a_b.nii": ONE, "site/class_names.json": named(a_b=(9, "a:b", "#abcdef")),
        },
    )  # fmt: skip
    source = quiet(open_supervisely(tmp_path))
    assert source.classes is not None
    assert [(one.id, one.name, one.color) for one in source.classes.categories] == [
        (3, "plain", "#445566"),
        (7, "a/b", "#112233"),
        (9, "a:b", "#abcdef"),
    ]
    assert [(one.name, one.category) for one in case_of(source, "CT").labels] == [("a/b", 7), ("plain", 3)]
    assert [(one.name, one.category) for one in case_of(source, "site_MR").labels] == [("a:b", 9)]


def test_numbers_that_contradict_each_other_or_miss_a_class_are_given_anew(tmp_path: Path) -> None:
    plant(tmp_path, {"a/CT.nii": CT, "a/CT/x.nii": ONE, "a/class_names.json": named(x=(5, "x", "#111111"))})
    plant(tmp_path, {"b/CT.nii": CT, "b/CT/y.nii": ONE, "b/class_names.json": named(y=(5, "y", "#222222"))})
    source = quiet(open_supervisely(tmp_path))
    assert source.classes is not None
    assert [(one.id, one.name, one.color) for one in source.classes.categories] == [
        (1, "x", "#111111"),
        (2, "y", "#222222"),
    ]
    plant(tmp_path, {"b/CT/z.nii": ONE})
    (tmp_path / "a/class_names.json").unlink()
    source = quiet(open_supervisely(tmp_path))
    assert source.classes is not None
    assert [(one.id, one.name) for one in source.classes.categories] == [(1, "x"), (2, "y"), (3, "z")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[1]", "does not name files"),
        ('{"lung": "Lung"}', "'lung' is \"Lung\"; expected"),
        ('{"lung": {"id": "1", "name": "a", "color": "#000000"}}', "expected"),
        ('{"lung": {"id": 0, "name": "a", "color": "#000000"}}', "must be a whole number from 1"),
        ('{"lung": {"id": 1, "name": " ", "color": "#000000"}}', "expected a text of one line"),
        ('{"lung": {"id": 1, "name": "a", "color": "red"}}', "expected the form '#rrggbb'"),
        (named(lung=(1, "a", "#000000"), b=(1, "b", "#000000")), "an id has two names or colours"),
        (named(lung=(1, "a", "#000000"), b=(2, "a", "#000000")), "or a name has two ids"),
    ],
)
def test_bad_names_of_classes_are_an_error_of_what_they_are_for(tmp_path: Path, content: str, said: str) -> None:
    plant(tmp_path, {"in/CT.nii": CT, "in/CT/lung.nii": ONE, "in/class_names.json": content, "MR.nii": CT})
    message = problem(open_supervisely(tmp_path), "in_CT")
    assert f"{tmp_path}/in/class_names.json: " in message
    assert said in message


def test_names_of_classes_for_nothing_are_told(tmp_path: Path) -> None:
    plant(tmp_path, {"CT.nii": CT, "CT/lung.nii": ONE, "other/MR.nii": CT, "other/class_names.json": "{}"})
    assert told(open_supervisely(tmp_path), tmp_path)[0] == {
        "other/class_names.json": [
            "names classes of files in folders called like their volumes, but there are none below it"
        ]
    }


# --- volumes named after planes with labels by volume name


def test_labels_in_the_folder_of_a_plane_are_by_name(tmp_path: Path) -> None:
    files = {f"p1/{plane}_anatomic.nii": CT for plane in ("axl", "cor", "sag")}
    plant(tmp_path, {**files, "p1/axl_anatomic/cor.nii": ONE, "p1/axl_anatomic/anatomic part.nii": ONE})
    plant(tmp_path, {"p1/cor_inference.nii": MANY, "CT.nii": CT, "CT/sag.nii": ONE})
    source = open_supervisely(tmp_path)
    assert {case: set(masks) for case, (_, masks) in table(source, tmp_path).items()} == {
        "p1_axl_anatomic": {"p1/axl_anatomic/cor.nii", "p1/axl_anatomic/anatomic part.nii"},
        "p1_cor_anatomic": {"p1/cor_inference.nii"},
        "p1_sag_anatomic": set(),
        "CT": {"CT/sag.nii"},
    }
    assert {one.id: one.views for one in source.cases} == {
        "p1_axl_anatomic": ("axial",),
        "p1_cor_anatomic": ("coronal",),
        "p1_sag_anatomic": ("sagittal",),
        "CT": None,
    }
    assert told(source, tmp_path)[0] == {}
    assert source.description.endswith("by plane, and by volume name")


def test_where_labels_are_named_for_the_plane_those_in_the_folder_are_left_out(tmp_path: Path) -> None:
    files = {f"{plane}_anatomic.nii": CT for plane in ("axl", "cor", "sag")}
    plant(tmp_path, {**files, "axl_inference.nii": ONE, "axl_anatomic/lung.nii": ONE})
    source = open_supervisely(tmp_path)
    assert set(table(source, tmp_path)) == {"axl_anatomic", "cor_anatomic", "sag_anatomic"}
    assert told(source, tmp_path) == (
        {
            "axl_anatomic/lung.nii": [
                "lies in the folder called like axl_anatomic.nii, whose labels are those of its plane"
            ]
        },
        {},
    )


def test_labels_of_planes_in_such_a_folder_lack_their_volume(tmp_path: Path) -> None:
    files = {f"{plane}_anatomic.nii": CT for plane in ("axl", "cor", "sag")}
    plant(tmp_path, {**files, "axl_anatomic/axl_inference.nii": ONE})
    skipped, _ = told(open_supervisely(tmp_path), tmp_path)
    assert skipped["axl_anatomic/axl_inference.nii"][0].startswith("labels without a volume")


# --- which reader takes a path


def test_items_at_any_depth_are_found(tmp_path: Path) -> None:
    deep = tmp_path / "in/site a/2024/patient 7/ct"
    plant(deep, {"CT.nii.gz": CT, "CT/lung.nii.gz": ONE})
    plant(tmp_path / "in", {"site b/notes.md": "hello"})
    source = voxtract.open_source(tmp_path / "in")
    assert set(table(source, tmp_path)) == {"site a_2024_patient 7_ct_CT"}


@pytest.mark.parametrize("suffix", ["zip", "gztar"])
def test_a_folder_of_archives_is_opened(tmp_path: Path, suffix: str) -> None:
    for patient in ("a", "b"):
        plant(tmp_path / patient, {"CT.nii.gz": CT, "CT/lung.nii.gz": ONE})
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.make_archive(str(tmp_path / "in" / patient), suffix, tmp_path / patient)
    assert {case.id for case in voxtract.open_source(tmp_path / "in").cases} == {"a_CT", "b_CT"}


def test_other_folders_are_not_taken_for_supervisely(tmp_path: Path) -> None:
    plant(tmp_path / "plain", {"a.nii.gz": CT, "b.nii.gz": CT, "notes/x.txt": "hello"})
    plant(tmp_path / "pairs", {"images/a.nii.gz": CT, "labels/a.nii.gz": ONE, "a.zip": b"PK"})
    plant(tmp_path / "nested", {"x/y/a.nii.gz": CT})
    assert {recognised(tmp_path / name) for name in ("plain", "pairs", "nested")} == {"nifti"}
    with pytest.raises(NotFound, match="recursive=True"):
        voxtract.open_source(tmp_path / "nested")


def test_a_circle_of_links_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/round").symlink_to(tmp_path / "a")
    assert recognised(tmp_path) == "nifti"


def test_several_projects_are_opened_one_by_one(tmp_path: Path) -> None:
    plant(tmp_path / "in", {"CT.nii": CT, "CT/lung.nii": ONE})
    source = open_supervisely(tmp_path / "in")
    assert source.classes is not None
    for name in ("a", "b"):
        write_cases(VolumeProject(source.classes), source.cases, tmp_path / "all" / name)
    with pytest.raises(InvalidInput) as caught:
        voxtract.open_source(tmp_path / "all")
    assert str(caught.value) == (
        f"{tmp_path}/all: holds 2 volume projects ({tmp_path}/all/a, {tmp_path}/all/b) and more; open each by itself"
    )
    assert len(voxtract.open_source(tmp_path / "all/b").cases) == 1
    assert "which is" not in refusal(NotFound, tmp_path / "none")


# --- labels without a name


def test_labels_that_the_map_does_not_name_are_told_when_they_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    planes = {f"{plane}_anatomic.nii": CT for plane in ("axl", "cor", "sag")}
    plant(tmp_path, {**planes, "axl_mask.nii": MANY, "cor_mask.nii": labels(1, 2), "color_map.txt": "1 a\n2 b"})
    source = quiet(open_supervisely(tmp_path))
    for case in ("axl_anatomic", "cor_anatomic"):
        list(case_of(source, case).labels[0].file.slabs(1))
    said = f"{tmp_path}/color_map.txt has no name for the label 5; called Segment_<label>"
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}/axl_mask.nii: {said}"]
    strict = case_of(open_supervisely(tmp_path, strict=True), "axl_anatomic").labels[0].file
    with pytest.raises(InvalidInput, match="has no name for the label 5"):
        strict.read()
    (tmp_path / "color_map.txt").write_text("1 a\n5 b\n9 c")  # numbers with gaps
    caplog.clear()
    case_of(open_supervisely(tmp_path), "cor_anatomic").labels[0].file.read()
    assert "has no name for the label 2;" in caplog.text


@given(
    data=hnp.arrays(
        st.sampled_from(["u1", "i1", "u2", "i2", "i4", "u4", "i8", "u8"]),
        st.tuples(*[st.integers(0, 5)] * 3),
        elements=st.sampled_from([0, 0, 0, 1, 2, 100]),
    ),
    step=st.sampled_from([1, -1]),
    order=st.sampled_from("CF"),
)
def test_labels_are_the_values_above_0(data: NDArray[Any], step: int, order: Any) -> None:
    large = np.iinfo(data.dtype).max
    data = np.array(data, order=order)[::step]
    for voxels in (data, np.where(data == 100, large, data).astype(data.dtype)):
        assert _labels(voxels) == {value for value in voxels.ravel().tolist() if value > 0}


def test_a_class_of_files_that_one_map_lacks_is_not_that_of_another_map() -> None:
    """Class 3 has a name in one folder and none in the other."""
    maps = [ColorMap("a", {3: "liver"}, {}), ColorMap("b", {1: "lung"}, {})]
    found = Classes.of([], maps, [3])
    assert found.ids == {"liver": NAMED + 1, "lung": NAMED + 2, "Segment_3": 3}


# --- headers are read once


def test_a_header_is_read_again_only_where_the_file_has_changed(tmp_path: Path) -> None:
    plant(tmp_path, {"CT.nii": CT, "CT/lung.nii": ONE})
    source = open_supervisely(tmp_path)
    file = case_of(source, "CT").labels[0].file
    before = file.header()
    path = tmp_path / "CT/lung.nii"
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.header().grid.shape == before.grid.shape  # nobody can tell
    nifti(path, labels(1, shape=(4, 5, 7)))
    assert file.header().grid.shape == (4, 5, 7)
    path.unlink()
    with pytest.raises(NotFound):
        file.header()


# --- a run


def test_columns_of_a_run(tmp_path: Path) -> None:
    """Class, value and score of each box; every plane in its own view."""
    planes = {f"{plane}_anatomic.nii.gz": CT for plane in ("axl", "cor", "sag")}
    data = np.zeros(SHAPE, "u1")
    data[0, 1:3, 2], data[3, 4, 2], data[1, 1, 5] = 1, 2, 1
    text = {"color_map.txt": "1 left lung 1 2 3\n2 b 4 5 6", "cor_score.csv": "Layer,Label-1\n2,0.25\n"}
    plant(tmp_path / "in", {**planes, "axl_mask.nii.gz": data, "cor_mask.nii.gz": data}, RAS)
    plant(tmp_path / "in", text)
    words = ["--extra-columns", "LABEL", "CLASS", "SCORE", "--data-mode", "box", "--quiet"]
    assert main(["extract", str(tmp_path / "in"), str(tmp_path / "out"), *words]) == 0
    assert sorted(path.parent.name for path in (tmp_path / "out").glob("*/*/*_000.tif")) == [
        "axial", "coronal", "sagittal"
    ]  # fmt: skip
    with (tmp_path / "out/axl_anatomic/axial/axl_anatomic_axial_002.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["X_MIN"], row["Y_MIN"], row["LABEL"], row["CLASS"]) for row in rows] == [
        ("1", "0", "1", "left lung"),
        ("4", "3", "2", "b"),
    ]
    assert {row["SCORE"] for row in rows} == {""}
    with (tmp_path / "out/cor_anatomic/coronal/cor_anatomic_coronal_001.csv").open() as file:
        scored = list(csv.DictReader(file))
    assert {(row["CLASS"], row["SCORE"]) for row in scored} == {("left lung", "0.25")}
    assert len(scored) == 2


def test_a_row_for_each_object_where_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By volume name each value is an object, which may have several pieces: ``objects="labels"`` keeps them as one."""
    caplog.set_level(logging.ERROR)
    data = np.zeros(SHAPE, "u1")
    data[0, 0], data[2, 3], data[3, 0, 0] = 1, 1, 2
    plant(tmp_path / "in", {"CT.nii.gz": CT, "CT/lung.nii.gz": data}, LPS)
    words: dict[str, Any] = {"images": None, "annotations": "csv", "extraction_mode": "volume", "progress": False}
    pieces = voxtract.extract(tmp_path / "in", tmp_path / "a", **words).components
    objects = voxtract.extract(tmp_path / "in", tmp_path / "b", **words, objects="labels").components
    assert sorted(pieces["LABEL"]) == [1, 1, 2]
    assert sorted(objects["LABEL"]) == [1, 2]
    assert set(objects["CLASS"]) == {"lung"}


def test_rows_of_every_order_of_axes_are_those_of_nibabel(tmp_path: Path) -> None:
    """Class, number of voxels, box and middle, in voxels of the RAS grid and in millimetres; oblique volumes, too."""
    shape = (4, 5, 6)
    expected = {}
    for number, codes in enumerate(CODES):
        rng = np.random.default_rng(number)
        affine = affine_of(codes, oblique=True)
        data = (rng.random(shape) < 0.1).astype("u1") * 2 + (rng.random(shape) < 0.1).astype("u1")
        nifti(tmp_path / "in" / f"{codes}.nii.gz", image(number, shape), affine)
        nifti(tmp_path / "in" / codes / "lung.nii.gz", data, affine)
        turned = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
        voxels = np.asarray(turned.dataobj)
        for value in np.unique(voxels[voxels > 0]).tolist():
            place = np.argwhere(voxels == value)
            low, high = place.min(axis=0), place.max(axis=0)
            middle = turned.affine @ [*((low + high) / 2), 1]
            expected[codes, value] = ("lung", len(place), *low, *high, *np.round(middle[:3], 6))
    words: dict[str, Any] = {"images": None, "extraction_mode": "volume", "objects": "labels", "progress": False}
    rows = voxtract.extract(tmp_path / "in", tmp_path / "out", data_mode="box", **words).components
    columns = ["CLASS", "COUNT", "Y_MIN", "X_MIN", "Z_MIN", "Y_MAX", "X_MAX", "Z_MAX"]  # an image is [x, y]
    columns += ["CENTER_R_MM", "CENTER_A_MM", "CENTER_S_MM"]
    found = {(row["CASE"], row["LABEL"]): tuple(row[name] for name in columns) for _, row in rows.iterrows()}
    assert found.keys() == expected.keys()
    for key, told_of_it in found.items():
        assert told_of_it[:8] == expected[key][:8], key
        np.testing.assert_allclose(told_of_it[8:], expected[key][8:], atol=1e-4)


# --- the order in which the system lists files


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layout", ["project", "annotations", "nrrd", "archives"])
def test_the_order_of_listing_does_not_matter(tmp_path: Path, shuffled: random.Random, layout: str, seed: int) -> None:
    planes = {f"d{n}/{plane}_mask_{k}.nii": MANY for n in (1, 2) for plane in ("axl", "cor") for k in (1, 2, 10)}
    rows = [{"dataset": f"d{n}", "name": f"{plane}_anatomic.nrrd"} for n in (1, 2) for plane in ("axl", "cor")]
    words: dict[str, Any] = {}
    if layout == "annotations":
        plant(tmp_path / "in", planes)
        words = {"volumes": rows}
    elif layout == "nrrd":
        for name in ("b", "a", "c"):
            plant_nrrd(tmp_path / "in" / f"{name}.nrrd", CT)
            for stem in ("y", "x"):
                plant_nrrd(tmp_path / "in" / name / f"{stem}.nrrd", ONE)
    elif layout == "archives":
        for name in ("b", "a"):
            files = plant(tmp_path / name, {"CT.nii": CT, "CT/y.nii": ONE, "CT/x.nii": MANY})
            (tmp_path / "in").mkdir(exist_ok=True)
            with zipfile.ZipFile(tmp_path / "in" / f"{name}.zip", "w") as archive:
                for inner in ("CT/y.nii", "CT.nii", "CT/x.nii"):
                    archive.write(files / inner, inner)
    else:
        source = open_supervisely(plant(tmp_path / "from", {**planes, **_volumes(planes)}), mode="instance")
        assert source.classes is not None
        write_cases(VolumeProject(source.classes), source.cases, tmp_path / "in")
    shuffled.seed(0)
    first = open_supervisely(tmp_path / "in", **words)
    shuffled.seed(seed + 1)
    again = open_supervisely(tmp_path / "in", **words)
    assert len(first.cases) > 1
    assert [_told_of(case) for case in again.cases] == [_told_of(case) for case in first.cases]
    assert (again.skipped, again.remarks, again.matches, again.classes) == (
        first.skipped,
        first.remarks,
        first.matches,
        first.classes,
    )


def _volumes(files: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {f"{name.partition('_')[0]}_anatomic.nii": CT for name in files}


def _told_of(case: Case) -> list[Any]:
    return [case.id, case.views, *((one.name, one.category, dict(one.objects), one.file.where) for one in case.labels)]


def test_a_folder_called_like_a_volume_does_not_block_annotations(tmp_path: Path) -> None:
    plant(tmp_path, {"anatomic scans/axl_mask.nii": ONE})
    source = open_supervisely(tmp_path, volumes=[{"dataset": "d", "name": "axl_anatomic.nrrd"}])
    assert set(table(source, tmp_path)) == {"d_axl_anatomic"}
