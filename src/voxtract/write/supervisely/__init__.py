"""Supervisely's two ways to keep labelled volumes on disk: the volume project, and its NIfTI layout.

A layout says which files a case has and which the whole has; `write_cases` puts them in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from voxtract.model import Case
from voxtract.write.files import Content, Staging
from voxtract.write.supervisely.folders import NiftiFolders
from voxtract.write.supervisely.project import VolumeProject

__all__ = ["CaseLayout", "NiftiFolders", "VolumeProject", "write_cases"]


class CaseLayout(Protocol):
    """Which files are written of cases."""

    def case_files(self, case: Case) -> Iterator[tuple[str, Content]]:
        """Names relative to the output folder, and contents, of the files of one case."""

    def run_files(self, cases: Iterable[Case]) -> Iterator[tuple[str, Content]]:
        """Those of the whole; no file of a case is read. Says, too, what is wrong with the cases taken together."""


def write_cases(layout: CaseLayout, cases: Sequence[Case], folder: Path) -> None:
    """Write cases into a folder; those of one case appear together, and those of the whole last.

    Raises
    ------
    VoxtractError
        The first case that cannot be read or written; those before it are in place.
    """
    of_run = list(layout.run_files(cases))
    with Staging(folder) as staging:
        for case in cases:
            with staging.batch() as batch:
                for name, content in layout.case_files(case):
                    batch.write(name, content)
        with staging.batch() as batch:
            for name, content in of_run:
                batch.write(name, content)
