"""Choosing a backend."""

from __future__ import annotations

import pytest

from voxtract.backend import select
from voxtract.errors import BackendUnavailable, InvalidInput


def test_the_cpu_is_always_there() -> None:
    assert select("cpu").name == "cpu"
    assert select("auto").name in ("cpu", "cuda")


def test_what_is_not_there_fails_loudly_with_a_way_out() -> None:
    try:
        assert select("cuda").name == "cuda"
    except BackendUnavailable as why:
        assert "cpu" in str(why)  # noqa: PT017 - either it is there, or the message says what to do


def test_other_words_are_refused() -> None:
    with pytest.raises(InvalidInput, match="'auto', 'cpu', 'cuda'"):
        select("gpu")
