"""The demo as a whole: what it writes lies on the lesions that the phantoms are known to hold."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from voxtract.demo import Demo, run_demo
from voxtract.phantoms import make_data_set


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return run_demo(tmp_path_factory.mktemp("demo"), progress=False)


def test_it_says_what_it_made(demo: Demo) -> None:
    assert demo.report.exit_code == 0
    assert len(demo.cases) == 4
    for word in (str(demo.sheet), "mr-head", "4 of 4 cases done", "MB/s"):
        assert word in str(demo)
    assert demo.to_dict()["report"]["failed"] == 0


def test_the_sheet_opens(demo: Demo) -> None:
    with Image.open(demo.sheet) as sheet:
        sheet.load()
        assert sheet.width > 1500
        assert len(sheet.getcolors(1 << 24) or []) > 300  # greys of the slices, not a blank page


@pytest.mark.parametrize("view", ["axial", "coronal", "sagittal"])
def test_boxes_sit_on_the_lesions(demo: Demo, view: str) -> None:
    """All slice boxes of a class together span its lesions' boxes, which the phantoms know from the formula alone."""
    rows, columns, index = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}[view]
    for case in demo.cases:
        if not case.lesions:
            continue
        affine = nib.as_closest_canonical(nib.load(case.labels)).affine
        tables = [pd.read_csv(p) for p in sorted(Path(demo.report.output, case.id, view).glob("*.csv"))]
        table = pd.concat([t for t in tables if len(t)])
        for label in {lesion.label for lesion in case.lesions}:
            boxes = [lesion.box(affine) for lesion in case.lesions if lesion.label == label]
            start = np.min([b.start for b in boxes], axis=0)
            stop = np.max([b.stop for b in boxes], axis=0)
            found = table[table["LABEL"] == label]
            low, high = found.min(), found.max()
            assert [low["X_MIN"], low["Y_MIN"], low["Z_MIN"]] == [start[columns], start[rows], start[index]]
            assert [high["X_MAX"] + 1, high["Y_MAX"] + 1, high["Z_MAX"] + 1] == [
                stop[columns],
                stop[rows],
                stop[index],
            ]


def test_again_over_an_earlier_demo(demo: Demo) -> None:
    before = demo.sheet.read_bytes()
    run_demo(demo.sheet.parent, progress=False)
    assert demo.sheet.read_bytes() == before
    assert make_data_set(demo.data).cases == demo.cases
