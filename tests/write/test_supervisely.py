"""Cases written for Supervisely and read back: voxel for voxel, place for place, score for score."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput, OutputError
from voxtract.geometry import VIEWS, Grid, View
from voxtract.model import Case, Header, LabelVolume, Source, Volume, VolumeFile
from voxtract.read.supervisely import open_supervisely
from voxtract.read.supervisely.project import open_project
from voxtract.write.supervisely import NiftiFolders, VolumeProject, write_cases

CLASSES = ClassMap.of(
    {1: {"name": "liver", "color": "#ff0000"}, 2: "tumour 2", 7: {"name": "Gefäß", "color": "#0a0b0c"}}
)
CODES = ["RAS", "LPS", "LAS", "ASL", "SRA", "PIR", "RSP"]
AXIS_OF = {"axial": 2, "coronal": 1, "sagittal": 0}
VIEW_OF: dict[int, View] = {2: "axial", 1: "coronal", 0: "sagittal"}
KEY = "0123456789abcdef" * 2


@dataclass(frozen=True, eq=False)
class Memory:
    """A volume that is already there."""

    volume: Volume
    name: str = "memory"

    @property
    def where(self) -> str:
        return self.name

    @property
    def volume_index(self) -> int | None:
        return None

    @property
    def paths(self) -> tuple[str, ...]:
        return ()

    def header(self) -> Header:
        return self.volume.header

    def read(self) -> Volume:
        return self.volume

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        for first in range(0, self.volume.data.shape[2], planes):
            yield self.volume.data[..., first : first + planes]


def memory(
    data: NDArray[Any], affine: NDArray[np.float64] | None = None, slope: float = 1.0, intercept: float = 0.0
) -> Memory:
    x, y, z = data.shape
    grid = Grid((x, y, z), np.eye(4) if affine is None else affine)
    return Memory(Volume(Header(grid, data.dtype, slope, intercept, "memory"), data))


def affine_of(codes: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    """A slightly oblique affine whose axes are nearest to `codes`; numbers that 32 bits hold."""
    rng = np.random.default_rng(seed)
    ras = np.eye(4)
    ras[:3, :3] = np.diag([0.5, 0.75, 3.0]) + rng.integers(-3, 4, (3, 3)) / 64
    ras[:3, 3] = rng.integers(-800, 800, 3) / 8
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    return np.asarray(ras @ nib.orientations.inv_ornt_aff(turn, shape), np.float64)


# --- what a case says, by nibabel and plain loops

Told = tuple[str, int, str, bytes, tuple[tuple[str, int, float], ...]]  # class, label, view, mask, scores


def canonical(data: NDArray[Any], affine: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    image = nib.as_closest_canonical(nib.Nifti1Image(data.astype(np.int64), affine, dtype=np.int64))
    return np.asarray(image.dataobj), image.affine


def scores_of(labels: LabelVolume, value: int) -> Iterator[tuple[View, int, float]]:
    """Scores of an object with view and slice of the RAS grid."""
    header = labels.file.header()
    ornt = nib.orientations.io_orientation(header.grid.affine)
    for view, slices in labels.scores.items():
        axis = AXIS_OF[view]
        for index, told in slices.items():
            if told.get(value) is not None:
                at = header.grid.shape[axis] - 1 - index if ornt[axis, 1] < 0 else index
                yield VIEW_OF[int(ornt[axis, 0])], at, told[value]


def told_by(case: Case, classes: ClassMap) -> list[Told]:
    """All objects of a case; pieces of one object in one view are one."""
    masks: dict[tuple[Any, ...], NDArray[np.bool_]] = {}
    scores: dict[tuple[Any, ...], set[tuple[str, int, float]]] = {}
    names = {category.id: category.name for category in classes.categories}
    for number, labels in enumerate(case.labels):
        volume = labels.file.read()
        data, _ = canonical(volume.data, volume.header.grid.affine)
        ornt = nib.orientations.io_orientation(volume.header.grid.affine)
        for value in np.unique(volume.data[volume.data > 0]).tolist():
            category = labels.category
            if not isinstance(category, int):
                category = value if category is None else category[value]
            views = [VIEW_OF[int(ornt[AXIS_OF[view], 0])] for view in labels.views] if labels.views else ["space"]
            for view in views:
                key = (names[category], value, view, labels.objects.get(value, f"{number} {value}"))
                masks[key] = masks.get(key, np.zeros(data.shape, bool)) | (data == value)
                mine = scores.setdefault(key, set())
                mine |= {one for one in scores_of(labels, value) if view in ("space", one[0])}
    return sorted((*key[:3], np.packbits(masks[key]).tobytes(), tuple(sorted(scores[key]))) for key in masks)


def assert_same_image(found: Case, case: Case, exact: bool = True) -> None:
    assert found.image is not None
    assert case.image is not None
    volume, original = found.image.read(), case.image.read()
    header = original.header
    expected, affine = canonical(original.data, header.grid.affine)
    np.testing.assert_allclose(volume.header.grid.affine, affine, rtol=1e-14, atol=1e-12)
    assert volume.header.grid.shape == expected.shape
    if exact:
        assert volume.data.dtype == original.data.dtype
        np.testing.assert_array_equal(volume.data, expected)
        assert (volume.header.slope, volume.header.intercept) == (header.slope, header.intercept)
    else:
        assert not volume.header.is_scaled
        np.testing.assert_allclose(volume.data, expected * header.slope + header.intercept)


# --- cases of all kinds


@st.composite
def cases(draw: st.DrawFn, sketches: bool = True, scored: bool = True, most: int = 3) -> Case:
    shape = draw(st.tuples(*[st.integers(1, 4)] * 3))
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    affine = affine_of(draw(st.sampled_from(CODES)), shape, seed)
    dtype = draw(st.sampled_from(["u1", "i2", "u2", "i4"]))
    image = memory(rng.integers(0, 120, shape).astype(dtype), affine)
    labels = []
    for number in range(draw(st.integers(0, most))):
        values = draw(st.sampled_from([(0, 1), (0, 1, 2, 7), (0, 3, 300), (0, 2, 70_000)]))
        data = rng.choice(values, shape).astype(np.min_scalar_type(max(values)))
        there = np.unique(data[data > 0]).tolist()
        own = set(values) <= {0, 1, 2, 7}
        category: Any = draw(st.sampled_from([7, "each", *([None] if own else [])]))
        if category == "each":
            category = {value: draw(st.sampled_from([1, 2, 7])) for value in values[1:]}
        views = draw(st.none() | st.lists(st.sampled_from(VIEWS), min_size=1, max_size=2, unique=True).map(tuple))
        views = views if sketches else None
        scores: dict[View, dict[int, dict[int, float]]] = {}
        for view in VIEWS if scored else ():
            for index in range(shape[AXIS_OF[view]]):
                seen = set(np.unique(data.take(index, AXIS_OF[view])).tolist())
                for value in there:
                    if (views is None or (view in views and value in seen)) and draw(st.booleans()):
                        score = draw(st.sampled_from([0.8, 0.0, -1.5, 1 / 3, 1e-9, 12.0]))
                        scores.setdefault(view, {}).setdefault(index, {})[value] = score
        keys = {value: f"{value:032x}" for value in there} if number == 0 and draw(st.booleans()) else {}
        labels.append(LabelVolume(memory(data, affine), f"volume {number}", category, keys, scores, views))
    return Case("scan", image, tuple(labels))


few = settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


# --- the project


def write_project(case: Case, folder: Path, classes: ClassMap = CLASSES) -> Source:
    write_cases(VolumeProject(classes), [case], folder)
    return open_project(folder)


@few
@given(case=cases())
def test_a_project_says_the_same_when_it_is_read(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    source = write_project(case, tmp_path_factory.mktemp("project"))
    (found,) = source.cases
    assert source.classes == CLASSES
    assert source.skipped == ()
    assert source.remarks == ()
    assert found.id == case.id
    assert_same_image(found, case)
    assert told_by(found, CLASSES) == told_by(case, CLASSES)


@few
@given(case=cases(most=2))
def test_a_project_written_again_is_the_same_to_the_byte(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    """Reading changes nothing that is written: not the order, not the keys of objects, not the numbers."""
    first, second, third = (tmp_path_factory.mktemp("project") for _ in range(3))
    write_project(case, first)
    (found,) = write_project(case, second).cases
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert [path.relative_to(second) for path in sorted(second.rglob("*")) if path.is_file()] == files
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)
    (again,) = write_project(found, third).cases
    assert told_by(again, CLASSES) == told_by(case, CLASSES)
    assert sorted({key for one in again.labels for key in one.objects.values()}) == sorted(
        {key for one in found.labels for key in one.objects.values()}
    )
    meta = [json.loads((folder / "ds0/ann/scan.nrrd.json").read_text())["volumeMeta"] for folder in (first, third)]
    assert meta[0] == meta[1]
    assert (first / "ds0/volume/scan.nrrd").read_bytes() == (third / "ds0/volume/scan.nrrd").read_bytes()


def small(values: Any = (0, 1, 2, 7), seed: int = 0, shape: tuple[int, int, int] = (4, 5, 6)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).choice(values, shape).astype(np.uint8)


def test_the_files_of_a_project(tmp_path: Path) -> None:
    data = small()
    labels = LabelVolume(memory(data), scores={"axial": {2: {1: 0.8, 7: 0.12345}}})
    drawn = LabelVolume(memory(data), "drawn", {1: 1, 2: 1, 7: 1}, views=("coronal",))
    write_cases(VolumeProject(CLASSES), [Case("a", memory(data), (labels, drawn)), Case("b", memory(data))], tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    masks = {name for name in names if "/mask/" in name}
    assert names - masks == {
        "meta.json",
        "key_id_map.json",
        *(f"ds0/{name}" for case in "ab" for name in (f"volume/{case}.nrrd", f"ann/{case}.nrrd.json")),
    }
    assert len(masks) == 3
    assert all(re.fullmatch("ds0/mask/a.nrrd/[0-9a-f]{32}.nrrd", name) for name in masks)
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert [(one["title"], one["shape"], one["color"], one["description"]) for one in meta["classes"]] == [
        ("liver", "any", "#FF0000", "Mask pixel value: 1"),
        ("tumour 2", "mask_3d", CLASSES[2].color.upper(), "Mask pixel value: 2"),
        ("Gefäß", "mask_3d", "#0A0B0C", "Mask pixel value: 7"),
    ]
    said = json.loads((tmp_path / "ds0/ann/a.nrrd.json").read_text())
    assert set(said) >= {"volumeMeta", "tags", "objects", "planes", "spatialFigures", "key"}
    keys = [one["key"] for one in (*said["objects"], *said["spatialFigures"])]
    keys += [figure["key"] for plane in said["planes"] for one in plane["slices"] for figure in one["figures"]]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch("[0-9a-f]{32}", key) for key in keys)
    by_key = {one["key"]: one for one in said["objects"]}
    first = said["spatialFigures"][0]
    assert by_key[first["objectKey"]]["classTitle"] == "liver"
    assert first["customData"] == {"0-0-1": {"2": {"score": "0.80", "comment": None}}}
    assert said["spatialFigures"][2]["customData"]["0-0-1"]["2"]["score"] == "0.12345"
    volume = said["volumeMeta"]
    assert volume["dimensionsIJK"] == {"x": 4, "y": 5, "z": 6}
    assert volume["IJK2WorldMatrix"] == np.eye(4).reshape(-1).tolist()
    assert (volume["spacing"], volume["origin"]) == ([1, 1, 1], [0, 0, 0])
    assert volume["directions"] == np.eye(3).reshape(-1).tolist()
    assert volume["intensity"] == {"min": 0, "max": 7}
    assert (volume["windowWidth"], volume["windowCenter"]) == (7, 3.5)
    (plane,) = said["planes"]
    assert (plane["name"], plane["normal"]) == ("coronal", {"x": 0, "y": 1, "z": 0})
    for entry in plane["slices"]:
        for figure in entry["figures"]:
            assert figure["meta"] == {"sliceIndex": entry["index"], "planeName": "coronal", "normal": plane["normal"]}


def test_label_values_are_kept_as_tags_only_where_they_say_something(tmp_path: Path) -> None:
    plain = Case("plain", memory(small()), (LabelVolume(memory(small())),))
    other = Case("other", memory(small()), (LabelVolume(memory(small()), category=2),))
    write_cases(VolumeProject(CLASSES), [plain, other], tmp_path)
    tags = {}
    for name in ("plain", "other"):
        said = json.loads((tmp_path / f"ds0/ann/{name}.nrrd.json").read_text())
        tags[name] = [[(tag["name"], tag["value"]) for tag in one["tags"]] for one in said["objects"]]
    assert tags == {"plain": [[], [], []], "other": [[("label value", n)] for n in (1, 2, 7)]}
    assert json.loads((tmp_path / "meta.json").read_text())["tags"][0]["name"] == "label value"


def test_keys_of_supervisely_stay_and_others_are_replaced(tmp_path: Path) -> None:
    dashed = f"{KEY[:8]}-{KEY[8:12]}-{KEY[12:16]}-{KEY[16:20]}-{KEY[20:]}".upper()
    labels = LabelVolume(memory(small()), objects={1: KEY, 2: "cl4j0", 7: KEY[::-1]})
    drawn = LabelVolume(memory(small()), "drawn", objects={1: dashed}, views=("axial",))
    (found,) = write_project(Case("a", memory(small()), (labels, drawn)), tmp_path).cases
    keys = [dict(one.objects) for one in found.labels]
    assert keys[0] == {1: KEY}
    assert set(keys[1]) == {2}
    assert keys[2] == {7: KEY[::-1]}
    assert any(one.get(1) == KEY for one in keys[3:])
    said = json.loads((tmp_path / "ds0/ann/a.nrrd.json").read_text())
    assert len(said["objects"]) == 5  # 3 in space, of which one is also drawn on slices, and 2 more on slices


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "expected"),
    [
        ("u2", 1.0, -1024.0, "i4"),
        ("u1", 2.0, 1.0, "u2"),
        ("u1", 100.0, -1024.0, "i2"),
        ("i2", -1.0, 0.0, "i2"),
        ("i2", -1.0, 1.0, "i4"),
        ("i2", 1.0, 100000.0, "u4"),
        ("u1", 0.5, 0.0, "f4"),
        ("i2", 1.0, 0.25, "f4"),
        ("i4", 0.5, 0.0, "f8"),
        ("f4", 2.0, 1.0, "f4"),
        ("f8", 2.0, 1.0, "f8"),
        ("u8", 1.0, -1.0, "u8"),
    ],
)
def test_scaling_is_applied_because_nrrd_has_none(
    tmp_path: Path, dtype: str, slope: float, intercept: float, expected: str
) -> None:
    data = np.arange(24).reshape(2, 3, 4).astype(dtype)
    if data.dtype.kind in "iu":
        data[1, 2, 3], data[0, 0, 0] = np.iinfo(data.dtype).max, np.iinfo(data.dtype).min + 1
    case = Case("a", memory(data, slope=slope, intercept=intercept))
    (found,) = write_project(case, tmp_path).cases
    assert found.image is not None
    volume = found.image.read()
    assert volume.data.dtype == np.dtype(expected)
    whole = data.dtype.kind != "f" and slope.is_integer() and intercept.is_integer()
    parts = (int(slope), int(intercept)) if whole else (slope, intercept)
    assert volume.data.reshape(-1).tolist() == [value * parts[0] + parts[1] for value in data.reshape(-1).tolist()]


def test_values_that_are_not_finite_do_not_reach_the_json(tmp_path: Path) -> None:
    data = np.array([[[np.nan, 1.5], [np.inf, -2.0]]], np.float32)
    (found,) = write_project(Case("a", memory(data)), tmp_path).cases
    assert found.image is not None
    np.testing.assert_array_equal(found.image.read().data, data)
    said = json.loads((tmp_path / "ds0/ann/a.nrrd.json").read_text())
    assert said["volumeMeta"]["intensity"] == {"min": -2.0, "max": 1.5}
    write_project(Case("b", memory(data[:, :1, :1])), tmp_path / "nan")
    said = json.loads((tmp_path / "nan/ds0/ann/b.nrrd.json").read_text())
    assert said["volumeMeta"]["intensity"] == {"min": 0, "max": 0}


def test_labels_without_an_image(tmp_path: Path) -> None:
    affine = affine_of("LPS", (4, 5, 6), 3)
    case = Case("a", None, (LabelVolume(memory(small(), affine)),))
    source = write_project(case, tmp_path)
    assert (tmp_path / "ds0/volume/a.nrrd").read_bytes() == b""
    assert source.cases[0].image is None
    assert told_by(source.cases[0], CLASSES) == told_by(case, CLASSES)
    np.testing.assert_allclose(
        source.cases[0].labels[0].file.header().grid.affine, canonical(small(), affine)[1], atol=1e-12
    )


def test_labels_that_are_whole_floats_or_bools(tmp_path: Path) -> None:
    for number, dtype in enumerate(("f4", "f8", "?", "i8")):
        data = small((0, 1)).astype(dtype)
        (found,) = write_project(Case("a", memory(small()), (LabelVolume(memory(data)),)), tmp_path / str(number)).cases
        np.testing.assert_array_equal(found.labels[0].file.read().data, small((0, 1)))


def test_negative_labels_are_background(tmp_path: Path) -> None:
    data = small().astype(np.int16) - 2
    (found,) = write_project(Case("a", memory(small()), (LabelVolume(memory(data), category=1),)), tmp_path).cases
    np.testing.assert_array_equal(found.labels[0].file.read().data, np.where(data > 0, data, 0))


def test_datasets_nest(tmp_path: Path) -> None:
    case = Case("a", memory(small()), (LabelVolume(memory(small())),))
    write_cases(VolumeProject(CLASSES, "p/q"), [case], tmp_path)
    assert (tmp_path / "p/datasets/q/ann/a.nrrd.json").is_file()
    assert told_by(open_project(tmp_path).cases[0], CLASSES) == told_by(case, CLASSES)


@pytest.mark.parametrize(
    "dataset", ["", " ", "brain_mask", "Hermann", "a/b/../c", ".hidden", "a//b", "META", "x\ny", "a/volume", "../a"]
)
def test_datasets_that_supervisely_passes_over_are_refused(dataset: str) -> None:
    with pytest.raises(InvalidInput, match="dataset "):
        VolumeProject(CLASSES, dataset)


def refused(case: Case, folder: Path, layout: Any = None) -> str:
    with pytest.raises(InvalidInput) as caught:
        write_cases(layout or VolumeProject(CLASSES), [case], folder)
    assert not [path for path in folder.rglob("*") if path.is_file()]  # nothing of a case that failed
    return str(caught.value)


def test_what_no_project_can_hold(tmp_path: Path) -> None:
    image, label = memory(small()), LabelVolume(memory(small()))
    moved = memory(small(), np.diag([1, 1, 2, 1]))
    twice = (LabelVolume(memory(small()), objects={1: KEY}), LabelVolume(memory(small((0, 2))), "b", objects={2: KEY}))
    for case, said in [
        (Case("a", image, (LabelVolume(moved),)), "not that of the image of case 'a', both turned to RAS: affine"),
        (Case("a", image, (LabelVolume(memory(small(shape=(5, 4, 6)))),)), "shape 4 x 5 x 6 against 5 x 4 x 6"),
        (Case("a", None, (label, LabelVolume(moved, "b"))), "its grid is not that"),
        (Case("a", image, (LabelVolume(memory(small((0, 3)))),)), "label values 3 are in no class"),
        (Case("a", image, (LabelVolume(memory(small()), category={1: 1}),)), "belongs to no class"),
        (Case("a", image, (LabelVolume(memory(small() * 0.5)),)), "holds the label value 3.5"),
        (Case("a", image, (LabelVolume(memory(np.full((4, 5, 6), np.nan))),)), "holds the label value nan"),
        (Case("a", image, (LabelVolume(memory(small()), scores={"axial": {6: {1: 0.5}}}),)), "slice 6, but there"),
        (Case("a", image, twice), "is of the class 'tumour 2' here, and of 'liver'"),
        (Case("a"), "neither an image nor labels"),
        (Case("a", memory(small(), np.diag([1, 1, 0, 1]))), "without a direction"),
    ]:  # fmt: skip
        assert said in refused(case, tmp_path / "out")


def test_cases_before_one_that_fails_are_in_place(tmp_path: Path) -> None:
    good = Case("good", memory(small()), (LabelVolume(memory(small())),))
    bad = Case("bad", memory(small()), (LabelVolume(memory(small((0, 3)))),))
    with pytest.raises(InvalidInput):
        write_cases(VolumeProject(CLASSES), [good, bad], tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("ann/*")) == ["good.nrrd.json"]
    assert sorted(path.name for path in tmp_path.rglob("volume/*")) == ["good.nrrd"]


def test_an_output_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_cases(VolumeProject(CLASSES), [Case("a", memory(small()))], tmp_path / "file")


# --- NIfTI by class


def by_class(case: Case, folder: Path, **words: Any) -> Case:
    write_cases(NiftiFolders(CLASSES, **words), [case], folder)
    (found,) = open_supervisely(folder, layout="by_name").cases
    return found


def named(case: Case, source: Source) -> list[Told]:
    assert source.classes is not None
    return told_by(case, source.classes)


@few
@given(case=cases(sketches=False, scored=False, most=1))
def test_by_class_says_the_same_when_it_is_read(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    folder = tmp_path_factory.mktemp("by class")
    write_cases(NiftiFolders(CLASSES), [case], folder)
    source = open_supervisely(folder, layout="by_name")
    (found,) = source.cases
    assert found.id == case.id
    assert_same_image(found, case)
    expected = told_by(case, CLASSES)
    assert ([] if source.classes is None else named(found, source)) == expected
    for path in (folder / "scan").glob("*.nii.gz"):  # by somebody else's reader
        image = nib.nifti1.load(path)
        data = np.asarray(image.dataobj)
        there = {(value, np.packbits(data == value).tobytes()) for value in np.unique(data[data > 0]).tolist()}
        name = path.name.removesuffix(".nii.gz")
        assert there == {(one[1], one[3]) for one in expected if one[0] == name}
        assert data.dtype == np.min_scalar_type(int(data.max()))


def test_scaling_stays_in_the_header_of_nifti(tmp_path: Path) -> None:
    case = Case("CT", memory(small().astype(np.uint16), affine_of("LPS", (4, 5, 6), 1), 2.0, -1024.0))
    assert_same_image(by_class(case, tmp_path), case)


def test_objects_of_one_class_in_several_volumes(tmp_path: Path) -> None:
    """Two label volumes have the value 1: in one file they must have two."""
    first, second = small((0, 1)), small((0, 1), seed=1)
    second[first > 0] = 0
    case = Case("CT", memory(small()), (LabelVolume(memory(first), "a", 1), LabelVolume(memory(second), "b", 1)))
    found = by_class(case, tmp_path)
    assert [labels.name for labels in found.labels] == ["liver"]
    np.testing.assert_array_equal(found.labels[0].file.read().data, first + 2 * second)


def test_semantic_by_class_has_one_value(tmp_path: Path) -> None:
    case = Case("CT", memory(small()), (LabelVolume(memory(small()), "a", 1),))
    found = by_class(case, tmp_path, kept="semantic")
    np.testing.assert_array_equal(found.labels[0].file.read().data, small() > 0)


def test_overlap_is_an_error_or_told_with_its_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = small((0, 3)), small((0, 5), seed=1)
    case = Case("CT", memory(small()), (LabelVolume(memory(first), "a", 1), LabelVolume(memory(second), "b", 1)))
    both = int(((first > 0) & (second > 0)).sum())
    said = refused(case, tmp_path / "out", NiftiFolders(CLASSES))
    assert f"CT, class 'liver': objects overlap in {both} voxels" in said
    found = by_class(case, tmp_path, lossy=True)
    np.testing.assert_array_equal(found.labels[0].file.read().data, np.where(second, second, first))
    assert f"overlap in {both} voxels" in caplog.text
    by_class(case, tmp_path / "same", kept="semantic")  # nothing is lost where all have one value


def test_what_has_no_place_by_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = memory(small())
    scored = Case("CT", image, (LabelVolume(memory(small()), scores={"axial": {0: {1: 0.5}}}),))
    drawn = Case("CT", image, (LabelVolume(memory(small()), views=("axial",)),))
    assert "scores of axial slices have no place" in refused(scored, tmp_path / "out", NiftiFolders(CLASSES))
    assert "shapes drawn on axial slices have no place" in refused(drawn, tmp_path / "out", NiftiFolders(CLASSES))
    alone = Case("CT", None, (LabelVolume(memory(small())),))
    assert "has no image" in refused(alone, tmp_path / "out", NiftiFolders(CLASSES))
    found = by_class(scored, tmp_path / "scored", lossy=True)
    assert len(found.labels) == 3
    assert not any(labels.scores for labels in found.labels)
    assert by_class(drawn, tmp_path / "drawn", lossy=True).labels == ()
    assert caplog.text.count("left out") == 2


def test_class_names_that_no_file_can_have(tmp_path: Path) -> None:
    """They come back all the same, with the numbers and colours of the classes."""
    names = {1: "a/b", 2: "a:b", 3: "CT", 4: "..", 5: "A_B", 6: "é" * 300, 7: "plain", 8: "with.dots .nii"}
    names |= {9: "CT_class", 20: "nowhere"}
    classes = ClassMap.of({n: {"name": name, "color": f"#0000{n:02x}"} for n, name in names.items()})
    data = small(range(10))
    other = small((0, 3, 9), seed=5)
    pair = [
        Case(name, memory(small()), (LabelVolume(memory(voxels)),)) for name, voxels in (("CT", data), ("MR", other))
    ]
    write_cases(NiftiFolders(classes, dataset="ds"), pair, tmp_path)
    told = json.loads((tmp_path / "ds/class_names.json").read_text())
    assert {(one["id"], one["name"], one["color"]) for one in told.values()} == {
        (n, name, f"#0000{n:02x}") for n, name in names.items()
    }
    files = {path.name.removesuffix(".nii.gz"): path for path in (tmp_path / "ds/CT").iterdir()}
    assert len(files) == 9
    assert "CT" not in files
    assert "plain" in files
    for stem, path in files.items():
        value = told[stem]["id"]
        np.testing.assert_array_equal(np.asarray(nib.nifti1.load(path).dataobj), np.where(data == value, value, 0))
    source = open_supervisely(tmp_path)
    assert not source.skipped
    assert not source.remarks
    assert source.classes is not None
    assert source.classes.categories == classes.categories
    for case, voxels in zip(source.cases, (data, other), strict=True):
        assert {labels.name for labels in case.labels} == {names[n] for n in np.unique(voxels[voxels > 0]).tolist()}
        for labels in case.labels:
            (value,) = (n for n, name in names.items() if name == labels.name)
            assert labels.category == value
            np.testing.assert_array_equal(labels.file.read().data, np.where(voxels == value, value, 0))


def test_what_the_importer_misreads_by_class(tmp_path: Path) -> None:
    case = Case("T1_corrected", memory(small()), (LabelVolume(memory(small())),))
    assert "'T1_corrected' for the name of a plane" in refused(
        case, tmp_path / "out", NiftiFolders(CLASSES, sdk_compatible=True)
    )
    cortex = ClassMap.of({1: "cortex", 2: "b", 7: "c"})
    assert "contains 'cor'" in refused(
        Case("CT", memory(small())), tmp_path / "out", NiftiFolders(cortex, sdk_compatible=True)
    )
    by_class(case, tmp_path)


def test_datasets_and_bad_words(tmp_path: Path) -> None:
    case = Case("CT", memory(small()), (LabelVolume(memory(small())),))
    write_cases(NiftiFolders(CLASSES, dataset="ds0"), [case], tmp_path)
    assert sorted(path.name for path in (tmp_path / "ds0/CT").iterdir()) == [
        f"{name}.nii.gz" for name in ("Gefäß", "liver", "tumour 2")
    ]
    for words, said in [
        ({"by": "name"}, "'class', 'plane'"),
        ({"kept": "both"}, "'semantic'"),
        ({"dataset": "a/b"}, "cannot be the name of a folder"),
        ({"dataset": ".."}, "cannot be the name of a folder"),
    ]:
        with pytest.raises(InvalidInput, match=said):
            NiftiFolders(CLASSES, **words)  # type: ignore[arg-type]


# --- NIfTI by plane


def by_plane(case: Case, folder: Path, **words: Any) -> Source:
    write_cases(NiftiFolders(CLASSES, "plane", **words), [case], folder)
    return open_supervisely(folder, layout="by_plane")


@st.composite
def plane_cases(draw: st.DrawFn) -> Case:
    """A case with semantic labels and scores of its own view."""
    case = draw(cases(sketches=False, scored=False, most=0))
    assert case.image is not None
    grid = case.image.header().grid
    view = draw(st.sampled_from(VIEWS))
    data = np.random.default_rng(draw(st.integers(0, 99))).choice((0, 1, 2, 7), grid.shape).astype(np.uint8)
    ornt = nib.orientations.io_orientation(grid.affine)
    axis = int(np.flatnonzero(ornt[:, 0] == AXIS_OF[view])[0])  # of the volume as it is stored
    scores: dict[int, dict[int, float]] = {}
    for index in range(grid.shape[axis]):
        for value in np.unique(data[data > 0]).tolist():
            if draw(st.booleans()):
                scores.setdefault(index, {})[value] = draw(st.sampled_from([0.8, 0.0, 1 / 3, 1e-9]))
    labels = LabelVolume(memory(data, grid.affine), scores={VIEW_OF[axis]: scores} if scores else {})
    plane = {"axial": "axl", "coronal": "cor", "sagittal": "sag"}[view]
    return Case(f"{plane}_anatomic", case.image, (labels,))


@few
@given(case=plane_cases())
def test_by_plane_says_the_same_when_it_is_read(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    folder = tmp_path_factory.mktemp("by plane")
    source = by_plane(case, folder)
    (found,) = source.cases
    assert found.id == case.id
    assert source.classes is not None
    assert [(one.id, one.name, one.color) for one in source.classes.categories] == [
        (one.id, one.name, one.color) for one in CLASSES.categories
    ]
    assert_same_image(found, case)
    assert told_by(found, CLASSES) == told_by(case, CLASSES)
    plane = case.id[:3]
    assert {path.name for path in folder.iterdir()} - {f"{plane}_score.csv"} == {
        "color_map.txt",
        f"{plane}_anatomic.nii.gz",
        f"{plane}_inference.nii.gz",
    }


def test_the_texts_by_plane(tmp_path: Path) -> None:
    labels = LabelVolume(memory(small()), scores={"axial": {0: {1: 0.5, 7: 0.25}, 3: {7: 1 / 3}}})
    by_plane(Case("p1_axl_anatomic", memory(small()), (labels,)), tmp_path)
    colors = [tuple(bytes.fromhex(one.color[1:])) for one in CLASSES.categories]
    assert (tmp_path / "color_map.txt").read_text() == (
        f"1 liver 255 0 0\n2 tumour 2 {' '.join(map(str, colors[1]))}\n7 Gefäß 10 11 12"
    )
    assert (tmp_path / "p1/axl_score.csv").read_text() == ("Layer,Label-1,Label-7\n1,0.5,0.25\n4,,0.3333333333333333\n")


@pytest.mark.parametrize(
    ("case_id", "views", "volume"),
    [
        ("axl_anatomic", None, "axl_anatomic"),
        ("p1_axl_anatomic", ("axial",), "p1/axl_anatomic"),
        ("p1-Anatomical.COR-left", None, "p1_left/cor_anatomic"),
        ("knee 7", ("sagittal",), "knee 7/sag_anatomic"),
        ("sag", None, "sag_anatomic"),
        ("cortex_sag", None, "cortex/sag_anatomic"),
    ],
)
def test_where_a_case_lies_by_plane(tmp_path: Path, case_id: str, views: tuple[View, ...] | None, volume: str) -> None:
    case = Case(case_id, memory(small()), (LabelVolume(memory(small())),), views)
    source = by_plane(case, tmp_path)
    assert (tmp_path / f"{volume}.nii.gz").is_file()
    (found,) = source.cases
    assert found.views == ({"axl": "axial", "cor": "coronal", "sag": "sagittal"}[volume.split("/")[-1][:3]],)
    assert told_by(found, CLASSES) == told_by(case, CLASSES)


def test_instances_by_plane_have_a_file_for_each_class(tmp_path: Path) -> None:
    data = small((0, 1, 2, 3, 9))
    labels = LabelVolume(memory(data), category={1: 2, 2: 2, 3: 7, 9: 7})
    case = Case("axl_anatomic", memory(small()), (labels,))
    source = by_plane(case, tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*inference*"))
    assert names == [f"axl_inference_{number:02d}.nii.gz" for number in range(1, 8)]
    (found,) = source.cases
    assert source.classes is not None
    assert told_by(found, source.classes) == told_by(case, CLASSES)


def test_a_single_class_of_instances_is_not_taken_for_semantic(tmp_path: Path) -> None:
    case = Case("axl_anatomic", memory(small()), (LabelVolume(memory(small()), category=1),))
    (found,) = by_plane(case, tmp_path).cases
    assert sorted(path.name for path in tmp_path.glob("*inference*")) == [
        "axl_inference_01.nii.gz",
        "axl_inference_02.nii.gz",
    ]
    assert told_by(found, CLASSES) == told_by(case, CLASSES)


def test_classes_of_large_ids_are_numbered_for_instances(tmp_path: Path) -> None:
    classes = ClassMap.of({1_000_001: "a", 1_000_002: "b"})
    case = Case("axl_anatomic", memory(small()), (LabelVolume(memory(small()), category=1_000_002),))
    write_cases(NiftiFolders(classes, "plane"), [case], tmp_path)
    assert [line.split()[:2] for line in (tmp_path / "color_map.txt").read_text().splitlines()] == [
        ["1", "a"],
        ["2", "b"],
    ]
    source = open_supervisely(tmp_path, layout="by_plane")
    assert source.classes is not None
    assert told_by(source.cases[0], source.classes) == told_by(case, classes)


def test_overlapping_classes_get_files_of_their_own(tmp_path: Path) -> None:
    first, second = small((0, 1)), small((0, 2), seed=1)
    volumes = (LabelVolume(memory(first), "a"), LabelVolume(memory(second), "b"))
    case = Case("axl_anatomic", memory(small()), volumes)
    (found,) = by_plane(case, tmp_path).cases
    assert told_by(found, CLASSES) == told_by(case, CLASSES)
    said = refused(case, tmp_path / "out", NiftiFolders(CLASSES, "plane", "semantic"))
    assert f"objects overlap in {int(((first > 0) & (second > 0)).sum())} voxels" in said


def test_scores_of_instances_are_those_of_their_class(tmp_path: Path) -> None:
    data = small((0, 1, 2))
    same = {0: {1: 0.5, 2: 0.5}}
    case = Case("axl_anatomic", memory(small()), (LabelVolume(memory(data), category=7, scores={"axial": same}),))
    (found,) = by_plane(case, tmp_path).cases
    assert told_by(found, CLASSES) == told_by(case, CLASSES)
    for other in ({0: {1: 0.5, 2: 0.6}}, {0: {1: 0.5}}):
        labels = LabelVolume(memory(data), category=7, scores={"axial": other})
        case = Case("axl_anatomic", memory(small()), (labels,))
        assert "different scores in slice 0" in refused(case, tmp_path / "out", NiftiFolders(CLASSES, "plane"))


def test_a_table_with_holes_is_refused_for_the_importer(tmp_path: Path) -> None:
    holes = {"axial": {0: {1: 0.5, 7: 0.25}, 3: {7: 1.0}}}
    whole = {"axial": {0: {1: 0.5, 7: 0.25}, 3: {1: 0.0, 7: 1.0}}}
    layout = NiftiFolders(CLASSES, "plane", sdk_compatible=True)
    labels: Any = lambda scores: (LabelVolume(memory(small()), scores=scores),)  # noqa: E731
    said = refused(Case("axl_anatomic", memory(small()), labels(holes)), tmp_path / "out", layout)
    assert "Layer 4 has no score" in said
    write_cases(layout, [Case("axl_anatomic", memory(small()), labels(whole))], tmp_path)
    assert "\n4,0.0,1.0\n" in (tmp_path / "axl_score.csv").read_text()


def test_what_has_no_place_by_plane(tmp_path: Path) -> None:
    layout = NiftiFolders(CLASSES, "plane")
    image, label = memory(small()), memory(small())
    turned = memory(small(), affine_of("SRA", (4, 5, 6), 1))
    for case, said in [
        (Case("CT", image), "looked at in no view of its own"),
        (Case("CT", image, (), ("axial", "coronal")), "axial and coronal"),
        (Case("axl", image, (LabelVolume(label, scores={"coronal": {0: {1: 0.5}}}),)), "scores of coronal slices"),
        (Case("axl", image, (LabelVolume(label, views=("coronal",)),)), "shapes drawn on coronal slices"),
        (Case("CT", turned, (), ("axial",)), "its axes are not along R, A, S"),
    ]:
        assert said in refused(case, tmp_path / "out", layout)
    drawn = Case("axl", image, (LabelVolume(label, views=("axial",)),))  # looked at in this view alone: nothing is lost
    (found,) = by_plane(drawn, tmp_path).cases
    assert [one[:2] for one in told_by(found, CLASSES)] == [one[:2] for one in told_by(drawn, CLASSES)]


def test_two_cases_for_one_file_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    pair = [Case("p1_axl", memory(small())), Case("axl_p1", memory(small()))]
    with pytest.raises(InvalidInput, match="'p1_axl' and 'axl_p1' would be one file"):
        write_cases(NiftiFolders(CLASSES, "plane"), pair, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_annotations_alone_by_plane(tmp_path: Path) -> None:
    case = Case("axl_anatomic", None, (LabelVolume(memory(small())),))
    write_cases(NiftiFolders(CLASSES, "plane"), [case], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["axl_inference.nii.gz", "color_map.txt"]
    np.testing.assert_array_equal(np.asarray(nib.nifti1.load(tmp_path / "axl_inference.nii.gz").dataobj), small())


# --- from one to the other


@few
@given(case=plane_cases())
def test_project_to_folders_to_project(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    first, second, third = (tmp_path_factory.mktemp("way") for _ in range(3))
    source = write_project(case, first)
    assert source.classes is not None
    write_cases(NiftiFolders(source.classes, "plane"), source.cases, second)
    read = open_supervisely(second, layout="by_plane")
    write_cases(VolumeProject(read.classes or CLASSES), read.cases, third)  # no names where nothing is labelled
    again = open_project(third)
    assert again.classes == CLASSES
    assert told_by(again.cases[0], CLASSES) == told_by(case, CLASSES)
    assert_same_image(again.cases[0], case)


def test_every_run_writes_the_same_bytes(tmp_path: Path) -> None:
    labels = LabelVolume(memory(small()), scores={"axial": {0: {1: 0.5}}})
    drawn = LabelVolume(memory(small()), "b", views=("axial",))
    layouts: Mapping[str, Any] = {"p": VolumeProject(CLASSES), "n": NiftiFolders(CLASSES, "plane")}
    for name, layout in layouts.items():
        case = Case("axl_anatomic", memory(small()), (labels, drawn) if name == "p" else (labels,))
        for run in "12":
            write_cases(layout, [case], tmp_path / name / run)
        one, two = (
            {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            for folder in (tmp_path / name / "1", tmp_path / name / "2")
        )
        assert one == two
        packed = next(content for path, content in one.items() if path.name.endswith(("nii.gz", "nrrd")))
        assert gzip.decompress(packed[packed.index(b"\x1f\x8b") :])


def test_a_volume_file_of_the_test_is_one() -> None:
    file: VolumeFile = memory(small())
    np.testing.assert_array_equal(np.concatenate([*file.slabs(4)], axis=2), small())
