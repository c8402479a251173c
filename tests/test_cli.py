"""The command as a person or a script meets it: streams, exit codes, words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import WriteNifti
from voxtract.cli import main


@pytest.fixture
def folder(tmp_path: Path, write_nifti: WriteNifti) -> Path:
    labels = np.zeros((6, 5, 4), np.uint8)
    labels[1:3, 1:3, 1] = 2
    write_nifti(tmp_path / "in" / "a.nii.gz", labels, np.diag([0.5, 0.5, 3, 1]))
    write_nifti(tmp_path / "in" / "b b.nii.gz", labels)
    return tmp_path / "in"


def test_results_on_stdout_and_exit_code_0(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["slices", str(folder), str(tmp_path / "out")]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("2 of 2 cases done: 8 slices in ")
    assert err == ""  # no bar where stderr is no terminal


def test_json_and_quiet(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["annotations", str(folder), str(tmp_path / "a"), "--json", "--data-mode", "box"]) == 0
    parsed = json.loads(capfd.readouterr().out)
    assert (parsed["cases"], parsed["done"], parsed["annotations"]) == (2, 2, 2)
    assert main(["annotations", str(folder), str(tmp_path / "b"), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_some_files_failed_is_exit_code_1_and_each_is_named(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "c.nii.gz").write_bytes(b"\x1f\x8bbroken")
    assert main(["slices", str(folder), str(tmp_path / "out")]) == 1
    out, err = capfd.readouterr()
    assert "2 of 3 cases done" in out
    assert err.count("\n") == 1
    assert "c.nii.gz" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["slices", "nowhere", "out"], "nowhere"),
        (["extract", "nowhere", "out"], "nowhere"),
        (["slices", ".", "out", "--normalization", "maximum"], "min-max"),
        (["slices", ".", "out", "--backend", "cuda"], "cuda"),
        (["inspect"], "path"),
    ],
)
def test_wrong_input_is_exit_code_2_in_one_line(
    folder: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("voxtract: ")
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize("arguments", [["slices", "a", "b", "--view", "top"], ["nonsense"], ["slices", "a"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: voxtract" in capfd.readouterr().err


def test_no_command_shows_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "demo" in capfd.readouterr().err


def test_debug_keeps_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "voxtract", "slices", str(tmp_path / "nowhere"), str(tmp_path / "out")]
    assert "Traceback" not in subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "Traceback" in subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False).stderr


def test_one_file_that_fails_is_a_failed_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.nii.gz").write_bytes(b"\x1f\x8bbroken")
    assert main(["slices", str(tmp_path / "x.nii.gz"), str(tmp_path / "out")]) == 1
    assert "x.nii.gz" in capfd.readouterr().err


def test_dry_run_writes_nothing_and_finds_what_headers_tell(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["slices", str(folder), str(tmp_path / "out"), "--dry-run", "--json"]
    assert main(arguments) == 0
    parsed = json.loads(capfd.readouterr().out)
    assert [r["status"] for r in parsed["results"]] == ["planned", "planned"]
    assert parsed["slices"] == 8
    assert main([*arguments, "--target-size", "4", "4"]) == 1
    assert "6 x 5" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_extract_resumes(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["extract", str(folder), str(tmp_path / "out"), "--views", "axial", "coronal"]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "--resume" in capfd.readouterr().err
    assert main([*arguments, "--resume", "--json"]) == 0
    assert {r["status"] for r in json.loads(capfd.readouterr().out)["results"]} == {"resumed"}


def test_inspect_says_what_a_file_is(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder / "a.nii.gz")]) == 0
    out = capfd.readouterr().out
    for fact in ("6 x 5 x 4", "0.5 x 0.5 x 3", "RAS", "uint8", "2: 4"):
        assert fact in out
    assert main(["inspect", str(folder / "a.nii.gz"), "--json"]) == 0
    volume = json.loads(capfd.readouterr().out)["volumes"][0]
    assert volume["labels"] == {"2": 4}
    assert volume["spacing_mm"] == [0.5, 0.5, 3.0]


def test_inspect_goes_on_after_a_broken_file(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "aa.nii.gz").write_bytes(b"")
    assert main(["inspect", str(folder)]) == 1
    out, err = capfd.readouterr()
    assert "b b" in out
    assert "aa.nii.gz" in err


def test_doctor_names_backends_and_why_not(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "ISA-L" in capfd.readouterr().out
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["backends"]["cpu"]["available"]
    assert facts["packages"]["numpy"] == np.__version__
    if not facts["backends"]["cuda"]["available"]:
        assert facts["backends"]["cuda"]["note"]


@pytest.mark.parametrize(("text", "size"), [("8GB", 8 * 10**9), ("1.5gib", 3 * 2**29), ("1000", 1000)])
def test_memory_sizes(text: str, size: int) -> None:
    from voxtract.cli import _bytes

    assert _bytes(text) == size


def test_version() -> None:
    from importlib.metadata import version

    done = subprocess.run([sys.executable, "-m", "voxtract", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"voxtract {version('voxtract')}\n"


def test_a_reader_that_has_gone_is_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m voxtract inspect '{folder}' --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "{"
    assert done.stderr == ""


def test_exit_codes_reach_the_shell(folder: Path, tmp_path: Path) -> None:
    def code(*words: str) -> int:
        command = [sys.executable, "-m", "voxtract", *words]
        return subprocess.run(command, capture_output=True, check=False).returncode

    out = str(tmp_path / "out")
    assert code("slices", str(folder), out) == 0
    (folder / "c.nii.gz").write_bytes(b"broken")
    assert code("slices", str(folder), out) == 1
    assert code("slices", str(folder / "gone"), out) == 2
    assert code("slices", "--nonsense") == 2


def test_negative_windows_can_be_typed(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["slices", str(folder), str(tmp_path / "out"), "--normalization", "-600,1500", "--pad-value", "-1e3"]
    assert main(words) == 0
    with pytest.raises(SystemExit):
        main([*words[:3], "--normalization", "a,b"])
    assert "CENTER,WIDTH" in capfd.readouterr().err


def test_options_may_stand_between_source_and_output(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["extract", str(folder), "--recursive", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/a/axial").is_dir()
    assert main(["extract", "--labels", str(folder), "--index-width", "4", str(tmp_path / "tables")]) == 0
    assert (tmp_path / "tables/a/axial/a_axial_0003.csv").is_file()
    with pytest.raises(SystemExit):
        main(["extract", str(folder), str(tmp_path / "out"), "more", "words"])
    assert "unrecognized arguments: more words" in capfd.readouterr().err


def test_frames_of_4d_files_can_be_chosen(
    tmp_path: Path, write_nifti: WriteNifti, capfd: pytest.CaptureFixture[str]
) -> None:
    write_nifti(tmp_path / "in/a.nii.gz", np.arange(48).reshape(2, 3, 4, 2).astype(np.int16))
    assert main(["slices", str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    assert "volume_index=0 to 1" in capfd.readouterr().err
    assert main(["slices", str(tmp_path / "in"), str(tmp_path / "out"), "--volume-index", "1"]) == 0


def test_files_left_out_are_named_even_when_quiet(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "x.nrrd").write_bytes(b"")
    assert main(["extract", str(folder), str(tmp_path / "out"), "--quiet"]) == 0
    assert "left out: " in (err := capfd.readouterr().err)
    assert "x.nrrd" in err


def test_every_setting_has_its_option() -> None:
    from dataclasses import fields

    from voxtract.cli import _parser
    from voxtract.settings import Settings

    words = {
        "extract": {f.name for f in fields(Settings)} | {"resume", "overwrite", "backend", "workers", "memory_limit"}
    }
    words["extract"] |= {"image", "labels", "format", "recursive", "volume_index", "image_suffix", "labels_suffix"}
    plain = {"view", "saving_mode", "target_size", "save_stats", "volume_index", "reorient"}
    words["slices"] = plain | {"pad_value", "images", "compression", "dtype", "normalization"}
    words["annotations"] = plain | {"extraction_mode", "data_mode", "extra_columns", "objects", "threshold", "classes"}
    commands: Any = next(action.choices for action in _parser()._actions if action.choices)
    for name, wanted in words.items():
        offered = {action.dest for action in commands[name]._actions}
        assert wanted <= offered, wanted - offered
