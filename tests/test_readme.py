"""The README keeps its word: its examples run, its figures are those of the committed results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.figures import committed, figures, put_into
from voxtract.phantoms import make_data_set

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_examples_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data_set(tmp_path / "demo/data")
    monkeypatch.chdir(tmp_path)
    examples = blocks("python")
    assert len(examples) == 5
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "4 of 4 cases done" in out
    assert re.search(r"^2 \(\d+, \d+\) 0\.\d+$", out, re.MULTILINE), out  # a lesion of class 2, windowed to 0..1
    assert {"coco_train.json", "coco_val.json"} <= {p.name for p in (tmp_path / "out/coco").iterdir()}
    assert "AREA_MM2" in out
    assert (tmp_path / "out/boxes/axial_annotations_stats.csv").is_file()


def test_the_two_commands_are_there() -> None:
    demo, test = blocks("bash")
    assert demo.strip().endswith("voxtract demo demo")
    assert (ROOT / test.strip()).stat().st_mode & 0o100


def test_figures_are_those_of_the_committed_results() -> None:
    assert put_into(README, committed()) == README
    assert figures(committed()) in README
