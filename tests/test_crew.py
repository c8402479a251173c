"""Threads, memory and stopping."""

from __future__ import annotations

import threading
import time

import pytest

from voxtract.crew import Crew
from voxtract.errors import InvalidInput


def test_results_come_in_the_order_of_the_items() -> None:
    def slow(item: int) -> int:
        time.sleep(0.002 * (7 - item))
        return item * item

    assert Crew(4, 100).each(slow, range(7)) == [n * n for n in range(7)]


def test_memory_in_use_never_exceeds_the_limit() -> None:
    crew = Crew(8, 100)
    lock, held, peak = threading.Lock(), 0, 0

    def work(need: int) -> None:
        nonlocal held, peak
        with crew.memory("case", need):
            with lock:
                held += need
                peak = max(peak, held)
            time.sleep(0.002)
            with lock:
                held -= need

    crew.each(work, [60, 30, 50, 100, 10, 10, 90, 40, 70, 20])
    assert held == 0
    assert 60 < peak <= 100


def test_more_than_the_limit_is_refused_at_once() -> None:
    crew = Crew(2, 100)
    with pytest.raises(InvalidInput, match=r"big\.nii.*memory_limit"), crew.memory("big.nii", 101):
        pass


def test_share_does_every_item_once_and_uses_idle_threads() -> None:
    crew = Crew(4, 100)
    done: list[int] = []
    threads: set[int] = set()

    def one(item: int) -> None:
        time.sleep(0.005)
        threads.add(threading.get_ident())
        done.append(item)

    crew.each(lambda _: crew.share(one, range(40)), ["only case"])
    assert sorted(done) == list(range(40))
    assert len(threads) > 1


def test_the_first_exception_ends_the_run() -> None:
    crew = Crew(2, 100)
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise ZeroDivisionError("a bug, not a bad file")
        for _ in range(100):
            crew.share(lambda _: time.sleep(0.01), range(3))

    with pytest.raises(ZeroDivisionError, match="a bug"):
        crew.each(work, range(50))
    assert len(begun) < 10


def test_an_exception_in_a_helper_reaches_the_case() -> None:
    crew = Crew(4, 100)
    caller = threading.get_ident()

    def fail(item: int) -> None:
        time.sleep(0.002)
        if threading.get_ident() != caller and item > 3:
            raise InvalidInput(f"item {item}")

    def case(_: str) -> str:
        with pytest.raises(InvalidInput, match="item"):
            crew.share(fail, range(30))
        return "seen"

    assert crew.each(case, ["a"]) == ["seen"]
