"""The annotation's own promises: arguments, aliases, lookups, errors, and files that give back what was saved."""

from __future__ import annotations

import copy
import inspect
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tests.webknossos.annotations import FULL, any_annotation, facts
from voxtract.webknossos import (
    Annotation,
    AnnotationState,
    AnnotationType,
    BoundingBox,
    FormatError,
    NoSuchLayer,
    SegmentInformation,
    Skeleton,
    WrongUse,
)


def made(**more: Any) -> Annotation:
    return Annotation("a", dataset_name="d", voxel_size=(1, 2, 3), **more)


def test_the_order_of_the_arguments() -> None:
    names = list(inspect.signature(Annotation).parameters)
    assert names[:15] == [
        "name",
        "skeleton",
        "dataset_name",
        "voxel_size",
        "organization_id",
        "description",
        "owner_name",
        "annotation_id",
        "time",
        "edit_position",
        "edit_rotation",
        "zoom_level",
        "metadata",
        "task_bounding_box",
        "user_bounding_boxes",
    ]
    box = BoundingBox((0, 0, 0), (1, 1, 1))
    given_values = (
        "n",
        None,
        "d",
        (1, 2, 3),
        "o",
        "t",
        "me",
        "id",
        5,
        (1, 2, 3),
        (4, 5, 6),
        2.5,
        {"a": "b"},
        box,
        [box],
    )
    annotation = Annotation(*given_values)
    assert annotation.skeleton == Skeleton("d", (1, 2, 3), "o", "t")
    found = [getattr(annotation, name) for name in names[:15]]
    assert found == [given_values[0], annotation.skeleton, *given_values[2:]]


def test_defaults_are_fresh_and_time_is_now_in_whole_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1700000000.987)
    first, second = made(), made()
    assert (first.time, made(time=None).time, made(time=5).time) == (1700000000000, None, 5)
    first.metadata["a"] = "b"
    first.user_bounding_boxes.append(BoundingBox((0, 0, 0), (1, 1, 1)))
    assert (second.metadata, second.user_bounding_boxes) == ({}, [])
    assert [first.owner_name, first.annotation_id, first.zoom_level, first.task_bounding_box] == [None] * 4
    assert [first.edit_position, first.edit_rotation, first.organization_id, first.description] == [None] * 4


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"dataset_name": "d"},
        {"voxel_size": (1, 1, 1)},
        *(
            {"skeleton": Skeleton("d", (1, 1, 1)), name: value}
            for name, value in {
                "dataset_name": "d",
                "voxel_size": (1, 1, 1),
                "organization_id": "o",
                "description": "",
                "dataset_id": "i",
            }.items()
        ),
    ],
)
def test_either_a_skeleton_or_a_dataset(wrong: dict[str, Any]) -> None:
    with pytest.raises(AssertionError) as caught:
        Annotation("a", **wrong)
    assert isinstance(caught.value, WrongUse)


def test_what_the_skeleton_holds_is_read_and_written_there() -> None:
    skeleton = Skeleton("d", (1, 2, 3), "o", "t", "i")
    annotation = Annotation("a", skeleton)
    for name, value in {
        "dataset_name": "e",
        "dataset_id": "j",
        "voxel_size": (4.0, 5.0, 6.0),
        "organization_id": "p",
        "description": "u",
    }.items():
        assert getattr(annotation, name) == getattr(skeleton, name)
        setattr(annotation, name, value)
        assert getattr(skeleton, name) == value


def test_deprecated_aliases() -> None:
    annotation = made()
    with pytest.warns(DeprecationWarning, match="use voxel_size"):
        assert annotation.scale == (1.0, 2.0, 3.0)
    with pytest.warns(DeprecationWarning, match="use voxel_size"):
        annotation.scale = (4, 5, 6)
    with pytest.warns(DeprecationWarning, match="use owner_name"):
        annotation.username = "me"
    with pytest.warns(DeprecationWarning, match="use owner_name"):
        assert annotation.username == "me"
    assert (annotation.voxel_size, annotation.owner_name) == ((4, 5, 6), "me")


