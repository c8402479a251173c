"""An export as cases: every container gives the same boxes; faults leave the rest as it is; nothing is invented."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.read.labelbox.exports import (
    AFFINE,
    CONTAINERS,
    SHAPE,
    Export,
    Groups,
    Thing,
    codes,
    disk,
    drawings,
    opened,
    png,
    v2_annotations,
    v2_row,
    write,
    write_volume,
)
from tests.read.labelbox.server import Server, body, serving, status
from voxtract.compute.components import find_components
from voxtract.errors import InvalidInput, NotFound, VoxtractError
from voxtract.geometry import Grid
from voxtract.model import Case, Header, Volume, VolumeFile
from voxtract.read.labelbox import LabelboxSource, Limits, Options, Selection, open_labelbox
from voxtract.read.labelbox.painting import GroupLabels, layers_at_most, paint

KEY = "lb-key-0123456789"


def data_of(case: Case) -> dict[str, NDArray[Any]]:
    """Voxels of each group, its layers put together; voxels that are in two of them are counted as a failure."""
    found: dict[str, NDArray[Any]] = {}
    for volume in case.labels:
        data = volume.file.read().data
        group = volume.name.partition("_")[0]
        before = found.setdefault(group, np.zeros_like(data))
        assert not ((before > 0) & (data > 0)).any()
        before += data
    return found


def expected_volumes(groups: Groups) -> dict[str, NDArray[np.uint8]]:
    """Paint masks voxel by voxel; the axes are those of an axial scan, the first frame is 1."""
    place = {
        "axial": lambda n, r, c: (c, r, n),
        "coronal": lambda n, r, c: (c, n, r),
        "sagittal": lambda n, r, c: (n, c, r),
    }
    found = {}
    number: dict[tuple[str, str], int] = {}
    for group, frames in groups.items():
        found[group] = np.zeros(SHAPE, np.uint8)
        for frame, things in sorted(frames.items()):
            for thing in things:
                value = number.setdefault((group, thing.feature), len(number) + 1)
                for row, column in [] if thing.mask is None else np.argwhere(thing.mask).tolist():
                    found[group][place[group](frame - 1, row, column)] = value
    return found


def only_masks(groups: Groups) -> Groups:
    return {g: {n: [t for t in things if t.mask is not None] for n, things in fs.items()} for g, fs in groups.items()}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("prefetch", [False, True])
def test_every_container_gives_the_same_objects(tmp_path: Path, container: str, prefetch: bool) -> None:
    groups = drawings()
    export = write(tmp_path / "export", container)
    write_volume(tmp_path / "volumes")
    source = open_labelbox(
        export, volumes=tmp_path / "volumes", lenient=container.endswith("commented"), prefetch=prefetch
    )
    (case,) = source.cases
    assert case.id == "ct-01"
    assert case.views == ("axial", "coronal", "sagittal")
    assert source.classes is not None
    assert [category.name for category in source.classes.categories] == ["lesion", "node", "vessel"]
    found = data_of(case)
    masks = expected_volumes(groups)
    lines = {1, 5}
    for group, data in found.items():
        assert data.dtype == np.uint8
        np.testing.assert_array_equal(
            np.where(np.isin(data, list(lines)), 0, data), np.where(np.isin(masks[group], list(lines)), 0, masks[group])
        )
    assert np.argwhere(found["axial"] == 1).tolist() == sorted(
        [[x, 1, 1] for x in range(1, 7)] + [[6, y, 1] for y in range(2, 8)] + [[x, 2, 2] for x in range(1, 10)]
    )
    assert np.argwhere(found["sagittal"] == 5).tolist() == sorted(
        [[0, n, n] for n in range(4)] + [[0, 0, n] for n in range(1, 4)] + [[0, n, 3] for n in range(1, 3)]
    )
    first = case.labels[0]
    assert first.objects == {1: "line-a", 2: "mask-a", 3: "mask-b"}
    assert first.category == {1: 3, 2: 1, 3: 1}
    assert first.views == ("axial",)
    names = [volume.name for volume in case.labels if volume.name in ("axial", "coronal", "sagittal") or prefetch]
    assert names == ["axial", "coronal", "sagittal"]
    rows = find_components(found["axial"], "axial", extent="volume")
    assert sorted(rows.label.tolist()) == [1, 2, 3]


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_lines(tmp_path: Path, container: str) -> None:
    export = write(tmp_path, container)
    write_volume(tmp_path)
    source = open_labelbox(export, volumes=tmp_path, lenient=container.endswith("commented"))
    found = [
        (one.group, one.frame, one.index, one.feature, one.name, one.measured.pixel_box, one.measured.length_px)
        for one in source.lines()
    ]
    assert found == [
        ("axial", 2, 1, "line-a", "vessel", (1, 1, 6, 7), 11.0),
        ("axial", 3, 2, "line-a", "vessel", (1, 2, 9, 2), 7.875),
        ("sagittal", 1, 0, "line-s", "vessel", (0, 0, 3, 3), pytest.approx(7 + 3.5 * 2**0.5)),
    ]
    vessel = next(source.lines())
    assert vessel.measured.length_mm == pytest.approx(5.5 * 0.5 + 5.5 * 0.75)


@pytest.fixture
def labels(tmp_path: Path) -> VolumeFile:
    export = write(tmp_path, "v2 array", only_masks(drawings()))
    write_volume(tmp_path)
    return open_labelbox(export, volumes=tmp_path, prefetch=True).cases[0].labels[0].file


def test_a_group_is_a_volume_file_as_any_other(labels: VolumeFile, tmp_path: Path) -> None:
    truth = expected_volumes(only_masks(drawings()))["axial"]
    header, volume = labels.header(), labels.read()
    assert (header.grid.shape, header.dtype.name, header.is_scaled) == (SHAPE, "uint8", False)
    np.testing.assert_array_equal(header.grid.affine, AFFINE)
    assert header.where == volume.header.where == labels.where
    assert volume.data.flags.f_contiguous
    np.testing.assert_array_equal(volume.data, truth)
    np.testing.assert_array_equal(np.concatenate(list(labels.slabs(3)), axis=2), truth)
    assert set(labels.paths) == {str(tmp_path / "export.json"), str(tmp_path / "ct-01.nii.gz")}
    assert labels.volume_index is None
    with ThreadPoolExecutor(4) as pool:
        for one in pool.map(lambda _: labels.read().data, range(8)):
            np.testing.assert_array_equal(one, truth)
    copy = pickle.loads(pickle.dumps(labels))
    assert (copy, hash(copy)) == (labels, hash(labels))


# --- overlaps


def test_overlapping_objects_are_in_different_volumes(tmp_path: Path) -> None:
    size = (10, 12)
    groups: Groups = {
        "axial": {
            1: [
                Thing(name, "lesion", mask=disk(size, 5, x, 2)) for name, x in (("a", 2), ("b", 4), ("c", 9), ("d", 10))
            ],
            2: [Thing("b", "lesion", mask=disk(size, 5, 5, 1)), Thing("e", "lesion", mask=disk(size, 5, 6, 1))],
        }
    }
    source = opened(tmp_path, v2_row(v2_annotations(Export(tmp_path), groups)))
    volumes = source.cases[0].labels
    assert [volume.name for volume in volumes] == ["axial", "axial_2", "axial_3", "axial_4"]
    found = [sorted(set(np.unique(volume.file.read().data).tolist()) - {0}) for volume in volumes]
    assert found == [[1, 3, 5], [2, 4], [], []]
    for volume in volumes:
        data = volume.file.read().data
        for frame, things in groups["axial"].items():
            for thing in things:
                value = next(v for v, key in volume.objects.items() if key == thing.feature)
                if (data == value).any():
                    np.testing.assert_array_equal(value == data[:, :, frame - 1].T, thing.mask)
    settled = opened(tmp_path, v2_row(v2_annotations(Export(tmp_path), groups)), prefetch=True)
    assert [volume.name for volume in settled.cases[0].labels] == ["axial", "axial_2"]


def test_lines_far_apart_and_masks_of_one_composite_need_one_volume(tmp_path: Path) -> None:
    groups: Groups = {
        "axial": {
            1: [Thing("a", "x", line=[(0, 0), (2, 2)]), Thing("b", "x", line=[(5, 5), (7, 7)])],
            2: [Thing("c", "y", mask=disk((10, 12), 2, 2, 1)), Thing("d", "y", mask=disk((10, 12), 7, 7, 1))],
        }
    }
    source = opened(tmp_path, v2_row(v2_annotations(Export(tmp_path), groups, composite=True)))
    assert [volume.name for volume in source.cases[0].labels] == ["axial"]


@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 6)), max_size=4), max_size=4))
def test_no_object_is_lost_or_merged_whatever_overlaps(frames: list[list[tuple[int, int, int]]]) -> None:
    """Objects are lines of two points on several frames; every one is found whole in exactly one layer."""
    from voxtract.read.labelbox import Drawn, Fetcher, Frame, Group, Place, polyline
    from voxtract.read.labelbox.painting import Painting, keys_of

    group = Group(
        "axial",
        tuple(
            Frame(
                n,
                tuple(
                    Drawn(str(feature), "t", polyline([(x, y), (x + 2.5, y + 1.5)]))
                    for feature, x, y in {one[0]: one for one in drawn}.values()
                ),
            )
            for n, drawn in enumerate(frames, 1)
        ),
    )
    keys = keys_of(group)
    values = tuple((feature, kind, i) for i, (feature, kind) in enumerate(keys, 1))
    painting = Painting(Blank(), group, values, Options(), 1, Fetcher(Path()), Place("x"), -1)
    found = paint.__wrapped__(painting)
    most = layers_at_most(group, Options())
    assert set(found.layers) == set(keys)
    for key in keys:
        assert 0 <= found.layers[key] <= most[key]
        for other in keys:
            if key != other and found.layers[key] == found.layers[other]:
                assert not any(a.overlaps(b) for a in found.pieces[key] for b in found.pieces[other])


class Blank:
    """An image of which only the grid is known."""

    where = "blank"
    volume_index = None
    paths = ()

    def read(self) -> Volume:
        raise AssertionError("nobody reads it")

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:  # noqa: ARG002
        raise AssertionError("nobody reads it")

    def header(self) -> Header:
        return Header(Grid((10, 10, 5), np.diag([-1.0, -1.0, 1.0, 1.0])), np.dtype(np.int16))


# --- faults of masks: told, and the object is missing on that frame; never an empty or stretched one


def with_masks(tmp_path: Path, contents: dict[int, bytes | None], composite: Any = None) -> LabelboxSource:
    """One feature on axial frames with these files (None: no file), and a sound one on frame 8."""
    frames = {}
    for frame, content in {**contents, 8: png(disk((10, 12), 4, 4, 2).astype(np.uint8) * 255)}.items():
        if content is not None:
            (tmp_path / f"{frame}.png").write_bytes(content)
        geometry = (
            {"composite_mask": {"url": f"{frame}.png", "color_rgb": composite}}
            if composite and frame != 8
            else {"mask": {"url": f"{frame}.png"}}
        )
        one = {"feature_id": "f", "name": "lesion", "annotation_kind": "DICOMSegmentationMask", **geometry}
        frames[str(frame)] = {"objects": {"f": one}}
    return opened(tmp_path, v2_row({"groups": {"Axial": {"frames": frames}}}))


SOUND = png(disk((10, 12), 4, 4, 2).astype(np.uint8) * 255)


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (None, "not-there", "no such file"),
        (b"<html>expired</html>", "not-png", "no PNG"),
        (b"", "not-png", "empty"),
        (SOUND[: len(SOUND) // 2], "bad-png", "damaged"),
        (png(np.zeros((10, 12), np.uint8)), "empty-mask", "empty"),
        (png(np.ones((12, 10), np.uint8)), "mask-size", "transposed"),
        (
            png(np.ones((20, 24), np.uint8)),
            "mask-size",
            "24 x 20 pixels (width x height), but axial slices have 12 x 10",
        ),
        (png(np.ones((15, 12), np.uint8)), "mask-size", "isotropic"),
    ],
)
def test_a_bad_mask_is_told_and_missing(
    tmp_path: Path, content: bytes | None, code: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = with_masks(tmp_path, {3: content})
    (volume,) = source.cases[0].labels
    with caplog.at_level(logging.WARNING):
        data = volume.file.read().data
    assert not data[:, :, 2].any()
    assert (data[:, :, 7].T == 1).tolist() == disk((10, 12), 4, 4, 2).tolist()
    assert isinstance(volume.file, GroupLabels)
    (issue,) = volume.file.issues()
    assert (issue.code, issue.data_row, issue.label, issue.group, issue.frame, issue.feature) == (
        code,
        "row-1",
        "label-1",
        "axial",
        3,
        "f",
    )
    assert told in issue.message
    assert told in caplog.text


def test_a_mask_of_several_values_is_taken_and_told(tmp_path: Path) -> None:
    mask = disk((10, 12), 4, 4, 2)
    source = with_masks(tmp_path, {3: png(mask.astype(np.uint8) * np.arange(1, 13, dtype=np.uint8))})
    (volume,) = source.cases[0].labels
    np.testing.assert_array_equal(volume.file.read().data[:, :, 2].T == 1, mask)
    assert codes(volume.file.issues()) == ["several-values"]  # type: ignore[attr-defined]


def test_a_composite_without_the_colour_is_told(tmp_path: Path) -> None:
    pixels = np.zeros((10, 12, 3), np.uint8)
    pixels[2:4, 2:4] = (1, 2, 4)
    source = with_masks(tmp_path, {3: png(pixels)}, [1, 2, 3])
    (volume,) = source.cases[0].labels
    assert not volume.file.read().data[:, :, 2].any()
    assert codes(volume.file.issues()) == ["no-such-color"]  # type: ignore[attr-defined]


def test_strict_makes_a_bad_mask_an_error(tmp_path: Path) -> None:
    with_masks(tmp_path, {3: b"no mask"})
    export, volumes = tmp_path / "export.ndjson", tmp_path / "volumes"
    lazy = open_labelbox(export, volumes=volumes, strict=True)
    with pytest.raises(InvalidInput, match="not-png"):
        lazy.cases[0].labels[0].file.read()
    with pytest.raises(InvalidInput, match="not-png"):
        open_labelbox(export, volumes=volumes, strict=True, prefetch=True)
    settled = open_labelbox(export, volumes=volumes, prefetch=True)
    assert codes(settled.issues) == ["not-png"]
    assert "axial" in settled.remarks[0].where


def test_strict_makes_a_bad_line_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not-json"):
        opened(tmp_path, ["{", v2_row({"groups": {"Axial": {}}})], strict=True)


# --- frames and points outside


def lines(frames: dict[int, Any], segments: Any = None) -> Any:
    written = {}
    for n, line in frames.items():
        drawn = {
            "feature_id": "f",
            "name": "vessel",
            "annotation_kind": "DICOMPolyline",
            "line": [{"x": x, "y": y} for x, y in line],
        }
        written[str(n)] = {"objects": {"f": drawn}}
    more = {} if segments is None else {"segments": {"Axial": {"f": segments}}}
    return v2_row({"groups": {"Axial": {"frames": written}}, **more})


def slices_of(source: LabelboxSource) -> dict[int, list[tuple[int, int]]]:
    """Columns and rows painted in each slice."""
    data = source.cases[0].labels[0].file.read().data
    return {k: [(x, y) for x, y in np.argwhere(data[:, :, k]).tolist()] for k in range(SHAPE[2]) if data[:, :, k].any()}


def issues_of(source: LabelboxSource) -> list[str]:
    return [issue.code for volume in source.cases[0].labels for issue in volume.file.issues()]  # type: ignore[attr-defined]


def test_a_frame_beyond_the_axis_is_left_out_never_clamped(tmp_path: Path) -> None:
    source = opened(tmp_path, lines({0: [(1, 1), (2, 1)], 1: [(3, 1), (4, 1)], 9: [(5, 1), (6, 1)]}))
    assert slices_of(source) == {0: [(3, 1), (4, 1)]}
    assert issues_of(source) == ["frame-beyond"] * 2
    source = opened(tmp_path, lines({0: [(1, 1), (2, 1)], 9: [(5, 1), (6, 1)]}), options=Options(frame_base=0))
    assert slices_of(source) == {0: [(1, 1), (2, 1)]}


def test_points_outside_stay_numbers_and_are_cut_off_in_pixels(tmp_path: Path) -> None:
    source = opened(tmp_path, lines({1: [(-3.5, 2), (1.5, 2)], 2: [(20, 1), (30, 1)], 3: [(11, 9), (12, 10)]}))
    assert slices_of(source) == {0: [(0, 2), (1, 2)], 2: [(11, 9)]}
    (volume,) = source.cases[0].labels
    (issue,) = volume.file.issues()  # type: ignore[attr-defined]
    assert (issue.code, issue.frame) == ("points-outside", 2)
    assert "18 voxels" in issue.message
    assert [line.measured.box[0] for line in source.lines()] == [-3.5, 20.0, 11.0]


@pytest.mark.parametrize(
    ("frames", "base"), [({0: [(1, 1), (2, 1)]}, 0), ({8: [(1, 1), (2, 1)]}, 1), ({3: [(1, 1), (2, 1)]}, 1)]
)
def test_auto_finds_the_base_by_proof(tmp_path: Path, frames: Any, base: int) -> None:
    source = opened(tmp_path, lines(frames), options=Options(frame_base="auto"))
    assert source.base == base
    assert len(source.remarks) == (3 in frames)
    assert f"first frame {base}" in source.description


def test_auto_refuses_contradicting_proof_over_all_labels(tmp_path: Path) -> None:
    both = [lines({0: [(1, 1), (2, 1)]}), lines({8: [(1, 1), (2, 1)]})]
    both[1]["data_row"]["id"] = "row-2"
    with pytest.raises(InvalidInput, match="frame_base"):
        opened(tmp_path, both, options=Options(frame_base="auto"))


@pytest.mark.parametrize(
    ("fill", "expected", "told"),
    [
        ("none", {1: [(2, 2), (3, 2)], 4: [(5, 5), (6, 5)]}, []),
        (
            "hold",
            {1: [(2, 2), (3, 2)], 2: [(2, 2), (3, 2)], 3: [(2, 2), (3, 2)], 4: [(5, 5), (6, 5)], 5: [(5, 5), (6, 5)]},
            [],
        ),
        ("linear", {1: [(2, 2), (3, 2)], 2: [(3, 3), (4, 3)], 3: [(4, 4), (5, 4)], 4: [(5, 5), (6, 5)]}, []),
    ],
)
def test_frames_between_are_filled_only_if_asked(tmp_path: Path, fill: Any, expected: Any, told: list[str]) -> None:
    value = lines({2: [(2, 2), (3, 2)], 5: [(5, 5), (6, 5)]}, [[1, 6]])
    source = opened(tmp_path, value, options=Options(fill=fill))
    assert codes(source.issues) == ["segments-gap"]
    assert slices_of(source) == expected
    assert issues_of(source) == told


def test_lines_of_different_points_are_not_mixed(tmp_path: Path) -> None:
    value = lines({2: [(2, 2), (3, 2)], 5: [(5, 5), (6, 5), (7, 5)]}, [[2, 5]])
    source = opened(tmp_path, value, options=Options(fill="linear"))
    assert sorted(slices_of(source)) == [1, 4]
    assert issues_of(source) == ["fill-not-possible"]


def test_segments_never_invent_masks(tmp_path: Path) -> None:
    groups: Groups = {"axial": {2: [Thing("m", "lesion", mask=disk((10, 12), 4, 4, 2))]}}
    value = v2_annotations(Export(tmp_path), groups)
    value["segments"] = {"Axial": {"m": [[1, 6]]}}
    source = opened(tmp_path, v2_row(value), options=Options(fill="hold"))
    assert sorted(slices_of(source)) == [1]


def test_closed_lines_are_filled_only_if_asked(tmp_path: Path) -> None:
    square = [(1, 1), (4.5, 1), (4.5, 4.5), (1, 4.5), (1, 1)]
    assert len(slices_of(opened(tmp_path, lines({1: square})))[0]) == 12
    assert len(slices_of(opened(tmp_path, lines({1: square}), options=Options(paint="area")))[0]) == 16
    never = Options(paint="area", closed="never")
    assert len(slices_of(opened(tmp_path, lines({1: square}), options=never))[0]) == 12
    always = Options(paint="area", closed="always")
    assert len(slices_of(opened(tmp_path, lines({1: square[:-1]}), options=always))[0]) == 16


def test_a_group_of_another_name_is_read_with_a_plane_only(tmp_path: Path) -> None:
    value = lines({1: [(1, 1), (2, 1)]})
    groups = value["projects"]["project-1"]["labels"][0]["annotations"]["groups"]
    groups["Oblique"] = groups["Axial"]
    source = opened(tmp_path, value)
    assert [volume.name for volume in source.cases[0].labels] == ["axial"]
    assert "unknown-group" in codes(source.issues)
    source = opened(tmp_path, value, options=Options(groups={"oblique": "coronal"}))
    assert [(volume.name, volume.views) for volume in source.cases[0].labels] == [
        ("axial", ("axial",)),
        ("oblique", ("coronal",)),
    ]


def test_a_feature_of_two_kinds_is_two_objects(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(SOUND)
    value = lines({1: [(1, 1), (2, 1)]})
    frames = value["projects"]["project-1"]["labels"][0]["annotations"]["groups"]["Axial"]["frames"]
    frames["2"] = {
        "objects": {
            "f": {
                "feature_id": "f",
                "name": "vessel",
                "annotation_kind": "DICOMSegmentationMask",
                "mask": {"url": "m.png"},
            }
        }
    }
    source = opened(tmp_path, value)
    assert source.cases[0].labels[0].objects == {1: "f", 2: "f"}
    data = source.cases[0].labels[0].file.read().data
    assert [np.unique(data[:, :, k]).tolist() for k in (0, 1)] == [[0, 1], [0, 2]]


def test_where_nothing_was_drawn_an_empty_volume_says_so(tmp_path: Path) -> None:
    source = opened(tmp_path, v2_row({"groups": {"Axial": {"frames": {}}, "Coronal": {"frames": {}}}}))
    (case,) = source.cases
    assert [volume.name for volume in case.labels] == ["axial", "coronal"]
    assert not case.labels[0].file.read().data.any()
    assert source.classes is None


def test_many_objects_need_a_wider_dtype(tmp_path: Path) -> None:
    value = lines({1: [(1, 1), (2, 1)]})
    objects = value["projects"]["project-1"]["labels"][0]["annotations"]["groups"]["Axial"]["frames"]["1"]["objects"]
    for n in range(260):
        objects[f"g{n}"] = {**objects["f"], "feature_id": f"g{n}"}
    source = opened(tmp_path, value)
    assert len(source.cases[0].labels) == 261  # all of them on top of each other
    header = source.cases[0].labels[-1].file.header()
    assert header.dtype == np.uint16
    data = source.cases[0].labels[-1].file.read().data
    assert sorted(np.unique(data).tolist()) == [0, 261]


# --- which labels, which volumes


def several() -> list[Any]:
    one = lines({1: [(1, 1), (2, 1)]})
    label = one["projects"]["project-1"]["labels"][0]
    second = json.loads(json.dumps(label))
    second.update(id="label-2", label_details={"created_at": "2024-06-01T00:00:00Z", "created_by": "bob@x.example"})
    second["performance_details"] = {"benchmark_reference_label": "label-1"}
    one["projects"]["project-1"]["labels"].append(second)
    skipped = lines({1: [(1, 1), (2, 1)]})
    skipped["data_row"].update(id="row-2", global_key="ct-02")
    skipped["projects"]["project-1"]["labels"][0]["performance_details"]["skipped"] = True
    lost = lines({1: [(1, 1), (2, 1)]})
    lost["data_row"].update(id="row-3", global_key="ct-03", external_id=None)
    return [one, skipped, lost, {"data_row": {"id": "row-4"}}]


def test_labels_are_cases_of_their_own(tmp_path: Path) -> None:
    source = opened(tmp_path, several())
    assert [case.id for case in source.cases] == ["ct-01_label-1", "ct-01_label-2"]
    assert [reason.reason.partition(" ")[0] for reason in source.skipped] == ["its", str(tmp_path / "volumes")]
    assert "global key 'ct-03', id 'row-3'" in source.skipped[1].reason
    assert "1 data rows without a label" in source.description
    assert source.rows["ct-01_label-2"].label.created_by == "bob@x.example"


@pytest.mark.parametrize(
    ("selection", "labels"),
    [
        (Selection(latest=True), ["label-2"]),
        (Selection(benchmark="only"), ["label-1"]),
        (Selection(benchmark="exclude"), ["label-2"]),
        (Selection(annotator="bob@x.example"), ["label-2"]),
        (Selection(label="label-1"), ["label-1"]),
        (Selection(project="chest", label_created_at=(None, "2024-05-31")), ["label-1"]),
    ],
)
def test_labels_are_selected(tmp_path: Path, selection: Selection, labels: list[str]) -> None:
    source = opened(tmp_path, several(), selection=selection)
    assert [source.rows[case.id].label.id for case in source.cases] == labels
    assert [case.id for case in source.cases] == ["ct-01"]


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no volume for global key 'ct-03'"):
        opened(tmp_path, several()[2])
    with pytest.raises(InvalidInput, match="nothing was selected"):
        opened(tmp_path, several()[0], selection=Selection(project="other"))
    with pytest.raises(InvalidInput, match="not-json"):
        opened(tmp_path, "{")
    with pytest.raises(NotFound, match="no such folder"):
        opened(tmp_path, several(), volumes=tmp_path / "none")


@pytest.mark.parametrize("key", ["ct-01", "scan 1", "row-1"])
def test_volumes_are_found_by_any_key(tmp_path: Path, key: str) -> None:
    (tmp_path / "other").mkdir()
    path = write_volume(tmp_path / "other", key)
    value = lines({1: [(1, 1), (2, 1)]})
    for volumes in (tmp_path / "other", {key: path}):
        source = opened(tmp_path, value, volumes=volumes)
        assert source.cases[0].image is not None
        assert source.cases[0].image.where == str(path)
        assert repr(key) in source.matches[0].why


def test_keys_with_an_ending_and_folders_serve_too(tmp_path: Path) -> None:
    (tmp_path / "other" / "series").mkdir(parents=True)
    value = lines({1: [(1, 1), (2, 1)]})
    value["data_row"]["global_key"] = "series.dcm"
    source = opened(tmp_path, value, volumes=tmp_path / "other", open_volume=lambda path: Named(path))
    assert source.cases[0].id == "series"
    assert source.cases[0].image is not None
    assert source.cases[0].image.where == str(tmp_path / "other" / "series")


class Named(Blank):
    def __init__(self, path: Path) -> None:
        self.where = str(path)


@pytest.mark.parametrize("key", ["../secret", "/etc/hosts", "..", ".", "a\0b"])
def test_a_key_never_leads_out_of_the_folder(tmp_path: Path, key: str) -> None:
    write_volume(tmp_path, "secret")
    value = lines({1: [(1, 1), (2, 1)]})
    value["data_row"].update(global_key=key, external_id=key)
    (tmp_path / "volumes").mkdir(exist_ok=True)
    with pytest.raises(InvalidInput, match="has no volume"):
        opened(tmp_path, value)


def test_two_volumes_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "volumes" / "ct-01").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="both are named"):
        opened(tmp_path, lines({1: [(1, 1), (2, 1)]}))


@pytest.mark.parametrize(
    ("keys", "ids"),
    [
        (["a/b c.nii.gz", "ü"], ["a_b c", "ü"]),
        (["../x", "..", ""], ["_x", "row", "r2"]),
        (["a/b", "a:b"], ["a_b_l0", "a_b_l1"]),
        (["a", "a", "a_l0"], ["a_l0", "a_l1", "a_l0_2"]),
    ],
)
def test_case_ids_can_be_folders_and_are_unique(keys: list[str], ids: list[str]) -> None:
    from voxtract.read.labelbox import Label, Place, Row
    from voxtract.read.labelbox.source import _ids

    rows = [Row(Place("x"), f"r{i}", Label(f"l{i}"), global_key=key) for i, key in enumerate(keys)]
    assert _ids(rows) == ids


def test_an_image_that_cannot_be_read_says_so_when_it_is(tmp_path: Path) -> None:
    (tmp_path / "volumes").mkdir()
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no volume")
    source = opened(tmp_path, lines({1: [(1, 1), (2, 1)]}), volumes={"ct-01": bad})
    with pytest.raises(VoxtractError, match=r"bad\.nii\.gz"):
        source.cases[0].labels[0].file.read()
    source = opened(tmp_path, lines({1: [(1, 1), (2, 1)]}), volumes={"ct-01": bad}, prefetch=True)
    assert codes(source.issues) == ["not-painted"]


# --- over HTTP


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


def test_masks_by_address_are_fetched_as_one_batch_with_the_key(tmp_path: Path, server: Server) -> None:
    groups = only_masks(drawings())
    value = v2_annotations(Export(tmp_path / "away"), groups)
    text = json.dumps(v2_row(value)).replace('"masks/', f'"{server.url("/masks/")}')
    for path in (tmp_path / "away" / "masks").rglob("mask"):
        server.answers["/" + path.relative_to(tmp_path / "away").as_posix()] = body(path.read_bytes())
    broken = next(iter(server.answers))
    cache = tmp_path / "cache"
    options: dict[str, Any] = {
        "api_key": KEY,
        "allowed_hosts": (f"127.0.0.1:{server.port}",),
        "cache": cache,
        "limits": Limits(retries=0),
    }
    source = opened(tmp_path, text, **options)
    assert server.asked == []
    assert source.cases[0].labels[0].file.header().grid.shape == SHAPE
    assert server.asked == []
    found = data_of(source.cases[0])
    for group, data in expected_volumes(groups).items():
        if group in found:
            np.testing.assert_array_equal(found[group], data)
    assert sorted(server.paths) == sorted(server.answers)
    assert all(headers["Authorization"] == f"Bearer {KEY}" for _, headers in server.asked)
    server.answers.clear()
    again = opened(tmp_path, text, **options)
    assert {g: d.tolist() for g, d in data_of(again.cases[0]).items()} == {g: d.tolist() for g, d in found.items()}
    assert len(server.asked) == 4
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert KEY.encode() not in path.read_bytes()
    assert KEY not in repr(again) + repr(again.cases) + repr(again.cases[0].labels)
    assert pickle.loads(pickle.dumps(again.cases[0].labels[0].file)) == again.cases[0].labels[0].file
    server.answers[broken] = status(401)
    fresh = opened(tmp_path, text, **{**options, "cache": None})
    told = [issue for volume in fresh.cases[0].labels for issue in volume.file.issues()]  # type: ignore[attr-defined]
    assert set(codes(told)) == {"http-status"}
    assert any("401" in issue.message for issue in told)


def test_no_request_leaves_without_an_allowed_host(tmp_path: Path, server: Server) -> None:
    one = {
        "feature_id": "f",
        "name": "lesion",
        "annotation_kind": "DICOMSegmentationMask",
        "mask": {"url": server.url("/m")},
    }
    source = opened(tmp_path, v2_row({"groups": {"Axial": {"frames": {"1": {"objects": {"f": one}}}}}}), api_key=KEY)
    assert not data_of(source.cases[0])["axial"].any()
    assert issues_of(source) == ["host-not-allowed"]
    assert server.asked == []
