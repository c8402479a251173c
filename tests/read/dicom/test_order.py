"""The order of slices by other words than their position: instance numbers, and as they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.read.dicom.series import enhanced, save, voxels, write_series
from voxtract.errors import InvalidInput
from voxtract.read.dicom import DicomVolume, open_dicom
from voxtract.read.labelbox import GroupPlane, Options
from voxtract.read.labelbox.planes import Ordered

pydicom: Any = pytest.importorskip("pydicom", reason="DICOM needs the extra dicom")

STORED = voxels()
COUNT = STORED.shape[2]


def volume(path: Path) -> DicomVolume:
    (case,) = open_dicom(path).cases
    assert isinstance(case.image, DicomVolume)
    return case.image


def counted(path: Path, by: Any) -> list[int]:
    """Slice of each file in the order of instance numbers, or of each frame of a file: by its pixels, not its place."""
    if by == "stored":
        pixels = list(pydicom.dcmread(path).pixel_array)
    else:
        files = sorted(map(pydicom.dcmread, path.iterdir()), key=lambda data: int(data.InstanceNumber))
        pixels = [data.pixel_array for data in files]
    read = volume(path).read().data
    return [next(z for z in range(COUNT) if np.array_equal(read[:, :, z].T, one)) for one in pixels]


@given(order=st.permutations(range(COUNT)), numbers=st.lists(st.integers(-5, 10**6), min_size=COUNT, unique=True))
def test_files_are_counted_by_their_instance_numbers(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], numbers: list[int]
) -> None:
    folder = write_series(
        tmp_path_factory.mktemp("series"), STORED, order=order, InstanceNumber=list(map(str, numbers))[:COUNT]
    )
    found = volume(folder).frame_order("instance")
    assert list(found) == counted(folder, "instance")
    assert sorted(found) == list(range(COUNT))


@given(order=st.permutations(range(COUNT)))
def test_frames_of_one_file_are_counted_as_they_are_stored(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    path = save(enhanced(STORED, order=order), tmp_path_factory.mktemp("file") / "a.dcm")
    file = volume(path)
    assert list(file.frame_order("stored")) == counted(path, "stored")
    assert file.frame_order("instance") == file.frame_order("stored")  # one file, one instance number
    assert isinstance(file, Ordered)
    grid = file.header().grid
    for by in ("stored", "instance"):
        plane = GroupPlane.of("axial", grid, Options(slice_order=by), 1, file)
        assert [plane.slice_of(frame) for frame in range(1, COUNT + 1)] == counted(path, "stored")


def test_files_are_stored_in_no_order(tmp_path: Path) -> None:
    file = volume(write_series(tmp_path, STORED))
    with pytest.raises(InvalidInput, match=f"lie in {COUNT} files, which are not stored in an order"):
        file.frame_order("stored")


@pytest.mark.parametrize("numbers", [["1", "2", "2", "3", "4", "5"], ["1", "2", "", "3", "4", "5"], ["x"] * 6])
def test_instance_numbers_that_give_no_order_are_refused(tmp_path: Path, numbers: list[str]) -> None:
    write_series(tmp_path, STORED)
    for name, number in zip(sorted(tmp_path.iterdir()), numbers, strict=True):
        data = pydicom.dcmread(name)
        data.add_new("InstanceNumber", "LO", number)  # as IS, pydicom would not write it
        data.save_as(name)
    file = volume(tmp_path)
    np.testing.assert_array_equal(file.read().data, STORED)  # nobody needs them to read it
    with pytest.raises(InvalidInput, match="different instance numbers, so that these give no order"):
        file.frame_order("instance")


def test_of_several_volumes_the_common_order_is_not_known(tmp_path: Path) -> None:
    both = np.concatenate([STORED, STORED], axis=2)
    order = [*range(COUNT), *range(COUNT)]
    for n, z in enumerate(order):
        write_series(tmp_path / "one", both[:, :, n : n + 1], order=[0], start=n + 1)
        path = tmp_path / "one" / f"IM{n + 1:04d}.dcm"
        data = pydicom.dcmread(path)
        data.ImagePositionPatient = [0, 0, 2 * z]
        data.EchoTime = str(10 + n // COUNT)
        data.save_as(path)
    (case,) = open_dicom(tmp_path / "one", volume_index=1).cases
    assert isinstance(case.image, DicomVolume)
    assert case.image.header().grid.shape[2] == COUNT
    with pytest.raises(InvalidInput, match="holds several volumes"):
        case.image.frame_order("instance")
