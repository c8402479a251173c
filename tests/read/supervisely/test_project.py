"""Volume projects made by hand, as the format's description has them, and every way in which one can be broken."""

from __future__ import annotations

import base64
import gzip
import io
import json
import logging
import pickle
import zlib
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.read.contract import ReaderContract, Truth
from voxtract.errors import DamagedFile, InvalidInput, NotFound
from voxtract.geometry import VIEWS, Grid, Plane, View
from voxtract.model import Case, LabelVolume, Source, VolumeFile
from voxtract.read.supervisely.drawings import Drawn, DrawnFile, Line, Polygon, Rectangle, in_layers
from voxtract.read.supervisely.masks import EmbeddedMask, MaskFile
from voxtract.read.supervisely.project import is_project, open_project

SHAPE = (6, 7, 8)
AFFINE = np.array([[0.5, 0, 0, -10.3], [0, 0.75, 0, 20.6], [0, 0, 3, 3.25], [0, 0, 0, 1]])
OBLIQUE = np.array([[0.9, 0.1, 0.0, -10.0], [-0.2, 1.1, 0.3, 20.5], [0.0, -0.4, 2.5, 3.25], [0, 0, 0, 1]])
LIVER, TUMOUR = "1" * 32, "2" * 32  # keys of objects
NORMALS = {"axial": (0, 0, 1), "coronal": (0, 1, 0), "sagittal": (1, 0, 0)}

Json = dict[str, Any]


# --- a project by hand


def nrrd(
    path: Path, data: NDArray[Any], affine: NDArray[np.float64] | None, space: str = "right-anterior-superior"
) -> None:
    """A NRRD file; no space at all without an affine."""
    kind = {"u1": "uchar", "i2": "short", "f4": "float"}[data.dtype.str[1:]]
    lines = ["NRRD0004", f"type: {kind}", "dimension: 3", f"sizes: {' '.join(map(str, data.shape))}"]
    if affine is not None:
        columns = " ".join("(" + ",".join(map(repr, affine[:3, axis].tolist())) + ")" for axis in range(3))
        origin = "(" + ",".join(map(repr, affine[:3, 3].tolist())) + ")"
        lines += [f"space: {space}", f"space directions: {columns}", f"space origin: {origin}"]
    lines += ["endian: little", "encoding: gzip", "", ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(lines).encode() + gzip.compress(data.tobytes(order="F"), mtime=0))


def scan(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)


