"""A volume with its axes in another order: flips and axis swaps only, no voxel changes its value."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import Grid, Reorientation
from voxtract.model import Header, Volume, VolumeFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.storage import Remote


@dataclass(frozen=True, slots=True)
class Oriented:
    """Another file's volume with its axes along R, A and S, as ``nibabel.as_closest_canonical`` has it.

    Parameters
    ----------
    file : VolumeFile
    codes : str
        Directions in which x, y and z grow.
    """

    file: VolumeFile
    codes: str = "RAS"

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

    def header(self) -> Header:
        """Header of the file with the shape and the affine of the turned volume.

        Raises
        ------
        VoxtractError
            As the file's.
        InvalidInput
            An affine that leaves an axis without a direction.
        """
        header = self.file.header()
        return _turned(header, turn_of(header.grid, self.codes, self.where))

    def read(self) -> Volume:
        """Read the file once; the data are a view of its voxels. Raises as `header` and the file's."""
        volume = self.file.read()
        turn = turn_of(volume.header.grid, self.codes, self.where)
        return Volume(_turned(volume.header, turn), turn.array(volume.data))

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Voxels in pieces (x, y, n <= planes) along the turned z.

        Where that is the file's z, its own slabs are turned one by one; elsewhere the volume is read whole. Raises as
        `read`.
        """
        turn = turn_of(self.file.header().grid, self.codes, self.where)
        if turn.source[2] == 2 and not turn.flip[2]:
            for slab in self.file.slabs(planes):
                yield turn.array(slab)
            return
        voxels = turn.array(self.file.read().data)
        for first in range(0, voxels.shape[2], planes):
            yield voxels[:, :, first : first + planes]


def oriented(data: NDArray[Any], header: Header, codes: str = "RAS") -> Volume:
    """Put bare voxels on the grid of a header, axis i on axis i, and turn both.

    Parameters
    ----------
    data : (x, y, z) array
        In the order in which the volume of `header` is stored, as a mask computed from its voxels is.
    header : Header
        Of that volume; whatever space its format names, the affine is what counts.
    codes : str
        Directions in which x, y and z shall grow.

    Returns
    -------
    Volume
        Its data are a view of `data`; unscaled.

    Raises
    ------
    InvalidInput
        Another shape, or an affine that leaves an axis without a direction.
    """
    if data.shape != header.grid.shape:
        raise InvalidInput(
            f"{header.where}: has {header.grid.shape} voxels, but the mask {data.shape}; "
            "give the mask that was made from this volume, axes in the same order"
        )
    turn = turn_of(header.grid, codes, header.where)
    bare = Header(header.grid, data.dtype, where=header.where)
    return Volume(_turned(bare, turn), turn.array(data))


def turn_of(grid: Grid, codes: str, where: str) -> Reorientation:
    """Find the way from `grid` to `codes`; an affine without directions is an error that names the file."""
    try:
        return _turn(grid.affine[:3, :3].tobytes(), codes)
    except InvalidInput as fault:
        raise InvalidInput(f"{where}: {fault}") from fault


@lru_cache(10_000)
def _turn(steps: bytes, codes: str) -> Reorientation:
    """Way to `codes` from (3, 3) float64 steps; those of one scanner lie alike, and it takes as long as a header."""
    affine = np.eye(4)
    affine[:3, :3] = np.frombuffer(steps).reshape(3, 3)
    return Reorientation.between(Grid((1, 1, 1), affine), codes)


def _turned(header: Header, turn: Reorientation) -> Header:
    return replace(header, grid=turn.grid(header.grid))
