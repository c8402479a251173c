"""What the name of a file says: volume, labels or scores; which plane; whose; which of several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from voxtract.geometry import View

Kind = Literal["volume", "labels", "scores"]

VIEW_OF: dict[str, View] = {"axl": "axial", "cor": "coronal", "sag": "sagittal"}
NIFTI = (".nii.gz", ".nii")
VOLUMES = (*NIFTI, ".nrrd")  # the export application writes these, too, by volume name

_VOLUME = "anatomic"
_LABELS = ("inference", "label", "annotation", "mask", "segmentation")  # looked for in this order
_LABEL_TOKENS = ("ann", "anns")  # too short to be looked for inside of words
_SCORES = "score"
_SUFFIXES = (".gz", ".nii", ".nrrd", ".csv")
_TOKEN = re.compile(r"[^\W_]+")
_UUID = "[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_PATIENT = re.compile(rf"({_UUID})[\W_]({_UUID})(?![^\W_])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ParsedName:
    """What the name of one file says.

    Parameters
    ----------
    stem : str
        The name without what says its format.
    kind : {"volume", "labels", "scores"}, optional
        None where no word says it.
    plane : {"axl", "cor", "sag"}, optional
    owner : (patient, case), optional
        The two UUIDs a name may begin with, in lower case.
    index : int, optional
        The number at the end.
    base : str
        The stem in lower case without UUIDs, ``*`` in place of the word that says the kind: the same for a volume and
        its labels.
    inner : bool
        The plane stands inside of a longer word.
    remarks : (str, ...)
        What a person should look at.
    problem : str
        Why the name cannot be used; empty where it can.
    """

    stem: str
    kind: Kind | None
    plane: str | None
    owner: tuple[str, str] | None
    index: int | None
    base: str
    inner: bool = False
    remarks: tuple[str, ...] = ()
    problem: str = ""

    @property
    def series(self) -> str:
        """The base without the number at its end."""
        return re.sub(r"(?:_|[^\w*])+[0-9]+$", "", self.base)

    @property
    def is_numbered(self) -> bool:
        """Whether there is a number at the end."""
        return self.index is not None

    @property
    def view(self) -> View | None:
        """The view that cuts the plane's slices."""
        return None if self.plane is None else VIEW_OF[self.plane]


@lru_cache(10_000)
def parse(name: str) -> ParsedName:
    """Parse a file name, in capitals or not.

    A word counts as a whole if nothing but letters and digits of its own stand around it: ``knee-AXL.mask_2.nii``. An
    identifier of a plane inside of a word, as in ``axl1``, counts with a remark where it is the only one.

    Examples
    --------
    >>> found = parse("axl_inference_03.nii.gz")
    >>> found.kind, found.plane, found.index, found.base
    ('labels', 'axl', 3, 'axl_*_03')
    >>> parse("axl_anatomic.nii").base == parse("AXL_mask.nii.gz").base
    True
    >>> parse("axl_cor_mask.nii").problem
    "names two planes, 'axl' and 'cor'"
    """
    stem = stem_of(name)
    owner, rest = None, stem
    if found := _PATIENT.match(stem):
        owner, rest = (found[1].lower(), found[2].lower()), re.sub(r"^[\W_]+", "", stem[found.end() :])
    kind, spans, remarks = _kind(rest, name)
    plane, inner, problem = _plane(rest, spans)
    if inner:
        remarks.append(f"the plane {plane!r} is found inside of a word of its name; part it from the rest by _")
    tokens = _TOKEN.findall(rest)
    index = int(tokens[-1]) if tokens and re.fullmatch("[0-9]+", tokens[-1]) else None
    begin, end = spans[0] if spans else (0, 0)
    base = rest[:begin] + ("*" if spans else "") + rest[end:]
    return ParsedName(stem, kind, plane, owner, index, base.lower(), inner, tuple(remarks), problem)


def is_nifti(name: str) -> bool:
    """Whether a file of this name should be a NIfTI file."""
    return name.lower().endswith(NIFTI)


def is_volume(name: str) -> bool:
    """Whether a file of this name should hold voxels."""
    return name.lower().endswith(VOLUMES)


def volume_stem(name: str) -> str:
    """Name without the suffix of a volume; nothing else is taken off, for classes and volumes may have dots."""
    return next((name[: -len(end)] for end in VOLUMES if name.lower().endswith(end)), name)


def stem_of(name: str) -> str:
    """Name without the suffix of a volume or table, then without a ``.nii`` before it."""
    for suffixes in (_SUFFIXES, (".nii",)):
        name = next((name[: -len(end)] for end in suffixes if name.lower().endswith(end)), name)
    return name


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Key by which ``a_2`` comes before ``a_10``."""
    parts = re.findall("[0-9]+|[^0-9]+", name)
    return tuple((0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts)


def _kind(rest: str, name: str) -> tuple[Kind | None, list[tuple[int, int]], list[str]]:
    """Kind, places of the words that say one (the first is the one that counts), remarks."""
    volume = _places(rest, _VOLUME)
    scores = _places(rest, _SCORES)
    labels = [place for word in _LABELS for place in _places(rest, word)]
    labels += [found.span() for found in _TOKEN.finditer(rest) if found[0].lower() in _LABEL_TOKENS]
    if name.lower().endswith(".csv") and not volume:
        return ("scores", scores + labels, []) if scores else (None, labels, [])
    if volume:
        told = ["its name has the word of a volume and that of labels; it is taken as a volume"] if labels else []
        return "volume", volume + labels + scores, told
    return ("labels", labels + scores, []) if labels else (None, scores, [])


def _places(rest: str, word: str) -> list[tuple[int, int]]:
    """Where a word stands, with the letters that follow: ``masks``, ``anatomical``."""
    return [found.span() for found in re.finditer(rf"{word}[^\W\d_]*", rest, re.IGNORECASE)]


def _plane(rest: str, spans: list[tuple[int, int]]) -> tuple[str | None, bool, str]:
    """Plane, whether it stands inside of a word, and what is wrong."""
    whole = [plane for plane in VIEW_OF if plane in {token.lower() for token in _TOKEN.findall(rest)}]
    if len(whole) > 1:
        return None, False, f"names two planes, {' and '.join(map(repr, whole))}"
    if whole:
        return whole[0], False, ""
    for begin, end in spans:
        rest = rest[:begin] + " " * (end - begin) + rest[end:]
    inside = [plane for plane in VIEW_OF if plane in rest.lower()]
    return (inside[0], True, "") if len(inside) == 1 else (None, False, "")
