"""One command for a machine with a GPU: ``python -m benchmarks.gpu``. Tests first, then what everything costs.

Writes ``benchmarks/results/gpu.json``: device, driver, versions, commit, and each part's figures beside the rate at
which the device copies its own memory, measured in the same run. A part that fails is recorded with its reason, and the
others go on; ``--only`` repeats some parts and leaves the rest of the file. All together end within 8 minutes: what
would begin later is recorded as left out. Nothing is timed before its result was compared with the CPU's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.cases import CONTENTS, content
from benchmarks.machine import machine
from voxtract.backend import cuda_components, cuda_cut
from voxtract.backend.cpu import CPU
from voxtract.backend.cuda import CUDABackend
from voxtract.backend.launch import CuPyDevice
from voxtract.compute.normalize import PixelRule, pixel_rule
from voxtract.geometry import VIEWS, Grid, Plane, View
from voxtract.model import Header

RESULT = Path(__file__).parent / "results" / "gpu.json"
HERE = Path(__file__).resolve().parents[1]
SHAPE = (512, 512, 300)
SMALL = (128, 96, 40)
PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "cucim-cu12", "cucim-cu13", "cvcuda-cu12", "cvcuda-cu13", "numpy")
BUDGET_S = 465.0
FIND: dict[str, Any] = {"connectivity": None, "objects": "components", "mass": True}

Part = dict[str, Any]
begun = time.monotonic()


def left() -> float:
    """Seconds of the budget."""
    return BUDGET_S - (time.monotonic() - begun)


def timed(work: Callable[[int], object], repeat: int = 15) -> dict[str, float]:
    """Time `work(turn)` with device events, in milliseconds; `turn` chooses among inputs, so that none is cached."""
    import cupy

    for turn in range(3):
        work(turn)
    cupy.cuda.Device().synchronize()
    taken = []
    for turn in range(repeat):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        work(turn)
        stop.record()
        stop.synchronize()
        taken.append(cupy.cuda.get_elapsed_time(start, stop))
    return {"ms": median(taken), "ms_least": min(taken), "ms_most": max(taken), "repeat": repeat}


def walled(work: Callable[[int], object], repeat: int = 9) -> dict[str, float]:
    """Time `work(turn)`, which ends on the host, with the clock, in milliseconds."""
    import cupy

    work(0)
    taken = []
    for turn in range(repeat):
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        work(turn)
        cupy.cuda.Device().synchronize()
        taken.append((time.perf_counter() - start) * 1e3)
    return {"ms": median(taken), "ms_least": min(taken), "ms_most": max(taken), "repeat": repeat}


def rated(cost: dict[str, float], nbytes: int, rate: float) -> dict[str, float]:
    """Add what was moved at least, and the fraction of the copy rate at which it was."""
    gbs = nbytes / cost["ms"] / 1e6
    return {**cost, "least_bytes": nbytes, "gb_per_s": gbs, "fraction_of_copy_rate": gbs / rate}


def peer(work: Callable[[int], object], ours_ms: float, time_it: Callable[..., dict[str, float]] = timed) -> Part:
    """Time somebody else's way; what it raises is its result."""
    try:
        cost = time_it(work, 5)
    except Exception as why:  # noqa: BLE001 - a peer that is not installed or fails is recorded, and the others go on
        return {"failed": f"{type(why).__name__}: {why}".splitlines()[0][:300]}
    return {**cost, "times_ours": cost["ms"] / ours_ms}


def copy_rate() -> float:
    """GB/s, read plus written, of a large copy on the device."""
    import cupy

    source = cupy.random.randint(0, 255, 1 << 31, dtype=cupy.uint8)
    target = cupy.empty_like(source)
    cost = timed(lambda _: cupy.copyto(target, source))
    return float(2 * source.nbytes / cost["ms"] / 1e6)


def rule_for(data: np.ndarray[Any, Any], **options: Any) -> PixelRule:
    header = Header(Grid((data.shape[0], data.shape[1], data.shape[2]), np.eye(4)), data.dtype)
    return pixel_rule(header, statistics=CPU.statistics(data), **options)


