"""Which part of a data set a case belongs to: by case, never by slice, since slices of a case look alike.

The outcome follows from the seed and the case ids alone: the cases are put into the order of the SHA-256 of both, which
no listing, machine or library version changes. Where a case is added, few others change their part.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from voxtract.errors import InvalidInput

Classes = Mapping[str, Collection[int]]
Fold = dict[Literal["train", "val"], list[str]]


@dataclass(frozen=True, slots=True)
class Split:
    """How a data set is to be divided.

    Parameters
    ----------
    fractions : ((name, fraction), ...)
        Parts and their shares of the cases, which add up to 1. Names become folders and files.
    seed : int
        Another seed, another division.

    Raises
    ------
    InvalidInput
        No part, a name that is there twice or is no name for a folder, fractions that are not above 0 or do not add up
        to 1 (within 1e-6).

    Examples
    --------
    >>> split = Split((("train", 0.8), ("val", 0.1), ("test", 0.1)), seed=7)
    >>> split.counts(25), split.counts(6), split.counts(2)
    ((20, 3, 2), (4, 1, 1), (2, 0, 0))
    """

    fractions: tuple[tuple[str, float], ...]
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fraction in self.fractions:
            # "fold_..." are the lists of `fold_lists`; a dot in front would hide the folder
            if not re.fullmatch(r"(?!fold_)\w([\w.-]*\w)?", name):
                raise InvalidInput(
                    f"split has a part {name!r}; give a name of letters, digits, '_', '-' and '.', as 'train', "
                    "that does not begin with 'fold_'"
                )
            if not (isinstance(fraction, (int, float)) and math.isfinite(fraction) and fraction > 0):
                raise InvalidInput(f"split gives {name!r} the share {fraction!r}; expected a fraction above 0, as 0.8")
        names = [name.casefold() for name, _ in self.fractions]  # some file systems do not tell Val from val
        if not names or len(set(names)) != len(names):
            raise InvalidInput(f"split into {[name for name, _ in self.fractions]}: name one or more parts, each once")
        total = sum(fraction for _, fraction in self.fractions)
        if abs(total - 1) > 1e-6:
            raise InvalidInput(
                f"split {', '.join(f'{name}={fraction:g}' for name, fraction in self.fractions)} adds up to {total:g}; "
                "the fractions must add up to 1, as train=0.8 val=0.1 test=0.1"
            )

    def counts(self, cases: int) -> tuple[int, ...]:
        """Cases of each part: rounded by largest remainder, and no part is empty if there are enough cases.

        Where two remainders are equal, the part named first gets the case.
        """
        return tuple(_counts(cases, [fraction for _, fraction in self.fractions]))


def assign(ids: Iterable[str], split: Split, classes: Classes | None = None) -> dict[str, str]:
    """Give each case its part.

    Parameters
    ----------
    ids : iterable of str
        Case ids; their order does not matter.
    split : Split
    classes : mapping of case id to classes, optional
        Classes that each case has. They are spread so that of the cases that have a class, each part gets about its
        fraction; cases that are not in the mapping have none. The numbers of `Split.counts` hold all the same.

    Returns
    -------
    dict of case id to name, in the order of `ids`

    Raises
    ------
    InvalidInput
        An id is there twice.

    Notes
    -----
    Iterative stratification: Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data", ECML PKDD
    2011. The rarest class is dealt out first, each case to the part that lacks most of that class. Other than there, a
    part that is full takes no more, and what is left to chance there is left to the order of the cases here.

    Examples
    --------
    >>> assign("abcdef", Split((("train", 0.5), ("val", 0.5))), {"a": [1], "b": [1], "c": [2], "d": [2]})
    {'a': 'train', 'b': 'val', 'c': 'val', 'd': 'train', 'e': 'val', 'f': 'train'}
    """
    cases = _checked(ids)
    names = [name for name, _ in split.fractions]
    part = _divided(cases, [fraction for _, fraction in split.fractions], split.seed, classes)
    return {case: names[part[case]] for case in cases}


def folds(ids: Iterable[str], k: int, seed: int = 0, classes: Classes | None = None) -> list[Fold]:
    """Divide the cases for k-fold cross-validation.

    Parameters
    ----------
    ids, classes
        As in `assign`.
    k : int
        Folds; from 2 to the number of cases.
    seed : int
        Another seed, another division.

    Returns
    -------
    k dicts of "train" and "val" to sorted case ids
        Each case is in "val" once, and in "train" of all other folds. Sizes differ by one case at most.

    Raises
    ------
    InvalidInput
        Fewer than 2 folds, more folds than cases, or an id that is there twice.
    """
    cases = _checked(ids)
    if not 2 <= k <= len(cases):
        raise InvalidInput(f"folds={k} for {len(cases)} cases; expected a number from 2 to that of the cases")
    part = _divided(cases, [1 / k] * k, seed, classes)
    cases = sorted(cases)
    return [
        {"train": [case for case in cases if part[case] != fold], "val": [case for case in cases if part[case] == fold]}
        for fold in range(k)
    ]


def split_lists(assigned: Mapping[str, str]) -> dict[str, str]:
    r"""Content of ``splits/<part>.txt`` for each part: its case ids, sorted, one in a line.

    Parameters
    ----------
    assigned : mapping of case id to part
        What `assign` returned.

    Raises
    ------
    InvalidInput
        A case id holds a line end.

    Examples
    --------
    >>> split_lists({"ct-2": "train", "ct-1": "train", "ct-3": "val"})
    {'splits/train.txt': 'ct-1\nct-2\n', 'splits/val.txt': 'ct-3\n'}
    """
    parts: dict[str, list[str]] = {}
    for case, part in sorted(assigned.items()):
        parts.setdefault(part, []).append(case)
    return {f"splits/{part}.txt": _lines(cases) for part, cases in sorted(parts.items())}


def fold_lists(folds: Sequence[Fold]) -> dict[str, str]:
    """Content of ``splits/fold_<i>_train.txt`` and ``splits/fold_<i>_val.txt``, i from 0; see `split_lists`.

    Examples
    --------
    >>> list(fold_lists(folds(["a", "b"], 2)))
    ['splits/fold_0_train.txt', 'splits/fold_0_val.txt', 'splits/fold_1_train.txt', 'splits/fold_1_val.txt']
    """
    return {
        f"splits/fold_{number}_{part}.txt": _lines(cases)
        for number, fold in enumerate(folds)
        for part, cases in fold.items()
    }


def _lines(cases: Iterable[str]) -> str:
    for case in cases:
        if case.splitlines() != [case]:
            raise InvalidInput(f"case id {case!r} holds a line end and fits into no list of ids; rename its files")
    return "".join(f"{case}\n" for case in cases)


def _checked(ids: Iterable[str]) -> list[str]:
    cases = list(ids)
    twice = [case for case, count in Counter(cases).items() if count > 1]
    if twice:
        raise InvalidInput(f"case id {twice[0]!r} is there more than once; a case belongs to one part only")
    return cases


def _counts(cases: int, fractions: Sequence[float]) -> list[int]:
    """Largest remainder; parts left empty then take a case from the one that got most beyond its share."""
    exact = [cases * fraction / sum(fractions) for fraction in fractions]
    counts = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda part: (counts[part] - exact[part], part))
    for part in by_remainder[: cases - sum(counts)]:
        counts[part] += 1
    while cases >= len(counts) and 0 in counts:
        giver = max(
            (part for part in range(len(counts)) if counts[part] > 1), key=lambda part: counts[part] - exact[part]
        )
        counts[giver] -= 1
        counts[counts.index(0)] += 1
    return counts


def _divided(cases: Sequence[str], fractions: Sequence[float], seed: int, classes: Classes | None) -> dict[str, int]:
    """Number of the part of each case."""
    shuffled = sorted(cases, key=lambda case: _digest(seed, case))
    if classes is not None:
        return _stratified(shuffled, fractions, {case: frozenset(classes.get(case, ())) for case in shuffled})
    parts = (part for part, count in enumerate(_counts(len(cases), fractions)) for _ in range(count))
    return dict(zip(shuffled, parts, strict=True))


def _digest(seed: int, case: str) -> bytes:
    import hashlib  # loads OpenSSL, and most runs split nothing

    return hashlib.sha256(f"{seed}:{case}".encode("utf-8", "surrogateescape")).digest()


def _stratified(
    cases: Sequence[str], fractions: Sequence[float], classes: Mapping[str, frozenset[int]]
) -> dict[str, int]:
    """Deal out `cases` as `assign` describes."""
    waiting = Counter(label for case in cases for label in classes[case])
    lacking = {label: [total * fraction for fraction in fractions] for label, total in waiting.items()}
    room = _counts(len(cases), fractions)
    part: dict[str, int] = {}

    def place(case: str, need: Sequence[float]) -> None:
        chosen = max((p for p in range(len(room)) if room[p]), key=lambda p: (need[p], room[p], -p))
        part[case] = chosen
        room[chosen] -= 1
        for label in classes[case]:
            waiting[label] -= 1
            lacking[label][chosen] -= 1

    while +waiting:
        rarest = min(+waiting, key=lambda label: (waiting[label], label))
        for case in cases:
            if case not in part and rarest in classes[case]:
                place(case, lacking[rarest])
    for case in cases:
        if case not in part:
            place(case, room)
    return part
