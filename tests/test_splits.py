"""Parts of a data set: whole, repeatable, as large as asked for, and each class where it belongs."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtract.errors import InvalidInput
from voxtract.splits import Split, assign, fold_lists, folds, split_lists

THREE = Split((("train", 0.8), ("val", 0.1), ("test", 0.1)))

ids = st.lists(st.text("abc-é\udcff", min_size=1, max_size=4), unique=True, max_size=25)


@st.composite
def splits(draw: st.DrawFn, max_parts: int = 4) -> Split:
    shares = draw(st.lists(st.integers(1, 50), min_size=1, max_size=max_parts))
    names = ["train", "val", "test", "holdout"][: len(shares)]
    total = sum(shares)
    return Split(tuple((name, n / total) for name, n in zip(names, shares, strict=True)), draw(st.integers(-5, 99)))


@st.composite
def labelled(draw: st.DrawFn) -> tuple[list[str], dict[str, list[int]]]:
    """Case ids, and classes of most of them."""
    cases = draw(ids)
    classes = st.lists(st.integers(1, 5), unique=True, max_size=3)
    return cases, {case: draw(classes) for case in cases if draw(st.integers(0, 9))}


def best_counts(cases: int, fractions: list[float]) -> float:
    """Least sum of squared differences to the shares, over all numbers of cases that there are."""
    least = 1 if cases >= len(fractions) else 0
    return min(
        sum((n - cases * f) ** 2 for n, f in zip(counts, fractions, strict=True))
        for counts in itertools.product(range(least, cases + 1), repeat=len(fractions))
        if sum(counts) == cases
    )


class TestSplit:
    @settings(deadline=None)
    @given(split=splits(), cases=st.integers(0, 12))
    def test_counts_are_as_close_as_whole_cases_can_be(self, split: Split, cases: int) -> None:
        fractions = [fraction for _, fraction in split.fractions]
        counts = split.counts(cases)
        assert sum(counts) == cases
        assert cases < len(counts) or min(counts) >= 1
        found = sum((n - cases * f) ** 2 for n, f in zip(counts, fractions, strict=True))
        assert found == pytest.approx(best_counts(cases, fractions), abs=1e-6)

    @pytest.mark.parametrize(
        ("cases", "counts"),
        [
            (0, (0, 0, 0)),
            (1, (1, 0, 0)),
            (2, (2, 0, 0)),
            (3, (1, 1, 1)),
            (10, (8, 1, 1)),
            (11, (9, 1, 1)),
            (15, (12, 2, 1)),
            (29, (23, 3, 3)),
            (1000, (800, 100, 100)),
        ],
    )
    def test_counts_in_numbers(self, cases: int, counts: tuple[int, ...]) -> None:
        assert THREE.counts(cases) == counts

    @pytest.mark.parametrize("cases", [100, 10**9])
    def test_counts_do_not_suffer_from_rounding(self, cases: int) -> None:
        assert Split((("a", 0.29), ("b", 0.57), ("c", 0.14))).counts(cases) == (
            cases * 29 // 100,
            cases * 57 // 100,
            cases * 14 // 100,
        )
        third = Split((("a", 0.3333333), ("b", 0.3333333), ("c", 0.3333333)))  # adds up to 1 within 1e-6
        assert sum(third.counts(cases)) == cases

    @pytest.mark.parametrize("name", ["train", "val_1", "Ü-Test", "fold", "a.b", "7", "training_set-2.0"])
    def test_names_that_are_folders(self, name: str) -> None:
        assert Split(((name, 1.0),)).fractions == ((name, 1.0),)

    @pytest.mark.parametrize(
        "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "a\n", "-a", "a.", "x\0", "fold_0_train", "a:b", "*"]
    )
    def test_names_that_are_not(self, name: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            Split(((name, 1.0),))
        assert repr(name) in str(caught.value)
        assert "'train'" in str(caught.value)

    @pytest.mark.parametrize("fraction", [0, -0.1, float("nan"), float("inf"), "0.8", None])
    def test_shares_that_are_none(self, fraction: Any) -> None:
        with pytest.raises(InvalidInput, match=r"'val' the share .*above 0"):
            Split((("train", 0.5), ("val", fraction)))

    @pytest.mark.parametrize("fractions", [(0.8, 0.1), (80, 20), (0.8, 0.2001), (0.5, 0.499998)])
    def test_shares_that_do_not_add_up(self, fractions: tuple[float, float]) -> None:
        with pytest.raises(InvalidInput, match=r"train=\S+, val=\S+ adds up to .*must add up to 1"):
            Split((("train", fractions[0]), ("val", fractions[1])))

    @pytest.mark.parametrize("names", [("a", "a"), ("Val", "val"), ()])
    def test_each_name_once(self, names: tuple[str, ...]) -> None:
        with pytest.raises(InvalidInput, match="one or more parts, each once"):
            Split(tuple((name, 1 / len(names)) for name in names))


class TestAssign:
    @settings(deadline=None)
    @given(cases=ids, split=splits())
    def test_every_case_has_its_part_and_every_part_its_number(self, cases: list[str], split: Split) -> None:
        found = assign(cases, split)
        assert list(found) == cases
        counts = Counter(found.values())
        assert tuple(counts[name] for name, _ in split.fractions) == split.counts(len(cases))

    @settings(deadline=None)
    @given(given_cases=labelled(), split=splits())
    def test_with_classes_too(self, given_cases: tuple[list[str], dict[str, list[int]]], split: Split) -> None:
        cases, classes = given_cases
        found = assign(cases, split, classes)
        assert list(found) == cases
        counts = Counter(found.values())
        assert tuple(counts[name] for name, _ in split.fractions) == split.counts(len(cases))

    @settings(deadline=None)
    @given(given_cases=labelled(), split=splits(), data=st.data())
    def test_order_plays_no_part(
        self, given_cases: tuple[list[str], dict[str, list[int]]], split: Split, data: st.DataObject
    ) -> None:
        cases, classes = given_cases
        turned = data.draw(st.permutations(cases))
        mixed = {case: set(classes[case]) for case in reversed(cases) if case in classes}
        assert assign(turned, split) == assign(cases, split)
        assert assign(iter(turned), split, mixed) == assign(cases, split, classes)

    def test_this_division_is_for_good(self) -> None:
        """Data sets are split again by later versions, and must come out the same."""
        cases = [f"ct-{i:02d}" for i in range(12)]
        split = Split((("train", 0.5), ("val", 0.25), ("test", 0.25)), seed=3)
        assert split_lists(assign(cases, split)) == {
            "splits/test.txt": "ct-00\nct-02\nct-11\n",
            "splits/train.txt": "ct-01\nct-04\nct-05\nct-07\nct-08\nct-09\n",
            "splits/val.txt": "ct-03\nct-06\nct-10\n",
        }

    def test_is_the_same_in_another_process(self) -> None:
        code = (
            "from voxtract.splits import Split, assign\n"
            "cases = {f'c{i}' for i in range(40)}\n"
            "split = Split((('a', 0.5), ('b', 0.5)), 1)\n"
            "print(sorted(assign(cases, split, {c: {len(c), int(c[-1])} for c in cases}).items()))"
        )
        runs = [
            subprocess.run(
                [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True
            ).stdout
            for seed in ("1", "2")
        ]
        assert runs[0] == runs[1]
        assert b"'c39'" in runs[0]

    def test_the_seed_makes_the_difference(self) -> None:
        cases = [f"c{i}" for i in range(50)]
        found = {tuple(assign(cases, Split(THREE.fractions, seed)).values()) for seed in range(20)}
        assert len(found) == 20

    def test_no_part_prefers_a_place_in_the_listing(self) -> None:
        """Over many seeds every case is in every part about as often as asked for."""
        cases = [f"c{i}" for i in range(20)]
        tests = Counter(
            case
            for seed in range(400)
            for case, part in assign(cases, Split(THREE.fractions, seed)).items()
            if part == "test"
        )
        assert min(tests.values()) > 15
        assert max(tests.values()) < 75  # 40 expected, standard deviation 6

    @settings(deadline=None)
    @given(cases=st.sets(st.integers(0, 999), min_size=1, max_size=40), new=st.integers(1000, 1999))
    def test_a_new_case_moves_few_others(self, cases: set[int], new: int) -> None:
        before = assign([str(i) for i in cases], THREE)
        after = assign([str(i) for i in (*cases, new)], THREE)
        assert sum(after[case] != part for case, part in before.items()) <= 3

    def test_a_case_twice(self) -> None:
        with pytest.raises(InvalidInput, match="'b' is there more than once"):
            assign(["a", "b", "c", "b"], THREE)
        with pytest.raises(InvalidInput, match="'b' is there more than once"):
            folds(["a", "b", "c", "b"], 2)


def off(found: dict[str, str], split: Split, classes: dict[str, list[int]]) -> float:
    """Sum over classes and parts of how far the class's share is from the one asked for."""
    total = Counter(label for labels in classes.values() for label in labels)
    got = Counter((label, part) for case, part in found.items() for label in classes[case])
    return sum(abs(got[label, name] / total[label] - share) for label in total for name, share in split.fractions)


