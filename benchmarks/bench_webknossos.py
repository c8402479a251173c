"""WEBKNOSSOS annotations: NML files of 10,000 to 1,000,000 nodes loaded and saved, against parsing the same XML with no
handler at all and with ElementTree; a small zip of a huge box; and components by stored chunk against the dense array.

The NML is written by this file: trees of 1,000 nodes in a chain, each node with the attributes that servers write, a
comment at every tenth. Peak memory is that of a process of its own that does nothing else. The zips are made too, from
Voronoi cells that reach over chunks; where the recorded annotations lie in ``../shared/data/webknossos``, these are
measured as well. Every result is compared before it is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from voxtract.compute.components import find_components
from voxtract.read.webknossos import open_webknossos
from voxtract.segments import components_of, tables
from voxtract.webknossos.annotation import Annotation

SIZES = (10_000, 100_000, 1_000_000)
SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data" / "webknossos"
SMALL = "l4_sample__explorational__suser__94b271.zip"
LARGE = "l4dense_motta_et_al_demo_v2__explorational__4a6356.zip"
SIDE = 32
TREE = 1000


def main(repeat: int = 5, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """Measure, and return a JSON-ready result."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = _made(folder / "made.zip")
        return {
            "benchmark": "webknossos",
            "repeat": repeat,
            "nml": [_nml(folder, size, repeat) for size in sizes],
            "boxes": {name: _boxes(path, repeat) for name, path in [("made", made), *_recorded()]},
        }


def _recorded() -> list[tuple[str, Path]]:
    named = {"recorded, 22 KB": SMALL, "recorded, 94 chunks": LARGE}
    return [(name, SAMPLES / file) for name, file in named.items() if (SAMPLES / file).exists()]


# ---------------------------------------------------------------- NML


def _nml(folder: Path, size: int, repeat: int) -> dict[str, Any]:
    path, saved = folder / f"{size}.nml", folder / "saved" / f"{size}.nml"
    saved.parent.mkdir(exist_ok=True)
    path.write_bytes(nml_of(size))
    annotation = Annotation.load(path)
    if annotation.skeleton.get_total_node_count() != size:
        raise RuntimeError("nodes are lost")
    annotation.save(saved)
    if Annotation.load(saved) != annotation:
        raise RuntimeError("the saved annotation differs")
    content = path.read_bytes()
    ways: dict[str, Callable[[], Any]] = {
        "load": lambda: Annotation.load(path),
        "save": lambda: annotation.save(saved),
        "bare parse (expat)": lambda: expat.ParserCreate().Parse(content, True),
        "ElementTree.parse": lambda: ET.parse(path),
    }
    seconds = _in_turns(ways, repeat)
    code = "import sys; from benchmarks.bench_webknossos import peak; print(*peak(sys.argv[1], sys.argv[2]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(saved)], capture_output=True, text=True, check=True
    )
    bare, load, save, both = map(float, done.stdout.split())
    return {
        "nodes": size,
        "file_bytes": len(content),
        "median_s": _medians(seconds),
        "nodes_per_s": {way: round(size / statistics.median(seconds[way])) for way in ("load", "save")},
        "load, times the bare parse": _ratio(seconds, "load", "bare parse (expat)"),
        "save, times the bare parse": _ratio(seconds, "save", "bare parse (expat)"),
        "load, times ElementTree.parse": _ratio(seconds, "load", "ElementTree.parse"),
        "peak_mb": {"imports alone": bare, "after load": load, "after save": save, "ElementTree.parse": both},
    }


def peak(path: str, saved: str) -> list[float]:
    """Peak memory in MB, for a process of its own: before, after load, after save; and of one that has the XML tree."""
    told = [_peak()]
    annotation = Annotation.load(path)
    told.append(_peak())
    annotation.save(saved)
    told.append(_peak())
    code = f"import xml.etree.ElementTree as ET; tree = ET.parse({path!r}); print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    return [*told, _peak_in(done.stdout)]


def _peak() -> float:
    """Peak memory of this process in MB; what `resource` tells of a child counts its parent's, too."""
    return _peak_in(Path("/proc/self/status").read_text())


