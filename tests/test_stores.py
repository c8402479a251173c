"""Arrays, shards and converted projects at a URL, and the formats that are read from disk only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import voxtract
from tests.buckets import contents, send
from tests.extractions import make_extraction, write_scenes
from voxtract.cli import main
from voxtract.conversion import convert
from voxtract.errors import DamagedFile, InvalidInput, NotFound, OutputError, UnreadableFile
from voxtract.html.report import build_report
from voxtract.preview import preview
from voxtract.read import open_source
from voxtract.read.extraction import JOURNAL, open_extraction
from voxtract.read.slices import missing_files, read_slice, slice_file
from voxtract.storage import Remote
from voxtract.verify import verify
from voxtract.write.remote import staging

pytest.importorskip("fsspec", reason="the extra 'cloud' is not installed")

VIEWS: Any = ("axial", "coronal")
WORDS: dict[str, dict[str, Any]] = {
    "webdataset": {"images": "webdataset", "shard_size": 20_000},
    "webdataset, png": {"images": "webdataset", "sample_format": "png", "dtype": "uint16"},
    "zarr": {"images": "zarr"},
    "zarr, zstd": {"images": "zarr", "compression": "zstd"},
}
words = pytest.mark.parametrize("options", WORDS.values(), ids=WORDS)


@pytest.fixture
def memory() -> Iterator[Remote]:
    """An empty store in memory."""
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield Remote("memory://bucket")
    MemoryFileSystem.store.clear()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_scenes(tmp_path / "in")


def on_disk(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@words
def test_what_is_written_is_what_is_written_on_disk(
    data: Path, tmp_path: Path, memory: Remote, options: dict[str, Any]
) -> None:
    same: dict[str, Any] = {"views": VIEWS, "progress": False, "target_size": (40, 36), **options}
    far, near = memory / "out", tmp_path / "out"
    assert voxtract.extract(data, str(far), **same).exit_code == 0
    voxtract.extract(data, near, **same)
    there, here = contents(far), on_disk(near)
    del here[".voxtract/lock"]
    assert there == here
    assert verify(str(far)).exit_code == 0
    again = voxtract.extract(data, str(far), resume=True, **same)
    assert {result.status for result in again.results} == {"resumed"}


@words
def test_slices_are_read_there(data: Path, tmp_path: Path, memory: Remote, options: dict[str, Any]) -> None:
    same: dict[str, Any] = {"views": VIEWS, "progress": False, **options}
    voxtract.extract(data, str(memory / "out"), **same)
    voxtract.extract(data, tmp_path / "out", **same)
    pairs = zip(
        open_extraction(str(memory / "out")).findings(), open_extraction(tmp_path / "out").findings(), strict=True
    )
    for far, near in pairs:
        for index in near.slices.tolist():
            image, expected = read_slice(memory / "out", far, index), read_slice(tmp_path / "out", near, index)
            assert image.dtype == expected.dtype
            np.testing.assert_array_equal(image, expected)
            assert slice_file(memory / "out", far, index).is_file()
    preview(tmp_path / "out", tmp_path / "near.png")
    assert preview(str(memory / "out")) == memory / "out/preview.png"
    assert (memory / "out/preview.png").read_bytes() == (tmp_path / "near.png").read_bytes()
    assert build_report(str(memory / "out")) == memory / "out/report.html"
    assert b"data:image/jpeg" in (memory / "out/report.html").read_bytes()


@words
def test_what_is_missing_or_damaged_is_named(data: Path, memory: Remote, options: dict[str, Any]) -> None:
    voxtract.extract(data, str(memory / "out"), progress=False, **options)
    found = next(open_extraction(str(memory / "out")).findings())
    slices = found.slices.tolist()

    def listing(folder: str) -> set[str]:
        return {entry.name for entry in (memory / "out" / folder).entries()}

    assert missing_files(memory / "out", found, slices, listing) == []
    file = slice_file(memory / "out", found, slices[-1])
    assert isinstance(file, Remote)
    whole = file.read_bytes()
    file.write(whole[: len(whole) // 3])
    with pytest.raises(DamagedFile, match="the image is damaged"):
        read_slice(memory / "out", found, slices[-1])
    file.unlink()
    assert file in missing_files(memory / "out", found, slices, listing)
    with pytest.raises(NotFound, match="no such image"):
        read_slice(memory / "out", found, slices[-1])
    if found.suffix == ".tar":
        (memory / "out" / found.places).unlink()
        with pytest.raises(NotFound, match="says where the images are, and is missing"):
            read_slice(memory / "out", found, slices[0])


def test_an_array_that_is_replaced_has_no_old_chunks(data: Path, memory: Remote) -> None:
    here: dict[str, Any] = {"images": "zarr", "progress": False}
    voxtract.extract(data, str(memory / "out"), **here)
    before = contents(memory / "out")
    voxtract.extract(data, str(memory / "out"), slices="annotated", overwrite=True, **here)
    after = contents(memory / "out")
    chunks = [{name for name in files if "/0/c/" in name} for files in (before, after)]
    assert chunks[1] < chunks[0]
    assert verify(str(memory / "out")).exit_code == 0


def test_metadata_of_an_array_comes_last(memory: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    (memory / "out/a.zarr/0/c/7").write(b"of an earlier run")
    sent: list[str] = []
    upload = Remote.upload

    def noted(self: Remote, path: str) -> None:
        sent.append(str(self))
        upload(self, path)

    monkeypatch.setattr(Remote, "upload", noted)
    with staging(memory / "out") as stage, stage.batch(noted=True) as batch:
        folder = batch.folder("a.zarr")
        for name in ("zarr.json", "0/zarr.json", "0/c/0/0/0", "0/c/1/0/0"):
            folder.write(name, name)
        batch.append("b.tar", b"one ")
        batch.append("b.tar", b"two")
    assert [name.removeprefix("memory://bucket/out/a.zarr/") for name in sent[-2:]] == ["0/zarr.json", "zarr.json"]
    assert contents(memory / "out") == {
        "b.tar": b"one two",
        **{f"a.zarr/{name}": name.encode() for name in ("zarr.json", "0/zarr.json", "0/c/0/0/0", "0/c/1/0/0")},
    }
    assert batch.notes["b.tar"].size == 7


def test_a_folder_that_cannot_be_replaced_is_named(memory: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Remote) -> None:
        raise PermissionError(13, "no access to this place")

    monkeypatch.setattr(Remote, "rmtree", refuse)

    def run() -> None:
        with staging(memory / "out") as stage, stage.batch() as batch:
            batch.folder("a.zarr").write("zarr.json", "{}")

    with pytest.raises(OutputError, match=r"out/a\.zarr: cannot be replaced: no access"):
        run()


def test_a_project_is_converted_there(data: Path, tmp_path: Path, memory: Remote) -> None:
    there = send(data, memory / "data")
    report = convert(str(there), str(memory / "pairs"), "nifti", progress=False)
    assert report.exit_code == 0
    convert(data, tmp_path / "pairs", "nifti", progress=False)
    assert contents(memory / "pairs") == on_disk(tmp_path / "pairs")
    with pytest.raises(InvalidInput, match="is not empty; choose another folder"):
        convert(data, str(memory / "pairs"), "nifti", progress=False)
    assert convert(str(there), str(memory / "pairs"), "nifti", overwrite=True, progress=False).exit_code == 0
    with pytest.raises(InvalidInput, match="can be read, but not written to"):
        convert(data, "https://host/pairs", "nifti", progress=False)


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("export.ndjson", "labelbox"),
        ("project.tar", "supervisely"),
        ("a.dcm", "dicom"),
        ("project/meta.json", "supervisely"),
        ("series/IM0001.dcm", "dicom"),
    ],
)
def test_what_is_read_from_disk_only(memory: Remote, name: str, format_: str) -> None:
    (memory / name).write(b"{}")
    if format_ == "supervisely":
        (memory / "project/ds0/volume/a.nrrd").write(b"")
    given = memory / name.split("/", maxsplit=1)[0]
    for told in (None, format_):
        with pytest.raises(InvalidInput) as caught:
            open_source(str(given), format=told)  # type: ignore[arg-type]
        expected = f"{given}: {format_} is read from disk only; copy the data into a folder first, and give that folder"
        assert str(caught.value) == expected


def test_dicom_beside_nifti_is_read_from_disk_only(data: Path, memory: Remote) -> None:
    (memory / "series/a.dcm").write(b"")
    for words_ in ({"image": memory / "series", "labels": data / "labels"}, {"labels": memory / "series"}):
        with pytest.raises(InvalidInput, match="dicom is read from disk only"):
            open_source(**words_)


def test_the_plain_commands_and_the_demo(data: Path, memory: Remote, capfd: pytest.CaptureFixture[str]) -> None:
    (memory / "series/a.dcm").write(b"")
    assert main(["slices", str(memory / "series"), str(memory / "out")]) == 2
    assert "dicom is read from disk only" in capfd.readouterr().err
    assert main(["demo", str(memory / "demo")]) == 2
    assert "give a folder" in capfd.readouterr().err
    there = send(data, memory / "data")
    assert main(["extract", str(there), str(memory / "arrays"), "--images", "zarr", "--quiet"]) == 0
    assert main(["convert", str(there), str(memory / "pairs"), "--to", "nifti", "--quiet"]) == 0
    assert (memory / "arrays" / JOURNAL).is_file()


def test_torch_serves_arrays_and_shards(data: Path, tmp_path: Path, memory: Remote) -> None:
    torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")
    from voxtract.torch import SliceDataset

    near = SliceDataset(make_extraction(tmp_path))
    for name in ("zarr", "webdataset"):
        voxtract.extract(data, str(memory / name), images=name, progress=False)
        far = SliceDataset(str(memory / name))
        assert len(far) == len(near)
        assert torch.equal(far[3][0], near[3][0])
        file = far.file(3)
        assert isinstance(file, Remote)
        file.unlink()
        with pytest.raises(NotFound, match="no such image, one of"):
            SliceDataset(str(memory / name))


def test_a_store_that_does_not_say_what_is_there(memory: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Remote) -> bool:
        raise PermissionError(13, "no access to this place")

    monkeypatch.setattr(Remote, "is_dir", refuse)
    with pytest.raises(UnreadableFile, match="cannot be looked at: no access"):
        open_source(str(memory / "some"))
