"""Files appear whole or not at all, whatever happens in between."""

import errno
import fcntl
import multiprocessing
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxtract.errors import OutputError
from voxtract.write.files import Staging

PARTS: list[bytes | memoryview] = [b"head", np.arange(1000, dtype=np.int16).reshape(10, 100).data, b"", b"tail"]
WHOLE = b"head" + np.arange(1000, dtype=np.int16).tobytes() + b"tail"


def names(folder: Path) -> list[str]:
    """Every file and folder below, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("content", "wanted"), [("Größe\n", "Größe\n".encode()), (b"\0\1", b"\0\1"), (PARTS, WHOLE), ("", b""), ([], b"")]
)
def test_text_bytes_and_buffers(tmp_path: Path, content: Any, wanted: bytes) -> None:
    with Staging(tmp_path) as staging:
        staging.write("file", content)
        assert (tmp_path / "file").read_bytes() == wanted
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["a b.tif", "Größe/日本.tif", "a/b/c/d.tif", "-x", "a\nb"])
def test_any_name_and_missing_folders(tmp_path: Path, name: str) -> None:
    root = tmp_path / "not yet" / "there"
    with Staging(root) as staging:
        staging.write(name, b"1")
        staging.write(name, b"22")
    assert (root / name).read_bytes() == b"22"
    assert [path for path in root.rglob("*") if path.is_file()] == [root / name]


def test_a_file_that_is_there_is_replaced_and_a_link_to_it_keeps_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old and longer")
    (tmp_path / "link").hardlink_to(tmp_path / "file")
    with Staging(tmp_path) as staging:
        staging.write("file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "link").read_bytes() == b"old and longer"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with Staging(tmp_path) as staging:
            staging.write("file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_the_name_is_absent_until_the_last_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    close = os.close

    def watched(file: int) -> None:
        seen.append((tmp_path / "file").exists())
        close(file)

    with Staging(tmp_path) as staging:
        monkeypatch.setattr(os, "close", watched)
        staging.write("file", PARTS)
        monkeypatch.undo()
    assert seen == [False]
    assert (tmp_path / "file").read_bytes() == WHOLE


@pytest.mark.parametrize("step", [1, 3, 4, 5, 999, 2003, 2004, 2007])
def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    write = os.write
    monkeypatch.setattr(os, "writev", lambda file, parts: write(file, b"".join(map(bytes, parts))[:step]))
    monkeypatch.setattr(os, "write", lambda file, rest: write(file, bytes(rest)[: max(step, 100)]))
    with Staging(tmp_path) as staging:
        staging.write("file", PARTS)
    assert (tmp_path / "file").read_bytes() == WHOLE


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_no_file_and_says_how_much_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: bool, number: int
) -> None:
    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    write = os.write
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "there.tif").write_bytes(b"old")
    with Staging(tmp_path) as staging:
        if short:
            monkeypatch.setattr(os, "writev", lambda file, _: write(file, b"half"))
            monkeypatch.setattr(os, "write", full)
        else:
            monkeypatch.setattr(os, "writev", full)
        for name in ("case/new.tif", "case/there.tif"):
            wanted = rf"{re.escape(str(tmp_path / name))}: .*no space left: 2,008 bytes are needed, [\d,]+ are free"
            with pytest.raises(OutputError, match=wanted) as caught:
                staging.write(name, PARTS)
            assert isinstance(caught.value.__cause__, OSError)
        stage = next(tmp_path.glob(".voxtract-staging-*"))
        assert list(stage.iterdir()) == []
        monkeypatch.undo()
        staging.write("case/new.tif", b"room again")
    assert (tmp_path / "case" / "there.tif").read_bytes() == b"old"
    assert names(tmp_path) == ["case", "case/new.tif", "case/there.tif"]


def test_an_interrupt_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "writev", interrupted)
    with Staging(tmp_path) as staging:
        with pytest.raises(KeyboardInterrupt):
            staging.write("file", PARTS)
        assert len(names(tmp_path)) == 1  # the empty staging folder
    assert names(tmp_path) == []


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    with Staging(tmp_path) as staging:
        with pytest.raises(OutputError, match=r"file/x\.tif: cannot be written: a file is in the way of a folder"):
            staging.write("file/x.tif", b"1")
        with pytest.raises(OutputError, match=r"folder: cannot be written: a folder of this name is in the way"):
            staging.write("folder", b"1")
        with pytest.raises(OutputError, match=r"the name is too long: 'ä+\.tif' has 304 bytes"):
            staging.write("case/" + "ä" * 150 + ".tif", b"1")
    with (
        pytest.raises(OutputError, match=r"file: cannot be written: a file is in the way of a folder"),
        Staging(tmp_path / "file"),
    ):
        pass
    assert names(tmp_path) == ["case", "file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as root, whom no permission stops: there the system's answer is put in its mouth."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    if os.access(locked, os.W_OK):
        monkeypatch.setattr(os, "mkdir", refused)
    with pytest.raises(OutputError, match=r"locked: cannot be written: no permission to write there"), Staging(locked):
        pass
    assert names(locked) == []


def test_folders_of_killed_runs_are_removed_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    (tmp_path / ".voxtract-staging-1-abandoned").mkdir()
    (tmp_path / ".voxtract-staging-1-abandoned" / "0").write_bytes(b"half a file")
    (tmp_path / ".voxtract-staging-file").write_bytes(b"not a folder: not ours")
    with Staging(tmp_path) as first:
        assert len(list(tmp_path.glob(".voxtract-staging-*"))) == 2
        with Staging(tmp_path) as second:
            second.write("b", b"2")
        first.write("a", b"1")
    assert names(tmp_path) == [".voxtract-staging-file", "a", "b"]


@pytest.mark.parametrize("moment", ["mkdir", "flock"])
def test_a_staging_folder_taken_for_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Another run that starts in the instant between making and locking removes the folder."""
    module, call = (os, os.mkdir) if moment == "mkdir" else (fcntl, fcntl.flock)
    removed: list[Path] = []

    def raced(*args: Any, **options: Any) -> None:
        call(*args, **options)
        for folder in tmp_path.glob(".voxtract-staging-*"):
            if not removed:
                folder.rmdir()
                removed.append(folder)

    monkeypatch.setattr(module, moment, raced)
    with Staging(tmp_path) as staging:
        staging.write("file", b"1")
    assert len(removed) == 1
    assert names(tmp_path) == ["file"]


