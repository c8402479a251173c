"""From frames in any order to slices in space: several volumes told apart, slices sorted, the affine.

Method: position along the normal of the image plane (the cross product of its two directions, DICOM PS3.3 C.7.6.2.1.1),
never file names or instance numbers; the affine from the first and the last position, never from the slice thickness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.read.dicom.frames import Frame, Place

if TYPE_CHECKING:
    from numpy.typing import NDArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

EVEN = 0.01  # of the step: distances of neighbouring slices may differ by this much
STRAIGHT = 0.05  # of a voxel: how far a slice may lie off the line from the first to the last
SAME_PLACE = 0.01  # of the pixel spacing: slices that are closer lie at one place
SAME_DIRECTION = 2e-4  # of a direction cosine: headers are written with four decimals, some
TOLD = 3  # examples in a message


@dataclass(frozen=True, eq=False, slots=True)
class Stack:
    """Frames of one volume, in order.

    Parameters
    ----------
    frames : (Frame, ...)
        First to last along z.
    affine : (4, 4) float64
        Voxel index (x, y, z, 1) to RAS+ mm; x is the column of a frame, y its row.
    remarks : (str, ...)
        What a person should look at.
    """

    frames: tuple[Frame, ...]
    affine: NDArray[np.float64]
    remarks: tuple[str, ...] = ()


def alike(one: Frame, other: Frame) -> bool:
    """Whether two frames may lie in one volume: same size, same directions, same pixel spacing."""
    if (one.encoding.rows, one.encoding.columns) != (other.encoding.rows, other.encoding.columns):
        return False
    if one.place is None or other.place is None:
        return one.place is None and other.place is None
    if one.place.orientation == other.place.orientation and one.place.spacing == other.place.spacing:
        return True
    turned = np.abs(np.subtract(one.place.orientation, other.place.orientation)).max()
    scaled = np.abs(np.divide(one.place.spacing, other.place.spacing) - 1).max()
    return bool(turned <= SAME_DIRECTION and scaled <= 1e-3)


def arrange(frames: Sequence[Frame], volume_index: int | None, where: str) -> Stack:
    """Put the frames of one volume in order.

    Parameters
    ----------
    frames : sequence of Frame
    volume_index : int, optional
        Which volume, 0-based, where there are several at one place (4D); in the order of what tells them apart.
    where : str
        For messages.

    Raises
    ------
    InvalidInput
        Frames that are not `alike`; several volumes and no `volume_index`, or one out of range; frames that lie at one
        place and cannot be told apart; missing slices, uneven distances, slices off the line or without a position.
    """
    if not all(alike(frames[0], frame) for frame in frames):
        raise InvalidInput(
            f"{where}: its {len(frames)} slices differ in orientation, size or pixel spacing, but those of a "
            "volume are parallel and alike; a rotating or radial stack cannot be read as a volume"
        )
    if frames[0].place is None:
        return _unplaced(frames, volume_index, where)
    volumes, said = _volumes(frames, where)
    index = _chosen(len(volumes), said, volume_index, where)
    return _placed(volumes[index], where)


def _unplaced(frames: Sequence[Frame], volume_index: int | None, where: str) -> Stack:
    if len({frame.path for frame in frames}) > 1:
        raise InvalidInput(
            f"{where}: {len(frames)} images without ImagePositionPatient or ImageOrientationPatient, so that their "
            "order is not known; open one file alone, or convert the series to NIfTI with the tool that wrote it"
        )
    _chosen(1, "", volume_index, where)
    remark = (
        "says nothing of where its pixels lie: slices are in stored order, and a voxel is taken as 1 mm wide, with the "
        "axes as they are (affine: identity)"
    )
    return Stack(tuple(frames), np.eye(4), (remark,))


def _chosen(count: int, said: str, volume_index: int | None, where: str) -> int:
    holds = f"holds {count} volumes at one place, which differ in {said}" if count > 1 else "holds 1 volume"
    if volume_index is None and count > 1:
        raise InvalidInput(f"{where}: {holds}; choose volume_index=0 to {count - 1}")
    if volume_index is not None and not 0 <= volume_index < count:
        raise InvalidInput(f"{where}: {holds}, so volume_index={volume_index} is out of range; 0 to {count - 1}")
    return volume_index or 0


# --- several volumes at one place


def _volumes(frames: Sequence[Frame], where: str) -> tuple[list[list[Frame]], str]:
    """Split frames that lie at the same places into volumes; each has one frame per place.

    Returns
    -------
    volumes, each sorted along the normal; what tells them apart, for messages
    """
    places = _places(frames)
    if len(places) == len(frames):
        return [[place[0] for place in places]], ""
    names = _telling(places)
    values = {id(frame): _key(frame, names) for frame in frames}
    keys = sorted({values[id(frame)] for frame in places[0]})
    volumes = []
    for key in keys:
        volume = [frame for place in places for frame in place if values[id(frame)] == key]
        if len(volume) != len(places):
            raise _duplicates(places, where)
        volumes.append(volume)
    return volumes, ", ".join(names)


def _places(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames that lie at one place, place by place along the normal."""
    position = along_normal(frames)
    order = np.argsort(position, kind="stable")
    apart = np.diff(position[order]) > SAME_PLACE * min(placed(frames[0]).spacing)
    first = np.flatnonzero(np.concatenate([[True], apart]))
    return [[frames[i] for i in group] for group in np.split(order, first[1:])]


