"""The NIfTI layout of Supervisely's export application, which its importer and ours read: by class or by plane."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput, check_choice
from voxtract.geometry import Grid, Plane, View
from voxtract.model import Case
from voxtract.write import nifti
from voxtract.write.files import Content
from voxtract.write.supervisely.objects import RasLabels, Thing, labels_of, on_ras

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("voxtract")

Kept = Literal["auto", "semantic", "instance"]

CLASS_NAMES = "class_names.json"  # read/supervisely/class_names.py reads it; Supervisely passes over it
PLANES: dict[View, str] = {"axial": "axl", "coronal": "cor", "sagittal": "sag"}

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_LONGEST = 200  # bytes of a file name without its suffix
_WORDS = re.compile(r"(?<![^\W_])(?:anatomic[^\W_]*|axl|cor|sag)(?![^\W_])", re.IGNORECASE)
_TRAPS = ("cor", "sag", "axl")  # the importer looks for them in all file names, inside of words too


@dataclass(frozen=True, slots=True)
class NiftiFolders:
    """Writer of volumes and masks as NIfTI.

    All volumes are turned to RAS by flips and swaps of axes; image voxels and scaling stay as they are stored.

    ``by="class"`` writes ``<case>.nii.gz`` and ``<case>/<class>.nii.gz``, which have no place for scores, and
    ``class_names.json`` with numbers, names and colours of the classes, which voxtract reads and Supervisely does not.
    ``by="plane"`` is for cases that are looked at in one view: ``<plane>_anatomic.nii.gz`` and its
    ``<plane>_inference.nii.gz``, in a folder called like what is left of the case's id without these words, with
    ``color_map.txt`` above all and ``<plane>_score.csv`` beside it.

    Parameters
    ----------
    classes : ClassMap
        Of all cases.
    by : {"class", "plane"}
    kept : {"auto", "semantic", "instance"}
        Whether objects of one class stay apart. By class: "instance" keeps the label values, "semantic" writes 1; by
        plane: "instance" writes a file of label values for each class, "semantic" one file of class ids. "auto" is
        "instance" by class; by plane it is "semantic" for a case in which no class has two objects and nothing
        overlaps.
    dataset : str
        Folder for all cases; empty for none.
    lossy : bool
        Leave out what this layout cannot hold, with a warning: scores and shapes on slices by class or of other
        views; where objects of one file share voxels, the later one has them. Otherwise each of it is an error.
    sdk_compatible : bool
        Refuse what Supervisely's own importer misreads: names with ``cor``, ``sag`` or ``axl`` in them by class, and
        score tables with empty cells.

    Raises
    ------
    InvalidInput
        An unknown word, or a dataset that is no folder name.
    """

    classes: ClassMap
    by: Literal["class", "plane"] = "class"
    kept: Kept = "auto"
    dataset: str = ""
    lossy: bool = False
    sdk_compatible: bool = False

    def __post_init__(self) -> None:
        check_choice("by", self.by, ("class", "plane"))
        check_choice("kept", self.kept, ("auto", "semantic", "instance"))
        if self.dataset and (_safe(self.dataset) != self.dataset):
            raise InvalidInput(f"dataset {self.dataset!r} cannot be the name of a folder; give another")

    def case_files(self, case: Case) -> Iterator[tuple[str, Content]]:
        """Files of one case.

        Raises
        ------
        VoxtractError
            A file that cannot be read; no image by class; what `lossy` would leave out; different scores of objects
            of one class in one slice; what `sdk_compatible` refuses.
        """
        grid: Grid | None = None
        place = self._place(case)
        if case.image is not None:
            volume, grid, turn = on_ras(case.image)
            if place.view is not None and turn.source != (0, 1, 2) and _named_view(case) is None:
                raise InvalidInput(
                    f"case {case.id!r}: its axes are not along R, A, S, so that its view is not that of a plane; "
                    "turn it to RAS, or write it by class"
                )
            header = volume.header
            content = nifti.encode(volume.data, grid.affine, slope=header.slope, intercept=header.intercept)
            yield f"{place.volume}.nii.gz", content
        elif self.by == "class":
            raise InvalidInput(
                f"case {case.id!r} has no image, and masks alone would be taken for one; write a project"
            )
        found = []
        for labels, on in labels_of(case, grid, self.classes, place.volume):
            grid = on
            if self._fits(case, labels, place.view):
                found.append(labels)
        if grid is not None:
            yield from self._by_class(found, place, grid) if self.by == "class" else self._by_plane(found, place, grid)

    def run_files(self, cases: Iterable[Case]) -> Iterator[tuple[str, Content]]:
        """Colour map, or the names and colours of classes; of `cases` no file is read.

        Raises
        ------
        InvalidInput
            Two cases that would be written to one file; a case whose view is not known.
        """
        owners: dict[str, str] = {}
        ids = []
        for case in cases:
            other = owners.setdefault(self._place(case).volume.casefold(), case.id)
            if other != case.id:
                raise InvalidInput(f"cases {other!r} and {case.id!r} would be one file; rename one of them")
            ids.append(case.id)
        if self.by == "plane":
            lines = (
                f"{self._numbers[one.id]} {one.name} {' '.join(str(part) for part in bytes.fromhex(one.color[1:]))}"
                for one in self.classes.categories
            )
            yield "color_map.txt", "\n".join(lines)
            return
        told = {_in_folder(stem, i): asdict(self.classes[n]) for n, stem in self._stems().items() for i in ("", *ids)}
        if told:
            yield self._in_dataset(CLASS_NAMES), json.dumps(told, ensure_ascii=False, indent=1) + "\n"

    # --- by class

    def _by_class(self, found: Sequence[RasLabels], place: _Place, grid: Grid) -> Iterator[tuple[str, Content]]:
        stems = self._stems()
        for category, parts in _of_classes(found):
            kept = self._kept(parts)
            voxels = self._merged(parts, kept, grid, f"{place.volume}, class {self.classes[category].name!r}")
            stem = _in_folder(stems[category], place.case_id)
            yield f"{place.volume}/{stem}.nii.gz", nifti.encode(voxels, grid.affine)

    def _kept(self, parts: Sequence[_Part]) -> Mapping[str, int]:
        """Voxel value of each object of one class, by key: its label, or a number where two have the same one."""
        if self.kept == "semantic":
            return {thing.key: 1 for _, thing in parts}
        labels = {thing.key: thing.label for _, thing in parts}
        if len(set(labels.values())) < len(labels):
            return {key: number for number, key in enumerate(labels, 1)}
        return labels

    def _stems(self) -> dict[int, str]:
        """File name of each class, each once also where capitals do not count and beside a case called like it."""
        stems: dict[int, str] = {}
        taken: set[str] = set()
        for one in self.classes.categories:
            stem, number = _safe(one.name), 1
            while taken.intersection(_names_of(stem)):
                number += 1
                stem = f"{_safe(one.name)}_{number}"
            taken.update(_names_of(stem))
            stems[one.id] = stem
        return stems

    # --- by plane

    def _by_plane(self, found: Sequence[RasLabels], place: _Place, grid: Grid) -> Iterator[tuple[str, Content]]:
        parts = list(_of_classes(found))
        stem = place.volume.replace("_anatomic", "_inference")
        apart = self.kept == "instance" or (self.kept == "auto" and self._must_stay_apart(parts, grid))
        if apart:
            last = max((self._numbers[category] for category, _ in parts), default=0)
            of_number = {self._numbers[category]: own for category, own in parts}
            # The importer counts files, and takes a single one for a semantic mask: so there are at least two.
            for number in range(1, max(last, 2) + 1 if found else 1):
                own = of_number.get(number, [])
                voxels = self._merged(own, self._kept(own), grid, f"{place.volume}, class {number}")
                yield f"{stem}_{number:02d}.nii.gz", nifti.encode(voxels, grid.affine)
        elif found:
            numbers = {thing.key: self._numbers[category] for category, own in parts for _, thing in own}
            everything = [part for _, own in parts for part in own]
            voxels = self._merged(everything, numbers, grid, place.volume)
            yield f"{stem}.nii.gz", nifti.encode(voxels, grid.affine)
        table = self._table(parts, place)
        if table:
            yield f"{place.volume.replace('_anatomic', '_score')}.csv", table

    @property
    def _numbers(self) -> dict[int, int]:
        """Number of each class: its id, or its position where ids are too large to have a file each."""
        ids = [one.id for one in self.classes.categories]
        if self.kept == "semantic" or max(ids, default=0) <= 99:
            return {number: number for number in ids}
        return {number: position for position, number in enumerate(ids, 1)}

    def _must_stay_apart(self, parts: Sequence[tuple[int, list[_Part]]], grid: Grid) -> bool:
        if any(len({thing.key for _, thing in own}) > 1 for _, own in parts):
            return True
        everything = [part for _, own in parts for part in own]
        return _overlap(everything, grid) > 0

    def _table(self, parts: Sequence[tuple[int, list[_Part]]], place: _Place) -> str:
        """Score table; empty where there are no scores."""
        columns: dict[int, dict[int, float]] = {}
        for category, own in parts:
            if place.view is None:
                continue
            for index in sorted({index for _, thing in own for index in thing.scores.get(place.view, {})}):
                told = {
                    thing.scores.get(place.view, {}).get(index)
                    for labels, thing in own
                    if index in thing.scores.get(place.view, {}) or _is_in(labels, thing, place.view, index)
                }
                if len(told) > 1:
                    raise InvalidInput(
                        f"{place.volume}: objects of class {self.classes[category].name!r} have different scores in "
                        f"slice {index}, but a table has one for each class; write a project"
                    )
                columns.setdefault(self._numbers[category], {})[index] = next(iter(told))  # type: ignore[assignment]
        rows = [["Layer", *(f"Label-{number}" for number in sorted(columns))]]
        for index in sorted({index for column in columns.values() for index in column}):
            cells = [columns[number].get(index) for number in sorted(columns)]
            if self.sdk_compatible and None in cells:
                raise InvalidInput(
                    f"{place.volume}: Layer {index + 1} has no score for some classes, and Supervisely's importer "
                    "drops a table with an empty cell; complete the scores, or write without sdk_compatible"
                )
            rows.append([str(index + 1), *("" if cell is None else repr(float(cell)) for cell in cells)])
        return "".join(",".join(row) + "\n" for row in rows) if columns else ""

    # --- both

    def _merged(self, parts: Sequence[_Part], numbers: Mapping[str, int], grid: Grid, where: str) -> NDArray[Any]:
        """Paint the objects of one file."""
        voxels = np.zeros(grid.shape, np.min_scalar_type(max(numbers.values(), default=1)), order="F")
        lost = 0
        for labels, thing in parts:
            planes, number = slice(thing.first, thing.stop), numbers[thing.key]
            mask, target = labels.voxels[..., planes] == thing.label, voxels[..., planes]
            lost += int(np.count_nonzero((target[mask] != 0) & (target[mask] != number)))
            target[mask] = number
        if lost:
            self._leave_out(f"{where}: objects overlap in {lost} voxels, but a file has one value per voxel")
        return voxels

    def _fits(self, case: Case, labels: RasLabels, view: View | None) -> bool:
        """Whether a label volume has a place in this layout at all."""
        where = f"case {case.id!r}, {labels.volume.name or labels.volume.file.where}"
        scored = {name for thing in labels.things for name in thing.scores} - {view}
        if scored:
            self._leave_out(f"{where}: scores of {' and '.join(sorted(scored))} slices have no place in this layout")
        if labels.views is None or (view is not None and set(labels.views) == {view}):
            return True
        drawn = " and ".join(labels.views)
        self._leave_out(f"{where}: shapes drawn on {drawn} slices have no place in this layout")
        return False

    def _leave_out(self, what: str) -> None:
        if not self.lossy:
            raise InvalidInput(f"{what}; write a project, or lossy=True to leave it out")
        log.warning("%s; left out", what)

    def _place(self, case: Case) -> _Place:
        """Where the volume of a case is written."""
        if self.by == "class":
            if self.sdk_compatible:
                self._check_traps(case)
            return _Place(case.id, self._in_dataset(case.id), None)
        view = _view_of(case)
        left = re.sub(r"[\W_]*\0[\W_]*", "_", _WORDS.sub("\0", case.id)).strip("_")
        return _Place(case.id, self._in_dataset("/".join(filter(None, (left, f"{PLANES[view]}_anatomic")))), view)

    def _check_traps(self, case: Case) -> None:
        for name in (case.id, *(one.name for one in self.classes.categories)):
            trap = next((trap for trap in _TRAPS if trap in name), None)
            if trap:
                raise InvalidInput(
                    f"case {case.id!r}: Supervisely's importer takes {name!r} for the name of a plane, because it "
                    f"contains {trap!r}; rename it, or write without sdk_compatible"
                )

    def _in_dataset(self, name: str) -> str:
        return f"{self.dataset}/{name}" if self.dataset else name


@dataclass(frozen=True, slots=True)
class _Place:
    """Name of the volume's file without its suffix, and the view of a case that is written by plane."""

    case_id: str
    volume: str
    view: View | None