def mask(seed: int = 1, shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    return (np.random.default_rng(seed).random(shape) < 0.3).astype(np.uint8)


def meta(*classes: Json) -> Json:
    return {"classes": list(classes) or [a_class("liver", 5), a_class("tumour", 3)], "tags": []}


def a_class(title: str, value: int | None = None, color: str = "#FF8800", shape: str = "any") -> Json:
    description = "" if value is None else f"Mask pixel value: {value}"
    return {"title": title, "shape": shape, "color": color, "description": description, "hotkey": ""}


def volume_meta(shape: tuple[int, ...] = SHAPE, affine: NDArray[np.float64] | None = AFFINE) -> Json:
    told: Json = {"ACS": "RAS", "dimensionsIJK": dict(zip("xyz", shape, strict=True))}
    return told if affine is None else told | {"IJK2WorldMatrix": affine.reshape(-1).tolist()}


def thing(key: str = LIVER, title: str = "liver", *tags: Json) -> Json:
    return {"key": key, "classTitle": title, "tags": list(tags)}


def solid(key: str = "a" * 32, of: str = LIVER, **more: Any) -> Json:
    return {"key": key, "objectKey": of, "geometryType": "mask_3d", "geometry": {}, **more}


def sketch(kind: str, geometry: Json, of: str = LIVER, **more: Any) -> Json:
    return {"key": "f" * 32, "objectKey": of, "geometryType": kind, "geometry": geometry, **more}


def plane(view: str, slices: dict[int, list[Json]]) -> Json:
    normal = dict(zip("xyz", NORMALS[view], strict=True))
    return {
        "name": view,
        "normal": normal,
        "slices": [{"index": index, "figures": figures} for index, figures in slices.items()],
    }


def said(objects: list[Json] | None = None, solids: list[Json] | None = None, **more: Any) -> Json:
    return {
        "volumeMeta": volume_meta(),
        "tags": [],
        "objects": [thing()] if objects is None else objects,
        "planes": [],
        "spatialFigures": solids or [],
        **more,
    }


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def make(root: Path, annotation: Json, *, dataset: str = "ds0", item: str = "CT", affine: Any = AFFINE) -> Path:
    """A project with one item; more items when called again. Gives the folder of the item's masks."""
    folder = root / dataset.replace("/", "/datasets/")
    if not (root / "meta.json").exists():
        write(root / "meta.json", meta())
    nrrd(folder / "volume" / f"{item}.nrrd", scan(), affine)
    write(folder / "ann" / f"{item}.nrrd.json", annotation)
    return folder / "mask" / f"{item}.nrrd"


def one(root: Path) -> Case:
    (case,) = open_project(root).cases
    return case


def why_not(root: Path) -> str:
    """What is said about the only item."""
    with pytest.raises(InvalidInput) as caught:
        open_project(root)
    return str(caught.value)


def in_pieces(file: VolumeFile) -> NDArray[Any]:
    """The voxels slab by slab; one may overwrite the other."""
    return np.concatenate([slab.copy() for slab in file.slabs(3)], axis=2)


def voxels(labels: LabelVolume) -> NDArray[Any]:
    return labels.file.read().data


# --- items


def test_masks_scores_classes_and_tags(tmp_path: Path) -> None:
    scores = {
        "0-0-1": {"3": {"score": "0.80", "comment": None}, "5": {"score": "0.125", "comment": "unsure"}},
        "1-0-0": {"0": {"score": "", "comment": None}},
        "0-1-0": {"6": {"score": None, "comment": ""}},
    }
    tag = {"name": "quality", "value": "good", "key": "0" * 32}
    objects = [thing(LIVER, "liver", tag), thing(TUMOUR, "tumour")]
    figures = [solid("a" * 32, LIVER, customData=scores), solid("b" * 32, TUMOUR)]
    masks = make(tmp_path, said(objects, figures, tags=[{"name": "checked", "value": None}]))
    nrrd(masks / f"{'a' * 32}.nrrd", mask(1), AFFINE)
    nrrd(masks / f"{'b' * 32}.nrrd", mask(2) * np.uint8(255), AFFINE)
    source = open_project(tmp_path)
    (case,) = source.cases
    assert (case.id, case.views) == ("CT", None)
    assert case.image is not None
    np.testing.assert_array_equal(case.image.read().data, scan())
    np.testing.assert_array_equal(case.image.header().grid.affine, AFFINE)
    liver, tumour = case.labels
    np.testing.assert_array_equal(voxels(liver), mask(1) * 5)
    np.testing.assert_array_equal(voxels(tumour), mask(2) * 3)
    assert voxels(liver).dtype == liver.file.header().dtype == np.uint8
    np.testing.assert_array_equal(liver.file.header().grid.affine, AFFINE)
    assert (liver.name, liver.category, liver.views, dict(liver.objects)) == ("liver", 5, None, {5: LIVER})
    assert (tumour.name, tumour.category, dict(tumour.objects)) == ("tumour", 3, {3: TUMOUR})
    assert liver.scores == {"axial": {3: {5: 0.8}, 5: {5: 0.125}}}
    assert tumour.scores == {}
    assert source.classes is not None
    assert [(c.id, c.name, c.color) for c in source.classes.categories] == [
        (3, "tumour", "#ff8800"),
        (5, "liver", "#ff8800"),
    ]
    assert [remark.message for remark in source.remarks] == ["its comment is not kept"]
    assert "spatialFigures[0].customData.0-0-1.5" in source.remarks[0].where
    tags = [match.why for match in source.matches if match.role == "tag"]
    assert tags == [f"object {LIVER}: quality = good", "volume: checked"]
    assert [Path(match.where).name for match in source.matches if match.role == "labels"] == [
        f"{key * 32}.nrrd" for key in "ab"
    ]
    assert source.skipped == ()


def test_datasets_nest_and_both_forms_of_names_are_read(tmp_path: Path) -> None:
    for dataset, item in (("a", "CT"), ("a/b", "CT"), ("a/b/c", "CT"), ("brain_mask", "CT"), ("Hermann", "CT")):
        masks = make(tmp_path, said(solids=[solid()]), dataset=dataset, item=item)
        nrrd(masks / f"{'a' * 32}.nrrd", mask(), AFFINE)
    old = tmp_path / "a" / "ann" / "CT.nrrd.json"
    old.rename(old.with_name("CT.json"))
    (tmp_path / "a" / "mask" / "CT.nrrd").rename(tmp_path / "a" / "mask" / "CT")
    write(tmp_path / "key_id_map.json", {})
    write(tmp_path / "class2idx.json", {})
    assert is_project(tmp_path)
    source = open_project(tmp_path)
    assert [case.id for case in source.cases] == ["Hermann_CT", "a_CT", "a_b_CT", "a_b_c_CT", "brain_mask_CT"]
    for case in source.cases:
        np.testing.assert_array_equal(voxels(case.labels[0]), mask() * 5)
    assert source.skipped == ()
    assert source.remarks == ()
    assert "5 volumes in 5 datasets" in source.description


def test_ids_are_made_unique(tmp_path: Path) -> None:
    make(tmp_path, said(), dataset="a/b", item="CT")
    make(tmp_path, said(), dataset="a_b", item="CT")
    source = open_project(tmp_path)
    assert [case.id for case in source.cases] == ["a_b_CT", "a_b_CT_01"]
    assert "this one is called 'a_b_CT_01'" in source.remarks[0].message


@pytest.mark.parametrize(
    ("item", "views"), [("axl_anatomic", ("axial",)), ("knee-COR_1", ("coronal",)), ("cortex", None), ("CT", None)]
)
def test_a_plane_in_the_name_is_its_view(tmp_path: Path, item: str, views: tuple[View, ...] | None) -> None:
    make(tmp_path, said(), item=item)
    assert one(tmp_path).views == views


def test_a_volume_stored_lps_is_turned_and_its_masks_too(tmp_path: Path) -> None:
    """The voxels of an LPS file run the other way along x and y; figures speak of the RAS grid."""
    stored = np.diag([-0.5, -0.75, 3, 1])
    stored[:3, 3] = 10, 20, 30
    in_file = np.diag([-1, -1, 1, 1]) @ stored  # what a header in the space LPS says
    figures = [solid("a" * 32), solid("b" * 32), solid("c" * 32)]
    box = {"points": {"exterior": [[1, 2], [3, 2]], "interior": []}}
    planes = [plane("axial", {4: [sketch("rectangle", box)]})]
    ras = stored @ np.array([[-1, 0, 0, 5], [0, -1, 0, 6], [0, 0, 1, 0], [0, 0, 0, 1]])
    masks = make(tmp_path, said(solids=figures, planes=planes, volumeMeta=volume_meta(SHAPE, ras)))
    nrrd(tmp_path / "ds0/volume/CT.nrrd", scan(), in_file, "left-posterior-superior")
    nrrd(masks / f"{'a' * 32}.nrrd", mask(1), in_file, "LPS")
    nrrd(masks / f"{'b' * 32}.nrrd", mask(2), ras)
    nrrd(masks / f"{'c' * 32}.nrrd", mask(3), None)  # without a space it is on the RAS grid
    source = open_project(tmp_path)
    case = source.cases[0]
    assert source.remarks == ()
    assert case.image is not None
    np.testing.assert_array_equal(case.image.read().data, scan()[::-1, ::-1])
    np.testing.assert_allclose(case.image.header().grid.affine, ras)
    for labels, expected in zip(case.labels, (mask(1)[::-1, ::-1], mask(2), mask(3)), strict=False):
        np.testing.assert_array_equal(voxels(labels), expected * 5)
        np.testing.assert_allclose(labels.file.header().grid.affine, ras)
        np.testing.assert_array_equal(in_pieces(labels.file), expected * 5)
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[1:4, 2, 4] = 5
    np.testing.assert_array_equal(voxels(case.labels[3]), drawn)


def test_headers_that_tools_spoil_are_tolerated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rounded = OBLIQUE.copy()
    rounded[:3, 3] = np.rint(rounded[:3, 3])
    signs = OBLIQUE.copy()
    signs[:3, :3] *= np.array([[1, 1, -1], [1, 1, -1], [-1, -1, 1]])
    figures = [solid("a" * 32), solid("b" * 32)]
    masks = make(tmp_path, said(solids=figures, volumeMeta=volume_meta(SHAPE, OBLIQUE)), affine=OBLIQUE)
    for key, affine in (("a", rounded), ("b", signs)):
        nrrd(masks / f"{key * 32}.nrrd", mask(), affine)
    case = one(tmp_path)
    with caplog.at_level(logging.INFO):
        for labels in case.labels:
            np.testing.assert_array_equal(voxels(labels), mask() * 5)
            np.testing.assert_array_equal(labels.file.read().header.grid.affine, OBLIQUE)
    assert "rounded or has wrong signs" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("change", "said_of_it"),
    [
        (lambda a: a + np.outer([2.2, 0, 0, 0], [0, 0, 0, 1]), "its origin"),
        (lambda a: a @ np.diag([1.1, 1, 1, 1]), "its spacing or direction"),
        (lambda a: a @ np.diag([0, 0, 0, 1]), "without a direction"),
    ],
)
def test_a_mask_that_lies_elsewhere_is_an_error(
    tmp_path: Path, change: Callable[[NDArray[np.float64]], NDArray[np.float64]], said_of_it: str
) -> None:
    masks = make(tmp_path, said(solids=[solid()]))
    nrrd(masks / f"{'a' * 32}.nrrd", mask(), change(AFFINE))
    file = one(tmp_path).labels[0].file
    for ask in (file.header, file.read):
        with pytest.raises(InvalidInput, match=said_of_it) as caught:
            ask()
        assert str(caught.value).startswith(f"{masks / ('a' * 32)}.nrrd: ")


