"""How the volumes of one case lie and what is done to them before slices are cut, known from their headers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.compute.labels import foreground_box
from voxtract.compute.resample import resample
from voxtract.errors import InvalidInput
from voxtract.geometry import Crop, Grid, Plane, Reorientation, Resampling, Shape3, View
from voxtract.model import Case, ChunkedFile, Header
from voxtract.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCRATCH = 64 << 20  # bytes a case needs beside its voxels: blocks of slices, runs, text
STREAMS = (  # what goes with less memory than the volume takes
    "or take what streams: axial slices and their components, without reorient, spacing, resize, crop, normalization "
    "over the volume, threshold and masks; from an uncompressed .nii on disk images of all views. 3D components, and "
    "annotations of coronal and sagittal slices, need the whole volume"
)
SLAB = 4 << 20  # bytes of voxels at a time where the volume is not held; of 1 to 16 MiB all alike, 84 MB at once slower


@dataclass(frozen=True, slots=True)
class Frame:
    """The way of the voxels from the file to the planes: axes turned, resampled, cropped.

    Parameters
    ----------
    grid : Grid
        Of the voxels at the end.
    turned : (x, y, z)
        Voxels after the first step, whether or not it turns anything.
    turn, resampling, crop : optional
        The steps, in this order.
    """

    grid: Grid
    turned: Shape3
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
        frame = cls(grid if resampling is None else resampling.grid(grid), grid.shape, turn, resampling)
        if settings.crop is None or isinstance(settings.crop, str):
            return frame
        return frame.cropped(settings.crop_of(frame.grid.shape))

    def cropped(self, crop: Crop) -> Frame:
        """The same with a crop at the end."""
        return replace(self, grid=crop.grid(self.grid), crop=crop)

    def cropped_to_foreground(self, labels: Sequence[NDArray[Any]], where: str) -> Frame:
        """The same, cropped to what is labelled in any of the volumes.

        Raises
        ------
        InvalidInput
            Nothing is.
        """
        boxes = [box for box in map(foreground_box, labels) if box is not None]
        if not boxes:
            raise InvalidInput(
                f"{where}: has no voxel above 0, so crop='foreground' leaves nothing; leave the case or the crop out"
            )
        starts, stops = np.array(boxes).transpose(1, 0, 2)
        return self.cropped(Crop.box(_shape(starts.min(axis=0)), _shape(stops.max(axis=0)), self.grid.shape))

    def source_index(self, axis: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slices of the volume as it is read that lie at, or nearest to, slices of the volume at the end of the frame.

        `axis` is that of the volume at the end.
        """
        old = index if self.crop is None else index + self.crop.start[axis]
        if self.resampling is not None:
            old = np.rint(self.resampling.coordinates(axis)[old]).astype(np.int64)
        if self.turn is None or not self.turn.flip[axis]:
            return old
        return self.turned[axis] - 1 - old

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
    image : Header, optional
    labels : (Header, ...)
        Of the label volumes.
    frame : Frame
    views : ("axial" | "coronal" | "sagittal", ...)
        Those that are cut.
    planes : (Plane, ...)
        One for each view.
    image_slabs, labels_slabs : bool
        The image can be worked on slab by slab along z, without holding the volume; the labels.
    labels_together : bool
        All label volumes are held at the same time.
    chunked : (bool, ...)
        Which label volumes are worked on chunk by chunk, without holding them.
    """

    image: Header | None
    labels: tuple[Header, ...]
    frame: Frame
    views: tuple[View, ...]
    planes: tuple[Plane, ...]
    image_slabs: bool
    labels_slabs: bool
    labels_together: bool
    chunked: tuple[bool, ...]

    @classmethod
    def of(cls, case: Case, settings: Settings) -> Layout:
        """Read the headers of a case, as far as `settings` ask for its volumes.

        Raises
        ------
        VoxtractError
            A header cannot be read, the two do not share a grid, a slice is larger than the target size, or what
            is asked for needs labels and there are none.
        """
        image = None if case.image is None else case.image.header()
        labels = tuple(volume.file.header() for volume in case.labels)
        for header in labels:
            if image is not None or header is not labels[0]:
                _check_pair(image or labels[0], header, affine=not settings.allow_affine_mismatch)
        place = image or labels[0]  # the image, where there is one, says where the case lies
        views = settings.views_of(case)
        with said_of(place.where):
            _check_labels_needed(labels, settings)
            frame = Frame.of(place.grid, settings)
            planes = () if settings.crop == "foreground" else planes_of(frame, views, settings)
        as_stored = (frame.turn, frame.resampling, settings.crop) == (None, None, None)
        along_z = as_stored and views == ("axial",)
        together = settings.masks or settings.crop == "foreground"
        in_chunks = as_stored and not together and settings.threshold is None
        return cls(
            image,
            labels,
            frame,
            views,
            planes,
            image_slabs=along_z and not isinstance(settings.normalization, str),
            labels_slabs=along_z
            and settings.extent == "slice"
            and settings.threshold is None
            and not settings.masks
            and all(map(_plain, labels)),
            labels_together=together,
            chunked=tuple(in_chunks and isinstance(volume.file, ChunkedFile) for volume in case.labels),
        )

    def with_frame(self, frame: Frame, settings: Settings) -> Layout:
        """The same with another frame."""
        return replace(self, frame=frame, planes=planes_of(frame, self.views, settings))

    def memory(self, limit: int) -> int:
        """Bytes that the case holds at most: one volume at a time, and room to work.

        Where that is above `limit`, an image that is mapped from a file counts no more than what is looked at: the
        system may then drop its pages, and reads them again.
        """
        labels = [
            SLAB if chunked else _slab(header) if self.labels_slabs else self._whole(header)
            for header, chunked in zip(self.labels, self.chunked, strict=True)
        ]
        most = sum(labels) if self.labels_together else max(labels, default=0)
        pixels = 0 if self.image is None else max((math.prod(plane.size) for plane in self.planes), default=0)
        work = max(SCRATCH, 12 * pixels)  # large images are cut one by one: float32, on their way in and out
        need = work + max(self._of_image, most)
        if need > limit and self.image is not None and self.image.is_mapped and self.frame.resampling is None:
            return work + max(SLAB, most)
        return need

    @property
    def _of_image(self) -> int:
        if self.image is None:
            return 0
        return _slab(self.image) if self.image_slabs else self.image.nbytes + self._resampled(self.image, as_is=False)

    def _whole(self, labels: Header) -> int:
        """Bytes of a label volume that is held."""
        whole = labels.nbytes + self._resampled(labels, as_is=True)
        if not _plain(labels):  # become integers of up to 8 bytes
            whole += labels.nbytes // labels.dtype.itemsize * 8
        return whole

    def _resampled(self, header: Header, *, as_is: bool) -> int:
        """Bytes that resampling takes: its result, and the copy that splines need, wherever they are asked for."""
        if self.frame.resampling is None:
            return 0
        itemsize = header.dtype.itemsize if as_is else 4
        copy = 0 if as_is else header.nbytes // header.dtype.itemsize * max(4, min(8, header.dtype.itemsize * 2))
        return math.prod(self.frame.resampling.shape) * itemsize + copy


def _slab(header: Header) -> int:
    """Bytes of a volume that is worked on slab by slab: planes that are decoded together, before and after."""
    plane = header.nbytes // header.grid.shape[2]
    return max(SLAB, plane if header.depth == 1 else 2 * plane * header.depth)


def planes_of(frame: Frame, views: Sequence[View], settings: Settings) -> tuple[Plane, ...]:
    """The planes that cut the volume at the end of `frame`."""
    return tuple(Plane(view, frame.grid.shape, settings.target_size) for view in views)


@contextmanager
def said_of(where: str) -> Iterator[None]:
    """Let what speaks of no file, because it knows none, name this one."""
    try:
        yield
    except InvalidInput as why:
        if str(why).startswith(where):
            raise
        raise InvalidInput(f"{where}: {why}") from why


def _plain(labels: Header) -> bool:
    """Whether labels are taken as they are stored."""
    return labels.dtype.kind in "iu" and not labels.is_scaled


def _shape(values: NDArray[np.int64]) -> Shape3:
    x, y, z = values.tolist()
    return x, y, z


def _check_labels_needed(labels: Sequence[Header], settings: Settings) -> None:
    if labels:
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
