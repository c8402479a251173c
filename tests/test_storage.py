"""URLs: what they are called, what is read and written there, what goes wrong, and that no credential is ever shown."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

import voxtract
from tests.buckets import KEY, SECRET, Fault, Front, contents, digest, send, serving
from tests.read.contract import ReaderContract, Truth
from voxtract import book, storage
from voxtract.cli import main
from voxtract.errors import BackendUnavailable, DamagedFile, InvalidInput, NotFound, OutputError, UnreadableFile
from voxtract.html.report import build_report
from voxtract.journal import Journal
from voxtract.preview import preview
from voxtract.read import open_source
from voxtract.read.extraction import JOURNAL, JOURNAL_PARTS, open_extraction, read_journal
from voxtract.read.images import read_image
from voxtract.read.nifti import NiftiFile
from voxtract.read.slices import read_slice
from voxtract.storage import Reader, Remote, is_url, place
from voxtract.verify import verify
from voxtract.write.remote import staging

pytest.importorskip("fsspec", reason="the extra 'cloud' is not installed")

AFFINE = np.diag([0.8, 0.7, 2.5, 1.0])
VIEWS: Any = ("axial", "coronal")


@pytest.fixture
def memory() -> Iterator[Remote]:
    """An empty store in memory."""
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield Remote("memory://bucket")
    MemoryFileSystem.store.clear()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries that tests can wait for."""
    monkeypatch.setattr(storage, "WAIT_S", 0.01)


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    """A real S3 server on loopback."""
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    _, port = running.get_host_and_port()
    yield port
    running.stop()