def _write_and_wait(root: Path, ready: Any) -> None:
    with Staging(root) as staging:
        staging.write("whole", b"1")
        ready.set()
        signal.pause()


def test_a_run_that_was_killed_is_cleaned_up_after(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_write_and_wait, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    with Staging(tmp_path):
        assert len(list(tmp_path.glob(".voxtract-staging-*"))) == 2  # the other run lives
    process.kill()
    process.join()
    process.close()
    assert len(list(tmp_path.glob(".voxtract-staging-*"))) == 1
    with Staging(tmp_path):
        pass
    assert names(tmp_path) == ["whole"]


def test_a_file_system_without_locks_still_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", unsupported)
    (tmp_path / ".voxtract-staging-1-whose").mkdir()
    with Staging(tmp_path) as staging:
        staging.write("file", b"1")
    assert names(tmp_path) == [".voxtract-staging-1-whose", "file"]  # nobody can tell whether its run lives


def test_many_threads(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def work(worker: int) -> None:
        start.wait()
        for number in range(50):
            staging.write(f"case {number}/{worker}.bin", bytes([worker]) * number)

    with Staging(tmp_path) as staging, ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    for worker in range(8):
        for number in range(50):
            assert (tmp_path / f"case {number}" / f"{worker}.bin").read_bytes() == bytes([worker]) * number
    assert len(names(tmp_path)) == 50 + 400


def test_pieces_become_one_file_when_the_batch_ends(tmp_path: Path) -> None:
    (tmp_path / "grown").write_bytes(b"of an earlier run")
    with Staging(tmp_path) as staging:
        with staging.batch() as batch:
            for piece in (b"1", "2", PARTS):
                batch.append("grown", piece)
                batch.append("other/grown", b"-")
            assert (tmp_path / "grown").read_bytes() == b"of an earlier run"
            assert not (tmp_path / "other").exists()
        with staging.batch() as batch:
            batch.append("again", b"3")
    assert (tmp_path / "grown").read_bytes() == b"12" + WHOLE
    assert (tmp_path / "other/grown").read_bytes() == b"---"
    assert names(tmp_path) == ["again", "grown", "other", "other/grown"]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_appears_whole(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "a/b/old").mkdir(parents=True)
        (tmp_path / "a/b/old/file").write_bytes(b"old")
    before = names(tmp_path)
    with Staging(tmp_path) as staging:
        with staging.batch() as batch:
            folder = batch.folder("a/b")
            folder.write("file", b"1")
            folder.write("c/d/file", PARTS)
            assert [name for name in names(tmp_path) if not name.startswith(".")] == before
        assert len(list(next(tmp_path.glob(".voxtract-staging-*")).iterdir())) == 0
    assert names(tmp_path) == ["a", "a/b", "a/b/c", "a/b/c/d", "a/b/c/d/file", "a/b/file"]
    assert (tmp_path / "a/b/c/d/file").read_bytes() == WHOLE


@pytest.mark.parametrize("call", ["mkdir", "makedirs", "writev"])
def test_a_full_disk_leaves_neither_folder_nor_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(staging: Staging) -> None:
        with staging.batch() as batch:
            batch.append("grown", b"1")
            batch.folder("folder").write("file", b"1")
            monkeypatch.setattr(os, call, full)
            if call == "mkdir":
                batch.folder("another")
            else:
                batch.folder("third").write("deep/file", b"22")

    with Staging(tmp_path) as staging:
        wanted = "another" if call == "mkdir" else "third/deep/file"
        with pytest.raises(OutputError, match=rf"{wanted}: cannot be written: no space left"):
            fill(staging)
        monkeypatch.undo()
        assert list(next(tmp_path.glob(".voxtract-staging-*")).iterdir()) == []
    assert names(tmp_path) == []
