"""Where the cases of a run are handed out and come back, whoever does them: threads here, or processes elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from voxtract.job import Outcome, files, names
from voxtract.journal import Journal, stamp
from voxtract.model import Case
from voxtract.progress import Progress
from voxtract.report import CaseResult
from voxtract.settings import Settings


@dataclass(frozen=True, slots=True)
class Desk:
    """What a run knows of its cases; called from many threads.

    Parameters
    ----------
    settings : Settings
    journal : Journal, optional
    bar : Progress
    parts : mapping of case id to str
        Part of the data set that each case belongs to, where it is split.
    keep_files : bool
        Leave the names of the files in the results.
    """

    settings: Settings
    journal: Journal | None
    bar: Progress
    parts: Mapping[str, str]
    keep_files: bool

    def earlier(self, case: Case) -> CaseResult | None:
        """The result of a case that an earlier run has completed.

        Raises
        ------
        InvalidInput
            It belongs to another part of the data set now.
        """
        if self.journal is None:
            return None
        case = self.settings.needed(case)
        found = self.journal.result(case.id, names(case), stamp(files(case)), self.parts.get(case.id))
        if found is not None:
            self.bar.end()
        return found

    def begin(self, case: Case) -> None:
        """Show which case is in hand."""
        inputs = names(self.settings.needed(case))
        self.bar.begin(Path(inputs[0]).name if inputs else case.id)

    def end(self, outcome: Outcome) -> CaseResult:
        """Note how a case ended."""
        result = outcome.result
        if self.journal is not None and outcome.manifest is not None:
            self.journal.add(result, outcome.stamps, outcome.manifest)
        elif self.journal is not None:
            self.journal.add_failed(result, outcome.stamps)
        self.bar.end(result.error)
        return result if self.keep_files else replace(result, files=())
