"""Label volumes as the layouts have them: integers, on the grid of their volume, checked while they are read."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import Grid
from voxtract.model import Header, Volume, VolumeFile
from voxtract.read.stored import times

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.storage import Remote

log = logging.getLogger("voxtract")

_TIE = 1e-4  # voxels; of two that are equally near the one of the higher index, as labels are resampled elsewhere
_SEPARABLE = 1e-3  # voxels that any corner may be off where the axes of two grids count as parallel


@dataclass(frozen=True, slots=True)
class Unusable:
    """A label volume that cannot be had; whoever asks for it is told why.

    Parameters
    ----------
    where : str
        The file.
    why : str
        The message after its name.
    """

    where: str
    why: str
    volume_index: None = None

    @property
    def paths(self) -> tuple[str]:
        """The file."""
        return (self.where,)

    def header(self) -> Header:
        """Raise `InvalidInput`."""
        self._fail()

    def read(self) -> Volume:
        """Raise `InvalidInput`."""
        self._fail()

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:  # noqa: ARG002 - of the protocol
        """Raise `InvalidInput`."""
        self._fail()

    def _fail(self) -> NoReturn:
        raise InvalidInput(f"{self.where}: {self.why}")


@dataclass(frozen=True, slots=True)
class _Of:
    """Another file, seen differently."""

    file: VolumeFile

    @property
    def where(self) -> str:
        """Name of the file."""
        return self.file.where

    @property
    def volume_index(self) -> int | None:
        """Frame of the file."""
        return self.file.volume_index

    @property
    def paths(self) -> Sequence[str | Remote]:
        """Those of the file."""
        return self.file.paths


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time in ns, which change when a file is written; (-1, -1) where the system does not tell."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Listed(_Of):
    """A file whose header was read when it was listed, and is read again only where the file has changed since.

    Parameters
    ----------
    file : VolumeFile
    known : Header
    path : Path
        Of the file.
    stamp : (int, int)
        `stamp_of` the file when it was listed.
    """

    known: Header = field(compare=False)
    path: Path
    stamp: tuple[int, int]

    def header(self) -> Header:
        """Header of the file; raises as the file."""
        return self.known if stamp_of(self.path) == self.stamp else self.file.header()

    def read(self) -> Volume:
        """Voxels of the file; raises as the file."""
        return self.file.read()

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Voxels of the file; raises as the file."""
        return self.file.slabs(planes)


@dataclass(frozen=True, slots=True)
class Located(_Of):
    """A file whose voxels lie on a grid of the same shape that others give; raises as the file.

    Parameters
    ----------
    file : VolumeFile
    grid : Grid
    """

    grid: Grid

    def header(self) -> Header:
        """Header of the file with this grid."""
        return self._moved(self.file.header())

    def read(self) -> Volume:
        """Voxels of the file on this grid."""
        volume = self.file.read()
        return Volume(self._moved(volume.header), volume.data)

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Voxels of the file."""
        return self.file.slabs(planes)

    def _moved(self, header: Header) -> Header:
        if header.grid.shape != self.grid.shape:  # the file has changed since it was listed
            raise InvalidInput(
                f"{self.where}: has {times(header.grid.shape)} voxels, but {times(self.grid.shape)} when it was listed"
            )
        return replace(header, grid=self.grid)


@dataclass(frozen=True, slots=True)
class Resampled(_Of):
    """Labels brought to another grid, each voxel the value of the nearest old one; 0 outside of the old volume.

    Parameters
    ----------
    file : VolumeFile
        Unscaled.
    grid : Grid
    """

    grid: Grid

    def header(self) -> Header:
        """Header of the file with this grid; raises as the file."""
        return replace(self.file.header(), grid=self.grid)

    def read(self) -> Volume:
        """Read the file and resample it; raises as the file."""
        volume = self.file.read()
        parts = self._parts(volume, self.grid.shape[2])
        return Volume(replace(volume.header, grid=self.grid), next(parts))

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Read the file whole and resample it slab by slab; raises as the file."""
        yield from self._parts(self.file.read(), planes)

    def _parts(self, volume: Volume, planes: int) -> Generator[NDArray[Any], None, None]:
        way = np.linalg.inv(volume.header.grid.affine) @ self.grid.affine  # new voxel -> old voxel
        x, y, z = self.grid.shape
        across = np.abs(way[:3, :3] - np.diag(np.diag(way)[:3])) @ np.array(self.grid.shape)
        pick = _along_axes if across.max() < _SEPARABLE else _along_lines
        for first in range(0, z, planes):
            shape = (x, y, min(planes, z - first))
            out = np.zeros(shape, volume.data.dtype, order="F")
            moved = way.copy()
            moved[:3, 3] += way[:3, 2] * first
            pick(volume.data, moved, out)
            yield out


