"""The page about Supervisely keeps its word: its example runs, and it names every option there is."""

from __future__ import annotations

import inspect
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

import voxtract
from voxtract.cli import main
from voxtract.phantoms import make_data_set
from voxtract.read.supervisely import LAYOUTS, open_supervisely
from voxtract.write.supervisely import NiftiFolders, VolumeProject

PAGE = (Path(__file__).resolve().parents[3] / "docs/supervisely.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    demo, *lines = block("bash").splitlines()
    assert demo == "voxtract demo demo"
    make_data_set("demo/data")  # which is what the demo begins with
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "voxtract"
        assert main(words) == 0, line
    shown = capsys.readouterr().out
    assert "nifti: Supervisely, by volume name" in shown
    assert "1 lung nodule" in shown
    assert "2 liver lesion" in shown
    assert "4 finding 4" in shown
    assert (tmp_path / "boxes/preview.png").is_file()
    exec(compile(block("python"), "docs/supervisely.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "ct-01 [('finding 3', 3), ('liver lesion', 2), ('lung nodule', 1)]" in printed
    source = voxtract.open_source("nifti")
    assert source.classes is not None
    assert source.classes[2].color == "#ff0000"
    assert (source.skipped, source.remarks) == ((), ())


def test_every_option_is_named() -> None:
    told = set(re.findall("`([a-z_]+)`", PAGE))
    words = inspect.signature(open_supervisely).parameters.keys() - {"path"}
    written = {one.name for kind in (VolumeProject, NiftiFolders) for one in fields(kind)} - {"classes"}
    assert words <= told
    assert written <= told
    assert set(LAYOUTS) <= told


def test_the_table_has_a_cell_for_each() -> None:
    """Document, importer and voxtract each say something of every row."""
    rows = PAGE[PAGE.index("| | document | importer | voxtract |") :].strip().splitlines()
    assert len(rows) > 20
    for row in rows:
        assert len(row.strip("|").split("|")) == 4, row
        assert all(cell.strip() for cell in row.strip("|").split("|")[1:])
