"""What a run did: every case with its outcome, counts and times; as text, JSON, a table and an exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from voxtract.model import Remark, Skipped
from voxtract.read.extraction import open_extraction

if TYPE_CHECKING:
    import pandas as pd

    from voxtract.errors import VoxtractError

PHASES = ("read", "compute", "write")


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The outcome of one case.

    Parameters
    ----------
    id : str
    status : {"done", "resumed", "planned", "failed"}
        ``resumed``: an earlier, interrupted run had finished it. ``planned``: a dry run found nothing against it.
    inputs : (where, ...)
        Files the case is made of.
    slices, annotations : view to count
        Slice images and annotation rows written.
    seconds : phase to seconds
        Time of ``read``, ``compute`` and ``write`` in the thread that worked on the case.
    nbytes : int
        Bytes of voxels decoded.
    files : (name, ...)
        What was written, relative to the output folder; kept only where asked for, since a run may write millions.
    split : str, optional
        Part of the data set it belongs to.
    error : VoxtractError, optional
        Why it failed.
    """

    id: str
    status: Literal["done", "resumed", "planned", "failed"]
    inputs: tuple[str, ...] = ()
    slices: Mapping[str, int] = field(default_factory=dict)
    annotations: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    nbytes: int = 0
    files: tuple[str, ...] = ()
    split: str | None = None
    error: VoxtractError | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What :func:`voxtract.extract` did.

    Parameters
    ----------
    output : str
        Folder that was written to.
    backend : str
        Device that computed.
    workers : int
    results : (CaseResult, ...)
        One per case, in the order of the source, however many workers there were.
    skipped : (Skipped, ...)
        Files that the source listed but that belong to no case.
    seconds : float
        Wall time of the run.
    remarks : (Remark, ...)
        What the source says of files that are used.
    """

    output: str
    backend: str
    workers: int
    results: tuple[CaseResult, ...]
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0
    remarks: tuple[Remark, ...] = ()

    @property
    def done(self) -> tuple[CaseResult, ...]:
        """Cases whose outputs are complete, now or from the run that was resumed."""
        return tuple(r for r in self.results if r.status in ("done", "resumed"))

    @property
    def failed(self) -> tuple[CaseResult, ...]:
        """Cases without complete outputs; each has its `error`."""
        return tuple(r for r in self.results if r.status == "failed")

    @property
    def slices(self) -> int:
        """Slice images written (in a dry run: to be written)."""
        return sum(sum(r.slices.values()) for r in self.results)

    @property
    def annotations(self) -> int:
        """Annotation rows written."""
        return sum(sum(r.annotations.values()) for r in self.results)

    @property
    def components(self) -> pd.DataFrame:
        """Every component of the cases done, typed, in voxels, pixels and millimetres; read back from the output.

        Raises
        ------
        NotFound, DamagedFile
            The output is no longer there, or the run was one of the plain functions, which leave only their files.
        """
        from voxtract.write.frame import components_frame

        done = {result.id for result in self.done}
        extraction = open_extraction(self.output)
        found = [one for case in extraction.cases if case.id in done for one in case.findings()]
        return components_frame(found, extraction.class_map)

    @property
    def exit_code(self) -> int:
        """0 where every case is done, 1 where some failed."""
        return 1 if self.failed else 0

    def to_frame(self) -> pd.DataFrame:
        """One row per case: case, status, slices, annotations, seconds per phase, reason."""
        import pandas as pd

        rows = [
            {
                "case": r.id,
                "status": r.status,
                "slices": sum(r.slices.values()),
                "annotations": sum(r.annotations.values()),
                **{f"{phase}_s": r.seconds.get(phase, 0.0) for phase in PHASES},
                "reason": str(r.error) if r.error else "",
            }
            for r in self.results
        ]
        columns = ["case", "status", "slices", "annotations", *(f"{phase}_s" for phase in PHASES), "reason"]
        return pd.DataFrame(rows, columns=columns)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; `error` becomes its text."""
        return {
            "output": self.output,
            "backend": self.backend,
            "workers": self.workers,
            "seconds": round(self.seconds, 6),
            "cases": len(self.results),
            "done": len(self.done),
            "failed": len(self.failed),
            "slices": self.slices,
            "annotations": self.annotations,
            "results": [
                {
                    "case": r.id,
                    "status": r.status,
                    "inputs": list(r.inputs),
                    "slices": dict(r.slices),
                    "annotations": dict(r.annotations),
                    "seconds": {phase: round(s, 6) for phase, s in r.seconds.items()},
                    "nbytes": r.nbytes,
                    "error": str(r.error) if r.error else None,
                }
                for r in self.results
            ],
            "skipped": [asdict(s) for s in self.skipped],
            "remarks": [asdict(r) for r in self.remarks],
        }

    def to_json(self) -> str:
        """`to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @property
    def summary(self) -> str:
        """What was done and how fast, in a few lines; without the reasons of failed cases and of files left out."""
        planned = sum(r.status == "planned" for r in self.results)
        resumed = sum(r.status == "resumed" for r in self.results)
        total = _many(len(self.results), "case")
        outcome = f"{planned:,} of {total} can be done" if planned else f"{len(self.done):,} of {total} done"
        outcome += f" ({resumed:,} by an earlier run)" if resumed else ""
        outcome += f", {len(self.failed):,} failed" if self.failed else ""
        counts = [_many(n, noun) for n, noun in ((self.slices, "slice"), (self.annotations, "annotation")) if n]
        lines = [f"{outcome}: {', '.join(counts)} in {self.output}" if counts else f"{outcome} in {self.output}"]
        if planned:
            lines.append("nothing has been written: this was a dry run")
        nbytes = sum(r.nbytes for r in self.results)
        if nbytes and self.seconds:
            speed = f"{nbytes / 1e6 / self.seconds:,.0f} MB/s, {self.backend}, {_many(self.workers, 'worker')}"
            lines.append(f"{self.seconds:.2f} s for {nbytes / 1e6:,.0f} MB of voxels ({speed})")
        return "\n".join(lines)

    def __str__(self) -> str:
        failed = [f"failed: {r.error}" for r in self.failed]
        left_out = [f"left out: {s.where}: {s.reason}" for s in self.skipped]
        return "\n".join([self.summary, *failed, *left_out, *(f"{r.where}: {r.message}" for r in self.remarks)])


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
