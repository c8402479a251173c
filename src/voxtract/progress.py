"""A progress bar on stderr that shows the file in hand."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from tqdm import tqdm

log = logging.getLogger("voxtract")


class Progress:
    """Counts cases; `show` None draws the bar only where stderr is a terminal."""

    def __init__(self, total: int, title: str, *, show: bool | None):
        self._bar = tqdm(total=total, desc=title, unit="file", disable=None if show is None else not show)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def begin(self, name: str) -> None:
        """Show `name` as the file in hand."""
        with self._lock:
            self._bar.set_postfix_str(name)

    def end(self, error: Exception | None = None) -> None:
        """Count one case; log why it failed, above the bar."""
        with self._lock:
            if error is not None:
                with tqdm.external_write_mode():
                    log.error("skipped: %s", error)
            self._bar.update()
