"""Imports point one way, each room keeps to its business, and importing the package costs next to nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import voxtract
from tests.conftest import WriteNifti

SOURCE = Path(voxtract.__file__).parent

VALUES = {"classes", "errors", "geometry", "model"}
ROOMS = {"read", "compute", "write", "backend", "storage"}
ENGINE = {"book", "crew", "desk", "job", "journal", "labelling", "layout", "progress", "report", "settings", "splits"}
FRONT = {"check", "conversion", "demo", "describe", "doctor", "preview", "torch", "verify"}
DATA = {"phantoms"}

# A new module belongs here, with what it may import; "voxtract" is the package itself (its version, its lazy names).
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "geometry": {"errors"},
    "classes": {"errors"},
    "storage": {"errors"},
    "model": {"classes", "errors", "geometry", "storage"},
    "webknossos": {"errors", "geometry"},
    "read": VALUES | {"storage", "webknossos"},
    "compute": VALUES,
    "write": VALUES | {"storage", "webknossos"},
    "backend": VALUES | {"compute", "kernels"},
    **dict.fromkeys(ENGINE, VALUES | ROOMS | ENGINE),
    "cluster": VALUES | ROOMS | ENGINE,
    "pipeline": VALUES | ROOMS | ENGINE | {"cluster"},
    "slices": VALUES | ROOMS | ENGINE | {"pipeline"},
    **dict.fromkeys(DATA, VALUES | {"write"}),
    "segments": VALUES | ROOMS | ENGINE | {"pipeline"},
    **dict.fromkeys(FRONT, VALUES | ROOMS | ENGINE | DATA | {"pipeline", "segments", "slices", "voxtract"}),
    "html": VALUES | ROOMS | ENGINE | {"check", "preview", "voxtract"},
    "cli": VALUES | ROOMS | ENGINE | FRONT | {"cluster", "html", "pipeline", "slices", "voxtract"},
    "__main__": {"cli"},
}

FORMATS = {"PIL", "gzip", "imagecodecs", "isal", "nibabel", "pandas", "pyarrow", "pydicom", "tifffile", "zlib"}
DEVICES = {"cucim", "cupy"}
FOREIGN_NEVER: dict[str, set[str]] = {
    "compute": FORMATS | {"io", "os", "pathlib", "shutil", "tempfile", "tqdm"},
    "pipeline": FORMATS | DEVICES,
    **dict.fromkeys(("read", "write", "slices", "cli"), DEVICES),
}


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Full names of what a module imports, anywhere in it; `package` is where relative imports start."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{name.name}" for name in node.names)


def prints(tree: ast.AST) -> bool:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return "print" in names or "sys.stdout" in attributes


def violations(source: Path) -> list[str]:
    """Every import and every print in the package folder `source` that the house rules do not allow."""
    found = []
    graph: dict[str, set[str]] = {}
    files = [path for path in sorted(source.rglob("*.py")) if path != source / "__init__.py"]
    present = {path.relative_to(source).parts[0].removesuffix(".py") for path in files}
    for path in files:
        where = path.relative_to(source)
        room = where.parts[0].removesuffix(".py")
        if room not in MAY_IMPORT:
            found.append(f"{where}: no rule says what {room} may import")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name in imports(tree, ".".join(("voxtract", *where.parent.parts))):
            top, _, rest = name.partition(".")
            if top != "voxtract":
                if top in FOREIGN_NEVER.get(room, set()):
                    found.append(f"{where}: {room} must not import {top}")
                continue
            other = rest.split(".")[0]
            other = other if other in present | {"kernels"} else "voxtract"
            if other != room:
                graph.setdefault(room, set()).add(other)
                if other not in MAY_IMPORT[room]:
                    found.append(f"{where}: {room} must not import {other}")
        if room != "cli" and prints(tree):
            found.append(f"{where}: only cli prints")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        found.append(f"circle: {' -> '.join(cycle.args[1])}")
    return found


def test_the_house_rules_hold() -> None:
    assert (SOURCE / "geometry.py").is_file()
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("path", "code", "expected"),
    [
        ("geometry.py", "from voxtract.model import Volume", "geometry.py: geometry must not import model"),
        ("errors.py", "import voxtract.geometry", "errors.py: errors must not import geometry"),
        ("read/nifti.py", "from voxtract.compute.planes import cut", "read/nifti.py: read must not import compute"),
        ("read/nifti.py", "from voxtract import write", "read/nifti.py: read must not import write"),
        ("read/nifti.py", "from ..write import tiff", "read/nifti.py: read must not import write"),
        ("read/nifti.py", "def f():\n    import voxtract.backend", "read/nifti.py: read must not import backend"),
        ("write/tiff.py", "from voxtract.compute import planes", "write/tiff.py: write must not import compute"),
        ("compute/planes.py", "from pathlib import Path", "compute/planes.py: compute must not import pathlib"),
        ("compute/planes.py", "import os.path", "compute/planes.py: compute must not import os"),
        ("compute/planes.py", "import nibabel as nib", "compute/planes.py: compute must not import nibabel"),
        ("compute/planes.py", "from ..backend import cpu", "compute/planes.py: compute must not import backend"),
        ("backend/cpu.py", "from voxtract.read import nifti", "backend/cpu.py: backend must not import read"),
        ("pipeline.py", "import tifffile", "pipeline.py: pipeline must not import tifffile"),
        ("pipeline.py", "import cupy", "pipeline.py: pipeline must not import cupy"),
        ("pipeline.py", "from voxtract.slices import x", "pipeline.py: pipeline must not import slices"),
        ("demo.py", "from voxtract.cli import main", "demo.py: demo must not import cli"),
        ("model.py", "from voxtract import __version__", "model.py: model must not import voxtract"),
        ("slices.py", "print('done')", "slices.py: only cli prints"),
        ("slices.py", "from functools import partial\nsay = partial(print, 1)", "slices.py: only cli prints"),
        ("slices.py", "import sys\nsys.stdout.write('x')", "slices.py: only cli prints"),
        ("extra.py", "", "extra.py: no rule says what extra may import"),
        ("report.py", "import voxtract.journal", "circle: "),
    ],
)
def test_each_rule_notices_what_breaks_it(tmp_path: Path, path: str, code: str, expected: str) -> None:
    house = {
        "__init__.py": "from voxtract.slices import x",
        "errors.py": "",
        "geometry.py": "from voxtract.errors import InvalidInput\nimport nibabel",
        "model.py": "from voxtract.geometry import Grid",
        "read/nifti.py": "import nibabel\nfrom voxtract.model import Volume\nfrom . import other",
        "compute/planes.py": "import numpy",
        "write/tiff.py": "import tifffile",
        "backend/cpu.py": "from voxtract.compute.planes import cut\nfrom voxtract import kernels",
        "journal.py": "from voxtract.report import Report",
        "report.py": "",
        "pipeline.py": "from voxtract.journal import Journal\nfrom voxtract.write.tiff import write",
        "slices.py": "from voxtract.pipeline import run",
        "demo.py": "from voxtract import __version__, slices",
        "cli.py": "from voxtract.demo import make\nprint('fine here')",
    }
    for name, text in house.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == []
    (tmp_path / path).write_text(code)
    first, *others = violations(tmp_path)
    assert first.startswith(expected)
    assert all(line.startswith("circle: ") for line in others)  # an import the wrong way may close one, too


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


HEAVY = ["PIL", "isal", "nibabel", "numpy", "pandas", "scipy", "tifffile", "tqdm"]


def test_importing_the_package_brings_nothing_heavy() -> None:
    out = run_python(f"import sys, voxtract; print([name for name in {HEAVY} if name in sys.modules])")
    assert out.strip() == "[]"


def test_asking_for_the_version_brings_nothing_heavy() -> None:
    code = f"""
import sys
from voxtract.cli import main
try:
    code = main(["--version"])
except SystemExit as leave:
    code = leave.code
print(code or 0, [name for name in {HEAVY} if name in sys.modules])
"""
    *shown, last = run_python(code).splitlines()
    assert last == "0 []"
    assert version("voxtract") in "".join(shown)


def test_cutting_slices_brings_only_what_it_needs(tmp_path: Path, write_nifti: WriteNifti) -> None:
    write_nifti(tmp_path / "in" / "a.nii.gz", np.zeros((4, 5, 6), np.int16))
    code = f"""
import sys
from voxtract.cli import main
code = main(["slices", {str(tmp_path / "in")!r}, {str(tmp_path / "out")!r}, "--quiet"])
print(code, [name for name in {HEAVY} if name in sys.modules])
"""
    assert run_python(code).splitlines()[-1] == "0 ['isal', 'numpy']"
    assert len(list((tmp_path / "out").rglob("*.tif"))) == 6


def test_the_check_for_heavy_modules_would_notice_one() -> None:
    out = run_python(f"import sys, voxtract.geometry; print([name for name in {HEAVY} if name in sys.modules])")
    assert "numpy" in out