@pytest.mark.parametrize("name", ["edit_position", "edit_rotation"])
@pytest.mark.parametrize("value", [(1, 2), (1, 2, 3, 4), (1, 2, "x"), (1, 2, float("nan")), 3])
def test_cameras_are_three_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        made(**{name: value})
    annotation = made(**{name: np.array([1, 2, 3])})
    assert getattr(annotation, name) == (1.0, 2.0, 3.0)
    with pytest.raises(ValueError, match=name):
        setattr(annotation, name, value)
    setattr(annotation, name, None)


def test_types_and_states() -> None:
    assert AnnotationType("Task") is AnnotationType.TASK
    assert {kind.value for kind in AnnotationType} == {
        "Explorational",
        "Task",
        "CompoundTask",
        "CompoundProject",
        "CompoundTaskType",
    }
    assert {state.name: state.value for state in AnnotationState} == {
        "ACTIVE": "Active",
        "CANCELLED": "Cancelled",
        "FINISHED": "Finished",
        "INITIALIZING": "Initializing",
    }


# Volume layers


def layered(*names: str) -> Annotation:
    annotation = made()
    for name in names:
        annotation.add_volume_layer(name)
    return annotation


def test_layers_are_listed_in_order() -> None:
    names = layered("b", "a", "b").get_volume_layer_names()
    assert iter(names) is names
    assert list(names) == ["b", "a", "b"]


LOOKUPS = ["delete_volume_layer", "get_volume_layer_segments", "get_volume_layer"]


@pytest.mark.parametrize("method", LOOKUPS)
@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ((), (None, None)),
        ((), ("a", None)),
        ((), (None, 0)),
        (("a",), ("b", None)),
        (("a",), (None, 7)),
        (("a",), ("b", 0)),
        (("a",), ("a", 7)),
        (("a", "b"), (None, None)),
        (("a", "b"), ("c", None)),
        (("a", "b"), (None, 7)),
        (("a", "b"), ("a", 7)),
        (("a", "a"), ("a", None)),
    ],
)
def test_layers_that_are_not_found(method: str, names: tuple[str, ...], wanted: tuple[Any, Any]) -> None:
    annotation = layered(*names)
    with pytest.raises(NoSuchLayer, match="annotation 'a' has") as caught:
        getattr(annotation, method)(*wanted)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AssertionError)
    assert list(annotation.get_volume_layer_names()) == list(names)


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (("a",), (None, None), 0),
        (("a",), ("a", None), 0),
        (("a",), ("a", 0), 0),
        (("a", "b"), ("b", None), 1),
        (("a", "b"), (None, 1), 1),
        (("a", "a"), ("a", 1), 1),
    ],
)
def test_layers_that_are_found(names: tuple[str, ...], wanted: tuple[Any, Any], expected: int) -> None:
    annotation = layered(*names)
    assert annotation.get_volume_layer(*wanted).id == expected
    assert annotation.get_volume_layer_segments(*wanted) is annotation.volume_layers[expected].segments
    annotation.delete_volume_layer(*wanted)
    assert [layer.id for layer in annotation.volume_layers] == [n for n in range(len(names)) if n != expected]


def test_the_id_counts_where_the_name_disagrees() -> None:
    annotation = layered("a", "b")
    with pytest.warns(UserWarning, match="id 1 is called 'b', not 'a'; the id counts"):
        annotation.delete_volume_layer("a", 1)
    assert list(annotation.get_volume_layer_names()) == ["a"]


def test_segments_that_are_changed_are_saved(tmp_path: Path) -> None:
    annotation = layered("a", "b")
    annotation.get_volume_layer_segments("b")[7] = SegmentInformation("x", (1, 2, 3), (1, 0, 0, 1), {"k": ["l"]})
    annotation.save(tmp_path / "a.zip")
    again = Annotation.load(tmp_path / "a.zip")
    assert again.get_volume_layer_segments("a") == {}
    segments = again.get_volume_layer_segments("b")
    assert segments == {7: SegmentInformation("x", (1, 2, 3), (1, 0, 0, 1), {"k": ["l"]})}
    segments[7].name = "y"
    segments[8] = SegmentInformation("z", None, None)
    again.save(tmp_path / "b.zip")
    assert {n: one.name for n, one in Annotation.load(tmp_path / "b.zip").get_volume_layer_segments("b").items()} == {
        7: "y",
        8: "z",
    }
    del segments[7]
    again.save(tmp_path / "c.zip")
    assert list(Annotation.load(tmp_path / "c.zip").get_volume_layer_segments("b")) == [8]