def volumes(dtype: str, order: str, copies: int = 3) -> tuple[np.ndarray[Any, Any], list[Any]]:
    """Random voxels on the host, and copies on the device: together far more than its cache holds."""
    import cupy

    random = np.random.default_rng(7)
    flat = random.integers(0, 200, SHAPE, np.uint8).astype(dtype)
    if dtype == "int16":
        flat = random.integers(-1024, 3000, SHAPE, np.int16)
    data = np.asfortranarray(flat) if order == "F" else flat
    there = [cupy.asarray(data) for _ in range(copies)]
    cupy.cuda.Device().synchronize()  # the backend's streams do not wait for this one
    return data, there


def exercise() -> Part:
    """Every kernel once over small volumes, compared with the CPU: what the sanitizers watch."""
    device, compared = CUDABackend(), 0
    for name in ("organ_blobs", "noise50", "checkerboard"):
        labels = content(name, SMALL)
        there = device.to_device(labels)
        for view in VIEWS:
            for extent in ("slice", "volume"):
                mine = device.find_components(there, view, extent=extent, **FIND)
                theirs = CPU.find_components(labels, view, extent=extent, **FIND)
                same = np.array_equal(mine.start, theirs.start) and np.array_equal(mine.count, theirs.count)
                if not same:
                    raise RuntimeError(f"components of {name}, {view}, {extent} differ from the CPU's")
                compared += 1
    for dtype in ("uint8", "int16", "float32"):
        data = np.asfortranarray(np.random.default_rng(0).integers(0, 200, (97, 96, 41)).astype(dtype))
        there, rule = device.to_device(data), rule_for(data, normalization="percentile")
        device.statistics(there).percentiles  # noqa: B018
        for view in VIEWS:
            plane = Plane(view, data.shape, (112, 128))
            if not np.array_equal(
                device.cut(there, plane, 0, plane.count, rule), CPU.cut(data, plane, 0, plane.count, rule)
            ):
                raise RuntimeError(f"slices of {dtype}, {view} differ from the CPU's")
            compared += 1
    return {"compared": compared}


