"""Tables in pixel coordinates, as plain loops and pandas see them."""

import io
import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests import oracles
from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, Plane, View
from voxtract.model import Components
from voxtract.write.tables import Columns, slice_texts, stats_text, table, volume_text

MODES = ("center", "box", "radius")
EXTRA = ("LABEL", "AREA")
LAST_DIGIT = 1e-15  # pandas before 3 may miss it where a mean position needs 17


def random_mask(shape: tuple[int, int, int], seed: int = 0, dtype: str = "uint8") -> NDArray[Any]:
    return np.random.default_rng(seed).choice([0, 0, 0, 1, 2, 250], shape).astype(dtype)


def as_components(found: list[oracles.Found], dtype: Any = np.uint8) -> Components:
    def column(name: str, kind: Any, width: int) -> NDArray[Any]:
        values = np.array([getattr(row, name) for row in found], kind)
        return values.reshape(len(found), width) if width else values

    return Components(
        start=column("start", np.int64, 3),
        stop=column("stop", np.int64, 3),
        label=column("label", dtype, 0),
        count=column("count", np.int64, 0),
        total=column("total", np.int64, 3),
    )


def expected_row(row: oracles.Found, view: str, shape: tuple[int, ...], target: Any, columns: Columns) -> list[Any]:
    """One row by the words of the contract: X is the column, Y the row, Z the slice, of the padded image."""
    axes = oracles.AXES[view]
    rows, cols, index = axes
    height, width = target or (shape[rows], shape[cols])
    shift = {cols: (width - shape[cols]) // 2, rows: (height - shape[rows]) // 2, index: 0}
    order = (cols, rows, index)
    low = [row.start[axis] + shift[axis] for axis in order]
    high = [row.stop[axis] - 1 + shift[axis] for axis in order]
    if columns.center == "mass":
        center = [row.total[axis] / row.count + shift[axis] for axis in order]
    else:
        center = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    radius = [(b - a) / 2 for a, b in zip(low, high, strict=True)]
    place: dict[str, list[Any]] = {"center": center, "box": low + high, "radius": center + radius}
    return place[columns.data_mode] + [{"LABEL": row.label, "AREA": row.count}[name] for name in columns.extra]


def read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("center", "X,Y,Z"),
        ("box", "X_MIN,Y_MIN,Z_MIN,X_MAX,Y_MAX,Z_MAX"),
        ("radius", "X,Y,Z,RADIUS_X,RADIUS_Y,RADIUS_Z"),
    ],
)
def test_names(mode: Any, names: str) -> None:
    assert ",".join(Columns(mode).names) == names
    assert ",".join(Columns(mode, extra=("AREA", "LABEL")).names) == names + ",AREA,LABEL"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("center", ["box", "mass"])
@pytest.mark.parametrize("extent", ["slice", "volume"])
@pytest.mark.parametrize("target", [None, (12, 13)])
def test_rows_are_those_of_the_contract(view: View, mode: Any, center: Any, extent: str, target: Any) -> None:
    shape = (7, 8, 5)
    found = oracles.components(random_mask(shape), view, extent)
    columns = Columns(mode, center, EXTRA)
    rows, plane = as_components(found), Plane(view, shape, target)
    seen = table(rows, plane, columns)
    wanted = [expected_row(row, view, shape, target, columns) for row in found]
    assert tuple(seen) == columns.names
    assert [list(line) for line in zip(*(column.tolist() for column in seen.values()), strict=True)] == wanted
    for name, column in seen.items():
        floats = mode != "box" and name not in EXTRA
        assert column.dtype == (np.float64 if floats else np.int64)
    frame = read(volume_text(rows, plane, columns))
    pd.testing.assert_frame_equal(frame, pd.DataFrame(seen), rtol=LAST_DIGIT, atol=0)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("mode", MODES)
def test_the_texts_of_the_slices_hold_each_row_once_in_order(view: View, mode: Any) -> None:
    shape = (6, 5, 7)
    mask = random_mask(shape)
    mask[:, :, 2] = mask[:, 3] = mask[1] = 0  # a slice of each view without rows
    found = oracles.components(mask, view)
    rows, plane, columns = as_components(found), Plane(view, shape, (9, 9)), Columns(mode, extra=EXTRA)
    texts = list(slice_texts(rows, plane, columns))
    assert [index for index, _ in texts] == list(range(plane.count))
    header = ",".join(columns.names) + "\n"
    assert all(text.startswith(header) for _, text in texts)
    assert header + "".join(text.removeprefix(header) for _, text in texts) == volume_text(rows, plane, columns)
    assert header in [text for _, text in texts]
    for index, text in texts:
        seen = read(text)
        wanted = [expected_row(row, view, shape, (9, 9), columns) for row in found if row.start[plane.axes[2]] == index]
        assert seen.to_numpy().tolist() == wanted
        assert (seen["Z_MIN" if mode == "box" else "Z"] == index).all()


def test_center_and_box_of_a_padded_image_point_at_the_voxel() -> None:
    shape = (5, 7, 4)
    for view, voxel in itertools.product(VIEWS, itertools.product(*map(range, shape))):
        mask = np.zeros(shape, np.uint8)
        mask[voxel] = 3
        plane = Plane(view, shape, (10, 11))
        rows = as_components(oracles.components(mask, view))
        x, y, z = (int(column[0]) for column in table(rows, plane, Columns("center")).values())
        row, column, index = plane.axes
        image = np.zeros((10, 11), np.uint8)
        top, left = (10 - shape[row]) // 2, (11 - shape[column]) // 2
        image[top : top + shape[row], left : left + shape[column]] = np.moveaxis(mask, index, 0)[voxel[index]]
        assert image[y, x] == 3
        assert z == voxel[index]


