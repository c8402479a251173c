"""``voxtract check``: look at every voxel of a source before anything is made of it.

A *fault* is what an extraction would refuse or silently count twice; a *warning* is what it would take, but what a
person should know. Each volume is decoded once, slab by slab, in threads.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from voxtract.crew import Crew, default_memory_limit, default_workers
from voxtract.errors import InvalidInput, VoxtractError
from voxtract.model import Case, ChunkedFile, Header, Source, VolumeFile
from voxtract.progress import Progress
from voxtract.read import open_source
from voxtract.storage import Remote

if TYPE_CHECKING:
    from numpy.typing import NDArray

Role = Literal["image", "labels"]
Kind = Literal["unreadable", "mismatch", "not integral", "duplicate", "grid", "values", "empty", "alone", "left out"]

_SLAB = 4 << 20  # bytes of voxels at a time
_TABLE = 1 << 20  # label values that are counted in a table; wider spread ones are sorted
_EXACT = 2.0**53  # above, float64 does not hold every integer


@dataclass(frozen=True, slots=True)
class CheckedVolume:
    """One volume.

    Parameters
    ----------
    case, role, where : str
        Case id, ``"image"`` or ``"labels"``, and the file.
    shape : (x, y, z)
    spacing_mm : (x, y, z)
    orientation : str
        Direction in which each axis grows, as in ``"RAS"``.
    dtype : str
        As stored.
    slope, intercept : float
        Value = stored * slope + intercept.
    range : (lowest, highest), optional
        Of the finite values; None where there is none.
    nan, infinite : int
        Voxels that are no number, and those without a finite value.
    labels : label value to voxels
        Positive values of labels, as far as they are integral.
    fractions : int
        Voxels of labels whose finite value is no integer.
    first_fraction : (x, y, z, value), optional
        The first of them in the order of the file.
    digest : str
        Equal for volumes with equal shape, dtype, scale and voxels.
    error : str, optional
        Why the rest is missing.
    """

    case: str
    role: Role
    where: str
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    orientation: str = ""
    dtype: str = ""
    slope: float = 1.0
    intercept: float = 0.0
    range: tuple[float, float] | None = None
    nan: int = 0
    infinite: int = 0
    labels: Mapping[int, int] = field(default_factory=dict)
    fractions: int = 0
    first_fraction: tuple[int, int, int, float] | None = None
    digest: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong, or that a person should know.

    Parameters
    ----------
    kind : str
        ``"unreadable"``, ``"mismatch"`` (image and labels), ``"not integral"`` (labels), ``"duplicate"``, ``"grid"``
        (spacing, orientation or dtype differ between cases), ``"values"`` (NaN, infinite, all the same), ``"empty"``
        (labels), ``"alone"`` (image or labels missing) or ``"left out"`` (files that no case uses).
    cases : (case id, ...)
    text : str
        Where, what was found, what was expected, what to do.
    """

    kind: Kind
    cases: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What :func:`check` found.

    Parameters
    ----------
    source : str
        What was checked.
    volumes : (CheckedVolume, ...)
        In the order of the source.
    faults, warnings : (Problem, ...)
    """

    source: str
    volumes: tuple[CheckedVolume, ...]
    faults: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    @property
    def exit_code(self) -> int:
        """0 without faults, else 1."""
        return 1 if self.faults else 0

    @property
    def summary(self) -> str:
        """How many volumes, faults and warnings, in a line."""
        cases = len({volume.case for volume in self.volumes})
        return (
            f"{self.source}: {cases:,} cases, {len(self.volumes):,} volumes, {len(self.faults):,} faults, "
            f"{len(self.warnings):,} warnings"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; label values become text, as JSON's keys are."""
        volumes = [asdict(volume) for volume in self.volumes]
        for volume in volumes:
            volume["labels"] = {str(label): count for label, count in volume["labels"].items()}
        return {
            "source": self.source,
            "exit_code": self.exit_code,
            "faults": [asdict(problem) for problem in self.faults],
            "warnings": [asdict(problem) for problem in self.warnings],
            "volumes": volumes,
        }

    def to_json(self) -> str:
        """`to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        faults = [f"fault: {problem.text}" for problem in self.faults]
        return "\n".join([self.summary, *faults, *(f"warning: {problem.text}" for problem in self.warnings)])


def check(
    source: Source | str | os.PathLike[str] | Remote, *, workers: int | None = None, progress: bool | None = None
) -> CheckReport:
    """Check every volume of a source, each against its partner, and all against each other.

    Faults: a file that does not read, labels that do not lie on their image (shape, affine) or are not integral, an
    image whose voxels are also in another volume. Warnings: NaN and infinite values, an image of one value, empty
    labels, equal labels of different images, spacing, orientation or dtype that differ between cases, a missing
    partner, files that no case uses.

    Parameters
    ----------
    source : Source, path or URL
        What :func:`voxtract.open_source` returns, or what it opens.
    workers : int, optional
        Threads; by default the cores this process may use.
    progress : bool, optional
        Draw a bar on stderr; by default where that is a terminal.

    Raises
    ------
    NotFound, InvalidInput, UnreadableFile
        As :func:`voxtract.open_source`. A volume that does not read is a fault of the report instead.
    """
    if not isinstance(source, Source):
        source = open_source(source)
    if workers is not None and workers < 1:
        raise InvalidInput(f"workers {workers} must be at least 1")
    todo = [(case, role, file) for case in source.cases for role, file in _files(case)]
    crew = Crew(default_workers() if workers is None else workers, default_memory_limit())
    with Progress(len(todo), "check", show=progress, log_errors=False) as bar:

        def look(one: tuple[Case, Role, VolumeFile]) -> _Seen:
            bar.begin(one[2].where)
            seen = _look(*one)
            bar.end()
            return seen

        seen = crew.each(look, todo)
    volumes = tuple(one.volume for one in seen)
    faults = [*_unreadable(volumes), *_mismatches(seen), *_fractions(volumes)]
    warnings = [*_values(volumes), *_empty(volumes), *_differing(volumes), *_alone(source)]
    for problem, is_fault in _duplicates(volumes):
        (faults if is_fault else warnings).append(problem)
    warnings += [Problem("left out", (), f"{skip.where}: {skip.reason}") for skip in source.skipped]
    return CheckReport(source.description, volumes, tuple(faults), tuple(warnings))


# -------------------------------------------------------------------------------------------------------- one volume


@dataclass(frozen=True, eq=False, slots=True)
class _Seen:
    volume: CheckedVolume
    header: Header | None = None


def _files(case: Case) -> Iterator[tuple[Role, VolumeFile]]:
    if case.image is not None:
        yield "image", case.image
    for volume in case.labels:
        yield "labels", volume.file


def _pieces(file: VolumeFile, header: Header) -> Iterator[NDArray[Any]]:
    """All voxels of a volume; of one that is stored in chunks what is stored."""
    if isinstance(file, ChunkedFile):
        for layer in file.layers():
            for _, chunk in layer:
                yield chunk
        return
    plane_bytes = max(1, header.nbytes // header.grid.shape[2])
    with closing(file.slabs(max(1, _SLAB // plane_bytes))) as slabs:
        yield from slabs


def _look(case: Case, role: Role, file: VolumeFile) -> _Seen:
    """Read a volume from its first to its last voxel."""
    try:
        header = file.header()
        tally = _Tally(header, counts_labels=role == "labels")
        for piece in _pieces(file, header):
            tally.add(piece)
    except VoxtractError as error:
        return _Seen(CheckedVolume(case.id, role, file.where, error=str(error)))
    volume = CheckedVolume(
        case.id,
        role,
        file.where,
        header.grid.shape,
        header.grid.spacing_mm,
        header.grid.orientation,
        header.dtype.name,
        header.slope,
        header.intercept,
        tally.range,
        tally.nan,
        tally.infinite,
        dict(sorted(tally.labels.items())),
        tally.fractions,
        tally.first_fraction,
        tally.digest.hexdigest(),
    )
    return _Seen(volume, header)


class _Tally:
    """What is known of a volume after some of its slabs."""

    def __init__(self, header: Header, *, counts_labels: bool) -> None:
        self.header = header
        self.counts_labels = counts_labels
        self.planes = 0
        self.ends: list[float] = []
        self.nan = self.infinite = self.fractions = 0
        self.labels: Counter[int] = Counter()
        self.first_fraction: tuple[int, int, int, float] | None = None
        told = (header.grid.shape, header.dtype.name, header.slope, header.intercept)
        self.digest = hashlib.blake2b(repr(told).encode(), digest_size=16)

    @property
    def range(self) -> tuple[float, float] | None:
        """Lowest and highest finite value, scaled."""
        if not self.ends:
            return None
        scaled = [end * self.header.slope + self.header.intercept for end in self.ends]
        return min(scaled), max(scaled)

    def add(self, slab: NDArray[Any]) -> None:
        """Count in the next slab (x, y, n)."""
        flat = np.asfortranarray(slab).ravel(order="F")  # as it lies in the file: no copy
        self.digest.update(flat.view(np.uint8).data)
        values = flat
        if flat.dtype.kind == "f":
            finite = np.isfinite(flat)
            if not finite.all():
                self.nan += int(np.isnan(flat).sum())
                self.infinite += int(np.isinf(flat).sum())
                values = flat[finite]
        if values.size:
            ends = [*self.ends, float(values.min()), float(values.max())]
            self.ends = [min(ends), max(ends)]
            if self.counts_labels:
                self._count(values, flat, slab.shape)
        self.planes += slab.shape[2]

    def _count(self, values: NDArray[Any], flat: NDArray[Any], shape: tuple[int, ...]) -> None:
        """Count the labels in `values`, the finite ones of `flat`."""
        values = self._scaled(values)
        if values.dtype.kind == "f":
            whole = _is_whole(values)
            if not whole.all():
                self._note_fraction(flat, shape)
                self.fractions += int((~whole).sum())
                return
        positive = values[values > 0]
        if not positive.size:
            return
        low, high = int(positive.min()), int(positive.max())
        if high - low < _TABLE:
            counts = np.bincount((positive - positive.min()).astype(np.int64))
            for label in np.flatnonzero(counts).tolist():  # Python's integers do not overflow
                self.labels[low + label] += int(counts[label])
        else:
            for label, count in zip(*np.unique(positive, return_counts=True), strict=True):
                self.labels[int(label)] += int(count)

    def _note_fraction(self, flat: NDArray[Any], shape: tuple[int, ...]) -> None:
        if self.first_fraction is not None:
            return
        scaled = self._scaled(flat)
        place = int(np.flatnonzero(np.isfinite(scaled) & ~_is_whole(scaled))[0])
        x, y, z = np.unravel_index(place, shape, order="F")
        self.first_fraction = (int(x), int(y), self.planes + int(z), float(scaled[place]))

    def _scaled(self, values: NDArray[Any]) -> NDArray[Any]:
        return values * self.header.slope + self.header.intercept if self.header.is_scaled else values


def _is_whole(values: NDArray[Any]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        whole: NDArray[np.bool_] = (np.rint(values) == values) & (np.abs(values) <= _EXACT)
    return whole


# ------------------------------------------------------------------------------------------------------ what is wrong


def _unreadable(volumes: Sequence[CheckedVolume]) -> Iterator[Problem]:
    for volume in volumes:
        if volume.error is not None:
            yield Problem("unreadable", (volume.case,), volume.error)


def _mismatches(seen: Sequence[_Seen]) -> Iterator[Problem]:
    for one, other in pairwise(seen):  # labels follow their image
        if one.volume.case != other.volume.case or one.header is None or other.header is None:
            continue
        mismatch = one.header.grid.mismatch(other.header.grid)
        if mismatch is None:
            continue
        advice = "export both from the same series"
        if mismatch.startswith("affine"):
            advice += ", or extract with allow_affine_mismatch=True (--allow-affine-mismatch) if the voxels correspond"
        text = f"{other.volume.where}: does not lie on its image {one.volume.where}: {mismatch}; {advice}"
        yield Problem("mismatch", (one.volume.case,), text)


def _fractions(volumes: Sequence[CheckedVolume]) -> Iterator[Problem]:
    for volume in volumes:
        if volume.role == "labels" and (volume.fractions or volume.nan or volume.infinite):
            said = [f"{volume.nan:,} NaN"] * bool(volume.nan) + [f"{volume.infinite:,} infinite"] * bool(
                volume.infinite
            )
            if volume.first_fraction is not None:
                *voxel, value = volume.first_fraction
                said.append(f"{volume.fractions:,} fractional, the first {value!r} at voxel {tuple(voxel)} (x, y, z)")
            yield Problem(
                "not integral",
                (volume.case,),
                f"{volume.where}: labels must be integers, but of its values are {', '.join(said)}; "
                "is this an image, or resampled without nearest neighbours? threshold= makes a mask of it",
            )


def _values(volumes: Sequence[CheckedVolume]) -> Iterator[Problem]:
    for volume in volumes:
        if volume.role != "image" or volume.error is not None:
            continue
        if volume.nan or volume.infinite:
            yield Problem(
                "values",
                (volume.case,),
                f"{volume.where}: {volume.nan:,} voxels are NaN and {volume.infinite:,} infinite; normalization leaves "
                "them out, but they reach float images: replace them, or write an integer dtype",
            )
        if volume.range is None or volume.range[0] == volume.range[1]:
            value = "no finite value" if volume.range is None else f"the value {volume.range[0]:g}"
            yield Problem(
                "values", (volume.case,), f"{volume.where}: every voxel has {value}; was the export cut short?"
            )


def _empty(volumes: Sequence[CheckedVolume]) -> Iterator[Problem]:
    for volume in volumes:
        is_sound = volume.error is None and not volume.fractions
        if volume.role == "labels" and is_sound and not volume.labels:
            yield Problem(
                "empty", (volume.case,), f"{volume.where}: holds no label above 0; is nothing there, or is it missing?"
            )


def _alone(source: Source) -> Iterator[Problem]:
    """Cases that lack what others have."""
    if not any(case.labels for case in source.cases) or not any(case.image for case in source.cases):
        return
    for case in source.cases:
        if case.image is None:
            yield Problem("alone", (case.id,), f"{case.labels[0].file.where}: has no image, though other cases do")
        elif not case.labels:
            yield Problem("alone", (case.id,), f"{case.image.where}: has no labels, though other cases do")


def _duplicates(volumes: Sequence[CheckedVolume]) -> Iterator[tuple[Problem, bool]]:
    """Volumes with the same voxels, and whether that is a fault: equal labels of different images can be right."""
    groups: dict[str, list[CheckedVolume]] = defaultdict(list)
    for volume in volumes:
        if volume.range is not None and volume.range[0] != volume.range[1]:  # empty masks are alike
            groups[volume.digest].append(volume)
    alike = [group for group in groups.values() if len(group) > 1]
    twice = [{volume.case for volume in group} for group in alike if any(v.role == "image" for v in group)]
    for group in alike:
        cases = tuple(dict.fromkeys(volume.case for volume in group))
        is_fault = any(volume.role == "image" for volume in group)
        if not is_fault and any(twice_there.issuperset(cases) for twice_there in twice):
            continue  # the case is there twice, which its images say
        advice = "keep one, or a split may put the same voxels into training and test"
        if not is_fault:
            advice = "is one of them a copy by mistake?"
        same = ", ".join(volume.where for volume in group[1:])
        yield Problem("duplicate", cases, f"{group[0].where}: has the same voxels as {same}; {advice}"), is_fault


def _differing(volumes: Sequence[CheckedVolume]) -> Iterator[Problem]:
    """What differs between the images, or between the labels where there is no image."""
    sound = [volume for volume in volumes if volume.error is None]
    for role in ("image", "labels"):
        own = [volume for volume in sound if volume.role == role]
        if own:
            break
    else:
        return
    yield from _differing_word(own, "orientation", "pass reorient='RAS', so that axial is axial in all of them")
    yield from _differing_word(own, "dtype", "give a normalization, or dtype=, so that grey means the same in all")
    spacing = np.array([volume.spacing_mm for volume in own])
    broken = ~(np.isfinite(spacing) & (spacing > 0)).all(axis=1)
    for place in np.flatnonzero(broken).tolist():
        text = f"{own[place].where}: spacing {own[place].spacing_mm} mm; sizes in millimetres will be wrong"
        yield Problem("grid", (own[place].case,), text)
    spacing, kept = spacing[~broken], [volume for volume, bad in zip(own, broken, strict=True) if not bad]
    if len(kept) < 2 or (spacing.max(axis=0) <= 1.01 * spacing.min(axis=0)).all():
        return
    ratio = spacing / np.median(spacing, axis=0)
    far = [volume.case for volume, one in zip(kept, ratio, strict=True) if max(one.max(), 1 / one.min()) > 1.5]
    ends = zip("xyz", spacing.min(axis=0).tolist(), spacing.max(axis=0).tolist(), strict=True)
    said = ", ".join(f"{axis} {low:.4g} to {high:.4g} mm" for axis, low, high in ends)
    unlike = f"; {_listed(far)} differ from the median by more than half" if far else ""
    yield Problem(
        "grid", tuple(far), f"spacing differs between the cases: {said}{unlike}; spacing= resamples all to one"
    )


def _differing_word(volumes: Sequence[CheckedVolume], name: str, advice: str) -> Iterator[Problem]:
    groups: dict[str, list[str]] = defaultdict(list)
    for volume in volumes:
        groups[getattr(volume, name)].append(volume.case)
    if len(groups) < 2:
        return
    usual, *others = sorted(groups, key=lambda word: -len(groups[word]))
    said = ", ".join(f"{word} in {_listed(groups[word])}" for word in others)
    cases = tuple(case for word in others for case in groups[word])
    count = len(groups[usual])
    yield Problem("grid", cases, f"{name} differs: {usual} in {count:,} case{'s' * (count > 1)}, {said}; {advice}")


def _listed(cases: Sequence[str], most: int = 5) -> str:
    return ", ".join(cases[:most]) + (f" and {len(cases) - most:,} more" if len(cases) > most else "")
