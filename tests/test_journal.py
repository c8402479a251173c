"""What the journal says of inputs, outputs and failures, who may write, and what `verify` finds later."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import voxtract
from tests.conftest import WriteNifti
from voxtract.book import LOCK
from voxtract.cli import main
from voxtract.errors import InvalidInput, NotFound
from voxtract.journal import Journal
from voxtract.read.extraction import JOURNAL, manifest_name, read_journal
from voxtract.verify import verify


@pytest.fixture
def data(tmp_path: Path, write_nifti: WriteNifti) -> Path:
    rng = np.random.default_rng(3)
    for name in ("a", "b", "c"):
        for folder, high in (("images", 1000), ("labels", 3)):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            write_nifti(
                tmp_path / "data" / folder / f"{name}.nii.gz", rng.integers(0, high, (6, 5, 4)).astype(np.int16)
            )
    return tmp_path / "data"


@pytest.fixture
def out(data: Path, tmp_path: Path) -> Path:
    voxtract.extract(data, tmp_path / "out", ("axial", "coronal"), annotations=("csv", "coco"))
    return tmp_path / "out"


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


class TestWhatItSays:
    def test_every_file_is_listed_with_size_and_checksum(self, out: Path) -> None:
        journal = read_journal(out)
        listed = {}
        for case_id, line in journal.done.items():
            content = (out / manifest_name(case_id)).read_bytes()
            assert line["manifest"] == f"{zlib.crc32(content):08x}"
            for text in content.decode().splitlines():
                checksum, size, name = text.split(" ", 2)
                listed[name] = (int(size), int(checksum, 16))
        listed |= {name: (size, int(checksum, 16)) for name, size, checksum in journal.end or ()}
        own = {JOURNAL, LOCK, ".voxtract/left_out.json", *map(manifest_name, journal.done)}
        there = {name: (len(b), zlib.crc32(b)) for name, b in files(out).items() if name not in own}
        assert listed == there

    def test_inputs_have_size_time_and_the_checksum_of_what_they_hold(self, out: Path) -> None:
        line = read_journal(out).done["b"]
        assert [Path(one[0]).parent.name for one in line["inputs"]] == ["images", "labels"]
        for path, frame, size, time, checksum in line["inputs"]:
            status = Path(path).stat()
            assert (frame, size, time) == (None, status.st_size, status.st_mtime_ns)
            assert checksum == f"gzip:{Path(path).read_bytes()[-8:].hex()}"

    def test_an_uncompressed_input_has_its_own_checksum(self, tmp_path: Path, write_nifti: WriteNifti) -> None:
        write_nifti(tmp_path / "in" / "a.nii", np.zeros((3, 3, 3), np.uint8))
        voxtract.extract(tmp_path / "in", tmp_path / "out")
        ((path, *_, checksum),) = read_journal(tmp_path / "out").done["a"]["inputs"]
        assert checksum == f"crc32:{zlib.crc32(Path(path).read_bytes()):08x}"

    def test_failures_are_noted_and_done_again(self, data: Path, tmp_path: Path) -> None:
        good = (data / "images/b.nii.gz").read_bytes()
        (data / "images/b.nii.gz").write_bytes(good[:-20])
        voxtract.extract(data, tmp_path / "out", progress=False)
        journal = read_journal(tmp_path / "out")
        assert list(journal.done) == ["a", "c"]
        assert "b.nii.gz" in journal.failed["b"]["error"]
        assert [json.loads(line).get("case") for line in (tmp_path / "out" / JOURNAL).read_text().splitlines()] == [
            None,
            "a",
            "b",
            "c",
            None,
        ]
        (data / "images/b.nii.gz").write_bytes(good)
        report = voxtract.extract(data, tmp_path / "out", resume=True)
        assert [r.status for r in report.results] == ["resumed", "done", "resumed"]
        assert not read_journal(tmp_path / "out").failed

    def test_an_input_with_another_time_but_the_same_content_stays(self, data: Path, tmp_path: Path) -> None:
        voxtract.extract(data, tmp_path / "out")
        os.utime(data / "images/a.nii.gz", ns=(1, 1))
        os.utime(data / "images/b.nii.gz", ns=(1, 1))
        content = bytearray((data / "images/b.nii.gz").read_bytes())
        content[-8] ^= 1  # of the same size, but of another checksum
        (data / "images/b.nii.gz").write_bytes(content)
        report = voxtract.extract(data, tmp_path / "out", resume=True, progress=False)
        assert [r.status for r in report.results] == ["resumed", "failed", "resumed"]


HOLD = """
import sys, time
from pathlib import Path
from voxtract.journal import Journal
journal = Journal(Path(sys.argv[1]), {}, overwrite=True)
print("held", flush=True)
time.sleep(60)
"""


class TestTheLock:
    @pytest.fixture
    def holder(self, tmp_path: Path) -> Any:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()
        process.communicate()

    def test_a_second_run_is_refused_and_changes_nothing(self, data: Path, tmp_path: Path, holder: Any) -> None:
        before = files(tmp_path / "out")
        for words in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(InvalidInput, match=rf"another run is writing there \(process {holder.pid} on "):
                voxtract.extract(data, tmp_path / "out", **words)  # type: ignore[arg-type]
        assert files(tmp_path / "out") == before

    def test_a_run_that_was_killed_holds_nothing(self, data: Path, tmp_path: Path, holder: Any) -> None:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (tmp_path / "out" / LOCK).read_text()  # what it wrote is still there
        report = voxtract.extract(data, tmp_path / "out", overwrite=True)
        assert report.exit_code == 0

    def test_it_is_let_go_in_the_end_and_after_a_fault(self, tmp_path: Path) -> None:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="stop"), Journal(tmp_path, {"views": 0}, overwrite=True):
                raise RuntimeError("stop")
        with pytest.raises(InvalidInput, match="an earlier run"):
            Journal(tmp_path, {"views": 0})
        with pytest.raises(InvalidInput, match="views was 0, is 1"):
            Journal(tmp_path, {"views": 1}, resume=True)
        Journal(tmp_path, {"views": 0}, resume=True).close()


class TestVerify:
    def test_what_was_written_is_sound(self, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
        found = verify(out)
        assert (found.bad, found.ended, found.cases, found.exit_code) == ((), True, 3, 0)
        assert found.files == 3 * (2 * (4 + 5) + 2 + 1) + 1  # images and tables, parts of coco, findings; coco.json
        assert main(["verify", str(out)]) == 0
        assert f"{found.files} of {found.files} files of 3 cases are as they were written" in capfd.readouterr().out

    @pytest.mark.parametrize(
        ("name", "do", "fault"),
        [
            ("a/axial/a_axial_000.tif", lambda p: p.unlink(), "missing"),
            ("b/axial/b_axial_003.csv", lambda p: p.write_bytes(p.read_bytes()[:-1]), "truncated"),
            ("b/axial/b_axial_003.csv", lambda p: p.write_bytes(p.read_bytes() + b"\n"), "changed"),
            ("c/coronal/c_coronal_004.tif", lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\xaa"), "changed"),
            ("coco.json", lambda p: p.write_bytes(p.read_bytes().replace(b"1", b"2", 1)), "changed"),
            (".voxtract/findings/a.rows", lambda p: p.write_bytes(b""), "truncated"),
            (".voxtract/outputs/a.txt", lambda p: p.write_bytes(p.read_bytes()[1:]), "changed"),
            (".voxtract/outputs/a.txt", lambda p: p.unlink(), "missing"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, out: Path, capfd: pytest.CaptureFixture[str], name: str, do: Any, fault: str
    ) -> None:
        do(out / name)
        (bad,) = verify(out).bad
        assert (bad.name, bad.fault) == (name, fault)
        assert main(["verify", str(out)]) == 1
        assert f"{name}: {fault}: " in capfd.readouterr().out
        assert main(["verify", str(out), "--json"]) == 1
        assert json.loads(capfd.readouterr().out)["bad"][0]["name"] == name

    def test_a_file_that_cannot_be_read(self, out: Path) -> None:
        (out / "a/axial/a_axial_000.tif").unlink()
        (out / "a/axial/a_axial_000.tif").mkdir()
        (bad,) = verify(out).bad
        assert bad.fault == "unreadable"

    def test_a_run_that_was_cut_short(self, out: Path) -> None:
        lines = (out / JOURNAL).read_bytes().splitlines(keepends=True)
        (out / JOURNAL).write_bytes(b"".join(lines[:2]))
        found = verify(out)
        assert (found.ended, found.cases, found.bad) == (False, 1, ())
        assert "--resume goes on with it" in str(found)

    def test_failed_cases_are_told(self, data: Path, tmp_path: Path) -> None:
        (data / "images/b.nii.gz").write_bytes(b"")
        voxtract.extract(data, tmp_path / "out", progress=False)
        found = verify(tmp_path / "out")
        assert [case for case, _ in found.failed] == ["b"]
        assert "1 cases failed" in str(found) or "1 case failed" in str(found)

    def test_no_extraction(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="holds no extraction"):
            verify(tmp_path)


def test_a_resumed_run_has_the_same_journal_as_an_undisturbed_one(data: Path, tmp_path: Path) -> None:
    voxtract.extract(data, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    lines = (tmp_path / "cut" / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / "cut" / JOURNAL).write_bytes(lines[0] + lines[3] + lines[1][:30])  # killed while it wrote the second
    voxtract.extract(data, tmp_path / "cut", resume=True)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
