"""Which voxels are a case: around what is annotated, or in boxes that somebody has drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import Box
from voxtract.model import Remark, Skipped
from voxtract.read.webknossos.layers import DatasetLayer, LabelLayer
from voxtract.read.webknossos.opening import Opened
from voxtract.read.webknossos.voxels import Voxels
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.mag import Mag, union
from voxtract.webknossos.segments import nonzero_box
from voxtract.webknossos.volume import to_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

Region = Literal["annotation", "tight", "task", "user", "boxes", "dataset"]


@dataclass(frozen=True, eq=False, slots=True)
class Content:
    """What is taken of an annotation or a dataset.

    Parameters
    ----------
    opened : Opened
    layers : sequence of LabelLayer
    image : DatasetLayer, optional
    nodes : (n, 3) int64, optional
        Voxels of mag 1.
    mag : Mag
    skipped, remarks : list
        Filled on the way.
    """

    opened: Opened
    layers: Sequence[LabelLayer]
    image: DatasetLayer | None
    nodes: NDArray[np.int64] | None
    mag: Mag
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def skip(self, what: str, reason: str) -> None:
        """Note what no case uses."""
        self.skipped.append(Skipped(f"{self.opened.where}, {what}", reason))

    @property
    def skipped_text(self) -> str:
        """All that is skipped, as the end of a message."""
        return "".join(f"; {one.where.removeprefix(self.opened.where + ', ')} {one.reason}" for one in self.skipped)


def boxes_of(
    content: Content, region: Region | Sequence[int], margin: int | Sequence[int]
) -> Iterator[tuple[str, Box]]:
    """Name and box, in voxels of mag 1, of each case; the name is empty for the only one.

    Raises
    ------
    InvalidInput
        Numbers that are no region or margin, or nothing there that the word speaks of.
    """
    more = np.array([margin] * 3 if isinstance(margin, int) else list(margin))
    if more.shape != (3,) or more.dtype.kind not in "iu" or more.min() < 0:
        raise InvalidInput(f"margin {margin!r} must be a whole number of voxels, or three of them, not below 0")
    for name, box in _found(content, region):
        start, stop = np.array(box.start) - more, np.array(box.stop) + more
        if (stop <= 0).any():
            content.skip(f"box {name!r}", f"lies outside of the dataset: it ends at {box.stop}")
            continue
        if (np.array(box.start) < 0).any():
            message = f"{f'box {name!r}' if name else f'region {region}'} begins at {box.start}; below 0 it is cut off"
            content.remarks.append(Remark(content.opened.where, message))
        yield name, Box(tuple(np.maximum(start, 0).tolist()), tuple(stop.tolist()))


def _found(content: Content, region: Region | Sequence[int]) -> Iterable[tuple[str, Box]]:
    where = content.opened.where
    if not isinstance(region, str):
        numbers = list(region)
        if len(numbers) != 6 or not all(type(n) is int for n in numbers) or min(numbers[3:]) < 1:
            raise InvalidInput(f"region {numbers} must be x, y, z, width, height, depth in voxels of mag 1")
        return [("", to_box(BoundingBox(numbers[:3], numbers[3:])))]
    if region in ("task", "user", "boxes"):
        return _drawn(content, region)
    if region == "dataset":
        if content.opened.dataset is None:
            raise InvalidInput(f"{where}: region='dataset' needs the dataset: dataset=FOLDER")
        whole = [content.image.box] if content.image else [layer.boxes[content.mag] for layer in content.layers]
    else:
        whole = [*_around_voxels(content, tight=region == "tight"), *_around_nodes(content)]
    around = union(whole)
    if around is None:
        raise InvalidInput(
            f"{where}: nothing is annotated in voxels, so region={region!r} is no box{content.skipped_text}; take "
            "skeleton=True for the nodes, or dataset= and region='user' for images"
        )
    return [("", around)]


def _around_voxels(content: Content, *, tight: bool) -> Iterator[Box]:
    for layer in content.layers:
        box = layer.boxes[content.mag]
        if not tight:
            yield box
        elif tightened := nonzero_box(_Chunks(content.mag, layer.at(content.mag), content.mag.grown(box))):
            yield tightened


def _around_nodes(content: Content) -> Iterator[Box]:
    if content.nodes is not None:
        yield Box(tuple(content.nodes.min(axis=0).tolist()), tuple((content.nodes.max(axis=0) + 1).tolist()))


def _drawn(content: Content, region: str) -> list[tuple[str, Box]]:
    """The boxes that somebody has drawn."""
    annotation, where = content.opened.annotation, content.opened.where
    if annotation is None:
        raise InvalidInput(f"{where}: is a dataset, which has no drawn boxes; take region='dataset' or six numbers")
    task = annotation.task_bounding_box
    drawn = [("task", task)] if task is not None and region != "user" else []
    if region != "task":
        drawn += [(box.name, box) for box in annotation.user_bounding_boxes]
    for name, box in drawn:
        if box.is_empty:
            content.skip(f"box {name!r}", "holds no voxel")
    full = [(name, box) for name, box in drawn if not box.is_empty]
    if not full:
        kinds = {"task": "task bounding box", "user": "user bounding boxes", "boxes": "bounding boxes"}
        raise InvalidInput(f"{where}: has no {kinds[region]}; take region='annotation' or six numbers")
    names = distinct([name for name, _ in full])
    return [(name, to_box(box)) for name, (_, box) in zip(names, full, strict=True)]


def distinct(names: Iterable[str]) -> list[str]:
    """The same names, with a number behind those that were there before.

    >>> distinct(["a", "b", "a", "a_2"])
    ['a', 'b', 'a_2', 'a_2_2']
    """
    out: dict[str, None] = {}
    for name in names:
        again, count = name, 1
        while again in out:
            count += 1
            again = f"{name}_{count}"
        out[again] = None
    return list(out)


@dataclass(frozen=True, slots=True)
class _Chunks:
    """Voxels as `voxtract.webknossos.segments` goes through them."""

    mag: Mag
    voxels: Voxels
    box: Box

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.voxels.dtype

    def chunks(self) -> Iterator[Any]:
        return (piece for row in self.voxels.rows(self.box) for piece in row)
