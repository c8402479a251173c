"""The general API: pairs, several views from one decode, workers, memory, journal and resume."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray

import voxtract
from tests.conftest import WriteNifti, stored
from voxtract.errors import DamagedFile, InvalidInput, OutputError
from voxtract.geometry import VIEWS
from voxtract.journal import Journal
from voxtract.model import Case, Header, LabelVolume, Source, Volume
from voxtract.read import open_source
from voxtract.read.extraction import findings_name, manifest_name
from voxtract.report import CaseResult
from voxtract.write.files import Note
from voxtract.write.tiff import Tiff

ANISOTROPIC = np.diag([0.8, 0.7, 2.5, 1.0])


def volumes(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    image = rng.integers(-1000, 1000, shape).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    labels[2:5, 1:4, 1:3] = 1
    labels[shape[0] - 2 :, shape[1] - 3 :, 2] = 3
    return image, labels


@pytest.fixture
def pairs(tmp_path: Path, write_nifti: WriteNifti) -> Path:
    rng = np.random.default_rng(3)
    for number, shape in enumerate([(9, 8, 5), (11, 6, 4), (7, 7, 7)]):
        image, labels = volumes(rng, shape)
        write_nifti(tmp_path / "data/images" / f"case_{number}.nii.gz", image, ANISOTROPIC)
        write_nifti(tmp_path / "data/labels" / f"case_{number}.nii.gz", labels, ANISOTROPIC)
    return tmp_path / "data"


def digest(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_images_and_tables_of_all_views_lie_side_by_side(pairs: Path, tmp_path: Path) -> None:
    report = voxtract.extract(
        pairs, tmp_path / "out", ("axial", "coronal", "sagittal"), data_mode="box", extra_columns=("LABEL",)
    )
    assert report.exit_code == 0
    assert [r.id for r in report.results] == ["case_0", "case_1", "case_2"]
    assert dict(report.results[1].slices) == {"axial": 4, "coronal": 6, "sagittal": 11}
    image = stored(pairs / "images/case_1.nii.gz")
    labels = stored(pairs / "labels/case_1.nii.gz")
    rows = 0
    for view, axis in (("axial", 2), ("coronal", 1), ("sagittal", 0)):
        for k in range(image.shape[axis]):
            stem = tmp_path / f"out/case_1/{view}/case_1_{view}_{k:03d}"
            np.testing.assert_array_equal(tifffile.imread(f"{stem}.tif"), image.take(k, axis))
            for r in pd.read_csv(f"{stem}.csv").itertuples(index=False):
                inside = labels.take(k, axis)[r.Y_MIN : r.Y_MAX + 1, r.X_MIN : r.X_MAX + 1]
                assert (inside == r.LABEL).all()
                rows += 1
    assert rows == sum(report.results[1].annotations.values()) > 0


class CountedFile:
    """A volume in memory that counts how often it is decoded."""

    volume_index = None

    def __init__(self, where: str, data: NDArray[Any]):
        from voxtract.geometry import Grid

        self.where = where
        self._volume = Volume(Header(Grid(data.shape, np.eye(4)), data.dtype, where=where), data)
        self.reads = 0
        self.paths = (where,)

    def header(self) -> Header:
        return self._volume.header

    def read(self) -> Volume:
        self.reads += 1
        return self._volume

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        self.reads += 1
        for first in range(0, self._volume.data.shape[2], planes):
            yield self._volume.data[:, :, first : first + planes]


def listed(*cases: Case) -> Source:
    return Source("volumes in memory", cases)


def test_one_decode_serves_all_views(tmp_path: Path) -> None:
    image, labels = volumes(np.random.default_rng(0), (9, 8, 6))
    files = CountedFile("image", image), CountedFile("labels", labels)
    voxtract.extract(
        listed(Case("a", files[0], (LabelVolume(files[1]),))), tmp_path / "out", ("axial", "coronal", "sagittal")
    )
    assert [file.reads for file in files] == [1, 1]


@pytest.fixture
def one_slice_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiny volumes be cut in many blocks, as large ones are."""
    monkeypatch.setattr("voxtract.compute.planes._BLOCK_BYTES", 1)
    monkeypatch.setattr("voxtract.compute.planes._RUN_BYTES", 1)