@pytest.mark.parametrize("affine", [AFFINE, None])
def test_a_mask_of_another_shape_is_an_error(tmp_path: Path, affine: NDArray[np.float64] | None) -> None:
    masks = make(tmp_path, said(solids=[solid()]))
    nrrd(masks / f"{'a' * 32}.nrrd", mask(shape=(7, 6, 8)), affine)
    with pytest.raises(InvalidInput, match="7 x 6 x 8 voxels, but its volume 6 x 7 x 8"):
        one(tmp_path).labels[0].file.read()


@pytest.mark.parametrize("values", [(0, 2), (0, 1, 255), (0, 1, 2), (0, -1)])
def test_other_voxels_than_a_masks_are_an_error(tmp_path: Path, values: tuple[int, ...]) -> None:
    masks = make(tmp_path, said(solids=[solid()]))
    data = np.zeros(SHAPE, np.int16)
    data.reshape(-1, order="A")[-len(values) :] = values
    nrrd(masks / f"{'a' * 32}.nrrd", data, AFFINE)
    with pytest.raises(InvalidInput, match=r"other voxels than 0 and 1|of 1 and of 255"):
        one(tmp_path).labels[0].file.read()


def test_voxels_of_1_and_255_in_planes_far_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxtract.read.supervisely.masks._SLAB", 1)
    masks = make(tmp_path, said(solids=[solid()]))
    data = np.zeros(SHAPE, np.uint8)
    data[0, 0, 0], data[0, 0, 7] = 1, 255
    nrrd(masks / f"{'a' * 32}.nrrd", data, AFFINE)
    with pytest.raises(InvalidInput, match="of 1 and of 255"):
        one(tmp_path).labels[0].file.read()


def test_an_empty_mask_is_told_and_a_full_one_is_fine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    figures = [solid("a" * 32), solid("b" * 32)]
    masks = make(tmp_path, said(solids=figures))
    nrrd(masks / f"{'a' * 32}.nrrd", np.zeros(SHAPE, np.uint8), AFFINE)
    nrrd(masks / f"{'b' * 32}.nrrd", np.ones(SHAPE, np.uint8), AFFINE)
    empty, full = one(tmp_path).labels
    assert not voxels(empty).any()
    assert "the mask is empty" in caplog.text
    assert (voxels(full) == 5).all()


