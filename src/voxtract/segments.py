"""Tables of everything that is labelled, in coordinates of the whole dataset: segments, their components, and nodes.

Volumes that are stored in chunks are gone through chunk by chunk, so that memory does not depend on how far apart
things are; components are joined across chunks.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.classes import ClassMap
from voxtract.compute.components import find_components, find_components_in_chunks
from voxtract.compute.labels import stored_labels
from voxtract.errors import InvalidInput, VoxtractError
from voxtract.job import names
from voxtract.labelling import categories
from voxtract.model import Case, ChunkedFile, Components, LabelVolume, Source, VolumeFile
from voxtract.pipeline import check_cases
from voxtract.progress import Progress
from voxtract.report import CaseResult, Report
from voxtract.settings import Settings
from voxtract.write.files import Staging

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


Columns = dict[str, "NDArray[Any]"]

NM = 1e6  # in a millimetre

_BOX = tuple(f"{axis}_{end}" for end in ("MIN", "MAX") for axis in "XYZ")
_MEASURES = (*_BOX, "X", "Y", "Z", "X_NM", "Y_NM", "Z_NM", "SIZE_X_NM", "SIZE_Y_NM", "SIZE_Z_NM", "VOLUME_NM3")
_NAMED = ("CASE", "LAYER", "SEGMENT", "NAME", "GROUP", "COLOR")
SEGMENTS = (*_NAMED, "COMPONENTS", "VOXELS", *_MEASURES)
COMPONENTS = (*_NAMED, "VOXELS", *_MEASURES)
NODES = (
    *("TREE", "NAME", "GROUP", "COLOR", "NODE", "X", "Y", "Z", "X_NM", "Y_NM", "Z_NM"),
    *("RADIUS_NM", "BRANCHPOINT", "COMMENT"),
)
_PIECE = 10_000  # rows of a file that are made into text together


@dataclass(frozen=True, eq=False, slots=True)
class Tables:
    """Segments, components and nodes, each as columns of equal length.

    All coordinates are of the whole dataset in voxels of mag 1, whatever part of it and whatever mag a case is made of.
    Volumes of other formats are taken as datasets of one mag that begin at voxel 0.

    Parameters
    ----------
    segments : dict of column name to (n,) array
        A row for each label value of each label volume of each case. CASE, LAYER (label volume), SEGMENT (label value),
        NAME, GROUP and COLOR as far as they are known, COMPONENTS and VOXELS (how many), the box X_MIN ... Z_MAX
        (inclusive), the mean position X, Y, Z, the same in nanometres, the size of the box and the volume. Segments
        that are listed but have no voxel have 0 of them, and neither a box nor a position.
    components : dict of column name to (n,) array
        The same for each component of each segment, in raster order of their first voxels.
    nodes : dict of column name to (n,) array
        Of a skeleton: the tree of each node, its group, position, radius and comment.
    """

    segments: Columns
    components: Columns
    nodes: Columns

    def to_frames(self) -> dict[str, pd.DataFrame]:
        """The tables as data frames, by name."""
        import pandas as pd

        tables = {"segments": self.segments, "components": self.components, "nodes": self.nodes}
        return {name: pd.DataFrame(columns) for name, columns in tables.items()}


def tables(source: Source, *, connectivity: int | None = None, min_size: int = 1) -> Tables:
    """Measure all segments and components of a source.

    Parameters
    ----------
    source : Source
        As `voxtract.open_source` returns it.
    connectivity : int, optional
        1 joins voxels over faces only, 2 over edges too; by default corners are enough.
    min_size : int
        Components with fewer voxels (of the mag that is read) are left out, and count for no segment.

    Raises
    ------
    VoxtractError
        The labels of a case cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from voxtract.read import open_source
    >>> from voxtract.webknossos import Annotation
    >>> annotation = Annotation("cells", dataset_name="cortex", voxel_size=(4, 4, 35))
    >>> layer = annotation.add_volume_layer("nuclei", "uint16")
    >>> with layer.edit() as voxels:
    ...     voxels.add_mag(1).write(np.full((2, 3, 1), 7, "uint16"), absolute_offset=(1000, 2000, 30))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     annotation.save(f"{folder}/cells.zip")
    ...     found = tables(open_source(f"{folder}/cells.zip")).segments
    >>> [found[name].tolist() for name in ("SEGMENT", "VOXELS", "X_MIN", "X_MAX", "Y", "Z_NM", "VOLUME_NM3")]
    [[7], [6], [1000], [1001], [2001.0], [1050.0], [3360.0]]
    """
    found = [_measured(case, source, connectivity, min_size) for case in source.cases]
    return Tables(
        _joined([segments for segments, _ in found], SEGMENTS),
        _joined([components for _, components in found], COMPONENTS),
        _nodes(source),
    )


def write_tables(
    source: Source,
    output: Path,
    *,
    connectivity: int | None = None,
    min_size: int = 1,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Report:
    """Write ``segments.csv``, ``components.csv`` and, of an annotation, ``nodes.csv``.

    Parameters
    ----------
    source, connectivity, min_size
        As of `tables`.
    output : Path
        Folder to write to.
    overwrite : bool
        Replace tables that are there.
    progress : bool, optional
        As of `voxtract.extract`.

    Raises
    ------
    InvalidInput
        Tables are there already.
    OutputError
        They cannot be written.
    """
    begin = time.perf_counter()
    check_cases(source, Settings())
    there = [name for name in ("segments.csv", "components.csv", "nodes.csv") if (output / name).exists()]
    if there and not overwrite:
        raise InvalidInput(f"{output}: holds {', '.join(there)} already; pass overwrite=True (--overwrite)")
    results, found = [], []
    with Progress(len(source.cases), "tables", show=progress) as bar:
        for case in source.cases:
            bar.begin(case.id)
            try:
                segments, components = _measured(case, source, connectivity, min_size)
            except VoxtractError as error:
                bar.end(error)
                results.append(CaseResult(case.id, "failed", names(case), error=error))
                continue
            bar.end()
            found.append((segments, components))
            rows = {"axial": len(components["CASE"])}
            results.append(CaseResult(case.id, "done", names(case), annotations=rows))
    written = {
        "segments.csv": _joined([segments for segments, _ in found], SEGMENTS),
        "components.csv": _joined([components for _, components in found], COMPONENTS),
    }
    if nodes := _nodes(source):
        written["nodes.csv"] = nodes
    with Staging(output) as staging:
        for name, columns in written.items():
            staging.write_pieces(name, _csv(columns))
    seconds = time.perf_counter() - begin
    return Report(str(output), "cpu", 1, tuple(results), source.skipped, seconds, source.remarks)


def components_of(file: VolumeFile, connectivity: int | None = None) -> Components:
    """Components of a label volume in 3D, with their sums of coordinates; chunk by chunk where it is stored so."""
    if isinstance(file, ChunkedFile):
        header = file.header()
        return find_components_in_chunks(
            file.layers(),
            header.grid.shape,
            header.dtype,
            "axial",
            extent="volume",
            connectivity=connectivity,
            mass=True,
        )
    labels = stored_labels(file.read(), None)
    return find_components(labels, "axial", extent="volume", connectivity=connectivity, mass=True)


def _measured(case: Case, source: Source, connectivity: int | None, min_size: int) -> tuple[Columns, Columns]:
    """Segments and components of a case."""
    segments, components = [], []
    for volume in case.labels:
        if _are_nodes(source, volume):  # they have a table of their own
            continue
        found = components_of(volume.file, connectivity)
        found = found.select(found.count >= min_size)
        scale = _Scale.of(volume.file)
        look = _look(source, volume)
        listed = look.listed if len(source.cases) == 1 else set()
        parts = scale.measure(found.start, found.stop, found.total, found.count)
        components.append({**_named(case.id, volume.name, found.label, look), **parts})
        segments.append(_segments(case.id, volume, found, scale, look, listed))
    return _joined(segments, SEGMENTS), _joined(components, COMPONENTS)


def _segments(
    case_id: str, volume: LabelVolume, found: Components, scale: _Scale, look: _Look, listed: set[int]
) -> Columns:
    """Rows of components made into rows of segments, and of those that are listed but have no voxels."""
    label, row, count = np.unique(found.label, return_inverse=True, return_counts=True)
    start = np.full((len(label), 3), np.iinfo(np.int64).max)
    stop, total = np.zeros((len(label), 3), np.int64), np.zeros((len(label), 3), np.int64)
    voxels = np.zeros(len(label), np.int64)
    np.minimum.at(start, row, found.start)
    np.maximum.at(stop, row, found.stop)
    np.add.at(total, row, 0 if found.total is None else found.total)
    np.add.at(voxels, row, found.count)
    full = {
        **_named(case_id, volume.name, label, look),
        "COMPONENTS": count.astype(np.int64),
        **scale.measure(start, stop, total, voxels),
    }
    if listed <= set(label.tolist()):
        return full
    missing = np.array(sorted(listed - set(label.tolist())), np.int64)
    nothing = np.zeros(len(missing), np.int64)
    empty = {
        **_named(case_id, volume.name, missing, look),
        "COMPONENTS": nothing,
        "VOXELS": nothing,
        **dict.fromkeys(_MEASURES, np.full(len(missing), np.nan)),
    }
    both = _joined([full, empty], SEGMENTS)
    order = np.argsort(both["SEGMENT"], kind="stable")
    return {name: column[order] for name, column in both.items()}


@dataclass(frozen=True, eq=False, slots=True)
class _Scale:
    """From voxels of a volume to those of mag 1 of the whole dataset, and nanometres.

    Parameters
    ----------
    full, points : functions of (n, 3) voxels of the volume
        Ends of boxes, and points, in voxels of mag 1.
    factor : int
        Voxels of mag 1 in one of the volume.
    size : (3,) float64
        Nanometres of a voxel of mag 1.
    """

    full: Callable[[NDArray[Any]], NDArray[np.int64]]
    points: Callable[[NDArray[Any]], NDArray[np.float64]]
    factor: int
    size: NDArray[np.float64]

    @classmethod
    def of(cls, file: VolumeFile) -> _Scale:
        place = getattr(file, "place", None)
        if place is None:
            grid = file.header().grid
            return cls(lambda ends: ends, lambda points: points, 1, np.array(grid.spacing_mm) * NM)
        return cls(place.full, place.points, place.mag.volume, np.array(place.voxel_size))

    def measure(
        self, start: NDArray[Any], stop: NDArray[Any], total: NDArray[Any] | None, count: NDArray[Any]
    ) -> Columns:
        """Columns from VOXELS on."""
        if total is None:
            raise TypeError("components without sums of coordinates")
        low, high = self.full(start), self.full(stop)
        center = self.points(total / count[:, None])
        columns: list[NDArray[Any]] = [
            *low.T,
            *(high - 1).T,
            *center.T,
            *(center * self.size).T,
            *((high - low) * self.size).T,
            count * (self.factor * np.prod(self.size)),
        ]
        return {"VOXELS": count * self.factor, **dict(zip(_MEASURES, columns, strict=True))}


@dataclass(frozen=True, eq=False, slots=True)
class _Look:
    """What is known of label values.

    Parameters
    ----------
    of : (n,) label values -> n times name, group, colour
    listed : set of int
        Values that are known without being found.
    """

    of: Callable[[NDArray[Any]], Sequence[tuple[str, str, str]]]
    listed: set[int]


def _look(source: Source, volume: LabelVolume) -> _Look:
    layers = getattr(source, "layers", {})
    if volume.name in layers:
        from voxtract.read.webknossos.classes import of_layer

        things = of_layer(volume.name, layers[volume.name], 8).things
        known = {n: (thing.name, thing.group, thing.color or "") for n, thing in things.items()}
        return _Look(lambda labels: [known.get(n, ("", "", "")) for n in labels.tolist()], set(known))
    return _Look(lambda labels: _classes(labels, volume, source.classes), set())


def _classes(labels: NDArray[Any], volume: LabelVolume, classes: ClassMap | None) -> list[tuple[str, str, str]]:
    """Name and colour of the class of each label."""
    if classes is None:
        return [("", "", "")] * len(labels)
    ids = classes.ids(categories(labels, volume))
    of_id = {n: classes[n] for n in np.unique(ids).tolist()}
    return [(of_id[n].name, "", of_id[n].color) for n in ids.tolist()]


def _named(case_id: str, layer: str, labels: NDArray[Any], look: _Look) -> Columns:
    values, row = np.unique(labels, return_inverse=True)
    texts = np.array(look.of(values), object).reshape(-1, 3)[row.reshape(-1)]
    text = [np.full(len(labels), one, object) for one in (case_id, layer)]
    return dict(zip(_NAMED, [*text, labels, *texts.T], strict=True))


def _are_nodes(source: Source, volume: LabelVolume) -> bool:
    if getattr(source, "annotation", None) is None:
        return False
    from voxtract.read.webknossos.files import NodeFile

    return isinstance(volume.file, NodeFile)


def _nodes(source: Source) -> Columns:
    """All nodes of an annotation, tree by tree; no column for a source that has no skeleton."""
    annotation = getattr(source, "annotation", None)  # of an AnnotationSource, which is not imported
    if annotation is None:
        return {}
    from voxtract.read.webknossos.classes import of_skeleton, with_groups

    skeleton = annotation.skeleton
    things = of_skeleton("", skeleton).things
    parts = []
    for tree, _ in with_groups(skeleton):
        table, thing, count = tree.table, things[tree.id], len(tree.table)
        position = tree.get_node_positions()
        radius = np.array(table.columns.get("radius", [np.nan] * count), np.float64)
        comments = np.full(count, "", object)
        comments[list(table.comments)] = list(table.comments.values())
        branch = np.zeros(count, np.int64)
        branch[list(table.branchpoints)] = 1
        columns: list[NDArray[Any]] = [
            np.full(count, tree.id),
            *(np.full(count, text or "", object) for text in (thing.name, thing.group, thing.color)),
            np.array(table.columns["id"], np.int64),
            *position.T,
            *(position * np.array(skeleton.voxel_size)).T,
            np.where(np.isfinite(radius), radius, np.nan),
            branch,
            comments,
        ]
        parts.append(dict(zip(NODES, columns, strict=True)))
    return _joined(parts, NODES)


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]], columns: Sequence[str]) -> Columns:
    """All rows of the parts."""
    if not parts:
        return {name: np.zeros(0, np.int64) for name in columns}
    return {name: np.concatenate([_plain(part[name]) for part in parts]) for name in columns}


def _plain(column: NDArray[Any]) -> NDArray[Any]:
    """Label values of different widths joined without going through floats."""
    if column.dtype.kind not in "iu":
        return column
    wide = column.dtype == np.uint64 and len(column) and int(column.max()) > np.iinfo(np.int64).max
    return column if wide else column.astype(np.int64)


def _csv(columns: Columns) -> Iterator[bytes]:
    """A table as text, some rows at a time; what is not there is empty."""
    count = len(next(iter(columns.values())))
    for first in range(0, max(1, count), _PIECE):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if first == 0:
            writer.writerow(columns)
        rows = [_cells(name, column[first : first + _PIECE]) for name, column in columns.items()]
        writer.writerows(zip(*rows, strict=True))
        yield text.getvalue().encode()


def _cells(name: str, column: NDArray[Any]) -> list[Any]:
    cells: list[Any] = column.tolist()
    if column.dtype.kind != "f":
        return cells
    whole = name in _BOX  # as numbers they are floats only because some rows have none
    return ["" if math.isnan(cell) else int(cell) if whole else cell for cell in cells]
