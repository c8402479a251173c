"""The whole way over real scans and atlases, where they are at hand, against nibabel and SciPy."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

import voxtract
from tests.conftest import stored

pytestmark = pytest.mark.real
AXES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
CORNERS = ["Z_MIN", "Y_MIN", "X_MIN", "Z_MAX", "Y_MAX", "X_MAX"]


@pytest.mark.parametrize("view", ["axial", "coronal", "sagittal"])
def test_atlases_have_the_boxes_that_scipy_finds(real_data: Path, tmp_path: Path, view: str) -> None:
    report = voxtract.extract(
        voxtract.open_source(labels=real_data / "labels"),
        tmp_path,
        (view,),  # type: ignore[arg-type]
        data_mode="box",
        extraction_mode="volume",
        extra_columns=("LABEL", "AREA"),
    )
    assert report.exit_code == 0
    row, column, index = AXES[view]
    for path in sorted((real_data / "labels").iterdir()):
        atlas = stored(path).transpose(index, row, column)
        expected = set()
        present = set(np.unique(atlas).tolist())
        for label, place in enumerate(ndimage.find_objects(atlas), 1):
            if label not in present:
                continue
            origin = np.array([s.start for s in place])
            pieces, _ = ndimage.label(atlas[place] == label, np.ones((3, 3, 3)))
            sizes = np.bincount(pieces.ravel())
            for number, box in enumerate(ndimage.find_objects(pieces), 1):
                low, high = [s.start for s in box] + origin, [s.stop - 1 for s in box] + origin
                expected.add((*low.tolist(), *high.tolist(), label, int(sizes[number])))
        case = path.name.removesuffix(".nii.gz")
        table = pd.read_csv(tmp_path / case / view / f"{case}.csv")
        assert {tuple(map(int, r)) for r in table[[*CORNERS, "LABEL", "AREA"]].itertuples(index=False)} == expected


def test_scans_are_cut_as_nibabel_reads_them(real_data: Path, tmp_path: Path) -> None:
    report = voxtract.extract(real_data / "images", tmp_path, ("axial", "sagittal"), reorient="RAS")
    assert report.exit_code == 0
    for path in sorted((real_data / "images").iterdir()):
        case = path.name.removesuffix(".nii.gz")
        scan = nib.as_closest_canonical(nib.nifti1.load(path))
        voxels = np.asarray(scan.dataobj)
        for view, axis in (("axial", 2), ("sagittal", 0)):
            files = sorted((tmp_path / case / view).glob("*.tif"))
            assert len(files) == voxels.shape[axis]
            for k in range(0, len(files), 9):
                np.testing.assert_array_equal(tifffile.imread(files[k]), voxels.take(k, axis))