SEGMENTATION = SimpleNamespace(name="seg", category="segmentation")


@pytest.mark.parametrize(
    ("arguments", "words", "expected"),
    [
        (("v",), {}, (None, None, 0)),
        (("v", "seg"), {}, (None, "seg", 0)),
        (("v", "seg", 5), {}, (None, "seg", 5)),
        (("v", None, 5), {}, (None, None, 5)),
        (("v", SEGMENTATION, 5), {}, (None, "seg", 5)),
        (("v", np.uint16), {}, ("uint16", None, 0)),
        (("v", "uint64", "seg"), {}, ("uint64", "seg", 0)),
        (("v", np.dtype("<u4"), SEGMENTATION, 9), {}, ("uint32", "seg", 9)),
        (("v", None, "seg", 9), {}, (None, "seg", 9)),
        (("v",), {"fallback_layer": SEGMENTATION, "dtype": "int8", "volume_layer_id": 3}, ("int8", "seg", 3)),
        (("v",), {"fallback_layer": "uint32"}, (None, "uint32", 0)),
    ],
)
def test_both_ways_to_add_a_layer(arguments: Any, words: Any, expected: Any) -> None:
    annotation = made()
    layer = annotation.add_volume_layer(*arguments, **words)
    assert (layer.dtype and layer.dtype.name, layer.fallback_layer, layer.id) == expected
    assert (layer.name, layer.data_format, layer.data, layer.segments) == ("v", "zarr3", None, {})
    assert annotation.volume_layers == (layer,)


def test_ids_of_layers_follow_the_largest() -> None:
    annotation = made()
    assert [annotation.add_volume_layer("v", volume_layer_id=n).id for n in (None, 7, 3, None)] == [0, 7, 3, 8]


@pytest.mark.parametrize(
    "arguments",
    [
        ("v", "float32"),
        ("v", np.float64),
        ("v", np.dtype("complex64")),
        ("v", np.dtype("S3")),
        ("v", bool),
        ("v", object()),
        ("v", SimpleNamespace(name="color", category="color")),
        ("v", "uint8", SimpleNamespace(name=3, category="segmentation")),
        ("v", "seg", 0),
        ("v", "seg", -1),
        ("v", "seg", "uint8"),
        ("v", None, None, 0),
    ],
)
def test_layers_that_cannot_be_added_leave_nothing_behind(arguments: Any) -> None:
    annotation = layered("first")
    before = copy.deepcopy(annotation)
    with pytest.raises(AssertionError) as caught:
        annotation.add_volume_layer(*arguments)
    assert isinstance(caught.value, WrongUse)
    assert annotation == before


# Files


