"""A CT series of one file per slice to a volume: ours against SimpleITK and highdicom, and the bare read of the files.

The files carry the header of a real CT slice (pydicom's ``CT_small.dcm``, some 200 elements) and noise as pixels, and
lie in one folder with names in no order of position. Every way begins with that folder and ends with the voxels in
memory, in patient order; voxels and affines are compared before anything is timed. Needs SimpleITK and highdicom.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtract.read.dicom import open_dicom

SHAPE = (512, 512, 300)
SPACING_MM = (0.7, 0.7, 2.5)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def main(repeat: int = 7, shape: tuple[int, int, int] = SHAPE) -> dict[str, Any]:
    """Measure, and return a JSON-ready result."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_series(folder, shape)
        ways: dict[str, Callable[[Path], Any]] = {
            "voxtract": ours,
            "bare read": bare_read,
            "SimpleITK": simpleitk,
            "highdicom": highdicom,
        }
        check(folder)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeat):
            for name, way in ways.items():
                begin = time.perf_counter()
                way(folder)
                seconds[name].append(time.perf_counter() - begin)
    mine = seconds["voxtract"]
    return {
        "benchmark": "dicom",
        "work": "folder of a CT series, one file per slice -> int16 voxels (x, y, z) in memory, with their affine",
        "shape": list(shape),
        "repeat": repeat,
        "checked": "voxels and affine equal SimpleITK's and highdicom's",
        "median_s": {name: round(statistics.median(s), 4) for name, s in seconds.items()},
        "times as long as voxtract": {
            name: round(statistics.median(p / o for p, o in zip(seconds[name], mine, strict=True)), 2)
            for name in ways
            if name != "voxtract"
        },
    }


def write_series(folder: Path, shape: tuple[int, int, int]) -> None:
    """Write a series; instance numbers run against the position, as they often do."""
    import pydicom
    from pydicom.data import get_testdata_file

    data: Any = pydicom.dcmread(get_testdata_file("CT_small.dcm"))  # type: ignore[arg-type]
    columns, rows, slices = shape
    random = np.random.default_rng(0)
    data.Rows, data.Columns, data.PixelSpacing = rows, columns, [SPACING_MM[1], SPACING_MM[0]]
    data.SliceThickness = SPACING_MM[2]
    for index, name in enumerate(random.permutation(slices)):
        data.ImagePositionPatient = [-100.5, -120.25, round(-300 + SPACING_MM[2] * index, 3)]
        data.InstanceNumber = slices - index
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{index + 1}"
        data.PixelData = random.integers(0, 3000, (rows, columns), np.int16).tobytes()
        data.save_as(folder / f"IM{name:05d}.dcm", enforce_file_format=True)


def ours(folder: Path) -> NDArray[Any]:
    (case,) = open_dicom(folder).cases
    if case.image is None:
        raise RuntimeError("no image")
    return case.image.read().data


def bare_read(folder: Path) -> int:
    return sum(len(path.read_bytes()) for path in folder.iterdir())


def simpleitk(folder: Path) -> Any:
    SimpleITK: Any = import_module("SimpleITK")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def highdicom(folder: Path) -> Any:
    import highdicom as hd
    import pydicom

    return hd.get_volume_from_series(
        [pydicom.dcmread(path) for path in folder.iterdir()], dtype=np.int16, apply_modality_transform=False
    )


def check(folder: Path) -> None:
    """Compare voxels and affines of all ways."""
    SimpleITK: Any = import_module("SimpleITK")
    (case,) = open_dicom(folder).cases
    if case.image is None:
        raise RuntimeError("no image")
    volume = case.image.read()
    values = volume.data * np.int16(volume.header.slope) + np.int16(volume.header.intercept)
    theirs = simpleitk(folder)
    np.testing.assert_array_equal(SimpleITK.GetArrayViewFromImage(theirs), values.T)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(theirs.GetDirection(), (3, 3)) * theirs.GetSpacing()
    affine[:3, 3] = theirs.GetOrigin()
    np.testing.assert_allclose(LPS_TO_RAS @ affine, volume.header.grid.affine, atol=1e-6)
    strict = highdicom(folder)  # axes (slice, row, column), slices the other way round
    np.testing.assert_array_equal(strict.array[::-1], volume.data.T)
    last = strict.affine @ [strict.shape[0] - 1, 0, 0, 1]
    np.testing.assert_allclose(LPS_TO_RAS @ last, volume.header.grid.affine[:, 3], atol=1e-6)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    options.add_argument("--repeat", type=int, default=7)
    given = options.parse_args()
    print(json.dumps(main(given.repeat, tuple(given.shape)), indent=1))