class TestMaskFile(ReaderContract):
    @pytest.fixture
    def truth(self) -> Truth:
        return Truth(mask() * np.uint16(1000), AFFINE)

    @pytest.fixture
    def file(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        nrrd(tmp_path / "a.nrrd", (truth.stored > 0).astype(np.uint8), AFFINE)
        return MaskFile(tmp_path / "a.nrrd", Grid(SHAPE, AFFINE), 1000)

    @pytest.fixture
    def voxels_lost(self, tmp_path: Path, file: VolumeFile) -> VolumeFile:
        (tmp_path / "a.nrrd").write_bytes((tmp_path / "a.nrrd").read_bytes()[:-9])
        return file

    @pytest.fixture
    def missing(self, tmp_path: Path) -> VolumeFile:
        return MaskFile(tmp_path / "nothing.nrrd", Grid(SHAPE, AFFINE), 1)


# --- masks in the annotation


def embedded(data: NDArray[np.uint8]) -> Json:
    raw = ",".join(map(str, data.shape)).encode() + b"|" + data.tobytes(order="C")
    return {
        "mask_3d": {
            "data": base64.b64encode(gzip.compress(raw, mtime=0)).decode(),
            "space": "",
            "space_origin": [0, 0, 0],
        }
    }


def test_a_mask_in_the_annotation_is_read_where_there_is_no_file(tmp_path: Path) -> None:
    figures = [solid("a" * 32, geometry=embedded(mask(1))), solid("b" * 32, geometry=embedded(mask(2)))]
    masks = make(tmp_path, said(solids=figures))
    nrrd(masks / f"{'b' * 32}.nrrd", mask(3), AFFINE)
    inside, beside = one(tmp_path).labels
    np.testing.assert_array_equal(voxels(inside), mask(1) * 5)
    np.testing.assert_array_equal(in_pieces(inside.file), mask(1) * 5)
    np.testing.assert_array_equal(voxels(beside), mask(3) * 5)  # the file wins
    assert isinstance(inside.file, EmbeddedMask)
    again = pickle.loads(pickle.dumps(inside.file))
    np.testing.assert_array_equal(again.read().data, mask(1) * 5)
    assert again.paths == (str(tmp_path / "ds0/ann/CT.nrrd.json"),)


def test_the_placeholder_of_downloads_is_no_mask(tmp_path: Path) -> None:
    masks = make(tmp_path, said(solids=[solid(geometry=embedded(np.zeros((3, 3, 3), np.uint8)))]))
    text = why_not(tmp_path)
    assert f"{masks / ('a' * 32)}.nrrd: no such mask" in text
    assert "3 x 3 x 3 voxels, not the volume's 6 x 7 x 8" in text


@pytest.mark.parametrize(
    ("raw", "said_of_it"),
    [
        (b"6,7,8|" + bytes(335), "holds 335 voxels, expected 336"),
        (b"6,7,8|" + bytes(337), "holds 337 voxels, expected 336"),
        (b"6,7,8|" + bytes(100_000), "too long"),
        (b"6,7,8|" + b"\2" * 336, "other voxels"),
    ],
)
def test_damaged_masks_in_the_annotation(tmp_path: Path, raw: bytes, said_of_it: str) -> None:
    data = base64.b64encode(gzip.compress(raw, mtime=0)).decode()
    make(tmp_path, said(solids=[solid(geometry={"mask_3d": {"data": data}})]))
    with pytest.raises(InvalidInput, match=said_of_it) as caught:
        one(tmp_path).labels[0].file.read()
    assert "spatialFigures[0].geometry.mask_3d.data" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        "?",
        "AAAA",
        base64.b64encode(gzip.compress(b"six,7,8|", mtime=0)).decode(),
        base64.b64encode(gzip.compress(b"6,7|", mtime=0)).decode(),
        base64.b64encode(gzip.compress(b"6,7,8", mtime=0)).decode(),
        base64.b64encode(gzip.compress(bytes(1000), mtime=0)).decode(),
    ],
)
def test_what_is_no_mask_in_the_annotation(tmp_path: Path, data: str) -> None:
    make(tmp_path, said(solids=[solid(geometry={"mask_3d": {"data": data}})]))
    assert "spatialFigures[0].geometry.mask_3d.data: " in why_not(tmp_path)


# --- label values


def labelled(key: str, title: str, value: int | None = None) -> Json:
    tags = [] if value is None else [{"name": "label value", "value": value, "key": "0" * 32}]
    return thing(key, title, *tags)


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([("1", "liver", None), ("2", "tumour", None)], [5, 3]),
        ([("1", "liver", None), ("2", "liver", None), ("3", "tumour", None)], [1, 2, 3]),
        ([("1", "liver", 70_000), ("2", "liver", 2)], [70_000, 2]),
        ([("1", "liver", None), ("2", "liver", 1), ("3", "tumour", None)], [2, 1, 3]),
        ([("1", "liver", 4), ("2", "tumour", 4)], [4, 4]),
    ],
)
def test_the_label_value_of_an_object(
    tmp_path: Path, objects: list[tuple[str, str, int | None]], expected: list[int]
) -> None:
    things = [labelled(key * 32, title, value) for key, title, value in objects]
    figures = [solid(key * 32, key * 32) for key, _, _ in objects]
    masks = make(tmp_path, said(things, figures))
    for key, _, _ in objects:
        nrrd(masks / f"{key * 32}.nrrd", mask(int(key)), AFFINE)
    case = one(tmp_path)
    for labels, (key, title, _), value in zip(case.labels, objects, expected, strict=True):
        np.testing.assert_array_equal(voxels(labels), mask(int(key)).astype(np.int64) * value)
        assert voxels(labels).dtype == np.min_scalar_type(value)
        assert dict(labels.objects) == {value: key * 32}
        assert labels.category == {"liver": 5, "tumour": 3}[title]
    assert len({labels.name for labels in case.labels}) == len(objects)


def test_ids_of_classes(tmp_path: Path) -> None:
    classes = [
        a_class("a"),
        a_class("b", 2),
        a_class("c", 7),
        a_class("d", 7),
        a_class("e", 0),
        a_class("f", color="red"),
    ]
    write(tmp_path / "meta.json", meta(*classes))
    make(tmp_path, said([]))
    source = open_project(tmp_path)
    assert source.classes is not None
    ids = {one.name: one.id for one in source.classes.categories}
    assert ids == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}
    told = [remark.message for remark in source.remarks]
    assert sum("pixel value 7 is that of another class" in message for message in told) == 2
    assert sum("'red' is no colour" in message for message in told) == 1


# --- figures on slices


