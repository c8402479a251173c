"""What an export says: both generations give the same values, and one fault never stops the rest."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.read.labelbox.exports import (
    CONTAINERS,
    Export,
    codes,
    drawings,
    parsed,
    v1_label,
    v2_annotations,
    v2_row,
    write,
)
from voxtract.errors import InvalidInput, NotFound, UnreadableFile
from voxtract.read.labelbox import (
    Answer,
    Drawn,
    Fetcher,
    FetchFailed,
    Frame,
    Group,
    MaskRef,
    Polyline,
    Row,
    Selection,
    Tally,
    polyline,
    read_rows,
)

SURE = (Answer("sure", "radio", ("yes",)),)
LINE = [{"x": 1.5, "y": 2}, {"x": 3, "y": 4.25}]


def rows_of(container: str, folder: Path) -> list[Row]:
    path = write(folder, container)
    tally = Tally()
    fetcher = Fetcher(folder)
    return list(
        read_rows(path, tally, lenient=container.endswith("commented"), fetch=lambda url: fetcher.get(url, "json"))
    )


def without_addresses(groups: tuple[Group, ...]) -> Any:
    """Groups with masks as such, whatever their address, and without the segments that v1 lacks."""
    return [
        (
            group.name,
            [
                (
                    frame.number,
                    [
                        (
                            one.feature,
                            one.name,
                            one.geometry if isinstance(one.geometry, Polyline) else "mask",
                            one.key_frame,
                            one.attributes,
                        )
                        for one in frame.objects
                    ],
                )
                for frame in group.frames
            ],
        )
        for group in groups
    ]


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_says_what_was_drawn(tmp_path: Path, container: str) -> None:
    (row,) = rows_of(container, tmp_path)
    expected = [
        (
            group,
            [
                (
                    frame,
                    [(t.feature, t.name, polyline(t.line) if t.line else "mask", True, SURE) for t in things],
                )
                for frame, things in sorted(frames.items())
            ],
        )
        for group, frames in drawings().items()
    ]
    assert without_addresses(row.label.groups) == expected
    assert (row.id, row.label.id, row.project, row.label.created_by) == (
        "row-1",
        "label-1",
        "chest",
        "ann@hospital.example",
    )
    assert row.workflow_status == "DONE"
    assert "secret" in row.url


def with_object(one: Any, key: str = "f1", frame: str = "1") -> dict[str, Any]:
    return {"groups": {"Axial": {"frames": {frame: {"objects": {key: one}}}}}}


def a_line(feature: str = "f1", **more: Any) -> dict[str, Any]:
    return {"feature_id": feature, "name": "vessel", "annotation_kind": "DICOMPolyline", "line": LINE, **more}


def a_mask(feature: str = "f1", **more: Any) -> dict[str, Any]:
    mask = {"url": "https://api.labelbox.com/api/v1/projects/p/annotations/f1/index/1/mask"}
    return {"feature_id": feature, "name": "lesion", "annotation_kind": "DICOMSegmentationMask", "mask": mask, **more}


def test_a_plain_label_has_its_values(tmp_path: Path) -> None:
    value = v2_row(with_object(a_line()), attachments=[{"id": "a"}])
    (row,), issues, tally = parsed(tmp_path, value)
    assert issues == []
    drawn = Drawn("f1", "vessel", polyline([(1.5, 2), (3, 4.25)]))
    assert row.label.groups == (Group("axial", (Frame(1, (drawn,)),)),)
    assert hash(row.label.groups[0])
    assert (row.global_key, row.external_id, row.project_id) == ("ct-01", "scan 1", "project-1")
    assert row.details["attachments"] == [{"id": "a"}]
    assert row.details["media_attributes"] == {"mime_type": "application/dicom"}
    assert row.label.details["performance_details"]["seconds_to_create"] == 10
    assert (tally.unlabelled, tally.other_kinds) == (0, {})


def test_blocks_that_depend_on_export_parameters_may_be_missing(tmp_path: Path) -> None:
    value = v2_row(with_object(a_line()))
    label = value["projects"]["project-1"]["labels"][0]
    for block in ("label_details", "performance_details"):
        del label[block]
    del value["projects"]["project-1"]["project_details"], value["media_attributes"], value["data_row"]["details"]
    value["projects"]["project-1"]["project_name"] = value["projects"]["project-1"].pop("name")
    (row,), issues, _ = parsed(tmp_path, value)
    assert issues == []
    assert (row.project, row.label.created_at, row.label.skipped) == ("chest", "", False)


# --- one row of section "bad or odd input" each: what is given, the codes, how many objects are left


def good(*others: Any) -> list[Any]:
    """A sound row behind whatever comes first."""
    return [*others, v2_row(with_object(a_line()), data_row={"id": "sound"})]


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ("no json", "not-json"),
        ("3", "not-a-data-row"),
        ("{}", "not-a-data-row"),
        ('{"data_row": {}}', "not-a-data-row"),
        ('{"data_row": {"id": true}}', "not-a-data-row"),
        ('{"errors": [{"message": "export failed"}]}', "error-row"),
        ('{"frameNumber": 1, "objects": []}', "frame-without-label"),
        ('{"ID": "l", "Label": {"groups": []}}', "not-a-data-row"),
    ],
)
def test_what_is_no_data_row_is_told_and_the_next_one_read(tmp_path: Path, first: str, code: str) -> None:
    rows, issues, _ = parsed(tmp_path, good(first))
    assert [row.id for row in rows] == ["sound"]
    assert codes(issues) == [code]
    assert issues[0].line == 1
    assert issues[0].file.endswith("export.ndjson")


@pytest.mark.parametrize(
    "value",
    [
        {"data_row": {"id": "r"}},
        {"data_row": {"id": "r"}, "projects": {}},
        v2_row(None, labels=[]),
        v2_row(None, projects={"p": None}),
    ],
)
def test_no_labels_are_counted_without_an_issue(tmp_path: Path, value: Any) -> None:
    rows, issues, tally = parsed(tmp_path, good(value))
    assert (len(rows), issues, tally.unlabelled) == (1, [], 1)


@pytest.mark.parametrize("found", [None, [], {}, {"frames": {}}, {"groups": None}])
def test_annotations_without_groups_are_told_unless_skipped(tmp_path: Path, found: Any) -> None:
    rows, issues, _ = parsed(tmp_path, good(v2_row(found)))
    assert codes(issues) == ["no-annotations"]
    assert (issues[0].data_row, issues[0].label) == ("row-1", "label-1")
    assert rows[0].label.groups == ()
    rows, issues, _ = parsed(tmp_path, v2_row(found, label={"performance_details": {"skipped": True}}))
    assert (issues, rows[0].label.skipped) == ([], True)


def test_empty_groups_are_fine(tmp_path: Path) -> None:
    (row,), issues, _ = parsed(tmp_path, v2_row({"groups": {"Axial": {"frames": {}}, "Coronal": {}}}))
    assert issues == []
    assert row.label.groups == (Group("axial"), Group("coronal"))


def test_groups_are_known_in_any_case_and_others_are_told(tmp_path: Path) -> None:
    frames = {"frames": {"1": {"objects": {"f1": a_line()}}}}
    value = v2_row({"groups": {"AXIAL": frames, "Oblique": {"frames": {"1": {"objects": {"f2": a_line("f2")}}}}}})
    (row,), issues, _ = parsed(tmp_path, value)
    assert [group.name for group in row.label.groups] == ["axial", "oblique"]
    assert codes(issues) == ["unknown-group"]
    assert issues[0].group == "oblique"
    assert 'groups={"oblique": "axial"}' in issues[0].message
    assert parsed(tmp_path, value, groups=("oblique",))[1] == []
    _, issues, _ = parsed(tmp_path, v2_row({"groups": {"Axial": frames, "axial": frames}}))
    assert codes(issues) == ["group-twice"]


@pytest.mark.parametrize(("key", "number"), [("6", 6), (" 6", 6), ("006", 6), ("0", 0)])
def test_frame_keys_that_are_numbers(tmp_path: Path, key: str, number: int) -> None:
    (row,), issues, _ = parsed(tmp_path, v2_row(with_object(a_line(), frame=key)))
    assert issues == []
    assert row.label.groups[0].frames[0].number == number


@pytest.mark.parametrize("key", ["3.5", "-1", "", "six", "true", "1e2", "٣", "9" * 30, "1_0"])
def test_frame_keys_that_are_none(tmp_path: Path, key: str) -> None:
    found = with_object(a_line())
    found["groups"]["Axial"]["frames"][key] = {"objects": {"f1": a_line()}}
    (row,), issues, _ = parsed(tmp_path, v2_row(found))
    assert codes(issues) == ["bad-frame"]
    assert [frame.number for frame in row.label.groups[0].frames] == [1]


def test_a_frame_that_is_there_twice_is_told(tmp_path: Path) -> None:
    found = with_object(a_line())
    found["groups"]["Axial"]["frames"][" 1"] = {"objects": {"f9": a_line("f9")}}
    (row,), issues, _ = parsed(tmp_path, v2_row(found))
    assert codes(issues) == ["frame-twice"]
    assert [one.feature for one in row.label.groups[0].frames[0].objects] == ["f1"]


def test_objects_may_be_a_list(tmp_path: Path) -> None:
    found = {"groups": {"Axial": {"frames": {"1": {"objects": [a_line(), a_mask("f2"), a_line("f1")]}}}}}
    (row,), issues, _ = parsed(tmp_path, v2_row(found))
    assert [one.feature for one in row.label.groups[0].frames[0].objects] == ["f1", "f2"]
    assert codes(issues) == ["feature-twice"]


def test_the_inner_feature_id_wins(tmp_path: Path) -> None:
    (row,), issues, _ = parsed(tmp_path, v2_row(with_object(a_line("inner"), key="outer")))
    assert codes(issues) == ["feature-id-differs"]
    assert row.label.groups[0].frames[0].objects[0].feature == "inner"
    nameless = a_line()
    del nameless["feature_id"]
    (row,), issues, _ = parsed(tmp_path, v2_row(with_object(nameless, key="outer")))
    assert (issues, row.label.groups[0].frames[0].objects[0].feature) == ([], "outer")


def test_a_feature_in_two_groups_or_of_two_kinds_is_kept_apart(tmp_path: Path) -> None:
    frames = {"1": {"objects": {"f1": a_line()}}, "2": {"objects": {"f1": a_mask(mask={"url": "x.png"})}}}
    found = {"groups": {"Axial": {"frames": frames}, "Coronal": {"frames": {"1": {"objects": {"f1": a_line()}}}}}}
    (row,), issues, _ = parsed(tmp_path, v2_row(found))
    assert codes(issues) == ["feature-of-two-kinds", "feature-in-two-groups"]
    assert sum(len(frame.objects) for group in row.label.groups for frame in group.frames) == 3


def test_a_feature_of_two_names_is_told(tmp_path: Path) -> None:
    frames = {"1": {"objects": {"f1": a_line()}}, "2": {"objects": {"f1": a_line(name="nerve")}}}
    _, issues, _ = parsed(tmp_path, v2_row({"groups": {"Axial": {"frames": frames}}}))
    assert codes(issues) == ["feature-of-two-names"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ([], "short-line"),
        ([{"x": 1, "y": 2}], "short-line"),
        (None, "short-line"),
        ("1,2 3,4", "short-line"),
        ([{"x": 1, "y": math.nan}, {"x": 1, "y": 2}], "bad-point"),
        ([{"x": math.inf, "y": 2}, {"x": 1, "y": 2}], "bad-point"),
        ([{"x": "1", "y": 2}, {"x": 1, "y": 2}], "bad-point"),
        ([{"x": True, "y": 2}, {"x": 1, "y": 2}], "bad-point"),
        ([{"x": 10**400, "y": 2}, {"x": 1, "y": 2}], "bad-point"),
        ([{"x": 1}, {"x": 1, "y": 2}], "bad-point"),
        ([[1, 2], [3, 4]], "bad-point"),
    ],
)
def test_a_bad_line_is_left_out_and_the_others_stay(tmp_path: Path, line: Any, code: str) -> None:
    found = with_object(a_line(line=line))
    found["groups"]["Axial"]["frames"]["1"]["objects"]["f2"] = a_line("f2")
    (row,), issues, _ = parsed(tmp_path, v2_row(found))
    assert codes(issues) == [code]
    assert (issues[0].group, issues[0].frame, issues[0].feature) == ("axial", 1, "f1")
    assert [one.feature for one in row.label.groups[0].frames[0].objects] == ["f2"]


@pytest.mark.parametrize("kind", ["ImageBoundingBox", None, 3])
def test_an_unknown_kind_is_told_and_the_others_stay(tmp_path: Path, kind: Any) -> None:
    found = with_object(a_line(annotation_kind=kind))
    found["groups"]["Axial"]["frames"]["1"]["objects"]["f2"] = a_line("f2")
    (row,), issues, _ = parsed(tmp_path, v2_row(found))
    assert codes(issues) == ["unknown-kind"]
    assert repr(kind) in issues[0].message
    assert [one.feature for one in row.label.groups[0].frames[0].objects] == ["f2"]


@pytest.mark.parametrize("mask", [None, {}, {"url": ""}, {"url": 3}, "x.png"])
def test_a_mask_without_address_is_left_out(tmp_path: Path, mask: Any) -> None:
    (row,), issues, _ = parsed(tmp_path, v2_row(with_object(a_mask(mask=mask))))
    assert codes(issues) == ["mask-without-url"]
    assert row.label.groups[0].frames[0].objects == ()


@pytest.mark.parametrize("color", [None, [1, 2], [1, 2, 256], [1, 2, -1], [1.0, 2, 3], [True, 2, 3], "#ffffff"])
def test_a_composite_mask_needs_a_colour(tmp_path: Path, color: Any) -> None:
    one = a_mask(composite_mask={"url": "https://api.labelbox.com/tasks/t/masks/m/index/1", "color_rgb": color})
    (row,), issues, _ = parsed(tmp_path, v2_row(with_object(one)))
    assert codes(issues) == ["bad-color"]
    assert row.label.groups[0].frames[0].objects == ()


def test_a_composite_mask_has_its_colour(tmp_path: Path) -> None:
    one = a_mask(composite_mask={"url": "https://api.labelbox.com/tasks/t/masks/m/index/1", "color_rgb": [1, 2, 3]})
    (row,), issues, _ = parsed(tmp_path, v2_row(with_object(one)))
    assert issues == []
    assert row.label.groups[0].frames[0].objects[0].geometry == MaskRef(one["composite_mask"]["url"], (1, 2, 3))


@pytest.mark.parametrize("url", ["/api/v1/x/index/7/mask", "/tasks/t/masks/m/index/7", "/masks/feature/f1/7"])
def test_another_frame_in_the_address_is_told(tmp_path: Path, url: str) -> None:
    address = f"https://api.labelbox.com{url}"
    (row,), issues, _ = parsed(tmp_path, v2_row(with_object(a_mask(mask={"url": address}))))
    assert codes(issues) == ["frame-in-url"]
    assert len(row.label.groups[0].frames[0].objects) == 1
    assert parsed(tmp_path, v2_row(with_object(a_mask(mask={"url": address}), frame="7")))[1] == []


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([[1, 1]], []),
        ([[1, 5]], ["segments-gap"]),
        ([[2, 2]], ["segments-differ", "segments-gap"]),
        ([], ["segments-differ"]),
        ([[5, 1]], ["bad-segments", "segments-differ"]),
        ("1-2", ["bad-segments", "segments-differ"]),
        ([[1, 1], [1]], ["bad-segments"]),
    ],
)
def test_segments_that_disagree_are_told_and_frames_win(tmp_path: Path, segments: Any, expected: list[str]) -> None:
    value = v2_row({**with_object(a_line()), "segments": {"Axial": {"f1": segments}}})
    (row,), issues, _ = parsed(tmp_path, value)
    assert codes(issues) == expected
    assert [frame.number for frame in row.label.groups[0].frames] == [1]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, None),
        ({"f1": {"Axial": {"1": True}}}, True),
        ({"f1": {"Axial": {"1": False}}}, False),
        ({"f1": {"Axial": {}}}, False),
        ({"f1": {"axial": [1, 2]}}, True),
        ({"f1": {"Axial": [2]}}, False),
    ],
)
def test_key_frames_in_every_form(tmp_path: Path, found: Any, expected: bool | None) -> None:
    value = with_object(a_line())
    if found is not None:
        value["key_frame_feature_map"] = found
    (row,), issues, _ = parsed(tmp_path, v2_row(value))
    assert issues == []
    assert row.label.groups[0].frames[0].objects[0].key_frame is expected


def test_labels_on_other_media_are_counted(tmp_path: Path) -> None:
    labels = [
        {"label_kind": "Video", "id": "v", "annotations": {"frames": {}}},
        {"id": "?", "annotations": {"objects": []}},
        {"label_kind": "DICOM", "id": "d", "annotations": {"groups": {}}},
        {"id": "e", "annotations": {"groups": {}}},
        "no label",
    ]
    rows, issues, tally = parsed(tmp_path, v2_row(None, labels=labels))
    assert [row.label.id for row in rows] == ["d", "e"]
    assert tally.other_kinds == {"Video": 1, "unknown": 1}
    assert codes(issues) == ["not-a-label"]


def test_labels_of_one_row_stay_apart(tmp_path: Path) -> None:
    one = v2_row(with_object(a_line()))["projects"]["project-1"]["labels"][0]
    labels = [one, {**deepcopy(one), "id": "label-2"}]
    projects = {"p": {"name": "a", "labels": labels}, "q": {"name": "b", "labels": [one]}}
    rows, _, _ = parsed(tmp_path, v2_row(None, projects=projects))
    assert [(row.project_id, row.label.id) for row in rows] == [("p", "label-1"), ("p", "label-2"), ("q", "label-1")]


def test_nested_classifications_of_both_generations(tmp_path: Path) -> None:
    v2 = [
        {"name": "c", "checklist_answers": [{"name": "a"}, {"name": "b"}]},
        {"name": "t", "text_answer": {"content": "free"}},
        {
            "name": "r",
            "radio_answer": {"name": "x", "classifications": [{"name": "n", "text_answer": {"content": "y"}}]},
        },
        {"name": "?"},
    ]
    v1 = [
        {"title": "c", "answers": [{"title": "a"}, {"title": "b"}]},
        {"title": "t", "answer": "free"},
        {"title": "r", "answer": {"title": "x", "classifications": [{"title": "n", "answer": "y"}]}},
        {"title": "?"},
    ]
    expected = (
        Answer("c", "checklist", ("a", "b")),
        Answer("t", "text", ("free",)),
        Answer("r", "radio", ("x",), (Answer("n", "text", ("y",)),)),
        Answer("?", "other", ()),
    )
    for answers in (v1, v2):
        (row,), _, _ = parsed(tmp_path, v2_row({**with_object(a_line()), "classifications": answers}))
        assert row.label.attributes == expected


@pytest.mark.parametrize("where", ["groups", "frames", "frame", "objects", "segments", "key_frame_feature_map"])
@pytest.mark.parametrize("value", [None, [], {}, "text", 3, True, [None], {"a": None}, {"a": [[]]}, [[1]]])
def test_anything_anywhere_leaves_the_next_row_whole(tmp_path: Path, where: str, value: Any) -> None:
    found: dict[str, Any] = with_object(a_line())
    axial = found["groups"]["Axial"]
    if where in ("groups", "segments", "key_frame_feature_map"):
        found[where] = value
    elif where == "frames":
        axial["frames"] = value
    elif where == "frame":
        axial["frames"]["1"] = value
    else:
        axial["frames"]["1"]["objects"] = value
    rows, _, _ = parsed(tmp_path, good(v2_row(found)))
    assert rows[-1].id == "sound"
    assert len(rows[-1].label.groups[0].frames[0].objects) == 1


# --- v1


def v1(tmp_path: Path, label: Any, **more: Any) -> Any:
    """Read one v1 label; frames come from files in the folder."""
    value = {**v1_label(Export(tmp_path), {}, "ndjson"), "Label": label, **more}
    path = tmp_path / "v1.json"
    path.write_text(json.dumps([value]))
    tally = Tally()
    fetcher = Fetcher(tmp_path)
    rows = list(read_rows(path, tally, fetch=lambda url: fetcher.get(url, "json")))
    return rows, tally.issues


@pytest.mark.parametrize(("label", "skipped"), [({}, True), ("Skip", True), (None, 1)])
def test_a_skipped_v1_label_is_no_error_whatever_its_shape(tmp_path: Path, label: Any, skipped: Any) -> None:
    (row,), issues = v1(tmp_path, label, Skipped=skipped)
    assert (issues, row.label.skipped, row.label.groups) == ([], True, ())
    (row,), issues = v1(tmp_path, label, Skipped=False)
    assert (codes(issues), row.label.skipped) == (["no-annotations"], False)


def frames_of(*objects: Any) -> dict[str, Any]:
    return {"groups": [{"name": "axial", "frames": [{"frameNumber": 3, "objects": list(objects)}]}]}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (frames_of({"featureId": "f", "title": "t", "line": LINE}), []),
        (frames_of({"featureId": "f", "title": "t", "line": []}), ["short-line"]),
        (frames_of({"featureId": "f", "title": "t", "instanceURI": None}), ["mask-without-url"]),
        (frames_of({"featureId": "f", "title": "t", "bbox": {}}), ["unknown-kind"]),
        (frames_of({"title": "t", "line": LINE}, 3), ["bad-object", "bad-object"]),
        ({"groups": [{"name": "axial", "frames": [{"frameNumber": True}, 3]}]}, ["bad-frame", "bad-frame"]),
        ({"groups": [{"name": "axial", "frames": 3}]}, ["bad-frames"]),
        ({"groups": [{"name": "axial", "frames": ""}, {"name": "coronal"}]}, []),
        ({"groups": [{"frames": ""}]}, ["bad-group"]),
        ({"groups": [{"name": "axial"}, {"name": "Axial"}]}, ["group-twice"]),
        ({"groups": [{"name": "oblique"}]}, ["unknown-group"]),
        ({"groups": [{"name": "axial", "frames": "gone.ndjson"}]}, ["frames-missing"]),
        ({"groups": [{"name": "axial", "frames": "../out.ndjson"}]}, ["frames-missing"]),
        ({"groups": [{"name": "axial", "frames": "https://elsewhere.example/f"}]}, ["frames-missing"]),
        ({"groups": [{"name": "axial", "frames": "bad.ndjson"}]}, ["not-json"]),
        ({"groups": [{"name": "axial", "frames": "empty.ndjson"}]}, []),
        ({"groups": [{"name": "axial", "frames": "page.html"}]}, ["frames-missing"]),
    ],
)
def test_faults_of_v1_labels(tmp_path: Path, label: Any, expected: list[str]) -> None:
    (tmp_path / "bad.ndjson").write_text('{"frameNumber": 1, "objects": []}\n{"frameNumber\n')
    (tmp_path / "empty.ndjson").write_text("")
    (tmp_path / "page.html").write_text("<html>log in</html>")
    (row,), issues = v1(tmp_path, label)
    assert codes(issues) == expected
    assert all(issue.label == "label-1" for issue in issues)
    if "bad.ndjson" in json.dumps(label):
        assert [frame.number for frame in row.label.groups[0].frames] == [1]


def test_without_fetching_v1_frames_are_said_to_be_missing(tmp_path: Path) -> None:
    _, issues, _ = parsed(tmp_path, v1_label(Export(tmp_path), drawings(), "ndjson"))
    assert codes(issues) == ["frames-missing"] * 3


# --- files, privacy


def test_files_that_are_no_export(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such export"):
        list(read_rows(tmp_path / "none", Tally()))
    with pytest.raises(InvalidInput, match="is a folder"):
        list(read_rows(tmp_path, Tally()))


def test_a_failing_fetch_is_an_issue_and_our_other_errors_are_not_renamed(tmp_path: Path) -> None:
    def fetch(url: str) -> bytes:
        raise FetchFailed("http-status", "the server answers 401")

    label = {**v1_label(Export(tmp_path), {}, "ndjson"), "Label": {"groups": [{"name": "axial", "frames": "u"}]}}
    _, issues, _ = parsed(tmp_path, label, fetch=fetch)
    assert codes(issues) == ["frames-missing"]
    assert "401" in issues[0].message
    assert issubclass(FetchFailed, UnreadableFile)


def test_mail_addresses_become_pseudonyms_everywhere(tmp_path: Path) -> None:
    value = v2_row(
        with_object(a_line()),
        metadata_fields=[{"schema_name": "reader", "value": "seen by Bob@X.example today", "bob@x.example": 1}],
    )
    value["projects"]["project-1"]["project_details"]["workflow_history"] = [{"created_by": "ann@hospital.example"}]
    (plain,), _, _ = parsed(tmp_path, value)
    (one,), _, _ = parsed(tmp_path, value, pseudonymise="salt")
    (again,), _, _ = parsed(tmp_path, value, pseudonymise="salt")
    (other,), _, _ = parsed(tmp_path, value, pseudonymise="pepper")
    assert "@" in repr(plain)
    assert "@" not in repr(one)
    assert one == again
    assert one.label.created_by == one.details["project_details"]["workflow_history"][0]["created_by"]
    assert one.label.created_by.startswith("user-")
    assert one.label.created_by != other.label.created_by
    (old,), _, _ = parsed(
        tmp_path, {**v1_label(Export(tmp_path), {}, "ndjson"), "Reviews": [{"by": "c@d.example"}]}, pseudonymise="salt"
    )
    assert old.label.created_by == one.label.created_by
    assert "@" not in repr(old)


# --- selection


def a_row(**more: Any) -> Row:
    from voxtract.read.labelbox import Label, Place

    label = {"id": "l", "created_at": "2024-05-01T10:00:00Z", "created_by": "ann@x.example", **more.pop("label", {})}
    known = {"id": "r", "project_id": "p", "project": "chest", "workflow_status": "DONE", **more}
    return Row(Place("export"), label=Label(**label), **known)


@pytest.mark.parametrize(
    ("selection", "taken"),
    [
        (Selection(), True),
        (Selection(project="p"), True),
        (Selection(project="chest"), True),
        (Selection(project=("a", "b")), False),
        (Selection(project=""), False),
        (Selection(label=["l", "m"]), True),
        (Selection(label="m"), False),
        (Selection(annotator="ANN@x.example"), True),
        (Selection(annotator="bob@x.example"), False),
        (Selection(workflow_status="done"), True),
        (Selection(workflow_status="IN_REVIEW"), False),
        (Selection(label_created_at=("2024-05-01", None)), True),
        (Selection(label_created_at=("2024-05-01T12:00:00+02:00", "2024-05-01T10:00:00")), True),
        (Selection(label_created_at=(None, "2024-05-01")), False),
        (Selection(label_created_at=("2024-05-02", None)), False),
        (Selection(last_activity_at=("2024-01-01", None)), True),
        (Selection(last_activity_at=(None, "2024-01-01")), False),
    ],
)
def test_selection_by_what_a_row_says(selection: Selection, taken: bool) -> None:
    issues: list[Any] = []
    assert selection.takes(a_row(last_activity_at="2024-06-01T00:00:00Z"), issues.append) is taken
    assert issues == []


def test_a_filter_on_a_time_that_is_missing_says_so() -> None:
    issues: list[Any] = []
    assert not Selection(last_activity_at=("2024-01-01", None)).takes(a_row(), issues.append)
    assert codes(issues) == ["not-filterable"]


@pytest.mark.parametrize("bad", [{"benchmark": "maybe"}, {"label_created_at": ("yesterday", None)}])
def test_a_selection_of_other_words_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidInput):
        Selection(**bad)


def test_benchmarks_are_the_labels_that_others_refer_to() -> None:
    rows = [a_row(), a_row(label={"id": "m", "benchmark": "l"})]
    issues: list[Any] = []
    assert Selection(benchmark="only").among(rows, {"l"}, issues.append) == rows[:1]
    assert Selection(benchmark="exclude").among(rows, {"l"}, issues.append) == rows[1:]
    assert Selection().among(rows, {"l"}, issues.append) == rows


def test_latest_is_by_data_row_and_project() -> None:
    issues: list[Any] = []
    rows = [
        a_row(label={"id": "new", "created_at": "2024-05-03T00:00:00+01:00"}),
        a_row(label={"id": "old"}),
        a_row(project_id="q", label={"id": "other"}),
        a_row(id="r2", label={"id": "timeless", "created_at": ""}),
    ]
    kept = Selection(latest=True).among(rows, set(), issues.append)
    assert [row.label.id for row in kept] == ["new", "other", "timeless"]
    assert issues == []
    kept = Selection(latest=True).among([*rows, a_row(id="r2", label={"id": "last"})], set(), issues.append)
    assert [row.label.id for row in kept] == ["new", "other", "last"]
    assert codes(issues) == ["not-filterable"]


def test_segments_and_composites_do_not_change_what_was_drawn(tmp_path: Path) -> None:
    plain = v2_annotations(Export(tmp_path), drawings())
    without = {key: value for key, value in plain.items() if key != "segments"}
    (one,), _, _ = parsed(tmp_path, v2_row(plain))
    (other,), _, _ = parsed(tmp_path, v2_row(without))
    assert without_addresses(one.label.groups) == without_addresses(other.label.groups)
    assert one.label.groups[0].segments[0] == ("line-a", ((2, 2), (3, 3)))
    assert other.label.groups[0].segments == ()
