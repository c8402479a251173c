"""A progress bar on stderr that shows the file in hand."""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("voxtract")


class Progress:
    """Counts cases.

    Parameters
    ----------
    total : int
    title : str
        Word before the bar.
    show : bool, optional
        None draws the bar only where stderr is a terminal.
    log_errors : bool
        Log why a case failed.
    """

    def __init__(self, total: int, title: str, *, show: bool | None, log_errors: bool = True):
        self._bar: tqdm[Any] | None = None
        self._log_errors = log_errors
        self._lock = threading.Lock()
        if show or (show is None and sys.stderr.isatty()):
            from tqdm import tqdm  # 40 ms, which a run without a bar need not wait for

            self._bar = tqdm(total=total, desc=title, unit="file")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, name: str) -> None:
        """Show `name` as the file in hand."""
        if self._bar is not None:
            with self._lock:
                self._bar.set_postfix_str(name)

    def end(self, error: Exception | None = None) -> None:
        """Count one case; log why it failed, above the bar."""
        with self._lock:
            if error is not None and self._log_errors:
                with nullcontext() if self._bar is None else self._bar.external_write_mode():
                    log.error("failed: %s", error)
            if self._bar is not None:
                self._bar.update()