@pytest.mark.usefixtures("one_slice_blocks")
@pytest.mark.parametrize("workers", [2, 7])
def test_output_does_not_depend_on_the_number_of_workers(pairs: Path, tmp_path: Path, workers: int) -> None:
    for name, count in (("one", 1), ("many", workers)):
        voxtract.extract(pairs, tmp_path / name, ("axial", "sagittal"), workers=count)
    assert digest(tmp_path / "one") == digest(tmp_path / "many")


@pytest.mark.usefixtures("one_slice_blocks")
def test_idle_threads_share_the_slices_of_a_single_volume(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    real = Tiff.encode

    def seen(*words: Any) -> Any:
        threads.add(threading.get_ident())
        time.sleep(0.001)
        return real(*words)

    monkeypatch.setattr(Tiff, "encode", seen)
    one, many = (
        voxtract.extract(
            open_source(pairs / "images/case_0.nii.gz"), tmp_path / str(n), ("axial", "coronal", "sagittal"), workers=n
        )
        for n in (1, 4)
    )
    assert digest(tmp_path / "1") == digest(tmp_path / "4")
    assert one.slices == many.slices == 5 + 8 + 9
    assert len(threads) > 2  # the one of the first run, and several of the second


def test_reorientation_moves_image_and_labels_together(tmp_path: Path, write_nifti: WriteNifti) -> None:
    image, labels = volumes(np.random.default_rng(5), (9, 8, 5))
    original = nib.Nifti1Image(image, ANISOTROPIC), nib.Nifti1Image(labels, ANISOTROPIC)
    stored = [
        i.as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(i.affine), nib.orientations.axcodes2ornt("PSL"))
        )
        for i in original
    ]
    for i, kind in zip(stored, ("images", "labels"), strict=True):
        write_nifti(tmp_path / "data" / kind / "a.nii.gz", np.asarray(i.dataobj), i.affine)
    write_nifti(tmp_path / "ras/images/a.nii.gz", image, ANISOTROPIC)
    write_nifti(tmp_path / "ras/labels/a.nii.gz", labels, ANISOTROPIC)
    for mode in ("slice", "volume"):
        words: Any = {"data_mode": "box", "extraction_mode": mode, "extra_columns": ("LABEL", "AREA")}
        voxtract.extract(tmp_path / "data", tmp_path / f"turned {mode}", VIEWS, reorient="RAS", **words)
        voxtract.extract(tmp_path / "ras", tmp_path / f"straight {mode}", VIEWS, **words)
        turned, straight = digest(tmp_path / f"turned {mode}/a"), digest(tmp_path / f"straight {mode}/a")
        assert turned == straight
        assert len(turned) > 3


def test_labels_on_another_grid_are_refused_with_both(tmp_path: Path, write_nifti: WriteNifti) -> None:
    image, labels = volumes(np.random.default_rng(0), (9, 8, 5))
    write_nifti(tmp_path / "i/a.nii.gz", image, ANISOTROPIC)
    write_nifti(tmp_path / "l/a.nii.gz", labels[:, :, :-1], ANISOTROPIC)
    source = open_source(image=tmp_path / "i", labels=tmp_path / "l")
    report = voxtract.extract(source, tmp_path / "o1")
    assert "9 x 8 x 5 against 9 x 8 x 4" in str(report.failed[0].error)
    write_nifti(tmp_path / "l/a.nii.gz", labels, np.eye(4))
    report = voxtract.extract(source, tmp_path / "o2")
    assert "allow_affine_mismatch" in str(report.failed[0].error)
    assert report.exit_code == 1
    assert voxtract.extract(source, tmp_path / "o3", allow_affine_mismatch=True).exit_code == 0


