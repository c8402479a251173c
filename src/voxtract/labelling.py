"""From the label volumes of a case to its rows: what each volume's source says of its values is put beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.compute.masks import SliceMasks
from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, Plane, View
from voxtract.model import Components, LabelVolume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.layout import Frame


def seen_in(volume: LabelVolume, plane: Plane, frame: Frame) -> bool:
    """Whether a label volume is looked at in a plane: drawn on slices of one view, it is not cut across them."""
    return volume.views is None or _before(plane.view, frame) in volume.views


def described(rows: Components, case: Sequence[LabelVolume], number: int, plane: Plane, frame: Frame) -> Components:
    """Add what the source knows of the rows found in label volume `number` of a case.

    Raises
    ------
    InvalidInput
        A label value to which the source has given no category.
    """
    volume = case[number]
    columns = rows.columns
    if any(one.category is not None for one in case):
        columns["category"] = categories(rows.label, volume)
    if any(one.scores for one in case):
        columns["score"] = _scores(rows, volume.scores, plane, frame)
    if len(case) > 1:
        columns["volume"] = np.full(len(rows), number, np.int64)
    return Components(**columns)


def together(parts: Sequence[Components], plane: Plane) -> Components:
    """Rows of several label volumes in one order: by slice, then by volume, then as they were found in it."""
    rows = Components.join(parts)
    if len(parts) == 1:
        return rows
    return rows.select(np.argsort(rows.start[:, plane.axes[2]], kind="stable"))


@dataclass(frozen=True, eq=False, slots=True)
class CaseMasks:
    """Masks of rows that were found in several label volumes, each in its own; see `SliceMasks`.

    Parameters
    ----------
    labels : sequence of (x, y, z) integer arrays
        The volumes, as `Components.volume` counts them.
    plane, rows, connectivity
        As of `SliceMasks`.
    """

    labels: Sequence[NDArray[Any]]
    plane: Plane
    rows: Components
    connectivity: int | None = None

    def __call__(self, i: int) -> NDArray[np.bool_]:
        """Mask of row `i`, cut to its box."""
        number = 0 if self.rows.volume is None else int(self.rows.volume[i])
        return SliceMasks(self.labels[number], self.plane, self.rows, self.connectivity)(i)


def _before(view: View, frame: Frame) -> View:
    """View of the volume as it is read whose slices become those of `view`."""
    if frame.turn is None:
        return view
    of_axis = {Plane(name, (1, 1, 1)).axes[2]: name for name in VIEWS}
    return of_axis[frame.turn.source[Plane(view, (1, 1, 1)).axes[2]]]


def categories(labels: NDArray[Any], volume: LabelVolume) -> NDArray[np.int64]:
    """Class id of each label value of a volume.

    Raises
    ------
    InvalidInput
        A value to which the source has given no category.
    """
    if isinstance(volume.category, int):
        return np.full(len(labels), volume.category, np.int64)
    if volume.category is None:
        return labels.astype(np.int64)
    values, row = np.unique(labels, return_inverse=True)
    unknown = [value for value in values.tolist() if value not in volume.category]
    if unknown:
        raise InvalidInput(
            f"{volume.file.where}: label values {', '.join(map(str, unknown[:10]))} belong to no class; "
            f"the source names {', '.join(map(str, sorted(volume.category)[:10]))}"
        )
    return np.array([volume.category[value] for value in values.tolist()], np.int64)[row.reshape(-1)]


def _scores(
    rows: Components, scores: Mapping[View, Mapping[int, Mapping[int, float]]], plane: Plane, frame: Frame
) -> NDArray[np.float64]:
    """Score of each row's object in its slice; NaN where there is none, or where the row reaches over several."""
    axis = plane.axes[2]
    table = scores.get(_before(plane.view, frame), {})
    index = frame.source_index(axis, rows.start[:, axis]).tolist()
    single = (rows.stop[:, axis] - rows.start[:, axis] == 1).tolist()
    found = [
        table.get(at, {}).get(label, np.nan) if one else np.nan
        for at, label, one in zip(index, rows.label.tolist(), single, strict=True)
    ]
    return np.array(found, np.float64)
