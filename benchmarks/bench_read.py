"""Reading one .nii.gz: ours against nibabel and against the bare inflate of the same bytes, single thread."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_pipeline import inflate, make_inputs
from voxtract.read import NiftiFile


def main(repeat: int = 7, shape: tuple[int, int, int] = (512, 512, 160)) -> dict[str, Any]:
    """Measure, and return a JSON-ready result."""
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder), shape)
        return {kind: _compare(Path(folder, kind, "case_0.nii.gz"), repeat) for kind in ("images", "masks")}


def _compare(path: Path, repeat: int) -> dict[str, Any]:
    import nibabel

    work: dict[str, Callable[[], Any]] = {
        "voxtract": lambda: NiftiFile(path).read().data,
        "bare inflate": lambda: inflate(path),
        "nibabel dataobj": lambda: np.asarray(nibabel.nifti1.load(path).dataobj),
        "nibabel get_fdata": lambda: nibabel.nifti1.load(path).get_fdata(),
    }
    np.testing.assert_array_equal(work["voxtract"](), work["nibabel dataobj"]())
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeat):
        for name, function in work.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    ours = seconds["voxtract"]
    return {
        "checked": "voxels equal nibabel's",
        "median_s": {name: round(statistics.median(s), 4) for name, s in seconds.items()},
        "ratio": {
            name: round(statistics.median(p / o for p, o in zip(seconds[name], ours, strict=True)), 2)
            for name in work
            if name != "voxtract"
        },
    }