def bitmap(pixels: NDArray[np.bool_], column: int, row: int, mode: str = "P") -> Json:
    if mode == "P":  # as the vendor's tools write it
        image = Image.fromarray(pixels.astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 255, 255, 255])
    elif mode in ("RGBA", "LA"):
        bands = len(mode)
        array = np.full((*pixels.shape, bands), 255, np.uint8)
        array[..., -1] = pixels * 255
        image = Image.fromarray(array, mode)
    elif mode == "1":
        image = Image.fromarray(pixels)
    else:
        image = Image.fromarray((pixels * 200).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG", **({"transparency": 0} if mode == "P" else {}))
    data = base64.b64encode(zlib.compress(file.getvalue())).decode()
    return {"bitmap": {"origin": [column, row], "data": data}}


def painted(view: View, index: int, left: int, top: int, pixels: NDArray[np.bool_], value: int) -> NDArray[np.uint8]:
    """One voxel at a time: column and row of a slice are x, y (axial), x, z (coronal), y, z (sagittal)."""
    out = np.zeros(SHAPE, np.uint8)
    for row, column in np.argwhere(pixels).tolist():
        c, r = column + left, row + top
        out[{"axial": (c, r, index), "coronal": (c, index, r), "sagittal": (index, c, r)}[view]] = value
    return out


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGBA", "LA", "RGB"])
@pytest.mark.parametrize("view", VIEWS)
def test_bitmaps_lie_where_they_are_shown(tmp_path: Path, view: View, mode: str) -> None:
    pixels = np.array([[1, 0, 1], [0, 1, 1]], bool)
    figure = sketch("bitmap", bitmap(pixels, 2, 3, mode), customData={})
    make(tmp_path, said(planes=[plane(view, {4: [figure]})]))
    (labels,) = one(tmp_path).labels
    np.testing.assert_array_equal(voxels(labels), painted(view, 4, 2, 3, pixels, 5))
    np.testing.assert_array_equal(in_pieces(labels.file), voxels(labels))
    assert labels.views == (view,)
    assert labels.category == {5: 5}
    assert dict(labels.objects) == {5: LIVER}
    assert pickle.loads(pickle.dumps(labels.file)) == labels.file


def test_views_objects_and_scores_of_figures(tmp_path: Path) -> None:
    def box(left: int, top: int, right: int, bottom: int, of: str, score: Json | None = None) -> Json:
        corners = [[left, top], [right, bottom]]
        return sketch("rectangle", {"points": {"exterior": corners, "interior": []}}, of, customData=score or {})

    told = {"0-0-1": {"2": {"score": "0.5"}, "3": {"score": "0.7"}}}
    planes = [
        plane("axial", {2: [box(0, 0, 1, 1, LIVER, told), box(4, 4, 5, 5, TUMOUR)], 3: [box(5, 6, 5, 6, LIVER)]}),
        plane("sagittal", {0: [box(0, 0, 3, 3, LIVER), box(3, 3, 4, 4, TUMOUR), box(2, 2, 3, 3, LIVER)]}),
    ]
    make(tmp_path, said([thing(LIVER, "liver"), thing(TUMOUR, "tumour")], planes=planes))
    source = open_project(tmp_path)
    axial, *sagittal = source.cases[0].labels
    expected = np.zeros(SHAPE, np.uint8)
    expected[0:2, 0:2, 2] = expected[5, 6, 3] = 5
    expected[4:6, 4:6, 2] = 3
    np.testing.assert_array_equal(voxels(axial), expected)
    assert axial.category == {5: 5, 3: 3}
    assert axial.scores == {"axial": {2: {5: 0.5}}}
    assert ["scores of other slices" in remark.message for remark in source.remarks] == [True]
    assert [labels.views for labels in sagittal] == [("sagittal",), ("sagittal",)]  # two objects share a pixel
    first, second = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    first[0, 0:4, 0:4] = 5
    second[0, 3:5, 3:5] = 3
    np.testing.assert_array_equal(voxels(sagittal[0]), first)
    np.testing.assert_array_equal(voxels(sagittal[1]), second)
    assert [labels.name for labels in source.cases[0].labels] == ["axial", "sagittal", "sagittal 2"]


def test_what_reaches_out_of_the_slice_is_cut_off_and_told(tmp_path: Path) -> None:
    pixels = np.ones((4, 4), bool)
    figures = [
        sketch("bitmap", bitmap(pixels, -2, -1)),
        sketch("rectangle", {"points": {"exterior": [[5, 6], [50, 60]], "interior": []}}),
        sketch("rectangle", {"points": {"exterior": [[6, 0], [7, 1]], "interior": []}}),
        sketch("graph", {}),
    ]
    make(tmp_path, said(planes=[plane("axial", {0: figures})]))
    source = open_project(tmp_path)
    expected = np.zeros(SHAPE, np.uint8)
    expected[0:2, 0:3, 0] = expected[5, 6, 0] = 5
    np.testing.assert_array_equal(voxels(source.cases[0].labels[0]), expected)
    assert ["reaches out of its slice of 6 x 7" in remark.message for remark in source.remarks] == [True, True]
    assert [skip.reason for skip in source.skipped] == [
        "a figure outside of its slice of 6 x 7 pixels",
        "a figure of type 'graph', which is not read",
    ]


coordinates = st.tuples(st.integers(-2, 8), st.integers(-2, 8))
quarters = st.tuples(st.integers(-8, 32), st.integers(-8, 32)).map(lambda p: (p[0] / 4, p[1] / 4))
outlines = st.lists(coordinates | quarters, min_size=3, max_size=7).map(tuple)


def inside(x: int, y: int, points: tuple[tuple[float, float], ...]) -> bool:
    """Whether a point lies in a closed polygon (even-odd) or on its edge, in fractions."""
    crossings = 0
    for begin, end in pairwise((*points, points[0])):
        (x0, y0), (x1, y1) = ([Fraction(v) for v in point] for point in (begin, end))
        within = min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1)
        if within and (x1 - x0) * (y - y0) == (y1 - y0) * (x - x0):
            return True
        if (y0 > y) != (y1 > y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) > x:
            crossings += 1
    return crossings % 2 == 1


def drawn(shape: Any, view: View = "axial") -> NDArray[Any]:
    """Rows and columns of slice 1 as a label volume has them."""
    file = DrawnFile(Path("a.json"), view, Grid(SHAPE, AFFINE), (Drawn(1, 1, shape),))
    part: NDArray[Any] = file.read().data.take(1, axis=Plane(view, SHAPE).axes[2])
    return part.T


@settings(max_examples=200)
@given(exterior=outlines, holes=st.lists(outlines, max_size=2).map(tuple))
def test_polygons_are_filled_as_fractions_say(
    exterior: tuple[tuple[float, float], ...], holes: tuple[tuple[tuple[float, float], ...], ...]
) -> None:
    expected = [
        [inside(x, y, exterior) and not any(inside(x, y, hole) for hole in holes) for x in range(SHAPE[0])]
        for y in range(SHAPE[1])
    ]
    np.testing.assert_array_equal(drawn(Polygon(exterior, holes)), np.array(expected))


