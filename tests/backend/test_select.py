"""Choosing a backend, and every reason for which CUDA cannot be had; CuPy is played by tests/backend/fake_cupy.py."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.backend import fake_cupy
from tests.backend.fake_cupy import Machine
from tests.backend.host_device import COMPILER
from voxtract.backend import cuda, cuda_state, launch, select
from voxtract.doctor import examine
from voxtract.errors import BackendUnavailable, InvalidInput


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> Iterator[None]:
    yield
    for cached in (cuda.backend, launch.compiled, launch._loaded):
        cached.cache_clear()


def test_the_cpu_is_always_there() -> None:
    assert select("cpu").name == "cpu"
    assert select("auto").name in ("cpu", "cuda")


def test_other_words_are_refused() -> None:
    with pytest.raises(InvalidInput, match="'auto', 'cpu', 'cuda'"):
        select("gpu")
    for device in (-1, 1.0, "0", True, None):
        with pytest.raises(InvalidInput, match="no number of a CUDA device"):
            select("cpu", device)  # type: ignore[arg-type]


TOO_OLD = r"driver is too old: it knows CUDA 12\.4, CuPy needs CUDA 13\.0; update it, or install voxtract\[cuda12\]"
REASONS: list[tuple[dict[str, Any], str]] = [
    ({"driver": 0}, "no NVIDIA driver is loaded: install one"),
    ({"driver": 12040}, TOO_OLD),
    ({"devices": 0}, "there is no CUDA device: see what nvidia-smi lists"),
    ({"no_device": "cudaErrorNoDevice: no device"}, r"no CUDA device can be used \(cudaErrorNoDevice: no device\)"),
    (
        {"compiles": False},
        r"do not compile or run on Pretended device, 2 GB, CuPy 14\.2\.0: cut\.cu\(1\): error: .*update the driver",
    ),
    ({"largest": 4}, r"do not compile or run on Pretended device, 2 GB, CuPy 14\.2\.0: out of memory"),
]


@pytest.mark.parametrize(("machine", "words"), REASONS)
def test_each_reason_is_one_sentence_with_a_way_out(
    machine: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_cupy.install(monkeypatch, Machine(**machine))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(
        BackendUnavailable, match=f"backend 'cuda' was asked for, but .*{words}.*--backend cpu"
    ) as error:
        select("cuda")
    assert "\n" not in str(error.value)
    caplog.set_level(logging.INFO, "voxtract")
    assert select("auto").name == "cpu"
    assert caplog.messages[-1].startswith("running on the CPU: ")
    assert examine()["backends"]["cuda"]["available"] is False


def test_no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    cuda.backend.cache_clear()
    with pytest.raises(BackendUnavailable, match=r"CuPy is not installed: pip install 'voxtract\[cuda13\]'"):
        select("cuda")
    assert select("auto").name == "cpu"


def test_a_cupy_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('libcuda.so.1: no such file\\nand advice')")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    cuda.backend.cache_clear()
    with pytest.raises(BackendUnavailable, match=r"does not load \(libcuda\.so\.1: no such file\): reinstall"):
        select("cuda")


def test_what_hides_the_devices_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy.install(monkeypatch, Machine(devices=0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(
        BackendUnavailable, match="there is no CUDA device: CUDA_VISIBLE_DEVICES is ''; unset or change"
    ):
        select("cuda")


@pytest.mark.skipif(COMPILER is None, reason="g++ is not on the PATH")
def test_a_device_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = fake_cupy.install(monkeypatch, Machine(devices=2))
    chosen = select("cuda", 1)
    assert chosen.name == "cuda"
    assert machine.used == {1}
    assert select("cuda", 1) is chosen
    assert select("auto", 1).name == "cpu"  # until the kernels have run on a device
    assert cuda_state() == (True, "Pretended device, 2 GB, CuPy 14.2.0")
    assert examine()["backends"]["cuda"] == {"available": True, "note": "Pretended device, 2 GB, CuPy 14.2.0"}
    with pytest.raises(BackendUnavailable, match="there is no device 2, only 0 to 1"):
        select("cuda", 2)