class TestStratified:
    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("cases", [30, 150])
    def test_classes_are_spread_better_than_by_chance(self, cases: int, seed: int) -> None:
        """Organs and lesions, common and rare, several in most cases."""
        rng = np.random.default_rng(seed)
        often = (0.9, 0.6, 0.5, 0.3, 0.2, 0.1, 0.1)
        classes = {f"c{i}": [k for k, share in enumerate(often, 1) if rng.random() < share] for i in range(cases)}
        for split in (THREE, Split((("a", 0.6), ("b", 0.4))), Split(tuple((f"f{i}", 0.2) for i in range(5)))):
            by_chance = [off(assign(classes, Split(split.fractions, other)), split, classes) for other in range(30)]
            found = off(assign(classes, Split(split.fractions, seed), classes), split, classes)
            assert found <= min(by_chance)
            assert found < (0.85 if cases == 30 else 0.5) * np.mean(by_chance)  # of few cases no division is good

    @pytest.mark.parametrize("seed", range(5))
    def test_a_class_that_divides_evenly_is_divided_so(self, seed: int) -> None:
        classes = {f"{label}-{i}": [label] for label, n in ((1, 70), (2, 20), (3, 10)) for i in range(n)}
        found = assign(classes, Split(THREE.fractions, seed), classes)
        assert Counter((classes[case][0], part) for case, part in found.items()) == {
            (1, "train"): 56, (1, "val"): 7, (1, "test"): 7,
            (2, "train"): 16, (2, "val"): 2, (2, "test"): 2,
            (3, "train"): 8, (3, "val"): 1, (3, "test"): 1,
        }  # fmt: skip

    @pytest.mark.parametrize("seed", range(5))
    def test_a_rare_class_is_in_every_fold(self, seed: int) -> None:
        classes = {f"c{i}": [1, 2, 9] if i < 5 else [1, 2] if i < 40 else [1] for i in range(83)}
        for fold in folds(classes, 5, seed, classes):
            assert sum(9 in classes[case] for case in fold["val"]) == 1
            assert sum(2 in classes[case] for case in fold["val"]) == 8

    @settings(deadline=None)
    @given(labels=st.lists(st.integers(1, 4), min_size=2, max_size=30), k=st.integers(2, 6), seed=st.integers(0, 99))
    def test_folds_of_cases_with_one_class_differ_by_one(self, labels: list[int], k: int, seed: int) -> None:
        classes = {str(i): [label] for i, label in enumerate(labels)}
        counts = [
            Counter(classes[case][0] for case in fold["val"])
            for fold in folds(classes, min(k, len(labels)), seed, classes)
        ]
        for label in set(labels):
            found = [count[label] for count in counts]
            assert max(found) - min(found) <= 1

    def test_cases_without_classes_are_spread_as_well(self) -> None:
        cases = [f"c{i}" for i in range(100)]
        classes = {case: [1] for case in cases[:40]}
        for by_class in (classes, {**classes, **{case: [] for case in cases[40:]}}):
            found = assign(cases, THREE, by_class)
            assert Counter(found[case] for case in cases[:40]) == {"train": 32, "val": 4, "test": 4}

    def test_no_classes_at_all(self) -> None:
        cases = [f"c{i}" for i in range(10)]
        assert Counter(assign(cases, THREE, {}).values()) == {"train": 8, "val": 1, "test": 1}
        assert assign([], THREE, {}) == assign([], THREE) == {}


