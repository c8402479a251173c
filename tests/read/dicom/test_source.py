"""What a tree of files holds: cases, their ids, what is left out and why."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.read.dicom.series import affine_of, dataset, enhanced, placed, pydicom, save, voxels, write_series
from tests.read.dicom.test_volume import only
from voxtract.errors import InvalidInput, NotFound, UnreadableFile
from voxtract.read.dicom import is_dicom, open_dicom, source

UID = "1.2.826.0.1.5."


def tree(root: Path) -> Path:
    """Three series in two folders, a multi-frame file, and what is none of these."""
    write_series(root / "p1" / "ct", voxels(seed=1), SeriesInstanceUID=UID + "1", SeriesNumber=2)
    write_series(root / "p1" / "mr", voxels(seed=2), SeriesInstanceUID=UID + "2", SeriesNumber=7)
    write_series(root / "p1" / "mr", voxels(seed=3), start=50, SeriesInstanceUID=UID + "3", SeriesNumber=8)
    save(enhanced(voxels(seed=4), SeriesInstanceUID=UID + "4"), root / "p2" / "many.dcm")
    (root / "p1" / "notes.txt").write_text("not DICOM")
    (root / ".hidden").write_text("")
    return root


def test_a_tree_is_a_case_per_series(tmp_path: Path) -> None:
    found = open_dicom(tree(tmp_path / "root"))
    assert [case.id for case in found.cases] == ["p1_ct", "p1_mr_7", "p1_mr_8", "p2_many"]
    for seed, case in enumerate(found.cases, 1):
        assert case.image is not None
        np.testing.assert_array_equal(case.image.read().data, voxels(seed=seed))
    wheres = [case.image.where for case in found.cases if case.image is not None]
    mr = tmp_path / "root" / "p1" / "mr"
    assert wheres[0] == str(tmp_path / "root" / "p1" / "ct")
    assert wheres[1:3] == [f"{mr} (case p1_mr_7)", f"{mr} (case p1_mr_8)"]
    assert wheres[3] == str(tmp_path / "root" / "p2" / "many.dcm")
    assert [Path(skip.where).name for skip in found.skipped] == [".hidden", "notes.txt"]
    assert "is no DICOM file: the mark DICM is missing" in found.skipped[1].reason
    assert found.description == f"{tmp_path / 'root'} (DICOM)"
    assert [(match.case, match.role) for match in found.matches] == [(case.id, "image") for case in found.cases]
    assert found.matches[1].why == "CT series 7: 6 slices in 6 files"


def test_paths_are_all_files_of_the_series(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct", voxels())
    assert only(folder).paths == tuple(str(folder / f"IM{n:04d}.dcm") for n in range(1, 7))


def test_a_series_in_two_folders_is_one_case(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct" / "a", voxels())
    (tmp_path / "ct" / "b").mkdir()
    for n in (2, 5):
        shutil.move(
            folder / f"IM{n:04d}.dcm", tmp_path / "ct" / "b" / "IM0001.dcm" if n == 2 else tmp_path / "ct" / "b"
        )
    (case,) = open_dicom(tmp_path).cases
    assert case.id == "ct"
    assert case.image is not None
    np.testing.assert_array_equal(case.image.read().data, voxels())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.dcm", "a"), ("A.IMA", "A"), ("1.2.840", "1.2.840"), ("b.dicom", "b"), (".dcm.dcm", ".dcm")],
)
def test_the_id_of_a_file_is_its_name(tmp_path: Path, name: str, expected: str) -> None:
    path = save(placed(dataset(voxels((2, 2, 1))[:, :, 0].T), affine_of()), tmp_path / name)
    (case,) = open_dicom(path).cases
    assert case.id == expected


def test_frames_of_reference_and_sizes_are_kept_apart(tmp_path: Path) -> None:
    write_series(tmp_path, voxels((4, 4, 3)))
    write_series(tmp_path, voxels((4, 4, 3), seed=4), start=10, FrameOfReferenceUID=UID + "9")
    write_series(tmp_path, voxels((5, 4, 3)), start=20)
    found = open_dicom(tmp_path)
    assert [case.id for case in found.cases] == [f"{tmp_path.name}_4", f"{tmp_path.name}_4_2", f"{tmp_path.name}_4_3"]
    shapes = [case.image.header().grid.shape for case in found.cases if case.image is not None]
    assert shapes == [(4, 4, 3), (4, 4, 3), (5, 4, 3)]
    assert any("has 2 orientations or sizes: a case each" in remark.message for remark in found.remarks)


def test_a_scout_that_does_not_say_so_is_left_out_with_a_remark(tmp_path: Path) -> None:
    write_series(tmp_path, voxels())
    write_series(tmp_path, voxels((5, 7, 1)), affine_of(np.roll(np.eye(3), 1, 0)), start=20)
    found = open_dicom(tmp_path)
    (case,) = found.cases
    assert case.image is not None
    np.testing.assert_array_equal(case.image.read().data, voxels())
    (skip,) = found.skipped
    assert skip.where == str(tmp_path / "IM0020.dcm")
    assert "single slice of another orientation" in skip.reason
    (remark,) = found.remarks
    assert remark.message.startswith("left out of this series: IM0020.dcm is a single slice of another orientation")


def test_a_localizer_is_left_out_with_a_reason(tmp_path: Path) -> None:
    write_series(tmp_path, voxels())
    write_series(tmp_path, voxels((9, 9, 1)), start=20, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    found = open_dicom(tmp_path)
    assert len(found.cases) == 1
    assert [skip.reason for skip in found.skipped] == ["is a localizer (ImageType), no part of a volume"]


def test_a_slice_that_cannot_be_used_is_told_with_its_series(tmp_path: Path) -> None:
    write_series(tmp_path, voxels())
    write_series(tmp_path, voxels((5, 7, 1)), start=20, BitsStored=17)
    found = open_dicom(tmp_path)
    assert "BitsStored 17" in found.skipped[0].reason
    assert found.remarks[0].message.startswith("left out of this series: IM0020.dcm its pixels cannot be worked with")


def test_a_header_cut_short_is_skipped_with_a_reason(tmp_path: Path) -> None:
    folder = write_series(tmp_path, voxels(), order=range(6))
    last = folder / "IM0006.dcm"
    last.write_bytes(last.read_bytes()[:400])
    found = open_dicom(tmp_path)
    assert [Path(skip.where).name for skip in found.skipped] == ["IM0006.dcm"]
    assert found.cases[0].image is not None
    assert found.cases[0].image.header().grid.shape == (5, 7, 5)


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct", voxels())
    (folder / "again").symlink_to(tmp_path, target_is_directory=True)
    found = open_dicom(tmp_path)
    assert len(found.cases) == 1
    assert [skip.reason for skip in found.skipped] == ["is a link to a folder; give that folder itself"]


def test_nothing_there_and_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file or folder"):
        open_dicom(tmp_path / "none")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(NotFound, match=r"holds no DICOM volume; .*1 files skipped, first .*a\.txt: is no DICOM file"):
        open_dicom(tmp_path)
    with pytest.raises(InvalidInput, match=r"a\.txt: is no DICOM file"):
        open_dicom(tmp_path / "a.txt")


def test_a_file_without_its_mark_is_read_on_request_only(tmp_path: Path) -> None:
    path = save(placed(dataset(voxels((3, 4, 1))[:, :, 0].T), affine_of()), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[132:])
    with pytest.raises(InvalidInput, match="force=True"):
        open_dicom(path)
    np.testing.assert_array_equal(only(path, force=True).read().data, voxels((3, 4, 1)))


def test_what_pydicom_warns_of_is_a_remark(tmp_path: Path) -> None:
    data = placed(dataset(voxels((3, 4, 1))[:, :, 0].T, SliceThickness="2"), affine_of())
    data.preamble = bytes(128)
    pydicom.dcmwrite(tmp_path / "a.dcm", data, implicit_vr=True, little_endian=True, force_encoding=True)
    found = open_dicom(tmp_path / "a.dcm")  # its file header says explicit
    assert [remark.message for remark in found.remarks] == [
        "Expected explicit VR, but found implicit VR - using implicit VR for reading"
    ]
    assert found.cases[0].image is not None
    np.testing.assert_array_equal(found.cases[0].image.read().data, voxels((3, 4, 1)))


def test_without_pydicom_the_install_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from voxtract.read.dicom import files

    monkeypatch.setattr(files, "find_spec", lambda _: None)
    with pytest.raises(InvalidInput, match=r"pip install 'voxtract\[dicom\]'"):
        open_dicom(tmp_path)


def test_a_folder_that_is_not_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("voxtract.read.dicom.source.os.scandir", refuse)
    with pytest.raises(UnreadableFile, match="cannot be listed: Permission denied"):
        open_dicom(tmp_path)


def test_is_dicom_asks_the_bytes(tmp_path: Path) -> None:
    path = save(dataset(voxels((2, 2, 1))[:, :, 0].T), tmp_path / "deep" / "er" / "no suffix")
    (tmp_path / "a.txt").write_text("x" * 200)
    assert is_dicom(path)
    assert is_dicom(tmp_path)
    assert not is_dicom(tmp_path / "a.txt")
    assert not is_dicom(tmp_path / "none")


def test_is_dicom_gives_up_on_large_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FILES_LOOKED_AT", 2)
    for n in range(3):
        (tmp_path / f"a{n}.txt").write_text("")
    save(dataset(voxels((2, 2, 1))[:, :, 0].T), tmp_path / "b.dcm")
    assert not is_dicom(tmp_path)
    monkeypatch.setattr(source, "FILES_LOOKED_AT", 4)
    assert is_dicom(tmp_path)


def test_the_writer_of_these_tests_writes_what_pydicom_reads(tmp_path: Path) -> None:
    folder = write_series(tmp_path, voxels())
    slices = sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda data: data.ImagePositionPatient[2])
    np.testing.assert_array_equal(np.stack([data.pixel_array for data in slices]).T, voxels())
