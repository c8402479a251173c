"""Cases with several label volumes, and what their source says of the values: categories, objects, scores, views."""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

import voxtract
from voxtract.classes import ClassMap
from voxtract.compute.components import find_components
from voxtract.geometry import Grid, Plane, View
from voxtract.labelling import described, together
from voxtract.layout import Frame
from voxtract.model import Case, Components, Header, LabelVolume, Remark, Source, Volume
from voxtract.read.extraction import open_extraction
from voxtract.settings import Settings

# raised by NumPy 2 inside of pycocotools.mask.decode
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SHAPE = (7, 6, 5)
CLASSES = ClassMap.of({1: {"name": "lung, left", "color": "#102030"}, 2: "tumour", 5: "vessel"})


@dataclass(frozen=True)
class InMemory:
    data: NDArray[Any]
    where: str = "memory"
    affine: NDArray[np.float64] = field(default_factory=lambda: np.diag([1.0, 2.0, 3.0, 1.0]))
    volume_index: int | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        return ()

    def header(self) -> Header:
        x, y, z = self.data.shape
        return Header(Grid((x, y, z), self.affine), self.data.dtype, where=self.where)

    def read(self) -> Volume:
        return Volume(self.header(), self.data)

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        for first in range(0, self.data.shape[2], planes):
            yield self.data[:, :, first : first + planes]


def image() -> InMemory:
    return InMemory(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), "image")


def painted(dtype: str, *boxes: tuple[int, Any]) -> NDArray[Any]:
    labels = np.zeros(SHAPE, dtype)
    for value, box in boxes:
        labels[box] = value
    return labels


def overlapping() -> tuple[LabelVolume, LabelVolume]:
    """Two objects that share voxels, in volumes of different dtypes."""
    lung = painted("uint8", (1, np.s_[0:4, 1:5, 1:4]), (3, np.s_[5:7, 0:1, 2:3]))
    tumour = painted("int32", (9, np.s_[2:5, 2:4, 2:4]))
    return (
        LabelVolume(InMemory(lung, "lung"), "lung", 1, {1: "uuid-a", 3: "uuid-b"}, {"axial": {2: {1: 0.25, 3: 1.0}}}),
        LabelVolume(InMemory(tumour, "tumour"), "tumour", {9: 2}),
    )


def source(*volumes: LabelVolume, **words: Any) -> Source:
    return Source("in memory", (Case("a", image(), volumes, **words),), classes=CLASSES)


def table(out: Path, view: str = "axial") -> pd.DataFrame:
    return pd.concat([pd.read_csv(file) for file in sorted((out / "a" / view).glob("*.csv"))], ignore_index=True)


COLUMNS = ("LABEL", "CLASS", "OBJECT", "SCORE", "AREA")


def test_rows_of_all_volumes_by_slice_then_volume(tmp_path: Path) -> None:
    voxtract.extract(source(*overlapping()), tmp_path, data_mode="box", extra_columns=COLUMNS)
    rows = table(tmp_path)
    assert [*zip(rows["Z_MIN"], rows["LABEL"], rows["CLASS"], strict=True)] == [
        (1, 1, "lung, left"),
        (2, 1, "lung, left"),
        (2, 3, "lung, left"),
        (2, 9, "tumour"),
        (3, 1, "lung, left"),
        (3, 9, "tumour"),
    ]
    assert rows["OBJECT"].fillna("-").tolist() == ["uuid-a", "uuid-a", "uuid-b", "-", "uuid-a", "-"]
    assert rows["SCORE"].fillna(-1).tolist() == [-1, 0.25, 1.0, -1, -1, -1]
    assert rows["AREA"].tolist() == [16, 16, 2, 6, 16, 6]  # where they overlap, both count
    assert rows["X_MAX"].tolist() == [4, 4, 0, 3, 4, 3]


def test_other_formats_say_the_same(tmp_path: Path) -> None:
    report = voxtract.extract(source(*overlapping()), tmp_path, annotations=("csv", "coco", "parquet"), masks=True)
    frame = report.components
    assert frame["CLASS"].tolist() == ["lung, left"] * 3 + ["tumour", "lung, left", "tumour"]
    assert frame["OBJECT"].dropna().tolist() == ["uuid-a", "uuid-a", "uuid-b", "uuid-a"]
    assert frame["SCORE"].dropna().tolist() == [0.25, 1.0]
    written = pd.read_parquet(tmp_path / "components.parquet")
    assert written["OBJECT"].dropna().tolist() == frame["OBJECT"].dropna().tolist()
    assert written["SCORE"].dropna().tolist() == [0.25, 1.0]
    coco = COCO(str(tmp_path / "coco.json"))
    assert {c["id"]: (c["name"], c["color"]) for c in coco.loadCats(coco.getCatIds())} == {
        1: ("lung, left", "#102030"),
        2: ("tumour", CLASSES[2].color),
        5: ("vessel", CLASSES[5].color),
    }
    told = coco.loadAnns(coco.getAnnIds())
    assert [one["category_id"] for one in told] == [1, 1, 1, 2, 1, 2]
    assert [one.get("score") for one in told] == [None, 0.25, 1.0, None, None, None]
    volumes = [volume.file.read().data for volume in overlapping()]
    values = [(0, 1), (0, 1), (0, 3), (1, 9), (0, 1), (1, 9)]
    for one, (volume, value) in zip(told, values, strict=True):
        index = coco.loadImgs(one["image_id"])[0]["file_name"][-7:-4]
        assert (coco_masks.decode(one["segmentation"]) == (volumes[volume][:, :, int(index)] == value)).all()


