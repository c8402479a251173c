"""The values that travel from read through compute to write. All are frozen."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.geometry import Grid, Plane


@dataclass(frozen=True, eq=False, slots=True)
class Header:
    """What is known of a volume before a voxel is read.

    Parameters
    ----------
    grid : Grid
        Shape (x, y, z) and affine (RAS+ mm).
    dtype : numpy.dtype
        Stored dtype in this machine's byte order.
    slope, intercept : float
        Value of a voxel = stored * slope + intercept.
    where : str
        The file (or member, or URL) for messages.
    """

    grid: Grid
    dtype: np.dtype[Any]
    slope: float = 1.0
    intercept: float = 0.0
    where: str = "volume"

    @property
    def is_scaled(self) -> bool:
        """Whether a voxel's value differs from its stored number."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def nbytes(self) -> int:
        """Bytes of the voxels as stored."""
        return int(np.prod(self.grid.shape, dtype=object)) * self.dtype.itemsize


@dataclass(frozen=True, eq=False, slots=True)
class Volume:
    """Voxels (x, y, z) in their stored dtype, and their header."""

    header: Header
    data: NDArray[Any]


@dataclass(frozen=True, eq=False, slots=True)
class Components:
    """Connected components (or whole labels), one row each, in raster order of the first voxel.

    Parameters
    ----------
    start, stop : (n, 3) int64
        Half-open box in voxels, axes (x, y, z).
    label : (n,) integer, dtype of the label volume
    count : (n,) int64
        Voxels of the component.
    total : (n, 3) int64, optional
        Sum of the voxel coordinates (x, y, z), where the center of mass was asked for.
    """

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    label: NDArray[Any]
    count: NDArray[np.int64]
    total: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.label)

    def select(self, keep: NDArray[Any]) -> Components:
        """Rows where the boolean (n,) `keep` is set, or rows at the integer positions `keep`."""
        return replace(
            self,
            start=self.start[keep],
            stop=self.stop[keep],
            label=self.label[keep],
            count=self.count[keep],
            total=None if self.total is None else self.total[keep],
        )

    def moved(self, offset: int) -> Components:
        """The same components of a piece of a volume that begins at z = `offset`."""
        step = np.array([0, 0, offset])
        total = None if self.total is None else self.total + self.count[:, None] * step
        return replace(self, start=self.start + step, stop=self.stop + step, total=total)

    @classmethod
    def join(cls, parts: Sequence[Components]) -> Components:
        """All rows of one or more `parts`, one after the other."""
        totals = [part.total for part in parts if part.total is not None]
        return cls(
            start=np.concatenate([part.start for part in parts]),
            stop=np.concatenate([part.stop for part in parts]),
            label=np.concatenate([part.label for part in parts]),
            count=np.concatenate([part.count for part in parts]),
            total=np.concatenate(totals) if len(totals) == len(parts) else None,
        )

    @classmethod
    def none(cls) -> Components:
        """No row at all."""
        nothing = np.zeros((0, 3), np.int64)
        return cls(nothing, nothing, np.zeros(0, np.int64), np.zeros(0, np.int64))

    @property
    def box_center(self) -> NDArray[np.float64]:
        """(n, 3) middle of each box: (first + last) / 2, may end in .5."""
        return (self.start + self.stop - 1) / 2

    @property
    def mass_center(self) -> NDArray[np.float64]:
        """(n, 3) mean voxel position; needs `total`."""
        if self.total is None:
            raise TypeError("these components were found without mass=True")
        return self.total / self.count[:, None]


@dataclass(frozen=True, eq=False, slots=True)
class Findings:
    """What was found in one view of one case, and which image files it speaks of.

    Parameters
    ----------
    case_id : str
    plane : Plane
        From voxels to pixels of the images.
    grid : Grid
        Of the volume that the plane cuts: reoriented, resampled and cropped as was asked for.
    rows : Components
        In raster order; with `extent` "slice" each row lies in one slice.
    extent : {"slice", "volume"}
        Whether components were found in each slice or in the volume.
    slices : (n,) int64
        Indices of the slices chosen, ascending.
    stem : str
        Image files are called ``<stem><index, three digits or more><suffix>``, relative to the output folder.
    suffix : str
        With its dot; empty where no images are written.
    labelled : bool
        Whether the case has labels at all; without them there are no rows.
    split : str, optional
        Part of the data set the case belongs to, as "train".
    """

    case_id: str
    plane: Plane
    grid: Grid
    rows: Components
    extent: Literal["slice", "volume"]
    slices: NDArray[np.int64]
    stem: str
    suffix: str
    labelled: bool = True
    split: str | None = None

    def name(self, index: int, suffix: str | None = None) -> str:
        """File of slice `index`, relative to the output folder: the image, or beside it one with another suffix."""
        return f"{self.stem}{index:03d}{self.suffix if suffix is None else suffix}"

    def by_slice(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each chosen slice with the positions of its rows, in order; for `extent` "slice"."""
        index = self.rows.start[:, self.plane.axes[2]]
        begin, end = np.searchsorted(index, self.slices, "left"), np.searchsorted(index, self.slices, "right")
        for number, first, last in zip(self.slices.tolist(), begin.tolist(), end.tolist(), strict=True):
            yield number, np.arange(first, last)


class VolumeFile(Protocol):
    """A volume that can be asked for its header cheaply and for its voxels once."""

    @property
    def where(self) -> str:
        """The path, member or URL for messages."""

    @property
    def volume_index(self) -> int | None:
        """Which frame of several is taken."""

    def header(self) -> Header:
        """Shape, affine, dtype and scaling, without reading voxels."""

    def read(self) -> Volume:
        """Header and voxels; the file is decoded once."""

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Voxels in pieces (x, y, n <= planes) along z, in order; the next may overwrite the one before."""


@dataclass(frozen=True, eq=False, slots=True)
class Case:
    """One image volume and what annotates it; either may be missing, never both."""

    id: str
    image: VolumeFile | None = None
    labels: VolumeFile | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that the listing found but that no case uses, and why."""

    where: str
    reason: str


class Source(Protocol):
    """Something that lists cases: a NIfTI file, a folder, a pair of folders."""

    @property
    def description(self) -> str:
        """What was recognised, in a line for people."""

    @property
    def cases(self) -> Sequence[Case]:
        """The cases, sorted by file name; every id is there once and can be a folder name."""

    @property
    def skipped(self) -> Sequence[Skipped]:
        """What the listing found and no case uses."""
