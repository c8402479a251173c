"""VOC files, as xml.etree and supervision read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from tests.oracles import AXES
from tests.write.annotated import ALL, Annotated, annotate, annotated, around, box_voxels, written
from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput
from voxtract.write.voc import Voc


def numbers(element: ElementTree.Element, place: str) -> list[int]:
    return [int(child.text or "") for child in element.iterfind(f"{place}/*")]


@given(annotated())
@settings(max_examples=60)
def test_boxes_lead_back_to_the_voxels(case: Annotated) -> None:
    files = written(Voc(ALL), [case])
    plane = case.found.plane
    axes = AXES[plane.view][:2]
    for k in case.found.slices.tolist():
        name = case.found.name(k)
        root = ElementTree.fromstring(files.pop(name.replace(".png", ".xml")))
        assert root.tag == "annotation"
        assert (root.findtext("folder"), root.findtext("filename")) == ("images", name.removeprefix("images/"))
        height, width = plane.size
        assert numbers(root, "size") == [width, height, 1]
        assert root.findtext("segmented") == "0"
        for (label, voxels), element in zip(case.in_slice(k), root.iterfind("object"), strict=True):
            assert element.findtext("name") == {1: "liver", 2: 'a "b" & <c>'}.get(label, "all the rest")
            assert [child.tag for child in element.iterfind("bndbox/*")] == ["xmin", "ymin", "xmax", "ymax"]
            box = [n - 1 for n in numbers(element, "bndbox")]
            assert box_voxels(case, k, box) == around(voxels)
            border = any(voxel[axis] in (0, case.labels.shape[axis] - 1) for voxel in voxels for axis in axes)
            assert element.findtext("truncated") == str(int(border))
            assert (element.findtext("difficult"), element.findtext("pose")) == ("0", "Unspecified")
    assert files == {}


def test_labels_are_classes_where_none_are_given() -> None:
    labels = np.array([3, 2**64 - 1], np.uint64).reshape(2, 1, 1)
    (content,) = written(Voc(), [annotate(labels, folder=".")]).values()
    root = ElementTree.fromstring(content)
    assert [element.text for element in root.iterfind("object/name")] == ["label_3", f"label_{2**64 - 1}"]
    assert root.findtext("folder") == "."


def test_names_are_escaped_or_refused() -> None:
    labels = np.ones((1, 1, 1), np.uint8)
    case = "a & <b>\r]]> ü"
    ((name, content),) = written(Voc(), [annotate(labels, case=case, folder="x & y/z<")]).items()
    assert name == f"x & y/z</{case}_axial_000.xml"
    root = ElementTree.fromstring(content)
    assert (root.findtext("folder"), root.findtext("filename")) == ("z<", f"{case}_axial_000.png")
    for bad in ("\x01", "\udcff", "\ufffe"):
        with pytest.raises(InvalidInput, match="XML, which cannot hold"):
            written(Voc(), [annotate(labels, case=bad)])
        with pytest.raises(InvalidInput, match="XML, which cannot hold"):
            written(Voc(ClassMap.of({1: f"x{bad}y"})), [annotate(labels)])


def test_a_case_without_labels_has_no_files() -> None:
    case = annotate(np.zeros((2, 2, 2), np.uint8))
    assert len(written(Voc(), [case])) == 2
    assert written(Voc(), [replace(case, found=replace(case.found, labelled=False))]) == {}


def test_supervision_reads_the_same(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is a reader these tests compare with")
    labels = np.zeros((6, 9, 2), np.uint8)
    labels[1:4, 2:8, 0], labels[5, 0, 0], labels[0:2, 7:9, 1] = 1, 2, 5
    case = annotate(labels, target=(10, 12), folder=".")
    for name, content in written(Voc(), [case]).items():
        (tmp_path / name).write_bytes(content)
    for k in range(2):
        Image.new("L", (12, 10)).save(tmp_path / case.found.name(k))
    read = supervision.DetectionDataset.from_pascal_voc(str(tmp_path), str(tmp_path))
    seen = {
        Path(path).name: [(read.classes[d.class_id[i]], d.xyxy[i].tolist()) for i in range(len(d))]
        for path, _, d in read
    }
    assert seen == {
        "case_axial_000.png": [("label_1", [3, 3, 9, 6]), ("label_2", [1, 7, 2, 8])],
        "case_axial_001.png": [("label_5", [8, 2, 10, 4])],
    }