def _along_axes(data: NDArray[Any], way: NDArray[np.float64], out: NDArray[Any]) -> None:
    """Fill `out` where the axes of both grids are parallel."""
    old, new = [], []
    for axis, count in enumerate(out.shape):
        index = _nearest(way[axis, axis] * np.arange(count) + way[axis, 3])
        inside = (index >= 0) & (index < data.shape[axis])
        old.append(index[inside])
        new.append(np.flatnonzero(inside))
    out[np.ix_(*new)] = data[np.ix_(*old)]


def _along_lines(data: NDArray[Any], way: NDArray[np.float64], out: NDArray[Any]) -> None:
    """Fill `out`, plane by plane, whatever the axes."""
    x, y = np.arange(out.shape[0])[:, None], np.arange(out.shape[1])[None, :]
    size = np.array(data.shape)[:, None, None]
    for z in range(out.shape[2]):
        index = _nearest(np.stack([row[0] * x + row[1] * y + row[2] * z + row[3] for row in way[:3]]))
        inside = ((index >= 0) & (index < size)).all(axis=0)
        out[..., z][inside] = data[tuple(index[:, inside])]


def _nearest(coordinate: NDArray[np.float64]) -> NDArray[np.intp]:
    index: NDArray[np.intp] = np.floor(coordinate + (0.5 + _TIE)).astype(np.intp)
    return index


@dataclass(frozen=True, slots=True)
class LabelFile(_Of):
    """A label volume as integers, with what only its voxels tell.

    Voxels stored as floats, or scaled, become int32 or int64. Told, as a warning or, with `strict`, as an error: a
    volume without a voxel above 0, values below 0 (which are background), a label of `hoped` that is missing, one that
    has no name while others have.

    Parameters
    ----------
    file : VolumeFile
    strict : bool
    needed, hoped : (int, ...)
        Labels that a score table speaks of; a missing one is an error or a warning.
    table : str
        That table.
    named : set of int, optional
        Labels that a colour map has names for.
    colors : str
        That map.
    """

    strict: bool = False
    needed: tuple[int, ...] = ()
    hoped: tuple[int, ...] = ()
    table: str = ""
    named: frozenset[int] | None = None
    colors: str = ""

    def header(self) -> Header:
        """Header of the file, unscaled integers; raises as the file."""
        header = self.file.header()
        return replace(header, dtype=_integer(header), slope=1.0, intercept=0.0)

    def read(self) -> Volume:
        """Read the file and look at its voxels.

        Raises
        ------
        VoxtractError
            As the file.
        InvalidInput
            A value that is no whole number, or a label of `needed` that is missing; with `strict` each warning.
        """
        volume = self.file.read()
        seen = _Seen(self)
        data = self._integers(volume.data, volume.header, 0)
        seen.look(data)
        seen.tell()
        return Volume(replace(volume.header, dtype=data.dtype, slope=1.0, intercept=0.0), data)

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Voxels slab by slab; what speaks of all of them is told after the last. Raises as `read`."""
        header, seen, first = self.file.header(), _Seen(self), 0
        for slab in self.file.slabs(planes):
            data = self._integers(slab, header, first)
            seen.look(data)
            yield data
            first += slab.shape[2]
        seen.tell()

    def _integers(self, data: NDArray[Any], header: Header, first: int) -> NDArray[Any]:
        if data.dtype.kind in "iub" and not header.is_scaled:
            return data
        out = np.empty(data.shape, _integer(header), order="F")
        info = np.iinfo(out.dtype)
        for z in range(data.shape[2]):  # plane by plane: float64 of all would need much memory
            plane = data[..., z]
            value = plane * header.slope + header.intercept if header.is_scaled else plane.astype(np.float64)
            with np.errstate(invalid="ignore"):
                good = (np.rint(value) == value) & (value >= info.min) & (value < float(info.max))
            if not good.all():
                x, y = np.argwhere(~good)[0].tolist()
                raise InvalidInput(
                    f"{self.where}: voxel ({x}, {y}, {first + z}) of the file is {value[x, y]:g}, but a label is a "
                    "whole number; export the labels as integers"
                )
            out[..., z] = value
        return out


def _integer(header: Header) -> np.dtype[Any]:
    """Dtype of the labels: the stored one where it is an integer's, else one that is known before any voxel is."""
    if header.dtype.kind in "iub" and not header.is_scaled:
        return header.dtype
    return np.dtype(np.int32 if header.dtype.itemsize <= 4 and not header.is_scaled else np.int64)


