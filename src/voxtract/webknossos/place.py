"""Where a box of voxels lies in a dataset: from its own voxels to those of mag 1, to nanometres and to millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.geometry import Box, Shape3
from voxtract.webknossos.mag import Mag

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MM = 1e-6  # of a nanometre


@dataclass(frozen=True, slots=True)
class Place:
    """A box of voxels of a dataset.

    Parameters
    ----------
    box : Box
        In voxels of `mag`.
    mag : Mag
    voxel_size : (x, y, z)
        Nanometres, of mag 1.
    dataset_name : str
    organization_id : str, optional

    Examples
    --------
    >>> place = Place(Box((10, 20, 5), (14, 24, 6)), Mag("2-2-1"), (4.0, 4.0, 35.0))
    >>> place.full(np.array([[0, 0, 0]])).tolist(), place.points(np.array([[0, 0, 0]])).tolist()
    ([[20, 40, 5]], [[20.5, 40.5, 5.0]])
    """

    box: Box
    mag: Mag
    voxel_size: tuple[float, float, float]
    dataset_name: str = ""
    organization_id: str | None = None

    @property
    def shape(self) -> Shape3:
        """Voxels along x, y, z."""
        x, y, z = self.box.shape
        return x, y, z

    def full(self, edges: NDArray[Any]) -> NDArray[np.int64]:
        """First voxels of mag 1 (n, 3) in voxels (n, 3) of the box; also for the ends of boxes, one past the last."""
        found: NDArray[np.int64] = (edges + np.array(self.box.start)) * np.array(self.mag)
        return found

    def points(self, voxels: NDArray[Any]) -> NDArray[np.float64]:
        """Points in voxels of mag 1 (n, 3) of points in voxels of the box (n, 3); voxel i is the point i in both."""
        mag = np.array(self.mag)
        found: NDArray[np.float64] = (voxels + np.array(self.box.start)) * mag + (mag - 1) / 2
        return found

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) from voxels of the box to millimetres; voxel 0 of the dataset's mag 1 is at 0."""
        affine = np.eye(4)
        affine[:3, :3] = np.diag(np.array(self.mag) * self.voxel_size) * _MM
        affine[:3, 3] = self.points(np.zeros((1, 3)))[0] * self.voxel_size * _MM
        return affine
