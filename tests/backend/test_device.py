"""``device=`` on its way from the functions and the command to the backend; the devices are pretended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import voxtract
from tests.backend import fake_cupy
from tests.backend.fake_cupy import Machine
from tests.backend.host_device import COMPILER
from tests.extractions import write_scenes
from voxtract.backend import cuda, launch
from voxtract.cli import main
from voxtract.errors import BackendUnavailable, InvalidInput
from voxtract.slices import (
    extract_annotations,
    extract_annotations_dataset,
    extract_slices,
    extract_slices_dataset,
)

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not on the PATH")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Two devices, for one thread: the emulator that plays them is for one core."""
    monkeypatch.setattr("voxtract.pipeline.default_workers", lambda: 1)
    yield fake_cupy.install(monkeypatch, Machine(devices=2))
    for cached in (cuda.backend, launch.compiled, launch._loaded):
        cached.cache_clear()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_scenes(tmp_path / "in")


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".tif", ".csv", ".rows")
    }


Run = Callable[[Path, Path, dict[str, Any]], Any]


def command(*words: str) -> Run:
    def run(data: Path, out: Path, options: dict[str, Any]) -> None:
        given = [str(one) for name, value in options.items() for one in (f"--{name}", value) if name != "progress"]
        folder = data if words[0] == "extract" else data / ("images" if words[0] == "slices" else "labels")
        assert main([*words, str(folder), str(out), "--quiet", *given]) == 0

    return run


WAYS: dict[str, Run] = {
    "extract": lambda data, out, options: voxtract.extract(data, out, **options),
    "slices of a folder": lambda data, out, options: extract_slices_dataset(data / "images", out, **options),
    "annotations of a folder": lambda data, out, options: extract_annotations_dataset(data / "labels", out, **options),
    "slices of a file": lambda data, out, options: extract_slices(
        data / "images/case-a.nii.gz", out, **{n: v for n, v in options.items() if n != "progress"}
    ),
    "annotations of a file": lambda data, out, options: extract_annotations(
        data / "labels/case-a.nii.gz", out, **{n: v for n, v in options.items() if n != "progress"}
    ),
    "voxtract extract": command("extract"),
    "voxtract slices": command("slices"),
    "voxtract annotations": command("annotations"),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_device_that_was_asked_for_does_it(way: str, data: Path, tmp_path: Path, machine: Machine) -> None:
    WAYS[way](data, tmp_path / "one", {"backend": "cuda", "device": 1, "progress": False})
    assert machine.used == {1}
    WAYS[way](data, tmp_path / "cpu", {"backend": "cpu", "progress": False})
    assert machine.used == {1}
    assert files(tmp_path / "one") == files(tmp_path / "cpu")
    assert files(tmp_path / "one")
    WAYS[way](data, tmp_path / "two", {"backend": "cuda", "progress": False})
    assert machine.used == {0, 1}


def test_a_device_that_is_not_there(
    data: Path, tmp_path: Path, machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BackendUnavailable, match="there is no device 2, only 0 to 1"):
        voxtract.extract(data, tmp_path / "out", backend="cuda", device=2)
    with pytest.raises(BackendUnavailable, match="there is no device 2, only 0 to 1"):
        extract_slices(data / "images/case-a.nii.gz", tmp_path / "out", backend="cuda", device=2)
    for words in ([], ["--dry-run"]):
        arguments = ["extract", str(data), str(tmp_path / "out"), "--backend", "cuda", "--device", "2", *words]
        assert main(arguments) == 2
        assert "there is no device 2, only 0 to 1" in capfd.readouterr().err
    assert machine.used == set()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", [-1, 1.0, "1", True, None])
def test_what_is_no_index(device: Any, data: Path, tmp_path: Path) -> None:
    for backend in ("cpu", "cuda"):
        with pytest.raises(InvalidInput, match="is no number of a CUDA device; expected 0, 1"):
            voxtract.extract(data, tmp_path / "out", backend=backend, device=device)
    assert not (tmp_path / "out").exists()


def test_a_cluster_chooses_for_itself(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="device 1 on a cluster: each process takes the first device that it sees"):
        voxtract.extract(data, tmp_path / "out", backend="cuda", device=1, client=object())
    assert not (tmp_path / "out").exists()