def test_findings_are_read_back(tmp_path: Path) -> None:
    voxtract.extract(source(*overlapping()), tmp_path)
    extraction = open_extraction(tmp_path)
    (found,) = extraction.findings()
    assert found.objects == ({1: "uuid-a", 3: "uuid-b"}, {})
    assert found.rows.volume is not None
    assert found.rows.volume.tolist() == [0, 0, 0, 1, 0, 1]
    assert found.rows.class_id.tolist() == [1, 1, 1, 2, 1, 2]
    assert extraction.class_map == CLASSES


def test_classes_are_chosen_by_their_ids_and_may_be_renamed(tmp_path: Path) -> None:
    report = voxtract.extract(source(*overlapping()), tmp_path, classes=(2,), class_map={2: "nodule"})
    assert report.components["CLASS"].tolist() == ["nodule", "nodule"]
    assert report.components["LABEL"].tolist() == [9, 9]


def test_a_value_without_a_category_is_named(tmp_path: Path) -> None:
    odd = LabelVolume(InMemory(painted("uint8", (4, np.s_[0, 0, 0])), "odd"), "odd", {9: 2})
    report = voxtract.extract(source(odd), tmp_path, progress=False)
    assert str(report.failed[0].error) == "odd: label values 4 belong to no class; the source names 9"


def test_a_label_volume_off_its_image_or_off_the_first_is_refused(tmp_path: Path) -> None:
    shifted = LabelVolume(InMemory(painted("uint8"), "shifted", np.diag([1.0, 2.0, 4.0, 1.0])))
    report = voxtract.extract(source(overlapping()[0], shifted), tmp_path / "a", progress=False)
    assert "shifted: does not lie on its image image: affine" in str(report.failed[0].error)
    alone = Source("no image", (Case("a", None, (overlapping()[0], shifted)),), classes=CLASSES)
    report = voxtract.extract(alone, tmp_path / "b", progress=False)
    assert "shifted: does not lie on its image lung: affine" in str(report.failed[0].error)


@pytest.mark.parametrize("reorient", [None, "PSR"])
def test_what_was_drawn_on_slices_is_looked_at_in_their_view_alone(tmp_path: Path, reorient: str | None) -> None:
    drawn = LabelVolume(InMemory(painted("uint8", (1, np.s_[1:3, 2, 1:4])), "drawn"), "", 5, views=("coronal",))
    views: tuple[View, ...] = ("axial", "coronal", "sagittal")
    report = voxtract.extract(source(drawn, overlapping()[0]), tmp_path, views, reorient=reorient)
    rows = report.components
    where = {None: "coronal", "PSR": "sagittal"}[reorient]  # the old second axis is the first one then
    assert set(rows[rows["CLASS"] == "vessel"]["VIEW"]) == {where}
    assert set(rows[rows["CLASS"] == "lung, left"]["VIEW"]) == set(views)


def test_a_case_is_cut_in_its_own_views_where_none_are_named(tmp_path: Path) -> None:
    listed = source(*overlapping(), views=("sagittal",))
    voxtract.extract(listed, tmp_path / "own")
    assert [p.name for p in (tmp_path / "own" / "a").iterdir()] == ["sagittal"]
    voxtract.extract(listed, tmp_path / "named", ("axial",))
    assert [p.name for p in (tmp_path / "named" / "a").iterdir()] == ["axial"]


def test_crop_to_the_foreground_of_all_volumes(tmp_path: Path) -> None:
    report = voxtract.extract(source(*overlapping()), tmp_path, crop="foreground")
    (found,) = open_extraction(tmp_path).findings()
    assert found.plane.shape == (7, 5, 3)  # x 0..6, y 0..4, z 1..3
    assert report.components["SLICE"].tolist() == [0, 1, 1, 1, 2, 2]
    assert report.components["SCORE"].dropna().tolist() == [0.25, 1.0]  # still those of the slice they were given for


