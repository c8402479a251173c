"""The figures of the README, from the committed results; tests/test_readme.py holds the README to them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

README = Path(__file__).parents[1] / "README.md"
_BEGIN = "<!-- figures: made by `python -m benchmarks.run`, checked by tests/test_readme.py -->\n"
_END = "<!-- end of figures -->"
_PEERS = {
    "cc3d per slice": "cc3d + statistics",
    "SciPy": "SciPy",
    "scikit-image per slice": "scikit-image",
    "OpenCV per slice": "OpenCV",
}


def figures(result: dict[str, Any]) -> str:
    """Render the figures as Markdown."""
    pipeline = result["pipeline"]
    machine = pipeline["machine"]
    x, y, z = pipeline["content"]["shape"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, files on",
        f"{machine['temporary files']}; medians of runs side by side, outputs compared. Your own:",
        "`pip install '.[benchmark]' && TMPDIR=/dev/shm python -m benchmarks.run`.",
        "",
        f"Whole processes, {pipeline['content']['cases']} volumes of {x} x {y} x {z} as `.nii.gz`, start-up included:",
        "",
        "| from a folder to | voxtract | nidataset 0.9.1 | faster | peak memory |",
        "|---|---|---|---|---|",
    ]
    names = {
        "slices": "all axial slices as TIFF",
        "slices of many": f"the same for {pipeline['content']['many']} volumes",
        "annotations": "boxes of each slice as CSV (1)",
        "boxes of labels": "one box per label as CSV",
    }
    for key, name in names.items():
        work = pipeline["whole processes"][key]
        ours, theirs = work["voxtract"], work["nidataset"]
        faster = f"{work['ratio']:.1f}" if work["ratio"] < 20 else f"{work['ratio']:.0f}"
        lines.append(
            f"| {name} | {ours['wall_s']:.2f} s | {theirs['wall_s']:.1f} s | **{faster}x** "
            f"| {ours['peak_mb']:.0f} against {theirs['peak_mb']:.0f} MB |"
        )
    lines += [
        "",
        "(1) Not the same work: ours are the components of each slice, nidataset's the 3D box of each label, in every",
        "slice that it touches. One box per label is the same work, compared box by box.",
    ]
    floor = pipeline["against the floor"]
    larger = floor["times the larger of inflate and write"]["slices"]
    both = floor["times inflate and write one after the other"]["slices"]
    lines += [
        "",
        f"Without the start-up, on all cores, slices take {larger:.2f} times the larger of bare inflating and writing",
        f"of the same bytes, {both:.2f} times the two one after the other (both need the processor).",
        "",
        "From a mask in memory to boxes and counts of all slices, one thread; how many times as long the others take",
        "(median of the three views):",
        "",
        "| content | voxtract | " + " | ".join(_PEERS.values()) + " |",
        "|---|---" + "|---" * len(_PEERS) + "|",
    ]
    rows = [row for row in result["components"]["rows"] if row["dtype"] == "uint8"]
    for content in dict.fromkeys(row["content"] for row in rows):
        of = [row for row in rows if row["content"] == content]
        cells = []
        for peer in _PEERS:
            ratios = [row["ratio"][peer] for row in of if peer in row["ratio"]]
            cells.append(f"{median(ratios):.1f}x" if ratios else "")
        speed = median(row["gigavoxels_per_s"] for row in of)
        lines.append(f"| {content.replace('_', ' ')} | {speed:.2f} Gvoxel/s | " + " | ".join(cells) + " |")
    lines += [*_formats(result["formats"]), *_report(result["report"]), *_loader(result["loader"])]
    startup, read = result["startup"], result["read"]
    lines += [
        "",
        (
            f"Reading a CT volume takes {1 / read['images']['ratio']['bare inflate']:.2f} times the bare inflate, "
            f"nibabel's `get_fdata()` takes {read['images']['ratio']['nibabel get_fdata']:.1f} times as long as ours. "
            f"`voxtract --version` answers in {startup['voxtract --version']:.0f} ms, `import voxtract` costs "
            f"{startup['import voxtract'] - startup['bare python']:.0f} ms over bare Python."
        ),
    ]
    return "\n".join(lines) + "\n"


def _formats(formats: dict[str, Any]) -> list[str]:
    times = formats["times as long as csv"]
    listed = ", ".join(f"{name} {ratio:.1f}" for name, ratio in times.items())
    return [
        "",
        f"Writing annotations takes, times as long as CSV ({formats['boxes_per_s']['csv']:,} boxes/s): {listed}.",
    ]


def _report(report: dict[str, Any]) -> list[str]:
    seconds = report["median_s"]
    return [
        "",
        (
            f"`voxtract report` of {report['cases']:,} cases ({report['slices']:,} slices): {seconds['report']:.1f} s, "
            f"{report['report_bytes'] / 1e6:.1f} MB."
        ),
    ]


def _loader(loader: dict[str, Any]) -> list[str]:
    """With labels, in the main process: what a training loop that is not bound by workers sees."""
    ours = loader["images, in the main process"]
    boxes = loader["labels, in the main process"]["times as many as"]["VolumeDataset"]
    times = ours["times as many as"]["VolumeDataset"]
    return [
        "",
        (
            f"A DataLoader over `VolumeDataset` gives {ours['images_per_s']['VolumeDataset']:,.0f} slices a second, "
            f"{times['monai patches']:.1f} times MONAI's `GridPatchDataset` (labels: {boxes['monai patches']:.1f}), "
            f"{times['monai by slice']:.0f} times a `Dataset` that loads the volume for each slice."
        ),
    ]


def put_into(readme: str, result: dict[str, Any]) -> str:
    """Replace the figures in the text of the README."""
    pattern = re.escape(_BEGIN) + ".*?" + re.escape(_END)
    return re.sub(pattern, lambda _: _BEGIN + figures(result) + _END, readme, count=1, flags=re.DOTALL)


def committed() -> dict[str, Any]:
    """The results in the repository."""
    result: dict[str, Any] = json.loads((Path(__file__).parent / "results" / "cpu.json").read_text())
    return result
