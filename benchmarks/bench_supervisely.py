"""Supervisely's NIfTI layouts: a tree of 2,000 items listed, and extraction against the plain NIfTI path.

Listing: small real ``.nii.gz`` files, linked under 2,000 names, each with one file of labels; voxels are not read,
which the bytes that the process reads show. nibabel opening the same files is the measure.

Extraction: the same volumes and masks, linked into ``images`` and ``labels``, into the layout by name and into the one
by plane, stored along R, A, S and along L, P, S (which the plain path turns by ``reorient="RAS"``). All three make the
same slices and boxes, which is checked; they take turns in one process, opening the source included. A ratio is the
plain path's time over that of the layout.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import voxtract
from benchmarks.bench_pipeline import ct_like, instances, settle

ITEMS = 2000
CASES = 2
SHAPE = (512, 512, 160)
AXES = {"RAS": (0.8, 0.8, 1.5), "LPS": (-0.8, -0.8, 1.5)}
WORK: dict[str, dict[str, Any]] = {
    "slices and boxes": {"annotations": "csv", "data_mode": "box"},
    "boxes alone": {"images": None, "annotations": "csv", "data_mode": "box"},
}
LAYOUTS = {
    "plain": ("images/case_{}.nii.gz", "labels/case_{}.nii.gz"),
    "by name": ("case_{}.nii.gz", "case_{}/lesion.nii.gz"),
    "by plane": ("case_{}/axl_anatomic.nii.gz", "case_{}/axl_inference.nii.gz"),
}


def main(repeat: int = 7, shape: tuple[int, int, int] = SHAPE, items: int = ITEMS) -> dict[str, Any]:
    """Measure, and return a JSON-ready result."""
    logging.getLogger("voxtract").setLevel(logging.ERROR)  # that planes are missing is said in each turn
    with tempfile.TemporaryDirectory() as scratch:
        return {
            "benchmark": "supervisely",
            "repeat": repeat,
            "listing": _listing(Path(scratch) / "listing", items, repeat),
            "extraction": _extraction(Path(scratch) / "extraction", shape, repeat),
        }


def _listing(root: Path, items: int, repeat: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 1000, (64, 64, 32), np.int16)
    labels = instances(rng, (64, 64, 32), 5)
    originals = {}
    for kind, data in (("image", image), ("labels", labels)):
        originals[kind] = root / f"{kind}.nii.gz"
        originals[kind].parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, np.diag([*AXES["LPS"], 1])), originals[kind])
    result: dict[str, Any] = {"items": items, "files": 2 * items}
    for layout in ("by name", "by plane"):
        tree = root / layout
        for number in range(items):
            for kind, form in zip(originals, LAYOUTS[layout], strict=True):
                path = tree / f"site_{number % 10}" / form.format(number)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(originals[kind], path)

        def ours(tree: Path = tree) -> None:
            source = voxtract.open_source(tree)
            if len(source.cases) != items or any(len(case.labels) != 1 for case in source.cases):
                raise RuntimeError(f"{tree}: {len(source.cases)} cases")

        def nibabel(tree: Path = tree) -> None:
            for path in tree.rglob("*.nii.gz"):
                _ = nib.nifti1.load(path).affine

        begin = _bytes_read()
        ours()
        nbytes = _bytes_read() - begin
        seconds = _taking_turns({"voxtract": ours, "nibabel opens the files": nibabel}, repeat)
        result[layout] = {
            "median_s": {name: round(statistics.median(of), 2) for name, of in seconds.items()},
            "bytes_read_per_file": round(nbytes / (2 * items)),
            "bytes_of_voxels_per_file": (image.nbytes + labels.nbytes) // 2,
        }
    return result


def _extraction(root: Path, shape: tuple[int, int, int], repeat: int) -> dict[str, Any]:
    for case in range(CASES):
        rng = np.random.default_rng(case)
        volumes = ct_like(rng, shape), instances(rng, shape)
        for axes, steps in AXES.items():
            written = [root / axes / "plain" / form.format(case) for form in LAYOUTS["plain"]]
            for path, data in zip(written, volumes, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(data, np.diag([*steps, 1])), path)
            for layout in ("by name", "by plane"):
                for path, form in zip(written, LAYOUTS[layout], strict=True):
                    link = root / axes / layout / form.format(case)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    os.link(path, link)
    result: dict[str, Any] = {"shape": list(shape), "cases": CASES}
    for axes in AXES:
        for name, words in WORK.items():
            result[f"{axes}, {name}"] = _against_plain(root, axes, words, repeat)
    return result


def _against_plain(root: Path, axes: str, words: dict[str, Any], repeat: int) -> dict[str, Any]:
    turns = iter(range(10**6))

    def run(layout: str) -> Path:
        out = root / "out" / str(next(turns))
        turned: dict[str, Any] = {"reorient": "RAS"} if layout == "plain" and axes != "RAS" else {}
        report = voxtract.extract(root / axes / layout, out, progress=False, **words, **turned)
        if report.failed:
            raise RuntimeError(str(report.failed[0].error))
        return out

    expected = _content(run("plain"))
    for layout in ("by name", "by plane"):
        if _content(run(layout)) != expected:
            raise RuntimeError(f"{axes}, {layout}: other slices or boxes than by the plain path")
    seconds = _taking_turns({layout: partial(run, layout) for layout in LAYOUTS}, repeat)
    shutil.rmtree(root / "out")
    return {
        "checked": f"the same {len(expected)} files of slices and boxes",
        "median_s": {layout: round(statistics.median(of), 3) for layout, of in seconds.items()},
        "ratio": {
            layout: round(statistics.median(p / o for p, o in zip(seconds["plain"], seconds[layout], strict=True)), 2)
            for layout in ("by name", "by plane")
        },
    }


def _content(out: Path) -> list[tuple[str, bytes]]:
    """Slices and boxes of a run, whatever its cases are called."""
    found = [path for path in out.glob("*/*/*") if path.suffix in (".tif", ".csv")]
    return [(path.name.rpartition("_")[2], path.read_bytes()) for path in sorted(found)]


def _taking_turns(work: dict[str, Callable[[], object]], repeat: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeat):
        settle()
        for name, function in work.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def _bytes_read() -> int:
    """Bytes that this process has asked the system for; 0 where it does not tell."""
    told = Path("/proc/self/io")
    return int(told.read_text().split()[1]) if told.exists() else 0


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeat", type=int, default=7)
    options.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    options.add_argument("--items", type=int, default=ITEMS)
    given = options.parse_args()
    print(json.dumps(main(given.repeat, tuple(given.shape), given.items), indent=1))
