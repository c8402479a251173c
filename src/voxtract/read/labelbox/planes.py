"""From a group, a frame and pixels of an export to voxels of a volume, as the options say; nothing is guessed.

Labelbox does not document how its frames and pixels lie in a volume. So each question has an option, its default is
told in remarks, and every mask is compared with the plane it should fill.

A picture of a group is (height, width): its columns run along one axis of the volume and its rows along another. Points
x, y count pixels of the picture from its top left corner, x to the right, y down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from voxtract.errors import InvalidInput, check_choice
from voxtract.geometry import VIEWS, Grid, Plane, View

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Axis of the array that a group cuts where planes="array"; and the anatomical directions of a group's normal.
_ARRAY_AXIS = {"axial": 2, "coronal": 1, "sagittal": 0}
_NORMAL = {"axial": "SI", "coronal": "PA", "sagittal": "LR"}
_COLUMNS = {"axial": "LR", "coronal": "LR", "sagittal": "PA"}  # what the columns of a group run along
_VIEW_OF_AXIS: tuple[View, View, View] = ("sagittal", "coronal", "axial")

Words = tuple[str, ...]


@runtime_checkable
class Ordered(Protocol):
    """A volume file that knows other orders of its slices than that of their positions."""

    def frame_order(self, by: Literal["instance", "stored"]) -> Sequence[int]:
        """Slice index (z) of each frame, counted by instance number or as the frames are stored."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the frames and pixels of an export lie in a volume, and how lines become voxels.

    Parameters
    ----------
    frame_base : {1, 0, "auto"}
        Number of the first frame. "auto" looks for proof in all labels that are opened: a frame 0, or a frame as high
        as its axis is long; without any it is 1, and said to be unproven; with both it is an error.
    pixel_origin : {"corner", "centre"}
        Whether pixel c covers [c, c + 1), or [c - 0.5, c + 0.5).
    planes : {"patient", "array"}
        Which axis a group cuts: the one nearest to the anatomical normal, or Axial slices, Coronal rows, Sagittal
        columns of the pixel array. The same for axial acquisitions.
    slice_order : {"position+", "position-", "instance", "stored"}
        How frames are counted: towards the patient's left, back and head (where DICOM's coordinates grow), against it,
        by instance number, or as they are stored. The last two are of the acquired slices, and need a file that knows
        them (of NIfTI, "stored" is the order of the voxels, which a remark says); across those, rows and columns are
        counted as stored.
    reverse, flip_rows, flip_cols : names of groups
        Counted backwards; upside down; mirrored. Without them rows and columns run as the voxels are stored.
    inplane : {"native", "isotropic"}
        Whether a picture has one pixel for each voxel, or was scaled to square pixels as small as its smaller spacing.
    groups : mapping of name to {"axial", "coronal", "sagittal"}
        What other groups cut.
    fill : {"none", "hold", "linear"}
        Lines on frames within a feature's segments that the export does not hold: none, the last one before, or
        points between those before and after. Masks are never invented.
    closed : {"auto", "always", "never"}
        Whether a line is closed: where it ends as it began, always, or never.
    paint : {"line", "area"}
        Voxels of a line: the pixels it touches, and of a closed one also those whose centre it encloses.

    Raises
    ------
    InvalidInput
        Any other word; the message lists the allowed ones.
    """

    frame_base: Literal[0, 1, "auto"] = 1
    pixel_origin: Literal["corner", "centre"] = "corner"
    planes: Literal["patient", "array"] = "patient"
    slice_order: Literal["position+", "position-", "instance", "stored"] = "position+"
    reverse: Words = ()
    flip_rows: Words = ()
    flip_cols: Words = ()
    inplane: Literal["native", "isotropic"] = "native"
    groups: Mapping[str, View] = field(default_factory=dict, hash=False)
    fill: Literal["none", "hold", "linear"] = "none"
    closed: Literal["auto", "always", "never"] = "auto"
    paint: Literal["line", "area"] = "line"

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[object, ...]] = {
            "frame_base": (1, 0, "auto"),
            "pixel_origin": ("corner", "centre"),
            "planes": ("patient", "array"),
            "slice_order": ("position+", "position-", "instance", "stored"),
            "inplane": ("native", "isotropic"),
            "fill": ("none", "hold", "linear"),
            "closed": ("auto", "always", "never"),
            "paint": ("line", "area"),
        }
        for word, choices in allowed.items():
            check_choice(word, getattr(self, word), choices)
        known = {*VIEWS, *(name.lower() for name in self.groups)}
        for word in ("reverse", "flip_rows", "flip_cols"):
            value = getattr(self, word)
            if isinstance(value, str):
                raise InvalidInput(f"{word} {value!r} must be several names; write ({value!r},)")
            for name in value:
                check_choice(word, name.lower(), tuple(sorted(known)))
            object.__setattr__(self, word, tuple(sorted({name.lower() for name in value})))
        for view in self.groups.values():
            check_choice("groups", view, VIEWS)
        object.__setattr__(self, "groups", {name.lower(): view for name, view in sorted(self.groups.items())})

    def to_dict(self) -> dict[str, Any]:
        """JSON values of every option, to be put beside results."""
        return asdict(self)

    def view_of(self, group: str) -> View | None:
        """What a group cuts; None of an unknown one."""
        return next((view for view in VIEWS if view == group), None) or self.groups.get(group)


def base_of(options: Options, zeros: Iterable[str], lasts: Iterable[str]) -> tuple[int, str]:
    """Number of the first frame, and a remark where it was asked for proof and there is none.

    Parameters
    ----------
    zeros, lasts : texts
        Where a frame 0 was found; where a frame as high as its axis is long.

    Raises
    ------
    InvalidInput
        Both were found and the base is "auto".
    """
    if options.frame_base != "auto":
        return options.frame_base, ""
    zero, last = next(iter(zeros), None), next(iter(lasts), None)
    if zero is not None and last is not None:
        raise InvalidInput(
            f"frame_base 'auto': {zero} has a frame 0, so the first is 0, but {last} has a frame as high as its axis "
            "is "
            "long, so it is 1; check the volumes and planes, or say frame_base=0 or 1"
        )
    if zero is None and last is None:
        return (
            1,
            "the first frame is taken as 1: no label holds a frame that proves it; compare a slice with its drawing",
        )
    return (0, "") if zero is not None else (1, "")


@dataclass(frozen=True, eq=False, slots=True)
class GroupPlane:
    """One group over one volume: frames to slices, points and pictures to voxels and back.

    Parameters
    ----------
    group : str
    grid : Grid
    normal, columns, rows : int
        Axes of the volume (0 to 2 for x, y, z) that frames count, that x and that y run along.
    base : int
        Number of the first frame.
    order : (slice index, ...)
        Of each frame, as counted.
    flip_rows, flip_cols : bool
    pixel_origin, inplane
        As of `Options`.
    """

    group: str
    grid: Grid
    normal: int
    columns: int
    rows: int
    base: int
    order: tuple[int, ...]
    flip_rows: bool
    flip_cols: bool
    pixel_origin: Literal["corner", "centre"]
    inplane: Literal["native", "isotropic"]

    @classmethod
    def of(cls, group: str, grid: Grid, options: Options, base: int, file: object = None) -> GroupPlane:
        """Make the plane of a group.

        Parameters
        ----------
        group : str
            In lower case.
        grid : Grid
            Of the volume.
        options : Options
        base : int
            Number of the first frame, see `base_of`.
        file : volume file, optional
            Asked for the order of its frames, where `slice_order` is "instance" or "stored"; see `Ordered`.

        Raises
        ------
        InvalidInput
            An unknown group, an affine that leaves the axes without directions, or an order that the file does not
            know.
        """
        view = options.view_of(group)
        if view is None:
            raise InvalidInput(f"group {group!r} is none of {', '.join(VIEWS)}; say what it cuts with groups=")
        codes = grid.orientation
        if "?" in codes and (options.planes == "patient" or options.slice_order.startswith("position")):
            raise InvalidInput(
                f"the affine gives the axes the directions {codes!r}, so it cannot be told which one {group} cuts and "
                "which way it is counted; pass planes='array' with slice_order='stored'"
            )
        if options.planes == "array":
            normal = _ARRAY_AXIS[view]
            columns, rows = (axis for axis in (0, 1, 2) if axis != normal)
        else:
            normal = _axis(codes, _NORMAL[view])
            columns = _axis(codes, _COLUMNS[view])
            rows = 3 - normal - columns
        order = _order(codes, normal, grid.shape[normal], options, file)
        if group in options.reverse:
            order = order[::-1]
        return cls(
            group,
            grid,
            normal,
            columns,
            rows,
            base,
            order,
            group in options.flip_rows,
            group in options.flip_cols,
            options.pixel_origin,
            options.inplane,
        )

    @property
    def view(self) -> View:
        """The view of the volume as it is read whose slices these are."""
        return _VIEW_OF_AXIS[self.normal]

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.grid.shape[self.normal]

    @property
    def native_size(self) -> tuple[int, int]:
        """(height, width) in voxels."""
        return self.grid.shape[self.rows], self.grid.shape[self.columns]

    @property
    def isotropic_size(self) -> tuple[int, int]:
        """(height, width) of the picture if it was scaled to square pixels."""
        spacing = self.grid.spacing_mm[self.rows], self.grid.spacing_mm[self.columns]
        finest = min(spacing)
        height, width = (max(1, round(n * mm / finest)) for n, mm in zip(self.native_size, spacing, strict=True))
        return height, width

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture, which masks must have."""
        return self.native_size if self.inplane == "native" else self.isotropic_size

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y) voxels for each pixel of the picture."""
        (height, width), (rows, columns) = self.size, self.native_size
        return columns / width, rows / height

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """(x, y) distance of neighbouring pixels of the picture in millimetres."""
        x, y = self.scale
        return x * self.grid.spacing_mm[self.columns], y * self.grid.spacing_mm[self.rows]

    @property
    def origin(self) -> float:
        """From a coordinate as drawn to one where pixel c covers [c, c + 1)."""
        return 0.5 if self.pixel_origin == "centre" else 0.0

    def slice_of(self, frame: int) -> int | None:
        """Slice index of a frame along the axis `normal`; None beyond it."""
        return self.order[frame - self.base] if self.base <= frame < self.base + self.count else None

    def frame_of(self, index: int) -> int:
        """Frame of a slice index."""
        return self.base + self.order.index(index)

    def size_fault(self, size: tuple[int, int]) -> str | None:
        """Say what is wrong with the (height, width) of a picture; None if it is as expected."""
        if size == self.size:
            return None
        expected = f"{self.group} slices have {self.size[1]} x {self.size[0]}"
        found = f"has {size[1]} x {size[0]} pixels (width x height), but {expected}"
        if size == self.size[::-1]:
            return f"{found}: it is transposed, so the group may cut another axis; check planes="
        for word, other in (("native", self.native_size), ("isotropic", self.isotropic_size)):
            if size == other:
                return f"{found}; it has the size for inplane={word!r}"
        return f"{found}; check the volume and planes="

    def corners(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (n, 2) x, y as drawn, as unflipped voxels of the picture where voxel c covers [c, c + 1)."""
        corners: NDArray[np.float64] = (points + self.origin) * np.array(self.scale)
        return corners

    def drawn(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """Undo `corners`."""
        points: NDArray[np.float64] = corners / np.array(self.scale) - self.origin
        return points

    def voxels(self, points: NDArray[np.float64], frame: int) -> NDArray[np.float64]:
        """Points (n, 2) x, y as drawn on a frame, as voxel coordinates (n, 3) x, y, z, where voxel i is the point i.

        Raises
        ------
        InvalidInput
            A frame beyond the axis.
        """
        index = self.slice_of(frame)
        if index is None:
            raise InvalidInput(f"frame {frame} of {self.group} {self.beyond()}")
        corners = self.corners(points)
        found = np.empty((len(points), 3))
        found[:, self.normal] = index
        height, width = self.native_size
        x, y = corners[:, 0] - 0.5, corners[:, 1] - 0.5
        found[:, self.columns] = width - 1 - x if self.flip_cols else x
        found[:, self.rows] = height - 1 - y if self.flip_rows else y
        return found

    def box(self, points: NDArray[np.float64]) -> tuple[int, int, int, int]:
        """Find the pixels that hold points (n, 2) x, y as drawn, in slice images of `view` as they are written.

        Returns
        -------
        X_MIN, Y_MIN, X_MAX, Y_MAX
            X is the column and Y the row, inclusive, without padding.
        """
        ends = {}
        pixels = np.floor(self.corners(points)).astype(np.int64)
        for axis, flip, at in ((self.columns, self.flip_cols, pixels[:, 0]), (self.rows, self.flip_rows, pixels[:, 1])):
            along = self.grid.shape[axis] - 1 - at if flip else at
            ends[axis] = int(along.min()), int(along.max())
        row, column, _ = Plane(self.view, self.grid.shape).axes
        return ends[column][0], ends[row][0], ends[column][1], ends[row][1]

    def beyond(self) -> str:
        """What to say of a frame that has no slice."""
        return (
            f"lies beyond the axis, whose frames are {self.base} to {self.base + self.count - 1} "
            f"({self.count} slices); check frame_base, planes and the volume"
        )

    def picture(self, data: NDArray[Any], index: int) -> NDArray[Any]:
        """View slice `index` of (x, y, z) voxels as an unscaled picture (rows, columns), to read and to write."""
        image: NDArray[Any] = data.transpose(self.normal, self.rows, self.columns)[index]
        return image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_cols else 1]

    def native(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Take from a picture of `size` the pixel at the centre of each voxel: (rows, columns)."""
        if picture.shape == self.native_size:
            return picture
        return picture[_nearest(self.size[0], self.native_size[0])][:, _nearest(self.size[1], self.native_size[1])]

    def scaled(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Take from a native (rows, columns) picture the voxel at the centre of each pixel of `size`."""
        if self.size == self.native_size:
            return picture
        return picture[_nearest(self.native_size[0], self.size[0])][:, _nearest(self.native_size[1], self.size[1])]

    def outline(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.float64]:
        """The box of voxels start <= index < stop in its slice, as a closed line of 5 points x, y as they are drawn.

        It lies 0.001 of a pixel, the precision of exports, inside the outer edges of its pixels, so that the pixels of
        its points are exactly those of the box.
        """
        ends = []
        for axis, scale, flip in zip(
            (self.columns, self.rows), self.scale, (self.flip_cols, self.flip_rows), strict=True
        ):
            first, last = start[axis], stop[axis]
            if flip:
                first, last = self.grid.shape[axis] - last, self.grid.shape[axis] - first
            ends.append((math.ceil(first / scale * 1000 + 1e-6) / 1000, math.floor(last / scale * 1000 - 1e-6) / 1000))
        (left, right), (top, bottom) = ends
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]])
        points: NDArray[np.float64] = np.round(corners - self.origin, 3)
        return points


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    """Of `new` equal parts of `old` pixels, the pixel in which the centre of each lies."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _axis(codes: str, directions: str) -> int:
    return next(axis for axis, code in enumerate(codes) if code in directions)


def _order(codes: str, axis: int, count: int, options: Options, file: object) -> tuple[int, ...]:
    stored = tuple(range(count))
    if options.slice_order in ("position+", "position-"):
        grows = codes[axis] in "LPS"
        return stored if grows == (options.slice_order == "position+") else stored[::-1]
    if axis != 2:
        return stored
    if not isinstance(file, Ordered):
        if options.slice_order == "stored":
            return stored
        raise InvalidInput(
            "slice_order 'instance' needs DICOM files, which have instance numbers; use position+ or position-"
        )
    by: Literal["instance", "stored"] = "instance" if options.slice_order == "instance" else "stored"
    order = tuple(int(index) for index in file.frame_order(by))
    if sorted(order) != list(stored):
        raise InvalidInput(
            f"slice_order {by!r}: the files count {len(order)} frames, but the volume has {count} slices; "
            "use position+ or position-"
        )
    return order
