"""Supervisely's own library opens what is written: projects, and the layouts of its NIfTI import.

Runs where ``supervisely`` is installed, which the extra for development does not ask for: it is large.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import voxtract
from tests.read.supervisely.trees import LPS, image, plant
from voxtract.model import Source

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = (9, 8, 7)
PLANES = ("axl", "cor", "sag")


@pytest.fixture(scope="module")
def sly() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # not "supervisely": a folder of these tests has that name
        pytest.importorskip("supervisely.geometry", reason="Supervisely's SDK is the other reader of its projects")
        return importlib.import_module("supervisely")


def blocks(*values: int) -> Any:
    data = np.zeros(SHAPE, "u1")
    for i, value in enumerate(values):
        data[2 * i : 2 * i + 2, 1 + i : 4 + i, 2:5] = value
    return data


def by_name(folder: Path) -> Source:
    files = {"CT.nii.gz": image(1, SHAPE), "CT/lung.nii.gz": blocks(1, 2), "CT/tumour.nii.gz": blocks(0, 0, 7)}
    return voxtract.open_source(plant(folder, files, LPS))


def by_plane(folder: Path) -> Source:
    plant(folder, {f"{plane}_anatomic.nii.gz": image(2, SHAPE) for plane in PLANES}, LPS)
    plant(folder, {f"{plane}_inference.nii.gz": blocks(1, 2) for plane in PLANES}, LPS)
    scores = "Layer,Label-1,Label-2\n3,0.5,0.25\n4,1,0.125\n"
    plant(folder, {"color_map.txt": "1 left lung 255 0 0\n2 b 0 128 255", "axl_score.csv": scores})
    return voxtract.open_source(folder)


def masks(source: Source) -> list[tuple[str, bytes]]:
    """Class and voxels of each object, on the RAS grid."""
    assert source.classes is not None
    found = []
    for labels in (one for case in source.cases for one in case.labels):
        data = labels.file.read().data
        for value in np.unique(data[data > 0]).tolist():
            category = value if labels.category is None else labels.category
            assert isinstance(category, int)
            found.append((source.classes[category].name, np.packbits(data == value).tobytes()))
    return sorted(found)


@pytest.mark.parametrize("tree", [by_name, by_plane])
def test_a_project_opens(tmp_path: Path, sly: Any, tree: Any) -> None:
    """As an upload takes it: annotations, and masks through their bytes."""
    mask_3d = importlib.import_module("supervisely.geometry.mask_3d").Mask3D
    source = tree(tmp_path / "in")
    voxtract.convert(source, tmp_path / "project", "supervisely", progress=False)
    project = sly.VolumeProject(str(tmp_path / "project"), sly.OpenMode.READ)
    assert project.total_items == len(source.cases)
    assert source.classes is not None
    colors = {one.name: tuple(bytes.fromhex(one.color[1:])) for one in source.classes.categories}
    assert {one.name: tuple(one.color) for one in project.meta.obj_classes} == colors
    found, scores = [], []
    (dataset,) = project.datasets
    for name in dataset:
        volume, path = dataset.get_item_paths(name)
        voxels, _ = sly.volume.read_nrrd_serie_volume_np(volume)
        case = next(one for one in source.cases if f"{one.id}.nrrd" == name)
        assert case.image is not None
        np.testing.assert_array_equal(voxels, case.image.read().data)
        annotation = sly.VolumeAnnotation.from_json(sly.json.load_json_file(path), project.meta)
        files = sly.fs.list_files(dataset.get_mask_dir(name), valid_extensions=[".nrrd"])
        content = mask_3d._bytes_from_nrrd_batch(files)
        assert len(content) == len(annotation.spatial_figures) > 0
        for figure in annotation.spatial_figures:
            mask = mask_3d.from_bytes(content[figure.key().hex])
            found.append((figure.volume_object.obj_class.name, np.packbits(np.asarray(mask.data) != 0).tobytes()))
            scores += [figure.custom_data] if figure.custom_data else []
    assert sorted(found) == masks(source)
    assert len(scores) == (2 if tree is by_plane else 0)
    assert all(
        told.keys() == {"0-0-1"} and {index: one["score"] for index, one in told["0-0-1"].items()} in
        ({"2": "0.50", "3": "1.00"}, {"2": "0.25", "3": "0.125"})
        for told in scores
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tree", "words", "importer"),
    [
        (by_name, {"sdk_compatible": True}, "nii_volume_converter.NiiConverter"),
        (by_plane, {"by": "plane", "sdk_compatible": True}, "nii_planes_volume_converter.NiiPlaneStructuredConverter"),
        (by_plane, {"by": "plane", "kept": "instance"}, "nii_planes_volume_converter.NiiPlaneStructuredConverter"),
    ],
)
def test_the_importer_takes_the_layouts(
    tmp_path: Path, sly: Any, tree: Any, words: dict[str, Any], importer: str
) -> None:
    """Told apart by Supervisely as they were meant: objects, classes, colours by plane, scores of a table."""
    module, name = importer.split(".")
    helper = importlib.import_module("supervisely.convert.volume.nii.nii_volume_helper")
    converter = getattr(importlib.import_module(f"supervisely.convert.volume.nii.{module}"), name)
    source = tree(tmp_path / "in")
    voxtract.convert(source, tmp_path / "out", "supervisely-nifti", progress=False, **words)
    taken = converter(str(tmp_path / "out"))
    assert taken.validate_format()
    assert taken.items_count == len(source.cases)
    found = []
    for number, item in enumerate(taken.get_items()):
        (tmp_path / str(number)).mkdir()
        volume = helper.nifti_to_nrrd(item.path, str(tmp_path / str(number)))
        _, item.volume_meta = sly.volume.read_nrrd_serie_volume_np(volume)
        for figure in taken.to_supervisely(item, taken.get_meta(), {}, {}).spatial_figures:
            category = figure.volume_object.obj_class
            found.append((category.name, np.packbits(np.asarray(figure.geometry.data) != 0).tobytes()))
            if tree is by_plane:
                assert tuple(category.color) == {"left lung": (255, 0, 0), "b": (0, 128, 255)}[category.name]
        if Path(item.path).name.startswith("axl") and words.get("kept") is None:
            told = item.custom_data["scores"]
            assert {
                label: {index: one["score"] for index, one in slices["0-0-1"].items()} for label, slices in told.items()
            } == {1: {2: "0.50", 3: "1.00"}, 2: {2: "0.25", 3: "0.12"}}
    if words.get("kept") is None:
        assert sorted(found) == masks(source)
    else:  # it numbers files of classes in the order in which the system lists them
        assert sorted(mask for _, mask in found) == sorted(mask for _, mask in masks(source))
