"""Images and label volumes as NIfTI in two folders, which every reader of this field takes, ours among them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput
from voxtract.model import Case, LabelVolume
from voxtract.write import nifti
from voxtract.write.files import Content

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("voxtract")

CLASSES = "classes.json"


@dataclass(frozen=True, slots=True)
class NiftiPairs:
    """``images/<case>.nii.gz`` and ``labels/<case>.nii.gz``, and ``classes.json``, which ``--class-map`` takes.

    Axes, affine, dtype and scaling are those of the volumes as they are read. Labels of a case with one label volume
    and no categories are as they are; otherwise each voxel has the id of its class, or with `objects` a number for each
    object, counted through the case. Scores have no place, which is told.

    Parameters
    ----------
    classes : ClassMap, optional
    objects : bool
        Keep objects of one class apart.
    lossy : bool
        Where label volumes share voxels, the later one has them; otherwise that is an error.
    """

    classes: ClassMap | None = None
    objects: bool = False
    lossy: bool = False

    def case_files(self, case: Case) -> Iterator[tuple[str, Content]]:
        """Files of one case.

        Raises
        ------
        VoxtractError
            A file that cannot be read; label volumes of several grids, or that share voxels; labels that are no whole
            numbers.
        """
        if case.image is not None:
            image = case.image.read()
            header = image.header
            content = nifti.encode(image.data, header.grid.affine, slope=header.slope, intercept=header.intercept)
            yield f"images/{case.id}.nii.gz", content
        if any(volume.scores for volume in case.labels):
            log.warning("case %r: scores have no place in NIfTI; left out", case.id)
        if case.labels:
            voxels, affine = self._merged(case.labels)
            yield f"labels/{case.id}.nii.gz", nifti.encode(voxels, affine)

    def run_files(self, cases: Iterable[Case]) -> Iterator[tuple[str, Content]]:  # noqa: ARG002
        """Names of the classes."""
        if self.classes is not None and not self.objects:
            yield CLASSES, json.dumps(self.classes.to_dict(), indent=1, ensure_ascii=False) + "\n"

    def _merged(self, volumes: Sequence[LabelVolume]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """All label volumes of a case in one."""
        merged: NDArray[Any] | None = None
        grid = None
        count = 0
        for volume in volumes:
            read = volume.file.read()
            grid = grid or read.header.grid
            if difference := grid.mismatch(read.header.grid):
                raise InvalidInput(f"{volume.file.where}: is not on the grid of the first label volume: {difference}")
            if len(volumes) == 1 and volume.category is None and not self.objects:
                return read.data, grid.affine
            found, row = np.unique(_whole(read.data, volume.file.where), return_inverse=True)
            numbers = np.zeros(len(found), np.int64)
            inside = found > 0
            if self.objects:
                numbers[inside] = count + 1 + np.arange(inside.sum())
                count += int(inside.sum())
            else:
                numbers[inside] = [_category(volume, int(value)) for value in found[inside]]
            voxels = numbers[row.reshape(read.data.shape)]
            if merged is None:
                merged = voxels
                continue
            shared = int(np.count_nonzero((voxels > 0) & (merged > 0)))
            if shared and not self.lossy:
                raise InvalidInput(
                    f"{volume.file.where}: shares {shared:,} voxels with other labels of its case, but one volume "
                    "holds one label for each; convert to supervisely, or keep the later ones with lossy=True "
                    "(--with lossy=true)"
                )
            np.copyto(merged, voxels, where=voxels > 0)
        if merged is None or grid is None:
            raise TypeError("a case without labels")
        return merged.astype(_narrowest(int(merged.max()))), grid.affine


def _whole(voxels: NDArray[Any], where: str) -> NDArray[Any]:
    if voxels.dtype.kind == "f" and not (np.isfinite(voxels).all() and (voxels == np.rint(voxels)).all()):
        raise InvalidInput(f"{where}: has voxels that are no whole numbers, but labels were expected")
    return voxels


def _category(volume: LabelVolume, value: int) -> int:
    if volume.category is None:
        return value
    if isinstance(volume.category, int):
        return volume.category
    try:
        return volume.category[value]
    except KeyError as why:
        raise InvalidInput(f"{volume.file.where}: label value {value} belongs to no class") from why


def _narrowest(most: int) -> np.dtype[Any]:
    """Smallest unsigned dtype that common readers take."""
    return np.dtype(np.uint8 if most < 256 else np.uint16 if most < 65536 else np.int32 if most < 2**31 else np.int64)
