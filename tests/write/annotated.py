"""Label volumes with what is in them, found by scikit-image, and all files that a format writes about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import measure

from tests.oracles import AXES
from tests.strategies import masks as label_volumes
from voxtract.classes import ClassMap
from voxtract.compute.components import find_components
from voxtract.compute.masks import SliceMasks
from voxtract.geometry import VIEWS, Grid, Plane, View
from voxtract.model import Findings
from voxtract.write.annotations import AnnotationFormat

measure_label: Any = measure.label  # scikit-image has no types

Voxels = frozenset[tuple[int, int, int]]
ALL = ClassMap.of({1: "liver", 2: 'a "b" & <c>', "*": "all the rest"})


@dataclass(frozen=True)
class Annotated:
    """A view of a label volume.

    `truth` has a pair of label and voxels (x, y, z) for each row, in the order of the rows.
    """

    labels: NDArray[Any]
    found: Findings
    masks: SliceMasks
    truth: list[tuple[int, Voxels]]

    def in_slice(self, index: int) -> list[tuple[int, Voxels]]:
        """What there is in one slice."""
        axis = self.found.plane.axes[2]
        return [(label, voxels) for label, voxels in self.truth if all(voxel[axis] == index for voxel in voxels)]


def pieces(labels: NDArray[Any], view: str, connectivity: int | None, whole: bool) -> list[tuple[int, Voxels]]:
    """Label and voxels of each component (or label) of each slice, in raster order of the first one."""
    row, column, index = AXES[view]
    found = []
    for k in range(labels.shape[index]):
        image = np.moveaxis(labels, index, 0)[k]  # leaves the order (rows, columns)
        for value in np.unique(image[image > 0]):
            mask = image == value
            numbered = mask.astype(int) if whole else measure_label(mask, connectivity=connectivity or 2)
            for number in range(1, numbered.max() + 1):
                at = [(int(r), int(c)) for r, c in np.argwhere(numbered == number)]
                found.append((k, min(at), int(value), at))
    voxels = []
    for k, _, value, at in sorted(found):
        places = []
        for r, c in at:
            place = [0, 0, 0]
            place[row], place[column], place[index] = r, c, k
            places.append((place[0], place[1], place[2]))
        voxels.append((value, frozenset(places)))
    return voxels


def annotate(
    labels: NDArray[Any],
    view: View = "axial",
    *,
    case: str = "case",
    target: tuple[int, int] | None = None,
    connectivity: int | None = None,
    objects: Literal["components", "labels"] = "components",
    slices: Sequence[int] | None = None,
    folder: str = "images",
    split: str | None = None,
    affine: NDArray[np.float64] | None = None,
    suffix: str = ".png",
) -> Annotated:
    """Find the components of each slice; `slices` are the chosen ones, by default all."""
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    plane = Plane(view, shape, target)
    rows = find_components(labels, view, connectivity=connectivity, objects=objects)
    chosen = np.arange(plane.count) if slices is None else np.array(slices, np.int64)
    rows = rows.select(np.isin(rows.start[:, plane.axes[2]], chosen))
    grid = Grid(shape, np.eye(4) if affine is None else affine)
    found = Findings(case, plane, grid, rows, "slice", chosen, f"{folder}/{case}_{view}_", suffix, True, split)
    masks = SliceMasks(labels, plane, rows, connectivity)
    truth = [
        (label, voxels)
        for label, voxels in pieces(labels, view, connectivity, objects == "labels")
        if all(voxel[plane.axes[2]] in chosen for voxel in voxels)
    ]
    return Annotated(labels, found, masks, truth)


@st.composite
def annotated(draw: st.DrawFn, case: str = "case", split: str | None = None) -> Annotated:
    """Small volumes of every dtype and layout, padded or not, with some or all slices."""
    labels = draw(label_volumes(max_side=6))
    view = draw(st.sampled_from(VIEWS))
    row, column, index = AXES[view]
    pad = draw(st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5)))
    slices = draw(st.none() | st.sets(st.integers(0, labels.shape[index] - 1)).map(sorted))
    return annotate(
        labels,
        view,
        case=case,
        target=None if pad is None else (labels.shape[row] + pad[0], labels.shape[column] + pad[1]),
        connectivity=draw(st.sampled_from([None, 1, 2])),
        objects=draw(st.sampled_from(["components", "labels"])),
        slices=slices,
        folder="images" if split is None else f"images/{split}",
        split=split,
        affine=draw(affines()),
    )


@st.composite
def affines(draw: st.DrawFn) -> NDArray[np.float64]:
    """Oblique, sheared, flipped and shifted grids of a size that medical volumes have."""
    directions = draw(st.lists(st.integers(-6, 6), min_size=9, max_size=9))
    affine = np.eye(4)
    affine[:3, :3] = np.array(directions).reshape(3, 3) / 4 + np.diag([4, -5, 6])
    affine[:3, 3] = draw(st.tuples(*(st.integers(-200, 200) for _ in range(3))))
    return affine


@dataclass(frozen=True)
class Run:
    """A finished run: see `voxtract.write.annotations.Finished`."""

    cases: Sequence[Findings]
    files: dict[str, bytes]

    def findings(self) -> Iterator[Findings]:
        yield from self.cases

    def part(self, name: str) -> bytes:
        return self.files[name]


def written(writer: AnnotationFormat, cases: Iterable[Annotated], *, masks: bool = False) -> dict[str, bytes]:
    """All files of a run; none is written twice."""
    files: dict[str, bytes] = {}
    cases = list(cases)
    for case in cases:
        for name, content in writer.case_files(case.found, case.masks if masks else None):
            assert name not in files
            assert isinstance(content, str)
            files[name] = content.encode()
    for name, pieces_ in writer.run_files(Run([case.found for case in cases], files)):
        assert name not in files
        files[name] = b"".join(pieces_)
    return files


def voxels_of(case: Annotated, pixels: NDArray[Any]) -> Voxels:
    """Voxels of the pixels (n, 3) X, Y, Z."""
    return frozenset((x, y, z) for x, y, z in case.found.plane.voxel(pixels).tolist())


def box_voxels(case: Annotated, index: int, box: Sequence[int]) -> Voxels:
    """Voxels of the inclusive pixel box X_MIN, Y_MIN, X_MAX, Y_MAX of a slice."""
    x0, y0, x1, y1 = box
    return voxels_of(
        case, np.array([(x, y, index) for x in range(x0, x1 + 1) for y in range(y0, y1 + 1)]).reshape(-1, 3)
    )


def around(voxels: Voxels) -> Voxels:
    """All voxels of the box around some."""
    low, high = np.min(list(voxels), axis=0), np.max(list(voxels), axis=0)
    ranges = [range(a, b + 1) for a, b in zip(low, high, strict=True)]
    return frozenset((x, y, z) for x in ranges[0] for y in ranges[1] for z in ranges[2])
