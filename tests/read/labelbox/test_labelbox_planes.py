"""Frames, points and pictures to voxels: every option, checked against voxels moved one by one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtract.errors import InvalidInput
from voxtract.geometry import Grid
from voxtract.read.labelbox import GroupPlane, Options
from voxtract.read.labelbox.planes import base_of

GROUPS = ("axial", "coronal", "sagittal")
# Where x, y and the frame of each group grow in DICOM's patient (left, posterior, superior).
LPS_AXES = {"axial": ("L", "P", "S"), "coronal": ("L", "S", "P"), "sagittal": ("P", "S", "L")}
OPPOSITE = dict(zip("LRPASI", "RLAPIS", strict=True))


def grid_of(codes: str, shape: tuple[int, int, int] = (5, 6, 7), spacing: tuple[float, ...] = (1.0, 2.0, 3.0)) -> Grid:
    """A grid whose axes run as `codes` say."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(codes):
        row = next(i for i, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        affine[row, axis] = spacing[axis] * (1 if code in "RAS" else -1)
    return Grid(shape, affine)


ALL_CODES = [
    "".join(pair[bit] for pair, bit in zip(order, bits, strict=True))
    for order in itertools.permutations(("RL", "AP", "SI"))
    for bits in itertools.product((0, 1), repeat=3)
]


@pytest.mark.parametrize("codes", ALL_CODES)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("order", ["position+", "position-"])
def test_patient_planes_follow_the_anatomy_whatever_the_array(codes: str, group: str, order: Any) -> None:
    grid = grid_of(codes)
    plane = GroupPlane.of(group, grid, Options(slice_order=order), base=1)
    x, y, frame = LPS_AXES[group]
    for axis, direction in ((plane.columns, x), (plane.rows, y), (plane.normal, frame)):
        assert codes[axis] in (direction, OPPOSITE[direction])
    first, second = (grid.points_mm(plane.voxels(np.array([[0.5, 0.5]]), n))[0] for n in (1, 2))
    sign = {"L": -1, "P": -1, "S": 1}[frame] * (1 if order == "position+" else -1)
    along = {"L": 0, "P": 1, "S": 2}[frame]
    assert np.sign(second[along] - first[along]) == sign
    assert plane.view == ("sagittal", "coronal", "axial")[plane.normal]


def test_array_planes_are_slices_rows_and_columns() -> None:
    grid = grid_of("PSR")
    options = Options(planes="array")
    planes = {group: GroupPlane.of(group, grid, options, 1) for group in GROUPS}
    assert {g: (p.normal, p.rows, p.columns) for g, p in planes.items()} == {
        "axial": (2, 1, 0),
        "coronal": (1, 2, 0),
        "sagittal": (0, 2, 1),
    }


def test_for_an_axial_scan_both_kinds_of_planes_are_the_same() -> None:
    for group in GROUPS:
        one, other = (
            GroupPlane.of(group, grid_of("LPS"), Options(planes=planes), 1) for planes in ("patient", "array")
        )
        assert (one.normal, one.rows, one.columns, one.order) == (other.normal, other.rows, other.columns, other.order)


options = st.builds(
    Options,
    pixel_origin=st.sampled_from(["corner", "centre"]),
    planes=st.sampled_from(["patient", "array"]),
    slice_order=st.sampled_from(["position+", "position-", "stored"]),
    reverse=st.sets(st.sampled_from(GROUPS)).map(tuple),
    flip_rows=st.sets(st.sampled_from(GROUPS)).map(tuple),
    flip_cols=st.sets(st.sampled_from(GROUPS)).map(tuple),
)


@given(options, st.sampled_from(ALL_CODES), st.sampled_from(GROUPS), st.sampled_from([0, 1]), st.data())
def test_a_painted_pixel_is_the_voxel_of_its_point(
    options: Options, codes: str, group: str, base: int, data: st.DataObject
) -> None:
    plane = GroupPlane.of(group, grid_of(codes), options, base)
    height, width = plane.native_size
    frame = data.draw(st.integers(base, base + plane.count - 1))
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    voxels = np.zeros((5, 6, 7), np.uint8)
    index = plane.slice_of(frame)
    assert index is not None
    plane.picture(voxels, index)[row, column] = 1
    middle = 0.5 if options.pixel_origin == "corner" else 0.0
    point = np.array([[column + middle, row + middle]])
    assert np.argwhere(voxels).tolist() == plane.voxels(point, frame).astype(int).tolist()
    assert plane.frame_of(index) == frame
    np.testing.assert_allclose(plane.drawn(plane.corners(point)), point)


@pytest.mark.parametrize("word", ["reverse", "flip_rows", "flip_cols"])
def test_each_flip_turns_its_axis_of_its_group_only(word: str) -> None:
    grid = grid_of("LPS")
    point = np.array([[0.5, 0.5]])
    plain = {group: GroupPlane.of(group, grid, Options(), 1).voxels(point, 1)[0] for group in GROUPS}
    flipped = Options(**{word: ("Coronal",)})  # type: ignore[arg-type]
    for group in GROUPS:
        plane = GroupPlane.of(group, grid, flipped, 1)
        expected = plain[group].copy()
        if group == "coronal":
            axis = {"reverse": 1, "flip_rows": 2, "flip_cols": 0}[word]
            expected[axis] = (5, 6, 7)[axis] - 1
        assert plane.voxels(point, 1)[0].tolist() == expected.tolist()


@pytest.mark.parametrize(("base", "inside", "outside"), [(1, (1, 7), (0, 8)), (0, (0, 6), (-1, 7))])
def test_frames_beyond_the_axis_have_no_slice(base: int, inside: Any, outside: Any) -> None:
    plane = GroupPlane.of("axial", grid_of("LPS"), Options(), base)
    assert [plane.slice_of(frame) for frame in inside] == [0, 6]
    assert [plane.slice_of(frame) for frame in outside] == [None, None]
    with pytest.raises(InvalidInput, match="beyond the axis"):
        plane.voxels(np.zeros((1, 2)), outside[1])


class Scrambled:
    """A volume file that knows other orders of its slices."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = order

    def frame_order(self, by: Literal["instance", "stored"]) -> Sequence[int]:
        return self.order if by == "instance" else self.order[::-1]


def test_orders_that_files_know() -> None:
    order = [3, 1, 0, 2, 6, 5, 4]
    grid, file = grid_of("LPS"), Scrambled(order)
    assert GroupPlane.of("axial", grid, Options(slice_order="instance"), 1, file).order == tuple(order)
    assert GroupPlane.of("axial", grid, Options(slice_order="stored"), 1, file).order == tuple(order[::-1])
    assert GroupPlane.of("coronal", grid, Options(slice_order="instance"), 1, file).order == tuple(range(6))
    assert GroupPlane.of("axial", grid, Options(slice_order="stored"), 1).order == tuple(range(7))
    plane = GroupPlane.of("axial", grid, Options(slice_order="instance", reverse=("axial",)), 1, file)
    assert plane.order == tuple(order[::-1])
    with pytest.raises(InvalidInput, match="instance"):
        GroupPlane.of("axial", grid, Options(slice_order="instance"), 1)
    with pytest.raises(InvalidInput, match="2 frames"):
        GroupPlane.of("axial", grid, Options(slice_order="instance"), 1, Scrambled([0, 1]))


def test_unknown_groups_need_a_plane() -> None:
    with pytest.raises(InvalidInput, match="oblique"):
        GroupPlane.of("oblique", grid_of("LPS"), Options(), 1)
    plane = GroupPlane.of("oblique", grid_of("LPS"), Options(groups={"Oblique": "coronal"}), 1)
    assert plane.normal == 1


def test_an_affine_without_directions_is_refused_where_they_matter() -> None:
    flat = Grid((5, 6, 7), np.diag([1.0, 0.0, 1.0, 1.0]))
    with pytest.raises(InvalidInput, match="planes='array'"):
        GroupPlane.of("axial", flat, Options(), 1)
    with pytest.raises(InvalidInput, match="slice_order='stored'"):
        GroupPlane.of("axial", flat, Options(planes="array"), 1)
    assert GroupPlane.of("axial", flat, Options(planes="array", slice_order="stored"), 1).normal == 2


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((6, 5), None),
        ((5, 6), "transposed"),
        ((12, 5), "inplane='isotropic'"),
        ((7, 7), "has 7 x 7 pixels (width x height), but axial slices have 5 x 6"),
    ],
)
def test_sizes_of_pictures_are_compared_and_both_named(size: tuple[int, int], told: str | None) -> None:
    plane = GroupPlane.of("axial", grid_of("LPS"), Options(), 1)
    found = plane.size_fault(size)
    assert found is None if told is None else found is not None and told in found
    if told is not None:
        assert found is not None
        assert "5 x 6" in found
        assert f"{size[1]} x {size[0]}" in found


def test_scaled_pictures_have_square_pixels_and_come_back() -> None:
    grid = grid_of("LPS", (5, 6, 7), (0.5, 0.5, 1.75))
    plane = GroupPlane.of("coronal", grid, Options(inplane="isotropic"), 1)
    assert plane.size == (round(7 * 3.5), 5)
    assert plane.native_size == (7, 5)
    assert "inplane='native'" in str(plane.size_fault((7, 5)))
    native = np.arange(35).reshape(7, 5)
    np.testing.assert_array_equal(plane.native(plane.scaled(native)), native)
    voxel = plane.voxels(np.array([[2.5, plane.size[0]]]), 1)[0]  # the lower edge of the picture is that of the voxels
    assert voxel.tolist() == [2.0, 0.0, 6.5]
    assert plane.pixel_mm == pytest.approx((0.5, 7 * 1.75 / 24))


def test_the_base_is_proven_or_said_to_be_unproven() -> None:
    auto = Options(frame_base="auto")
    assert base_of(auto, ["a"], []) == (0, "")
    assert base_of(auto, [], ["b"]) == (1, "")
    base, remark = base_of(auto, [], [])
    assert base == 1
    assert "proves" in remark
    with pytest.raises(InvalidInput, match="frame_base"):
        base_of(auto, ["a"], ["b"])
    assert base_of(Options(frame_base=0), [], ["b"]) == (0, "")


@pytest.mark.parametrize(
    "bad",
    [
        {"frame_base": 2},
        {"pixel_origin": "center"},
        {"planes": "best"},
        {"slice_order": "up"},
        {"inplane": "auto"},
        {"fill": "all"},
        {"closed": True},
        {"paint": "filled"},
        {"reverse": "axial"},
        {"flip_rows": ("top",)},
        {"groups": {"oblique": "slanted"}},
    ],
)
def test_other_words_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(bad))):
        Options(**bad)


def test_options_are_written_down() -> None:
    told = Options(frame_base="auto", reverse=("Axial",), groups={"Oblique": "axial"}).to_dict()
    assert json.loads(json.dumps(told)) == {
        "frame_base": "auto",
        "pixel_origin": "corner",
        "planes": "patient",
        "slice_order": "position+",
        "reverse": ["axial"],
        "flip_rows": [],
        "flip_cols": [],
        "inplane": "native",
        "groups": {"oblique": "axial"},
        "fill": "none",
        "closed": "auto",
        "paint": "line",
    }
