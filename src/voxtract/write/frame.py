"""The table of components that everything else is a form of: where each one is, in pixels, voxels and millimetres."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from voxtract.classes import Category, ClassMap
from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from voxtract.model import Findings


class Column(NamedTuple):
    """What a column holds; `dtype` is that of pandas, ``category`` stands for text."""

    dtype: str
    unit: str
    meaning: str


def _along(names: str, dtype: str, unit: str, meaning: str) -> dict[str, Column]:
    """A column for each of three `names`."""
    return {name: Column(dtype, unit, meaning) for name in names.split()}


COLUMNS: dict[str, Column] = {
    "CASE": Column("category", "", "case id"),
    "VIEW": Column("category", "", "axial, coronal or sagittal"),
    "SPLIT": Column("category", "", "part of the data set the case belongs to; missing where it is not split"),
    "SLICE": Column("int64", "", "index of the slice it was found in; -1: found in 3D"),
    "LABEL": Column("uint64", "", "value in the label volume"),
    "CLASS": Column("category", "", "name of its class"),
    "OBJECT": Column("category", "", "key of the object in the tool it comes from; missing where there is none"),
    "SCORE": Column("float64", "", "score of the object in the slice; missing where there is none"),
    **_along("X_MIN Y_MIN Z_MIN", "int64", "pixel", "first column, row, slice of the box in the padded image"),
    **_along("X_MAX Y_MAX Z_MAX", "int64", "pixel", "last column, row, slice of the box, inclusive"),
    **_along("CENTER_X CENTER_Y CENTER_Z", "float64", "pixel", "middle of the box: (first + last) / 2"),
    **_along("I_MIN J_MIN K_MIN", "int64", "voxel", "first index of the box along the axes of the volume cut"),
    **_along("I_MAX J_MAX K_MAX", "int64", "voxel", "last index of the box along the axes of the volume, inclusive"),
    "COUNT": Column("int64", "voxel", "voxels of the component; in a slice these are pixels"),
    **_along("CENTER_R_MM CENTER_A_MM CENTER_S_MM", "float64", "mm", "middle of the box in the patient, RAS+"),
    **_along("SIZE_I_MM SIZE_J_MM SIZE_K_MM", "float64", "mm", "length of the box along the axes of the volume"),
    "AREA_MM2": Column("float64", "mm^2", "area of its pixels; missing where it was found in 3D"),
    "VOLUME_MM3": Column("float64", "mm^3", "volume of its voxels; of a component of a slice, as thick as the slice"),
    **_along("R_MIN_MM A_MIN_MM S_MIN_MM", "float64", "mm", "lowest of the corners of the box in the patient, RAS+"),
    **_along("R_MAX_MM A_MAX_MM S_MAX_MM", "float64", "mm", "highest of the corners of the box in the patient, RAS+"),
}


def component_columns(found: Findings, class_map: ClassMap | None) -> dict[str, NDArray[Any]]:
    """Describe every component of one view of one case.

    Parameters
    ----------
    found : Findings
    class_map : ClassMap, optional
        Without one, each label value is a class called ``label_<value>``.

    Returns
    -------
    dict of column name to (n,) array, in the order of `COLUMNS`, which says what they hold
        X, Y, Z are pixels of the padded image as in the CSV tables; I, J, K voxel indices along the first, second and
        third axis of the volume that was cut; R, A, S millimetres towards the right, front and head of the patient,
        where a voxel reaches half a voxel to all sides of its center. Text is an object array, SPLIT may hold None.

    Raises
    ------
    InvalidInput
        A label that has no class.
    """
    rows, plane, grid = found.rows, found.plane, found.grid
    n = len(rows)
    in_slices = found.extent == "slice"
    corners = grid.corners_mm(rows.start, rows.stop)
    names = [category.name for category in row_categories(found, class_map)]
    row, column, index = plane.axes
    pixel_mm2 = float(np.linalg.norm(np.cross(grid.affine[:3, row], grid.affine[:3, column])))
    values: list[NDArray[Any]] = [
        _repeated(found.case_id, n),
        _repeated(plane.view, n),
        _repeated(found.split, n),
        rows.start[:, index] if in_slices else np.full(n, -1, np.int64),
        rows.label.astype(np.uint64),
        np.array(names, object),
        object_keys(found),
        np.full(n, np.nan) if rows.score is None else rows.score,
        *plane.pixel(rows.start).T,
        *plane.pixel(rows.stop - 1).T,
        *plane.pixel(rows.box_center).T,
        *rows.start.T,
        *(rows.stop - 1).T,
        rows.count,
        *grid.points_mm(rows.box_center).T,
        *((rows.stop - rows.start) * np.array(grid.spacing_mm)).T,
        rows.count * (pixel_mm2 if in_slices else np.nan),
        rows.count * grid.voxel_mm3,
        *corners.min(axis=1).T,
        *corners.max(axis=1).T,
    ]
    return dict(zip(COLUMNS, values, strict=True))


def components_frame(found: Iterable[Findings], class_map: ClassMap | None = None) -> pd.DataFrame:
    """All components of a run as a pandas table: the columns and dtypes of `COLUMNS`, also where there is no row.

    Parameters
    ----------
    found : iterable of Findings
        Cases without components are among the categories of CASE, so that grouping can count them.
    class_map : ClassMap, optional
        As in `component_columns`; all its classes are categories of CLASS.

    Raises
    ------
    InvalidInput
        A label that has no class.
    """
    import pandas as pd

    cases: dict[str, None] = {}  # a set that keeps the order
    splits: dict[str, None] = {}
    parts: list[dict[str, NDArray[Any]]] = []
    found = list(found)
    for one in found:
        cases[one.case_id] = None
        if one.split is not None:
            splits[one.split] = None
        parts.append(component_columns(one, class_map))
    labels = sorted({label for one in found for label in np.unique(one.rows.class_id).tolist()})
    values = np.array(labels, np.uint64)
    classes = ClassMap.of_labels(values) if class_map is None else class_map.covering(values)
    categories: dict[str, list[str]] = {
        "CASE": list(cases),
        "VIEW": list(VIEWS),
        "SPLIT": list(splits),
        "CLASS": [category.name for category in classes.categories],
        "OBJECT": sorted({key for part in parts for key in part["OBJECT"].tolist() if key is not None}),
    }
    columns: dict[str, Any] = {}
    for name, column in COLUMNS.items():
        text = column.dtype == "category"
        empty = np.empty(0, object if text else column.dtype)
        values = np.concatenate([empty, *(part[name] for part in parts)])
        columns[name] = pd.Categorical(values, pd.Index(categories[name], dtype=str)) if text else values
    return pd.DataFrame(columns)


def row_categories(found: Findings, class_map: ClassMap | None) -> list[Category]:
    """Class of each row; without a class map, one for each label value.

    Raises
    ------
    InvalidInput
        A label that has no class.
    """
    labels, row = np.unique(found.rows.class_id, return_inverse=True)
    if class_map is None:
        of_label = ClassMap.of_labels(labels).categories
    else:
        of_label = tuple(class_map.named(class_map.ids(labels).tolist()))
    return [of_label[i] for i in row.tolist()]


def object_keys(found: Findings) -> NDArray[Any]:
    """Key of each row's object in the tool it comes from, as an object array of text and None."""
    rows = found.rows
    keys = np.full(len(rows), None, object)
    if found.objects:
        volumes = [0] * len(rows) if rows.volume is None else rows.volume.tolist()
        keys[:] = [found.objects[volume].get(label) for volume, label in zip(volumes, rows.label.tolist(), strict=True)]
    return keys


def image_boxes(found: Findings) -> NDArray[np.int64]:
    """Box of each row in its image.

    Returns
    -------
    (n, 4) int64: X_MIN, Y_MIN, X_MAX, Y_MAX, inclusive pixels of the padded image

    Raises
    ------
    InvalidInput
        The components were found in the volume, so that they lie in no single image.
    """
    if found.extent != "slice":
        raise InvalidInput(
            f"case {found.case_id}: components were found in the volume (components='volume'), but COCO, YOLO and VOC "
            "hold boxes of images: take components='slice', or annotations='csv' or 'parquet'"
        )
    low, high = found.plane.pixel(found.rows.start), found.plane.pixel(found.rows.stop - 1)
    return np.concatenate([low[:, :2], high[:, :2]], axis=1).astype(np.int64)


def _repeated(value: str | None, n: int) -> NDArray[Any]:
    return np.full(n, value, object)
