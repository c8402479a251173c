"""COCO files, as pycocotools reads them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from tests.write.annotated import ALL, Annotated, Run, annotate, annotated, around, box_voxels, voxels_of, written
from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput
from voxtract.write.coco import Coco

pytest.importorskip("pycocotools", reason="pycocotools is the reader these tests compare with")

from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

# raised by NumPy 2 inside of pycocotools.mask.decode
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def opened(content: bytes) -> COCO:
    coco = COCO()
    coco.dataset = json.loads(content)
    coco.createIndex()
    return coco


@given(annotated("a", "train"), annotated("b", "train"), st.booleans())
@settings(max_examples=60)
def test_boxes_and_masks_lead_back_to_the_voxels(first: Annotated, second: Annotated, masks: bool) -> None:
    cases = [first, second]
    files = written(Coco(), cases, masks=masks)
    coco = opened(files["coco_train.json"])
    images = [(case, k) for case in cases for k in case.found.slices.tolist()]
    assert list(coco.imgs) == list(range(1, len(images) + 1))
    assert list(coco.anns) == list(range(1, len(first.truth) + len(second.truth) + 1))
    for (case, k), image in zip(images, coco.imgs.values(), strict=True):
        height, width = case.found.plane.size
        assert image == {"id": image["id"], "file_name": case.found.name(k), "height": height, "width": width}
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        for (label, voxels), annotation in zip(case.in_slice(k), annotations, strict=True):
            x, y, w, h = annotation["bbox"]
            assert box_voxels(case, k, (x, y, x + w - 1, y + h - 1)) == around(voxels)
            assert annotation["area"] == len(voxels)
            assert annotation["iscrowd"] == 0
            assert annotation["category_id"] == label
            assert ("segmentation" in annotation) == masks
            if masks:
                mask = coco.annToMask(annotation)
                assert mask.shape == (height, width)
                rows, columns = np.nonzero(mask)
                assert voxels_of(case, np.stack([columns, rows, np.full_like(rows, k)], axis=1)) == voxels
                assert coco_mask.area(annotation["segmentation"]) == len(voxels)
    labels = sorted({label for case in cases for label, _ in case.truth})
    assert [(category["id"], category["name"]) for category in coco.cats.values()] == [
        (label, f"label_{label}") for label in labels
    ]


@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(1)), elements=st.booleans()))
@settings(max_examples=150)
def test_masks_are_packed_as_pycocotools_packs_them(image: NDArray[np.bool_]) -> None:
    case = annotate(image, objects="labels")
    (content,) = (text for name, text in written(Coco(), [case], masks=True).items() if name == "coco.json")
    annotations = json.loads(content)["annotations"]
    assert len(annotations) == image.any()
    for annotation in annotations:
        expected = coco_mask.encode(np.asfortranarray(image[:, :, 0].astype(np.uint8)))
        assert annotation["segmentation"] == {"size": expected["size"], "counts": expected["counts"].decode()}


@pytest.mark.parametrize("corner", [(0, 0), (0, 2999), (4999, 0), (4999, 2999), (17, 2000)])
def test_long_runs_take_many_characters(corner: tuple[int, int]) -> None:
    labels = np.zeros((5000, 3000, 1), np.uint8)
    labels[corner] = 1
    labels[2500, 1000:1400] = 1
    case = annotate(labels, objects="labels")
    annotation = json.loads(written(Coco(), [case], masks=True)["coco.json"])["annotations"][0]
    expected = coco_mask.encode(np.asfortranarray(labels[:, :, 0]))
    assert annotation["segmentation"]["counts"].encode() == expected["counts"]


def test_a_file_on_disk_opens(tmp_path: Path) -> None:
    labels = np.array([[1, 2, 9], [1, 0, 9]], np.uint8)[:, :, None]
    for name, content in written(Coco(ALL), [annotate(labels, target=(4, 5), folder=".")], masks=True).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    coco = COCO(tmp_path / "coco.json")
    assert coco.dataset["info"] == {"description": "made by voxtract", "version": version("voxtract")}
    assert coco.imgs == {1: {"id": 1, "file_name": "case_axial_000.png", "height": 4, "width": 5}}
    assert coco.loadCats([1, 2, 3]) == [
        {"id": 1, "name": "liver", "supercategory": "", "color": "#ffb000"},
        {"id": 2, "name": 'a "b" & <c>', "supercategory": "", "color": "#22c7ff"},
        {"id": 3, "name": "all the rest", "supercategory": "", "color": "#ff5470"},
    ]
    assert [(a["category_id"], a["bbox"]) for a in coco.anns.values()] == [
        (1, [1, 1, 1, 2]),
        (2, [2, 1, 1, 1]),
        (3, [3, 1, 1, 2]),
    ]
    assert coco.annToMask(coco.anns[3])[1:3, 3].tolist() == [1, 1]


def test_each_split_has_a_file_and_its_own_numbers() -> None:
    cases = [
        annotate(np.full((2, 2, n), n, np.uint8), case=f"case {n}", split=split, folder="x")
        for n, split in enumerate(["train", "val", "train", "test"], 1)
    ]
    files = written(Coco(), cases)
    read = {name: json.loads(content) for name, content in files.items() if name.endswith(".json")}
    assert list(read) == ["coco_train.json", "coco_val.json", "coco_test.json"]
    assert [len(one["images"]) for one in read.values()] == [4, 2, 4]
    for one in read.values():
        assert [a["id"] for a in one["annotations"]] == [i["id"] for i in one["images"]]
        assert [a["image_id"] for a in one["annotations"]] == list(range(1, len(one["images"]) + 1))
        assert [c["id"] for c in one["categories"]] == [1, 2, 3, 4]  # the same in all of them
    by_category = Counter(a["category_id"] for a in read["coco_train.json"]["annotations"])
    assert by_category == {1: 1, 3: 3}


def test_images_that_nobody_annotated_are_left_out() -> None:
    seen, empty = annotate(np.ones((2, 2, 1), np.uint8)), annotate(np.zeros((2, 2, 3), np.uint8), case="empty")
    unseen = annotate(np.zeros((2, 2, 3), np.uint8), case="unseen")
    unseen = replace(unseen, found=replace(unseen.found, labelled=False))
    files = written(Coco(), [seen, unseen, empty])
    assert [image["file_name"] for image in json.loads(files["coco.json"])["images"]] == [
        "images/case_axial_000.png",
        *(f"images/empty_axial_00{k}.png" for k in range(3)),
    ]
    assert not any("unseen" in name for name in files)


def test_names_that_need_escapes_and_huge_labels_survive() -> None:
    labels = np.array([3, 2**64 - 1], np.uint64).reshape(2, 1, 1)
    case = 'ü "quoted" \udcff\\n'
    read: Any = json.loads(written(Coco(), [annotate(labels, case=case)], masks=True)["coco.json"])
    assert read["images"][0]["file_name"] == f"images/{case}_axial_000.png"
    assert [c["id"] for c in read["categories"]] == [3, 2**64 - 1]
    assert [a["category_id"] for a in read["annotations"]] == [3, 2**64 - 1]


def test_a_label_without_a_class_is_said() -> None:
    with pytest.raises(InvalidInput, match="label values 7 are in no class"):
        written(Coco(ClassMap.of({1: "one"})), [annotate(np.full((1, 1, 1), 7, np.uint8))])


def test_the_file_comes_in_pieces_no_larger_than_a_case() -> None:
    cases = [annotate(np.ones((2, 2, 5), np.uint8), case=str(n)) for n in range(30)]
    parts = dict(file for case in cases for file in Coco().case_files(case.found, None))
    run = Run([case.found for case in cases], {name: str(text).encode() for name, text in parts.items()})
    ((_, pieces),) = Coco().run_files(run)
    assert max(map(len, pieces)) < 1000
