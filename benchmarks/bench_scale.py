"""Many cases: over threads and processes, memory as a run goes on, the time to resume and to verify.

- *scaling*: `COUNT` CT-like volumes and their masks (see bench_pipeline.py) with images and tables of one view, by one
  and by two threads, and by one and two processes of a Dask cluster on this machine (its start is not in the time).
- *memory*: one process goes through thousands of small cases; the curve is the resident memory after so many of them.
- *resume*: the same run once more with nothing left to do, and with the last tenth of its journal cut off.
- *verify*: size and checksum of all its files.

The machine should do nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from benchmarks.bench_pipeline import make_inputs, settle

PAGE = os.sysconf("SC_PAGE_SIZE")


def main(repeat: int = 7, cases: int = 2000, shape: tuple[int, int, int] = (512, 512, 80)) -> dict[str, Any]:
    """Measure, and return a JSON-ready result."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return {"scaling": _scaling(root / "large", shape, repeat), **_small(root / "small", cases)}


def _scaling(root: Path, shape: tuple[int, int, int], repeat: int) -> dict[str, Any]:
    import voxtract

    distributed: Any = import_module("distributed")  # it has no types

    root.mkdir()
    content = make_inputs(root, shape)
    for folder in ("images", "masks"):  # more cases of the same content
        for path in sorted((root / folder).iterdir()):
            for number in range(2):
                shutil.copyfile(path, path.with_name(f"{number}_{path.name}"))
    source = voxtract.open_source(image=root / "images", labels=root / "masks")
    words: dict[str, Any] = {"progress": False, "overwrite": True}
    work: dict[str, Callable[[], Any]] = {
        "1 thread": lambda: voxtract.extract(source, root / "out", workers=1, **words),
        "2 threads": lambda: voxtract.extract(source, root / "out", workers=2, **words),
    }
    seconds: dict[str, list[float]] = {}
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as one,
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as two,
        distributed.Client(one) as first,
        distributed.Client(two) as second,
    ):
        work["1 process"] = lambda: voxtract.extract(source, root / "out", client=first, **words)
        work["2 processes"] = lambda: voxtract.extract(source, root / "out", client=second, **words)
        for turn in range(repeat + 1):
            for name, do in work.items():
                shutil.rmtree(root / "out", ignore_errors=True)
                settle()
                begin = time.perf_counter()
                report = do()
                if turn:  # the first one warms up
                    seconds.setdefault(name, []).append(time.perf_counter() - begin)
                assert report.exit_code == 0
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "content": content,
        "cases": len(source.cases),
        "repeat": repeat,
        "median_s": {name: round(value, 3) for name, value in median.items()},
        "share of linear": {
            "threads": round(median["1 thread"] / median["2 threads"] / 2, 3),
            "processes": round(median["1 process"] / median["2 processes"] / 2, 3),
        },
    }


def _small(root: Path, cases: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    shape = (64, 64, 24)
    for folder in ("images", "labels"):
        (root / "data" / folder).mkdir(parents=True)
    for number in range(8):
        image = rng.integers(-1000, 2000, shape, dtype=np.int16)
        labels = np.zeros(shape, np.uint8)
        x, y, z = rng.integers(4, 16, 3)
        labels[x : x + 20, y : y + 12, z % 8 : z % 8 + 9] = 1 + number % 3
        for folder, voxels in (("images", image), ("labels", labels)):
            file = root / f"{folder}_{number}.nii.gz"
            nibabel.nifti1.Nifti1Image(voxels, np.eye(4)).to_filename(file)
            for case in range(number, cases, 8):
                shutil.copyfile(file, root / "data" / folder / f"case{case:05}.nii.gz")
    command = [sys.executable, "-m", "voxtract", "extract", str(root / "data"), str(root / "out"), "--quiet"]
    curve, seconds = _watched(command, root / "out/.voxtract/journal.jsonl", cases)
    flat = [mb for done, mb in curve if done >= cases // 5]
    resumed = _timed([*command, "--resume"])
    journal = root / "out/.voxtract/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: 1 + cases * 9 // 10]))
    tenth = _timed([*command, "--resume"])
    verified = _timed([sys.executable, "-m", "voxtract", "verify", str(root / "out"), "--quiet"])
    return {
        "memory": {
            "cases": cases,
            "shape": shape,
            "files": sum(len(files) for _, _, files in os.walk(root / "out")),
            "wall_s": round(seconds, 2),
            "curve": [[done, round(mb, 1)] for done, mb in curve],
            "growth from a fifth to the end, MB": round(flat[-1] - flat[0], 1),
            "peak_mb": round(max(mb for _, mb in curve), 1),
        },
        "resume": {"nothing left_s": round(resumed, 2), "a tenth left_s": round(tenth, 2)},
        "verify_s": round(verified, 2),
    }


def _watched(command: list[str], journal: Path, cases: int) -> tuple[list[tuple[int, float]], float]:
    """Resident memory of a run in MB after so many cases, and the time it took."""
    begin = time.perf_counter()
    process = subprocess.Popen(command)
    samples: dict[int, float] = {}
    while process.poll() is None:
        try:
            resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE / 1e6
            done = max(0, journal.read_bytes().count(b"\n") - 1)
        except (OSError, IndexError):
            continue
        samples[done * 20 // cases * cases // 20] = resident
        time.sleep(0.05)
    seconds = time.perf_counter() - begin
    assert process.returncode == 0
    return sorted(samples.items()), seconds


def _timed(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--cases", type=int, default=2000)
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.repeat, arguments.cases), indent=2))