@pytest.mark.parametrize("name", ["a", "a.txt", "a.nml.gz", "a.wkw"])
def test_other_suffixes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FULL)
    for kind in (RuntimeError, AssertionError, FormatError):
        with pytest.raises(kind, match=r"ends in \.nml or \.zip"):
            Annotation.load(tmp_path / name)
    with pytest.raises(AssertionError, match=r"\.nml or \.zip"):
        made().save(tmp_path / f"new-{name}")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["none.nml", "none.zip", "folder.zip"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.zip").mkdir()
    for kind in (FileNotFoundError, AssertionError):
        with pytest.raises(kind, match=name):
            Annotation.load(str(tmp_path / name))


def test_volume_layers_do_not_fit_into_an_nml(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"volume layers v, which an \.nml cannot hold"):
        layered("v").save(tmp_path / "a.nml")
    assert list(tmp_path.iterdir()) == []


def test_layers_without_data_are_written_without_a_location(tmp_path: Path) -> None:
    layered("v").save(tmp_path / "a.ZIP")
    again = Annotation.load(tmp_path / "a.ZIP")
    assert again.get_volume_layer().location is None


def test_a_file_without_a_time_and_one_with_meta(tmp_path: Path) -> None:
    (tmp_path / "full.nml").write_text(FULL, encoding="utf-8")
    annotation = Annotation.load(tmp_path / "full.nml")
    assert (annotation.owner_name, annotation.annotation_id) == ("Jörg", "0123456789abcdef01234567")
    assert annotation.metadata == {"writer": "by hand", "taskId": "77"}
    assert (annotation.time, annotation.active_node) == (1700000000000, 6)
    (tmp_path / "small.nml").write_text(
        '<things><parameters><experiment/><scale x="1" y="1" z="1"/></parameters></things>'
    )
    small = Annotation.load(tmp_path / "small.nml")
    assert (small.time, small.dataset_name) == (None, "Unnamed Experiment")


def test_names_in_meta_are_never_written_twice(tmp_path: Path) -> None:
    annotation = made(owner_name="me", annotation_id="1", metadata={"username": "you", "annotationId": "2", "x": "y"})
    annotation.save(tmp_path / "a.nml")
    again = Annotation.load(tmp_path / "a.nml")
    assert (again.owner_name, again.annotation_id, again.metadata) == ("me", "1", {"x": "y"})


def test_zoom_levels_keep_their_kind(tmp_path: Path) -> None:
    for zoom in (2, 2.0, 0.25, None):
        made(zoom_level=zoom).save(tmp_path / "a.nml")
        again = Annotation.load(tmp_path / "a.nml").zoom_level
        assert again == zoom
        assert type(again) is type(zoom)


def test_every_fact_of_a_file_survives_loading_and_saving(tmp_path: Path) -> None:
    (tmp_path / "full.nml").write_text(FULL, encoding="utf-8")
    annotation = Annotation.load(tmp_path / "full.nml")
    annotation.save(tmp_path / "full.zip")
    again = Annotation.load(tmp_path / "full.zip")
    assert again == annotation
    for layer in tuple(again.volume_layers):
        again.delete_volume_layer(volume_layer_id=layer.id)
    again.save(tmp_path / "without.nml")
    lost = facts(FULL) - facts((tmp_path / "without.nml").read_text(encoding="utf-8"))
    old = {"unit", "comment", "groupId", *(f"color{channel}" for channel in "rgba")}
    assert {fact for fact in lost if "/volume" not in fact[0] and fact[1] not in old} == set()


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(annotation=any_annotation())
def test_what_is_saved_is_loaded(annotation: Annotation) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        path = Path(folder) / "a.zip"
        annotation.save(path)
        again = Annotation.load(path)
        assert again == annotation
        assert [stated(box) for box in again.user_bounding_boxes] == [
            stated(box, (0.2, 0.5, 0.1, 1)) for box in annotation.user_bounding_boxes
        ]
        before, after = annotation.task_bounding_box, again.task_bounding_box
        assert (before and stated(before)) == (after and stated(after))
        again.save(Path(folder) / "b.zip")
        assert (Path(folder) / "b.zip").read_bytes() == path.read_bytes()


def stated(box: BoundingBox, default: Any = None) -> tuple[Any, ...]:
    return box.topleft, box.size, box.name, box.is_visible, box.color or default


def test_annotations_that_differ(tmp_path: Path) -> None:
    (tmp_path / "full.nml").write_text(FULL, encoding="utf-8")
    annotation = Annotation.load(tmp_path / "full.nml")
    for name, value in {
        "name": "x",
        "owner_name": "x",
        "annotation_id": "x",
        "time": 1,
        "edit_position": (0, 0, 0),
        "edit_rotation": (0, 0, 0),
        "zoom_level": 9,
        "metadata": {},
        "task_bounding_box": None,
        "user_bounding_boxes": [],
        "active_node": 9,
        "wk_url": "x",
        "additional_axes": [],
        "kept": {},
    }.items():
        other = copy.deepcopy(annotation)
        assert other == annotation
        setattr(other, name, value)
        assert other != annotation
    assert annotation != 1
    other = copy.deepcopy(annotation)
    other.get_volume_layer_segments(volume_layer_id=3)[1].name = "x"
    assert other != annotation