def test_same_id_twice_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    image, _ = volumes(np.random.default_rng(0), (9, 8, 5))
    twice = listed(Case("a", CountedFile("x/a.nii", image)), Case("a", CountedFile("y/a.nii", image)))
    with pytest.raises(InvalidInput, match=r"x/a\.nii and y/a\.nii"):
        voxtract.extract(twice, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_case_ids_cannot_leave_the_output_folder(tmp_path: Path) -> None:
    image, _ = volumes(np.random.default_rng(0), (9, 8, 5))
    for bad in ("../up", "..", "", "a/b"):
        with pytest.raises(InvalidInput, match="folder"):
            voxtract.extract(listed(Case(bad, CountedFile("x", image))), tmp_path / "out")


def test_nothing_to_do_is_said(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing to do"):
        voxtract.extract(open_source(pairs / "images"), tmp_path / "out", images=None)


def test_memory_limit_too_small_for_a_case_names_it(pairs: Path, tmp_path: Path) -> None:
    report = voxtract.extract(pairs, tmp_path / "out", memory_limit=1000)
    assert len(report.failed) == 3
    assert "memory_limit" in str(report.failed[0].error)
    assert "case_0" in str(report.failed[0].error)


def test_memory_limit_for_one_case_at_a_time_still_finishes(pairs: Path, tmp_path: Path) -> None:
    report = voxtract.extract(pairs, tmp_path / "out", memory_limit=70 << 20, workers=3)
    assert report.exit_code == 0


def test_a_failed_case_leaves_nothing_and_the_report_says_why(pairs: Path, tmp_path: Path) -> None:
    whole = (pairs / "images/case_1.nii.gz").read_bytes()
    (pairs / "images/case_1.nii.gz").write_bytes(whole[:-30])
    report = voxtract.extract(pairs, tmp_path / "out")
    assert [r.status for r in report.results] == ["done", "failed", "done"]
    assert not (tmp_path / "out/case_1").exists()
    frame = report.to_frame()
    assert frame.set_index("case").loc["case_1", "status"] == "failed"
    assert "case_1.nii.gz" in frame.set_index("case").loc["case_1", "reason"]
    parsed = json.loads(report.to_json())
    assert (parsed["done"], parsed["failed"], parsed["results"][1]["case"]) == (2, 1, "case_1")
    assert "failed: " in str(report)


def test_an_earlier_run_is_neither_mixed_nor_lost(pairs: Path, tmp_path: Path) -> None:
    voxtract.extract(pairs, tmp_path / "out")
    before = digest(tmp_path / "out")
    with pytest.raises(InvalidInput, match=r"resume=True.*overwrite=True"):
        voxtract.extract(pairs, tmp_path / "out")
    with pytest.raises(InvalidInput, match="data_mode was 'center', is 'box'"):
        voxtract.extract(pairs, tmp_path / "out", resume=True, data_mode="box")
    assert digest(tmp_path / "out") == before
    report = voxtract.extract(pairs, tmp_path / "out", resume=True)
    assert {r.status for r in report.results} == {"resumed"}
    assert report.slices == 5 + 4 + 7
    assert {r.status for r in voxtract.extract(pairs, tmp_path / "out", overwrite=True).results} == {"done"}
    assert digest(tmp_path / "out") == before


def test_resume_does_changed_and_failed_cases_again(pairs: Path, tmp_path: Path, write_nifti: WriteNifti) -> None:
    good = (pairs / "images/case_2.nii.gz").read_bytes()
    (pairs / "images/case_2.nii.gz").write_bytes(b"nothing")
    voxtract.extract(pairs, tmp_path / "out")
    (pairs / "images/case_2.nii.gz").write_bytes(good)
    image, _ = volumes(np.random.default_rng(9), (9, 8, 5))
    write_nifti(pairs / "images/case_0.nii.gz", image, ANISOTROPIC)
    report = voxtract.extract(pairs, tmp_path / "out", resume=True)
    assert [r.status for r in report.results] == ["done", "resumed", "done"]
    voxtract.extract(pairs, tmp_path / "fresh")
    assert digest(tmp_path / "out") == digest(tmp_path / "fresh")


KILLED = """
import os, sys, voxtract
count = 0
def deadly(function):
    def call(*args, **words):
        global count
        count += 1
        if count == int(sys.argv[3]):
            os.kill(os.getpid(), 9)
        return function(*args, **words)
    return call
os.writev, os.replace = deadly(os.writev), deadly(os.replace)
voxtract.extract(sys.argv[1], sys.argv[2], ("axial", "coronal"), workers=1)
"""
FIRST_CASE = 2 * 2 * (5 + 8)  # an image and a table for each slice, each written and put in place


@pytest.mark.parametrize("at", [1, 15, FIRST_CASE - 10, FIRST_CASE + 20])
def test_resume_after_kill_ends_byte_identical(pairs: Path, tmp_path: Path, at: int) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, pairs, tmp_path / "out", str(at)], check=False)
    assert killed.returncode == -signal.SIGKILL
    report = voxtract.extract(pairs, tmp_path / "out", ("axial", "coronal"), resume=True)
    assert report.exit_code == 0
    assert {r.status for r in report.results} == ({"done"} if at <= FIRST_CASE else {"done", "resumed"})
    voxtract.extract(pairs, tmp_path / "fresh", ("axial", "coronal"))
    assert digest(tmp_path / "out") == digest(tmp_path / "fresh")
    leftovers = {p.name for p in (tmp_path / "out").iterdir()} - {p.name for p in (tmp_path / "fresh").iterdir()}
    assert not leftovers


