"""Label volume in memory -> boxes and voxel counts of the components of every slice, against four peers.

All run in one process on one thread, interleaved; every peer's boxes and counts are compared with ours before
anything is timed. SciPy labels all slices in one call; the others are called slice by slice, as their users do.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import CONTENTS, REFERENCE, Shape3, content
from voxtract.compute.components import find_components
from voxtract.geometry import VIEWS, Plane, View

Labels = NDArray[Any]
Rows = NDArray[np.int64]  # (n, 6): slice, first row, first column, row past the end, column past the end, voxels

MULTI_LABEL = frozenset({"atlas"})
WIDER = ("organ_blobs", "atlas")  # contents that are also measured as int16 and int32
PATIENCE_S = 6.0  # a contestant that has used this long in one case is not run again


@dataclass(frozen=True)
class Contestant:
    """One way to do the work: `run` is timed, `rows` brings its result into a common form and is not."""

    name: str
    needs: str
    run: Callable[[Labels, View], Any]
    rows: Callable[[Any, Labels, View], Rows]
    binary_only: bool = False


def slices(labels: Labels, view: View) -> Iterator[Labels]:
    """Yield the (rows, columns) views of all slices."""
    yield from np.moveaxis(labels, Plane(view, _shape(labels)).axes[2], 0)


def run_voxtract(labels: Labels, view: View) -> Any:
    return find_components(labels, view)


def run_voxtract_mass(labels: Labels, view: View) -> Any:
    return find_components(labels, view, mass=True)


def rows_voxtract(found: Any, labels: Labels, view: View) -> Rows:
    row, column, index = Plane(view, _shape(labels)).axes
    start, stop = found.start, found.stop
    return np.column_stack(
        [start[:, index], start[:, row], start[:, column], stop[:, row], stop[:, column], found.count]
    )


def run_cc3d(labels: Labels, view: View) -> Any:
    import cc3d

    return [
        cc3d.statistics(cc3d.connected_components(image, connectivity=8), no_slice_conversion=True)
        for image in slices(labels, view)
    ]


def rows_cc3d(found: Any, _labels: Labels, _view: View) -> Rows:
    parts = []
    for index, one in enumerate(found):
        counts = np.asarray(one["voxel_counts"])[1:].astype(np.int64)
        # (n, 4): first and last row, first and last column
        box = np.asarray(one["bounding_boxes"])[1:].astype(np.int64)
        parts.append(
            np.column_stack([np.full(len(box), index), box[:, 0], box[:, 2], box[:, 1] + 1, box[:, 3] + 1, counts])
        )
    return np.concatenate(parts)


def run_scipy(labels: Labels, view: View) -> Any:
    from scipy import ndimage

    structure = np.zeros((3, 3, 3), np.uint8)
    structure[tuple(1 if axis == Plane(view, _shape(labels)).axes[2] else slice(None) for axis in range(3))] = 1
    numbered, _ = ndimage.label(labels, structure)
    return numbered, ndimage.find_objects(numbered)


def rows_scipy(found: Any, labels: Labels, view: View) -> Rows:
    numbered, boxes = found
    row, column, index = Plane(view, _shape(labels)).axes
    counts = np.bincount(numbered.ravel(order="K"), minlength=len(boxes) + 1)[1:]
    edges = [(b[index].start, b[row].start, b[column].start, b[row].stop, b[column].stop) for b in boxes]
    return np.column_stack([np.array(edges, np.int64).reshape(-1, 5), counts])


def run_skimage(labels: Labels, view: View) -> Any:
    from skimage import measure  # untyped

    label: Any = measure.label
    table: Any = measure.regionprops_table
    return [
        table(label(image, background=0, connectivity=2), properties=("bbox", "area")) for image in slices(labels, view)
    ]


def rows_skimage(found: Any, _labels: Labels, _view: View) -> Rows:
    parts = []
    for index, one in enumerate(found):
        box = [np.asarray(one[f"bbox-{i}"]) for i in range(4)]
        parts.append(np.column_stack([np.full(len(box[0]), index), *box, one["area"]]).astype(np.int64))
    return np.concatenate(parts)


def run_opencv(labels: Labels, view: View) -> Any:
    import cv2

    return [
        cv2.connectedComponentsWithStats(np.ascontiguousarray(image, dtype=np.uint8), connectivity=8)[2]
        for image in slices(labels, view)
    ]


def rows_opencv(found: Any, _labels: Labels, _view: View) -> Rows:
    parts = []
    for index, stats in enumerate(found):
        left, top, width, height, area = stats[1:].astype(np.int64).T
        parts.append(np.column_stack([np.full(len(area), index), top, left, top + height, left + width, area]))
    return np.concatenate(parts)


CONTESTANTS = (
    Contestant("voxtract", "voxtract", run_voxtract, rows_voxtract),
    Contestant("voxtract, with sums", "voxtract", run_voxtract_mass, rows_voxtract),
    Contestant("cc3d per slice", "cc3d", run_cc3d, rows_cc3d),
    Contestant("SciPy", "scipy", run_scipy, rows_scipy, binary_only=True),
    Contestant("scikit-image per slice", "skimage", run_skimage, rows_skimage),
    Contestant("OpenCV per slice", "cv2", run_opencv, rows_opencv, binary_only=True),
)


def available() -> tuple[list[Contestant], list[str]]:
    """The contestants whose library is installed, and the names of the others."""
    present, missing = [], []
    for contestant in CONTESTANTS:
        try:
            importlib.import_module(contestant.needs)
        except ImportError:
            missing.append(contestant.name)
        else:
            present.append(contestant)
    if not any(contestant.needs == "cv2" for contestant in present):
        return present, missing
    import cv2

    cv2.setNumThreads(1)
    return present, missing


def measure(labels: Labels, view: View, contestants: Sequence[Contestant], repeat: int) -> dict[str, Any]:
    """Check all against the first, then time them in turns."""
    expected = _sorted(contestants[0].rows(contestants[0].run(labels, view), labels, view))
    seconds: dict[str, list[float]] = {}
    for contestant in contestants[1:]:
        found = _sorted(contestant.rows(contestant.run(labels, view), labels, view))
        if not np.array_equal(found, expected):
            raise RuntimeError(f"{contestant.name}: {len(found)} components that are not our {len(expected)}")
    for _ in range(repeat):
        for contestant in contestants:
            taken = seconds.setdefault(contestant.name, [])
            if sum(taken) < PATIENCE_S:
                start = time.perf_counter()
                contestant.run(labels, view)
                taken.append(time.perf_counter() - start)
    ours = median(seconds[contestants[0].name])
    return {
        "components": len(expected),
        "gigavoxels_per_s": labels.size / ours / 1e9,
        "ns_per_voxel": ours / labels.size * 1e9,
        "seconds": {name: median(taken) for name, taken in seconds.items()},
        "runs": {name: len(taken) for name, taken in seconds.items()},
        "ratio": {name: median(taken) / ours for name, taken in seconds.items()},
    }


def main(
    shape: Shape3 = REFERENCE,
    contents: Sequence[str] = tuple(CONTENTS),
    views: Sequence[View] = VIEWS,
    repeat: int = 7,
) -> dict[str, Any]:
    """Run the grid, print a line per case, return everything as JSON-ready values."""
    contestants, missing = available()
    rows = []
    for name in contents:
        for dtype in ("uint8", "int16", "int32") if name in WIDER else ("uint8",):
            labels = content(name, shape, dtype)
            fits = [c for c in contestants if not (c.binary_only and name in MULTI_LABEL)]
            for view in views:
                row = {
                    "content": name,
                    "view": view,
                    "dtype": dtype,
                    "foreground": np.count_nonzero(labels) / labels.size,
                    **measure(labels, view, fits, repeat),
                }
                rows.append(row)
                ratios = ", ".join(f"{other} {ratio:.1f}x" for other, ratio in list(row["ratio"].items())[1:])
                print(
                    f"{name:15} {view:9} {dtype:6} {row['components']:8} components "
                    f"{row['seconds']['voxtract'] * 1e3:8.2f} ms {row['gigavoxels_per_s']:6.2f} Gvoxel/s; {ratios}",
                    flush=True,
                )
    return {
        "benchmark": "components",
        "work": "labels in memory -> boxes and voxel counts of all slices, 8 neighbours; Fortran order, one thread",
        "shape": list(shape),
        "repeat": repeat,
        "missing": missing,
        "rows": rows,
    }


def _sorted(rows: Rows) -> Rows:
    return rows[np.lexsort(rows.T[::-1])]


def _shape(labels: Labels) -> Shape3:
    x, y, z = labels.shape
    return x, y, z


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=REFERENCE, metavar=("X", "Y", "Z"))
    parser.add_argument("--contents", nargs="+", default=list(CONTENTS), choices=list(CONTENTS))
    parser.add_argument("--views", nargs="+", default=list(VIEWS), choices=VIEWS)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", metavar="FILE", type=argparse.FileType("w"), help="also write the result here")
    return parser.parse_args(argv)


if __name__ == "__main__":
    options = parse()
    result = main(tuple(options.shape), options.contents, options.views, options.repeat)
    if options.json:
        json.dump(result, options.json, indent=1)
