"""Which slices of a plane are taken."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voxtract.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SliceChoice:
    """A rule for taking slices.

    Parameters
    ----------
    annotated : bool
        Only slices with rows, and `margin` slices before and after each.
    margin : int
    start, stop, step : int, optional
        As in a Python slice, over slice indices; negative ones count from the end.

    Examples
    --------
    >>> SliceChoice.of("every=3").take(8, np.array([])).tolist()
    [0, 3, 6]
    >>> SliceChoice.of("-4:-1").take(8, np.array([])).tolist()
    [4, 5, 6]
    >>> SliceChoice.of("annotated", margin=1).take(8, np.array([0, 5])).tolist()
    [0, 1, 4, 5, 6]
    """

    annotated: bool = False
    margin: int = 0
    start: int | None = None
    stop: int | None = None
    step: int = 1

    @classmethod
    def of(cls, text: str, margin: int = 0) -> SliceChoice:
        """Read ``"all"``, ``"annotated"``, ``"every=K"`` or ``"START:STOP"`` or ``"START:STOP:STEP"``.

        Raises
        ------
        InvalidInput
            Another text, a step below 1, a negative margin, or a margin without "annotated".
        """
        if margin < 0 or (margin and text != "annotated"):
            raise InvalidInput(f"margin {margin} takes that many slices more around slices='annotated'; 0 or more")
        if text in ("all", "annotated"):
            return cls(text == "annotated", margin)
        every = re.fullmatch(r"every=(\d+)", text)
        if every and int(every[1]):
            return cls(step=int(every[1]))
        ends = re.fullmatch(r"(-?\d+)?:(-?\d+)?(?::(\d+))?", text)
        if ends and int(ends[3] or 1):
            start, stop = (None if end is None else int(end) for end in ends.groups()[:2])
            return cls(start=start, stop=stop, step=int(ends[3] or 1))
        raise InvalidInput(
            f"slices {text!r} is not known; allowed: 'all', 'annotated', 'every=K', 'START:STOP' and 'START:STOP:STEP'"
        )

    def take(self, count: int, annotated: NDArray[np.integer]) -> NDArray[np.int64]:
        """Indices of the slices taken of `count`, ascending; `annotated` are the indices of those with rows."""
        if not self.annotated:
            return np.arange(count)[self.start : self.stop : self.step]
        near = annotated[:, None] + np.arange(-self.margin, self.margin + 1)
        near = np.unique(near)
        return near[(near >= 0) & (near < count)].astype(np.int64)


def consecutive(indices: NDArray[np.int64], longest: int) -> list[tuple[int, int]]:
    """Half-open ranges that cover ascending `indices` and nothing else, of at most `longest` each.

    >>> consecutive(np.array([2, 3, 4, 5, 9]), 3)
    [(2, 5), (5, 6), (9, 10)]
    """
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return [
        (begin, min(begin + longest, int(run[-1]) + 1))
        for run in runs
        if len(run)
        for begin in range(int(run[0]), int(run[-1]) + 1, longest)
    ]