def along_normal(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Position of each frame along the normal of the first one, in mm."""
    position: NDArray[np.float64] = _positions(frames) @ _normal(frames[0])
    return position


def _telling(places: list[list[Frame]]) -> list[str]:
    """Attributes whose values are spread over all places alike: those of a second volume, not of the slice."""
    names = dict.fromkeys(name for frame in places[0] for name, _ in frame.marks)
    found = []
    for name in names:
        each = [sorted(_key(frame, [name]) for frame in place) for place in places]
        if len(set(each[0])) > 1 and all(values == each[0] for values in each[1:]):
            found.append(name)
    return found


def _key(frame: Frame, names: list[str]) -> tuple[Any, ...]:
    """Values to sort by; what is missing comes first."""
    marks = dict(frame.marks)
    return tuple((name in marks, marks.get(name, ())) for name in names)


def _duplicates(places: list[list[Frame]], where: str) -> InvalidInput:
    several = [place for place in places if len(place) > 1]
    told = "; ".join(
        f"{_at(place[0])}: {', '.join(_name(frame) for frame in place[:TOLD])}{', …' * (len(place) > TOLD)}"
        for place in several[:TOLD]
    )
    more = f"; and {len(several) - TOLD} more places" if len(several) > TOLD else ""
    return InvalidInput(
        f"{where}: several slices lie at one place and nothing tells them apart as volumes ({told}{more}); "
        "remove the duplicates, or put each volume into a folder of its own"
    )


# --- one volume


def _placed(frames: Sequence[Frame], where: str) -> Stack:
    place = placed(frames[0])
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(place.orientation[:3], place.spacing[1])
    affine[:3, 1] = np.multiply(place.orientation[3:], place.spacing[0])
    affine[:3, 3] = place.position
    if len(frames) == 1:
        step, remarks = _single(frames[0])
    else:
        _check_even(frames, where)
        step, remarks = _step(frames, where)
    affine[:3, 2] = step
    return Stack(tuple(frames), LPS_TO_RAS @ affine + 0.0, remarks)  # + 0.0: no negative zeros


def _single(frame: Frame) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    if frame.thickness is not None and frame.thickness > 0:
        return _normal(frame) * frame.thickness, ()
    return _normal(frame), ("is a single slice without a thickness, which is taken as 1 mm",)


def _check_even(frames: Sequence[Frame], where: str) -> None:
    gaps = np.diff(along_normal(frames))
    step = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    uneven = np.flatnonzero(np.abs(gaps - step) > EVEN * step)
    if not len(uneven):
        return
    told = "; ".join(
        f"{gaps[i]:.6g} mm from {_at(frames[i])} ({_name(frames[i])}) to {_at(frames[i + 1])} ({_name(frames[i + 1])})"
        for i in uneven[:TOLD]
    )
    more = f"; and {len(uneven) - TOLD} more" if len(uneven) > TOLD else ""
    missing = np.rint(gaps[uneven] / step) - 1
    what = f"{int(missing.sum())} slices are missing" if (missing > 0).all() else "slices are not evenly spaced"
    raise InvalidInput(
        f"{where}: {what}: the step is {step:.6g} mm, but {told}{more}; add the missing files, "
        "or put each even part into a folder of its own"
    )


def _step(frames: Sequence[Frame], where: str) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Vector from a slice to the next, from the first and the last; slices may be sheared, not bent."""
    place = placed(frames[0])
    position = _positions(frames)
    step: NDArray[np.float64] = (position[-1] - position[0]) / (len(frames) - 1)
    axes = np.stack([place.orientation[:3], place.orientation[3:], _normal(frames[0])], axis=1)
    voxel = np.array([place.spacing[1], place.spacing[0], np.abs(step @ axes[:, 2])])
    off = np.abs((position - (position[0] + np.arange(len(frames))[:, None] * step)) @ axes) / voxel
    if off.max() > STRAIGHT:
        worst = int(off.max(axis=1).argmax())
        raise InvalidInput(
            f"{where}: slices do not lie on a straight line: {_name(frames[worst])} at {_at(frames[worst])} is "
            f"{off[worst].max():.2g} voxels off the line from the first to the last; resample the series first"
        )
    drift = step @ axes[:, :2]
    if (np.abs(drift) * (len(frames) - 1) <= STRAIGHT * voxel[:2]).all():
        return step, ()
    angle = float(np.degrees(np.arctan2(np.hypot(*drift), step @ axes[:, 2])))
    remark = (
        f"slices are tilted by {angle:.2f} degrees against the direction in which they are stacked (gantry tilt): the "
        "affine is sheared, and nothing is resampled"
    )
    return step, (remark,)


def placed(frame: Frame) -> Place:
    """Where a frame lies that has a place."""
    if frame.place is None:
        raise TypeError(f"{frame.path}: a frame without a place")
    return frame.place


def _positions(frames: Sequence[Frame]) -> NDArray[np.float64]:
    return np.array([placed(frame).position for frame in frames])


def _normal(frame: Frame) -> NDArray[np.float64]:
    orientation = placed(frame).orientation
    normal = np.cross(orientation[:3], orientation[3:])
    return normal / np.sqrt(normal @ normal)


def _at(frame: Frame) -> str:
    return f"{float(along_normal([frame])[0]):.6g} mm"


def _name(frame: Frame) -> str:
    """File name of a frame, and its number where the file may hold several."""
    name = Path(frame.path).name
    return f"{name} frame {frame.number + 1}" if frame.number else name
