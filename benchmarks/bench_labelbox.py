"""A Labelbox export of 100,000 data rows read line by line, against bare `json.loads`; and the masks of a group as one
batch, from files to boxes, against a loop over them.

Each line holds one label with lines of 20 points and masks on some frames of three groups. Memory is that of a process
of its own that only reads.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from voxtract.compute.components import find_components
from voxtract.read.labelbox import LabelboxSource, Tally, open_labelbox, read_rows
from voxtract.write.nifti import encode

LINES = 100_000
MASKS = 300
SIZE = (512, 512)  # columns, rows
FRAMES = {"Axial": 2, "Coronal": 1, "Sagittal": 1}


def main(repeat: int = 3, lines: int = LINES, masks: int = MASKS) -> dict[str, Any]:
    """Measure, and return a JSON-ready result."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        exports = {count: write_export(folder / f"{count}.ndjson", count) for count in (lines // 10, lines)}
        seconds: dict[str, list[float]] = {"json.loads": [], "voxtract": []}
        for _ in range(repeat):
            seconds["json.loads"].append(timed(lambda: bare(exports[lines])))
            seconds["voxtract"].append(timed(lambda: ours(exports[lines])))
        memory = {f"{count:,} lines": peak_mb(path) for count, path in exports.items()}
        size = exports[lines].stat().st_size
        group = write_group(folder / "group", masks)
        ways: dict[str, Callable[[Path], Any]] = {"voxtract": boxes, "one by one": boxes_one_by_one}
        check(group, masks)
        batch: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeat):
            for name, way in ways.items():
                batch[name].append(timed(partial(way, group)))
    pairs = zip(seconds["voxtract"], seconds["json.loads"], strict=True)
    return {
        "benchmark": "labelbox",
        "work": "NDJSON export -> rows with lines and masks, checked; masks of a group -> boxes of its objects",
        "lines": lines,
        "bytes": size,
        "repeat": repeat,
        "median_s": {name: round(statistics.median(s), 3) for name, s in seconds.items()},
        "times as long as json.loads": round(statistics.median(o / p for o, p in pairs), 2),
        "peak_mb": memory,
        "masks": masks,
        "mask_pixels": list(SIZE),
        "checked": "boxes equal those found mask by mask with Pillow and NumPy",
        "masks_median_s": {name: round(statistics.median(s), 4) for name, s in batch.items()},
    }


def timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def bare(export: Path) -> None:
    with export.open("rb") as file:
        for line in file:
            json.loads(line)


def ours(export: Path) -> None:
    tally = Tally()
    count = sum(1 for _ in read_rows(export, tally))
    if not count or tally.issues:
        raise RuntimeError(f"{count} rows, {len(tally.issues)} issues")


def peak_mb(export: Path) -> float:
    """Peak memory of a process that reads an export."""
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_labelbox", "--read", str(export)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(told.stdout)


# --- exports


def write_export(path: Path, lines: int) -> Path:
    random.seed(0)
    with path.open("w") as file:
        for n in range(lines):
            file.write(json.dumps(data_row(n)) + "\n")
    return path


def data_row(n: int) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    segments: dict[str, Any] = {}
    for group, count in FRAMES.items():
        line, mask = f"line-{group}-{n}", f"mask-{group}-{n}"
        frames = range(1, count + 1)
        groups[group] = {
            "name": group,
            "classifications": [],
            "frames": {str(f): {"objects": objects(line, mask, f), "classifications": []} for f in frames},
        }
        segments[group] = {feature: [[1, count]] for feature in (line, mask)}
    keys = {feature: {g: {"1": True}} for g, of_group in segments.items() for feature in of_group}
    annotations = {"groups": groups, "segments": segments, "classifications": [], "key_frame_feature_map": keys}
    label = {
        "label_kind": "DICOM",
        "version": "1.0.0",
        "id": f"label-{n}",
        "label_details": {"created_at": "2024-05-01T10:00:00.000+00:00", "created_by": "ann@hospital.example"},
        "performance_details": {"seconds_to_create": 10, "skipped": False},
        "annotations": annotations,
    }
    return {
        "data_row": {"id": f"row-{n}", "global_key": f"ct-{n}", "row_data": f"https://storage.example/{n}.dcm"},
        "media_attributes": {"mime_type": "application/dicom"},
        "projects": {"project-1": {"name": "chest", "labels": [label], "project_details": {}}},
    }


