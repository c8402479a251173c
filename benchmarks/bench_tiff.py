"""Volume in memory to TIFF slices: ours against a raw write of the same bytes, tifffile and Pillow.

Every way starts from the Fortran-ordered volume that a NIfTI reader hands out and ends with one file per slice, as
`extract_slices_dataset` leaves them. The raw write gets images that are already cut: it is the floor. Pillow takes no
int16 array: there it writes int32, twice the bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from voxtract.compute.normalize import PixelRule, pixel_rule
from voxtract.compute.planes import cut, slices_per_block
from voxtract.geometry import VIEWS, Grid, Plane
from voxtract.model import Header
from voxtract.write import image_format
from voxtract.write.files import Staging

SHAPE = (512, 512, 160)
DTYPES = ("uint8", "int16", "float32")
SPACING_MM = (0.7, 0.7, 2.5)
ROUNDS = 7

Write = Callable[[Path], None]


def main(folder: Path | None = None) -> dict[str, Any]:
    """Measure all cases; files go to a temporary folder inside `folder` (by default the system's)."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        cases = [measure(Path(scratch), view, dtype) for dtype in DTYPES for view in VIEWS]
    return {
        "benchmark": "tiff",
        "shape": SHAPE,
        "content": "uniform random integers 0..254, Fortran order",
        "rounds": ROUNDS,
        "unit": "microseconds per slice, median; cut alone includes no file",
        "cases": cases,
    }


def measure(scratch: Path, view: Any, dtype: str) -> dict[str, Any]:
    """Compare the ways for one view and dtype, interleaved, after checking that all leave the same pixels."""
    data = np.asfortranarray(np.random.default_rng(0).integers(0, 255, SHAPE).astype(dtype))
    plane = Plane(view, SHAPE)
    rule = pixel_rule(Header(Grid(SHAPE, np.diag([*SPACING_MM, 1.0])), data.dtype))
    raw_slices = [np.ascontiguousarray(image) for image in slices(data, plane)]
    ways: dict[str, Write] = {
        "voxtract": lambda folder: ours(folder, data, plane, rule),
        "raw_write": lambda folder: raw(folder, raw_slices),
        "tifffile": lambda folder: with_tifffile(folder, data, plane),
        "pillow": lambda folder: with_pillow(folder, data, plane),
    }
    for name, write in ways.items():
        if name != "raw_write":
            check(scratch / name, write, raw_slices)
    seconds: dict[str, list[float]] = {name: [] for name in (*ways, "cut")}
    for _ in range(ROUNDS):
        for name, write in ways.items():
            seconds[name].append(timed(scratch / name, write))
        begin = time.perf_counter()
        for _images in blocks(data, plane, rule):
            pass
        seconds["cut"].append(time.perf_counter() - begin)
    each = {name: round(statistics.median(times) / plane.count * 1e6, 1) for name, times in seconds.items()}
    ratios = {f"{name}_over_voxtract": round(each[name] / each["voxtract"], 2) for name in ("tifffile", "pillow")}
    return {
        "view": view,
        "dtype": dtype,
        "slice_bytes": raw_slices[0].nbytes,
        **each,
        "voxtract_over_raw_write": round(each["voxtract"] / each["raw_write"], 2),
        **ratios,
    }


def slices(data: NDArray[Any], plane: Plane) -> list[NDArray[Any]]:
    """Views of the slices, as NumPy indexing gives them."""
    row, column, index = plane.axes
    return list(data.transpose(index, row, column))


def blocks(data: NDArray[Any], plane: Plane, rule: PixelRule) -> Any:
    """Yield the blocks of images that the pipeline cuts, into one buffer."""
    step = slices_per_block(data, plane, rule.dtype)
    out = np.empty((step, *plane.size), rule.dtype)
    for first in range(0, plane.count, step):
        last = min(first + step, plane.count)
        yield cut(data, plane, first, last, rule, out[: last - first])


def ours(folder: Path, data: NDArray[Any], plane: Plane, rule: PixelRule) -> None:
    writer = image_format("tiff")
    spacing = plane.pixel_spacing_mm(SPACING_MM)
    with Staging(folder) as staging:
        number = 0
        for images in blocks(data, plane, rule):
            for image in images:
                staging.write(f"{number:03d}.tif", writer.encode(image, spacing))
                number += 1


def raw(folder: Path, images: list[NDArray[Any]]) -> None:
    for number, image in enumerate(images):
        file = os.open(folder / f"{number:03d}.tif", os.O_WRONLY | os.O_CREAT, 0o666)
        os.write(file, image.data)
        os.close(file)


def with_tifffile(folder: Path, data: NDArray[Any], plane: Plane) -> None:
    for number, image in enumerate(slices(data, plane)):
        tifffile.imwrite(folder / f"{number:03d}.tif", np.ascontiguousarray(image))


def with_pillow(folder: Path, data: NDArray[Any], plane: Plane) -> None:
    for number, image in enumerate(slices(data, plane)):
        pixels = image.astype(np.int32) if image.dtype == np.int16 else image
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{number:03d}.tif")


def check(folder: Path, write: Write, wanted: list[NDArray[Any]]) -> None:
    folder.mkdir()
    write(folder)
    for number, image in enumerate(wanted):
        np.testing.assert_array_equal(tifffile.imread(folder / f"{number:03d}.tif"), image)
    shutil.rmtree(folder)


def timed(folder: Path, write: Write) -> float:
    folder.mkdir()
    begin = time.perf_counter()
    write(folder)
    seconds = time.perf_counter() - begin
    shutil.rmtree(folder)
    return seconds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", type=Path, help="where to write; a folder in memory shows the least noise")
    print(json.dumps(main(options.parse_args().folder), indent=2))
