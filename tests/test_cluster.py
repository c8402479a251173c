"""Runs over a Dask cluster of real processes: the same bytes, also where a worker is killed on the way."""

import hashlib
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import voxtract
from voxtract.cli import main
from voxtract.errors import BackendUnavailable, DamagedFile, InvalidInput
from voxtract.read import open_source
from voxtract.read.extraction import read_journal

distributed = pytest.importorskip("distributed", reason="distributed is not installed: pip install 'voxtract[dask]'")

# what Dask itself leaves open where workers are killed
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nibabel import Nifti1Image

    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)
    for i in range(12):
        for folder, high in (("images", 1000), ("labels", 3)):
            (root / folder).mkdir(exist_ok=True)
            voxels = rng.integers(0, high, (20, 18, 16)).astype(np.int16)
            Nifti1Image(voxels, np.eye(4)).to_filename(root / folder / f"case{i:02}.nii.gz")
    return root


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=logging.CRITICAL
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def digest(out: Path) -> dict[str, str]:
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file()
    }


WORDS: dict[str, Any] = {"annotations": ("csv", "coco"), "split": {"train": 0.5, "val": 0.5}}


def test_the_bytes_are_those_of_a_single_process(data: Path, tmp_path: Path, client: Any) -> None:
    alone = voxtract.extract(data, tmp_path / "alone", ("axial", "coronal"), **WORDS)
    spread = voxtract.extract(data, tmp_path / "spread", ("axial", "coronal"), client=client, **WORDS)
    assert digest(tmp_path / "spread") == digest(tmp_path / "alone")
    assert [r.id for r in spread.results] == [r.id for r in alone.results]
    assert (spread.slices, spread.annotations, spread.backend) == (alone.slices, alone.annotations, "cpu")
    assert spread.workers == 2


def test_faults_of_a_case_are_its_own(data: Path, tmp_path: Path, client: Any) -> None:
    bad = tmp_path / "data"
    bad.mkdir()
    for file in (data / "images").iterdir():
        (bad / file.name).write_bytes(file.read_bytes()[:-9] if file.name.startswith("case03") else file.read_bytes())
    report = voxtract.extract(bad, tmp_path / "out", client=client, progress=False)
    (failed,) = report.failed
    assert isinstance(failed.error, DamagedFile)
    assert "case03.nii.gz" in str(failed.error)
    assert len(report.done) == 11
    assert list(read_journal(tmp_path / "out").failed) == ["case03"]


def test_a_worker_killed_in_the_middle_loses_nothing(data: Path, tmp_path: Path, client: Any) -> None:
    out = tmp_path / "out"
    pids = client.run(os.getpid)

    def kill() -> None:
        while not list(out.rglob("*.tif")):
            time.sleep(0.005)
        os.kill(min(pids.values()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    report = voxtract.extract(data, out, ("axial", "coronal", "sagittal"), client=client, **WORDS)
    killer.join()
    assert report.exit_code == 0
    voxtract.extract(data, tmp_path / "alone", ("axial", "coronal", "sagittal"), **WORDS)
    left = {name for name in digest(out) if name.startswith(".voxtract-staging")}
    assert {k: v for k, v in digest(out).items() if k not in left} == digest(tmp_path / "alone")
    client.wait_for_workers(2, timeout=30)


def test_a_run_goes_on_elsewhere(data: Path, tmp_path: Path, client: Any) -> None:
    """Cut short here, resumed on the cluster, and the other way round."""
    for name, first, second in (("a", None, client), ("b", client, None)):
        out = tmp_path / name
        voxtract.extract(data, out, client=first)
        journal = out / ".voxtract/journal.jsonl"
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:5]))
        report = voxtract.extract(data, out, client=second, resume=True)
        assert sum(r.status == "resumed" for r in report.results) == 4
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_scheduler_that_goes_away_is_said_and_the_run_resumes(data: Path, tmp_path: Path) -> None:
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=logging.CRITICAL
    )
    client = distributed.Client(cluster, timeout=5)
    out = tmp_path / "out"

    def close() -> None:
        while not list(out.rglob("*.tif")):
            time.sleep(0.005)
        cluster.close()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(BackendUnavailable, match=r"the Dask cluster was lost .*--resume"):
        voxtract.extract(data, out, ("axial", "coronal", "sagittal"), client=client, progress=False)
    closer.join()
    client.close()
    report = voxtract.extract(data, out, ("axial", "coronal", "sagittal"), resume=True)
    assert report.exit_code == 0
    assert {r.status for r in report.results} <= {"resumed", "done"}
    voxtract.extract(data, tmp_path / "alone", ("axial", "coronal", "sagittal"))
    assert digest(out) == digest(tmp_path / "alone")


def test_workers_of_another_version_are_refused(
    data: Path, tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxtract.cluster._version", lambda: "99.0")
    with pytest.raises(BackendUnavailable, match=r"worker tcp://.* has voxtract .*, but 99.0 runs here .*same version"):
        voxtract.extract(data, tmp_path / "out", client=client)
    assert not (tmp_path / "out").exists()


def test_a_cluster_without_workers_or_devices_is_refused(data: Path, tmp_path: Path, client: Any) -> None:
    with pytest.raises(BackendUnavailable, match="'cuda' was asked for"):
        voxtract.extract(data, tmp_path / "out", client=client, backend="cuda")
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        distributed.Client(empty) as nobody,
        pytest.raises(BackendUnavailable, match="has no worker"),
    ):
        voxtract.extract(data, tmp_path / "out", client=nobody)
    assert not (tmp_path / "out").exists()


def test_an_address_where_nobody_answers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("voxtract.cluster._TIMEOUT_S", 0.5)
    assert main(["extract", str(data), str(tmp_path / "out"), "--dask", "tcp://127.0.0.1:1"]) == 2
    assert "tcp://127.0.0.1:1: no Dask scheduler answers there" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_starts_a_cluster_of_its_own(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxtract.cluster.default_workers", lambda: 2)
    assert main(["extract", str(data), str(tmp_path / "out"), "--dask", "local", "--quiet"]) == 0
    voxtract.extract(data, tmp_path / "alone")
    assert digest(tmp_path / "out") == digest(tmp_path / "alone")


def test_only_paths_travel(data: Path) -> None:
    """What a task takes with it is small, whatever the size of the volumes."""
    source = open_source(data)
    assert len(pickle.dumps(source.cases[0])) < 1000


def test_errors_survive_the_way_back() -> None:
    error = InvalidInput("a.nii.gz: is odd")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