class TestFolds:
    @settings(deadline=None)
    @given(given_cases=labelled(), k=st.integers(2, 6), seed=st.integers(0, 99), stratified=st.booleans())
    def test_each_case_is_in_one_val_and_in_all_other_trains(
        self, given_cases: tuple[list[str], dict[str, list[int]]], k: int, seed: int, stratified: bool
    ) -> None:
        cases, classes = given_cases
        if k > len(cases):
            with pytest.raises(InvalidInput, match=rf"folds={k} for {len(cases)} cases"):
                folds(cases, k, seed)
            return
        found = folds(cases, k, seed, classes if stratified else None)
        assert len(found) == k
        for fold in found:
            assert list(fold) == ["train", "val"]
            assert fold["val"] == sorted(fold["val"])
            assert fold["train"] == sorted(set(cases) - set(fold["val"]))
        assert sorted(case for fold in found for case in fold["val"]) == sorted(cases)
        sizes = [len(fold["val"]) for fold in found]
        assert max(sizes) - min(sizes) <= 1
        assert folds(list(reversed(cases)), k, seed, classes if stratified else None) == found

    @pytest.mark.parametrize("k", [1, 0, -3, 4])
    def test_a_number_that_cannot_be(self, k: int) -> None:
        with pytest.raises(InvalidInput, match=rf"folds={k} for 3 cases; expected a number from 2"):
            folds(["a", "b", "c"], k)

    def test_many_folds_are_leave_one_out(self) -> None:
        cases = [f"c{i}" for i in range(30)]
        assert sorted(fold["val"][0] for fold in folds(cases, 30)) == sorted(cases)


