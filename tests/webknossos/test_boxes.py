"""Integer vectors and bounding boxes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtract.errors import InvalidInput
from voxtract.webknossos import BoundingBox, Vec3Int

VECTORS = st.tuples(*[st.integers(-(2**31), 2**31)] * 3)


@given(a=VECTORS, b=VECTORS, factor=st.integers(1, 9))
def test_vectors_calculate_as_numpy_does(a: tuple[int, int, int], b: tuple[int, int, int], factor: int) -> None:
    ours, theirs = Vec3Int(a), np.array(a)
    assert ours == a
    assert ours + b == tuple(theirs + b)
    assert b + ours == tuple(theirs + b)
    assert ours - b == tuple(theirs - b)
    assert factor * ours == ours * factor == tuple(theirs * factor)
    assert ours // factor == tuple(theirs // factor)
    assert ours % factor == tuple(theirs % factor)
    assert -ours == tuple(-theirs)
    assert (ours.x, ours.y, ours.z) == a
    assert ours.to_np().tolist() == ours.to_list() == list(a)
    assert type(ours.to_tuple()) is tuple
    assert pickle.loads(pickle.dumps(ours)) == copy.copy(ours) == ours


@pytest.mark.parametrize("values", [(np.int16(1), 2.0, 3), [1, 2, 3], np.array([1, 2, 3]), np.array([1.0, 2.0, 3.0])])
def test_what_a_vector_takes(values: Any) -> None:
    assert Vec3Int(values) == (1, 2, 3)
    assert all(type(value) is int for value in Vec3Int(values))


@pytest.mark.parametrize("values", [(1, 2), (1, 2, 3, 4), (1, 2, 3.5), (1, 2, None), (1, 2, float("nan")), 5, "abc"])
def test_what_a_vector_refuses(values: Any) -> None:
    with pytest.raises(InvalidInput):
        Vec3Int(values)


def test_a_box_and_its_equality() -> None:
    box = BoundingBox((1, 2, 3), (4, 5, 6))
    assert (box.bottomright, box.name, box.is_visible, box.color) == ((5, 7, 9), "Unnamed Bounding Box", True, None)
    other = BoundingBox([1, 2, 3], np.array([4, 5, 6]), "soma", False, [0.5, 0, 1])
    assert other.color == (0.5, 0.0, 1.0, 1.0)
    assert other == box
    assert hash(other) == hash(box)
    assert other != BoundingBox((1, 2, 3), (4, 5, 7))
    assert BoundingBox((0, 0, 0), (4, 0, 6)).is_empty
    assert not box.is_empty


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (((0, 0, 0), (1, -1, 1)), "a size is not negative"),
        (((0.5, 0, 0), (1, 1, 1)), "0.5 is no whole number"),
        (((0, 0, 0), (1, 1, 1), "n", True, (1, 2)), "color"),
        (((0, 0, 0), (1, 1, 1), "n", True, (1, 2, float("nan"))), "color"),
        (((0, 0, 0), (1, 1, 1), "n", True, "red"), "color"),
    ],
)
def test_what_a_box_refuses(values: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        BoundingBox(*values)
