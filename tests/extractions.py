"""Small extractions whose every box is known, made by the pipeline itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import voxtract

CLASSES = {1: "lesion", 2: {"name": "cyst", "color": "#ff0000"}}
BACKGROUND, BRIGHT = 100, 900  # mean values outside and inside of the boxes


@dataclass(frozen=True)
class Scene:
    """A case: bricks of labels, bright in the image, in voxels start .. stop (half-open)."""

    id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    bricks: tuple[tuple[int, tuple[int, int, int], tuple[int, int, int]], ...]
    has_labels: bool = True

    def boxes(self, view: str, index: int) -> list[tuple[int, int, int, int, int]]:
        """Label, X_MIN, Y_MIN, X_MAX, Y_MAX (inclusive) of the bricks that slice `index` cuts, without padding."""
        row, column, axis = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}[view]
        return [
            (label, start[column], start[row], stop[column] - 1, stop[row] - 1)
            for label, start, stop in self.bricks
            if start[axis] <= index < stop[axis]
        ]

    def slices(self, view: str) -> int:
        """Slices of a view."""
        return self.shape[{"axial": 2, "coronal": 1, "sagittal": 0}[view]]


SCENES = (
    Scene(
        "case-a",
        (24, 32, 10),
        (1.0, 1.0, 3.0),
        ((1, (3, 5, 2), (9, 13, 6)), (2, (14, 20, 4), (20, 24, 8)), (1, (18, 6, 5), (20, 8, 6))),
    ),
    Scene("case-b", (20, 20, 14), (2.0, 1.0, 1.0), ((2, (0, 8, 3), (6, 12, 9)),)),  # touches x = 0
    Scene("case-c", (24, 32, 10), (1.0, 1.0, 3.0), ()),  # labels without a label
)


def write_scenes(folder: Path, scenes: Sequence[Scene] = SCENES) -> Path:
    """Write ``images/<case>.nii.gz`` and ``labels/<case>.nii.gz`` and return `folder`."""
    for scene in scenes:
        labels = np.zeros(scene.shape, np.uint8)
        for label, start, stop in scene.bricks:
            labels[tuple(map(slice, start, stop))] = label
        noise = np.random.default_rng(1).integers(-10, 11, scene.shape)
        image = (np.where(labels > 0, BRIGHT, BACKGROUND) + noise).astype(np.int16)
        affine = np.diag([*scene.spacing_mm, 1.0])
        for kind, data in (("images", image), ("labels", labels)):
            if kind == "images" or scene.has_labels:
                (folder / kind).mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(data, affine), folder / kind / f"{scene.id}.nii.gz")
    return folder


def make_extraction(folder: Path, scenes: Sequence[Scene] = SCENES, **options: Any) -> Path:
    """Extract `scenes` with the words of :func:`voxtract.extract` and return the output folder."""
    data = write_scenes(folder / "data", scenes)
    words: dict[str, Any] = {"class_map": CLASSES, "progress": False, **options}
    report = voxtract.extract(data, folder / "out", **words)
    assert not report.failed
    return folder / "out"
