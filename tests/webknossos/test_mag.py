"""Magnifications in every form in which they are written."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from voxtract.errors import InvalidInput
from voxtract.geometry import Box
from voxtract.webknossos.mag import Mag, union


@pytest.mark.parametrize(
    ("value", "factors", "name"),
    [
        (1, (1, 1, 1), "1"),
        ("1", (1, 1, 1), "1"),
        ("1-1-1", (1, 1, 1), "1"),
        ((2, 2, 1), (2, 2, 1), "2-2-1"),
        ([4, 4, 2], (4, 4, 2), "4-4-2"),
        ("2-2-1", (2, 2, 1), "2-2-1"),
        ("1024-1024-512", (1024, 1024, 512), "1024-1024-512"),
        (np.array([8, 8, 8]), (8, 8, 8), "8"),
        (np.int64(16), (16, 16, 16), "16"),
        (Mag("2-2-1"), (2, 2, 1), "2-2-1"),
    ],
)
def test_all_forms_mean_the_same(value: Any, factors: tuple[int, int, int], name: str) -> None:
    mag = Mag(value)
    assert tuple(mag) == factors
    assert (str(mag), mag.name, repr(mag)) == (name, name, f"Mag({name!r})")
    assert mag == Mag(name)
    assert hash(mag) == hash(Mag(name))


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        3,
        "",
        "a",
        "2-2",
        "2-2-1-1",
        "1-1-1-",
        (1, 2),
        (1, 2, 3, 4),
        (1, 1.5, 1),
        (1, 2, 4.0, 4),
        2**40,
        None,
        1.0,
    ],
)
def test_what_is_no_mag_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"mag .* is none"):
        Mag(value)


def test_digits_of_other_scripts_are_refused() -> None:
    with pytest.raises(InvalidInput):
        Mag("\N{ARABIC-INDIC DIGIT ONE}")


def test_the_finest_sorts_first() -> None:
    names = ["1", "2-2-1", "4-4-1", "16-16-4"]
    assert [mag.name for mag in sorted([Mag(name) for name in names[::-1]])] == names


def test_copies_are_mags() -> None:
    mag = Mag("2-2-1")
    others: list[Mag] = [copy.deepcopy(mag), pickle.loads(pickle.dumps(mag))]
    for other in others:
        assert type(other) is Mag
        assert other == mag


def test_boxes_between_mags() -> None:
    mag = Mag("4-4-1")
    assert mag.volume == 16
    assert mag.times((3, 2, 1)) == (12, 8, 1)
    assert mag.full(Box((1, 0, 5), (2, 3, 6))) == Box((4, 0, 5), (8, 12, 6))
    assert mag.grown(Box((5, 0, 5), (8, 9, 6))) == Box((1, 0, 5), (2, 3, 6))


def test_union_leaves_out_boxes_without_voxels() -> None:
    empty = Box((-5, 0, 0), (-5, 9, 9))
    assert union([]) is None
    assert union([empty]) is None
    assert union([Box((1, 2, 3), (2, 3, 4)), empty, Box((0, 5, 3), (1, 6, 9))]) == Box((0, 2, 3), (2, 6, 9))
