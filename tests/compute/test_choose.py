"""Which slices are taken, against Python's own slices and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtract.compute.choose import SliceChoice, consecutive
from voxtract.errors import InvalidInput

ends = st.one_of(st.none(), st.integers(-12, 12))


@given(count=st.integers(0, 10), start=ends, stop=ends, step=st.one_of(st.none(), st.integers(1, 4)))
def test_a_range_is_pythons(count: int, start: int | None, stop: int | None, step: int | None) -> None:
    text = ":".join("" if end is None else str(end) for end in (start, stop)) + ("" if step is None else f":{step}")
    taken = SliceChoice.of(text).take(count, np.array([], int))
    assert taken.tolist() == list(range(count))[start:stop:step]
    assert taken.dtype == np.int64


@given(count=st.integers(1, 20), margin=st.integers(0, 5), data=st.data())
def test_annotated_slices_with_a_margin(count: int, margin: int, data: st.DataObject) -> None:
    annotated = data.draw(st.lists(st.integers(0, count - 1)))
    expected = [i for i in range(count) if any(abs(i - a) <= margin for a in annotated)]
    assert SliceChoice.of("annotated", margin).take(count, np.array(annotated, int)).tolist() == expected


@given(count=st.integers(0, 20), step=st.integers(1, 7))
def test_every_kth(count: int, step: int) -> None:
    taken = SliceChoice.of(f"every={step}").take(count, np.array([], int)).tolist()
    assert taken == [i for i in range(count) if i % step == 0]


@pytest.mark.parametrize(
    "text", ["", "some", "every=0", "every=-1", "every", "1", "1:2:0", "1:2:-1", "a:b", "every=1.5"]
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="allowed: 'all', 'annotated'"):
        SliceChoice.of(text)


@pytest.mark.parametrize(("text", "margin"), [("all", 1), ("annotated", -1), ("1:4", 2)])
def test_a_margin_goes_with_annotated_only(text: str, margin: int) -> None:
    with pytest.raises(InvalidInput, match="margin"):
        SliceChoice.of(text, margin)


@given(indices=st.sets(st.integers(0, 40)), longest=st.integers(1, 9))
def test_ranges_cover_the_indices_and_nothing_else(indices: set[int], longest: int) -> None:
    ranges = consecutive(np.array(sorted(indices), np.int64), longest)
    assert [i for begin, end in ranges for i in range(begin, end)] == sorted(indices)
    assert all(0 < end - begin <= longest for begin, end in ranges)