@pytest.fixture(scope="module")
def proxy(moto_port: int) -> Iterator[Front]:
    """A proxy before the S3 server; AWS's own variables name it."""
    front = Front(("127.0.0.1", moto_port))
    told = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{front.port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        yield front
    storage._filesystem.cache_clear()
    front.close()


@pytest.fixture
def front(proxy: Front) -> Iterator[Front]:
    """The proxy without a fault."""
    proxy.asked.clear()
    yield proxy
    proxy.faults.clear()


@pytest.fixture
def s3(front: Front, request: pytest.FixtureRequest) -> Remote:
    """An empty bucket of a name of its own."""
    bucket = Remote(f"s3://b{abs(hash(request.node.nodeid)):x}"[:40])
    bucket._filesystem().mkdir(bucket.url.removeprefix("s3://"))
    return bucket


def encoded(data: NDArray[Any], suffix: str = ".nii.gz") -> bytes:
    content = bytes(nib.Nifti1Image(data, AFFINE).to_bytes())
    return gzip.compress(content, 1, mtime=0) if suffix.endswith(".gz") else content


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    for number, shape in enumerate([(9, 8, 3), (11, 6, 4), (7, 7, 3)]):
        for folder, high in (("images", 1000), ("labels", 3)):
            path = tmp_path / "data" / folder / f"case_{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(rng.integers(0, high, shape).astype(np.int16)))
    return tmp_path / "data"


def on_disk(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def same_but_for_inputs(there: dict[str, bytes], here: dict[str, bytes]) -> None:
    """The same files with the same content; of the journals only where the inputs lay may differ."""
    here = {name: content for name, content in here.items() if name != book.LOCK}
    assert there.keys() == here.keys()
    assert {n for n in here if here[n] != there[n]} <= {JOURNAL}
    for old, new in zip(*(files[JOURNAL].splitlines() for files in (here, there)), strict=True):
        old_line, new_line = json.loads(old), json.loads(new)
        assert old_line.pop("inputs", None) is None or new_line.pop("inputs")
        assert old_line == new_line


class TestNames:
    @pytest.mark.parametrize(
        ("url", "shown", "name", "parent"),
        [
            ("s3://bucket/a/b.nii.gz", "s3://bucket/a/b.nii.gz", "b.nii.gz", "s3://bucket/a"),
            ("s3://bucket/a/", "s3://bucket/a/", "a", "s3://bucket"),
            ("https://me:pw@host:80/a/b.nii?sig=x/y", "https://host:80/a/b.nii", "b.nii", "https://host:80/a"),
            ("https://token@host/b.nii", "https://host/b.nii", "b.nii", "https://host"),
            ("az://box@account/a.nii?sv=1&sig=2", "az://box@account/a.nii", "a.nii", "az://box@account"),
            ("zip://in/a.nii::https://u:p@h/x.zip?t=1", "zip://in/a.nii::https://h/x.zip", "a.nii", "zip://in"),
            ("memory://a", "memory://a", "", "memory://a"),
        ],
    )
    def test_a_url_is_shown_without_credentials(self, url: str, shown: str, name: str, parent: str) -> None:
        remote = Remote(url)
        assert (str(remote), repr(remote)) == (shown, f"Remote({shown!r})")
        assert str(remote.parent).partition("::")[0] == parent
        if name:
            assert remote.name == name
            assert remote.suffix == Path(name).suffix

    def test_names_below(self) -> None:
        assert (Remote("s3://b/a") / "c/d.tif").url == "s3://b/a/c/d.tif"
        assert (Remote("s3://b/a/") / "./d.tif").url == "s3://b/a/d.tif"
        assert (Remote("https://h/a?t=1") / "b").url == "https://h/a/b?t=1"
        assert (Remote("zip://::s3://b/x.zip") / "a.nii").url == "zip://a.nii::s3://b/x.zip"

    def test_what_is_a_url(self, tmp_path: Path) -> None:
        assert [is_url(text) for text in ("s3://b", "gs://b/c", "zip://a::s3://b", "a/b", "c:/d", "a::b", "")] == (
            [True] * 3 + [False] * 4
        )
        assert place("file:///a/b") == Path("/a/b")
        assert place(tmp_path) == tmp_path
        remote = place("s3://b/c")
        assert place(remote) is remote

    def test_it_is_a_value(self) -> None:
        remote = Remote("https://me:pw@host/a?token=1")
        copy = pickle.loads(pickle.dumps(remote))
        assert (copy, hash(copy), copy.url) == (remote, hash(remote), remote.url)

    def test_what_is_not_installed_or_not_known(self) -> None:
        with pytest.raises(InvalidInput, match="the protocol 'nowhere' is not known"):
            open_source("nowhere://a/b.nii")
        sys.modules["s3fs"], kept = None, sys.modules.get("s3fs")  # type: ignore[assignment]
        try:
            storage._filesystem.cache_clear()
            from fsspec.registry import _registry

            had = _registry.pop("s3", None)
            with pytest.raises(BackendUnavailable, match=r"needs the package s3fs.*voxtract\[cloud\]"):
                open_source("s3://never-known/a.nii.gz")
            if had is not None:
                _registry["s3"] = had
        finally:
            if kept is None:
                del sys.modules["s3fs"]
            else:
                sys.modules["s3fs"] = kept


class TestNiftiAtAUrl(ReaderContract):
    suffix = ".nii.gz"

    @pytest.fixture
    def truth(self) -> Truth:
        return Truth(np.random.default_rng(0).integers(0, 9, (60, 50, 40)).astype(np.int16), AFFINE)

    def at(self, memory: Remote, content: bytes) -> NiftiFile:
        (memory / f"a{self.suffix}").write(content)
        return NiftiFile(memory / f"a{self.suffix}")

    @pytest.fixture
    def file(self, truth: Truth, memory: Remote) -> NiftiFile:
        return self.at(memory, encoded(truth.stored, self.suffix))

    @pytest.fixture
    def voxels_lost(self, truth: Truth, memory: Remote) -> NiftiFile:
        return self.at(memory, encoded(truth.stored, self.suffix)[:-200])

    @pytest.fixture
    def missing(self, memory: Remote) -> NiftiFile:
        return NiftiFile(memory / "gone.nii.gz")

    @pytest.mark.parametrize("planes", [1, 7, 40, 99])
    def test_slabs_join_to_the_volume(self, file: NiftiFile, truth: Truth, planes: int) -> None:
        slabs = [slab.copy() for slab in file.slabs(planes)]
        np.testing.assert_array_equal(np.concatenate(slabs, axis=2), truth.stored)

    @pytest.mark.usefixtures("file")
    def test_a_folder_is_none(self, memory: Remote) -> None:
        with pytest.raises(InvalidInput, match="is a folder"):
            NiftiFile(memory).read()


class TestPlainNiftiAtAUrl(TestNiftiAtAUrl):
    suffix = ".nii"

    @pytest.fixture
    def voxels_lost(self) -> NiftiFile:
        pytest.skip("what a plain file has is compared with its header before")

    def test_a_foreign_byte_order(self, memory: Remote) -> None:
        data = np.arange(24).reshape(2, 3, 4).astype(">i2")
        image = nib.Nifti1Image(data, AFFINE, nib.Nifti1Header(endianness=">"))
        image.set_data_dtype(">i2")
        np.testing.assert_array_equal(self.at(memory, bytes(image.to_bytes())).read().data, data)

    def test_a_header_that_promises_more_is_refused(self, memory: Remote, truth: Truth) -> None:
        with pytest.raises(DamagedFile, match="promises"):
            self.at(memory, encoded(truth.stored, ".nii")[:-2]).read()


class TestReader:
    CONTENT = np.random.default_rng(1).bytes(3_000_000)

    @pytest.fixture
    def reader(self, memory: Remote, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
        monkeypatch.setattr(storage, "FIRST", 1000)
        monkeypatch.setattr(storage, "BLOCK", 64_000)
        (memory / "x").write(self.CONTENT)
        with Reader(memory / "x") as reader:
            yield reader

    def test_onwards(self, reader: Reader) -> None:
        assert io.BufferedReader(reader).read() == self.CONTENT

    def test_anywhere(self, reader: Reader) -> None:
        rng = np.random.default_rng(2)
        for _ in range(200):
            at, count = int(rng.integers(0, 3_000_100)), int(rng.integers(1, 100_000))
            assert reader.seek(at) == at
            part = reader.read(count)
            assert part == self.CONTENT[at : at + len(part)]
            assert part or at >= len(self.CONTENT)

    def test_no_more_than_a_few_blocks_are_held(self, memory: Remote) -> None:
        (memory / "large").write(bytes(300_000_000))
        with Reader(memory / "large") as reader:
            buffer = bytearray(1 << 20)
            tracemalloc.start()
            while reader.readinto(buffer):
                pass
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert most < (storage.AHEAD + 2.5) * storage.BLOCK  # and the copy that the store makes

    def test_only_the_beginning_is_asked_for(self, front: Front, s3: Remote) -> None:
        noise = np.random.default_rng(0).integers(0, 9999, (200, 200, 40)).astype(np.int16)
        (s3 / "a.nii.gz").write(encoded(noise))
        front.asked.clear()
        NiftiFile(s3 / "a.nii.gz").header()
        assert [method for method, _ in front.asked] == ["HEAD", "GET"]

    def test_a_file_that_vanishes_in_the_middle(self, reader: Reader, memory: Remote) -> None:
        reader.read(10)
        (memory / "x").unlink()
        with pytest.raises(FileNotFoundError, match="vanished while it was read"):
            io.BufferedReader(reader).read()

    def test_a_file_that_shrinks_in_the_middle(self, reader: Reader, memory: Remote) -> None:
        reader.read(10)
        (memory / "x").write(self.CONTENT[:5000])
        with pytest.raises(OSError, match="changed while it was read"):
            io.BufferedReader(reader).read()


class TestListing:
    def test_the_rules_are_those_of_folders(self, data: Path, memory: Remote) -> None:
        (data / "labels" / "case_2.nii.gz").unlink()
        (data / "images" / ".hidden.nii.gz").write_bytes(b"")
        (data / "images" / "x.mha").write_bytes(b"")
        (data / "odd.nii.gz").write_bytes(b"")
        there = send(data, memory / "data")
        far, near = open_source(str(there)), open_source(data)
        assert [case.id for case in far.cases] == [case.id for case in near.cases] == ["case_0", "case_1"]
        assert [skip.reason for skip in far.skipped] == [skip.reason for skip in near.skipped]
        assert [skip.where.replace(str(there), str(data)) for skip in far.skipped] == [s.where for s in near.skipped]

    def test_words_of_open_source(self, data: Path, memory: Remote) -> None:
        there = str(send(data, memory / "data"))
        assert [c.id for c in open_source(there, image="images", labels="labels").cases] == [
            f"case_{n}" for n in range(3)
        ]
        assert len(open_source(there, recursive=True, image=f"{there}/images").cases) == 3
        (pair,) = open_source(image=f"{there}/images/case_0.nii.gz", labels=data / "labels/case_0.nii.gz").cases
        assert pair.image is not None
        assert (pair.image.where, pair.labels[0].file.where) == (
            f"{there}/images/case_0.nii.gz",
            str(data / "labels/case_0.nii.gz"),
        )

    @pytest.mark.parametrize("at", ["memory", "s3"])
    def test_nothing_there(self, request: pytest.FixtureRequest, at: str) -> None:
        there = request.getfixturevalue(at)
        for url in (there / "none", there / "none.nii.gz"):
            with pytest.raises(NotFound) as caught:
                open_source(url)
            assert str(caught.value) == f"{url}: there is nothing of this name; check the spelling"

    @pytest.mark.usefixtures("front")
    def test_no_such_bucket(self, data: Path) -> None:
        for url in ("s3://never-made", "s3://never-made/a.nii.gz"):
            with pytest.raises(NotFound, match="there is no such bucket; check the spelling"):
                open_source(url)
        with pytest.raises(OutputError, match=r"s3://never-made/out: cannot be written: there is no such bucket"):
            voxtract.extract(data, "s3://never-made/out")


class TestExtract:
    @pytest.mark.parametrize("at", ["memory", "s3"])
    def test_the_same_files_as_on_disk(
        self, data: Path, tmp_path: Path, request: pytest.FixtureRequest, at: str
    ) -> None:
        there = request.getfixturevalue(at)
        words: Any = {"annotations": ("csv", "coco"), "masks": True, "views": VIEWS if at == "memory" else None}
        source = send(data, there / "data")
        far = voxtract.extract(str(source), str(there / "out"), **words)
        near = voxtract.extract(data, tmp_path / "out", **words)
        assert (far.exit_code, far.slices, far.annotations) == (0, near.slices, near.annotations)
        assert far.output == str(there / "out")
        same_but_for_inputs(contents(there / "out"), on_disk(tmp_path / "out"))
        again = voxtract.extract(str(source), str(there / "out"), resume=True, **words)
        assert [r.status for r in again.results] == ["resumed"] * 3
        assert verify(str(there / "out")).bad == ()

    @pytest.mark.parametrize("images", ["zarr", "webdataset"])
    def test_arrays_and_shards_in_place_of_earlier_ones(
        self, data: Path, tmp_path: Path, s3: Remote, images: Any
    ) -> None:
        words: Any = {"images": images, "annotations": None}
        voxtract.extract(data, str(s3 / "out"), target_size=(20, 20), **words)
        voxtract.extract(data, str(s3 / "out"), slices="0:3", overwrite=True, **words)
        voxtract.extract(data, tmp_path / "out", slices="0:3", **words)
        same_but_for_inputs(contents(s3 / "out"), on_disk(tmp_path / "out"))
        assert verify(str(s3 / "out")).bad == ()
        for found in open_extraction(str(s3 / "out")).findings():
            near = read_slice(tmp_path / "out", found, 2)
            np.testing.assert_array_equal(read_slice(s3 / "out", found, 2), near)

    def test_the_plain_functions(self, data: Path, tmp_path: Path, memory: Remote) -> None:
        there = send(data, memory / "data")
        for folder, out in ((there / "images", memory / "out"), (data / "images", tmp_path / "out")):
            voxtract.extract_slices_dataset(folder, out, "coronal", save_stats=True, progress=False)
        assert contents(memory / "out") == on_disk(tmp_path / "out")
        files = voxtract.extract_slices(str(there / "images/case_0.nii.gz"), str(memory / "one"))
        assert files == [f"memory://bucket/one/case_0_axial_{n:03d}.tif" for n in range(3)]
        assert len(contents(memory / "one")) == 3

    def test_what_was_written_is_looked_at_there(self, data: Path, tmp_path: Path, memory: Remote) -> None:
        words: Any = {"images": "png", "dtype": "uint8", "normalization": (500, 1000)}
        for options, name in (({}, "tiff"), ({"compression": "zlib"}, "zlib"), (words, "png")):
            out = memory / name
            voxtract.extract(data, str(out), VIEWS, **options)
            voxtract.extract(data, tmp_path / name, VIEWS, **options)
            extraction, near = open_extraction(str(out)), open_extraction(tmp_path / name)
            for far_case, near_case in zip(extraction.cases, near.cases, strict=True):
                for far, here in zip(far_case.findings(), near_case.findings(), strict=True):
                    assert far.name(2) == here.name(2)
                    np.testing.assert_array_equal(
                        read_image(out / far.name(2), far.plane.size),
                        read_image(tmp_path / name / here.name(2), here.plane.size),
                    )
            assert preview(str(out)) == out / "preview.png"
            assert build_report(str(out), tmp_path / "report.html") == tmp_path / "report.html"
        with pytest.raises(NotFound, match="no such image"):
            read_image(memory / "none.tif", (3, 3))

    def test_torch_serves_it(self, data: Path, memory: Remote) -> None:
        pytest.importorskip("torch", reason="the extra 'torch' is not installed")
        from voxtract.torch import SliceDataset

        voxtract.extract(data, str(memory / "out"), annotations="coco", masks=True)
        assert len(SliceDataset(str(memory / "out"), masks=True)[0]) == 2

    def test_the_command(self, data: Path, memory: Remote, capfd: pytest.CaptureFixture[str]) -> None:
        there = send(data, memory / "data")
        assert main(["extract", str(there), str(memory / "out"), "--quiet"]) == 0
        assert main(["extract", str(there), str(memory / "out"), "--resume"]) == 0
        assert "3 of 3 cases done (3 by an earlier run)" in capfd.readouterr().out
        assert main(["verify", str(memory / "out")]) == 0
        assert main(["inspect", str(there / "images/case_0.nii.gz")]) == 0
        assert main(["slices", str(there / "images"), str(memory / "slices"), "--quiet"]) == 0

    def test_an_input_that_changed_is_done_again(self, data: Path, memory: Remote) -> None:
        there = send(data, memory / "data")
        voxtract.extract(str(there), str(memory / "out"))
        time.sleep(0.01)
        (there / "images/case_1.nii.gz").write((data / "images/case_1.nii.gz").read_bytes())
        again = voxtract.extract(str(there), str(memory / "out"), resume=True)
        assert [r.status for r in again.results] == ["resumed", "done", "resumed"]

    def test_what_can_only_be_read(self, data: Path) -> None:
        for url in ("https://host/out", "zip://out::memory://x.zip"):
            with pytest.raises(InvalidInput, match="can be read, but not written to"):
                voxtract.extract(data, url)

    def test_a_batch_that_fails_sends_nothing(self, memory: Remote) -> None:
        def run() -> None:
            with staging(memory / "out") as stage, stage.batch() as batch:
                batch.write("a", b"1")
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            run()
        with pytest.raises(FileNotFoundError):
            (memory / "out").entries()

    def test_no_room_for_what_is_staged(self, data: Path, memory: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> int:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(os, "writev", full)
        report = voxtract.extract(data, str(memory / "out"), workers=1, progress=False)
        assert len(report.failed) == 3
        assert "memory://bucket/out/" in str(report.failed[0].error)
        assert "where it is made" in str(report.failed[0].error)


KILLED = """
import os, sys, voxtract
from voxtract import storage
count = 0
real = storage.Remote.write
def deadly(self, content, **words):
    global count
    count += 1
    if count == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
    return real(self, content, **words)
storage.Remote.write = deadly
voxtract.extract(sys.argv[1], sys.argv[2], workers=1, progress=False)
"""
# lock and head of the journal, then for each case: images and tables, findings and manifest, the line of the journal
FIRST_CASE = 2 + 2 * 3 + 2 + 1


@pytest.mark.parametrize("at", [2, 5, FIRST_CASE + 1])
def test_killed_and_resumed_on_s3_leaves_the_same_objects(tmp_path: Path, s3: Remote, at: int) -> None:
    for name in ("a", "b"):
        labels = np.random.default_rng(0).integers(0, 3, (5, 4, 3)).astype(np.uint8)
        for suffix in ("", "_seg"):
            (tmp_path / f"{name}{suffix}.nii.gz").write_bytes(encoded(labels))
    source, out = send(tmp_path, s3 / "data"), s3 / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(source), str(out), str(at)], check=False)
    assert killed.returncode == -signal.SIGKILL
    report = voxtract.extract(str(source), str(out), resume=True)
    assert report.exit_code == 0
    assert {r.status for r in report.results} == ({"done"} if at <= FIRST_CASE else {"done", "resumed"})
    voxtract.extract(str(source), str(s3 / "fresh"))
    assert digest(contents(out)) == digest(contents(s3 / "fresh"))
    assert verify(str(out)).exit_code == 0


class TestJournalOfObjects:
    def test_lines_are_objects_until_they_are_joined(self, data: Path, memory: Remote) -> None:
        voxtract.extract(data, str(memory / "whole"))
        lines = (memory / "whole" / JOURNAL).read_bytes().splitlines(keepends=True)
        send_out = memory / "cut"
        for name, content in contents(memory / "whole").items():
            (send_out / name).write(content)
        (send_out / JOURNAL).write(lines[0] + lines[1])
        (send_out / JOURNAL_PARTS / "case_2.json").write(lines[3])
        assert list(read_journal(send_out).done) == ["case_0", "case_2"]
        found = verify(str(send_out))
        assert (found.cases, found.ended, found.bad) == (2, False, ())
        report = voxtract.extract(data, str(send_out), resume=True)
        assert [r.status for r in report.results] == ["resumed", "done", "resumed"]
        assert contents(send_out) == contents(memory / "whole")

    def test_a_damaged_part_is_named_and_refused(self, data: Path, memory: Remote) -> None:
        voxtract.extract(data, str(memory / "out"))
        (memory / "out" / JOURNAL_PARTS / "case_2.json").write(b'{"case": ')
        with pytest.raises(DamagedFile, match=r"journal: a file of the journal is damaged \(b'\{\"case\": '"):
            voxtract.extract(data, str(memory / "out"), resume=True)

    def test_what_is_wrong_is_named(self, data: Path, memory: Remote) -> None:
        voxtract.extract(data, str(memory / "out"))
        (memory / "out/case_0/axial/case_0_axial_000.tif").unlink()
        path = memory / "out/case_1/axial/case_1_axial_000.csv"
        path.write(path.read_bytes() + b"\n")
        assert [(one.name.rpartition("/")[2], one.fault) for one in verify(str(memory / "out")).bad] == [
            ("case_0_axial_000.tif", "missing"),
            ("case_1_axial_000.csv", "changed"),
        ]
        again = voxtract.extract(data, str(memory / "out"), overwrite=True)
        assert {r.status for r in again.results} == {"done"}
        assert verify(str(memory / "out")).bad == ()

    def test_nothing_was_extracted_there(self, memory: Remote) -> None:
        with pytest.raises(NotFound, match="holds no extraction"):
            verify(str(memory / "none"))


HOLD = """
import sys, time
from voxtract.journal import Journal
from voxtract.storage import Remote
journal = Journal(Remote(sys.argv[1]), {}, overwrite=True)
print("held", flush=True)
time.sleep(60)
"""


class TestLock:
    @pytest.fixture
    def holder(self, s3: Remote) -> Iterator[Any]:
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(s3 / "out")], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()
        process.communicate()

    def test_a_second_run_is_refused_and_changes_nothing(self, data: Path, s3: Remote, holder: Any) -> None:
        before = contents(s3 / "out")
        for words in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(InvalidInput, match=rf"another run is writing there \(process {holder.pid} on .* ago\)"):
                voxtract.extract(data, str(s3 / "out"), **words)  # type: ignore[arg-type]
        assert contents(s3 / "out") == before

    def test_a_run_that_was_killed_here_holds_nothing(self, data: Path, s3: Remote, holder: Any) -> None:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert voxtract.extract(data, str(s3 / "out"), overwrite=True).exit_code == 0

    @pytest.mark.parametrize(("age", "free"), [(1000.0, True), (5.0, False), (-5.0, False)])
    def test_of_other_machines_only_the_time_tells(self, memory: Remote, age: float, free: bool) -> None:
        told = {"owner": "process 7 on other", "process": ["b", "p", 7, "1"], "token": "x", "time": time.time() - age}
        (memory / "out" / book.LOCK).write(json.dumps(told).encode())
        if free:
            Journal(memory / "out", {}).close()
        else:
            with pytest.raises(InvalidInput, match="process 7 on other"):
                Journal(memory / "out", {})

    def test_it_is_renewed_and_given_back(self, memory: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(book, "BEAT_S", 0.01)
        with Journal(memory, {}):
            times: set[float] = set()
            until = time.monotonic() + 20
            while len(times) < 3 and time.monotonic() < until:
                times.add(json.loads((memory / book.LOCK).read_bytes())["time"])
            assert len(times) == 3
        assert not (memory / book.LOCK).exists()

    def test_a_run_whose_lock_was_taken_stops(self, memory: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(book, "BEAT_S", 0.01)
        with Journal(memory, {}) as journal:
            other = {"owner": "process 7 on other", "token": "x", "time": time.time()}
            (memory / book.LOCK).write(json.dumps(other).encode())
            lock = journal._book._lock  # type: ignore[attr-defined]
            lock._beats.join(20)  # it ends when it finds another's lock
            with pytest.raises(OutputError, match=r"another run \(process 7 on other\) has taken over"):
                journal.finish([])
        assert json.loads((memory / book.LOCK).read_bytes()) == other  # not given back by who does not hold it

    def test_of_many_that_begin_together_one_gets_it(self, memory: Remote) -> None:
        got: list[Any] = []

        def run() -> None:
            try:
                got.append(book.Lease(memory))
            except InvalidInput as why:
                got.append(why)

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held = [one for one in got if isinstance(one, book.Lease)]
        assert (len(held), len(got)) == (1, 8)
        held[0].close()


def of(method: str, end: str) -> Any:
    return lambda asked, path: asked == method and path.partition("?")[0].endswith(end)


@pytest.mark.usefixtures("impatient")
class TestAStoreThatMisbehaves:
    @pytest.mark.parametrize(
        "fault",
        [
            {"status": 503},
            {"status": 500},
            {"status": 429},
            {"cut": 50_000},
            {"wait_s": 0.4},
            {"drip": 1},
        ],
    )
    def test_what_passes_is_tried_again(
        self, front: Front, s3: Remote, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]
    ) -> None:
        monkeypatch.setattr(storage, "DEADLINE_S", 2.0 if "wait_s" not in fault else 0.3)
        noise = np.random.default_rng(0).integers(0, 9999, (90, 80, 9)).astype(np.int16)
        (s3 / "in/a.nii.gz").write(encoded(noise))
        front.faults += [
            Fault(of("GET", "a.nii.gz"), 2, **fault),
            Fault(of("PUT", "a_axial_003.tif"), 2, **({"status": 503} if "status" in fault else {"wait_s": 0.4})),
        ]
        if "drip" in fault:
            monkeypatch.setattr(storage, "DEADLINE_S", 0.5)
        report = voxtract.extract(str(s3 / "in"), str(s3 / "out"))
        assert report.exit_code == 0, str(report)
        assert [one.seen for one in front.faults] == [2, 2]
        monkeypatch.setattr(storage, "DEADLINE_S", 60.0)
        image = read_image(s3 / "out/a/axial/a_axial_003.tif", (90, 80))
        np.testing.assert_array_equal(image, noise[:, :, 3])

    @pytest.mark.parametrize(
        ("fault", "said"),
        [
            ({"status": 503}, r"busy or out of order \(it answers 503\); try again later \(it was tried 5 times\)"),
            ({"wait_s": 0.4}, r"does not answer in time; try again later \(it was tried 5 times\)"),
        ],
    )
    def test_what_does_not_pass_fails_the_case_and_no_other(
        self,
        data: Path,
        front: Front,
        s3: Remote,
        monkeypatch: pytest.MonkeyPatch,
        fault: dict[str, Any],
        said: str,
    ) -> None:
        source = send(data, s3 / "data")
        monkeypatch.setattr(storage, "DEADLINE_S", 5.0 if "wait_s" not in fault else 0.3)
        front.faults.append(Fault(of("GET", "images/case_1.nii.gz"), 10**6, **fault))
        report = voxtract.extract(str(source), str(s3 / "out"), progress=False)
        assert [r.status for r in report.results] == ["done", "failed", "done"]
        with pytest.raises(UnreadableFile, match=said):
            raise report.failed[0].error or AssertionError
        assert front.faults[0].seen == storage.TRIES
        assert not [name for name in contents(s3 / "out") if name.startswith("case_1")]
        front.faults.clear()
        again = voxtract.extract(str(source), str(s3 / "out"), resume=True)
        assert [r.status for r in again.results] == ["resumed", "done", "resumed"]

    def test_an_upload_that_does_not_pass(self, data: Path, front: Front, s3: Remote) -> None:
        front.faults.append(Fault(of("PUT", "case_1_axial_002.tif"), 10**6, status=503))
        report = voxtract.extract(data, str(s3 / "out"), progress=False)
        assert [r.status for r in report.results] == ["done", "failed", "done"]
        assert isinstance(report.failed[0].error, OutputError)
        assert "case_1_axial_002.tif: cannot be written: the store is busy" in str(report.failed[0].error)

    def test_an_input_that_vanishes(self, data: Path, front: Front, s3: Remote) -> None:
        source = send(data, s3 / "data")
        cases = open_source(str(source))
        (source / "images/case_0.nii.gz").unlink()
        front.faults.append(Fault(of("GET", "images/case_1.nii.gz"), 10**6, status=404))
        report = voxtract.extract(cases, str(s3 / "out"), progress=False)
        assert [r.status for r in report.results] == ["failed", "failed", "done"]
        errors = [str(r.error) for r in report.failed]
        assert errors[0] == f"{source}/images/case_0.nii.gz: there is nothing of this name; check the spelling"
        assert errors[1] == f"{source}/images/case_1.nii.gz: it vanished while it was read; put it back"

    def test_no_permission(self, data: Path, front: Front, s3: Remote) -> None:
        source = send(data, s3 / "data")
        front.faults.append(Fault(of("GET", "images/case_1.nii.gz"), 10**6, status=403))
        report = voxtract.extract(str(source), str(s3 / "out"), progress=False)
        assert "no access to this place (403); look into the credentials" in str(report.failed[0].error)
        assert front.faults[0].seen == 1  # it does not pass, so it is not tried again
        front.faults[:] = [Fault(lambda *_: True, 10**6, status=403)]
        with pytest.raises(UnreadableFile, match=r"cannot be looked at: no access to this place \(403\)"):
            open_source(str(source))
        with pytest.raises(OutputError, match=r"cannot be written: no access to this place \(403\)"):
            voxtract.extract(data, str(s3 / "out2"))

    @pytest.mark.usefixtures("front")
    def test_nobody_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        storage._filesystem.cache_clear()
        with pytest.raises(UnreadableFile, match=r"is not reached.*check address and network \(it was tried 5 times\)"):
            open_source("s3://never-asked/a.nii.gz")
        storage._filesystem.cache_clear()

    @pytest.mark.usefixtures("front")
    def test_no_credentials(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        storage._filesystem.cache_clear()
        with pytest.raises(UnreadableFile, match="no credentials for this place; look into the credentials"):
            open_source("s3://never-opened/a.nii.gz")
        storage._filesystem.cache_clear()


class QuietHandler(SimpleHTTPRequestHandler):
    """A server of files that hands out no parts."""

    def log_message(self, *words: Any) -> None:
        pass


class TestHttp:
    NOISE = np.random.default_rng(0).integers(0, 9999, (90, 80, 19)).astype(np.int16)

    @pytest.fixture
    def port(self, tmp_path: Path) -> Iterator[int]:
        (tmp_path / "www").mkdir()
        (tmp_path / "www/a b.nii.gz").write_bytes(encoded(self.NOISE))
        (tmp_path / "www/plain.nii").write_bytes(encoded(self.NOISE, ".nii"))
        with serving(partial(QuietHandler, directory=str(tmp_path / "www"))) as port:  # type: ignore[arg-type]
            yield port
        storage._filesystem.cache_clear()

    @pytest.mark.parametrize("name", ["plain.nii", "a%20b.nii.gz?token=open-sesame"])
    def test_a_file_is_streamed(self, port: int, tmp_path: Path, name: str) -> None:
        source = open_source(f"http://127.0.0.1:{port}/{name}")
        np.testing.assert_array_equal(source.cases[0].image.read().data, self.NOISE)  # type: ignore[union-attr]
        report = voxtract.extract(source, tmp_path / "out")
        assert report.exit_code == 0
        again = voxtract.extract(source, tmp_path / "out", resume=True)  # the server tells when it was changed
        assert [r.status for r in again.results] == ["resumed"]
        os.utime(tmp_path / "www" / name.partition("?")[0].replace("%20", " "), (1, 1))
        again = voxtract.extract(source, tmp_path / "out", resume=True)
        assert [r.status for r in again.results] == ["done"]

    def test_bytes_after_a_step_back(self, port: int) -> None:
        content = encoded(self.NOISE, ".nii")
        with Reader(Remote(f"http://127.0.0.1:{port}/plain.nii")) as reader:
            for at in (0, 200_000, 100, 250_000, len(content) - 5, len(content)):
                reader.seek(at)
                part = reader.read(1000)
                assert part == content[at : at + len(part)]
                assert bool(part) == (at < len(content))

    def test_pairs(self, port: int, tmp_path: Path) -> None:
        base = f"http://127.0.0.1:{port}"
        source = open_source(image=f"{base}/plain.nii", labels=f"{base}/a%20b.nii.gz")
        assert voxtract.extract(source, tmp_path / "out").exit_code == 0

    def test_zarr(self, port: int, tmp_path: Path) -> None:
        zarr = pytest.importorskip("zarr", reason="the extra 'zarr' is not installed")
        array = zarr.create_array(str(tmp_path / "www/b.zarr"), shape=(19, 80, 90), chunks=(4, 80, 90), dtype="i2")
        array[...] = self.NOISE.T
        source = open_source(f"http://127.0.0.1:{port}/b.zarr")
        np.testing.assert_array_equal(source.cases[0].image.read().data, self.NOISE)  # type: ignore[union-attr]

    @pytest.mark.usefixtures("impatient")
    def test_what_is_wrong(self, port: int) -> None:
        base = f"http://127.0.0.1:{port}"
        with pytest.raises(NotFound, match=r"/none\.nii\.gz: there is nothing of this name"):
            open_source(f"{base}/none.nii.gz")
        with pytest.raises(InvalidInput, match="is not recognised"):
            open_source(base)
        with pytest.raises(UnreadableFile, match="is not reached"):
            open_source("http://127.0.0.1:1/a.nii.gz")

    @pytest.mark.usefixtures("impatient")
    @pytest.mark.parametrize("fault", [{"status": 503}, {"cut": 30_000}, {"drip": 1}, {"wait_s": 0.6}])
    def test_it_goes_on_where_it_broke(self, port: int, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        front = Front(("127.0.0.1", port))
        monkeypatch.setattr(storage, "DEADLINE_S", 0.5)
        front.faults.append(Fault(of("GET", "plain.nii"), 2, **fault))
        np.testing.assert_array_equal(
            NiftiFile(Remote(f"http://127.0.0.1:{front.port}/plain.nii")).read().data, self.NOISE
        )
        assert front.faults[0].seen == 2
        front.close()


class FakeError(Exception):
    """As the libraries for Google's and Azure's stores raise them."""

    def __init__(self, **told: Any) -> None:
        super().__init__("https://store/a?sig=open-sesame")
        vars(self).update(told)


class DefaultCredentialsError(FakeError):
    pass


@pytest.mark.parametrize(
    ("why", "kind", "said", "tries"),
    [
        (FakeError(code=503), OSError, "busy or out of order (it answers 503)", 5),
        (FakeError(status_code=429), OSError, "busy or out of order (it answers 429)", 5),
        (FakeError(code=403), PermissionError, "no access to this place (403)", 1),
        (FakeError(status_code=404), FileNotFoundError, "nothing of this name", 1),
        (FakeError(code=400), OSError, "the store refuses (400)", 1),
        (FakeError(), OSError, "is not reached, or the connection broke (FakeError)", 5),
        (DefaultCredentialsError(), PermissionError, "no access to this place", 1),
        (FileNotFoundError("The specified container does not exist."), FileNotFoundError, "no such bucket", 1),
        (TimeoutError(), TimeoutError, "does not answer in time", 5),
        (ConnectionResetError(104, "x"), OSError, "is not reached", 5),
        (NotImplementedError(), OSError, "the store refuses (NotImplementedError)", 1),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_what_libraries_raise_is_told_in_our_words(
    why: Exception, kind: type[OSError], said: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs.retry", type("fake", (), {"HttpError": FakeError}))
    calls = []

    def fail() -> None:
        calls.append(1)
        raise why

    with pytest.raises(kind) as caught:
        storage.tried(fail)
    assert said in (caught.value.strerror or "")
    assert len(calls) == tries
    assert "open-sesame" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_cluster_has_no_common_memory(memory: Remote) -> None:
    pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    from voxtract import cluster

    nobody: Any = None
    with pytest.raises(InvalidInput, match=r"memory://bucket: each process of a cluster has a memory of its own"):
        cluster.do_all(nobody, (), nobody, memory, backend="cpu", memory_limit=None)


class TestSecrets:
    """Nothing that is written, logged, raised or printed holds a credential."""

    WORDS = (SECRET, KEY, "open-sesame", "grass-and-herbs")

    def test_in_all_that_a_run_leaves(
        self,
        data: Path,
        tmp_path: Path,
        front: Front,
        s3: Remote,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        caplog.set_level(logging.DEBUG, "voxtract")
        monkeypatch.setattr(storage, "WAIT_S", 0.01)
        with serving(partial(QuietHandler, directory=str(data / "images"))) as port:  # type: ignore[arg-type]
            login = f"http://ali:grass-and-herbs@127.0.0.1:{port}"
            urls = [f"{login}/case_0.nii.gz?token=open-sesame", f"{login}/none.nii.gz?token=open-sesame"]
            report = voxtract.extract(urls[0], tmp_path / "out")
            assert report.exit_code == 0
            main(["extract", urls[0], str(tmp_path / "cli")])
            main(["inspect", urls[0], "--json"])
            main(["extract", urls[1], str(tmp_path / "cli2")])
            main(["inspect", urls[1]])
            said = [str(report), report.to_json(), repr(report), repr(open_source(urls[0]))]
            front.faults.append(Fault(of("GET", "case_1.nii.gz"), 10**6, status=403))
            source = send(data, s3 / "data")
            far = voxtract.extract(str(source), str(s3 / "out"), progress=False)
            assert len(far.failed) == 1
            said += [str(far), far.to_json(), repr(far), repr(far.failed[0].error)]
            error: BaseException | None = far.failed[0].error
            while error is not None:
                said.append(repr(error))
                error = error.__cause__
            build_report(str(s3 / "out"), tmp_path / "report.html")
        there = contents(s3 / "out") | {f"disk/{name}": content for name, content in on_disk(tmp_path).items()}
        captured = capfd.readouterr()
        all_text = "\n".join([*said, caplog.text, captured.out, captured.err]).encode()
        assert b"case_0.nii.gz" in all_text
        assert b"case_1.nii.gz: " in all_text
        for word in self.WORDS:
            assert word.encode() not in all_text
            assert [name for name, content in there.items() if word.encode() in content] == []


def test_local_paths_bring_no_library_for_urls(tmp_path: Path, data: Path) -> None:
    code = f"""
import sys, voxtract
voxtract.extract({str(data)!r}, {str(tmp_path / "out")!r})
print([name for name in ("fsspec", "aiohttp", "s3fs", "zarr", "asyncio") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
