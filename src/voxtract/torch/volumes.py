"""A data set that cuts slices straight out of the volumes, without files in between."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypedDict, TypeVar, Unpack

import numpy as np
from torch.utils.data import Dataset

from voxtract.backend import select
from voxtract.classes import ClassMap
from voxtract.compute.labels import stored_labels
from voxtract.compute.normalize import Normalization, PixelRule, pixel_rule
from voxtract.errors import InvalidInput
from voxtract.geometry import Plane, View
from voxtract.labelling import CaseMasks, described, seen_in, together
from voxtract.layout import Layout, said_of
from voxtract.model import Case, Components, Source, Volume
from voxtract.read import open_source
from voxtract.settings import CropWord, Settings
from voxtract.storage import Remote
from voxtract.torch.tensors import Item, Origin, Rows, Target, Transform, image_tensor, masks_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("voxtract")

CACHE_BYTES = 1 << 30


class VolumeOptions(TypedDict, total=False):
    """Keywords of `VolumeDataset` that shape its items; `voxtract.Settings` describes them."""

    target_size: tuple[int, int] | None
    pad_value: float
    dtype: str
    normalization: Normalization
    reorient: str | None
    objects: Literal["components", "labels"]
    connectivity: int | None
    min_size: int
    classes: Sequence[int] | None
    threshold: float | None
    allow_affine_mismatch: bool
    slices: str
    spacing: float | tuple[float, float, float] | None
    resize: tuple[int, int, int] | None
    interpolation: Literal["linear", "cubic", "nearest"]
    crop: CropWord | None
    class_map: ClassMap | Mapping[Any, Any] | None


class VolumeDataset(Dataset[Item]):
    """The slices of volumes and the boxes of their components, cut when they are asked for.

    Items are what :func:`voxtract.extract` with the same words and :class:`SliceDataset` over its output would give,
    in the same order: cases, views, slices. Headers are read when the data set is made; a volume and its labels are
    decoded when the first of its slices is asked for, all views from one decode, and kept until `cache_bytes` are
    needed for others.

    Each worker of a `DataLoader` has a cache of its own, which is not copied to it by pickle, and holds no open file,
    so that workers may be forked or spawned. Slices in random order decode a volume for nearly each of them: take
    :class:`VolumeSampler`, which keeps the slices of a volume together, and ``persistent_workers=True``.

    Parameters
    ----------
    source : Source, path or URL
        What :func:`voxtract.open_source` returns, or what it opens. Cases without labels have slices without boxes.
    views : sequence of {"axial", "coronal", "sagittal"}
    masks : bool
        Add ``masks`` to the targets; label volumes are then kept in the cache, too.
    transform : callable, optional
        As of :class:`SliceDataset`.
    cache_bytes : int
        Bytes of decoded volumes that each worker keeps; the one in use is always kept. The one being decoded, and its
        labels, come on top.
    backend : {"auto", "cpu", "cuda"}
        Where components are found and slices are cut; the results are the same. With "cuda" volumes are kept in the
        device's memory, and images are CUDA tensors that share the memory of what was cut (DLPack); targets are on the
        host. Use it without workers, or with spawned ones: a forked process has no CUDA.
    device : int
        Which CUDA device.
    **options
        The words of `VolumeOptions`; :class:`voxtract.Settings` describes them.

    Raises
    ------
    BackendUnavailable
        The device asked for cannot be had.
    NotFound, InvalidInput, DamagedFile, UnreadableFile
        As :func:`voxtract.open_source`; a header that cannot be read; image and labels that do not lie on each other;
        a slice larger than the target size; a word that is not allowed; a choice of slices that only voxels can tell;
        a case without an image. Where voxels are damaged, the item says so when it is asked for.
    """

    def __init__(
        self,
        source: Source | str | os.PathLike[str] | Remote,
        *,
        views: Sequence[View] = ("axial",),
        masks: bool = False,
        transform: Transform | None = None,
        cache_bytes: int = CACHE_BYTES,
        backend: Literal["auto", "cpu", "cuda"] = "auto",
        device: int = 0,
        **options: Unpack[VolumeOptions],
    ):
        unknown = sorted(options.keys() - VolumeOptions.__annotations__.keys())
        if unknown:
            allowed = ", ".join(VolumeOptions.__annotations__)
            raise InvalidInput(f"{', '.join(unknown)}: not known to VolumeDataset; allowed: {allowed}")
        if cache_bytes < 0:
            raise InvalidInput(f"cache_bytes {cache_bytes} must be 0 (keep only the volume in use) or more")
        opened = source if isinstance(source, Source) else open_source(source)
        for left_out in opened.skipped:
            log.warning("left out: %s: %s", left_out.where, left_out.reason)
        self.views = tuple(views)
        self.settings = Settings(views=views, annotations=None, **options).for_source(opened)
        self.cache_bytes = cache_bytes
        self.transform = transform
        self._backend = (select(backend, device).name, device)  # by name: what it stands for stays in its process
        self._class_map = self.settings.known_classes
        _check_known_from_headers(self.settings)
        self._stacks = [_Stack.of(case, self.settings, self._backend, masks=masks) for case in opened.cases]
        counts = [len(slices) for stack in self._stacks for slices in stack.slices]
        self._starts = np.cumsum([0, *counts])  # of the views of each case, one after the other
        self._cache: _Cache[_Decoded] = _Cache(cache_bytes)
        if not len(self):
            raise InvalidInput(f"{opened.description}: slices={self.settings.slices!r} takes no slice of any case")

    @property
    def classes(self) -> ClassMap | None:
        """Classes of the labels in targets, where a class map was given; else a label value is its own class."""
        return self._class_map

    @property
    def volume_starts(self) -> NDArray[np.int64]:
        """(cases,) first item of each case; the items of a case follow one another."""
        return self._starts[: -1 : len(self.views)]

    @property
    def volume_bytes(self) -> list[int]:
        """Bytes that each case takes in the cache, as far as headers tell."""
        return [stack.nbytes for stack in self._stacks]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Any:
        number, stack, view, at = self._place(index)
        decoded = self._cache.get(stack, self._stacks[stack].decode)
        plane = self._stacks[stack].layout.planes[view]
        pixels = select(*self._backend).cut_on_device(decoded.image, plane, at, at + 1, decoded.rule)
        image = image_tensor(pixels)
        target = decoded.found[plane.view].target(at, number)
        return (image, target) if self.transform is None else self.transform(image, target)

    def origin(self, index: int) -> Origin:
        """Case, view and slice of an item (its ``image_id``)."""
        _, stack, view, at = self._place(index)
        return Origin(self._stacks[stack].case.id, self.views[view], at)

    def _place(self, index: int) -> tuple[int, int, int, int]:
        """Item counted from 0, number of the case, number of the view, slice."""
        number = range(len(self))[index]
        part = int(np.searchsorted(self._starts, number, "right")) - 1
        stack, view = divmod(part, len(self.views))
        return number, stack, view, int(self._stacks[stack].slices[view][number - self._starts[part]])


@dataclass(frozen=True, eq=False, slots=True)
class _Found:
    """What was found in one view of a case.

    Parameters
    ----------
    rows : Rows
        Sorted by slice.
    at : (rows,) int64
        Their slices.
    size : (height, width)
    with_masks : bool
        Whether targets have masks.
    masks : CaseMasks, optional
        Of the rows; None where no mask is asked for or the case has no labels.
    """

    rows: Rows
    at: NDArray[np.int64]
    size: tuple[int, int]
    with_masks: bool
    masks: CaseMasks | None

    def target(self, index: int, image_id: int) -> Target:
        """Target of the slice `index`."""
        first, last = np.searchsorted(self.at, (index, index + 1)).tolist()
        target = self.rows.target(first, last, image_id)
        if self.with_masks:
            cut_masks = () if self.masks is None else map(self.masks, range(first, last))
            target["masks"] = masks_tensor(self.rows.boxes[first:last], cut_masks, self.size)
        return target

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        parts: list[NDArray[Any]] = [self.rows.boxes, self.rows.labels, self.rows.areas, self.at]
        if self.masks is not None:
            found = self.masks.rows
            parts += [found.start, found.stop, found.label, found.count]
        return sum(part.nbytes for part in parts)


@dataclass(frozen=True, eq=False, slots=True)
class _Decoded:
    """A volume ready to be cut, what was found in its labels, and the bytes that all of it takes."""

    image: Any  # of the device
    rule: PixelRule
    found: dict[View, _Found]
    nbytes: int


@dataclass(frozen=True, eq=False, slots=True)
class _Stack:
    """The slices of one case; `slices` has the indices of those taken, for each view."""

    case: Case
    settings: Settings
    backend: tuple[str, int]
    with_masks: bool
    layout: Layout
    slices: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, case: Case, settings: Settings, backend: tuple[str, int], *, masks: bool) -> _Stack:
        """Read the headers of a case; see `VolumeDataset` for what may be wrong with them."""
        if case.image is None:
            raise InvalidInput(f"{case.id}: has labels but no image to cut slices from; open the images too (image=)")
        layout = Layout.of(case, settings)
        none = np.empty(0, np.int64)
        slices = tuple(settings.choice.take(plane.count, none) for plane in layout.planes)
        return cls(case, settings, backend, masks, layout, slices)

    @property
    def nbytes(self) -> int:
        """Bytes of the volumes that are kept, as far as headers tell."""
        headers = (self.layout.image, *(self.layout.labels if self.with_masks else ()))
        return math.prod(self.layout.frame.grid.shape) * sum(h.dtype.itemsize for h in headers if h is not None)

    def decode(self) -> _Decoded:
        """Read the volumes, turn, resample and crop them as asked for, and find what is in the labels."""
        image, header = self.case.image, self.layout.image
        if image is None or header is None:
            raise TypeError("a case without an image has no slices")
        labels = [self._labels(number) for number in range(len(self.case.labels))]
        found = {plane.view: self._found(plane, labels) for plane in self.layout.planes}
        with said_of(image.where):
            voxels = self._own(self.layout.frame.image(image.read().data, self.settings.interpolation))
            device = select(*self.backend)
            data = device.to_device(voxels)
            rule = pixel_rule(
                replace(header, dtype=voxels.dtype),
                dtype=self.settings.dtype,
                normalization=self.settings.normalization,
                pad_value=self.settings.pad_value,
                statistics=device.statistics(data),
            )
        kept = sum(one.nbytes for one in labels) if self.with_masks else 0
        return _Decoded(data, rule, found, voxels.nbytes + kept + sum(one.nbytes for one in found.values()))

    def _labels(self, number: int) -> NDArray[Any]:
        file, header = self.case.labels[number].file, self.layout.labels[number]
        with said_of(file.where):
            stored = stored_labels(Volume(header, file.read().data), self.settings.threshold)
            return self._own(self.layout.frame.labels(stored))

    def _own(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Let what was cropped off go."""
        return voxels if self.layout.frame.crop is None else voxels.copy(order="K")

    def _found(self, plane: Plane, labels: Sequence[NDArray[Any]]) -> _Found:
        settings, rows, masks, case = self.settings, Components.none(), None, self.case
        device = select(*self.backend)
        with said_of(case.labels[0].file.where if case.labels else case.id):
            parts = [
                described(
                    device.find_components(
                        device.to_device(one),
                        plane.view,
                        extent="slice",
                        connectivity=settings.connectivity,
                        objects=settings.objects,
                        mass=False,
                    ),
                    case.labels,
                    number,
                    plane,
                    self.layout.frame,
                )
                for number, one in enumerate(labels)
                if seen_in(case.labels[number], plane, self.layout.frame)
            ]
            if parts:
                rows = settings.keep(together(parts, plane))
            if labels and self.with_masks:
                masks = CaseMasks(labels, plane, rows, settings.connectivity)
            known = Rows.of(rows, plane, settings.known_classes)
        return _Found(known, rows.start[:, plane.axes[2]].copy(), plane.size, self.with_masks, masks)


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Value = TypeVar("Value", bound=_Sized)


class _Cache(Generic[Value]):
    """Values by number, of which those used last are kept, together at most `limit` bytes, but always one.

    A copy made by pickle is empty.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._values: dict[int, Value] = {}  # the one used last comes last

    def get(self, number: int, make: Callable[[], Value]) -> Value:
        """The value of `number`, made where it is not kept."""
        value = self._values.pop(number, None)
        if value is None:
            value = make()
        self._values[number] = value
        while self.nbytes > self._limit and len(self._values) > 1:
            del self._values[next(iter(self._values))]
        return value

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(value.nbytes for value in self._values.values())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._limit,)


def _check_known_from_headers(settings: Settings) -> None:
    """Refuse what would need voxels to say how many slices there are, or how large."""
    for word, chosen, given in (
        ("slices", settings.choice.annotated, settings.slices),
        ("crop", settings.crop == "foreground", settings.crop),
    ):
        if chosen:
            raise InvalidInput(
                f"{word}={given!r} is known only when all volumes have been decoded; extract once with it and take "
                "SliceDataset, or another value"
            )
