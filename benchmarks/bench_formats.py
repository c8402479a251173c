"""Findings in memory -> content of all annotation files of a run, format by format, against our own CSV.

All formats describe the same components of the same slices, in one process on one thread, interleaved; nothing is
written to a disk. Before anything is timed, the boxes are read back from every format and compared with the findings,
masks are decoded by pycocotools and compared with the pixel counts.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import REFERENCE, Shape3, content
from voxtract.classes import ClassMap
from voxtract.compute.components import find_components
from voxtract.compute.masks import SliceMasks
from voxtract.compute.outlines import outline
from voxtract.geometry import Grid, Plane
from voxtract.model import Findings
from voxtract.write.annotations import AnnotationFormat, Masks
from voxtract.write.coco import Coco
from voxtract.write.parquet import Parquet
from voxtract.write.tables import Columns, Csv
from voxtract.write.voc import Voc
from voxtract.write.yolo import Yolo

CASES = 4
CLASSES = ClassMap.of({"*": "organ"})

Files = dict[str, bytes]
Boxes = NDArray[np.float64]  # (n, 4): first column, first row, column and row past the end; sorted


@dataclass(frozen=True)
class Run:
    """A finished run: see `voxtract.write.annotations.Finished`."""

    cases: Sequence[Findings]
    files: Files

    def findings(self) -> Iterator[Findings]:
        yield from self.cases

    def part(self, name: str) -> bytes:
        return self.files[name]


@dataclass(frozen=True)
class Contestant:
    """A format, with masks or without, and how boxes are read back from its files."""

    name: str
    writer: AnnotationFormat
    masks: bool
    boxes: Callable[[Files], Iterable[Sequence[float]]]


def main(repeat: int = 7, shape: Shape3 = REFERENCE) -> dict[str, Any]:
    """Measure all formats, and return a JSON-ready result."""
    labels = content("organ_blobs", shape)
    rows = find_components(labels, "axial")
    plane = Plane("axial", shape)
    found = Findings("", plane, Grid(shape, np.eye(4)), rows, "slice", np.arange(plane.count), "", ".png")
    cases = [replace(found, case_id=f"case_{n}", stem=f"images/case_{n}_axial_") for n in range(CASES)]
    masks = SliceMasks(labels, plane, rows)
    every = contestants(plane)
    for one in every:
        check(one, cases, masks)
    seconds: dict[str, list[float]] = {one.name: [] for one in every}
    for _ in range(repeat):
        for one in every:
            begin = time.perf_counter()
            files_of(one, cases, masks)
            seconds[one.name].append(time.perf_counter() - begin)
    first = every[0].name
    return {
        "benchmark": "formats",
        "work": "findings in memory -> content of all files of the run; one thread, no disk",
        "content": {"cases": CASES, "shape": list(shape), "slices": CASES * plane.count, "boxes": CASES * len(rows)},
        "repeat": repeat,
        "checked": "boxes of all formats equal, masks by pycocotools",
        "boxes_per_s": {name: round(CASES * len(rows) / statistics.median(s)) for name, s in seconds.items()},
        f"times as long as {first}": {
            name: round(statistics.median(a / b for a, b in zip(s, seconds[first], strict=True)), 2)
            for name, s in seconds.items()
            if name != first
        },
    }


def contestants(plane: Plane) -> list[Contestant]:
    """The formats, ours for CSV first."""
    return [
        Contestant("csv", Csv(Columns("box", extra=("LABEL", "AREA"))), False, boxes_csv),
        Contestant("coco", Coco(CLASSES), False, boxes_coco),
        Contestant("coco with masks", Coco(CLASSES), True, boxes_coco),
        Contestant("yolo", Yolo(CLASSES), False, lambda files: boxes_yolo(files, plane)),
        Contestant("yolo with polygons", Yolo(CLASSES, outline), True, lambda files: boxes_yolo(files, plane)),
        Contestant("voc", Voc(CLASSES), False, boxes_voc),
        Contestant("parquet", Parquet(CLASSES), False, boxes_parquet),
    ]


def files_of(one: Contestant, cases: Sequence[Findings], masks: Masks) -> Files:
    """All files that a run leaves, as bytes."""
    files: Files = {}
    for found in cases:
        for name, text in one.writer.case_files(found, masks if one.masks else None):
            files[name] = str(text).encode()
    for name, pieces in one.writer.run_files(Run(cases, files)):
        files[name] = b"".join(pieces)
    return files


def check(one: Contestant, cases: Sequence[Findings], masks: Masks) -> None:
    """Compare what is read back with the findings."""
    expected = []
    for found in cases:
        low: Any = found.plane.pixel(found.rows.start)
        high: Any = found.plane.pixel(found.rows.stop - 1)
        expected.append(np.concatenate([low[:, :2], high[:, :2] + 1], axis=1))
    files = files_of(one, cases, masks)
    seen = np.array(list(one.boxes(files)), np.float64)
    np.testing.assert_allclose(_sorted(seen.round(3)), _sorted(np.concatenate(expected)), err_msg=one.name)
    if one.masks and "coco.json" in files:
        from pycocotools import mask

        read = json.loads(files["coco.json"])["annotations"]
        assert [mask.area(a["segmentation"]) for a in read] == [a["area"] for a in read]


def boxes_csv(files: Files) -> Iterator[Sequence[float]]:
    for text in files.values():
        for row in csv.DictReader(io.StringIO(text.decode())):
            yield int(row["X_MIN"]), int(row["Y_MIN"]), int(row["X_MAX"]) + 1, int(row["Y_MAX"]) + 1


def boxes_coco(files: Files) -> Iterator[Sequence[float]]:
    for annotation in json.loads(files["coco.json"])["annotations"]:
        x, y, width, height = annotation["bbox"]
        yield x, y, x + width, y + height


def boxes_yolo(files: Files, plane: Plane) -> Iterator[Sequence[float]]:
    height, width = plane.size
    for name, text in files.items():
        if name == "data.yaml":
            continue
        for line in text.decode().splitlines():
            numbers = np.array(line.split()[1:], float).reshape(-1, 2) * (width, height)
            if len(numbers) == 2:  # center and size
                numbers = np.stack([numbers[0] - numbers[1] / 2, numbers[0] + numbers[1] / 2])
            yield (*numbers.min(axis=0), *numbers.max(axis=0))


def boxes_voc(files: Files) -> Iterator[Sequence[float]]:
    for text in files.values():
        for box in ElementTree.fromstring(text).iter("bndbox"):
            x, y, x_last, y_last = (int(side.text or "") for side in box)
            yield x - 1, y - 1, x_last, y_last


def boxes_parquet(files: Files) -> Iterator[Sequence[float]]:
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(files["components.parquet"])).to_pydict()
    sides = (table[name] for name in ("X_MIN", "Y_MIN", "X_MAX", "Y_MAX"))
    for x, y, x_last, y_last in zip(*sides, strict=True):
        yield x, y, x_last + 1, y_last + 1


def _sorted(boxes: NDArray[Any]) -> Boxes:
    return np.asarray(boxes[np.lexsort(boxes.T[::-1])], np.float64)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeat", type=int, default=7)
    print(json.dumps(main(options.parse_args().repeat), indent=2))
