"""The threads of a run, the memory they share, and how they stop."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from voxtract.errors import InvalidInput

Item = TypeVar("Item")
Result = TypeVar("Result")


class _StoppedError(Exception):
    """The run is being stopped: what is under way ends at its next block."""


class Crew:
    """A fixed number of threads that work on cases, and on each other's blocks where there are few cases.

    Threads suffice: inflating, array operations and writing release Python's lock.

    Parameters
    ----------
    workers : int
        Threads that work at once.
    memory_limit : int
        Bytes that all cases under way may hold together.
    """

    def __init__(self, workers: int, memory_limit: int):
        self._workers = workers
        self.limit = memory_limit
        self._free = memory_limit
        self._active = 0
        self._changed = threading.Condition()  # guards _free and _active
        self._stopped = threading.Event()
        self._helpers = ThreadPoolExecutor(workers, "voxtract-block")

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Call `work` for every item; results in the order of `items`. The first exception stops all."""
        with self._helpers, ThreadPoolExecutor(self._workers, "voxtract-case") as pool:
            futures: list[Future[Result]] = []
            try:
                for item in items:  # inside: somebody may press Ctrl-C meanwhile
                    futures.append(pool.submit(self.counted, work, item))
                wait(futures, return_when=FIRST_EXCEPTION)
                failed = [f for f in futures if f.done() and f.exception() is not None]
                return [future.result() for future in failed or futures]
            finally:
                self._stop()
                pool.shutdown(cancel_futures=True)

    def share(self, work: Callable[[Item], None], items: Sequence[Item]) -> None:
        """Call `work` for every item, in any order, together with the threads that no case keeps busy."""
        todo = deque(items)

        def pull() -> None:
            while True:
                if self._stopped.is_set():
                    raise _StoppedError
                try:
                    item = todo.popleft()
                except IndexError:
                    return
                try:
                    work(item)
                except BaseException:
                    todo.clear()  # the others need not go on
                    raise

        idle = min(self._workers - self._active, len(items) - 1)
        helpers: list[Future[None]] = [self._helpers.submit(pull) for _ in range(idle)]
        try:
            pull()
        finally:
            begun = [helper for helper in helpers if not helper.cancel()]
            wait(begun)
        for helper in begun:
            helper.result()

    @contextmanager
    def memory(self, where: str, need: int, otherwise: str = "") -> Iterator[None]:
        """Wait until `need` bytes are free and hold them meanwhile.

        Raises
        ------
        InvalidInput
            The whole limit is not enough; the message goes on with what would need less, `otherwise`.
        """
        if need > self.limit:
            raise InvalidInput(
                f"{where}: needs about {need / 1e6:.0f} MB of memory, the limit is {self.limit / 1e6:.0f} MB; "
                "raise memory_limit (--memory-limit)" + (otherwise and f"; {otherwise}")
            )
        with self._changed:
            self._changed.wait_for(lambda: self._free >= need or self._stopped.is_set())
            if self._stopped.is_set():
                raise _StoppedError
            self._free -= need
        try:
            yield
        finally:
            with self._changed:
                self._free += need
                self._changed.notify_all()

    def close(self) -> None:
        """End the threads; for a crew whose cases others hand out, one by one, with `counted`."""
        self._stop()
        self._helpers.shutdown(cancel_futures=True)

    def _stop(self) -> None:
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def counted(self, work: Callable[..., Result], *items: object) -> Result:
        """Call `work` in this thread, as one of those that are busy with a case."""
        if self._stopped.is_set():
            raise _StoppedError
        with self._changed:
            self._active += 1
        try:
            return work(*items)
        finally:
            with self._changed:
                self._active -= 1


def default_workers() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_memory_limit() -> int:
    """Half of the machine's memory, in bytes."""
    return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES")) // 2
