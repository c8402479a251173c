"""Arrays as tensors, components as targets, items as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from voxtract.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.classes import ClassMap
    from voxtract.geometry import Plane, View
    from voxtract.model import Components

Target = dict[str, Any]
Item = tuple[torch.Tensor, Target]
Transform = Callable[[torch.Tensor, Target], Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an item comes from.

    Parameters
    ----------
    case_id : str
    view : {"axial", "coronal", "sagittal"}
    index : int
        Of the slice, 0-based.
    """

    case_id: str
    view: View
    index: int


def to_tensor(array: Any) -> torch.Tensor:
    """Let a tensor share the memory of an array.

    Parameters
    ----------
    array : numpy.ndarray, or any object with ``__dlpack__``
        On any device: an array of CuPy becomes a CUDA tensor through DLPack, and work on torch's current stream waits
        for what CuPy has under way.

    Returns
    -------
    tensor of the same shape, dtype and device

    Raises
    ------
    InvalidInput
        No such array, or a dtype that torch does not have.

    Notes
    -----
    Only what torch cannot hold is copied: NumPy arrays that are read-only, run backwards along an axis, or are not in
    this machine's byte order.
    """
    try:
        if isinstance(array, np.ndarray):
            return torch.from_numpy(_holdable(array))
        if hasattr(array, "__dlpack__"):
            tensor: torch.Tensor = torch.from_dlpack(array)
            return tensor
    except (TypeError, BufferError, RuntimeError) as why:
        dtype = getattr(array, "dtype", "unknown dtype")
        raise InvalidInput(f"array of {dtype}: torch cannot hold it ({why}); convert it first") from why
    raise InvalidInput(f"{type(array).__name__} is no array; give one of NumPy, or an object with __dlpack__ (CuPy)")


def _holdable(array: NDArray[Any]) -> NDArray[Any]:
    plain = array.flags.writeable and array.dtype.isnative and min(array.strides, default=0) >= 0
    return array if plain else array.astype(array.dtype.newbyteorder("="), order="C")


def collate(batch: Iterable[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """Make a batch of items whose images or numbers of boxes differ: a list of images and a list of targets.

    Give it to a `DataLoader` as ``collate_fn``; torchvision's detection models take the two lists as they are.
    """
    images, targets = zip(*batch, strict=True)
    return list(images), list(targets)


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Components in the words of a target.

    Parameters
    ----------
    boxes : (n, 4) float32
        x1, y1, x2, y2 in pixels, half-open.
    labels : (n,) int64
    areas : (n,) float32
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float32]

    @classmethod
    def of(cls, found: Components, plane: Plane, classes: ClassMap | None) -> Rows:
        """Turn components of single slices into rows.

        Raises
        ------
        InvalidInput
            A label that has no class, or without classes one that int64 does not hold.
        """
        ends = [plane.pixel(found.start)[:, :2], plane.pixel(found.stop)[:, :2]]
        return cls(
            np.concatenate(ends, axis=1).astype(np.float32),
            _ids(found.class_id, classes),
            found.count.astype(np.float32),
        )

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """All rows of one or more `parts`, one after the other."""
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.areas for part in parts]),
        )

    def target(self, first: int, last: int, image_id: int) -> Target:
        """Target of the slice that has the rows ``first <= i < last``; its tensors are its own."""
        labels = torch.from_numpy(self.labels[first:last].copy())
        return {
            "boxes": torch.from_numpy(self.boxes[first:last].copy()),
            "labels": labels,
            "image_id": image_id,
            "area": torch.from_numpy(self.areas[first:last].copy()),
            "iscrowd": torch.zeros_like(labels),
        }


def _ids(labels: NDArray[Any], classes: ClassMap | None) -> NDArray[np.int64]:
    if classes is not None:
        return classes.ids(labels)
    if labels.dtype == np.uint64 and len(labels) and labels.max() > np.iinfo(np.int64).max:
        raise InvalidInput(
            f"label {labels.max()} is no class id that torch can hold (int64); "
            'make all objects one class: class_map={"*": "object"}'
        )
    return labels.astype(np.int64)


def image_tensor(image: NDArray[Any]) -> torch.Tensor:
    """(1, height, width) pixels of any dtype as float32 on their device: exact for integers up to 2^24."""
    return to_tensor(image).to(torch.float32)


def masks_tensor(boxes: NDArray[np.float32], cut_masks: Iterable[NDArray[Any]], size: tuple[int, int]) -> torch.Tensor:
    """Masks that are cut to their boxes as (n, height, width) uint8, 1 inside."""
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x1, y1, x2, y2), cut_mask in zip(masks, boxes.astype(int).tolist(), cut_masks, strict=True):
        mask[y1:y2, x1:x2] = cut_mask
    return torch.from_numpy(masks)
