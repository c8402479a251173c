"""What every annotation format has in common.

Some formats have a file for each slice or case (CSV, YOLO, VOC), some one for the whole run (COCO, Parquet), some
both. Files of a case are written with its images; those of the run are made at its end from what the cases left, so
that an interrupted run, several machines and a single thread all end with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from voxtract.write.files import Content

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.model import Findings

# Mask of a row in its slice, cut to its box: (rows, columns) of the image, so mask[Y - Y_MIN, X - X_MIN].
Masks = Callable[[int], "NDArray[np.bool_]"]


class Finished(Protocol):
    """The cases of a run that are complete."""

    def findings(self) -> Iterator[Findings]:
        """Findings of all cases and views, in the order of the cases; as often as wanted."""

    def part(self, name: str) -> bytes:
        """Content of a file that `AnnotationFormat.case_files` wrote."""


class AnnotationFormat(Protocol):
    """A way to write down what was found."""

    def case_files(self, found: Findings, masks: Masks | None) -> Iterator[tuple[str, Content]]:
        """Files of one view of one case: names relative to the output folder, and contents.

        `masks` gives the mask of each row where masks were asked for.
        """

    def run_files(self, run: Finished) -> Iterator[tuple[str, Iterable[bytes]]]:
        """Files of the run: names relative to the output folder, and contents piece by piece."""
