"""Slice images on their way to the disk, in any order, as the threads of a run hand them over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtract.geometry import Grid, Plane, View
from voxtract.model import Components, Findings
from voxtract.write.files import Staging
from voxtract.write.images import ImageWriter


def view_of(
    shape: tuple[int, int, int],
    view: View = "axial",
    *,
    case: str = "case",
    target: tuple[int, int] | None = None,
    slices: Sequence[int] | None = None,
    suffix: str,
    affine: NDArray[Any] | None = None,
) -> Findings:
    """A view without components."""
    plane = Plane(view, shape, target)
    chosen = np.arange(plane.count) if slices is None else np.array(slices, np.int64)
    grid = Grid(shape, np.diag([0.5, 0.75, 2.0, 1.0]) if affine is None else affine)
    stem = f"{case}/{view}/{case}_{view}_"
    return Findings(case, plane, grid, Components.none(), "slice", chosen, stem, suffix, labelled=False)


def noise(found: Findings, dtype: Any) -> NDArray[Any]:
    """An image for every slice of a view, chosen or not."""
    shape = (found.plane.count, *found.plane.size)
    rng = np.random.default_rng(5)
    kind = np.dtype(dtype).kind
    if kind == "f":
        return rng.normal(0, 100, shape).astype(dtype)
    ends = np.iinfo(dtype)
    return rng.integers(ends.min, ends.max, shape, dtype, endpoint=True)


def write(
    root: Path,
    writer: ImageWriter,
    found: Findings,
    images: NDArray[Any],
    *,
    order: Sequence[int] | None = None,
    pad_value: float = 0.0,
) -> list[str]:
    """Write the chosen slices in the given order, and give the names of the files."""
    with Staging(root) as staging, staging.batch() as batch:
        begun = writer.begin(found, images.dtype, pad_value, batch)
        for index in found.slices.tolist() if order is None else order:
            begun.write(index, np.ascontiguousarray(images[index]))
        return begun.finish()


def contents(root: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
