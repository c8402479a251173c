"""The report of 1,000 cases: how long it takes, how large it is; beside it the preview, and the check of the source.

CT-like volumes with lesions of three classes, extracted with one thread per core. A few different ones under many
names: every file is read anew, as names are all that the report goes by.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_pipeline import ct_like

CASES = 1000
SHAPE = (128, 128, 24)
DIFFERENT = 20
OBJECTS = 12  # in a volume
GOAL = {"seconds": 10, "bytes": 20_000_000}  # of the report


def main(repeat: int = 5, cases: int = CASES, shape: tuple[int, int, int] = SHAPE) -> dict[str, Any]:
    """Measure, and return a JSON-ready result."""
    import voxtract
    from voxtract.check import check
    from voxtract.html.report import build_report
    from voxtract.preview import preview

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_source(root / "data", cases, shape)
        report = voxtract.extract(
            root / "data", root / "out", class_map={1: "nodule", 2: "cyst", 3: "metastasis"}, progress=False
        )
        assert len(report.done) == cases
        work: dict[str, Callable[[], object]] = {
            "report": lambda: build_report(root / "out", root / "report.html"),
            "preview": lambda: preview(root / "out", root / "preview.png"),
            "check": lambda: check(root / "data", progress=False),
        }
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for turn in range(repeat + 1):
            for name, function in work.items():
                begin = time.perf_counter()
                function()
                if turn:  # the first one imports and warms up
                    seconds[name].append(time.perf_counter() - begin)
        return {
            "cases": cases,
            "shape": list(shape),
            "slices": report.slices,
            "annotations": report.annotations,
            "repeat": repeat,
            "goal": GOAL,
            "report_bytes": (root / "report.html").stat().st_size,
            "median_s": {name: round(statistics.median(runs), 3) for name, runs in seconds.items()},
        }


def make_source(folder: Path, cases: int, shape: tuple[int, int, int]) -> None:
    """Write `DIFFERENT` images and masks, each under many names."""
    import nibabel as nib

    affine = np.diag([0.8, 0.8, 3.0, 1.0])
    for seed in range(DIFFERENT):
        rng = np.random.default_rng(seed)
        volumes = {"images": ct_like(rng, shape), "labels": lesions(rng, shape)}
        for kind, data in volumes.items():
            first = folder / kind / f"case_{seed:04d}.nii.gz"
            first.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(data, affine), first)
            for copy in range(seed + DIFFERENT, cases, DIFFERENT):
                os.link(first, folder / kind / f"case_{copy:04d}.nii.gz")


def lesions(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Ellipsoids of three classes, some of which touch."""
    mask = np.zeros(shape, np.uint8)
    grid = np.ogrid[tuple(map(slice, shape))]
    for _ in range(OBJECTS):
        radius = rng.uniform(0.03, 0.09, 3) * shape
        center = rng.uniform(0.25, 0.75, 3) * shape
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, center, radius, strict=True)) <= 1
        mask[inside] = rng.integers(1, 4)
    return mask


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.repeat), indent=2))