def touch_parts(out: Path, case_id: str) -> None:
    """Make what a complete case has at least."""
    for name in (findings_name(case_id), manifest_name(case_id)):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).touch()


def test_journal_cut_in_its_last_line_is_recovered_elsewhere_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"views": ("axial",)})
    for name in ("a", "b"):
        journal.add(CaseResult(name, "done", (), {"axial": 3}), [], Note("manifest", 0, 0))
        touch_parts(tmp_path, name)
    journal.close()
    path = tmp_path / ".voxtract/journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with Journal(tmp_path, {"views": ("axial",)}, resume=True) as resumed:
        assert resumed.result("a", (), []) is not None
        assert resumed.result("b", (), []) is None
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:9] + b"\n" + lines[2])
    with pytest.raises(DamagedFile, match="line 2"):
        Journal(tmp_path, {"views": ("axial",)}, resume=True)


def test_output_that_cannot_be_written_is_said(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="file"):
        voxtract.extract(pairs, tmp_path / "file")
    with pytest.raises(OutputError, match="file"):
        voxtract.extract(pairs, tmp_path / "file" / "below")


def test_disk_full_fails_the_case_and_names_the_file(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "writev", full)
    monkeypatch.setattr(os, "write", full)
    report = voxtract.extract(pairs, tmp_path / "out", annotations=None, workers=1)
    assert [r.status for r in report.results] == ["failed"] * 3
    assert "case_0_axial_000.tif" in str(report.failed[0].error)
    assert isinstance(report.failed[0].error, OutputError)
    assert not list((tmp_path / "out").rglob("*.tif"))


def test_ten_thousand_tiny_files(tmp_path: Path, write_nifti: WriteNifti) -> None:
    tiny = write_nifti(tmp_path / "one.nii.gz", np.ones((2, 2, 1), np.uint8)).read_bytes()
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(10_000):
        (folder / f"c{number:05d}.nii.gz").write_bytes(tiny)
    voxtract.extract_annotations_dataset(folder, tmp_path / "out", save_stats=True, progress=False)
    stats = pd.read_csv(tmp_path / "out/axial_annotations_stats.csv")
    assert stats.iloc[-1]["TOTAL_ANNOTATIONS"] == 10_000
    assert (tmp_path / "out/c09999/axial/c09999_axial_0.csv").read_text() == "X,Y,Z\n0.5,0.5,0.0\n"


def test_output_inside_the_input_folder_loses_nothing(pairs: Path) -> None:
    before = digest(pairs / "images")
    voxtract.extract_slices_dataset(pairs / "images", pairs / "images" / "out", progress=False)
    voxtract.extract_slices_dataset(pairs / "images", pairs / "images", progress=False)
    after = digest(pairs / "images")
    assert {name: after[name] for name in before} == before
    assert len(list((pairs / "images/out").rglob("*.tif"))) == 5 + 4 + 7
    assert len(list(pairs.glob("images/case_*/axial/*.tif"))) == 5 + 4 + 7


