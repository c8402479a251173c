"""The wheel holds every file of the package, and its metadata comes from pyproject.toml alone."""

import configparser
import email
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import voxtract

ROOT = Path(__file__).parent.parent
LITTER = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return content


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built in a copy, so that the checkout stays clean, with what is installed, so that no network is needed."""
    copy = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", "kernels"):
        shutil.copytree(ROOT / name, copy / name, ignore=LITTER)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_string(read(wheel, "METADATA"))


def read(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"voxtract-{version('voxtract')}.dist-info/{name}").decode()


def package_files() -> set[str]:
    """Every file below src/voxtract and kernels as it should be named in the wheel."""
    files = set()
    for folder, name in ((ROOT / "src" / "voxtract", "voxtract"), (ROOT / "kernels", "voxtract/kernels")):
        for path in folder.rglob("*"):
            if path.is_file() and path.parent.name != "__pycache__":
                files.add(f"{name}/{path.relative_to(folder).as_posix()}")
    return files


def test_every_file_of_the_package_is_in_the_wheel_and_no_other(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == package_files()
    assert {"voxtract/py.typed", "voxtract/geometry.py", "voxtract/kernels/__init__.py"} <= inside


def test_files_are_the_same_byte_for_byte(wheel: zipfile.ZipFile) -> None:
    assert wheel.read("voxtract/geometry.py") == (ROOT / "src/voxtract/geometry.py").read_bytes()
    assert wheel.read("voxtract/kernels/__init__.py") == (ROOT / "kernels/__init__.py").read_bytes()


def test_metadata_says_what_pyproject_says(metadata: Message, project: dict[str, Any]) -> None:
    assert metadata["Name"] == project["name"] == "voxtract"
    assert metadata["Version"] == project["version"]
    assert metadata["Requires-Python"] == project["requires-python"] == ">=3.11"
    assert metadata["License-Expression"] == project["license"] == "Apache-2.0"
    assert sorted(metadata.get_all("Provides-Extra", [])) == sorted(project["optional-dependencies"])
    needed = {re.split(r"[><=]", line)[0] for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert needed == {"numpy", "scipy", "nibabel", "tifffile", "pandas", "tqdm", "isal", "pillow"}


def test_the_version_has_one_source(project: dict[str, Any]) -> None:
    assert voxtract.__version__ == version("voxtract") == project["version"]
    literal = re.compile(rf"[\"']{re.escape(project['version'])}[\"']")
    assert [path.name for path in (ROOT / "src").rglob("*.py") if literal.search(path.read_text("utf-8"))] == []


def test_the_licence_is_inside(wheel: zipfile.ZipFile) -> None:
    assert read(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_command_is_an_entry_point(wheel: zipfile.ZipFile) -> None:
    entries = configparser.ConfigParser()
    entries.read_string(read(wheel, "entry_points.txt"))
    assert dict(entries["console_scripts"]) == {"voxtract": "voxtract.cli:run"}
    assert "voxtract/cli.py" in wheel.namelist()
