"""Payloads for Labelbox: valid, where they belong, nothing merged, and read back as what was written."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jsonschema import Draft202012Validator, ValidationError
from numpy.typing import NDArray
from PIL import Image

from tests.read.labelbox.exports import parsed, v2_row
from voxtract.classes import ClassMap
from voxtract.compute.components import find_components
from voxtract.compute.masks import SliceMasks
from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, Grid, Plane, View
from voxtract.model import Components, Findings
from voxtract.read.labelbox import GroupPlane, Options, measure
from voxtract.read.labelbox.values import polyline
from voxtract.write.labelbox import (
    MOST_OF_A_NAME,
    SCHEMA,
    DataRow,
    FramePlane,
    LabelboxImport,
    LineObject,
    check_url,
    color_of,
    composite,
    line_payload,
    masks_payload,
    uuid_maker,
)

GRID = Grid((7, 6, 5), np.diag([-1.0, -2.0, 2.5, 1.0]))
ROW = DataRow(global_key="ct-01")
CLASSES = ClassMap.of({1: "liver", 2: "tumour", 3: "cyst"})
STABLE = uuid_maker("stable")
VALID = Draft202012Validator(SCHEMA)
URL = "https://masks.example/project 1".replace(" ", "-")

options = st.builds(
    Options,
    pixel_origin=st.sampled_from(["corner", "centre"]),
    slice_order=st.sampled_from(["position+", "position-"]),
    reverse=st.sets(st.sampled_from(VIEWS)).map(tuple),
    flip_rows=st.sets(st.sampled_from(VIEWS)).map(tuple),
    flip_cols=st.sets(st.sampled_from(VIEWS)).map(tuple),
    inplane=st.sampled_from(["native", "isotropic"]),
)
labels = arrays.arrays(np.uint8, GRID.shape, elements=st.sampled_from([0, 1, 2, 3]), fill=st.just(0))


def found_in(
    data: NDArray[Any], view: View = "axial", *, by: str = "components", target_size: tuple[int, int] | None = None
) -> tuple[Findings, SliceMasks]:
    plane = Plane(view, GRID.shape, target_size)
    rows = find_components(data, view, objects=by)  # type: ignore[arg-type]
    count = np.arange(plane.count)
    return Findings("case-1", plane, GRID, rows, "slice", count, f"case-1/{view}/", ".png"), SliceMasks(
        data, plane, rows
    )


def plane_maker(chosen: Options, base: int = 1) -> Any:
    def make(found: Findings) -> FramePlane:
        return GroupPlane.of(found.plane.view, GRID, chosen, base)

    return make


def texts(files: Sequence[tuple[str, Any]], end: str) -> list[str]:
    return [content for name, content in files if name.endswith(end)]


def payloads_of(files: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
    (text,) = texts(files, ".ndjson")
    found = [json.loads(line) for line in text.splitlines()]
    for payload in found:
        VALID.validate(payload)
    return found


@settings(max_examples=40)
@given(labels, st.sampled_from(VIEWS), options, st.sampled_from([0, 1]))
def test_boxes_come_back_as_the_pixels_they_are(data: NDArray[Any], view: View, chosen: Options, base: int) -> None:
    found, _ = found_in(data, view, target_size=(20, 20))
    writer = LabelboxImport({"case-1": ROW}, plane_maker(chosen, base), class_map=CLASSES, uuids="stable")
    files = list(writer.case_files(found, None))
    if not len(found.rows):
        assert files == []
        return
    payloads = payloads_of(files)
    assert len({payload["uuid"] for payload in payloads}) == len(payloads) == len(found.rows)
    plane = GroupPlane.of(view, GRID, chosen, base)
    for payload, start, stop, label in zip(
        payloads, found.rows.start, found.rows.stop, found.rows.label.tolist(), strict=True
    ):
        assert payload["name"] == CLASSES[label].name
        assert payload["groupKey"] == view
        ((key_frame,),) = [segment["keyframes"] for segment in payload["segments"]]
        points = [(point["x"], point["y"]) for point in key_frame["line"]]
        assert len(points) == 5
        assert points[0] == points[-1]
        line = polyline([(round(x, 3), round(y, 3)) for x, y in points])
        voxels = np.zeros(GRID.shape, bool)
        index = plane.slice_of(key_frame["frame"])
        assert index is not None
        x, y = np.floor(plane.corners(line.points)).astype(int).T
        plane.picture(voxels, index)[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
        expected = np.zeros(GRID.shape, bool)
        expected[tuple(map(slice, start, stop))] = True
        np.testing.assert_array_equal(voxels, expected)
        if chosen.inplane == "native":
            box = measure(line, plane).pixel_box
            assert (box[2] - box[0] + 1, box[3] - box[1] + 1) == (np.ptp(x) + 1, np.ptp(y) + 1)


@settings(max_examples=40)
@given(labels, st.sampled_from(VIEWS), options)
def test_masks_come_back_as_the_voxels_they_are(data: NDArray[Any], view: View, chosen: Options) -> None:
    found, masks = found_in(data, view)
    writer = LabelboxImport({"case-1": ROW}, plane_maker(chosen), "mask", CLASSES, URL + "/", uuids="stable")
    files = list(writer.case_files(found, masks))
    if not len(found.rows):
        return
    (payload,) = payloads_of(files)
    pictures = {name: content for name, content in files if isinstance(content, bytes)}
    frames = payload["masks"]["frames"]
    assert [frame["instanceURI"] for frame in frames] == [
        f"{URL}/case-1/{view}/{frame['index']}.png" for frame in frames
    ]
    assert len(frames) == len(pictures)
    plane = GroupPlane.of(view, GRID, chosen, 1)
    back = np.zeros(GRID.shape, np.uint8)
    named = {CLASSES[n].name: n for n in (1, 2, 3)}
    for frame in frames:
        content = pictures[f"labelbox_masks/case-1/{view}/{frame['index']}.png"]
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        assert pixels.shape == (*plane.size, 3)
        index = plane.slice_of(frame["index"])
        assert index is not None
        picture = plane.picture(back, index)
        for instance in payload["masks"]["instances"]:
            mask = plane.native((pixels == instance["colorRGB"]).all(axis=2))
            picture[mask] = named[instance["name"]]
    np.testing.assert_array_equal(back, data)


def test_several_pieces_of_one_object_are_one_line_through_slices() -> None:
    data = np.zeros(GRID.shape, np.uint8)
    data[1:3, 1:3, 0] = data[2:4, 2:4, 1] = data[3, 3, 3] = 1
    data[5, 5, 1] = 2
    found, _ = found_in(data, by="labels")
    writer = LabelboxImport({"case-1": ROW}, plane_maker(Options()), class_map=CLASSES, join="objects")
    one, other = payloads_of(list(writer.case_files(found, None)))
    assert [[k["frame"] for k in segment["keyframes"]] for segment in one["segments"]] == [[1, 2], [4]]
    assert [[k["frame"] for k in segment["keyframes"]] for segment in other["segments"]] == [[2]]
    data[5, 0, 0] = 1
    found, _ = found_in(data)
    with pytest.raises(InvalidInput, match="twice in axial slice 0"):
        list(writer.case_files(found, None))


def test_findings_that_lie_elsewhere_are_refused() -> None:
    data = np.ones(GRID.shape, np.uint8)
    found, _ = found_in(data)
    writer = LabelboxImport({"case-1": ROW}, plane_maker(Options()), class_map=CLASSES)
    other = Grid(GRID.shape, np.diag([1.0, 2.0, 2.5, 1.0]))

    def changed(**more: Any) -> Findings:
        known = {
            name: getattr(found, name) for name in ("case_id", "plane", "grid", "rows", "extent", "slices", "stem")
        }
        return Findings(**{**known, "suffix": "", **more})

    with pytest.raises(InvalidInput, match="without reorient"):
        list(writer.case_files(changed(grid=other), None))
    with pytest.raises(InvalidInput, match="components of the volume"):
        list(writer.case_files(changed(extent="volume"), None))
    with pytest.raises(InvalidInput, match="no data row"):
        list(writer.case_files(changed(case_id="case-2"), None))
    turned = LabelboxImport({"case-1": ROW}, lambda _: GroupPlane.of("coronal", GRID, Options(), 1), class_map=CLASSES)
    with pytest.raises(InvalidInput, match="which are coronal"):
        list(turned.case_files(found, None))
    with pytest.raises(InvalidInput, match="masks=True"):
        list(LabelboxImport({"case-1": ROW}, plane_maker(Options()), "mask", None, URL).case_files(found, None))


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


# --- overlaps


@given(st.lists(arrays.arrays(bool, (4, 5)), min_size=1, max_size=4))
def test_where_objects_overlap_the_first_stays_and_losses_are_counted(masks: list[NDArray[np.bool_]]) -> None:
    keys = [str(n % 3) for n in range(len(masks))]
    colors = {key: color_of(n) for n, key in enumerate(dict.fromkeys(keys), 1)}
    picture, kept, lost = composite(zip(keys, masks, strict=True), colors, (4, 5))
    expected_lost = dict.fromkeys(keys, 0)
    owners: dict[tuple[int, int], str] = {}
    for key, mask in zip(keys, masks, strict=True):
        for row, column in np.argwhere(mask).tolist():
            if owners.setdefault((row, column), key) != key:
                expected_lost[key] += 1
    for row in range(4):
        for column in range(5):
            owner = owners.get((row, column))
            assert tuple(picture[row, column]) == ((0, 0, 0) if owner is None else colors[owner])
    assert kept == {key: sum(owner == key for owner in owners.values()) for key in keys}
    assert {key: n for key, n in expected_lost.items() if n} == lost


def test_lost_pixels_are_told_and_an_object_without_any_is_no_instance(caplog: pytest.LogCaptureFixture) -> None:
    data = np.zeros(GRID.shape, np.uint8)
    data[1:4, 1:4, 2] = 1
    plane = Plane("axial", GRID.shape)
    one = find_components(data, "axial")
    rows = Components(
        **{name: np.repeat(column, 2, axis=0) for name, column in one.columns.items() if name != "volume"},
        volume=np.array([0, 1]),
    )
    found = Findings(
        "case-1", plane, GRID, rows, "slice", np.arange(5), "", "", objects=({1: "feature-a"}, {1: "feature-b"})
    )
    writer = LabelboxImport({"case-1": ROW}, plane_maker(Options()), "mask", CLASSES, URL)
    with caplog.at_level(logging.WARNING):
        files = list(writer.case_files(found, SliceMasks(data, plane, rows)))
    (payload,) = payloads_of(files)
    assert len(payload["masks"]["instances"]) == 1
    assert "object feature-b loses 9 of 9 pixels in group axial" in caplog.text
    boxes = LabelboxImport({"case-1": ROW}, plane_maker(Options()), class_map=CLASSES, join="objects")
    files = list(boxes.case_files(found, None))
    assert len(payloads_of(files)) == 2
    (listed,) = texts(files, ".csv")
    assert [line[3] for line in csv.reader(listed.splitlines())] == ["feature-a", "feature-b"]


@given(st.sets(st.integers(1, (1 << 24) - 1), max_size=50))
def test_colours_differ_and_none_is_black(numbers: set[int]) -> None:
    colors = {color_of(n) for n in numbers}
    assert len(colors) == len(numbers)
    assert (0, 0, 0) not in colors
    assert all(0 <= c <= 255 for color in colors for c in color)


@pytest.mark.parametrize("number", [0, 1 << 24])
def test_there_are_only_so_many_colours(number: int) -> None:
    with pytest.raises(InvalidInput, match="16,777,215"):
        color_of(number)


# --- lines


def test_an_export_of_lines_becomes_the_same_lines(tmp_path: Path) -> None:
    """Export to values to payload: every point, frame and group is there again, and objects stay apart."""

    def frame(n: int) -> dict[str, Any]:
        line = [{"x": 1.125 * n, "y": 2}, {"x": 3, "y": 4.001}]
        return {
            "objects": {"f": {"feature_id": "f", "name": "vessel", "annotation_kind": "DICOMPolyline", "line": line}}
        }

    frames = {str(n): frame(n) for n in (2, 3, 7)}
    value = v2_row({"groups": {"Axial": {"frames": frames}, "Sagittal": {"frames": {"1": frames["2"]}}}})
    (row,), _, _ = parsed(tmp_path, value)
    payloads = []
    for group in row.label.groups:
        points = {f.number: f.objects[0].geometry.points for f in group.frames}  # type: ignore[union-attr]
        line = LineObject(group.frames[0].objects[0].feature, group.frames[0].objects[0].name, group.name, points)
        payloads.append(line_payload(DataRow(global_key=row.global_key), line, STABLE, benchmark=True))
    for payload in payloads:
        VALID.validate(payload)
    axial, sagittal = payloads
    assert (axial["groupKey"], sagittal["groupKey"]) == ("axial", "sagittal")
    assert axial["uuid"] != sagittal["uuid"]
    assert axial["isBenchmarkReferenceLabel"] is True
    assert [[k["frame"] for k in s["keyframes"]] for s in axial["segments"]] == [[2, 3], [7]]
    written = {str(k["frame"]): k["line"] for s in axial["segments"] for k in s["keyframes"]}
    assert written == {n: frame["objects"]["f"]["line"] for n, frame in frames.items()}


LINE = np.array([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"frames": {}}, "no frame"),
        ({"frames": {-1: LINE}}, "frame -1"),
        ({"frames": {1: LINE[:1]}}, "two or more"),
        ({"frames": {1: np.array([[1, np.nan], [1, 2]])}}, "finite"),
        ({"frames": {1: np.ones((2, 3))}}, "points x, y"),
        ({"group": "oblique"}, "axial"),
        ({"name": " "}, "ontology"),
    ],
)
def test_lines_that_labelbox_would_not_take_are_refused(change: dict[str, Any], told: str) -> None:
    known: dict[str, Any] = {"key": "k", "name": "vessel", "group": "axial", "frames": {1: LINE}, **change}
    with pytest.raises(InvalidInput, match=told):
        line_payload(ROW, LineObject(**known), STABLE)


@pytest.mark.parametrize(
    "change",
    [
        {"frames": {}},
        {"instances": []},
        {"instances": [("a", (0, 0, 0))]},
        {"instances": [("a", (1, 2, 3)), ("b", (1, 2, 3))]},
        {"frames": {1: "masks/1.png"}},
        {"frames": {1: "file:///masks/1.png"}},
        {"group": "Oblique"},
    ],
)
def test_masks_that_labelbox_would_not_take_are_refused(change: dict[str, Any]) -> None:
    known: dict[str, Any] = {"group": "Axial", "frames": {1: URL + "/1.png"}, "instances": [("a", (1, 2, 3))], **change}
    with pytest.raises(InvalidInput):
        masks_payload(ROW, known["group"], known["frames"], known["instances"], STABLE)


@pytest.mark.parametrize(
    "url", ["", "masks", "file:///m", "https://", "https://h/a b", "ftp://h/m", "http://[", "//h/m"]
)
def test_masks_need_an_address_that_can_be_fetched(url: str) -> None:
    with pytest.raises(InvalidInput, match="mask_base_url"):
        check_url(url)
    with pytest.raises(InvalidInput, match="mask_base_url"):
        LabelboxImport({}, plane_maker(Options()), "mask", mask_base_url=url)


@pytest.mark.parametrize("bad", [{"kind": "point"}, {"join": "all"}, {"uuids": "none"}])
def test_other_words_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        LabelboxImport({}, plane_maker(Options()), **bad)


@pytest.mark.parametrize("names", [{}, {"id": "a", "global_key": "b"}])
def test_a_data_row_has_exactly_one_name(names: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="either"):
        DataRow(**names)


def test_uuids_are_stable_or_random() -> None:
    line = LineObject("k", "vessel", "axial", {1: LINE})
    once, again = (line_payload(ROW, line, STABLE)["uuid"] for _ in range(2))
    assert once == again
    assert line_payload(DataRow(id="ct-01"), line, STABLE)["uuid"] != once
    first, second = (line_payload(ROW, line, uuid_maker("random"))["uuid"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    "change",
    [
        {"uuid": "7"},
        {"dataRow": {"id": "a", "globalKey": "b"}},
        {"dataRow": {}},
        {"groupKey": "Axial"},
        {"segments": []},
        {"segments": [{"keyframes": []}]},
        {"segments": [{"keyframes": [{"frame": "1", "line": [{"x": 1, "y": 1}, {"x": 2, "y": 2}]}]}]},
        {"segments": [{"keyframes": [{"frame": 1, "line": [{"x": 1, "y": 1}]}]}]},
        {"box": {}},
        {"name": None},
    ],
)
def test_the_schema_notices_what_is_wrong(change: dict[str, Any]) -> None:
    good = line_payload(ROW, LineObject("k", "vessel", "axial", {1: LINE}), STABLE)
    VALID.validate(good)
    with pytest.raises(ValidationError):
        VALID.validate({**good, **change})


# --- files of the run


class Run:
    def __init__(self, found: Sequence[Findings], parts: Mapping[str, bytes]) -> None:
        self.found = found
        self.parts = parts

    def findings(self) -> Iterator[Findings]:
        return iter(self.found)

    def part(self, name: str) -> bytes:
        return self.parts[name]


def run_of(writer: LabelboxImport, data: NDArray[Any]) -> Run:
    found = [found_in(data, view)[0] for view in VIEWS]
    empty, _ = found_in(np.zeros(GRID.shape, np.uint8))
    parts = {
        name: content.encode()
        for one in [*found, empty]
        for name, content in writer.case_files(one, None)
        if isinstance(content, str)
    }
    return Run([*found, empty], parts)


def test_the_run_has_one_file_and_every_uuid_leads_back() -> None:
    data = np.zeros(GRID.shape, np.uint8)
    data[1:3, 1:3, 1] = 1
    data[4, 4, 2:4] = 2
    writer = LabelboxImport({"case-1": ROW}, plane_maker(Options()), class_map=CLASSES)
    files = {name: b"".join(pieces) for name, pieces in writer.run_files(run_of(writer, data))}
    assert list(files) == ["labelbox.ndjson", "labelbox_uuids.csv"]
    payloads = [json.loads(line) for line in files["labelbox.ndjson"].splitlines()]
    listed = list(csv.DictReader(files["labelbox_uuids.csv"].decode().splitlines()))
    assert [one["UUID"] for one in listed] == [payload["uuid"] for payload in payloads]
    assert [one["GROUP"] for one in listed] == [payload["groupKey"] for payload in payloads]
    assert {payload["groupKey"] for payload in payloads} == set(VIEWS)


def test_more_lines_of_a_name_than_labelbox_takes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_OF_A_NAME == 5000
    monkeypatch.setattr("voxtract.write.labelbox.MOST_OF_A_NAME", 3)
    data = np.zeros(GRID.shape, np.uint8)
    data[4, 4, 2] = 2
    writer = LabelboxImport({"case-1": ROW}, plane_maker(Options()), class_map=CLASSES)
    assert all(b"".join(pieces) for _, pieces in writer.run_files(run_of(writer, data)))
    data[1, 1, 0] = 2
    run = run_of(writer, data)
    with pytest.raises(InvalidInput, match="more than 3 lines called 'tumour'"):
        _ = [b"".join(pieces) for _, pieces in writer.run_files(run)]
