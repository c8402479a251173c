"""One command for all CPU measurements: ``python -m benchmarks.run``.

Writes ``benchmarks/results/cpu.json`` with machine, versions and commit, and the figures of the README. Needs the extra
``benchmark``: ``pip install '.[benchmark]'``. Takes about 35 minutes; ``--quick`` repeats less.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.figures import README, put_into
from benchmarks.machine import machine

RESULT = Path(__file__).parent / "results" / "cpu.json"


PARTS = (
    *("pipeline", "read", "startup", "components", "tiff", "formats", "report"),
    *("scale", "dicom", "supervisely", "labelbox", "webknossos", "loader"),
)


def measure(part: str, *, quick: bool) -> dict[str, Any]:
    """Run one benchmark; the machine should do nothing else meanwhile.

    Its module is imported only now: a child's peak memory counts what its parent held when it was started.
    """
    module = import_module(f"benchmarks.bench_{part}")
    repeat = 3 if quick else 9
    words: dict[str, dict[str, int]] = {
        "pipeline": {"repeat": repeat, "peer_repeat": 1 if quick else 7},
        "startup": {"repeat": 2 * repeat + 1},
        "tiff": {},
        "report": {"repeat": 3},
        "scale": {"repeat": 2 if quick else 7},
        **{name: {"repeat": 2 if quick else 7} for name in ("dicom", "supervisely")},
        **{name: {} for name in ("labelbox", "webknossos")},
        "loader": {"repeat": 1 if quick else 5},
    }
    result: dict[str, Any] = module.main(**words.get(part, {"repeat": repeat}))
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="repeat 3 times, nidataset once")
    usual = PARTS[:-1]  # the last needs PyTorch and MONAI
    parser.add_argument("--only", nargs="+", choices=PARTS, default=usual, help="leave the other results as they are")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    result = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for name in arguments.only:
        result[name] = {"machine": machine(), **measure(name, quick=arguments.quick)}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.output == RESULT:
        README.write_text(put_into(README.read_text(), result))