@given(a=coordinates, b=coordinates)
def test_a_polygon_through_the_corners_of_a_rectangle_is_the_rectangle(a: tuple[int, int], b: tuple[int, int]) -> None:
    (left, right), (top, bottom) = sorted((a[0], b[0])), sorted((a[1], b[1]))
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    rectangle = drawn(Rectangle((left, top, right, bottom)))
    np.testing.assert_array_equal(drawn(Polygon(corners)), rectangle)
    expected = np.zeros((SHAPE[1], SHAPE[0]), np.uint8)
    expected[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)] = 1
    np.testing.assert_array_equal(rectangle, expected)


@given(points=st.lists(coordinates | quarters, min_size=1, max_size=4).map(tuple))
def test_a_line_is_unbroken_and_goes_through_its_points(points: tuple[tuple[float, float], ...]) -> None:
    left, top, right, bottom = Line(points).box
    mask = Line(points).mask((left, top, right, bottom))
    for x, y in points:
        assert mask[int(np.floor(y + 0.5)) - top, int(np.floor(x + 0.5)) - left]
    from scipy.ndimage import label

    assert label(mask, np.ones((3, 3)))[1] == 1
    longest = sum(max(abs(x1 - x0), abs(y1 - y0)) + 2 for (x0, y0), (x1, y1) in pairwise(points)) + 1
    assert mask.sum() <= longest


def test_points_and_lines_of_a_project(tmp_path: Path) -> None:
    figures = [
        sketch("point", {"points": {"exterior": [[2, 3]], "interior": []}}),
        sketch("line", {"points": {"exterior": [[0, 0], [0, 6], [5, 6]], "interior": []}}),
        sketch(
            "polygon",
            {"points": {"exterior": [[3, 0], [5, 0], [5, 2], [3, 2]], "interior": [[[4, 1], [4, 1], [4, 1]]]}},
        ),
    ]
    make(tmp_path, said(planes=[plane("axial", {0: figures})]))
    expected = np.zeros(SHAPE, np.uint8)
    expected[2, 3, 0] = expected[0, :, 0] = expected[:, 6, 0] = 5
    expected[3:6, 0:3, 0] = 5
    expected[4, 1, 0] = 0
    (labels,) = one(tmp_path).labels
    np.testing.assert_array_equal(voxels(labels), expected)


boxes = st.tuples(*[st.integers(0, 5)] * 4).map(
    lambda b: Rectangle((min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])))
)


labels_of_objects = st.sampled_from([(1, "a"), (1, "b"), (2, "c"), (3, "d")])


@given(
    st.lists(
        st.tuples(st.integers(0, 2), labels_of_objects, boxes).map(lambda one: (one[0], *one[1], one[2])), max_size=12
    )
)
def test_layers_lose_no_pixel_of_any_object(figures: list[tuple[int, int, str, Any]]) -> None:
    layers = in_layers(figures)
    assert sorted(position for layer in layers for position in layer) == list(range(len(figures)))
    for layer in layers:
        chosen = [figures[position] for position in layer]
        owners = {(label, key) for _, label, key, _ in chosen}
        assert len({label for label, _ in owners}) == len(owners)
        shapes = tuple(Drawn(index, label, shape) for index, label, _, shape in chosen)
        found = DrawnFile(Path("a.json"), "axial", Grid(SHAPE, AFFINE), shapes).read().data
        for label, key in owners:
            expected = np.zeros(SHAPE, bool)
            for index, _, other, shape in chosen:
                left, top, right, bottom = shape.box
                expected[left : right + 1, top : bottom + 1, index] |= other == key
            np.testing.assert_array_equal(found == label, expected)


# --- where the volume lies


def test_volume_meta_places_what_has_no_header(tmp_path: Path) -> None:
    length = np.sqrt((OBLIQUE[:3, :3] ** 2).sum(axis=0))
    triple = {
        "spacing": length.tolist(),
        "origin": OBLIQUE[:3, 3].tolist(),
        "directions": (OBLIQUE[:3, :3] / length).reshape(-1).tolist(),
    }
    lps = (np.diag([-1, -1, 1, 1]) @ OBLIQUE).reshape(-1).tolist()
    for name, told in {
        "matrix": volume_meta(SHAPE, OBLIQUE),
        "triple": volume_meta(SHAPE, None) | triple,
        "lps": volume_meta(SHAPE, None) | {"ACS": "LPS", "IJK2WorldMatrix": lps},
    }.items():
        masks = make(tmp_path / name, said(solids=[solid()], volumeMeta=told), affine=None)
        nrrd(masks / f"{'a' * 32}.nrrd", mask(), OBLIQUE)
        source = open_project(tmp_path / name)
        case = source.cases[0]
        assert case.image is not None
        np.testing.assert_allclose(case.image.header().grid.affine, OBLIQUE, atol=1e-12)
        np.testing.assert_array_equal(case.image.read().data, scan())
        np.testing.assert_array_equal(in_pieces(case.image), scan())
        assert ["names no space" in remark.message for remark in source.remarks] == [True]
        (tmp_path / name / "ds0/volume/CT.nrrd").write_bytes(b"")  # a download of annotations alone
        source = open_project(tmp_path / name)
        case = source.cases[0]
        assert case.image is None
        assert ["the file is empty" in remark.message for remark in source.remarks] == [True]
        np.testing.assert_allclose(case.labels[0].file.read().header.grid.affine, OBLIQUE, atol=1e-12)
        np.testing.assert_array_equal(voxels(case.labels[0]), mask() * 5)
        (tmp_path / name / "ds0/volume/CT.nrrd").unlink()
        source = open_project(tmp_path / name)
        assert (source.cases[0].id, source.cases[0].image) == ("CT", None)
        assert ["there is no file in volume/" in remark.message for remark in source.remarks] == [True]


