"""Choosing data, classes, parts and several formats, through `extract`, against plain truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

import voxtract
from tests.conftest import WriteNifti
from voxtract.errors import InvalidInput
from voxtract.journal import Journal
from voxtract.read.extraction import findings_name, manifest_name, open_extraction
from voxtract.report import CaseResult
from voxtract.settings import Settings
from voxtract.write.files import Note

SPACING = np.diag([-0.8, 0.9, 2.5, 1.0])
SPACING[:3, 3] = (70, -50, 12)


def image_of(shape: tuple[int, int, int]) -> NDArray[np.int16]:
    x, y, z = np.indices(shape)
    values: NDArray[np.int16] = (x * 7 + y * 31 + z * 301).astype(np.int16)
    return values


def labels_of(shape: tuple[int, int, int] = (20, 16, 12)) -> NDArray[np.uint8]:
    labels = np.zeros(shape, np.uint8)
    labels[3:7, 4:9, 3:6] = 1
    labels[12:15, 2:4, 5] = 2
    labels[10, 10, 9] = 1
    return labels


@pytest.fixture
def pairs(tmp_path: Path, write_nifti: WriteNifti) -> Path:
    for case in ("a", "b", "c"):
        write_nifti(tmp_path / "in" / "images" / f"{case}.nii.gz", image_of((20, 16, 12)), SPACING)
        write_nifti(tmp_path / "in" / "labels" / f"{case}.nii.gz", labels_of(), SPACING)
    return tmp_path / "in"


def extract(source: Path, out: Path, **words: Any) -> voxtract.Report:
    report = voxtract.extract(source, out, progress=False, data_mode="box", extra_columns=("LABEL", "AREA"), **words)
    assert not report.failed, report
    return report


def files(folder: Path, suffix: str = ".tif") -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob(f"*{suffix}") if ".voxtract" not in p.parts)


def indices(folder: Path, view: str = "axial", suffix: str = ".tif") -> list[int]:
    return sorted(int(p.stem.rsplit("_", 1)[1]) for p in (folder / "a" / view).glob(f"*{suffix}"))


def rows(folder: Path, view: str = "axial") -> Iterator[tuple[Path, Any]]:
    for table in sorted((folder / "a" / view).glob("*.csv")):
        for row in pd.read_csv(table).itertuples():
            yield table, row


# --- which slices


@pytest.mark.parametrize(
    ("slices", "margin", "expected"),
    [
        ("annotated", 0, [3, 4, 5, 9]),
        ("annotated", 2, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("every=5", 0, [0, 5, 10]),
        ("2:-3:3", 0, [2, 5, 8]),
        ("all", 0, list(range(12))),
    ],
)
def test_images_and_tables_of_the_chosen_slices(
    pairs: Path, tmp_path: Path, slices: str, margin: int, expected: list[int]
) -> None:
    report = extract(pairs, tmp_path / "out", slices=slices, margin=margin)
    assert indices(tmp_path / "out") == indices(tmp_path / "out", suffix=".csv") == expected
    whole = image_of((20, 16, 12))
    for index in expected:
        written = tifffile.imread(tmp_path / "out" / "a" / "axial" / f"a_axial_{index:03d}.tif")
        np.testing.assert_array_equal(written, whole[:, :, index])
    assert report.slices == 3 * len(expected)
    assert report.annotations == 3 * sum({3: 1, 4: 1, 5: 2, 9: 1}.get(index, 0) for index in expected)


def test_annotated_slices_of_classes_that_are_taken(pairs: Path, tmp_path: Path) -> None:
    extract(pairs, tmp_path / "out", slices="annotated", classes=(2,), views=("axial", "sagittal"))
    assert indices(tmp_path / "out") == [5]
    assert indices(tmp_path / "out", "sagittal") == [12, 13, 14]


def test_annotated_slices_of_3d_components_are_those_they_reach_through(pairs: Path, tmp_path: Path) -> None:
    extract(pairs, tmp_path / "out", slices="annotated", extraction_mode="volume")
    assert indices(tmp_path / "out") == [3, 4, 5, 9]


def test_labels_are_read_for_slices_even_if_no_table_is_written(pairs: Path, tmp_path: Path) -> None:
    extract(pairs, tmp_path / "out", slices="annotated", annotations=None)
    assert indices(tmp_path / "out") == [3, 4, 5, 9]
    assert not files(tmp_path / "out", ".csv")


@pytest.mark.parametrize(
    ("words", "said"),
    [({"slices": "annotated"}, "slices='annotated'"), ({"crop": "foreground"}, "crop='foreground'")],
)
def test_what_needs_labels_fails_without_them_and_says_so(
    pairs: Path, tmp_path: Path, words: dict[str, Any], said: str
) -> None:
    report = voxtract.extract(pairs / "images", tmp_path / "out", progress=False, **words)
    assert len(report.failed) == 3
    assert f"a.nii.gz: has no labels, but {said}" in str(report.failed[0].error)


# --- crop and resampling


@pytest.mark.parametrize(
    ("crop", "box"),
    [
        ("foreground", ((3, 2, 3), (15, 11, 10))),
        (((2, 3, 1), (18, 12, 11)), ((2, 3, 1), (18, 12, 11))),
        ((10, 8, 99), ((5, 4, 0), (15, 12, 12))),
    ],
)
@pytest.mark.parametrize("view", ["axial", "coronal", "sagittal"])
def test_a_crop_is_the_voxels_of_its_box(
    pairs: Path, tmp_path: Path, crop: Any, box: tuple[tuple[int, ...], tuple[int, ...]], view: str
) -> None:
    extract(pairs, tmp_path / "out", views=(view,), crop=crop)
    inside = tuple(slice(a, b) for a, b in zip(*box, strict=True))
    image, labels = image_of((20, 16, 12))[inside], labels_of()[inside]
    axis = {"axial": 2, "coronal": 1, "sagittal": 0}[view]
    assert indices(tmp_path / "out", view) == list(range(image.shape[axis]))
    seen = np.zeros(labels.shape, bool)
    for index in range(image.shape[axis]):
        written = tifffile.imread(tmp_path / "out" / "a" / view / f"a_{view}_{index:03d}.tif")
        np.testing.assert_array_equal(written, image.take(index, axis))
    for table, row in rows(tmp_path / "out", view):
        mask = labels.take(row.Z_MIN, axis)[row.Y_MIN : row.Y_MAX + 1, row.X_MIN : row.X_MAX + 1] == row.LABEL
        assert mask.sum() >= row.AREA
        assert mask.any(axis=0).all() or mask.any(axis=1).all()
        seen.take(row.Z_MIN, axis)
        assert f"_{row.Z_MIN:03d}.csv" in table.name
    total = sum(row.AREA for _, row in rows(tmp_path / "out", view))
    assert total == (labels > 0).sum()
    found = open_extraction(tmp_path / "out").cases[0].findings()[0]
    corner = nib.affines.apply_affine(SPACING, box[0])
    np.testing.assert_allclose(found.grid.points_mm(np.zeros(3)), corner)
    assert found.grid.shape == image.shape


def test_a_crop_outside_of_the_volume_fails_with_both_sizes(pairs: Path, tmp_path: Path) -> None:
    report = voxtract.extract(pairs, tmp_path / "out", crop=((0, 0, 0), (21, 5, 5)), progress=False)
    assert len(report.failed) == 3
    assert "21" in str(report.failed[0].error)
    assert "20 x 16 x 12" in str(report.failed[0].error)


def test_nothing_to_crop_to(tmp_path: Path, write_nifti: WriteNifti) -> None:
    write_nifti(tmp_path / "in" / "images" / "a.nii.gz", image_of((4, 5, 6)))
    write_nifti(tmp_path / "in" / "labels" / "a.nii.gz", np.zeros((4, 5, 6), np.uint8))
    report = voxtract.extract(tmp_path / "in", tmp_path / "out", crop="foreground", progress=False)
    assert "no voxel above 0" in str(report.failed[0].error)


@pytest.mark.parametrize(
    "words", [{"spacing": (1.6, 1.8, 1.25)}, {"resize": (10, 8, 24)}, {"resize": (-1, 8, -1)}, {"spacing": 1.0}]
)
@pytest.mark.parametrize("reorient", [None, "RAS"])
def test_boxes_are_exact_on_the_resampled_labels(
    pairs: Path, tmp_path: Path, words: dict[str, Any], reorient: str | None
) -> None:
    """Image and labels resampled together: labels stored as an image give the very pixels of the boxes."""
    (tmp_path / "twin").mkdir()
    for kind in ("images", "labels"):  # the same labels as image and as labels
        (tmp_path / "twin" / kind).mkdir()
        (tmp_path / "twin" / kind / "a.nii.gz").write_bytes((pairs / "labels" / "a.nii.gz").read_bytes())
    extract(tmp_path / "twin", tmp_path / "out", interpolation="nearest", reorient=reorient, **words)
    found = open_extraction(tmp_path / "out").cases[0].findings()[0]
    volume = np.stack([tifffile.imread(tmp_path / "out" / found.name(i)) for i in range(found.plane.count)], axis=2)
    assert volume.shape == found.grid.shape
    count = 0
    for index in range(volume.shape[2]):
        for label in (1, 2):
            pieces, n = ndimage.label(volume[:, :, index] == label, np.ones((3, 3)))
            for box in ndimage.find_objects(pieces):
                match = [
                    row
                    for _, row in rows(tmp_path / "out")
                    if (index, label) == (row.Z_MIN, row.LABEL)
                    and (box[0].start, box[0].stop, box[1].start, box[1].stop)
                    == (row.Y_MIN, row.Y_MAX + 1, row.X_MIN, row.X_MAX + 1)
                ]
                assert len(match) == 1
            count += n
    assert count == len(list(rows(tmp_path / "out"))) > 0
    if "spacing" in words:
        np.testing.assert_allclose(found.grid.spacing_mm, np.broadcast_to(words["spacing"], 3))


def test_linear_interpolation_of_a_ramp_is_the_ramp(tmp_path: Path, write_nifti: WriteNifti) -> None:
    x, y, z = np.indices((12, 10, 8))
    write_nifti(tmp_path / "in" / "a.nii.gz", (x * 4.0 + y * 2.0 - z).astype(np.float32))
    voxtract.extract(tmp_path / "in", tmp_path / "out", resize=(24, 5, 8), progress=False)
    image = tifffile.imread(tmp_path / "out/a/axial/a_axial_003.tif")
    assert image.shape == (24, 5)
    assert image.dtype == np.float32
    rows_, columns = (np.arange(24) + 0.5) / 2 - 0.5, (np.arange(5) + 0.5) * 2 - 0.5
    inner = np.s_[1:-1, :]
    np.testing.assert_allclose(image[inner], (rows_[:, None] * 4 + columns * 2 - 3)[inner], rtol=1e-6)


def test_spacing_and_resize_contradict() -> None:
    with pytest.raises(InvalidInput, match="give one"):
        Settings(spacing=1.0, resize=(1, 2, 3))


def test_a_lung_window_in_8_bits(pairs: Path, tmp_path: Path) -> None:
    extract(pairs, tmp_path / "out", normalization="lung", dtype="uint8")
    extract(pairs, tmp_path / "pair", normalization=(-600, 1500), dtype="uint8")
    one = tifffile.imread(tmp_path / "out/a/axial/a_axial_005.tif")
    np.testing.assert_array_equal(one, tifffile.imread(tmp_path / "pair/a/axial/a_axial_005.tif"))
    expected = np.clip((image_of((20, 16, 12))[:, :, 5] - (-600 - 750.0)) / 1500, 0, 1) * 255
    np.testing.assert_allclose(one, expected, atol=0.51)
    assert one.dtype == np.uint8


# --- classes and formats


def test_several_formats_at_once_speak_of_the_same_boxes(pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    formats = ("csv", "coco", "yolo", "voc", "parquet")
    classes = {1: "liver", 2: {"name": "tumour", "color": "#ff0000"}}
    report = extract(pairs, tmp_path / "out", annotations=formats, class_map=classes, masks=True, target_size=(24, 24))
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    table = pd.read_parquet(tmp_path / "out/components.parquet")
    texts = list((tmp_path / "out/labels").rglob("*.txt"))
    assert report.annotations == len(coco["annotations"]) == len(table) == 15
    assert sum(len(text.read_text().splitlines()) for text in texts) == 15
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    boxes = {(names[one["image_id"]], one["category_id"], *one["bbox"]) for one in coco["annotations"]}
    images = {name: tifffile.imread(tmp_path / "out" / name).shape for name in names.values()}
    assert set(images.values()) == {(24, 24)}
    assert {c["name"] for c in coco["categories"]} == {"liver", "tumour"}
    for table_file in (tmp_path / "out/images").rglob("*.csv"):
        name = table_file.with_suffix(".tif").relative_to(tmp_path / "out").as_posix()
        for row in pd.read_csv(table_file).itertuples():
            size = row.X_MAX - row.X_MIN + 1, row.Y_MAX - row.Y_MIN + 1
            assert (name, row.LABEL, row.X_MIN, row.Y_MIN, *size) in boxes
    pd.testing.assert_frame_equal(report.components, table, check_dtype=False, check_categorical=False)


def test_label_values_in_no_class_fail_their_case_alone(pairs: Path, tmp_path: Path, write_nifti: WriteNifti) -> None:
    strange = labels_of()
    strange[0, 0, 0], strange[0, 0, 11] = 9, 8
    write_nifti(pairs / "labels" / "b.nii.gz", strange, SPACING)
    report = voxtract.extract(
        pairs, tmp_path / "out", annotations="coco", class_map={1: "liver", 2: "tumour"}, progress=False
    )
    assert [result.id for result in report.failed] == ["b"]
    said = str(report.failed[0].error)
    assert "labels/b.nii.gz: label values 8, 9 are in no class; the class map has 1, 2" in said
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    assert {image["file_name"].split("/")[0] for image in coco["images"]} == {"a", "c"}
    again = voxtract.extract(
        pairs, tmp_path / "chosen", annotations="coco", class_map={1: "liver"}, classes=(1,), progress=False
    )
    assert not again.failed


def test_images_that_nobody_labelled_are_not_called_empty(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "voxtract"):
        report = voxtract.extract(pairs / "images", tmp_path / "out", annotations=("coco", "csv"), progress=False)
    assert not (tmp_path / "out/coco.json").exists()
    assert report.slices == 36
    assert "3 cases have no labels, so coco does not list their images: a, b, c" in caplog.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"annotations": "xml"}, "'coco', 'yolo', 'voc', 'parquet'"),
        ({"annotations": ("csv", "csv")}, "once"),
        ({"annotations": "coco", "images": None}, "images=None"),
        ({"annotations": "coco", "extraction_mode": "volume"}, "components='slice'"),
        ({"annotations": "yolo"}, "class_map"),
        ({"masks": True}, "'coco' or 'yolo'"),
        ({"class_map": {0: "nothing"}}, "from 1"),
        ({"class_map": {1: "a", 2: "a"}}, "once"),
        ({"crop": "middle"}, "foreground"),
        ({"crop": (1, 2)}, "crop"),
        ({"spacing": 0}, "above 0"),
        ({"resize": (0, 1, 1)}, "at least 1"),
        ({"interpolation": "magic"}, "'linear', 'cubic', 'nearest'"),
        ({"split": {"train": 0.5}}, "1"),
        ({"split": {"../up": 1.0}}, "up"),
        ({"stratify": True}, "split"),
        ({"slices": "few"}, "annotated"),
    ],
)
def test_words_that_cannot_be_are_refused_before_anything_is_read(words: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Settings(**words)
    assert said in str(caught.value)


# --- parts of the data set


@pytest.fixture
def many(tmp_path: Path, write_nifti: WriteNifti) -> Path:
    for case in range(12):
        labels = np.zeros((6, 5, 4), np.uint8)
        labels[1:3, 1:3, 1] = 2 if case % 4 == 0 else 1
        write_nifti(tmp_path / "in" / "images" / f"case_{case:02d}.nii.gz", image_of((6, 5, 4)))
        write_nifti(tmp_path / "in" / "labels" / f"case_{case:02d}.nii.gz", labels)
    return tmp_path / "in"


def test_a_case_lies_in_one_part_with_all_its_slices(many: Path, tmp_path: Path) -> None:
    split = {"train": 0.5, "val": 0.25, "test": 0.25}
    words: dict[str, Any] = {"views": ("axial", "coronal"), "split": split, "seed": 3}
    extract(many, tmp_path / "out", annotations=("coco", "csv"), **words)
    parts: dict[str, set[str]] = {}
    for name in files(tmp_path / "out"):
        part, case, *_ = name.split("/")
        parts.setdefault(part, set()).add(case)
    assert {part: len(cases) for part, cases in parts.items()} == {"train": 6, "val": 3, "test": 3}
    assert len(set().union(*parts.values())) == 12
    for part, cases in parts.items():
        listed = (tmp_path / "out" / "splits" / f"{part}.txt").read_text().split()
        assert listed == sorted(cases)
        coco = json.loads((tmp_path / "out" / f"coco_{part}.json").read_text())
        assert {image["file_name"].split("/")[1] for image in coco["images"]} == cases
        assert all((tmp_path / "out" / image["file_name"]).is_file() for image in coco["images"])
    extract(many, tmp_path / "lists", split_as="lists", **words)
    assert all(name.startswith("case_") for name in files(tmp_path / "lists"))
    for part in parts:
        name = f"splits/{part}.txt"
        assert (tmp_path / "lists" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_rare_classes_are_in_every_part_when_stratified(many: Path, tmp_path: Path) -> None:
    for seed in range(3):
        out = tmp_path / str(seed)
        extract(many, out, split={"train": 2 / 3, "val": 1 / 3}, stratify=True, seed=seed)
        rare = {f"case_{case:02d}" for case in (0, 4, 8)}
        train = set((out / "splits/train.txt").read_text().split())
        assert len(train) == 8
        assert len(rare & train) == 2


def test_folds_hold_each_case_once_for_validation(many: Path, tmp_path: Path) -> None:
    extract(many, tmp_path / "out", folds=4)
    val = [(tmp_path / f"out/splits/fold_{k}_val.txt").read_text().split() for k in range(4)]
    assert sorted(case for cases in val for case in cases) == [f"case_{case:02d}" for case in range(12)]
    for k in range(4):
        train = (tmp_path / f"out/splits/fold_{k}_train.txt").read_text().split()
        assert sorted(train + val[k]) == [f"case_{case:02d}" for case in range(12)]


def test_yolo_in_parts_has_the_folders_that_its_readers_expect(many: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"images": "png", "dtype": "uint8", "normalization": "min-max"}
    extract(
        many,
        tmp_path / "out",
        annotations="yolo",
        class_map={"*": "lesion"},
        split={"train": 0.75, "val": 0.25},
        **words,
    )
    for image in (tmp_path / "out").rglob("*.png"):
        below = image.relative_to(tmp_path / "out").as_posix()
        assert below.startswith(("images/train/", "images/val/"))
        assert (tmp_path / "out" / below.replace("images/", "labels/", 1)).with_suffix(".txt").is_file()


def test_a_resumed_run_ends_with_the_same_bytes(many: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"split": {"train": 0.5, "val": 0.5}, "annotations": ("coco", "csv"), "masks": True}
    extract(many, tmp_path / "whole", **words)
    extract(many, tmp_path / "cut", **words)
    journal = tmp_path / "cut/.voxtract/journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:5]))
    (tmp_path / "cut/coco_train.json").unlink()
    report = extract(many, tmp_path / "cut", resume=True, **words)
    assert [result.status for result in report.results].count("resumed") == 4
    one, two = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "whole", tmp_path / "cut")
    )
    assert one == two


def test_a_case_that_would_change_its_part_stops_the_resumed_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {})
    journal.add(CaseResult("a", "done", split="train"), [], Note("manifest", 0, 0))
    for name in (findings_name("a"), manifest_name("a")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert journal.result("a", (), [], "train") is not None
    with pytest.raises(InvalidInput, match="a: belongs to 'val' now, but its files were written for 'train'"):
        journal.result("a", (), [], "val")
    journal.close()


@given(spacing=st.tuples(*[st.floats(0.4, 3)] * 3), data=st.data())
@settings(max_examples=15, deadline=None)
def test_millimetres_do_not_move(tmp_path_factory: pytest.TempPathFactory, spacing: Any, data: st.DataObject) -> None:
    """A blob keeps its place in the patient through reorientation, resampling and crop, to within a voxel."""
    folder = tmp_path_factory.mktemp("mm")
    labels = np.zeros((18, 15, 12), np.uint8)
    corner = [data.draw(st.integers(0, n - 7)) for n in labels.shape]
    labels[tuple(slice(c, c + 6) for c in corner)] = 1
    for kind in ("images", "labels"):
        (folder / "in" / kind).mkdir(parents=True)
        nib.save(nib.Nifti1Image(labels, SPACING), folder / "in" / kind / "a.nii.gz")
    report = extract(
        folder / "in", folder / "out", spacing=spacing, reorient="RAS", crop="foreground", extraction_mode="volume"
    )
    table = report.components
    center = table[["CENTER_R_MM", "CENTER_A_MM", "CENTER_S_MM"]].to_numpy()[0]
    expected = nib.affines.apply_affine(SPACING, np.array(corner) + 2.5)
    assert (np.abs(center - expected) <= np.array(spacing)).all()
