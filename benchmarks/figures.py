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
    for part, told in {"dicom": _dicom, "scale": _scale}.items():
        lines += told(result[part]) if part in result else []
    lines += _plan(pipeline)
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


def _dicom(dicom: dict[str, Any]) -> list[str]:
    x, y, z = dicom["shape"]
    ours, times = dicom["median_s"]["voxtract"], dicom["times as long as voxtract"]
    return [
        "",
        f"A DICOM series of {z} files of {x} x {y} is a volume in {ours:.2f} s; SimpleITK takes",
        f"{times['SimpleITK']:.1f} times as long, highdicom {times['highdicom']:.1f} times.",
    ]


def _scale(scale: dict[str, Any]) -> list[str]:
    memory, resume = scale["memory"], scale["resume"]
    faster = {name: 2 * share for name, share in scale["scaling"]["share of linear"].items()}
    growth = memory["growth from a fifth to the end, MB"]
    fifth = memory["cases"] // 5
    return [
        "",
        f"Images and tables of {scale['scaling']['cases']} volumes: two threads are {faster['threads']:.2f} times",
        f"as fast as one, two Dask processes {faster['processes']:.2f} times. {memory['cases']:,} small cases in one",
        f"process take {memory['wall_s']:.0f} s and {memory['peak_mb']:.0f} MB, {growth:+.0f} MB from the {fifth}th",
        f"to the last. `--resume` with nothing left to do takes {resume['nothing left_s']:.1f} s, `verify` of the",
        f"{memory['files']:,} files {scale['verify_s']:.1f} s.",
    ]


def _plan(pipeline: dict[str, Any]) -> list[str]:
    """What follows from the figures for very many volumes."""
    work = pipeline["whole processes"]["slices of many"]["voxtract"]
    x, y, z = pipeline["content"]["shape"]
    core_s = work["cpu_s"] / pipeline["content"]["many"]
    volume_mb = x * y * z * 2 / 1e6
    packed_mb = volume_mb / pipeline["content"]["images"]["gzip_ratio"]
    cores, cases, network_mb_s = 16, 100_000, 3000
    per_s = cores / core_s
    over_network = network_mb_s / packed_mb
    return [
        "",
        f"A plan for {cases:,} such volumes, which follows from these figures and has not been measured: at",
        f"{core_s:.2f} core-seconds each, {cores} cores do {per_s:.0f} a second, and all of them in",
        f"{cases / per_s / 3600:.1f} hours, if they are fed {per_s * packed_mb / 1000:.1f} GB/s of `.nii.gz` and",
        f"get rid of {per_s * volume_mb / 1000:.1f} GB/s of TIFF. Over a network of 25 Gbit/s come",
        f"{over_network:.0f} a second, for which {over_network * core_s:.0f} cores are enough. They are",
        f"{cases * z / 1e6:.0f} million files for each view, which few file systems like;",
        "`images='webdataset'` makes one of each case.",
    ]


def put_into(readme: str, result: dict[str, Any]) -> str:
    """Replace the figures in the text of the README."""
    pattern = re.escape(_BEGIN) + ".*?" + re.escape(_END)
    return re.sub(pattern, lambda _: _BEGIN + figures(result) + _END, readme, count=1, flags=re.DOTALL)


def committed() -> dict[str, Any]:
    """The results in the repository."""
    result: dict[str, Any] = json.loads((Path(__file__).parent / "results" / "cpu.json").read_text())
    return result
