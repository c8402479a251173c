"""The table of components, against plain loops over its voxels and corners."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from tests.oracles import AXES
from tests.write.annotated import ALL, Annotated, annotate, annotated
from voxtract.classes import ClassMap
from voxtract.compute.components import find_components
from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS
from voxtract.model import Findings
from voxtract.write.frame import COLUMNS, component_columns, components_frame, image_boxes

BLOB = np.array([[[1, 0], [1, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 9]]], np.int32)  # (x, y, z)


def in_3d(found: Findings) -> Findings:
    rows = find_components(BLOB, found.plane.view, extent="volume")
    return replace(found, rows=rows, extent="volume")


def to_mm(affine: NDArray[np.float64], point: tuple[float, ...]) -> list[float]:
    return [sum(affine[a, k] * point[k] for k in range(3)) + affine[a, 3] for a in range(3)]


def expected_row(case: Annotated, label: int, voxels: Any) -> dict[str, Any]:
    """One row by the words of `COLUMNS`."""
    found, affine = case.found, case.found.grid.affine
    low = [min(v[k] for v in voxels) for k in range(3)]
    high = [max(v[k] for v in voxels) for k in range(3)]
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    row, column, index = AXES[found.plane.view]
    height, width = found.plane.target_size or (case.labels.shape[row], case.labels.shape[column])
    pad = {row: (height - case.labels.shape[row]) // 2, column: (width - case.labels.shape[column]) // 2, index: 0}
    steps = [affine[:3, k] for k in range(3)]
    lengths = [math.sqrt(float(step @ step)) for step in steps]
    across = float(steps[row] @ steps[column])
    corners = [
        to_mm(affine, corner)
        for corner in itertools.product(*((a - 0.5, b + 0.5) for a, b in zip(low, high, strict=True)))
    ]
    expected: dict[str, Any] = {
        "CASE": found.case_id,
        "VIEW": found.plane.view,
        "SPLIT": found.split,
        "SLICE": low[index],
        "LABEL": label,
        "CLASS": f"label_{label}",
        "OBJECT": None,
        "SCORE": pytest.approx(math.nan, nan_ok=True),
        "COUNT": len(voxels),
        "AREA_MM2": len(voxels) * math.sqrt(max((lengths[row] * lengths[column]) ** 2 - across**2, 0)),
        "VOLUME_MM3": len(voxels) * abs(float(np.dot(np.cross(steps[0], steps[1]), steps[2]))),
    }
    for name, axis in zip("XYZ", (column, row, index), strict=True):
        expected[f"{name}_MIN"], expected[f"{name}_MAX"] = low[axis] + pad[axis], high[axis] + pad[axis]
        expected[f"CENTER_{name}"] = middle[axis] + pad[axis]
    for axis, name in enumerate("IJK"):
        expected[f"{name}_MIN"], expected[f"{name}_MAX"] = low[axis], high[axis]
        expected[f"SIZE_{name}_MM"] = (high[axis] - low[axis] + 1) * lengths[axis]
    for axis, name in enumerate("RAS"):
        expected[f"CENTER_{name}_MM"] = to_mm(affine, tuple(middle))[axis]
        expected[f"{name}_MIN_MM"] = min(corner[axis] for corner in corners)
        expected[f"{name}_MAX_MM"] = max(corner[axis] for corner in corners)
    return expected


@given(annotated())
@settings(max_examples=100)
def test_rows_are_what_the_columns_promise(case: Annotated) -> None:
    columns = component_columns(case.found, None)
    assert list(columns) == list(COLUMNS)
    for name, values in columns.items():
        assert values.dtype == (object if COLUMNS[name].dtype == "category" else COLUMNS[name].dtype)
        assert values.shape == (len(case.truth),)
    for i, (label, voxels) in enumerate(case.truth):
        expected = expected_row(case, label, voxels)
        assert set(expected) == set(columns)
        for name, value in expected.items():
            seen = columns[name][i]
            assert seen == (pytest.approx(value, rel=1e-9, abs=1e-6) if name.endswith(("MM", "MM2", "MM3")) else value)


@pytest.mark.parametrize("view", VIEWS)
def test_components_of_the_volume_have_no_slice_and_no_area(view: Any) -> None:
    case = annotate(BLOB, view, affine=np.diag([2.0, 3.0, 0.5, 1.0]), target=(6, 5))
    columns = component_columns(in_3d(case.found), None)
    order = np.argsort(columns["LABEL"])
    assert columns["SLICE"].tolist() == [-1, -1]
    assert columns["LABEL"][order].tolist() == [1, 9]
    assert columns["COUNT"][order].tolist() == [4, 1]
    assert np.isnan(columns["AREA_MM2"]).all()
    assert columns["VOLUME_MM3"][order].tolist() == pytest.approx([12.0, 3.0])
    for name, ends in {"I": (0, 1), "J": (0, 1), "K": (0, 1)}.items():
        assert (columns[f"{name}_MIN"][order][0], columns[f"{name}_MAX"][order][0]) == ends
    index = AXES[view][2]
    assert columns["Z_MAX"][order].tolist() == [1, [2, 1, 1][index]]
    assert columns["SIZE_J_MM"][order].tolist() == [6.0, 3.0]
    assert (columns["R_MIN_MM"][order][0], columns["R_MAX_MM"][order][0]) == (-1.0, 3.0)


def test_a_frame_of_many_cases() -> None:
    first, second = annotate(BLOB, case="b", split="train"), annotate(BLOB, "coronal", case="a", split="val")
    nothing = annotate(np.zeros((2, 2, 2), np.uint8), case="empty", split="test")
    frame = components_frame(one.found for one in (first, nothing, second))
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {n: c.dtype for n, c in COLUMNS.items()}
    assert frame["CASE"].tolist() == ["b"] * 3 + ["a"] * 3
    assert frame["CASE"].cat.categories.tolist() == ["b", "empty", "a"]
    assert frame["SPLIT"].cat.categories.tolist() == ["train", "test", "val"]
    assert frame["CLASS"].cat.categories.tolist() == ["label_1", "label_9"]
    assert frame.groupby("CASE", observed=False).size().to_dict() == {"b": 3, "empty": 0, "a": 3}
    for one in (first, second):
        part = frame[frame["CASE"] == one.found.case_id]
        for name, values in component_columns(one.found, None).items():
            if name == "OBJECT":
                assert part[name].isna().all()
            else:
                np.testing.assert_array_equal(part[name].to_numpy(), values)


def test_an_empty_frame_has_the_same_columns() -> None:
    whole = components_frame([annotate(BLOB).found])
    for cases in ([], [annotate(np.zeros((2, 2, 2), np.uint8)).found]):
        empty = components_frame(cases)
        assert len(empty) == 0
        assert [str(d) for d in empty.dtypes] == [str(d) for d in whole.dtypes]
        pd.testing.assert_index_equal(empty.columns, whole.columns)


def test_classes_have_the_names_of_the_map() -> None:
    labels = np.array([1, 2, 5, 2**64 - 1], np.uint64).reshape(4, 1, 1)[:, :, [0]]
    case = annotate(labels)
    frame = components_frame([case.found], ALL)
    assert frame["CLASS"].tolist() == ["liver", 'a "b" & <c>', "all the rest", "all the rest"]
    assert frame["CLASS"].cat.categories.tolist() == ["liver", 'a "b" & <c>', "all the rest"]
    assert frame["LABEL"].tolist() == [1, 2, 5, 2**64 - 1]
    assert components_frame([case.found])["CLASS"].tolist()[-1] == f"label_{2**64 - 1}"
    assert frame["SPLIT"].isna().all()
    with pytest.raises(InvalidInput, match=r"label values 5, 18446744073709551615 are in no class"):
        components_frame([case.found], ClassMap.of({1: "a", 2: "b"}))


def test_boxes_of_images_need_components_of_slices() -> None:
    found = annotate(BLOB, target=(5, 4)).found
    assert image_boxes(found).dtype == np.int64
    assert image_boxes(found).tolist() == [[1, 1, 2, 2], [1, 2, 1, 2], [2, 3, 2, 3]]
    with pytest.raises(InvalidInput, match=r"case case: .*components='slice'"):
        image_boxes(in_3d(found))
