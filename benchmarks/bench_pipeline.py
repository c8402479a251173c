"""Whole processes on a folder of .nii.gz: voxtract against nidataset 0.9.1 and against the physical floor.

CT-like int16 volumes (512 x 512 x 160, 84 MB each) and their instance masks; two of them, and eight for the slices.
Every command is a fresh process, timed from outside with its peak memory; the commands take turns, and a ratio is the
median of the ratios of each turn. The floor is what any tool must do at least: inflate the files with ISA-L on all
cores, write the same bytes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

SHAPE = (512, 512, 160)
CASES = 2
MANY = 8

OURS = {
    "slices": ["-m", "voxtract", "slices", "{images}", "{out}", "--quiet"],
    "slices of many": ["-m", "voxtract", "slices", "{many}", "{out}", "--quiet"],
    "annotations": ["-m", "voxtract", "annotations", "{masks}", "{out}", "--quiet", "--data-mode", "box"],
    "boxes of labels": [
        *["-m", "voxtract", "annotations", "{masks}", "{out}", "--quiet", "--data-mode", "box"],
        *["--extraction-mode", "volume", "--objects", "labels"],
    ],
}
THEIRS = {
    "slices": "s.extract_slices_dataset('{images}', '{out}', 'axial')",
    "slices of many": "s.extract_slices_dataset('{many}', '{out}', 'axial')",
    "annotations": "s.extract_annotations_dataset('{masks}', '{out}', 'axial', data_mode='box')",
    "boxes of labels": (
        "s.extract_annotations_dataset('{masks}', '{out}', 'axial', extraction_mode='volume', data_mode='box')"
    ),
}


def main(repeat: int = 7, peer_repeat: int = 7, shape: tuple[int, int, int] = SHAPE) -> dict[str, Any]:
    """Measure, and return a JSON-ready result."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # in a process of its own: a child's peak memory counts what its parent held when it was started
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
            content = other.submit(make_inputs, root, shape).result()
        result: dict[str, Any] = {"content": content, "repeat": repeat, "whole processes": {}}
        for work in OURS:
            result["whole processes"][work] = _against_nidataset(work, root, peer_repeat)
        result["against the floor"] = _against_floor(root, repeat)
        return result