_Part = tuple[RasLabels, Thing]


def _of_classes(found: Sequence[RasLabels]) -> Iterator[tuple[int, list[_Part]]]:
    """Objects by class, in the order of the class ids."""
    by_class: dict[int, list[_Part]] = {}
    for labels in found:
        for thing in labels.things:
            by_class.setdefault(thing.category, []).append((labels, thing))
    yield from sorted(by_class.items())


def _overlap(parts: Sequence[_Part], grid: Grid) -> int:
    """Voxels that two of the objects share."""
    if len({id(labels) for labels, _ in parts}) < 2:
        return 0
    seen = np.zeros(grid.shape, bool, order="F")
    shared = 0
    for labels, thing in parts:
        planes = slice(thing.first, thing.stop)
        mask = labels.voxels[..., planes] == thing.label
        shared += int(np.count_nonzero(seen[..., planes] & mask))
        seen[..., planes] |= mask
    return shared


def _named_view(case: Case) -> View | None:
    """View of the plane that the id of a case names."""
    named = {word.lower() for word in _WORDS.findall(case.id)}
    views = [view for view, word in PLANES.items() if word in named]
    return views[0] if len(views) == 1 else None


def _view_of(case: Case) -> View:
    """Find the one view that a case is looked at in."""
    named = _named_view(case)
    views = case.views or ()
    if named is None and len(views) != 1:
        raise InvalidInput(
            f"case {case.id!r} is looked at in {' and '.join(views) or 'no view of its own'}, but is written by plane "
            "only where it is one; write it by class"
        )
    return named or views[0]


def _is_in(labels: RasLabels, thing: Thing, view: View, index: int) -> bool:
    """Whether an object has voxels in a slice."""
    axis = Plane(view, labels.voxels.shape).axes[2]
    return bool((labels.voxels.take(index, axis=axis) == thing.label).any())


def _in_folder(stem: str, case_id: str) -> str:
    """File name of a class beside a case: not the case's own, or the folder would not be one of masks."""
    return f"{stem}_class" if stem.casefold() == case_id.casefold() else stem


def _names_of(stem: str) -> set[str]:
    """Names that files of a class may have, in lower case."""
    return {stem.casefold(), _in_folder(stem, stem).casefold()}


def _safe(name: str) -> str:
    """Turn the name of a class into that of a file."""
    safe = _UNSAFE.sub("_", name).encode("utf-8", "replace")[:_LONGEST].decode("utf-8", "ignore")
    return safe.strip(" .") or "class"
