"""Whole runs that write shards and arrays: any number of workers, killed, resumed, split, looked at."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import voxtract
from tests.extractions import SCENES, make_extraction, write_scenes
from tests.write.written import contents
from voxtract import job
from voxtract.cli import main
from voxtract.errors import InvalidInput
from voxtract.html.report import build_report
from voxtract.preview import preview
from voxtract.read.extraction import open_extraction
from voxtract.read.slices import read_slice, slice_file
from voxtract.slices import extract_slices, extract_slices_dataset
from voxtract.verify import verify

VIEWS: Any = ("axial", "coronal", "sagittal")
WORDS: dict[str, dict[str, Any]] = {
    "webdataset": {"images": "webdataset", "shard_size": 20_000},
    "webdataset, zlib": {"images": "webdataset", "shard_size": 20_000, "compression": "zlib"},
    "webdataset, png": {"images": "webdataset", "sample_format": "png", "dtype": "uint16"},
    "zarr": {"images": "zarr"},
    "zarr, zstd": {"images": "zarr", "compression": "zstd"},
}
words = pytest.mark.parametrize("options", WORDS.values(), ids=WORDS)


@words
def test_slices_are_those_of_the_files(tmp_path: Path, options: dict[str, Any]) -> None:
    same = {"views": VIEWS, "target_size": (40, 36), "annotations": None, "dtype": options.get("dtype", "auto")}
    files = open_extraction(make_extraction(tmp_path / "files", **same))
    ours = open_extraction(make_extraction(tmp_path / "ours", **{**same, **options}))
    for one, other in zip(ours.findings(), files.findings(), strict=True):
        assert one.suffix in (".tar", ".zarr")
        for index in one.slices.tolist():
            image, file = read_slice(ours.root, one, index), tifffile.imread(tmp_path / "files/out" / other.name(index))
            assert image.dtype == file.dtype
            np.testing.assert_array_equal(image, file)


def test_samples_have_the_boxes_of_the_bricks_without_other_annotations(tmp_path: Path) -> None:
    out = make_extraction(
        tmp_path, views=VIEWS, target_size=(40, 36), images="webdataset", annotations=None, shard_size=9000
    )
    seen = 0
    for scene in SCENES:
        for view in VIEWS:
            row, column, _ = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}[view]
            top, left = (40 - scene.shape[row]) // 2, (36 - scene.shape[column]) // 2
            for tar in sorted((out / scene.id / view).iterdir()):
                with tarfile.open(tar) as opened:
                    texts = [opened.extractfile(member) for member in opened if member.name.endswith(".json")]
                    samples = [json.loads(text.read()) for text in texts if text is not None]
                for sample in samples:
                    boxes = [(label, *box) for label, box in zip(sample["labels"], sample["boxes"], strict=True)]
                    assert sorted(boxes) == sorted(
                        (label, x0 + left, y0 + top, x1 + left, y1 + top)
                        for label, x0, y0, x1, y1 in scene.boxes(view, sample["slice"])
                    )
                    seen += len(boxes)
    assert seen
    assert not list(out.rglob("*.csv"))


@words
def test_workers_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    data = write_scenes(tmp_path / "data")
    for workers in (1, 4):
        monkeypatch.setattr(job, "AHEAD", job.AHEAD if workers == 1 else 1)
        report = voxtract.extract(data, tmp_path / str(workers), VIEWS, workers=workers, progress=False, **options)
        assert report.exit_code == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "4")


KILLED = """
import json, os, sys, voxtract
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
voxtract.extract(sys.argv[1], sys.argv[2], ("axial", "coronal"), annotations=None, workers=1, **json.loads(sys.argv[4]))
"""


@pytest.mark.parametrize("at", [1, 30, 50, 70])
@pytest.mark.parametrize("kind", ["webdataset", "zarr"])
def test_resume_after_kill_ends_byte_identical(tmp_path: Path, kind: str, at: int) -> None:
    data, options = write_scenes(tmp_path / "data"), WORDS[kind]
    code: list[Any] = [sys.executable, "-c", KILLED, data, tmp_path / "out", str(at), json.dumps(options)]
    assert subprocess.run(code, check=False).returncode == -signal.SIGKILL
    left = [path for path in (tmp_path / "out").rglob("*") if ".voxtract" not in path.as_posix()]
    for path in left:
        if path.suffix == ".tar":
            tarfile.open(path).close()
        elif path.suffix == ".zarr":
            array: Any = zarr.open_group(path, mode="r")["0"]
            assert len(list(path.glob("0/c/*"))) == array.shape[0]
    report = voxtract.extract(
        data, tmp_path / "out", ("axial", "coronal"), annotations=None, resume=True, progress=False, **options
    )
    assert report.exit_code == 0
    voxtract.extract(data, tmp_path / "fresh", ("axial", "coronal"), annotations=None, progress=False, **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("kind", ["webdataset", "zarr"])
def test_a_case_that_failed_is_added_without_a_byte_of_the_others_written_anew(tmp_path: Path, kind: str) -> None:
    data, options = write_scenes(tmp_path / "data"), WORDS[kind]
    broken = data / "images/case-b.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    report = voxtract.extract(data, tmp_path / "out", progress=False, **options)
    assert [result.id for result in report.failed] == ["case-b"]
    assert not (tmp_path / "out/case-b").exists()
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("case-*/**/*") if p.is_file()}
    broken.write_bytes(whole)
    report = voxtract.extract(data, tmp_path / "out", progress=False, resume=True, **options)
    assert [result.status for result in report.results] == ["resumed", "done", "resumed"]
    assert {p: p.stat().st_mtime_ns for p in times} == times
    voxtract.extract(data, tmp_path / "fresh", progress=False, **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("kind", ["webdataset", "zarr"])
def test_resume_does_again_what_somebody_deleted(tmp_path: Path, kind: str) -> None:
    data, options = write_scenes(tmp_path / "data"), WORDS[kind]
    voxtract.extract(data, tmp_path / "out", progress=False, **options)
    before = contents(tmp_path / "out")
    extraction = open_extraction(tmp_path / "out")
    found = list(extraction.findings())[1]
    (tmp_path / "out" / (found.places if kind == "webdataset" else f"{found.store}/zarr.json")).unlink()
    report = voxtract.extract(data, tmp_path / "out", progress=False, resume=True, **options)
    assert [result.status for result in report.results] == ["resumed", "done", "resumed"]
    assert contents(tmp_path / "out") == before


@words
def test_what_changes_later_is_named(tmp_path: Path, options: dict[str, Any]) -> None:
    out = make_extraction(tmp_path, **options)
    assert verify(out).exit_code == 0
    found = next(open_extraction(out).findings())
    file = slice_file(out, found, 6)
    assert isinstance(file, Path)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (bad,) = verify(out).bad
    assert (bad.name, bad.fault) == (file.relative_to(out).as_posix(), "changed")


def test_only_chosen_slices_are_there_and_the_rest_is_padding(tmp_path: Path) -> None:
    out = make_extraction(tmp_path, images="zarr", slices="annotated", pad_value=-1024, target_size=(40, 40))
    array: Any = zarr.open_group(out / "case-a/axial/case-a_axial.zarr", mode="r")["0"]
    chosen = [k for k in range(10) if SCENES[0].boxes("axial", k)]
    assert [k for k in range(10) if (array[k] != -1024).any()] == chosen
    assert (array[chosen[0], :8] == -1024).all()


def test_parts_of_the_data_set_have_their_own_shards(tmp_path: Path) -> None:
    out = make_extraction(tmp_path, images="webdataset", split={"train": 0.67, "val": 0.33}, saving_mode="flat")
    cases = {case.id: case.split for case in open_extraction(out).cases}
    assert set(cases.values()) == {"train", "val"}
    for case, part in cases.items():
        with tarfile.open(out / f"{part}/{case}_axial_000.tar") as opened:
            text = opened.extractfile(f"{case}_axial_000.json")
            assert text is not None
            assert json.loads(text.read())["split"] == part


@words
def test_it_can_be_looked_at(tmp_path: Path, options: dict[str, Any]) -> None:
    sheets, pictures = [], []
    for name, own in (("files", {"dtype": options.get("dtype", "auto")}), ("ours", options)):
        out = make_extraction(tmp_path / name, views=("axial", "coronal"), **own)
        preview(out, tmp_path / f"{name}.png")
        sheets.append((tmp_path / f"{name}.png").read_bytes())
        build_report(out, tmp_path / f"{name}.html")
        page = (tmp_path / f"{name}.html").read_text()
        pictures.append(re.findall("data:image/jpeg;base64,[A-Za-z0-9+/=]+", page))
    assert sheets[0] == sheets[1]
    assert pictures[0] == pictures[1]
    assert pictures[0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"images": "webdataset", "annotations": "coco"},
            "'coco' names image files, but images='webdataset' writes none",
        ),
        ({"images": "zarr", "annotations": ("csv", "yolo")}, "'yolo' names image files, but images='zarr' writes none"),
        ({"images": "webdataset", "extraction_mode": "volume"}, "take components='slice'"),
        ({"images": "webdataset", "shard_size": 0}, "shard_size 0 must be bytes"),
        ({"images": "webdataset", "shard_size": 1.5}, "shard_size 1.5 is of the wrong type"),
        ({"images": "webdataset", "sample_format": "jpeg"}, "sample_format 'jpeg'"),
        ({"images": "zarr", "compression": "zlib"}, "not known for zarr"),
        ({"images": "hdf5"}, "allowed: None, 'tiff', 'png', 'webdataset', 'zarr'"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    data = write_scenes(tmp_path / "data")
    with pytest.raises(InvalidInput, match=said):
        voxtract.extract(data, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_the_plain_functions_write_files(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data") / "images"
    wrong: Any = "zarr"
    with pytest.raises(InvalidInput, match="allowed: 'tiff', 'png'"):
        extract_slices_dataset(data, tmp_path / "out", images=wrong)
    with pytest.raises(InvalidInput, match="allowed: 'tiff', 'png'"):
        extract_slices(data / "case-a.nii.gz", tmp_path / "out", images=wrong)
    assert not (tmp_path / "out").exists()


def test_the_command_has_the_same_words(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data")
    arguments = ["extract", str(data), str(tmp_path / "command"), "--images", "webdataset", "--annotations", "none"]
    assert main([*arguments, "--shard-size", "20kB", "--quiet"]) == 0
    voxtract.extract(
        data, tmp_path / "python", images="webdataset", annotations=None, shard_size=20_000, progress=False
    )
    assert contents(tmp_path / "command") == contents(tmp_path / "python")