class TestLists:
    @settings(deadline=None)
    @given(cases=ids, split=splits())
    def test_hold_each_case_in_the_file_of_its_part(self, cases: list[str], split: Split) -> None:
        found = assign(cases, split)
        files = split_lists(found)
        assert set(files) == {f"splits/{part}.txt" for part in found.values()}
        for name, text in files.items():
            assert text.endswith("\n")
            lines = text[:-1].split("\n")
            assert lines == sorted(case for case, part in found.items() if f"splits/{part}.txt" == name)

    def test_of_folds(self) -> None:
        found = folds(["b", "a", "c"], 3)
        files = fold_lists(found)
        assert list(files) == [f"splits/fold_{i}_{part}.txt" for i in range(3) for part in ("train", "val")]
        for i, fold in enumerate(found):
            assert files[f"splits/fold_{i}_train.txt"] == "\n".join(fold["train"]) + "\n"
            assert files[f"splits/fold_{i}_val.txt"] == fold["val"][0] + "\n"

    def test_of_nothing(self) -> None:
        assert split_lists({}) == fold_lists([]) == {}

    @pytest.mark.parametrize("case", ["a\nb", "a\n", "\r", "a\u2028b"])
    def test_an_id_of_two_lines(self, case: str) -> None:
        with pytest.raises(InvalidInput, match="holds a line end"):
            split_lists({case: "train"})
        with pytest.raises(InvalidInput, match="holds a line end"):
            fold_lists(folds([case, "b"], 2))
