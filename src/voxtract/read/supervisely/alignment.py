"""Where a file's voxels lie, from its header, and whether labels lie on the grid of their volume."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import Grid, Reorientation
from voxtract.model import VolumeFile
from voxtract.read.archives import Member
from voxtract.read.nifti import NiftiFile
from voxtract.read.oriented import Oriented, turn_of
from voxtract.read.stored import times
from voxtract.read.supervisely.files import LabelFile, Listed, Located, Resampled, stamp_of
from voxtract.read.supervisely.tree import Entry

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLOSE = 0.1  # of a voxel that a corner of the labels may be off: tools write affines as float32
UNTURNED = Reorientation((0, 1, 2), (False, False, False))


@dataclass(frozen=True, eq=False, slots=True)
class Look:
    """What the header of a file tells.

    Parameters
    ----------
    where : str
    file : VolumeFile
        As stored.
    stored : Grid
        As stored, in millimetres.
    turn : Reorientation
        To RAS.
    ras : Grid
        Of the volume turned to RAS.
    density : float
        Bytes of integer voxels per byte of a compressed file; 0 for others.
    remarks : (str, ...)
        What was repaired, and why others may see the volume elsewhere.
    in_mm : bool
        Whether the header's unit of length is the millimetre.
    """

    where: str
    file: VolumeFile
    stored: Grid
    turn: Reorientation
    ras: Grid
    density: float
    remarks: tuple[str, ...]
    in_mm: bool

    @property
    def volume(self) -> VolumeFile:
        """The volume in RAS."""
        return self.placed(self.file)

    def placed(self, file: VolumeFile) -> VolumeFile:
        """Voxels that lie as those of this file do, in RAS."""
        file = file if self.in_mm else Located(file, self.stored)
        return file if self.turn == UNTURNED else Oriented(file)


def look(entry: Entry) -> Look:
    """Read a header; raises as the file's, also for an affine that leaves an axis without a direction."""
    file, named, mm = entry.plain, entry.file, 1.0
    with named.told() if isinstance(named, Member) else nullcontext():
        if isinstance(file, NiftiFile):
            header, found = file.examine()
            mm, remarks, packed = found.mm_per_unit, (*found.remarks, *found.doubts()), entry.name.lower()[-3:] == ".gz"
        else:
            header, nrrd = file.examine()
            remarks, packed = nrrd.remarks, nrrd.encoding == "gzip"
    grid = header.grid
    if mm != 1:
        grid = Grid(grid.shape, np.diag([mm, mm, mm, 1]) @ grid.affine)
    turn = turn_of(grid, "RAS", entry.where)
    stamp = stamp_of(entry.path)
    density = header.nbytes / max(stamp[0], 1) if packed and header.dtype.kind in "iu" else 0.0
    listed = Listed(named, header, entry.path, stamp)
    return Look(entry.where, listed, grid, turn, turn.grid(grid), density, remarks, mm == 1)


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """The grid on which labels must lie.

    Parameters
    ----------
    where : str
        The volume.
    ras : Grid
    stored : Grid, optional
        As the volume's file has it, for labels whose header is not trusted.
    """

    where: str
    ras: Grid
    stored: Grid | None


def aligned(labels: Look, file: LabelFile, target: Target, trust: str | None, resample: bool) -> tuple[VolumeFile, str]:
    """Put labels on the grid of their volume.

    Parameters
    ----------
    labels, file : Look, LabelFile
        Header and voxels of the labels.
    target : Target
    trust : {"voxels"}, optional
        Where shapes are equal but headers differ: believe that voxel i of the labels is voxel i of the volume's file.
    resample : bool
        Where grids differ: take each voxel's value from the nearest one of the labels.

    Returns
    -------
    the labels in RAS, and what was done to them (empty: nothing but turning)

    Raises
    ------
    InvalidInput
        The grids differ, and nothing allows for it.
    """
    fault = mismatch(labels.ras, target.ras)
    if fault is None:
        placed = labels.placed(file)
        exact = labels.ras.mismatch(target.ras) is None  # what a run asks for
        return (placed if exact else Located(placed, target.ras)), ""
    if trust == "voxels" and target.stored is not None and labels.stored.shape == target.stored.shape:
        return Oriented(Located(file, target.stored)), f"its header is not used, as trust='voxels' asks for ({fault})"
    if resample:
        return Resampled(labels.placed(file), target.ras), f"resampled to the grid of {target.where} ({fault})"
    raise InvalidInput(
        f"{labels.where}: lies on another grid than its volume {target.where}: {fault}; export both from one volume, "
        "or pass resample_labels=True (--set resample_labels=true)"
        + (", or trust='voxels' (--set trust=voxels) if only the header is wrong" if "shape" not in fault else "")
    )


def mismatch(labels: Grid, volume: Grid) -> str | None:
    """Say how two grids in RAS differ: shape, spacing, origin, direction. None where corners fit within 0.1 voxel."""
    if labels.shape != volume.shape:
        return f"shape {times(labels.shape)} instead of {times(volume.shape)} voxels"
    if np.array_equal(labels.affine, volume.affine):
        return None
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.shape) - 1)
    try:
        found = np.linalg.solve(volume.affine, _points(labels, corners).T)[:3].T
    except np.linalg.LinAlgError:
        return "its volume's affine has no inverse"
    if (np.abs(found - corners) <= CLOSE).all():
        return None
    told = []
    if not np.allclose(labels.spacing_mm, volume.spacing_mm, rtol=1e-3):
        told.append(f"spacing {_triple(labels.spacing_mm)} instead of {_triple(volume.spacing_mm)} mm")
    step = np.array(volume.spacing_mm)
    if (np.abs(labels.affine[:3, 3] - volume.affine[:3, 3]) > CLOSE * step).any():
        told.append(f"origin {_triple(labels.affine[:3, 3])} instead of {_triple(volume.affine[:3, 3])} mm")
    ways = [grid.affine[:3, :3] / np.array(grid.spacing_mm) for grid in (labels, volume)]
    if not np.allclose(ways[0], ways[1], atol=1e-3) or not told:
        told.append("direction " + " instead of ".join(" ".join(f"{v:.4g}" for v in way.T.reshape(-1)) for way in ways))
    return ", ".join(told)


def _points(grid: Grid, voxels: NDArray[Any]) -> NDArray[np.float64]:
    return np.concatenate([grid.points_mm(voxels), np.ones((len(voxels), 1))], axis=1)


def _triple(values: Any) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