def test_a_volume_that_nothing_places(tmp_path: Path) -> None:
    make(tmp_path, said(volumeMeta=volume_meta(SHAPE, None)), affine=None)
    source = open_project(tmp_path)
    assert any("its axes are taken as RAS" in remark.message for remark in source.remarks)
    (tmp_path / "ds0/volume/CT.nrrd").write_bytes(b"")
    assert "does not say where the volume lies" in why_not(tmp_path)


def test_header_and_volume_meta_that_disagree(tmp_path: Path) -> None:
    make(tmp_path, said(volumeMeta=volume_meta(SHAPE, OBLIQUE)))
    source = open_project(tmp_path)
    assert ["puts the volume elsewhere" in remark.message for remark in source.remarks] == [True]
    image = source.cases[0].image
    assert image is not None
    np.testing.assert_array_equal(image.header().grid.affine, AFFINE)
    make(tmp_path, said(volumeMeta=volume_meta((6, 8, 7))))
    text = why_not(tmp_path)
    assert "6 x 7 x 8 voxels along R, A, S" in text
    assert "6 x 8 x 7" in text


def test_a_rescale_that_is_not_applied_is_told(tmp_path: Path) -> None:
    make(tmp_path, said(volumeMeta=volume_meta() | {"rescaleSlope": 1, "rescaleIntercept": -1024}))
    assert ["-1024 is not applied" in remark.message for remark in open_project(tmp_path).remarks] == [True]


# --- what is not used is told


def test_nothing_is_passed_over_in_silence(tmp_path: Path) -> None:
    masks = make(tmp_path, said(solids=[solid(), solid("c" * 32, geometryType="closed_surface_mesh")]))
    nrrd(masks / f"{'a' * 32}.nrrd", mask(), AFFINE)
    folder = tmp_path / "ds0"
    unused = [
        masks / "semantic_segmentation.nrrd",
        masks / "human-readable-objects",
        folder / "mask" / "PET.nrrd",
        folder / "interpolation" / "CT.nrrd",
        folder / "volume" / "MR.nrrd",
        folder / "volume" / "notes.txt",
        folder / "ann" / "CT.json",
        folder / "readme",
        tmp_path / "README.md",
        tmp_path / "pictures",
    ]
    for path in unused:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix and path.parent.name != "mask" and path.parent.name != "interpolation":
            path.write_text("{}")
        else:
            path.mkdir()
    for junk in (".DS_Store", "Thumbs.db", "._meta.json"):
        (tmp_path / junk).write_text("")
        (masks / junk).write_text("")
    source = open_project(tmp_path)
    assert sorted(skip.where for skip in source.skipped) == sorted(
        [*map(str, unused), f"{folder / 'ann' / 'CT.nrrd.json'}: spatialFigures[1]"]
    )
    assert all(skip.reason for skip in source.skipped)


def test_one_bad_item_does_not_stop_the_others(tmp_path: Path) -> None:
    make(tmp_path, said(), item="good")
    make(tmp_path, said(), item="bad")
    make(tmp_path, said(), item="worse")
    (tmp_path / "ds0/ann/bad.nrrd.json").write_text("{")
    (tmp_path / "ds0/volume/worse.nrrd").write_bytes(b"no")
    source = open_project(tmp_path)
    assert [case.id for case in source.cases] == ["good"]
    assert [Path(skip.where).name for skip in source.skipped] == ["bad.nrrd", "worse.nrrd"]
    assert "is no JSON file" in source.skipped[0].reason
    assert "is not a NRRD file" in source.skipped[1].reason


def without(value: Json, name: str) -> Json:
    return {key: other for key, other in value.items() if key != name}


def with_score(score: Any) -> Json:
    return said(solids=[solid(customData={"0-0-1": {"1": {"score": score}}})])


GIF = base64.b64encode(zlib.compress(b"GIF89a")).decode()
RECTANGLE = {"points": {"exterior": [[0, 0], [1, 1]], "interior": []}}


def with_sketch(kind: str, geometry: Any, index: Any = 0, **more: Any) -> Json:
    return said(planes=[plane("axial", {index: [sketch(kind, geometry, **more)]})])


@pytest.mark.parametrize(
    ("annotation", "said_of_it"),
    [
        ([], "expected an object"),
        (without(said(), "volumeMeta"), "has no 'volumeMeta'"),
        (said(volumeMeta={}), "has no 'dimensionsIJK'"),
        (said(volumeMeta=volume_meta((6, 7, 0))), "dimensionsIJK: is"),
        (said(volumeMeta=volume_meta() | {"IJK2WorldMatrix": [1, 2]}), "expected 16 numbers"),
        (said(volumeMeta=volume_meta() | {"IJK2WorldMatrix": [0] * 16}), "that span a volume"),
        (said(objects=[thing(title="spleen")]), "objects[0].classTitle: 'spleen' is no class of the project"),
        (said(objects=[thing(), thing()]), "is there twice"),
        (said(objects=[thing("../../etc/passwd")]), "expected a key of 32 hexadecimal digits"),
        (said(objects=[labelled(LIVER, "liver", 0)]), "expected a label value from 1 on"),
        (said(objects=[thing(LIVER, "liver", {"name": "label value", "value": "x"})]), "expected a number"),
        (said() | {"objects": {}}, "objects: is {}, expected a list"),
        (said(solids=[solid(of=TUMOUR)]), "is no object of this annotation"),
        (said(solids=[solid("../" + "a" * 29)]), "expected a key of 32 hexadecimal digits"),
        (said(solids=[solid()]), "no such mask"),
        (with_score("high"), 'customData.0-0-1.1.score: is "high", expected a number'),
        (with_score("nan"), "expected a finite number"),
        (with_score(True), "expected a number"),
        (said(solids=[solid(customData=[1])]), "customData: is [1], expected an object"),
        (with_sketch("rectangle", RECTANGLE, 8), "is 8, expected a slice from 0 to 7"),
        (with_sketch("rectangle", RECTANGLE, -1), "expected a slice from 0 to 7"),
        (with_sketch("rectangle", RECTANGLE, 1.5), "is 1.5, expected a whole number"),
        (with_sketch("rectangle", {"points": {"exterior": [[0, 0]]}}), "at least 2 points"),
        (with_sketch("rectangle", {"points": {"exterior": [[0, 0], [1, 1], [2, 2]]}}), "two corners"),
        (with_sketch("rectangle", {"points": {"exterior": [[0, 0], [1e300, 1]]}}), "coordinates of a slice"),
        (with_sketch("rectangle", {}), "has no 'points'"),
        (with_sketch("polygon", {"points": {"exterior": [[0, 0], [1, 1]]}}), "at least 3 points"),
        (with_sketch("bitmap", {"bitmap": {"origin": [0], "data": ""}}), "expected 2 numbers"),
        (with_sketch("bitmap", {"bitmap": {"origin": [0, 0], "data": "!!!!"}}), "is not base64 of compressed data"),
        (with_sketch("bitmap", {"bitmap": {"origin": [0, 0], "data": GIF}}), "holds no PNG image"),
        (with_sketch("bitmap", bitmap(np.ones((1, 1), bool), 1 << 30, 0)), "fits no slice"),
        (said(planes=[{"name": "diagonal", "normal": {"x": 1, "y": 1, "z": 0}, "slices": []}]), "a plane called"),
        (said(objects=[], volumeMeta=volume_meta() | {"ACS": 5}), "ACS: is 5, expected a text"),
    ],
)  # fmt: skip
def test_a_broken_annotation_is_refused_with_its_place(tmp_path: Path, annotation: Any, said_of_it: str) -> None:
    make(tmp_path, annotation)
    text = why_not(tmp_path)
    assert str(tmp_path / "ds0") in text
    assert said_of_it in text