def test_ctrl_c_stops_quickly_and_leaves_nothing_half_written(tmp_path: Path, write_nifti: WriteNifti) -> None:
    data = np.random.default_rng(0).integers(0, 9000, (150, 150, 60)).astype(np.int16)
    first = write_nifti(tmp_path / "in" / "0.nii.gz", data)
    count = 150  # so many that nobody misses the moment
    for number in range(1, count):
        (tmp_path / "in" / f"{number}.nii.gz").hardlink_to(first)
    command = [
        sys.executable,
        "-m",
        "voxtract",
        "slices",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--workers",
        "1",
    ]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where it is ignored, children ignore it too
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((tmp_path / "out").rglob("*.tif")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped" in err
    assert "Traceback" not in err
    written = list((tmp_path / "out").rglob("*.tif"))
    assert 0 < len(written) < count * 60
    assert all(tifffile.imread(p).shape == (150, 150) for p in written)
    assert {p.name for p in (tmp_path / "out").iterdir()} <= {str(n) for n in range(count)}


LABELS_ONLY: Any = {"images": None, "extraction_mode": "volume", "data_mode": "box", "extra_columns": ("LABEL", "AREA")}


def rows_of(source: Any, out: Path, **options: Any) -> list[tuple[int, ...]]:
    voxtract.extract(source, out, **{**LABELS_ONLY, **options})
    (path,) = out.rglob("*.csv")
    return [tuple(map(int, row)) for row in pd.read_csv(path).itertuples(index=False)]


@pytest.fixture
def lesions() -> Source:
    labels = np.zeros((20, 18, 6), np.int32)
    labels[1:4, 1:4, 1:3] = 300  # 18 voxels
    labels[4, 4, 3] = 300  # touches the first one at a corner only
    labels[10:12, 10, 2] = 7  # 2 voxels
    labels[15, 2:8, 4] = 7  # 6 voxels
    return listed(Case("a", labels=(LabelVolume(CountedFile("a.nii", labels)),)))


def test_classes_and_min_size_choose_rows(lesions: Source, tmp_path: Path) -> None:
    all_rows = [(1, 1, 1, 4, 4, 3, 300, 19), (10, 10, 2, 10, 11, 2, 7, 2), (2, 15, 4, 7, 15, 4, 7, 6)]
    assert rows_of(lesions, tmp_path / "all") == all_rows
    assert rows_of(lesions, tmp_path / "class", classes=[7]) == all_rows[1:]
    assert rows_of(lesions, tmp_path / "size", min_size=6) == [all_rows[0], all_rows[2]]
    assert rows_of(lesions, tmp_path / "both", classes=(7, 8), min_size=3) == all_rows[2:]
    assert rows_of(lesions, tmp_path / "none", classes=(1,)) == []


def test_connectivity_and_objects(lesions: Source, tmp_path: Path) -> None:
    faces = rows_of(lesions, tmp_path / "faces", connectivity=1)
    assert [(row[6], row[7]) for row in faces] == [(300, 18), (7, 2), (300, 1), (7, 6)]
    whole = rows_of(lesions, tmp_path / "labels", objects="labels")
    assert whole == [(1, 1, 1, 4, 4, 3, 300, 19), (2, 10, 2, 10, 15, 4, 7, 8)]


def test_threshold_makes_a_mask_of_any_volume(tmp_path: Path) -> None:
    heat = np.zeros((6, 6, 3), np.float32)
    heat[1:3, 2, 1], heat[4, 4, 2] = 0.8, 0.3
    source = listed(Case("a", labels=(LabelVolume(CountedFile("a.nii", heat)),)))
    assert rows_of(source, tmp_path / "out", threshold=0.5) == [(2, 1, 1, 2, 2, 1, 1, 2)]
    report = voxtract.extract(source, tmp_path / "refused", images=None)
    assert "threshold=" in str(report.failed[0].error)


def test_center_of_mass_follows_the_padding(tmp_path: Path) -> None:
    labels = np.zeros((6, 6, 3), np.uint8)
    labels[1, 1:4, 1] = labels[2, 1, 1] = 1
    source = listed(Case("a", labels=(LabelVolume(CountedFile("a.nii", labels)),)))
    voxtract.extract(source, tmp_path / "out", images=None, center="mass", target_size=(8, 9), skip_empty=True)
    (path,) = (tmp_path / "out").rglob("*.csv")
    assert path.name == "a_axial_001.csv"
    assert path.read_text() == f"X,Y,Z\n{1.75 + 1},{1.25 + 1},1.0\n"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.float32])
