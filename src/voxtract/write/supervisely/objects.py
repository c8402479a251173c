"""A case as Supervisely sees it: on the RAS grid, its label volumes taken apart into objects of classes."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, Grid, Plane, Reorientation, View
from voxtract.model import Case, LabelVolume, Volume, VolumeFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of all keys made here: the same path gives the same key on every machine.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://voxtract/supervisely")

RasScores = dict[View, dict[int, float]]  # view -> slice of the RAS grid -> score

_OF_AXIS: dict[int, View] = {Plane(view, (1, 1, 1)).axes[2]: view for view in VIEWS}
_KEY = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, eq=False, slots=True)
class Thing:
    """One object in one label volume.

    Parameters
    ----------
    label : int
        Its value in the volume.
    category : int
    key : str
        32 hexadecimal digits; the same in all volumes of a case for the same object.
    scores : view to slice of the RAS grid to score
    first, stop : int
        Planes along S from the first with one of its voxels to behind the last.
    """

    label: int
    category: int
    key: str
    scores: RasScores
    first: int
    stop: int


@dataclass(frozen=True, eq=False, slots=True)
class RasLabels:
    """A label volume on the RAS grid.

    Parameters
    ----------
    volume : LabelVolume
    voxels : (x, y, z) integer array
    things : (Thing, ...)
        By label value.
    views : (View, ...), optional
        Those of the RAS grid whose slices it was drawn on; None: drawn in space.
    """

    volume: LabelVolume
    voxels: NDArray[Any]
    things: tuple[Thing, ...]
    views: tuple[View, ...] | None


def on_ras(file: VolumeFile) -> tuple[Volume, Grid, Reorientation]:
    """Read a volume; gives it with its data turned, the RAS grid, and how it was turned.

    Raises
    ------
    VoxtractError
        As the file's; also where its affine leaves an axis without a direction.
    """
    volume = file.read()
    try:
        turn = Reorientation.between(volume.header.grid, "RAS")
    except InvalidInput as fault:
        raise InvalidInput(f"{file.where}: {fault}") from fault
    return Volume(volume.header, turn.array(volume.data)), turn.grid(volume.header.grid), turn


def labels_of(case: Case, grid: Grid | None, classes: ClassMap, path: str) -> Iterator[tuple[RasLabels, Grid]]:
    """Read the label volumes of a case one after the other.

    Parameters
    ----------
    case : Case
    grid : Grid, optional
        RAS grid of its image, on which they must lie; None where it has none: they must lie on one grid.
    classes : ClassMap
        Must have the category of every object.
    path : str
        Where the case is written, from which keys of objects without one are made.

    Raises
    ------
    VoxtractError
        A file that cannot be read, another grid than the image's, voxels that are no whole numbers, a category that
        is not known, a score of a slice that is not there.
    """
    for number, volume in enumerate(case.labels):
        read, own, turn = on_ras(volume.file)
        grid = own if grid is None else grid
        difference = grid.mismatch(own)
        if difference is not None:
            raise InvalidInput(
                f"{volume.file.where}: its grid is not that of the image of case {case.id!r}, both turned to RAS: "
                f"{difference}; align it first"
            )
        voxels = _whole(values(read), volume.file.where)
        scores = _turned_scores(volume, turn, own)
        extents = _extents(voxels)
        categories = _categories(volume, list(extents), classes)
        things = tuple(
            Thing(label, category, _key(volume, label, f"{path}/{number}/{volume.name}"), _of(scores, label), *planes)
            for (label, planes), category in zip(extents.items(), categories, strict=True)
        )
        views = None if volume.views is None else tuple(_turned_view(view, turn) for view in volume.views)
        yield RasLabels(volume, voxels, things, views), grid


def values(volume: Volume) -> NDArray[Any]:
    """Voxels with slope and intercept applied: whole numbers stay such, others become float32 or float64."""
    header, data = volume.header, volume.data
    if not header.is_scaled:
        return data
    slope, intercept = float(header.slope), float(header.intercept)
    if data.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        ends = sorted(int(end) * int(slope) + int(intercept) for end in (data.min(), data.max()))
        dtype = _integer(*ends)
        if dtype is not None:
            wide = data.astype(np.int64 if ends[0] < 0 or int(slope) < 0 or int(intercept) < 0 else np.uint64)
            scaled: NDArray[Any] = wide * wide.dtype.type(int(slope)) + wide.dtype.type(int(intercept))
            return scaled.astype(dtype)
    real = data.astype(np.result_type(data.dtype, np.float32))
    real *= slope
    real += intercept
    return real


def _integer(low: int, high: int) -> np.dtype[Any] | None:
    """Smallest integer that holds all from `low` to `high`, signed from 16 bits on; None where there is none."""
    if low >= 0:
        return np.min_scalar_type(high) if high < 1 << 64 else None
    fits = (bits for bits in (16, 32, 64) if -(1 << bits - 1) <= low and high < 1 << bits - 1)
    return next((np.dtype(f"i{bits // 8}") for bits in fits), None)


def key_of(path: str) -> str:
    """Key of what lies at a path: 32 hexadecimal digits, the same on every run."""
    return uuid.uuid5(NAMESPACE, path).hex


def _whole(voxels: NDArray[Any], where: str) -> NDArray[Any]:
    """Voxels as integers."""
    if voxels.dtype.kind in "iu":
        return voxels
    if voxels.dtype == bool:
        return voxels.view(np.uint8)
    wrong = ~(np.isfinite(voxels) & (voxels == np.rint(voxels)) & (np.abs(voxels) < 1 << 53))
    if wrong.any():
        raise InvalidInput(
            f"{where}: holds the label value {voxels[wrong][0]}, but labels are whole numbers; threshold it first"
        )
    return voxels.astype(np.int64)


def _extents(voxels: NDArray[Any]) -> dict[int, tuple[int, int]]:
    """First plane and the one behind the last of each value above 0, by value."""
    found: dict[int, tuple[int, int]] = {}
    for index in range(voxels.shape[2]):
        for value in np.unique(voxels[..., index]).tolist():
            if value > 0:
                found[value] = found.get(value, (index, 0))[0], index + 1
    return dict(sorted(found.items()))


def _categories(volume: LabelVolume, labels: list[int], classes: ClassMap) -> list[int]:
    """Category of each label; one that the classes do not have is an error."""
    told = volume.category
    try:
        found = labels if told is None else [told if isinstance(told, int) else told[label] for label in labels]
        return [int(number) for number in classes.ids(np.array(found))] if found else []
    except KeyError as fault:
        raise InvalidInput(f"{volume.file.where}: label value {fault.args[0]} belongs to no class") from fault
    except InvalidInput as fault:
        raise InvalidInput(f"{volume.file.where}: {fault}") from fault


def _key(volume: LabelVolume, label: int, path: str) -> str:
    """Key the object came with, if Supervisely takes it for one."""
    own = volume.objects.get(label, "").replace("-", "").lower()
    return own if _KEY.fullmatch(own) else key_of(f"{path}/{label}")


def _turned_view(view: View, turn: Reorientation) -> View:
    """View of the RAS grid whose slices are those of `view` of the volume as it was read."""
    return _OF_AXIS[turn.source.index(Plane(view, (1, 1, 1)).axes[2])]


def _turned_scores(volume: LabelVolume, turn: Reorientation, grid: Grid) -> dict[View, dict[int, Mapping[int, float]]]:
    """Scores by view and slice of the RAS grid."""
    turned: dict[View, dict[int, Mapping[int, float]]] = {}
    for view, slices in volume.scores.items():
        new = _turned_view(view, turn)
        axis = Plane(new, grid.shape).axes[2]
        for index, scores in slices.items():
            if not 0 <= index < grid.shape[axis]:
                raise InvalidInput(
                    f"{volume.file.where}: has a score for {view} slice {index}, but there are {grid.shape[axis]}"
                )
            turned.setdefault(new, {})[grid.shape[axis] - 1 - index if turn.flip[axis] else index] = scores
    return turned


def _of(scores: Mapping[View, Mapping[int, Mapping[int, float]]], label: int) -> RasScores:
    """Scores of one object, slices in order."""
    found: RasScores = {}
    for view in VIEWS:
        for index, told in sorted(scores.get(view, {}).items()):
            if told.get(label) is not None:
                found.setdefault(view, {})[index] = told[label]
    return found