@dataclass(slots=True)
class _Seen:
    """What the voxels of a label volume have shown so far."""

    of: LabelFile
    low: int = 0
    labelled: bool = False
    found: set[int] = field(default_factory=set)  # where single labels matter

    def look(self, data: NDArray[Any]) -> None:
        if not self.found.issuperset((*self.of.needed, *self.of.hoped)) or self._may_be_bare(data):
            self.found |= _labels(data)
            self.labelled = self.labelled or bool(self.found)
        if not self.labelled:  # up to the first that is
            planes = (data[..., z] for z in range(data.shape[2]))
            self.labelled = any((plane > 0 if data.dtype.kind == "i" else plane).any() for plane in planes)
        if data.dtype.kind == "i":
            self.low = min(self.low, int(data.min()))

    def _may_be_bare(self, data: NDArray[Any]) -> bool:
        """Whether there may be labels without a name; the highest one says it of a map that counts from 1."""
        named = self.of.named
        return named is not None and not (max(named) == len(named) and int(data.max()) <= len(named))

    def tell(self) -> None:
        of, told = self.of, []
        if lacking := sorted({*of.needed} - self.found):
            raise InvalidInput(
                f"{of.where}: no voxel has the label {_list(lacking)}, which {of.table} scores; "
                "correct the table or the labels"
            )
        if not self.labelled:
            told.append("no voxel is labelled: all are 0 or below")
        if self.low < 0:
            told.append(f"has values below 0, down to {self.low}, which are taken as background")
        if lacking := sorted({*of.hoped} - self.found):
            told.append(f"no voxel has the label {_list(lacking)}, which {of.table} scores")
        if of.named is not None and (bare := sorted(self.found - of.named)):
            told.append(f"{of.colors} has no name for the label {_list(bare)}; called Segment_<label>")
        for message in told:
            if of.strict:
                raise InvalidInput(f"{of.where}: {message}")
            log.warning("%s: %s", of.where, message)


def _labels(data: NDArray[Any]) -> set[int]:
    """Values above 0 of voxels; passes quickly over the many that are 0, or as those before them."""
    flat = data.ravel(order="K")
    words = flat[: flat.size // 8 * 8].view(np.uint64)
    words = words[words != 0]
    changed = np.append(True, words[1:] != words[:-1])[: words.size]
    some = np.concatenate([words[changed].view(data.dtype), flat[flat.size // 8 * 8 :]])
    if some.size and int(some.max()) < 1 << 16:
        return set(np.flatnonzero(np.bincount(some[some > 0])).tolist())
    return {value for value in np.unique(some).tolist() if value > 0}


def _list(labels: list[int]) -> str:
    return ", ".join(map(str, labels[:10])) + (", …" if len(labels) > 10 else "")
