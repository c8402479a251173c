"""Components as CSV: rows in pixel coordinates, one text per slice or per volume, and the statistics files.

Positions come from `Plane.pixel`, which knows the axis order and the padding: ``image[Y, X]`` of slice Z is the voxel
that a row speaks of. Boxes are inclusive integers, centers and radii are floats, written so that pandas reads back
the very numbers and dtypes of `table`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from voxtract.errors import InvalidInput, check_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.classes import ClassMap
    from voxtract.geometry import Plane
    from voxtract.model import Components, Findings
    from voxtract.write.annotations import Finished, Masks
    from voxtract.write.files import Content

DataMode = Literal["center", "box", "radius"]
Center = Literal["box", "mass"]
EXTRA_COLUMNS = ("LABEL", "AREA", "CLASS", "OBJECT", "SCORE")

Table = dict[str, "NDArray[Any]"]

_AXES = ("X", "Y", "Z")


@dataclass(frozen=True, slots=True)
class Columns:
    """What a table says of each component.

    Parameters
    ----------
    data_mode : {"center", "box", "radius"}
        ``X,Y,Z``, ``X_MIN,Y_MIN,Z_MIN,X_MAX,Y_MAX,Z_MAX`` (inclusive), or ``X,Y,Z,RADIUS_X,RADIUS_Y,RADIUS_Z``,
        where a radius is half of (largest - smallest) pixel along its axis.
    center : {"box", "mass"}
        What X, Y, Z are: the middle of the box, or the mean position of the voxels.
    extra : sequence of {"LABEL", "AREA", "CLASS", "OBJECT", "SCORE"}
        Columns to append: the value in the label volume, the number of voxels (in a slice: pixels), the name of the
        class, the key of the object in the tool it comes from, its score in the slice. What a row lacks is empty.

    Raises
    ------
    InvalidInput
        Unknown words; the message lists the allowed ones.

    Examples
    --------
    >>> Columns("radius", extra=("LABEL",)).names
    ('X', 'Y', 'Z', 'RADIUS_X', 'RADIUS_Y', 'RADIUS_Z', 'LABEL')
    """

    data_mode: DataMode = "center"
    center: Center = "box"
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("data_mode", self.data_mode, get_args(DataMode))
        check_choice("center", self.center, get_args(Center))
        for name in self.extra:
            check_choice("extra_columns", name, EXTRA_COLUMNS)
        if len(set(self.extra)) != len(self.extra):
            raise InvalidInput(f"extra_columns {', '.join(self.extra)}: name each column once")

    @property
    def names(self) -> tuple[str, ...]:
        """Header of the table."""
        place: dict[DataMode, tuple[str, ...]] = {
            "center": _AXES,
            "box": tuple(f"{axis}_{end}" for end in ("MIN", "MAX") for axis in _AXES),
            "radius": (*_AXES, *(f"RADIUS_{axis}" for axis in _AXES)),
        }
        return *place[self.data_mode], *self.extra


@dataclass(frozen=True, slots=True)
class Csv:
    """Tables beside the images, one for each slice or each volume; see `voxtract.write.annotations`.

    Parameters
    ----------
    columns : Columns
    extraction_mode : {"slice", "volume"}
        ``<case>_<view>_<index>.csv`` for each chosen slice, or ``<case>.csv``.
    skip_empty : bool
        No file for a slice without rows.
    index_width : int
        Digits of the slice index, zero-padded.
    class_map : ClassMap, optional
        Names the classes; without one they are called ``label_<value>``.
    """

    columns: Columns
    extraction_mode: Literal["slice", "volume"] = "slice"
    skip_empty: bool = False
    index_width: int = 3
    class_map: ClassMap | None = None

    def case_files(self, found: Findings, masks: Masks | None) -> Iterator[tuple[str, Content]]:  # noqa: ARG002
        """Texts of one view of one case.

        Raises
        ------
        InvalidInput
            A label that has no class, where classes are to be named.
        """
        text = self._text(found) if {"CLASS", "OBJECT"} & set(self.columns.extra) else None
        if self.extraction_mode == "volume":
            folder = found.stem.rpartition("/")[0]
            yield f"{folder}/{found.case_id}.csv", volume_text(found.rows, found.plane, self.columns, text)
            return
        chosen = set(found.slices.tolist())
        texts = slice_texts(found.rows, found.plane, self.columns, text, skip_empty=self.skip_empty)
        for index, lines in texts:
            if index in chosen:
                yield f"{found.stem}{index:0{self.index_width}d}.csv", lines

    def run_files(self, run: Finished) -> Iterator[tuple[str, Iterable[bytes]]]:  # noqa: ARG002
        """None: every table is of one case."""
        return iter(())

    def _text(self, found: Findings) -> Table:
        """The extra columns of names."""
        from voxtract.write.frame import object_keys, row_categories  # costs a start without them 3 ms

        columns: Table = {}
        if "CLASS" in self.columns.extra:
            columns["CLASS"] = np.array([one.name for one in row_categories(found, self.class_map)], object)
        if "OBJECT" in self.columns.extra:
            columns["OBJECT"] = object_keys(found)
        return columns


def table(rows: Components, plane: Plane, columns: Columns, text: Mapping[str, NDArray[Any]] | None = None) -> Table:
    """Describe components in pixel coordinates of a plane.

    Parameters
    ----------
    rows : Components
        With `total` where the center of mass is asked for.
    plane : Plane
    columns : Columns
    text : mapping of column name to (n,) object array
        The columns that hold text; None stands for an empty cell.

    Returns
    -------
    dict of column name to (n,) array: int64 for boxes and AREA, float64 for centers, radii and SCORE (NaN where there
    is none), LABEL int64 or, where a label is larger, uint64
    """
    low: NDArray[Any] = plane.pixel(rows.start)
    high: NDArray[Any] = plane.pixel(rows.stop - 1)
    if columns.data_mode == "box":
        place = [*low.T, *high.T]
    else:
        place = [*plane.pixel(rows.mass_center if columns.center == "mass" else rows.box_center).T]
    if columns.data_mode == "radius":
        place += [*((high - low) / 2).T]
    score = np.full(len(rows), np.nan) if rows.score is None else rows.score
    extra = {"LABEL": _label(rows.label), "AREA": rows.count, "SCORE": score, **(text or {})}
    return dict(zip(columns.names, [*place, *(extra[name] for name in columns.extra)], strict=True))


def volume_text(
    rows: Components, plane: Plane, columns: Columns, text: Mapping[str, NDArray[Any]] | None = None
) -> str:
    """CSV of all rows; the header alone where there is none."""
    return _header(columns) + "".join(_lines(table(rows, plane, columns, text)))


def slice_texts(
    rows: Components,
    plane: Plane,
    columns: Columns,
    text: Mapping[str, NDArray[Any]] | None = None,
    *,
    skip_empty: bool = False,
) -> Iterator[tuple[int, str]]:
    """CSV of each slice of the plane: pairs (slice index, text), in slice order.

    Parameters
    ----------
    rows : Components
        Components of single slices, in raster order, that is, sorted by slice.
    plane : Plane
    columns : Columns
    text : mapping of column name to (n,) object array
    skip_empty : bool
        Leave out slices without rows; otherwise their text is the header alone.
    """
    header, lines = _header(columns), _lines(table(rows, plane, columns, text))
    index = rows.start[:, plane.axes[2]]
    ends = np.searchsorted(index, np.arange(plane.count), "right").tolist()
    begin = 0
    for number, end in enumerate(ends):
        if end > begin or not skip_empty:
            yield number, header + "".join(lines[begin:end])
        begin = end


def stats_text(kind: Literal["slices", "annotations"], counts: Iterable[tuple[str, int]]) -> str:
    r"""CSV of how much each file gave: a row per file, then the total.

    Parameters
    ----------
    kind : {"slices", "annotations"}
        Names the columns.
    counts : pairs (file name, number)

    Examples
    --------
    >>> print(stats_text("slices", [("a.nii.gz", 3), ("b, left.nii.gz", 4)]), end="")
    FILENAME,NUM_SLICES,TOTAL_SLICES
    a.nii.gz,3,
    "b, left.nii.gz",4,
    TOTAL_SLICES,7,7
    """
    counts = list(counts)
    total = sum(number for _, number in counts)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("FILENAME", f"NUM_{kind.upper()}", f"TOTAL_{kind.upper()}"))
    writer.writerows((name, number, "") for name, number in counts)
    writer.writerow((f"TOTAL_{kind.upper()}", total, total))
    return text.getvalue()


def _header(columns: Columns) -> str:
    return ",".join(columns.names) + "\n"


def _lines(columns: Mapping[str, NDArray[Any]]) -> list[str]:
    """Format each row, line end included; %r of a float is its shortest form that reads back equal."""
    forms, cells = zip(*map(_cells, columns.values()), strict=True)
    template = ",".join(forms) + "\n"
    return [template % row for row in zip(*cells, strict=True)]


def _cells(column: NDArray[Any]) -> tuple[str, list[Any]]:
    """How the values of a column are formatted, and the values."""
    values = column.tolist()
    if column.dtype.kind == "O":
        return "%s", ["" if value is None else _quoted(value) for value in values]
    if column.dtype.kind != "f":
        return "%d", values
    if np.isnan(column).any():
        return "%s", ["" if math.isnan(value) else repr(value) for value in values]
    return "%r", values


def _quoted(text: str) -> str:
    """A cell of text, in quotes where it would be read as something else."""
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def _label(label: NDArray[Any]) -> NDArray[Any]:
    """Labels in the dtype that pandas reads them back as."""
    if label.dtype == np.uint64 and len(label) and label.max() > np.iinfo(np.int64).max:
        return label
    return label.astype(np.int64)
