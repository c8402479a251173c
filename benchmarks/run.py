"""One command for all CPU measurements: ``python -m benchmarks.run``.

Writes ``benchmarks/results/cpu.json`` with machine, versions and commit, and the figures of the README. Needs the extra
``benchmark``: ``pip install '.[benchmark]'``. Takes about 35 minutes; ``--quick`` repeats less.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    bench_components,
    bench_formats,
    bench_pipeline,
    bench_read,
    bench_report,
    bench_startup,
    bench_tiff,
)
from benchmarks.figures import README, put_into
from benchmarks.machine import machine

RESULT = Path(__file__).parent / "results" / "cpu.json"


def parts(repeat: int, peer_repeat: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """The benchmarks by name; the machine should do nothing else meanwhile."""
    return {
        "pipeline": lambda: bench_pipeline.main(repeat, peer_repeat),
        "read": lambda: bench_read.main(repeat),
        "startup": lambda: bench_startup.main(2 * repeat + 1),
        "components": lambda: bench_components.main(repeat=repeat),
        "tiff": bench_tiff.main,
        "formats": lambda: bench_formats.main(repeat),
        "report": lambda: bench_report.main(min(3, repeat)),
        "loader": lambda: _loader(repeat),
    }


def _loader(repeat: int) -> dict[str, Any]:
    """Where PyTorch and MONAI, which are large, are installed."""
    from benchmarks import bench_loader

    return bench_loader.main(repeat)


if __name__ == "__main__":
    every = tuple(parts(0, 0))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="repeat 3 times, nidataset once")
    usual = tuple(name for name in every if name != "loader")  # needs PyTorch and MONAI
    parser.add_argument("--only", nargs="+", choices=every, default=usual, help="leave the other results as they are")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    chosen = parts(3, 1) if arguments.quick else parts(9, 7)
    result = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for name in arguments.only:
        result[name] = {"machine": machine(), **chosen[name]()}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.output == RESULT:
        README.write_text(put_into(README.read_text(), result))
