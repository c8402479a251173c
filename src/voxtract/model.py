"""The values that travel from read through compute to write. All are frozen."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.classes import ClassMap
    from voxtract.geometry import Grid, Plane, Shape3, View
    from voxtract.storage import Remote


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
    depth : int
        Planes along z that are decoded together.
    is_mapped : bool
        Voxels are read where they lie in a file on disk when they are looked at; a volume need not fit into memory.
    """

    grid: Grid
    dtype: np.dtype[Any]
    slope: float = 1.0
    intercept: float = 0.0
    where: str = "volume"
    depth: int = 1
    is_mapped: bool = False

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
    category : (n,) int64, optional
        Class, where the source says what label values mean.
    score : (n,) float64, optional
        Of the object in the slice, where the source has scores; NaN: it has none here.
    volume : (n,) int64, optional
        Which of the case's label volumes the row was found in, where there are several; 0-based.
    """

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    label: NDArray[Any]
    count: NDArray[np.int64]
    total: NDArray[np.int64] | None = None
    category: NDArray[np.int64] | None = None
    score: NDArray[np.float64] | None = None
    volume: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.label)

    @property
    def class_id(self) -> NDArray[Any]:
        """(n,) what a class map speaks of: the category, or the label value where the source knows no categories."""
        return self.label if self.category is None else self.category

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays that are there, by name."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: column for name, column in found.items() if column is not None}

    def select(self, keep: NDArray[Any]) -> Components:
        """Rows where the boolean (n,) `keep` is set, or rows at the integer positions `keep`."""
        return Components(**{name: column[keep] for name, column in self.columns.items()})

    def moved(self, offset: int) -> Components:
        """The same components of a piece of a volume that begins at z = `offset`."""
        step = np.array([0, 0, offset])
        total = None if self.total is None else self.total + self.count[:, None] * step
        return replace(self, start=self.start + step, stop=self.stop + step, total=total)

    @classmethod
    def join(cls, parts: Sequence[Components]) -> Components:
        """All rows of one or more `parts`, one after the other; a column that one part lacks is left out."""
        columns = [part.columns for part in parts]
        shared = [name for name in columns[0] if all(name in part for part in columns)]
        if len({part.label.dtype for part in parts}) > 1:  # labels are above 0; signed with unsigned would become float
            columns = [part | {"label": part["label"].astype(np.uint64)} for part in columns]
        return cls(**{name: np.concatenate([part[name] for part in columns]) for name in shared})

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
        With its dot; empty where no images are written. With ``.tar`` the files are shards, counted from 0, with
        ``.zarr`` there is one `store`.
    labelled : bool
        Whether the case has labels at all; without them there are no rows.
    split : str, optional
        Part of the data set the case belongs to, as "train".
    objects : (mapping of label value to key, ...)
        Names of single objects in the tool that they come from, for each label volume of the case.
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
    objects: tuple[Mapping[int, str], ...] = ()

    def name(self, index: int, suffix: str | None = None) -> str:
        """File of slice `index`, relative to the output folder: the image, or beside it one with another suffix."""
        return f"{self.stem}{index:03d}{self.suffix if suffix is None else suffix}"

    @property
    def store(self) -> str:
        """Array that holds the images of all slices (`voxtract.write.zarr`), relative to the output folder."""
        return self.stem.removesuffix("_") + self.suffix

    @property
    def places(self) -> str:
        """File that says where in which shard each image lies (`voxtract.write.webdataset`).

        It has three little-endian int64 for each of `slices`: shard, first byte, number of bytes.
        """
        return f".voxtract/shards/{self.case_id}_{self.plane.view}"

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

    @property
    def paths(self) -> Sequence[str | Remote]:
        """The files it is read from, by whose size and time a later run sees that nothing has changed."""

    def header(self) -> Header:
        """Shape, affine, dtype and scaling, without reading voxels."""

    def read(self) -> Volume:
        """Header and voxels; the file is decoded once."""

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Voxels in pieces (x, y, n <= planes) along z, in order; the next may overwrite the one before."""


@runtime_checkable
class ChunkedFile(VolumeFile, Protocol):
    """A label volume of which only chunks are stored, in a box that may be far larger than memory."""

    def layers(self) -> Iterator[Iterator[tuple[Shape3, NDArray[Any]]]]:
        """First voxel and voxels (x, y, z) of each stored chunk; chunks of a layer lie in the same planes along z.

        Layers come by rising z; what is not stored is 0.
        """


@dataclass(frozen=True, eq=False, slots=True)
class LabelVolume:
    """One label volume of a case, and what its source says of the values.

    Parameters
    ----------
    file : VolumeFile
        Its voxels.
    name : str
        What tells it from the others of the case, as the class "lung"; may be empty for the only one.
    category : int, or mapping of label value to int, optional
        Class of all objects, or of each; a number of the source's `classes`. None: the label value is the class.
    objects : mapping of label value to str
        Key of the object in the tool it comes from.
    scores : mapping of view to slice index to label value to float
        Slices are those of the volume as it is read, 0-based.
    views : ("axial" | "coronal" | "sagittal", ...), optional
        It was drawn on slices of these views and is looked at in no other; None: in all.
    """

    file: VolumeFile
    name: str = ""
    category: int | Mapping[int, int] | None = None
    objects: Mapping[int, str] = field(default_factory=dict)
    scores: Mapping[View, Mapping[int, Mapping[int, float]]] = field(default_factory=dict)
    views: tuple[View, ...] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Case:
    """One image volume and what annotates it; either may be missing, never both.

    Parameters
    ----------
    id : str
        Unique in its source; can be the name of a folder.
    image : VolumeFile, optional
    labels : (LabelVolume, ...)
        On the image's grid. Objects that overlap are in different ones.
    views : ("axial" | "coronal" | "sagittal", ...), optional
        Views that are cut where the user names none.
    """

    id: str
    image: VolumeFile | None = None
    labels: tuple[LabelVolume, ...] = ()
    views: tuple[View, ...] | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that the listing found but that no case uses, and why."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about a file that is used, and that a person should look at."""

    where: str
    message: str


@dataclass(frozen=True, slots=True)
class Match:
    """Which file serves a case as what, and why."""

    case: str
    role: str
    where: str
    why: str


@dataclass(frozen=True, eq=False, slots=True)
class Source:
    """Cases, listed from a file, a folder, or an export of some tool.

    Parameters
    ----------
    description : str
        What was recognised, in a line for people.
    cases : (Case, ...)
        In a fixed order; every id is there once.
    skipped : (Skipped, ...)
        What the listing found and no case uses.
    remarks : (Remark, ...)
    matches : (Match, ...)
        What belongs together and why, where that is more than a matter of equal names.
    classes : ClassMap, optional
        Names and colours of the categories of the label volumes.
    """

    description: str
    cases: tuple[Case, ...]
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[Remark, ...] = ()
    matches: tuple[Match, ...] = ()
    classes: ClassMap | None = None

    def files(self) -> Iterator[tuple[str, str]]:
        """Names and texts of files that belong beside every output: what was assumed, and what no volume can hold."""
        return iter(())

    def late_remarks(self) -> tuple[Remark, ...]:
        """What was noticed only when volumes were read, and is not among `remarks`."""
        return ()