def test_damage_inside_of_a_bitmap_is_told_when_it_is_read(tmp_path: Path) -> None:
    whole = base64.b64decode(bitmap(np.ones((40, 40), bool), 0, 0, "L")["bitmap"]["data"])
    png = zlib.decompress(whole)
    changed = zlib.compress(png[:50] + b"xx" + png[52:])
    for bad in (zlib.compress(png)[:-8], zlib.compress(png[:60]), zlib.compress(png + bytes(1 << 20)), changed):
        figure = sketch("bitmap", {"bitmap": {"origin": [0, 0], "data": base64.b64encode(bad).decode()}})
        make(tmp_path, said(planes=[plane("axial", {0: [figure]})]))
        with pytest.raises(DamagedFile, match=r"planes\[0\].slices\[0\].figures\[0\].geometry.bitmap.data"):
            voxels(one(tmp_path).labels[0])


def test_a_picture_of_a_billion_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    png = zlib.decompress(base64.b64decode(bitmap(np.ones((1, 1), bool), 0, 0, "L")["bitmap"]["data"]))
    huge = png[:16] + (1 << 15).to_bytes(4, "big") * 2 + png[24:]
    data = base64.b64encode(zlib.compress(huge)).decode()
    make(tmp_path, with_sketch("bitmap", {"bitmap": {"origin": [0, 0], "data": data}}))
    assert "fits no slice" in why_not(tmp_path)


def test_scores_outside_of_the_volume_are_told_and_not_read(tmp_path: Path) -> None:
    told = {"0-0-1": {"8": {"score": "1"}, "-1": {"score": "1"}, "7": {"score": "1"}}, "1-1-0": {}, "note": {}}
    masks = make(tmp_path, said(solids=[solid(customData=told)]))
    nrrd(masks / f"{'a' * 32}.nrrd", mask(), AFFINE)
    source = open_project(tmp_path)
    assert source.cases[0].labels[0].scores == {"axial": {7: {5: 1.0}}}
    assert [remark.message for remark in source.remarks] == [
        *["is outside of the volume, whose axial slices are 0 to 7; not read"] * 2,
        *["is not known and not read"] * 2,
    ]


@pytest.mark.parametrize(
    ("content", "error", "said_of_it"),
    [
        (None, NotFound, "meta.json: no such file"),
        ("{", DamagedFile, "is no JSON file"),
        ("[" * 100_000, DamagedFile, "is no JSON file"),
        ("\xff", DamagedFile, "is no JSON file"),
        ("[]", InvalidInput, "expected an object"),
        ("{}", InvalidInput, "has no 'classes'"),
        ('{"classes": [{"title": 5}]}', InvalidInput, "classes[0].title: is 5, expected a text"),
        ('{"classes": [{"title": "a"}, {"title": "a"}]}', InvalidInput, "'a' is there twice"),
    ],
)
def test_a_broken_meta_json(tmp_path: Path, content: str | None, error: type[Exception], said_of_it: str) -> None:
    make(tmp_path, said())
    (tmp_path / "meta.json").unlink()
    if content is not None:
        (tmp_path / "meta.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(error) as caught:
        open_project(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "meta.json"))
    assert said_of_it in str(caught.value)


def test_what_is_no_project(tmp_path: Path) -> None:
    assert not is_project(tmp_path)
    assert not is_project(tmp_path / "nothing")
    write(tmp_path / "meta.json", meta())
    assert not is_project(tmp_path)
    with pytest.raises(NotFound, match="holds no dataset"):
        open_project(tmp_path)
    (tmp_path / "ds0" / "volume").mkdir(parents=True)
    assert is_project(tmp_path)
    assert "no volume of the project can be used" in why_not(tmp_path)


def test_listing_reads_no_voxels(tmp_path: Path) -> None:
    """Whatever stands behind the headers, and however damaged it is, the listing does not see it."""
    masks = make(tmp_path, said(solids=[solid()]))
    nrrd(masks / f"{'a' * 32}.nrrd", mask(), AFFINE)
    for path in tmp_path.rglob("*.nrrd"):
        if path.is_file():
            content = path.read_bytes()
            path.write_bytes(content[: content.index(b"\x1f\x8b")] + b"\x1f\x8b" + bytes(200))
    source: Source = open_project(tmp_path)
    with pytest.raises(DamagedFile):
        source.cases[0].labels[0].file.read()