def _peak_in(status: str) -> float:
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def nml_of(size: int) -> bytes:
    """An NML of `size` nodes."""
    rng = np.random.default_rng(0)
    places = rng.integers(0, 30_000, (size, 3)).tolist()
    parts = ['<things><parameters><experiment name="cortex"/><scale x="4" y="4" z="35" unit="nanometer"/>']
    parts.append('<offset x="0" y="0" z="0"/><time ms="1700000000000"/></parameters>')
    for first in range(0, size, TREE):
        nodes = range(first, min(first + TREE, size))
        parts.append(f'<thing id="{first // TREE + 1}" color.r="0.5" color.g="0.2" color.b="1.0" color.a="1.0" ')
        parts.append(f'name="axon {first // TREE + 1}" isVisible="true"><nodes>')
        parts += [
            f'<node id="{n + 1}" radius="120.0" x="{x}" y="{y}" z="{z}" rotX="0.0" rotY="0.0" rotZ="0.0" inVp="0" '
            f'inMag="0" bitDepth="8" interpolation="true" time="{1_700_000_000_000 + n}"/>'
            for n, (x, y, z) in zip(nodes, places[first : first + TREE], strict=True)
        ]
        parts.append("</nodes><edges>")
        parts += [f'<edge source="{n}" target="{n + 1}"/>' for n in nodes[1:]]
        parts.append("</edges></thing>")
    parts.append("<branchpoints/><comments>")
    parts += [f'<comment node="{n + 1}" content="synapse {n}, left"/>' for n in range(0, size, 10)]
    parts.append("</comments><groups/></things>")
    return "".join(parts).encode()


# ---------------------------------------------------------------- boxes


def _boxes(path: Path, repeat: int) -> dict[str, Any]:
    source = open_webknossos(path)
    file = source.cases[0].labels[0].file
    whole = file.read().data
    found, expected = components_of(file), find_components(whole, "axial", extent="volume", mass=True)
    for name in ("start", "stop", "count", "label", "total"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))

    def dense() -> Any:
        volume = open_webknossos(path).cases[0].labels[0].file.read()
        return find_components(volume.data, "axial", extent="volume", mass=True)

    ways: dict[str, Callable[[], Any]] = {
        "open, and all tables": lambda: tables(open_webknossos(path)),
        "open, and components by chunk": lambda: components_of(open_webknossos(path).cases[0].labels[0].file),
        "open, read the dense array, components": dense,
        "open alone": lambda: open_webknossos(path),
    }
    seconds = _in_turns(ways, repeat)
    code = "import sys; from benchmarks.bench_webknossos import peak_of_tables; print(*peak_of_tables(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    before, after, first = map(float, done.stdout.split())
    if source.annotation is None:
        raise RuntimeError("no annotation")
    with source.annotation.volume_layers[0].open() as volume:
        chunks = len(volume.finest or ())
    return {
        "file_bytes": path.stat().st_size,
        "box_bytes": whole.nbytes,
        "stored_bytes": chunks * SIDE**3 * whole.itemsize,
        "chunks": chunks,
        "boxes": len(found),
        "median_s": _medians(seconds),
        "boxes_per_s": {
            way: round(len(found) / statistics.median(seconds[way]))
            for way in ("open, and components by chunk", "open, read the dense array, components")
        },
        "dense, times as long as by chunk": _ratio(
            seconds, "open, read the dense array, components", "open, and components by chunk"
        ),
        "first call in a new process": {"s": round(first, 3), "peak_mb": after, "of that, imports": before},
    }


def peak_of_tables(path: str) -> tuple[float, float, float]:
    """Peak memory in MB after the imports and after all tables, and the time these took, for a process of its own."""
    before, begin = _peak(), time.perf_counter()
    tables(open_webknossos(path))
    return before, _peak(), time.perf_counter() - begin


def _made(path: Path) -> Path:
    """Cells in 8 clusters of 5 x 5 x 4 chunks, spread over a box of some GB."""
    annotation = Annotation("made", dataset_name="cortex", voxel_size=(4, 4, 35), time=0)
    layer = annotation.add_volume_layer("cells", "uint32")
    rng = np.random.default_rng(1)
    with layer.edit() as voxels:
        view = voxels.add_mag(1)
        for cluster in range(8):
            corner = (SIDE * np.array([cluster % 2, cluster // 2 % 2, cluster // 4]) * [20, 20, 8]).tolist()
            view.write(_cells(rng, 60, cluster * 60), absolute_offset=corner)
    annotation.save(path)
    return path


def _cells(rng: np.random.Generator, count: int, first: int) -> NDArray[np.uint32]:
    """Voxels by the nearest of random points; a third of the cells is background."""
    from scipy.spatial import cKDTree

    shape = (5 * SIDE, 5 * SIDE, 4 * SIDE)
    points = rng.random((count, 3)) * shape
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    ids = np.arange(count) + first + 1
    ids[::3] = 0
    nearest = cKDTree(points).query(grid.reshape(-1, 3))[1]
    return ids[nearest].reshape(shape).astype(np.uint32)


def _in_turns(ways: dict[str, Callable[[], Any]], repeat: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            begin = time.perf_counter()
            kept = way()
            seconds[name].append(time.perf_counter() - begin)
            del kept
    return seconds


def _medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(took), 4) for name, took in seconds.items()}


def _ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    return round(statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True)), 2)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--nodes", type=int, nargs="+", default=SIZES)
    options.add_argument("--repeat", type=int, default=5)
    given = options.parse_args()
    print(json.dumps(main(given.repeat, tuple(given.nodes)), indent=1))
