"""The one truth about axes, slices, padding, boxes and millimetres.

A volume has the axes (x, y, z) in the order nibabel gives. A *view* names the axis that is cut:
``axial`` cuts z, ``coronal`` y, ``sagittal`` x. The slice image holds the two axes left, in order, as
(rows, columns). Pixel coordinates are X = column, Y = row (of the padded image) and Z = slice index,
all 0-based, so that ``image[Y, X]`` of slice Z is the voxel that a table speaks of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from voxtract.errors import InvalidInput, check_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

View = Literal["axial", "coronal", "sagittal"]
VIEWS: tuple[View, ...] = get_args(View)

# (row axis, column axis, slice axis) of the (x, y, z) volume
_AXES: dict[View, tuple[int, int, int]] = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}

Shape3 = tuple[int, int, int]


def check_view(view: str) -> View:
    """Return `view` if it is one of `VIEWS`.

    Raises
    ------
    InvalidInput
        Any other word; the message lists the allowed ones.
    """
    check_choice("view", view, VIEWS)
    return cast("View", view)


def check_codes(codes: str) -> str:
    """Return axis codes such as ``"RAS"`` in capitals.

    Raises
    ------
    InvalidInput
        They do not name each of R/L, A/P, S/I once.
    """
    codes = codes.upper()
    if sorted("RAS"["RLAPSI".index(c) // 2] if c in "RLAPSI" else "?" for c in codes) != ["A", "R", "S"]:
        raise InvalidInput(f"reorient {codes!r} is no orientation; give one of R/L, A/P and S/I each, as in 'RAS'")
    return codes


@dataclass(frozen=True, slots=True)
class Plane:
    """One view of one volume shape with one target size: the way from voxel to pixel and back.

    Parameters
    ----------
    view : {"axial", "coronal", "sagittal"}
    shape : (x, y, z)
        Voxels of the volume along each axis.
    target_size : (height, width), optional
        Size of the written image in pixels. The slice sits in its middle; where the difference is odd, the
        extra pixel goes to the bottom or right.

    Raises
    ------
    InvalidInput
        Unknown view, or a target smaller than the slice.

    Examples
    --------
    >>> plane = Plane("coronal", (5, 7, 4), target_size=(8, 4))
    >>> plane.axes, plane.count, plane.size
    ((0, 2, 1), 7, (8, 4))
    >>> plane.pixel(np.array([0, 6, 3])).tolist()       # X = z, Y = x + padding, Z = y
    [3, 1, 6]
    """

    view: View
    shape: Shape3
    target_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_view(self.view)
        if self.target_size is None:
            return
        height, width = self.target_size
        if height < self.rows or width < self.columns:
            raise InvalidInput(
                f"{self.view} slices are {self.rows} x {self.columns} (rows x columns), larger than the target size "
                f"{height} x {width}; choose a target of at least {self.rows} x {self.columns}"
            )

    @property
    def axes(self) -> tuple[int, int, int]:
        """Volume axes that become rows, columns and slice index."""
        return _AXES[self.view]

    @property
    def rows(self) -> int:
        """Rows of a slice before padding."""
        return self.shape[self.axes[0]]

    @property
    def columns(self) -> int:
        """Columns of a slice before padding."""
        return self.shape[self.axes[1]]

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.shape[self.axes[2]]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the written image in pixels."""
        return self.target_size or (self.rows, self.columns)

    @property
    def pad(self) -> tuple[int, int]:
        """(top, left) padding in pixels; what is left over goes to the bottom and right."""
        height, width = self.size
        return (height - self.rows) // 2, (width - self.columns) // 2

    def pixel(self, voxel: NDArray[np.generic]) -> NDArray[np.generic]:
        """Map voxel coordinates (..., 3) as x, y, z to pixel coordinates (..., 3) as X, Y, Z; the dtype stays."""
        row, column, index = self.axes
        top, left = self.pad
        offset = np.array([left, top, 0], dtype=voxel.dtype)
        return voxel[..., [column, row, index]] + offset

    def voxel(self, pixel: NDArray[np.generic]) -> NDArray[np.generic]:
        """Map pixel coordinates (..., 3) as X, Y, Z back to voxel coordinates (..., 3) as x, y, z."""
        row, column, index = self.axes
        top, left = self.pad
        voxel = np.empty_like(pixel)
        voxel[..., [column, row, index]] = pixel - np.array([left, top, 0], dtype=pixel.dtype)
        return voxel

    def pixel_spacing_mm(self, spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
        """(row, column) distance of neighbouring pixels in millimetres, from the (x, y, z) voxel spacing."""
        return spacing_mm[self.axes[0]], spacing_mm[self.axes[1]]


@dataclass(frozen=True, slots=True)
class Box:
    """Axis-aligned voxels ``start <= index < stop``, axes in array order (x, y, z).

    >>> box = Box((0, 4, 4), (1, 6, 10))
    >>> box.shape, box.center               # voxel i is the point i, so the middle of [4, 6) is 4.5
    ((1, 2, 6), (0.0, 4.5, 6.5))
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop) or any(a > b for a, b in zip(self.start, self.stop, strict=True)):
            raise InvalidInput(f"box {self.start}..{self.stop}: every start must be <= its stop")

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def center(self) -> tuple[float, ...]:
        """Mean of the first and the last voxel along each axis; may end in .5."""
        return tuple((a + b - 1) / 2 for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume lie in the patient.

    Parameters
    ----------
    shape : (x, y, z)
        Voxels along each axis.
    affine : (4, 4) float64
        Voxel index (x, y, z, 1) to RAS+ millimetres.

    Examples
    --------
    >>> grid = Grid((4, 5, 6), np.diag([-0.5, 0.5, 2.0, 1.0]))
    >>> grid.spacing_mm, grid.orientation
    ((0.5, 0.5, 2.0), 'LAS')
    >>> Reorientation.between(grid, "RAS").grid(grid).orientation
    'RAS'
    """

    shape: Shape3
    affine: NDArray[np.float64]

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along x, y, z in millimetres."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)).tolist()
        return x, y, z

    @cached_property
    def orientation(self) -> str:
        """Direction in which each axis grows, as in ``"RAS"``; the nearest one for oblique affines."""
        from nibabel.orientations import aff2axcodes

        return "".join(code or "?" for code in aff2axcodes(self.affine))

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in cubic millimetres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def points_mm(self, voxels: NDArray[Any]) -> NDArray[np.float64]:
        """Map voxel coordinates (..., 3) to RAS+ millimetres (..., 3); voxel i is the point i."""
        points: NDArray[np.float64] = voxels @ self.affine[:3, :3].T + self.affine[:3, 3]
        return points

    def corners_mm(self, start: NDArray[Any], stop: NDArray[Any]) -> NDArray[np.float64]:
        """All corners of half-open voxel boxes in RAS+ millimetres.

        Parameters
        ----------
        start, stop : (n, 3)
            First voxel, and the one past the last. A corner lies half a voxel outside of the outermost points.

        Returns
        -------
        (n, 8, 3) float64: z varies fastest, then y, then x

        Examples
        --------
        >>> grid = Grid((4, 4, 4), np.diag([2.0, 1.0, 3.0, 1.0]))
        >>> grid.corners_mm(np.array([[0, 0, 0]]), np.array([[1, 1, 1]]))[0, [0, 7]].tolist()
        [[-1.0, -0.5, -1.5], [1.0, 0.5, 1.5]]
        """
        ends = np.stack([start, stop], axis=1) - 0.5
        which = np.array(list(np.ndindex(2, 2, 2)))
        return self.points_mm(ends[:, which, np.arange(3)])

    def mismatch(self, other: Grid) -> str | None:
        """Say how `other` differs (``"shape"`` or ``"affine"`` and the values), or None where it does not.

        Affines may differ by 1e-3 of a voxel, or 1e-3 mm in the origin: tools write them as float32.
        """
        if self.shape != other.shape:
            return f"shape {_times(self.shape)} against {_times(other.shape)} voxels"
        tolerance = 1e-3 * np.array([*self.spacing_mm, 1.0])
        if (np.abs(self.affine - other.affine)[:3] > tolerance).any():
            return f"affine {_rows(self.affine)} against {_rows(other.affine)}"
        return None


@dataclass(frozen=True, slots=True)
class Reorientation:
    """A permutation and flips of the axes; nothing is resampled.

    Parameters
    ----------
    source : for each new axis, the old axis it is taken from
    flip : for each new axis, whether it runs backwards
    """

    source: Shape3
    flip: tuple[bool, bool, bool]

    @classmethod
    def between(cls, grid: Grid, codes: str) -> Reorientation:
        """Find the way from `grid` to the axis codes `codes`, e.g. ``"RAS"`` (equal to nibabel's closest canonical).

        Raises
        ------
        InvalidInput
            `codes` does not name each of R/L, A/P, S/I once, or the affine has no direction for an axis.
        """
        from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

        codes = check_codes(codes)
        current = io_orientation(grid.affine)
        if np.isnan(current).any():
            raise InvalidInput(f"affine {_rows(grid.affine)} leaves an axis without a direction; reorient=None works")
        source, flip = [0, 0, 0], [False, False, False]
        for old, (new, direction) in enumerate(ornt_transform(current, axcodes2ornt(tuple(codes)))):
            source[int(new)], flip[int(new)] = old, bool(direction < 0)
        return cls((source[0], source[1], source[2]), (flip[0], flip[1], flip[2]))

    def array(self, data: NDArray[np.generic]) -> NDArray[np.generic]:
        """View `data` (3 axes) in the new order; no voxel is copied."""
        return data.transpose(self.source)[tuple(slice(None, None, -1 if f else 1) for f in self.flip)]

    def grid(self, grid: Grid) -> Grid:
        """Shape and affine of the reoriented volume: every voxel keeps its place in the patient."""
        shape = tuple(grid.shape[axis] for axis in self.source)
        change = np.zeros((4, 4))
        change[3, 3] = 1
        for new, (old, flip) in enumerate(zip(self.source, self.flip, strict=True)):
            change[old, new] = -1 if flip else 1
            change[old, 3] = shape[new] - 1 if flip else 0
        return Grid((shape[0], shape[1], shape[2]), grid.affine @ change)


@dataclass(frozen=True, slots=True)
class Resampling:
    """From the voxels of one grid to more or fewer ones along the same axes.

    Parameters
    ----------
    source, shape : (x, y, z)
        Voxels before and after.
    first, step : (x, y, z)
        New voxel i of an axis lies at the old voxel coordinate ``first + i * step``, where voxel i is the point i.

    Notes
    -----
    `to_shape` keeps the outer faces of the volume, so ``first = step / 2 - 0.5`` and ``step = old / new`` voxels: what
    ``scipy.ndimage.zoom(grid_mode=True)``, ``skimage.transform.resize``, MONAI's ``Resize`` and nnU-Net do.

    `to_spacing` gives exactly the spacing that was asked for. A whole number of such voxels seldom fills the old
    volume, so both outer faces of an axis move, by the same length of at most a quarter of a new voxel (more only
    where the whole axis is shorter than half a new voxel); the middle stays, no new center lies beyond the old faces,
    and flipping the volume first changes nothing. Others keep one end instead: TorchIO's ``Resample`` the first face,
    ``nibabel.processing.resample_to_output``, MONAI's ``Spacing`` and the usual SimpleITK recipe the first voxel's
    center. All of these are right in millimetres, as is the affine of `grid`.

    An axis of which no voxel would move by 1e-3 of its size stays untouched: headers hold float32.
    """

    source: Shape3
    shape: Shape3
    first: tuple[float, float, float]
    step: tuple[float, float, float]

    @classmethod
    def to_spacing(cls, grid: Grid, spacing_mm: Sequence[float]) -> Resampling:
        """Have voxels of exactly `spacing_mm` (x, y, z), ``max(1, round(old * old spacing / new spacing))`` of them.

        Raises
        ------
        InvalidInput
            A spacing that is no finite number above 0 or less than a millionth of the old one, or an affine without
            length along an axis.

        Examples
        --------
        >>> grid = Grid((10, 10, 7), np.diag([1.0, 1.0, 5.0, 1.0]))
        >>> Resampling.to_spacing(grid, (2, 1, 3)).grid(grid).shape
        (5, 10, 12)
        """
        if len(spacing_mm) != 3 or not all(math.isfinite(mm) and mm > 0 for mm in spacing_mm):
            raise InvalidInput(f"spacing {tuple(spacing_mm)} must be three finite lengths above 0, in millimetres")
        if not all(math.isfinite(mm) and mm > 0 for mm in grid.spacing_mm):
            raise InvalidInput(f"affine {_rows(grid.affine)} leaves an axis without a length; resize= takes voxels")
        steps = [float(new) / old for new, old in zip(spacing_mm, grid.spacing_mm, strict=True)]
        if min(steps) < 1e-6:
            raise InvalidInput(f"spacing {tuple(spacing_mm)} against {grid.spacing_mm} mm asks for too many voxels")
        shape = [max(1, round(count / step)) for count, step in zip(grid.shape, steps, strict=True)]
        return cls._centered(grid.shape, shape, steps)

    @classmethod
    def to_shape(cls, grid: Grid, shape: Sequence[int]) -> Resampling:
        """Have `shape` (x, y, z) voxels in the same place; -1 keeps the voxels of an axis.

        Raises
        ------
        InvalidInput
            A number that is neither -1 nor at least 1.

        Examples
        --------
        >>> grid = Grid((10, 10, 7), np.diag([1.0, 1.0, 5.0, 1.0]))
        >>> resampling = Resampling.to_shape(grid, (5, 20, -1))
        >>> resampling.grid(grid).spacing_mm
        (2.0, 0.5, 5.0)
        >>> resampling.coordinates(0).tolist()
        [0.5, 2.5, 4.5, 6.5, 8.5]
        """
        if len(shape) != 3 or any(count < 1 and count != -1 for count in shape):
            raise InvalidInput(f"shape {tuple(shape)} must be three numbers of voxels of at least 1; -1 keeps an axis")
        counts = [old if new == -1 else new for new, old in zip(shape, grid.shape, strict=True)]
        return cls._centered(grid.shape, counts, [old / new for new, old in zip(counts, grid.shape, strict=True)])

    @classmethod
    def _centered(cls, source: Shape3, shape: Sequence[int], steps: Sequence[float]) -> Resampling:
        """The middle of the new volume lies on that of the old one."""
        x, y, z = (
            (0.0, 1.0) if new == old and abs(step - 1) * old < 1e-3 else ((old - 1 - (new - 1) * step) / 2, step)
            for old, new, step in zip(source, shape, steps, strict=True)
        )
        return cls(source, (shape[0], shape[1], shape[2]), (x[0], y[0], z[0]), (x[1], y[1], z[1]))

    def coordinates(self, axis: int) -> NDArray[np.float64]:
        """Old voxel coordinates of the new voxels of `axis`, ascending."""
        return self.first[axis] + self.step[axis] * np.arange(self.shape[axis], dtype=np.float64)

    def moves(self, axis: int) -> bool:
        """Whether `axis` has other voxels than before."""
        return (self.first[axis], self.step[axis]) != (0.0, 1.0)

    def grid(self, grid: Grid) -> Grid:
        """Shape and affine of the resampled volume: every new center is where it is in the patient."""
        change = np.diag([*self.step, 1.0])
        change[:3, 3] = self.first
        return Grid(self.shape, grid.affine @ change)


@dataclass(frozen=True, slots=True)
class Crop:
    """The voxels ``start <= index < stop`` of each axis (x, y, z) of a volume.

    Examples
    --------
    >>> crop = Crop.centered((4, 4, 9), (10, 7, 5))
    >>> crop
    Crop(start=(3, 1, 0), stop=(7, 5, 5))
    >>> crop.grid(Grid((10, 7, 5), np.diag([0.5, 0.5, 2.0, 1.0]))).points_mm(np.zeros(3)).tolist()
    [1.5, 0.5, 0.0]
    """

    start: Shape3
    stop: Shape3

    @classmethod
    def box(cls, start: Shape3, stop: Shape3, shape: Shape3) -> Crop:
        """Take a box of a volume of `shape` voxels.

        Raises
        ------
        InvalidInput
            The box is empty or reaches out of the volume; nothing is clipped.
        """
        if not all(0 <= a < b <= n for a, b, n in zip(start, stop, shape, strict=True)):
            raise InvalidInput(
                f"crop from {start} to {stop} (x, y, z; the last voxel excluded) must hold a voxel and lie inside the "
                f"volume of {_times(shape)} voxels"
            )
        return cls(start, stop)

    @classmethod
    def centered(cls, size: Shape3, shape: Shape3) -> Crop:
        """Take `size` voxels (x, y, z) from the middle of `shape`; an axis that has fewer stays whole.

        Where the number of voxels cut off is odd, one more is cut at the end, as in the padding of `Plane`.

        Raises
        ------
        InvalidInput
            A size below 1.
        """
        if min(size) < 1:
            raise InvalidInput(f"crop to {size} (x, y, z) must leave at least 1 voxel along each axis")
        left = [max(0, (n - wanted) // 2) for wanted, n in zip(size, shape, strict=True)]
        right = [a + min(wanted, n) for a, wanted, n in zip(left, size, shape, strict=True)]
        return cls((left[0], left[1], left[2]), (right[0], right[1], right[2]))

    def array(self, data: NDArray[Any]) -> NDArray[Any]:
        """View the box of `data` (x, y, z); no voxel is copied."""
        return data[tuple(map(slice, self.start, self.stop))]

    def grid(self, grid: Grid) -> Grid:
        """Shape and affine of the box: every voxel keeps its place in the patient."""
        affine = grid.affine.copy()
        affine[:3, 3] = grid.points_mm(np.array(self.start))
        x, y, z = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return Grid((x, y, z), affine)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _rows(affine: NDArray[np.float64]) -> str:
    return "[" + "; ".join(" ".join(f"{v:g}" for v in row) for row in affine[:3]) + "]"