def test_slab_by_slab_gives_what_the_whole_volume_gives(
    tmp_path: Path, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Axial slices alone are worked on in slabs; beside another view the volume is held. Both write the same."""
    import voxtract.job

    rng = np.random.default_rng(2)
    image = rng.integers(0, 200, (13, 9, 11)).astype(np.int16)
    labels = (rng.random((13, 9, 11)) < 0.3) * rng.integers(1, 4, (13, 9, 11))
    source = listed(Case("a", CountedFile("i", image), (LabelVolume(CountedFile("l", labels.astype(dtype))),)))
    for slab in (1, 3 * 13 * 9 * 2):
        monkeypatch.setattr(voxtract.job, "SLAB", slab)
        words: Any = {"center": "mass", "extra_columns": ("LABEL", "AREA"), "normalization": (100, 150)}
        voxtract.extract(source, tmp_path / f"slabs {slab}", ("axial",), **words)
        voxtract.extract(source, tmp_path / f"whole {slab}", ("axial", "coronal"), **words)
        slabs, whole = digest(tmp_path / f"slabs {slab}/a/axial"), digest(tmp_path / f"whole {slab}/a/axial")
        assert slabs == whole
        assert len(slabs) == 22


@pytest.mark.parametrize(
    ("options", "suffix", "dtype"),
    [
        ({"images": "png", "dtype": "uint8", "normalization": (0, 400)}, "png", np.uint8),
        ({"images": "png", "dtype": "uint16"}, "png", np.uint16),
        ({"compression": "zlib"}, "tif", np.int16),
        ({"compression": "zstd"}, "tif", np.int16),
        ({"dtype": "uint8"}, "tif", np.uint8),
        ({"dtype": "float32"}, "tif", np.float32),
    ],
)
def test_formats_and_dtypes(pairs: Path, tmp_path: Path, options: Any, suffix: str, dtype: Any) -> None:
    from PIL import Image

    report = voxtract.extract(pairs / "images", tmp_path / "out", **options)
    assert report.exit_code == 0
    path = tmp_path / f"out/case_2/axial/case_2_axial_003.{suffix}"
    voxels = stored(pairs / "images/case_2.nii.gz")[:, :, 3].astype(np.float64)
    if "normalization" in options:
        voxels = np.rint(np.clip((voxels + 200) / 400, 0, 1) * 255)
    elif dtype in (np.uint8, np.uint16):
        voxels = np.clip(voxels, 0, np.iinfo(dtype).max)
    if suffix == "png":
        with Image.open(path) as opened:
            written = np.asarray(opened)
    else:
        written = tifffile.imread(path)
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, voxels)


def test_png_of_a_dtype_it_does_not_hold_is_an_error_with_advice(pairs: Path, tmp_path: Path) -> None:
    report = voxtract.extract(pairs / "images", tmp_path / "out", images="png")
    assert len(report.failed) == 3
    for result in report.failed:
        assert result.inputs[0] in str(result.error)
        assert "dtype='uint8'" in str(result.error)
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize(
    "words",
    [
        {"target_size": np.array([12, 12])},
        {"target_size": [np.int64(12), 12]},
        {"classes": np.array([1, 3])},
        {"classes": {3, 1}},
        {"classes": range(1, 4)},
        {"dtype": np.float32},
        {"pad_value": np.float32(-1)},
        {"min_size": np.int64(2)},
        {"normalization": [np.int64(40), 400]},
        {"views": ["coronal"]},
        {"reorient": "ras"},
    ],
)
def test_numpy_and_lists_are_as_good_as_plain_words(pairs: Path, tmp_path: Path, words: Any) -> None:
    assert voxtract.extract(pairs, tmp_path / "out", **words).exit_code == 0
    assert {r.status for r in voxtract.extract(pairs, tmp_path / "out", resume=True, **words).results} == {"resumed"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"target_size": 512}, "target_size"),
        ({"target_size": (12.0, 12.0)}, "target_size"),
        ({"classes": 2}, "classes"),
        ({"classes": ["tumour"]}, "classes"),
        ({"threshold": "0.5"}, "threshold"),
        ({"threshold": np.nan}, "threshold"),
        ({"pad_value": "black"}, "pad_value"),
        ({"reorient": 5}, "reorient"),
        ({"reorient": "XYZ"}, "R/L"),
        ({"views": "axial"}, r"\('axial',\)"),
        ({"views": ("axial", "axial")}, "once"),
        ({"extra_columns": "LABEL"}, r"\('LABEL',\)"),
        ({"workers": 0}, "workers"),
        ({"workers": "2"}, "workers"),
        ({"dtype": "uint8", "normalization": "z-score"}, "z-score"),
        ({"saving_mode": "flat", "extraction_mode": "volume", "views": ("axial", "coronal")}, "flat"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_written(pairs: Path, tmp_path: Path, words: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        voxtract.extract(pairs, tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


def test_a_refused_call_does_not_touch_an_earlier_run(pairs: Path, tmp_path: Path) -> None:
    voxtract.extract(pairs, tmp_path / "out")
    before = digest(tmp_path / "out")
    with pytest.raises(InvalidInput, match="workers"):
        voxtract.extract(pairs, tmp_path / "out", overwrite=True, workers=0)
    assert digest(tmp_path / "out") == before


def test_resume_does_again_what_somebody_deleted(pairs: Path, tmp_path: Path) -> None:
    voxtract.extract(pairs, tmp_path / "out", ("axial", "coronal"))
    before = digest(tmp_path / "out")
    shutil.rmtree(tmp_path / "out/case_1/coronal")
    report = voxtract.extract(pairs, tmp_path / "out", ("axial", "coronal"), resume=True)
    assert [r.status for r in report.results] == ["resumed", "done", "resumed"]
    assert digest(tmp_path / "out") == before


def test_resume_knows_frames_apart(tmp_path: Path, write_nifti: WriteNifti) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", np.arange(48).reshape(2, 3, 4, 2).astype(np.int16))
    voxtract.extract(open_source(path, volume_index=0), tmp_path / "out")
    report = voxtract.extract(open_source(path, volume_index=1), tmp_path / "out", resume=True)
    assert [r.status for r in report.results] == ["done"]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/a/axial/a_axial_003.tif"), stored(path)[:, :, 3, 1])


def test_classes_of_64_bits_are_told_apart(tmp_path: Path) -> None:
    labels = np.zeros((6, 3, 2), np.uint64)
    labels[0, 0, 0], labels[2, 0, 0], labels[4, 0, 0] = 2**63, 2**63 + 1, 1
    source = listed(Case("a", labels=(LabelVolume(CountedFile("a.nii", labels)),)))
    words: Any = {"images": None, "extraction_mode": "volume", "extra_columns": ("LABEL",)}
    voxtract.extract(source, tmp_path / "out", classes=(1, 2**63), **words)
    (path,) = (tmp_path / "out").rglob("*.csv")
    assert [int(line.rsplit(",", 1)[1]) for line in path.read_text().splitlines()[1:]] == [2**63, 1]


def test_file_names_need_not_be_utf_8(pairs: Path, tmp_path: Path) -> None:
    odd = os.fsencode(pairs / "images") + b"/caf\xe9.nii.gz"
    Path(os.fsdecode(odd)).write_bytes((pairs / "images/case_0.nii.gz").read_bytes())
    report = voxtract.extract(pairs / "images", tmp_path / "out")
    assert report.exit_code == 0
    assert len(json.loads(report.to_json())["results"]) == 4
    voxtract.extract_slices_dataset(pairs / "images", tmp_path / "plain", save_stats=True, progress=False)
    assert b"caf\xe9.nii.gz,5," in (tmp_path / "plain/axial_slices_stats.csv").read_bytes()


def test_ctrl_c_while_cases_are_handed_out_stops_them() -> None:
    from voxtract.crew import Crew

    done: list[int] = []

    def work(item: int) -> None:
        time.sleep(0.002)
        done.append(item)

    class Interrupted(list[int]):
        def __iter__(self) -> Any:
            for item in range(300):
                if item == 250:
                    raise KeyboardInterrupt
                yield item

    with pytest.raises(KeyboardInterrupt):
        Crew(1, 100).each(work, Interrupted([0]))
    assert len(done) < 100
