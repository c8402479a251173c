"""Zarr arrays and OME-Zarr images as volumes, on disk or at a URL (https://zarr.dev, https://ngff.openmicroscopy.org).

Of an OME-Zarr image (0.4 in zarr 2, 0.5 in zarr 3) the largest resolution is taken. Its axes z, y, x become our x, y,
z, and scale and translation the affine, in millimetres, with axes that point to the right, to the front and up, since
OME-Zarr knows no patient. A bare array is an image without a scale; its axes are told by ``dimension_names`` (zarr 3)
or ``_ARRAY_DIMENSIONS`` (xarray), else taken as z, y, x.

A chunk that is not there holds the fill value, as the format has it; nobody can tell that from one that was lost.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import BackendUnavailable, DamagedFile, InvalidInput, NotFound, UnreadableFile
from voxtract.geometry import Grid, Shape3
from voxtract.model import Header, Volume
from voxtract.storage import Place, Remote, tried

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("voxtract")

METADATA = ("zarr.json", ".zarray", ".zattrs")
# Millimetres of what OME-Zarr allows as a unit of space (UDUNITS-2), as far as volumes are measured in it.
UNITS_MM = {
    "angstrom": 1e-7,
    "picometer": 1e-9,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "decimeter": 100.0,
    "meter": 1000.0,
    "inch": 25.4,
}
_NAMES = ("z", "y", "x")


def is_zarr(path: Place) -> bool:
    """Whether a folder is a zarr array or group: by its name, or by what lies in it.

    Raises
    ------
    OSError
        The system or the store does not say.
    """
    return path.name.lower().endswith(".zarr") or any((path / name).exists() for name in METADATA)


@dataclass(frozen=True, slots=True)
class ZarrFile:
    """One volume in a zarr array, or the largest one of an OME-Zarr image.

    Parameters
    ----------
    path : Path, or Remote for a URL
        Folder of the array or image.
    volume_index : int, optional
        Which one to take, 0-based, where there are axes for time or channels: they are counted in their order.
    """

    path: Place
    volume_index: int | None = None

    @property
    def where(self) -> str:
        """The path, as messages name it."""
        return str(self.path)

    @property
    def paths(self) -> tuple[str | Remote, ...]:
        """The metadata: a chunk that was written again is not noticed."""
        found = (path for path in (self.path / name for name in METADATA) if path.exists())
        return tuple(path if isinstance(path, Remote) else str(path) for path in found)

    def header(self) -> Header:
        """Read and check the metadata.

        Raises
        ------
        NotFound
            Nothing is there.
        UnreadableFile
            The system or the store does not hand it out.
        DamagedFile
            The metadata do not read.
        InvalidInput
            No array or image, axes or units that are not known, several volumes and no `volume_index`, or values that
            are no real numbers.
        BackendUnavailable
            The package zarr is not installed.
        """
        layout = self._layout()
        for remark in layout.remarks:
            log.warning("%s: %s", self.where, remark)
        return layout.header

    def read(self) -> Volume:
        """Read all voxels; raises as `header`, and `DamagedFile` where a chunk does not decode."""
        layout = self._layout()
        return Volume(layout.header, self._voxels(layout, 0, layout.header.grid.shape[2]))

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Read the voxels slab by slab along z, each chunk once; raises as `read`.

        Yields
        ------
        (x, y, n <= planes) array
        """
        layout = self._layout()
        depth, z = layout.header.depth, layout.header.grid.shape[2]
        step = max(1, planes // depth) * depth
        for first in range(0, z, step):
            voxels = self._voxels(layout, first, min(z, first + step))
            for begin in range(0, voxels.shape[2], planes):
                yield voxels[:, :, begin : begin + planes]

    def label_names(self) -> tuple[str, ...]:
        """Names of the label images that lie in ``labels`` of an OME-Zarr image."""
        with self._told():
            try:
                found = _opened(self.path / "labels")
            except FileNotFoundError:
                return ()
            names = _ome(found).get("labels", ())
        return tuple(str(name) for name in names)

    def _layout(self) -> _Layout:
        with self._told():
            return _Layout.of(_opened(self.path), self.volume_index, self.where)

    def _voxels(self, layout: _Layout, first: int, stop: int) -> NDArray[Any]:
        """Planes ``first <= z < stop`` as (x, y, n), in Fortran order."""
        index = layout.index(first, stop)
        with self._told():
            stored = np.asarray(tried(lambda: layout.array[index]))
        voxels = stored.transpose(layout.order).astype(layout.header.dtype, order="F", copy=False)
        return np.asfortranarray(voxels)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Let what zarr, its codecs, the system or a store raise leave as one of our errors."""
        where = self.where
        try:
            yield
        except (InvalidInput, BackendUnavailable):
            raise
        except FileNotFoundError as why:
            raise NotFound(f"{where}: there is no zarr array or image; check the spelling") from _bare(why, self.path)
        except (ValueError, TypeError, AttributeError, LookupError, RuntimeError, EOFError) as why:  # over any JSON
            said = "" if isinstance(self.path, Remote) else f" ({why})"
            raise DamagedFile(f"{where}: the zarr array is damaged{said}; copy or export it again") from _bare(
                why, self.path
            )
        except OSError as why:
            raise UnreadableFile(f"{where}: cannot be read: {why.strerror or why}") from _bare(why, self.path)
        except MemoryError as why:
            raise UnreadableFile(
                f"{where}: its voxels do not fit into memory ({why}); use a machine with more"
            ) from why


@dataclass(frozen=True, eq=False, slots=True)
class _Layout:
    """Where the wanted volume lies in an array.

    Parameters
    ----------
    array : zarr.Array
    header : Header
    order : (int, int, int)
        Axes of what is read, to be put as x, y, z.
    fixed : mapping of axis to index
        Of the other axes.
    depth_axis : int
        Of the array: z.
    remarks : (str, ...)
        What it does not say, and what was taken.
    """

    array: Any
    header: Header
    order: tuple[int, ...]
    fixed: Mapping[int, int]
    depth_axis: int
    remarks: tuple[str, ...]

    @classmethod
    def of(cls, found: Any, volume_index: int | None, where: str) -> _Layout:
        array, axes, scale, shift, remarks = _described(found, where)
        if array.ndim != len(axes):
            raise DamagedFile(f"{where}: has {array.ndim} axes, but names {len(axes)}: {', '.join(axes)}")
        if any(axes.count(name) != 1 for name in _NAMES):
            raise InvalidInput(
                f"{where}: its axes are {', '.join(axes)}, but a volume has z, y and x, each once; choose another array"
            )
        if min(array.shape) < 1:
            raise InvalidInput(f"{where}: shape {_times(array.shape)} holds no voxel; export it again")
        x, y, z = (axes.index(name) for name in ("x", "y", "z"))
        fixed = _fixed(axes, array.shape, volume_index, where)
        affine = np.eye(4)
        affine[[0, 1, 2], [0, 1, 2]] = [scale[axis] for axis in (x, y, z)]
        affine[:3, 3] = [shift[axis] for axis in (x, y, z)]
        if not np.isfinite(affine).all() or min(affine[0, 0], affine[1, 1], affine[2, 2]) <= 0:
            raise InvalidInput(f"{where}: its scale {scale} must be finite and above 0; export it again")
        shape: Shape3 = (array.shape[x], array.shape[y], array.shape[z])
        header = Header(Grid(shape, affine), _dtype(array, where), where=where, depth=min(shape[2], array.chunks[z]))
        kept = sorted((x, y, z))
        return cls(array, header, tuple(kept.index(axis) for axis in (x, y, z)), fixed, z, tuple(remarks))

    def index(self, first: int, stop: int) -> tuple[int | slice, ...]:
        """What to read for planes ``first <= z < stop``."""
        parts: list[int | slice] = [slice(None)] * self.array.ndim
        for axis, at in self.fixed.items():
            parts[axis] = at
        parts[self.depth_axis] = slice(first, stop)
        return tuple(parts)


def _opened(path: Place) -> Any:
    """Open an array or group to read."""
    try:
        import zarr
        from zarr.storage import FsspecStore
    except ImportError as why:
        raise BackendUnavailable(
            f"{path}: reading zarr needs the package zarr, which is not installed; pip install 'voxtract[zarr]'"
        ) from why
    if isinstance(path, Remote):
        url = path.url
        return tried(lambda: zarr.open(FsspecStore.from_url(url, read_only=True), mode="r"))
    if not path.exists():  # zarr opens what is not there as an empty group
        raise FileNotFoundError(path)
    return zarr.open(str(path), mode="r")


def _ome(found: Any) -> Mapping[str, Any]:
    """OME's part of the attributes."""
    told = dict(found.attrs)
    ome = told.get("ome", told)
    return ome if isinstance(ome, Mapping) else {}


def _described(found: Any, where: str) -> tuple[Any, list[str], list[float], list[float], list[str]]:
    """Array, names of its axes, scale and translation of each in mm, and what it does not say."""
    if hasattr(found, "chunks"):
        metadata = found.metadata
        told = getattr(metadata, "dimension_names", None) or dict(found.attrs).get("_ARRAY_DIMENSIONS")
        axes = [str(name).lower() for name in told or _NAMES[-found.ndim :]]
        remarks = ["does not say how large its voxels are; taken as 1 mm"]
        if not told:
            remarks.insert(0, f"does not name its axes; taken as {', '.join(axes)}")
            axes = [*(f"axis {n}" for n in range(found.ndim - len(axes))), *axes]
        return found, axes, [1.0] * len(axes), [0.0] * len(axes), remarks
    images = _ome(found).get("multiscales")
    if not images:
        inside = ", ".join(sorted(found.keys())[:5]) or "nothing"
        raise InvalidInput(
            f"{where}: is a zarr group without an OME-Zarr image; give an array or image in it (it holds {inside})"
        )
    image = images[0]
    largest = image["datasets"][0]
    array = found[largest["path"]]
    if not hasattr(array, "chunks"):
        raise ValueError(f"{largest['path']!r} is no array")
    told_axes = image.get("axes") or [*"tczyx"][-array.ndim :]
    axes = [str(axis["name"] if isinstance(axis, Mapping) else axis).lower() for axis in told_axes]
    scale, shift = np.ones(len(axes)), np.zeros(len(axes))
    transforms = [*largest.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())]
    for one in transforms:
        if one["type"] == "scale":
            scale, shift = scale * np.array(one["scale"], float), shift * np.array(one["scale"], float)
        elif one["type"] == "translation":
            shift = shift + np.array(one["translation"], float)
        elif one["type"] != "identity":
            raise InvalidInput(f"{where}: its transformation {one['type']!r} is not known; scale and translation are")
    remarks = [] if transforms else ["does not say how large its voxels are; taken as 1 mm"]
    for number, axis in enumerate(told_axes):
        if axes[number] in _NAMES:
            unit = axis.get("unit") if isinstance(axis, Mapping) else None
            if unit is None and transforms:
                remarks.append(f"does not say the unit of axis {axes[number]}; taken as millimeter")
            factor = _millimetres(unit, where)
            scale[number] *= factor
            shift[number] *= factor
    return array, axes, scale.tolist(), shift.tolist(), remarks