def tests() -> Part:
    """The GPU tests; a skip counts as a failure."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/backend/test_gpu.py"]
    environment = {**os.environ, "VOXTRACT_REQUIRE_GPU": "1", "PYTHONPATH": f"{HERE / 'src'}{os.pathsep}{HERE}"}
    ran = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=min(170, left()), check=False
    )
    summary = ran.stdout.strip().splitlines()[-1:] or ran.stderr.strip().splitlines()[-1:]
    passed = ran.returncode == 0 and "skipped" not in "".join(summary)
    return {"passed": passed, "summary": "".join(summary), "tail": "" if passed else ran.stdout[-3000:]}


def sanitizers() -> Part:
    """Out-of-bounds accesses and races, by compute-sanitizer."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"left_out": "compute-sanitizer is not on the PATH"}
    found: Part = {}
    for kind in ("memcheck", "racecheck"):
        command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.gpu", "--exercise"]
        environment = {**os.environ, "CUPY_CACHE_IN_MEMORY": "0"}
        try:
            ran = subprocess.run(
                command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=min(75, left()), check=False
            )
        except subprocess.TimeoutExpired as why:
            found[kind] = {"left_out": f"not done after {why.timeout:.0f} s"}
            continue
        lines = [line for line in ran.stdout.splitlines() if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
        found[kind] = {
            "clean": ran.returncode == 0,
            "summary": lines[-1:],
            "tail": "" if not ran.returncode else ran.stdout[-2000:],
        }
    return found


def cutting(rate: float) -> Part:
    """Kernel (a): all slices of a volume into device memory."""
    import cupy

    cases: list[tuple[str, str, dict[str, Any], tuple[int, int] | None]] = [
        ("int16", "F", {}, None),
        ("int16", "F", {"dtype": "float32"}, (640, 640)),
        ("int16", "F", {"normalization": "min-max"}, None),
        ("uint8", "F", {}, None),
        ("float32", "F", {"normalization": (40.0, 400.0), "dtype": "uint8"}, None),
        ("int16", "C", {"normalization": "min-max"}, None),
    ]
    device = CuPyDevice()
    rows: list[Part] = []
    for dtype, order, options, target in cases:
        data, there = volumes(dtype, order)
        rule = rule_for(data, **options)
        for view in VIEWS:
            if left() < 60:
                return {"rows": rows, "left_out": "the others: no time left"}
            plane = Plane(view, SHAPE, target)
            out = cupy.empty((plane.count, *plane.size), rule.dtype)
            for first in (0, plane.count - 3):
                images = cuda_cut.cut(device, there[0], plane, first, first + 3, rule).get()
                if not np.array_equal(images, CPU.cut(data, plane, first, first + 3, rule)):
                    raise RuntimeError(f"slices differ from the CPU's: {dtype} {order} {view}")

            def ours(turn: int, plane: Plane = plane, out: Any = out, there: Any = there, rule: Any = rule) -> None:
                cuda_cut.cut(device, there[turn % len(there)], plane, 0, plane.count, rule, out)

            def theirs(turn: int, plane: Plane = plane, out: Any = out, there: Any = there, rule: Any = rule) -> None:
                row, column, index = plane.axes
                top, left_ = plane.pad
                voxels = there[turn % len(there)].transpose(index, row, column)
                if not rule.is_copy:
                    voxels = cupy.clip(
                        (voxels.astype(cupy.float32) - rule.shift) * rule.gain + rule.base, rule.low, rule.high
                    )
                out.fill(rule.pad_value)
                out[:, top : top + plane.rows, left_ : left_ + plane.columns] = voxels

            cost = rated(timed(ours), data.nbytes + out.nbytes, rate)
            what = {"stored": dtype, "order": order, "view": view, "pixels": rule.dtype.name, "target": target}
            rows.append({**what, "options": options, "ours": cost, "cupy": peer(theirs, cost["ms"])})
            print(what, f"{cost['ms'] * 1e3:.0f} us, {cost['fraction_of_copy_rate']:.2f} of the copy rate", flush=True)
    return {"shape": SHAPE, "rows": rows}


def labelling(view: View, there: Any, extent: str) -> Iterator[tuple[str, Callable[[int], object]]]:
    """How others find the boxes of the components."""
    axis = Plane(view, SHAPE).axes[2]
    structure = np.zeros((3, 3, 3), np.uint8)
    structure[tuple(1 if i == axis and extent == "slice" else slice(None) for i in range(3))] = 1

    def with_cupy(turn: int) -> object:
        from cupyx.scipy import ndimage

        return ndimage.label(there[turn % len(there)], structure)

    def with_cucim(turn: int) -> object:
        from cucim.skimage.measure import regionprops_table
        from cupyx.scipy import ndimage

        numbered, _ = ndimage.label(there[turn % len(there)], structure)
        return regionprops_table(numbered, properties=("bbox", "area", "centroid"))

    def with_cvcuda(_turn: int) -> object:
        import cvcuda

        images = there[0].transpose(2, 1, 0)[..., None]  # slices of a Fortran-ordered volume, turned: boxes do not mind
        tensor = cvcuda.as_tensor(images, "NHWC")
        return cvcuda.label(tensor, connectivity=cvcuda.CONNECTIVITY_4_2D, count=True, stats=True, max_labels=10_000)

    yield "cupy label alone", with_cupy
    yield "cupy label + cucim regionprops_table", with_cucim
    if view == "axial" and extent == "slice":
        yield "cvcuda label, 4 neighbours, no centers", with_cvcuda


def components(rate: float) -> Part:
    """Kernels (b) and (c): a mask on the device to ordered rows on the host."""
    import cupy

    device = CuPyDevice()
    rows: list[Part] = []
    for name in CONTENTS:
        labels = content(name, SHAPE)
        there = [cupy.asarray(labels) for _ in range(3)]
        for extent in ("slice", "volume"):
            for view in VIEWS if extent == "slice" else ("axial",):
                if left() < 45:
                    return {"rows": rows, "left_out": "the others: no time left"}
                how = {"extent": extent, **FIND}
                found = cuda_components.find_components(device, there[0], view, **how)
                small = content(name, SMALL)
                mine = cuda_components.find_components(device, cupy.asarray(small), view, **how)
                wanted = CPU.find_components(small, view, **how)
                if not (np.array_equal(mine.start, wanted.start) and np.array_equal(mine.stop, wanted.stop)):
                    raise RuntimeError(f"components differ from the CPU's: {name} {view} {extent}")

                def ours(turn: int, view: Any = view, how: Any = how, there: Any = there) -> None:
                    cuda_components.find_components(device, there[turn % len(there)], view, **how)

                clock = rated(walled(ours), labels.nbytes, rate)
                row: Part = {"content": name, "view": view, "extent": extent, "components": len(found), "ours": clock}
                row["ours on the device"] = timed(ours, 7)
                if view == "axial" and name in ("sparse_lesions", "organ_blobs", "atlas", "noise50"):
                    for other, work in labelling(view, there, extent):
                        row[other] = peer(work, clock["ms"], walled)
                rows.append(row)
                print(name, view, extent, f"{clock['ms'] * 1e3:.0f} us to the host", flush=True)
    return {"shape": SHAPE, "rows": rows}


def statistics(rate: float) -> Part:
    """Kernel (d)."""
    import cupy

    device = CUDABackend()
    rows: list[Part] = []
    for dtype in ("uint8", "int16", "float32"):
        data, there = volumes(dtype, "F")
        cpu = CPU.statistics(data)
        others: dict[str, Callable[[Any], object]] = {
            "extent": lambda v: (v.min(), v.max()),
            "moments": lambda v: (v.mean(dtype=cupy.float64), v.std(dtype=cupy.float64)),
            "percentiles": lambda v: cupy.percentile(v, (0.5, 99.5)),
        }
        for name, other in others.items():
            if not np.allclose(getattr(device.statistics(there[0]), name), getattr(cpu, name), rtol=1e-9):
                raise RuntimeError(f"{name} of {dtype} differs from the CPU's")

            def ours(turn: int, name: str = name, there: Any = there) -> object:
                return getattr(device.statistics(there[turn % len(there)]), name)

            cost = rated(walled(ours), data.nbytes, rate)

            def theirs(turn: int, other: Any = other, there: Any = there) -> object:
                return other(there[turn % len(there)])

            rows.append({"stored": dtype, "number": name, "ours": cost, "cupy": peer(theirs, cost["ms"], walled)})
            print(dtype, name, f"{cost['ms'] * 1e3:.0f} us to the host", flush=True)
    return {"shape": SHAPE, "rows": rows}


def from_memory(_rate: float) -> Part:
    """A volume in host memory to slices in host memory: the bus is in it."""
    import cupy

    device = CUDABackend()
    rows: list[Part] = []
    data, there = volumes("int16", "F", 1)
    rule = rule_for(data)
    pinned = cupy.cuda.alloc_pinned_memory(data.nbytes)
    bus = walled(lambda _: there[0].data.copy_to_host(pinned.ptr, data.nbytes), 5)
    upload = walled(lambda _: device.to_device(data), 5)
    for view in VIEWS:
        plane = Plane(view, SHAPE)

        def resident(_: int, plane: Plane = plane) -> object:
            return device.cut_on_device(there[0], plane, 0, plane.count, rule)

        def whole(_: int, plane: Plane = plane) -> object:
            return device.cut(device.to_device(data), plane, 0, plane.count, rule)

        def cpu(_: int, plane: Plane = plane) -> object:
            return CPU.cut(data, plane, 0, plane.count, rule)

        costs = {
            "on the device": timed(resident, 7),
            "host to host": walled(whole, 5),
            "cpu, one thread": walled(cpu, 3),
        }
        rows.append({"view": view, **costs})
    return {"shape": SHAPE, "copy to pinned memory": bus, "to_device": upload, "rows": rows}


def make_folder(folder: Path, cases: int) -> int:
    """Write CT-like int16 volumes as .nii.gz; return the bytes of their voxels."""
    import nibabel as nib
    from isal import igzip

    shape = (512, 512, 160)
    blobs = content("organ_blobs", shape, "int16") * np.int16(180)
    noise = np.random.default_rng(3).normal(-60, 20, shape).astype(np.int16)
    image = nib.Nifti1Image(np.asfortranarray(blobs + noise), np.eye(4)).to_bytes()
    packed = igzip.compress(image, 1)
    for index in range(cases):
        (folder / f"case-{index:02d}.nii.gz").write_bytes(packed)
    return cases * blobs.nbytes


def end_to_end(_rate: float) -> Part:
    """A folder of .nii.gz to TIFF with the CPU and with CUDA in turns, in one process; the files are compared."""
    from voxtract import extract

    def files(root: Path) -> dict[str, bytes]:
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*.tif"))[::97]}

    rows: list[Part] = []
    with tempfile.TemporaryDirectory() as room:
        source = Path(room) / "in"
        source.mkdir()
        nbytes = make_folder(source, 4)
        jobs: dict[str, dict[str, Any]] = {
            "axial slices": {},
            "three views, min-max, 640 x 640": {"views": VIEWS, "normalization": "min-max", "target_size": (640, 640)},
        }
        for name, options in jobs.items():
            seconds: dict[str, list[float]] = {"cpu": [], "cuda": []}
            kept: dict[str, dict[str, bytes]] = {}
            for turn in range(4):
                for backend in ("cpu", "cuda"):
                    if left() < 25:
                        return {"bytes": nbytes, "rows": rows, "left_out": "the others: no time left"}
                    out = Path(room) / f"{backend}-{turn}"
                    start = time.perf_counter()
                    report = extract(source, out, backend=backend, annotations=None, progress=False, **options)
                    seconds[backend].append(time.perf_counter() - start)
                    if report.failed:
                        raise RuntimeError(str(report))
                    kept[backend] = kept.get(backend) or files(out)
                    shutil.rmtree(out)
            rows.append(
                {
                    "job": name,
                    "seconds": {backend: median(taken[1:]) for backend, taken in seconds.items()},  # the first warms up
                    "files_compared": len(kept["cpu"]),
                    "equal": kept["cpu"] == kept["cuda"],
                }
            )
    return {"bytes": nbytes, "rows": rows}


GPU_PARTS: dict[str, Callable[[float], Part]] = {
    "cut": cutting,
    "components": components,
    "statistics": statistics,
    "from_memory": from_memory,
    "end_to_end": end_to_end,
}
EVERY = ("tests", "sanitizers", *GPU_PARTS)


def attempt(work: Callable[[], Part]) -> Part:
    """Run one part; what goes wrong becomes its result."""
    if left() < 20:
        return {"left_out": "no time left"}
    start = time.monotonic()
    try:
        found = work()
    except Exception as why:  # noqa: BLE001 - one part that fails must not take the others' figures along
        found = {"failed": f"{type(why).__name__}: {why}"[:2000]}
    return {**found, "seconds": round(time.monotonic() - start, 1)}


def gpu() -> Part:
    """Device, driver and versions."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "device": properties["name"].decode(),
        "memory_gb": round(properties["totalGlobalMem"] / 1e9, 1),
        "multiprocessors": properties["multiProcessorCount"],
        "driver_cuda": runtime.driverGetVersion(),
        "runtime_cuda": runtime.runtimeGetVersion(),
        "packages": versions,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=EVERY, default=EVERY, help="leave the other results as they are")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--exercise", action="store_true", help="run every kernel once and write nothing")
    arguments = parser.parse_args(argv)
    if arguments.exercise:
        print(exercise())
        return 0
    result: Part = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    about = {"machine": machine(), "gpu": attempt(gpu)}
    rate = 0.0

    def measured() -> Part:
        nonlocal rate
        rate = copy_rate()
        return {"gb_per_s": rate, "what": "2 GiB on the device, bytes read plus bytes written"}

    chosen: dict[str, Callable[[], Part]] = {"tests": tests, "sanitizers": sanitizers}
    result["copy_rate"] = {**about, **attempt(measured)}
    arguments.output.parent.mkdir(exist_ok=True)
    for name in arguments.only:
        work = chosen.get(name) or partial(GPU_PARTS[name], rate)
        result[name] = {**about, **(attempt(work) if rate or name in chosen else {"failed": "no copy rate"})}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")  # after each part: a run may be cut short
        print(
            name,
            {key: value for key, value in result[name].items() if key not in ("rows", "machine", "gpu")},
            flush=True,
        )
    bad = [name for name in arguments.only if "failed" in result[name] or result[name].get("passed") is False]
    print("failed:", ", ".join(bad) if bad else "nothing", f"; {BUDGET_S - left():.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