def objects(line: str, mask: str, frame: int) -> dict[str, Any]:
    points = [{"x": round(random.uniform(0, 512), 3), "y": round(random.uniform(0, 512), 3)} for _ in range(20)]
    url = f"https://api.labelbox.com/api/v1/projects/project-1/annotations/{mask}/index/{frame}/mask"
    drawn: dict[str, tuple[str, str, dict[str, Any]]] = {line: ("vessel", "DICOMPolyline", {"line": points})}
    drawn |= {mask: ("lesion", "DICOMSegmentationMask", {"mask": {"url": url}})}
    return {
        feature: {"feature_id": feature, "name": name, "annotation_kind": kind, "classifications": [], **geometry}
        for feature, (name, kind, geometry) in drawn.items()
    }


# --- masks of a group


def write_group(folder: Path, masks: int) -> Path:
    """An export of one object on all slices of a volume, its masks beside it."""
    (folder / "volumes").mkdir(parents=True)
    shape = (*SIZE, masks)
    (folder / "volumes" / "ct-0.nii.gz").write_bytes(
        b"".join(encode(np.zeros(shape, np.uint8), np.diag([-1.0, -1, 2, 1])))
    )
    y, x = np.ogrid[: SIZE[1], : SIZE[0]]
    frames = {}
    for n in range(masks):
        mask = (x - 100 - n) ** 2 + (y - 256) ** 2 < (20 + n % 50) ** 2
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{n + 1}.png")
        one = {"feature_id": "f", "name": "lesion", "annotation_kind": "DICOMSegmentationMask"}
        frames[str(n + 1)] = {"objects": {"f": {**one, "mask": {"url": f"{n + 1}.png"}}}}
    row = data_row(0)
    row["projects"]["project-1"]["labels"][0]["annotations"] = {"groups": {"Axial": {"frames": frames}}}
    (folder / "export.json").write_text(json.dumps([row]))
    return folder


def source_of(group: Path) -> LabelboxSource:
    return open_labelbox(group / "export.json", volumes=group / "volumes")


def boxes(group: Path) -> NDArray[np.int64]:
    """Boxes X_MIN, Y_MIN, X_MAX, Y_MAX, frame by frame: all masks decoded, one search for components."""
    (case,) = source_of(group).cases
    rows = find_components(case.labels[0].file.read().data, "axial")
    return np.concatenate([rows.start[:, :2], rows.stop[:, :2] - 1], axis=1)


def boxes_one_by_one(group: Path) -> NDArray[np.int64]:
    """The same with Pillow and NumPy, mask by mask."""
    found = []
    for n in range(1, len(list(group.glob("*.png"))) + 1):
        rows, columns = np.nonzero(np.asarray(Image.open(group / f"{n}.png")))
        found.append([columns.min(), rows.min(), columns.max(), rows.max()])
    return np.array(found)


def check(group: Path, masks: int) -> None:
    np.testing.assert_array_equal(boxes(group), boxes_one_by_one(group))
    if len(boxes(group)) != masks:
        raise RuntimeError("boxes are missing")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--lines", type=int, default=LINES)
    options.add_argument("--masks", type=int, default=MASKS)
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--read", type=Path, help="read this export, and print the peak memory in MB")
    given = options.parse_args()
    if given.read:
        ours(given.read)
        print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, 1))
    else:
        print(json.dumps(main(given.repeat, given.lines, given.masks), indent=1))