def test_more_workers_and_slabs_change_nothing(tmp_path: Path) -> None:
    files = []
    for name, words in (("a", {"workers": 1}), ("b", {"workers": 3}), ("c", {"reorient": "RAS"})):
        voxtract.extract(source(*overlapping()), tmp_path / name, extra_columns=COLUMNS, **words)
        folder = tmp_path / name / "a"
        files.append({p.name: p.read_bytes() for p in folder.rglob("*.csv")})
    assert files[0] == files[1] == files[2]


def test_remarks_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = Source("in memory", (Case("a", image()),), remarks=(Remark("image", "sform and qform differ"),))
    voxtract.extract(told, tmp_path)
    assert "image: sform and qform differ" in caplog.text


FLIPS = st.sampled_from(["RAS", "LPS", "SAR", "AIL", "PLI"])


@given(codes=FLIPS, index=st.integers(0, 4), crop=st.booleans())
def test_scores_follow_their_slice(codes: str, index: int, crop: bool) -> None:
    """The score of an axial slice, wherever turning and cropping have put that slice."""
    labels = painted("uint8", (1, np.s_[1:4, 2:5, index : index + 1]))
    volume = LabelVolume(InMemory(labels), "", 1, scores={"axial": {index: {1: 0.5}, index + 1: {1: 0.75}}})
    words: dict[str, Any] = {"crop": ((0, 0, 0), (4, 5, 5))} if crop and codes[2] in "SI" else {}
    settings = Settings(reorient=codes, **words)
    frame = Frame.of(volume.file.header().grid, settings)
    view = {"S": "axial", "I": "axial"}.get(codes[2]) or {0: "sagittal", 1: "coronal"}[
        next(i for i, code in enumerate(codes) if code in "SI")
    ]
    plane = Plane(view, frame.grid.shape)  # type: ignore[arg-type]
    found = find_components(frame.labels(labels), plane.view)
    rows = described(found, (volume,), 0, plane, frame)
    assert rows.score is not None
    assert rows.score.tolist() == [0.5] * len(rows)


def test_resampled_slices_have_the_score_of_the_nearest_one() -> None:
    labels = painted("uint8", (1, np.s_[1:4, 2:5, :]))
    volume = LabelVolume(InMemory(labels), scores={"axial": {i: {1: i / 10} for i in range(5)}})
    frame = Frame.of(volume.file.header().grid, Settings(spacing=(1, 2, 1.5)))
    plane = Plane("axial", frame.grid.shape)
    rows = described(find_components(frame.labels(labels), "axial"), (volume,), 0, plane, frame)
    assert rows.score is not None
    assert frame.grid.shape[2] == 10
    assert rows.score.tolist() == [0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4]


def test_labels_of_many_dtypes_stay_exact() -> None:
    def one(label: int, dtype: str, z: int) -> Components:
        at = np.array([[0, 0, z]])
        return Components(at, at + 1, np.array([label], dtype), np.array([1]))

    rows = together([one(2**63 + 1, "uint64", 3), one(7, "int8", 1)], Plane("axial", SHAPE))
    assert rows.label.tolist() == [7, 2**63 + 1]
    assert rows.label.dtype == np.uint64


@dataclass(frozen=True)
class Chunks(InMemory):
    """The same volume as chunks of 2 x 3 x 2 voxels, of which those without labels are not stored."""

    def read(self) -> Volume:
        raise AssertionError("the volume is never held")

    def layers(self) -> Generator[Generator[tuple[Any, NDArray[Any]], None, None], None, None]:
        for z in range(0, SHAPE[2], 2):
            yield self._layer(z)

    def _layer(self, z: int) -> Generator[tuple[Any, NDArray[Any]], None, None]:
        for x in range(0, SHAPE[0], 2):
            for y in range(0, SHAPE[1], 3):
                chunk = self.data[x : x + 2, y : y + 3, z : z + 2]
                if chunk.any():
                    yield (x, y, z), chunk


@pytest.mark.parametrize("words", [{}, {"extraction_mode": "volume"}, {"objects": "labels"}, {"connectivity": 1}])
def test_volumes_in_chunks_are_never_held(tmp_path: Path, words: dict[str, Any]) -> None:
    views: tuple[View, ...] = ("axial", "coronal", "sagittal")
    volumes = overlapping()
    chunked = tuple(replace(volume, file=Chunks(volume.file.read().data, volume.file.where)) for volume in volumes)
    one = voxtract.extract(source(*volumes), tmp_path / "a", views, **words).components
    two = voxtract.extract(source(*chunked), tmp_path / "b", views, **words).components
    pd.testing.assert_frame_equal(one, two)
    assert len(one) > 6
