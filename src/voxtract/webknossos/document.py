"""What one NML file holds, as values: what `nml_read` makes and `nml_write` takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.kept import Kept
from voxtract.webknossos.layers import VolumeLayer
from voxtract.webknossos.nodes import Vector
from voxtract.webknossos.skeleton import Skeleton


@dataclass(frozen=True, slots=True)
class AdditionalAxis:
    """An axis beyond x, y, z: places ``start <= place < stop``; `index` is its place among all axes."""

    name: str
    index: int
    start: int
    stop: int


@dataclass(slots=True)
class Document:
    """Everything that an NML file says.

    Parameters
    ----------
    skeleton : Skeleton
    meta : dict of str
        All ``<meta>`` items.
    time : int, optional
        Milliseconds since 1970.
    offset : (x, y, z) int, optional
        A leftover of old versions, not applied to anything.
    edit_position, edit_rotation : three floats, optional
        Camera.
    zoom_level : int or float, optional
    active_node : int, optional
        Id of the node that was chosen.
    wk_url : str, optional
        Server that wrote the file.
    user_boxes, task_box
    axes : list of AdditionalAxis
    volumes : list of VolumeLayer
    kept : dict
        What this version does not know, by the element that it belongs to.
    """

    skeleton: Skeleton
    meta: dict[str, str] = field(default_factory=dict)
    time: int | None = None
    offset: Vector | None = None
    edit_position: Vector | None = None
    edit_rotation: Vector | None = None
    zoom_level: float | None = None
    active_node: int | None = None
    wk_url: str | None = None
    user_boxes: list[BoundingBox] = field(default_factory=list)
    task_box: BoundingBox | None = None
    axes: list[AdditionalAxis] = field(default_factory=list)
    volumes: list[VolumeLayer] = field(default_factory=list)
    kept: Kept = field(default_factory=dict)