def _millimetres(unit: Any, where: str) -> float:
    if unit is None:
        return 1.0
    if unit not in UNITS_MM:
        raise InvalidInput(f"{where}: its unit {unit!r} is not known; known: {', '.join(UNITS_MM)}")
    return UNITS_MM[unit]


def _fixed(axes: Sequence[str], shape: Sequence[int], volume_index: int | None, where: str) -> dict[int, int]:
    """Index along each axis that is not of space."""
    others = [axis for axis, name in enumerate(axes) if name not in _NAMES]
    sizes = [shape[axis] for axis in others]
    count = math.prod(sizes)
    has = f"has {count} volumes ({' x '.join(f'{axes[axis]} {shape[axis]}' for axis in others)})"
    if volume_index is None and count > 1:
        raise InvalidInput(f"{where}: {has}, but one is wanted; choose volume_index=0 to {count - 1}")
    if volume_index is not None and not 0 <= volume_index < count:
        raise InvalidInput(f"{where}: {has}, so volume_index={volume_index} is out of range; allowed: 0 to {count - 1}")
    return dict(zip(others, map(int, np.unravel_index(volume_index or 0, sizes) if sizes else ()), strict=True))


def _dtype(array: Any, where: str) -> np.dtype[Any]:
    stored = np.dtype(array.dtype)
    if stored.kind == "b":
        return np.dtype(np.uint8)
    if stored.kind not in "iuf" or stored.itemsize > 8:
        raise InvalidInput(f"{where}: its voxels are {stored}, but integers or floats of at most 64 bits are needed")
    return np.dtype(np.float32) if stored == np.float16 else stored.newbyteorder("=")


def _bare(why: BaseException, path: Place) -> BaseException | None:
    """The cause of an error; not at a URL, where libraries quote it in full."""
    return None if isinstance(path, Remote) else why


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
