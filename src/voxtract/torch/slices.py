"""A data set over the slice images of an extraction."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile  # noqa: F401 - for read_slice: forked workers then have it, each would import it otherwise
import torch
from torch.utils.data import Dataset

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput, NotFound, UnreadableFile, check_choice
from voxtract.geometry import View, check_view
from voxtract.layout import said_of
from voxtract.model import Components, Findings
from voxtract.read.extraction import Extraction, open_extraction
from voxtract.read.images import AGAIN
from voxtract.read.slices import missing_files, read_slice, slice_file
from voxtract.storage import Place, Remote
from voxtract.torch.masks import KeptMasks, check_kept
from voxtract.torch.tensors import Item, Origin, Rows, Target, Transform, image_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


class SliceDataset(Dataset[Item]):
    """The slice images that :func:`voxtract.extract` wrote, with the boxes of their components.

    Items come in the order of cases, views and slices; `voxtract.torch` says what they are. Boxes are read once, when
    the data set is made; an image when its item is asked for. It can be pickled, and holds no open file, so that
    workers may be forked or spawned.

    Parameters
    ----------
    folder : path or URL
        Output folder of the extraction.
    views : sequence of {"axial", "coronal", "sagittal"}, optional
        By default all that were extracted.
    split : str, optional
        Part of the data set, as ``"train"``; by default all cases.
    masks : bool
        Add ``masks`` to the targets. They come from the run-length masks of COCO, so the extraction must have been made
        with ``annotations="coco", masks=True``.
    empty : bool
        Also slices without annotations, among them all of cases that have no labels.
    transform : callable, optional
        ``image, target -> image, target``, as torchvision's v2 transforms; its result is the item. For spawned workers
        it must be picklable: a function of a module, not a lambda.

    Raises
    ------
    NotFound
        No such folder, nothing extracted to it, or an image that is no longer there.
    InvalidInput
        A view or split that the extraction does not have (the message lists those it has); no images, 3D components or
        no masks in it; no slice left.
    DamagedFile
        Its journal or findings do not read.
    UnreadableFile
        The operating system does not hand something out.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | Remote,
        *,
        views: Sequence[View] | None = None,
        split: str | None = None,
        masks: bool = False,
        empty: bool = True,
        transform: Transform | None = None,
    ):
        extraction = open_extraction(folder)
        found = [one for one in _chosen(extraction, views, split) if one.suffix]
        if not found:
            raise InvalidInput(f"{folder}: was extracted without images; extract with images='tiff' (--images tiff)")
        self.root: Place = extraction.root
        self.transform = transform
        self._class_map = extraction.class_map
        self._planes: list[Findings] = [replace(one, rows=Components.none()) for one in found]
        self._rows = Rows.join([_rows(one, self._class_map) for one in found])
        self._offsets = np.cumsum([0, *(len(one.rows) for one in found)])
        self._masks = _masks(extraction, found) if masks else None
        self._plane, self._slice, self._first, self._last = _index(found, empty=empty)
        if not len(self):
            raise InvalidInput(f"{folder}: no slice has annotations; empty=True takes those without, too")
        self._check_files()

    @property
    def classes(self) -> ClassMap:
        """Classes of the labels in targets: those of the run, or one for each label value that was found."""
        return self._class_map or ClassMap.of_labels(self._rows.labels)

    def __len__(self) -> int:
        return len(self._slice)

    def __getitem__(self, index: int) -> Any:
        number = self._number(index)
        image = image_tensor(read_slice(self.root, self._planes[self._plane[number]], int(self._slice[number]))[None])
        target = self.target(number)
        return (image, target) if self.transform is None else self.transform(image, target)

    def target(self, index: int) -> Target:
        """Target of an item, without a look at its image."""
        number = self._number(index)
        plane, first, last = (int(of[number]) for of in (self._plane, self._first, self._last))
        offset = int(self._offsets[plane])
        target = self._rows.target(offset + first, offset + last, number)
        if self._masks is not None:
            target["masks"] = torch.from_numpy(self._masks[plane].read(first, last))
        return target

    def origin(self, index: int) -> Origin:
        """Case, view and slice of an item (its ``image_id``)."""
        number = self._number(index)
        plane = self._planes[self._plane[number]]
        return Origin(plane.case_id, plane.plane.view, int(self._slice[number]))

    def file(self, index: int) -> Place:
        """File of an item's image: the image itself, the chunk of an array, or the shard it is in."""
        number = self._number(index)
        return slice_file(self.root, self._planes[self._plane[number]], int(self._slice[number]))

    def _number(self, index: int) -> int:
        return range(len(self))[index]

    def _check_files(self) -> None:
        """Name an image that is missing now, not in the middle of a training; each folder is listed once."""
        listing = cache(lambda folder: _listing(self.root / folder))
        missing: list[Place] = []
        for number, plane in enumerate(self._planes):
            first, last = np.searchsorted(self._plane, [number, number + 1])
            missing += missing_files(self.root, plane, self._slice[first:last].tolist(), listing)
        if missing:
            raise NotFound(f"{missing[0]}: no such image, one of {len(missing)} missing of {len(self)}; {AGAIN}")


