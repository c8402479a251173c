"""A system that lists folders in any order."""

from __future__ import annotations

import os
import random

import pytest


@pytest.fixture
def shuffled(monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """The system lists folders in another order each time."""
    chance, listed = random.Random(0), os.scandir

    class Entries:
        def __init__(self, path: str) -> None:
            with listed(path) as found:
                self.entries = list(found)
            chance.shuffle(self.entries)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Entries)
    return chance
