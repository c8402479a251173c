"""How the volumes of one case lie and what is done to them before slices are cut, known from their headers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from voxtract.compute.labels import foreground_box
from voxtract.compute.resample import resample
from voxtract.errors import InvalidInput
from voxtract.geometry import Crop, Grid, Plane, Reorientation, Resampling
from voxtract.model import Header, VolumeFile
from voxtract.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCRATCH = 64 << 20  # bytes a case needs beside its voxels: blocks of slices, runs, text
SLAB = 4 << 20  # bytes of voxels at a time where the volume is not held; of 1 to 16 MiB all alike, 84 MB at once slower


@dataclass(frozen=True, slots=True)
class Frame:
    """The way of the voxels from the file to the planes: axes turned, resampled, cropped.

    Parameters
    ----------
    grid : Grid
        Of the voxels at the end.
    turn, resampling, crop : optional
        The steps, in this order.
    """

    grid: Grid
    turn: Reorientation | None = None
    resampling: Resampling | None = None
    crop: Crop | None = None

    @classmethod
    def of(cls, grid: Grid, settings: Settings) -> Frame:
        """Plan the steps that `settings` ask for, except for a crop to the foreground, which voxels decide."""
        turn = None if settings.reorient is None else Reorientation.between(grid, settings.reorient)
        grid = grid if turn is None else turn.grid(grid)
        resampling = None
        if settings.spacing_mm is not None:
            resampling = Resampling.to_spacing(grid, settings.spacing_mm)
        elif settings.resize is not None:
            resampling = Resampling.to_shape(grid, settings.resize)
        frame = cls(grid if resampling is None else resampling.grid(grid), turn, resampling)
        if settings.crop is None or isinstance(settings.crop, str):
            return frame
        return frame.cropped(settings.crop_of(frame.grid.shape))

    def cropped(self, crop: Crop) -> Frame:
        """The same with a crop at the end."""
        return replace(self, grid=crop.grid(self.grid), crop=crop)

    def cropped_to_foreground(self, labels: NDArray[Any], where: str) -> Frame:
        """The same, cropped to what is labelled.

        Raises
        ------
        InvalidInput
            Nothing is.
        """
        box = foreground_box(labels)
        if box is None:
            raise InvalidInput(
                f"{where}: has no voxel above 0, so crop='foreground' leaves nothing; leave the case or the crop out"
            )
        return self.cropped(Crop.box(*box, self.grid.shape))

    def image(self, voxels: NDArray[Any], order: str) -> NDArray[Any]:
        """Take an image volume through the steps; `order` is that of `resample`."""
        voxels = voxels if self.turn is None else self.turn.array(voxels)
        if self.resampling is not None:
            voxels = resample(voxels, self.resampling, order)
        return voxels if self.crop is None else self.crop.array(voxels)

    def labels(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Take a label volume through the steps: every voxel keeps a value of the nearest old one."""
        return self.image(voxels, "nearest")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the volumes of one case lie.

    Parameters
    ----------
    image, labels : Header, optional
    frame : Frame
    planes : (Plane, ...)
        One for each view.
    image_slabs, labels_slabs : bool
        The image can be worked on slab by slab along z, without holding the volume; the labels.
    """

    image: Header | None
    labels: Header | None
    frame: Frame
    planes: tuple[Plane, ...]
    image_slabs: bool
    labels_slabs: bool

    @classmethod
    def of(cls, image: VolumeFile | None, labels: VolumeFile | None, settings: Settings) -> Layout:
        """Read the headers of a case that has an image, labels, or both.

        Raises
        ------
        VoxtractError
            A header cannot be read, the two do not share a grid, a slice is larger than the target size, or what
            is asked for needs labels and there are none.
        """
        image_header = None if image is None else image.header()
        labels_header = None if labels is None else labels.header()
        if image_header is not None and labels_header is not None:
            _check_pair(image_header, labels_header, affine=not settings.allow_affine_mismatch)
        place = image_header or labels_header  # the image, where there is one, says where the case lies
        if place is None:
            raise TypeError("a case without image and labels has no layout")
        with said_of(place.where):
            _check_labels_needed(labels_header, settings)
            frame = Frame.of(place.grid, settings)
            planes = () if settings.crop == "foreground" else planes_of(frame, settings)
        along_z = (frame.turn, frame.resampling, settings.crop) == (None, None, None) and settings.views == ("axial",)
        return cls(
            image_header,
            labels_header,
            frame,
            planes,
            image_slabs=along_z and not isinstance(settings.normalization, str),
            labels_slabs=along_z
            and settings.extent == "slice"
            and settings.threshold is None
            and not settings.masks
            and _plain(labels_header),
        )

    def with_frame(self, frame: Frame, settings: Settings) -> Layout:
        """The same with another frame."""
        return replace(self, frame=frame, planes=planes_of(frame, settings))

    @property
    def memory(self) -> int:
        """Bytes that the case holds at most: one volume at a time, and room to work."""
        need = 0
        if self.image is not None:
            need = SLAB if self.image_slabs else self.image.nbytes + self._resampled(self.image, as_is=False)
        if self.labels is not None:
            whole = self.labels.nbytes + self._resampled(self.labels, as_is=True)
            if not _plain(self.labels):  # become integers of up to 8 bytes
                whole += self.labels.nbytes // self.labels.dtype.itemsize * 8
            need = max(need, SLAB if self.labels_slabs else whole)
        return SCRATCH + need

    def _resampled(self, header: Header, *, as_is: bool) -> int:
        """Bytes that resampling takes: its result, and the copy that splines need, wherever they are asked for."""
        if self.frame.resampling is None:
            return 0
        itemsize = header.dtype.itemsize if as_is else 4
        copy = 0 if as_is else header.nbytes // header.dtype.itemsize * max(4, min(8, header.dtype.itemsize * 2))
        return math.prod(self.frame.resampling.shape) * itemsize + copy


def planes_of(frame: Frame, settings: Settings) -> tuple[Plane, ...]:
    """The planes that cut the volume at the end of `frame`."""
    return tuple(Plane(view, frame.grid.shape, settings.target_size) for view in settings.views)


@contextmanager
def said_of(where: str) -> Iterator[None]:
    """Let what speaks of no file, because it knows none, name this one."""
    try:
        yield
    except InvalidInput as why:
        if str(why).startswith(where):
            raise
        raise InvalidInput(f"{where}: {why}") from why


def _plain(labels: Header | None) -> bool:
    """Whether labels are taken as they are stored."""
    return labels is not None and labels.dtype.kind in "iu" and not labels.is_scaled


def _check_labels_needed(labels: Header | None, settings: Settings) -> None:
    if labels is not None:
        return
    if settings.choice.annotated:
        raise InvalidInput("has no labels, but slices='annotated' takes slices with annotations; pass slices='all'")
    if settings.crop == "foreground":
        raise InvalidInput("has no labels, but crop='foreground' is what they cover; pass a box or a size")


def _check_pair(image: Header, labels: Header, *, affine: bool) -> None:
    mismatch = image.grid.mismatch(labels.grid)
    if mismatch is None or (not affine and not mismatch.startswith("shape")):
        return
    advice = "export both from the same series"
    if mismatch.startswith("affine"):
        advice += ", or pass allow_affine_mismatch=True (--allow-affine-mismatch) where the voxels do correspond"
    raise InvalidInput(f"{labels.where}: does not lie on its image {image.where}: {mismatch}; {advice}")