def _chosen(extraction: Extraction, views: Sequence[View] | None, split: str | None) -> list[Findings]:
    """Findings of the views and the part of the data set that were asked for."""
    if not extraction.cases:
        raise NotFound(
            f"{extraction.root}: holds no complete case; run the extraction again (--resume goes on with it)"
        )
    everything = [one for case in extraction.cases for one in case.findings()]
    extracted = tuple(dict.fromkeys(one.plane.view for one in everything))
    if isinstance(views, str):
        raise InvalidInput(f"views {views!r} is one word; give a sequence: ({views!r},)")
    for view in views or ():
        check_choice("view", check_view(view), extracted)
    if split is not None:
        splits = tuple(sorted({case.split for case in extraction.cases if case.split is not None}))
        if not splits:
            raise InvalidInput(f"{extraction.root}: was extracted without split= (--split), so it has no {split!r}")
        check_choice("split", split, splits)
    cases = [case for case in extraction.cases if split is None or case.split == split]
    found = [one for case in cases for one in case.findings() if views is None or one.plane.view in views]
    if any(one.extent == "volume" for one in found):
        raise InvalidInput(
            f"{extraction.root}: holds components of volumes, whose boxes are not those of its slices; extract with "
            "extraction_mode='slice', or with components='slice' too"
        )
    return found


def _rows(found: Findings, classes: ClassMap | None) -> Rows:
    with said_of(f"{found.case_id}, {found.plane.view}"):
        return Rows.of(found.rows, found.plane, classes)


def _index(found: Sequence[Findings], *, empty: bool) -> tuple[NDArray[Any], ...]:
    """For each item: number of its findings, slice, and there the first row and the one past the last."""
    parts = []
    for number, one in enumerate(found):
        at = one.rows.start[:, one.plane.axes[2]]
        first, last = np.searchsorted(at, one.slices, "left"), np.searchsorted(at, one.slices, "right")
        part = np.stack([np.full(len(first), number), one.slices, first, last])
        parts.append(part if empty else part[:, last > first])
    plane, slices, first, last = np.concatenate(parts, axis=1)
    return plane, slices, first, last


def _masks(extraction: Extraction, found: Iterable[Findings]) -> list[KeptMasks]:
    check_kept(extraction.settings, extraction.root)
    return [KeptMasks.of(extraction, one) for one in found]


def _listing(folder: Place) -> set[str]:
    try:
        if isinstance(folder, Remote):
            return {entry.name for entry in folder.entries()}
        return set(os.listdir(folder))  # noqa: PTH208 - names are all that is wanted of a folder of a million files
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as why:
        todo = "" if isinstance(folder, Remote) else "; check its permissions"
        raise UnreadableFile(f"{folder}: cannot be listed: {why.strerror}{todo}") from why