def make_inputs(root: Path, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Write `CASES` images and masks; return what they are."""
    import nibabel as nib

    content: dict[str, Any] = {"shape": list(shape), "cases": CASES}
    for case in range(CASES):
        rng = np.random.default_rng(case)
        image, mask = ct_like(rng, shape), instances(rng, shape)
        for kind, data in (("images", image), ("masks", mask)):
            (root / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(data, np.diag([0.8, 0.8, 1.5, 1])), root / kind / f"case_{case}.nii.gz")
    for kind, itemsize in (("images", 2), ("masks", 1)):
        packed = sum(p.stat().st_size for p in (root / kind).iterdir())
        content[kind] = {
            "bytes": CASES * int(np.prod(shape)) * itemsize,
            "gzip_ratio": round(CASES * int(np.prod(shape)) * itemsize / packed, 2),
        }
    (root / "many").mkdir()
    for copy in range(MANY):  # the same bytes under other names; all tools read each anew
        os.link(root / "images" / f"case_{copy % CASES}.nii.gz", root / "many" / f"case_{copy}.nii.gz")
    content["many"] = MANY
    content["masks"]["labels"] = int(mask.max())
    content["masks"]["foreground"] = round(float((mask > 0).mean()), 4)
    return content


def ct_like(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.int16]:
    """Air around a body of smooth tissue with scanner noise; compresses about 2:1 as CT does."""
    coarse = rng.standard_normal(tuple(n // 16 + 2 for n in shape)).astype(np.float32)
    tissue = ndimage.zoom(coarse, [n / c for n, c in zip(shape, coarse.shape, strict=True)], order=1)
    x, y = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    body = ((x / 0.8) ** 2 + (y / 0.6) ** 2 < 1)[:, :, None]
    noise = rng.standard_normal(shape).astype(np.float32)
    return np.where(body, 40 + 60 * tissue + 12 * noise, -1000 + 3 * noise).astype(np.int16)


def instances(rng: np.random.Generator, shape: tuple[int, int, int], count: int = 20) -> NDArray[np.uint8]:
    """Ellipsoids, each its own label; those that would touch an earlier one are left out."""
    mask = np.zeros(shape, np.uint8)
    label = 1
    while label <= count:
        radius = rng.uniform(0.02, 0.05, 3) * shape
        center = rng.uniform(radius + 1, np.array(shape) - radius - 1)
        low, high = np.floor(center - radius).astype(int) - 1, np.ceil(center + radius).astype(int) + 2
        box = tuple(slice(max(0, a), min(b, n)) for a, b, n in zip(low, high, shape, strict=True))
        if mask[box].any():
            continue
        grid = np.ogrid[box]
        inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, center, radius, strict=True)) < 1
        mask[box][inside] = label
        label += 1
    return mask


def settle() -> None:
    """Touch 2 GB of memory, in a process of its own.

    The host of a virtual machine takes back memory that lies unused and finds it again page by page, which costs more
    than what is measured here, and not the same in every run.
    """
    touch = "b = bytearray(2 << 30); b[::4096] = bytes(len(b) // 4096)"
    subprocess.run([sys.executable, "-c", touch], check=True)


def timed(command: list[str]) -> dict[str, float]:
    """Run a process: wall seconds, processor seconds, peak memory in MB."""
    settle()
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return {
        "wall_s": time.perf_counter() - begin,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }


def _against_nidataset(work: str, root: Path, repeat: int) -> dict[str, Any]:
    places = {kind: root / kind for kind in ("images", "masks", "many")}
    out = root / "out" / work
    ours = [sys.executable, *(word.format(**places, out="{out}") for word in OURS[work])]
    theirs = [sys.executable, "-c", "import nidataset.slices as s; " + THEIRS[work].format(**places, out="{out}")]
    runs: dict[str, list[dict[str, float]]] = {"voxtract": [], "nidataset": []}
    for turn in range(repeat):
        # A new folder each time, none deleted before the end: a file system, and the host of a virtual machine that
        # gets back the memory of a tmpfs, are slow for a while after.
        for name, words in (("voxtract", ours), ("nidataset", theirs)):
            runs[name].append(timed([word.replace("{out}", f"{out}/{name}-{turn}") for word in words]))
    check = {"slices": _same_slices, "slices of many": _same_slices, "boxes of labels": _same_boxes}.get(
        work, _boxes_exist
    )
    checked = check(out / "voxtract-0", out / "nidataset-0")
    shutil.rmtree(out)
    ratios = [t["wall_s"] / o["wall_s"] for o, t in zip(runs["voxtract"], runs["nidataset"], strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 1),
        "ratios": [round(r, 1) for r in ratios],
        "checked": checked,
        **{name: _median(of) for name, of in runs.items()},
    }


def _same_slices(ours: Path, theirs: Path) -> str:
    names = sorted(p.relative_to(ours) for p in ours.rglob("*.tif"))
    assert names == sorted(p.relative_to(theirs) for p in theirs.rglob("*.tif"))
    for name in names[:: max(1, len(names) // 40)]:
        np.testing.assert_array_equal(tifffile.imread(ours / name), tifffile.imread(theirs / name))
    return f"same {len(names)} file names; one in {max(1, len(names) // 40)} compared pixel for pixel"


def _same_boxes(ours: Path, theirs: Path) -> str:
    count = 0
    for path in sorted(ours.rglob("*.csv")):
        mine, other = pd.read_csv(path), pd.read_csv(theirs / path.relative_to(ours))
        assert list(mine) == list(other)
        one, two = (set(map(tuple, t.to_numpy().tolist())) for t in (mine, other))
        assert one == two, path
        count += len(mine)
    return f"the same {count} boxes"


def _boxes_exist(ours: Path, theirs: Path) -> str:
    rows = sum(len(pd.read_csv(p)) for p in ours.rglob("*.csv"))
    assert rows
    assert list(theirs.rglob("*.csv"))
    return (
        f"{rows} rows of ours; not comparable row by row: nidataset writes the 3D box of each label into every slice "
        "it touches, we write each slice's own components"
    )


def _against_floor(root: Path, repeat: int) -> dict[str, Any]:
    """In one process: our function against the bare inflate and the bare write of the same bytes, all cores."""
    import voxtract

    images, masks, out = root / "images", root / "masks", root / "floor" / "0"
    quiet: dict[str, Any] = {"progress": False}
    work: dict[str, Callable[[], object]] = {
        "inflate images": lambda: _inflate_all(images),
        "write slices": lambda: _write_raw(out, SHAPE[:2], 2, CASES * SHAPE[2]),
        "voxtract slices": lambda: voxtract.extract_slices_dataset(images, out, **quiet),
        "inflate masks": lambda: _inflate_all(masks),
        "write tables": lambda: _write_raw(out, (1, 100), 1, CASES * SHAPE[2]),
        "voxtract annotations": lambda: voxtract.extract_annotations_dataset(masks, out, data_mode="box", **quiet),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeat + 1):
        for name, function in work.items():
            out = root / "floor" / f"{turn} {name}"  # new each time
            out.mkdir(parents=True)
            settle()
            begin = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    larger, both = {}, {}
    for kind, floors in (
        ("slices", ("inflate images", "write slices")),
        ("annotations", ("inflate masks", "write tables")),
    ):
        turns = list(zip(seconds[f"voxtract {kind}"], *(seconds[floor] for floor in floors), strict=True))
        larger[kind] = round(statistics.median(ours / max(floor) for ours, *floor in turns), 2)
        both[kind] = round(statistics.median(ours / sum(floor) for ours, *floor in turns), 2)
    return {
        "times the larger of inflate and write": larger,
        "times inflate and write one after the other": both,
        "median_s": {name: round(statistics.median(of), 4) for name, of in seconds.items()},
    }


def inflate(path: Path) -> None:
    """Inflate with ISA-L into one small buffer: what no reader can do without."""
    from isal import igzip

    buffer = memoryview(bytearray(1 << 20))
    with igzip.open(path) as file:
        while file.readinto(buffer):
            pass


def _inflate_all(folder: Path) -> None:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(inflate, folder.iterdir()))


def _write_raw(out: Path, size: tuple[int, int], itemsize: int, count: int) -> None:
    content = b"\1" * (size[0] * size[1] * itemsize)

    def write(number: int) -> None:
        file = os.open(f"{out}/{number}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(file, content)
        os.close(file)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(write, range(count)))


def _median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--peer-repeat", type=int, default=7)
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.repeat, arguments.peer_repeat), indent=2))