@pytest.mark.parametrize("mode", MODES)
def test_no_rows_is_a_header(mode: Any) -> None:
    rows = as_components([])
    plane, columns = Plane("coronal", (3, 2, 4)), Columns(mode, "mass", EXTRA)
    header = ",".join(columns.names) + "\n"
    assert volume_text(rows, plane, columns) == header
    assert list(slice_texts(rows, plane, columns)) == [(0, header), (1, header)]
    assert list(read(header).columns) == list(columns.names)


def test_text_is_what_the_contract_shows() -> None:
    mask = np.zeros((20, 10, 3), np.uint8)
    mask[9, 4:9, 1], mask[2, 2, 2] = 7, 1
    rows, plane = as_components(oracles.components(mask, "axial")), Plane("axial", mask.shape)
    assert volume_text(rows, plane, Columns()) == "X,Y,Z\n6.0,9.0,1.0\n2.0,2.0,2.0\n"
    assert volume_text(rows, plane, Columns("box", extra=("AREA",))) == (
        "X_MIN,Y_MIN,Z_MIN,X_MAX,Y_MAX,Z_MAX,AREA\n4,9,1,8,9,1,5\n2,2,2,2,2,2,1\n"
    )


@pytest.mark.parametrize(
    ("dtype", "labels", "wanted"),
    [("uint64", [1, 2**64 - 1], "uint64"), ("uint64", [1, 2**63 - 1], "int64"), ("int8", [1, 127], "int64")],
)
def test_labels_keep_every_digit(dtype: str, labels: list[int], wanted: str) -> None:
    box = np.zeros((2, 3), np.int64)
    rows = Components(box, box + 1, np.array(labels, dtype), np.ones(2, np.int64))
    plane, columns = Plane("axial", (1, 1, 1)), Columns("box", extra=("LABEL",))
    seen = table(rows, plane, columns)["LABEL"]
    frame = read(volume_text(rows, plane, columns))
    assert seen.dtype == frame["LABEL"].dtype == wanted
    assert seen.tolist() == frame["LABEL"].tolist() == labels


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 2**40)), min_size=1, max_size=20))
def test_mean_positions_survive_the_text(numbers: list[tuple[int, int]]) -> None:
    total = np.array([[a, a // 3, a // 7] for a, _ in numbers], np.int64)
    count = np.array([n for _, n in numbers], np.int64)
    start = np.zeros((len(numbers), 3), np.int64)
    rows = Components(start, start + 1, np.ones(len(numbers), np.uint8), count, total)
    plane, columns = Plane("axial", (1, 1, 1)), Columns("center", "mass")
    text, seen = volume_text(rows, plane, columns), table(rows, plane, columns)
    lines = [list(map(float, line.split(","))) for line in text.splitlines()[1:]]
    assert lines == np.stack(list(seen.values()), 1).tolist()
    pd.testing.assert_frame_equal(read(text), pd.DataFrame(seen), rtol=LAST_DIGIT, atol=0)


def test_unknown_words_list_the_known_ones() -> None:
    wrong: Any = "corner"
    with pytest.raises(InvalidInput, match=r"data_mode 'corner' is not known; allowed: 'center', 'box', 'radius'"):
        Columns(wrong)
    with pytest.raises(InvalidInput, match=r"center 'corner' is not known; allowed: 'box', 'mass'"):
        Columns("center", wrong)
    with pytest.raises(InvalidInput, match=r"extra_columns 'corner' is not known; allowed: 'LABEL', 'AREA'"):
        Columns("center", "box", ("LABEL", "corner"))
    with pytest.raises(InvalidInput, match=r"name each column once"):
        Columns("center", "box", ("LABEL", "LABEL"))


@pytest.mark.parametrize("kind", ["slices", "annotations"])
def test_statistics_as_pandas_reads_them(kind: Any) -> None:
    names = ["a.nii.gz", 'left, "old".nii.gz', "Größe 1.nii.gz", "two\nlines.nii.gz"]
    text = stats_text(kind, list(zip(names, [3, 0, 40, 5], strict=True)))
    word = kind.upper()
    frame = pd.read_csv(io.StringIO(text))
    assert list(frame.columns) == ["FILENAME", f"NUM_{word}", f"TOTAL_{word}"]
    assert frame["FILENAME"].tolist() == [*names, f"TOTAL_{word}" if kind == "slices" else "TOTAL_ANNOTATIONS"]
    assert frame[f"NUM_{word}"].tolist() == [3, 0, 40, 5, 48]
    assert frame[f"NUM_{word}"].dtype == np.int64
    assert frame.iloc[-1][f"TOTAL_{word}"] == 48
    assert frame[f"TOTAL_{word}"][:-1].isna().all()
    assert len(frame[frame["FILENAME"] != f"TOTAL_{word}"]) == 4


def test_statistics_of_nothing() -> None:
    assert stats_text("slices", []) == "FILENAME,NUM_SLICES,TOTAL_SLICES\nTOTAL_SLICES,0,0\n"
