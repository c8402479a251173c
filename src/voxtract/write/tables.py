"""Components as CSV: rows in pixel coordinates, one text per slice or per volume, and the statistics files.

Positions come from `Plane.pixel`, which knows the axis order and the padding: ``image[Y, X]`` of slice Z is the voxel
that a row speaks of. Boxes are inclusive integers, centers and radii are floats, written so that pandas reads back
the very numbers and dtypes of `table`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from voxtract.errors import InvalidInput, check_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.geometry import Plane
    from voxtract.model import Components, Findings
    from voxtract.write.annotations import Finished, Masks
    from voxtract.write.files import Content

DataMode = Literal["center", "box", "radius"]
Center = Literal["box", "mass"]
EXTRA_COLUMNS = ("LABEL", "AREA")

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
    extra : sequence of {"LABEL", "AREA"}
        Columns to append: the value in the label volume, the number of voxels (in a slice: pixels).

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
    """

    columns: Columns
    extraction_mode: Literal["slice", "volume"] = "slice"
    skip_empty: bool = False
    index_width: int = 3

    def case_files(self, found: Findings, masks: Masks | None) -> Iterator[tuple[str, Content]]:  # noqa: ARG002
        """Texts of one view of one case."""
        if self.extraction_mode == "volume":
            folder = found.stem.rpartition("/")[0]
            yield f"{folder}/{found.case_id}.csv", volume_text(found.rows, found.plane, self.columns)
            return
        chosen = set(found.slices.tolist())
        for index, text in slice_texts(found.rows, found.plane, self.columns, skip_empty=self.skip_empty):
            if index in chosen:
                yield f"{found.stem}{index:0{self.index_width}d}.csv", text

    def run_files(self, run: Finished) -> Iterator[tuple[str, Iterable[bytes]]]:  # noqa: ARG002
        """None: every table is of one case."""
        return iter(())


def table(rows: Components, plane: Plane, columns: Columns) -> Table:
    """Describe components in pixel coordinates of a plane.

    Parameters
    ----------
    rows : Components
        With `total` where the center of mass is asked for.
    plane : Plane
    columns : Columns

    Returns
    -------
    dict of column name to (n,) array: int64 for boxes and AREA, float64 for centers and radii, LABEL int64 or, where
    a label is larger, uint64
    """
    low: NDArray[Any] = plane.pixel(rows.start)
    high: NDArray[Any] = plane.pixel(rows.stop - 1)
    if columns.data_mode == "box":
        place = [*low.T, *high.T]
    else:
        place = [*plane.pixel(rows.mass_center if columns.center == "mass" else rows.box_center).T]
    if columns.data_mode == "radius":
        place += [*((high - low) / 2).T]
    extra = {"LABEL": _label(rows.label), "AREA": rows.count}
    return dict(zip(columns.names, [*place, *(extra[name] for name in columns.extra)], strict=True))


def volume_text(rows: Components, plane: Plane, columns: Columns) -> str:
    """CSV of all rows; the header alone where there is none."""
    return _header(columns) + "".join(_lines(table(rows, plane, columns)))


def slice_texts(
    rows: Components, plane: Plane, columns: Columns, *, skip_empty: bool = False
) -> Iterator[tuple[int, str]]:
    """CSV of each slice of the plane: pairs (slice index, text), in slice order.

    Parameters
    ----------
    rows : Components
        Components of single slices, in raster order, that is, sorted by slice.
    plane : Plane
    columns : Columns
    skip_empty : bool
        Leave out slices without rows; otherwise their text is the header alone.
    """
    header, lines = _header(columns), _lines(table(rows, plane, columns))
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
    template = ",".join("%r" if column.dtype.kind == "f" else "%d" for column in columns.values()) + "\n"
    return [template % row for row in zip(*(column.tolist() for column in columns.values()), strict=True)]


def _label(label: NDArray[Any]) -> NDArray[Any]:
    """Labels in the dtype that pandas reads them back as."""
    if label.dtype == np.uint64 and len(label) and label.max() > np.iinfo(np.int64).max:
        return label
    return label.astype(np.int64)
