"""YOLO files, as a plain parser, PyYAML and supervision read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.compute.test_outlines import filled
from tests.write.annotated import ALL, Annotated, annotate, annotated, around, box_voxels, voxels_of, written
from voxtract.classes import ClassMap
from voxtract.compute.outlines import outline
from voxtract.errors import InvalidInput
from voxtract.write.yolo import Yolo

yaml = pytest.importorskip("yaml", reason="PyYAML reads data.yaml")

ONE = ClassMap.of({"*": "lesion"})


def objects(text: str) -> list[tuple[int, list[float]]]:
    """Class and numbers of each line."""
    found = []
    for line in text.splitlines():
        index, *numbers = line.split(" ")
        assert all(0 <= float(number) <= 1 for number in numbers)
        found.append((int(index), [float(number) for number in numbers]))
    return found


@given(annotated())
@settings(max_examples=60)
def test_boxes_lead_back_to_the_voxels(case: Annotated) -> None:
    files = written(Yolo(ALL), [case])
    height, width = case.found.plane.size
    for k in case.found.slices.tolist():
        text = files.pop(f"labels/case_{case.found.plane.view}_{k:03d}.txt").decode()
        for (label, voxels), (index, (x, y, w, h)) in zip(case.in_slice(k), objects(text), strict=True):
            assert index == {1: 0, 2: 1}.get(label, 2)
            ends = np.array([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height])
            assert np.abs(ends - ends.round()).max() < 1e-5
            x0, y0, x1, y1 = ends.round().astype(int).tolist()
            assert box_voxels(case, k, (x0, y0, x1 - 1, y1 - 1)) == around(voxels)
    assert list(files) == ["data.yaml"]


@given(annotated())
@settings(max_examples=60)
def test_polygons_lead_back_to_the_voxels(case: Annotated) -> None:
    from scipy import ndimage

    files = written(Yolo(ONE, outline), [case], masks=True)
    height, width = case.found.plane.size
    for k in case.found.slices.tolist():
        text = files[f"labels/case_{case.found.plane.view}_{k:03d}.txt"].decode()
        for i, (index, numbers) in zip(rows_of(case, k), objects(text), strict=True):
            assert index == 0
            ring = np.array(numbers).reshape(-1, 2) * (width, height)
            assert np.abs(ring - ring.round()).max() < 1e-5
            rows, columns = np.nonzero(filled(ring.round(), (height, width)))
            seen = voxels_of(case, np.stack([columns, rows, np.full_like(rows, k)], axis=1))
            local = np.argwhere(ndimage.binary_fill_holes(case.masks(i)))[:, ::-1]
            first: Any = case.found.plane.pixel(case.found.rows.start[i])
            assert seen == voxels_of(case, np.pad(local, ((0, 0), (0, 1))) + first)
            assert seen >= case.truth[i][1]
            low, high = ring.min(axis=0).round().astype(int), ring.max(axis=0).round().astype(int)
            assert box_voxels(case, k, (*low.tolist(), *(high - 1).tolist())) == around(case.truth[i][1])


def rows_of(case: Annotated, k: int) -> list[int]:
    return next(rows.tolist() for index, rows in case.found.by_slice() if index == k)


def test_without_masks_boxes_are_written_even_where_polygons_could_be() -> None:
    case = annotate(np.ones((2, 2, 1), np.uint8))
    assert written(Yolo(ONE, outline), [case]) == written(Yolo(ONE), [case])
    assert written(Yolo(ONE), [case], masks=True) == written(Yolo(ONE), [case])


@given(st.integers(1, 100_000), st.data())
def test_seven_decimals_are_enough(width: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, width - 1))
    last = data.draw(st.integers(first, width - 1))
    labels = np.zeros((1, width, 1), np.uint8)
    labels[0, [first, last], 0] = 1
    ((_, (x, _, w, _)),) = objects(
        written(Yolo(ONE), [annotate(labels, objects="labels")])["labels/case_axial_000.txt"].decode()
    )
    assert (round((x - w / 2) * width), round((x + w / 2) * width)) == (first, last + 1)
    assert abs((x - w / 2) * width - first) < 0.02


@pytest.mark.parametrize(
    ("folder", "labels"),
    [
        ("images", "labels"),
        ("images/train/case/axial", "labels/train/case/axial"),
        ("images/images/axial", "images/labels/axial"),  # readers replace the last one
    ],
)
def test_labels_lie_where_readers_look(folder: str, labels: str) -> None:
    files = written(Yolo(ONE), [annotate(np.zeros((2, 2, 1), np.uint8), folder=folder)])
    assert files[f"{labels}/case_axial_000.txt"] == b""  # looked at, and nothing there


def test_images_elsewhere_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"case/axial/case_axial_000.txt: .*'images'"):
        written(Yolo(ONE), [annotate(np.zeros((2, 2, 1), np.uint8), folder="case/axial")])


def test_a_class_map_is_needed() -> None:
    with pytest.raises(InvalidInput, match="needs a class map"):
        Yolo(None)


def of_split(split: str | None, folder: str, case: str = "c", labelled: bool = True) -> Annotated:
    case_ = annotate(np.ones((1, 1, 2), np.uint8), case=case, split=split, folder=folder)
    return replace(case_, found=replace(case_.found, labelled=labelled))


@pytest.mark.parametrize(
    ("cases", "places"),
    [
        ([of_split(None, "images")], {"train": "images", "val": "images"}),
        ([of_split(None, "images"), of_split(None, "images", "d", False)], {"train": "train.txt", "val": "train.txt"}),
        (
            [
                of_split("train", "images/train"),
                of_split("val", "images/val", "v"),
                of_split("test", "images/test", "t"),
            ],
            {"train": "images/train", "val": "images/val", "test": "images/test"},
        ),
        (
            [of_split("train", "images/train"), of_split("test", "images/test", "t")],
            {"train": "images/train", "test": "images/test", "val": "images/test"},
        ),
        ([of_split("train", "images/train")], {"train": "images/train", "val": "images/train"}),
        ([of_split("a: b", "images/a: b")], {"train": "images", "val": "images"}),
        (
            [of_split("train", "images/axial"), of_split("val", "images/axial", "v")],
            {"train": "train.txt", "val": "val.txt"},
        ),
        ([], {"train": "images", "val": "images"}),
    ],
)
def test_data_yaml_says_where_the_images_are(cases: list[Annotated], places: dict[str, str]) -> None:
    files = written(Yolo(ONE), cases)
    assert yaml.safe_load(files["data.yaml"]) == {**places, "names": {0: "lesion"}}
    for place in places.values():
        assert place.startswith("images") or place in files


def test_lists_hold_the_images_of_annotated_cases() -> None:
    cases = [of_split("val", "images"), of_split("val", "images", "unseen", False), of_split("train", "images", "t")]
    files = written(Yolo(ONE), cases)
    assert files["val.txt"].decode().splitlines() == ["./images/c_axial_000.png", "./images/c_axial_001.png"]
    assert files["train.txt"].decode().splitlines() == ["./images/t_axial_000.png", "./images/t_axial_001.png"]
    assert sorted(name for name in files if name.startswith("labels/")) == [
        f"labels/{case}_axial_00{k}.txt" for case in "ct" for k in range(2)
    ]


def test_an_unsplit_run_says_so() -> None:
    text = written(Yolo(ONE), [of_split(None, "images")])["data.yaml"].decode()
    assert "# no case is in a part called val" in text
    assert "called train" not in text


NAMES = ["yes", "1", "a: b", "- c", '"', "\\", "#", "\t", "\x7f", "\x85", "\u2028", "ü", "\U0001f600", "\ufeff", "{}"]


def test_any_class_name_is_read_back() -> None:
    classes = ClassMap.of({n: f"x{name}y" for n, name in enumerate(NAMES, 5)} | {3: "no"})
    read = yaml.safe_load(written(Yolo(classes), [])["data.yaml"])
    assert read["names"] == dict(enumerate(["no", *(f"x{name}y" for name in NAMES)]))


@pytest.mark.parametrize("masks", [False, True])
def test_supervision_reads_the_same(tmp_path: Path, masks: bool) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is a reader these tests compare with")
    labels = np.zeros((6, 9, 2), np.uint8)
    labels[1:4, 2:8, 0], labels[5, 0, 0], labels[0:2, 7:9, 1] = 1, 2, 5
    case = annotate(labels, target=(10, 12))
    for name, content in written(Yolo(ALL, outline), [case], masks=masks).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "images").mkdir()
    for k in range(2):
        Image.new("L", (12, 10)).save(tmp_path / case.found.name(k))
    places = [str(tmp_path / name) for name in ("images", "labels", "data.yaml")]
    read = supervision.DetectionDataset.from_yolo(*places)
    assert read.classes == [category.name for category in ALL.categories]
    seen = {
        Path(path).name: [(int(d.class_id[i]), d.xyxy[i].round(4).tolist()) for i in range(len(d))]
        for path, _, d in read
    }
    assert seen == {
        "case_axial_000.png": [(0, [3, 3, 9, 6]), (1, [1, 7, 2, 8])],
        "case_axial_001.png": [(2, [8, 2, 10, 4])],
    }
