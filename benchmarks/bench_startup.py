"""Start-up: how long a command or an import takes beyond bare Python."""

from __future__ import annotations

import statistics
import sys
from typing import Any

from benchmarks.bench_pipeline import timed

COMMANDS = {
    "bare python": ["-c", "pass"],
    "import voxtract": ["-c", "import voxtract"],
    "voxtract --version": ["-m", "voxtract", "--version"],
    "voxtract slices --help": ["-m", "voxtract", "slices", "--help"],
}


def main(repeat: int = 15) -> dict[str, Any]:
    """Measure, and return a JSON-ready result in milliseconds."""
    runs: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeat):
        for name, words in COMMANDS.items():
            runs[name].append(timed([sys.executable, *words])["wall_s"])
    return {name: round(1000 * statistics.median(seconds), 1) for name, seconds in runs.items()}
