"""Labels, boxes and centers as annotations that WEBKNOSSOS opens, so that results can be corrected there."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.classes import Category, ClassMap, color_of
from voxtract.errors import InvalidInput
from voxtract.geometry import Box, Grid, Shape3
from voxtract.model import Case, ChunkedFile, Components, LabelVolume, VolumeFile
from voxtract.write.files import Content

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.webknossos import Annotation, VolumeLayer
    from voxtract.webknossos.mag import Mag
    from voxtract.webknossos.place import Place

Tiles = Iterator[tuple[Shape3, "NDArray[Any]"]]

SIDE = 32  # voxels of a chunk
NM = 1e6  # in a millimetre

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_\-.$@]")


@dataclass(frozen=True, slots=True)
class AnnotationZips:
    """``<case>.zip`` for each case with labels: an annotation with volume layers, bounding boxes and a skeleton.

    Each label volume is a volume layer with the same ids, whose segments are called and coloured like their classes;
    each component has a user bounding box, and a node at its middle in the tree of its class. Images are not written:
    they are in the dataset that the annotation is of.

    What comes from a WEBKNOSSOS annotation or dataset goes back to where it was, dataset and mag too. Volumes of other
    formats begin at voxel 0 of a dataset with their voxel size, unless the words below say otherwise.

    Parameters
    ----------
    find : LabelVolume -> Components
        Finds 3D components, with `total`.
    classes : ClassMap, optional
    dataset_name, organization_id : str, optional
        The dataset on the server; the name of the case where it is not given.
    offset : (x, y, z) or "affine", optional
        Voxel of mag 1 of the dataset at which the volumes begin. "affine": where their headers say it, in millimetres
        from voxel 0, which is what `voxtract.read.webknossos` gives and NIfTI keeps.
    mag : mag, optional
        Magnification of the volumes, as 1 or "2-2-1".
    voxel_size : (x, y, z), optional
        Nanometres of mag 1 of the dataset.
    mags : sequence of mags
        Coarser ones to compute for the volume layers; WEBKNOSSOS shows no labels when zoomed out without them.
    volumes, boxes, centers : bool
        What is written.
    min_size : int
        Components with fewer voxels have neither box nor node.
    """

    find: Callable[[LabelVolume], Components]
    classes: ClassMap | None = None
    dataset_name: str | None = None
    organization_id: str | None = None
    offset: str | Sequence[int] | None = None
    mag: Any = None
    voxel_size: Sequence[float] | None = None
    mags: Sequence[Any] = ()
    volumes: bool = True
    boxes: bool = True
    centers: bool = True
    min_size: int = 1

    def case_files(self, case: Case) -> Iterator[tuple[str, Content]]:
        """The annotation of one case; nothing for a case without labels.

        Raises
        ------
        VoxtractError
            A file that cannot be read; labels that are no whole numbers, or belong to no class.
        InvalidInput
            Words that do not fit the volumes.
        """
        from voxtract.webknossos import Annotation

        if not case.labels:
            return
        place = self._place(case.labels[0].file, case.id)
        annotation = Annotation(
            case.id,
            dataset_name=place.dataset_name,
            voxel_size=place.voxel_size,
            organization_id=place.organization_id,
            time=None,
        )
        names = _layer_names(case.labels)
        for volume, name in zip(case.labels, names, strict=True):
            self._add(annotation, volume, name, self._place(volume.file, case.id))
        with tempfile.TemporaryDirectory(prefix="voxtract-") as folder:
            path = Path(folder) / "annotation.zip"
            annotation.save(path)
            content = path.read_bytes()
        yield f"{case.id}.zip", content

    def run_files(self, cases: Iterable[Case]) -> Iterator[tuple[str, Content]]:  # noqa: ARG002
        """None: every annotation is of one case."""
        return iter(())

    def _add(self, annotation: Annotation, volume: LabelVolume, name: str, place: Place) -> None:
        """Add a label volume: its voxels, then its components."""
        from voxtract.webknossos.mag import Mag

        found = self.find(volume) if self.boxes or self.centers else Components.none()
        found = found.select(found.count >= self.min_size)
        if self.volumes:
            layer = annotation.add_volume_layer(name, _dtype(volume.file))
            mags = [place.mag, *sorted(map(Mag, self.mags))]
            look = _Look.of(volume, self.classes, _write_voxels(layer, volume.file, place, mags))
            _list_segments(layer, look)
        else:
            look = _Look.of(volume, self.classes, dict.fromkeys(np.unique(found.label).tolist(), (0, 0, 0)))
        if self.boxes:
            _add_boxes(annotation, found, place, look)
        if self.centers:
            _add_nodes(annotation, found, place, look)

    def _place(self, file: VolumeFile, case_id: str) -> Place:
        """Where a volume lies in the dataset."""
        from voxtract.webknossos.mag import Mag
        from voxtract.webknossos.place import Place

        grid = file.header().grid
        known: Place | None = getattr(file, "place", None)
        mag = Mag(1 if self.mag is None else self.mag) if known is None or self.mag is not None else known.mag
        if self.voxel_size is not None:
            size = _three(self.voxel_size, "voxel_size")
        else:
            size = known.voxel_size if known else _three(np.array(grid.spacing_mm) * NM / np.array(mag), "voxel size")
        if self.offset is None:
            start = known.box.start if known else (0, 0, 0)
        else:
            first = _from_affine(grid, size, mag, file.where) if isinstance(self.offset, str) else self.offset
            if isinstance(self.offset, str) and self.offset != "affine":
                raise InvalidInput(f"offset {self.offset!r} must be 'affine', or x, y, z in voxels of mag 1")
            start = _in_mag(first, mag)
        stop = tuple(a + n for a, n in zip(start, grid.shape, strict=True))
        told = known.dataset_name if known else case_id
        organization = known.organization_id if known else None
        return Place(
            Box(start, stop),
            mag,
            size,
            told if self.dataset_name is None else self.dataset_name,
            organization if self.organization_id is None else self.organization_id,
        )


# ---------------------------------------------------------------- voxels


def _write_voxels(layer: VolumeLayer, file: VolumeFile, place: Place, mags: Sequence[Mag]) -> dict[int, Shape3]:
    """Give a volume layer its voxels in all mags; returns a voxel of each segment."""
    from voxtract.webknossos.archive import Scratch
    from voxtract.webknossos.downsample import factor_between
    from voxtract.webknossos.volume_writer import write_volume

    anchors: dict[int, Shape3] = {}
    dtype = _dtype(file)

    def level(n: int) -> Tiles:
        if n == 0:
            return _noted(tiles(file, place.box.start, dtype), place.mag, anchors)
        factor = factor_between(mags[n - 1], mags[n])
        if factor is None or max(factor) > SIDE:
            raise InvalidInput(f"mag {mags[n]} cannot be computed from mag {mags[n - 1]}; give multiples of {mags[0]}")
        return coarser(level(n - 1), factor)

    stored = Scratch(f"volume layer {layer.name!r}")
    write_volume(stored.path, dtype, {mag: level(n) for n, mag in enumerate(mags)}, None, place.voxel_size)
    layer.data = stored if anchors else None  # servers refuse zips without chunks
    layer.largest_segment_id = max(anchors, default=0)
    return anchors


def tiles(file: VolumeFile, start: Sequence[int], dtype: np.dtype[Any]) -> Tiles:
    """Labels of a volume that begins at the voxel `start`, as the chunks of 32 voxels a side that are not empty.

    Those that WEBKNOSSOS would store: they begin at multiples of 32. Sorted by z, y, x; a row of chunks is held.
    """
    held: dict[Shape3, NDArray[Any]] = {}
    for row in _rows(file):
        for n, (first, voxels) in enumerate(row):
            place = [a + b for a, b in zip(first, start, strict=True)]
            if n == 0:
                yield from _done(held, place[2] // SIDE)
            _put(held, place, _labels(voxels, file, dtype))
    yield from _done(held, None)


def coarser(finer: Tiles, factor: Shape3) -> Tiles:
    """Chunks of a coarser mag, from those of a finer one: each voxel has the label that most of the finer ones have."""
    from voxtract.webknossos.downsample import downsample_labels

    held: dict[Shape3, NDArray[Any]] = {}
    for start, tile in finer:
        place = [a // f for a, f in zip(start, factor, strict=True)]
        yield from _done(held, place[2] // SIDE)
        _put(held, place, downsample_labels(tile, factor))
    yield from _done(held, None)


def _rows(file: VolumeFile) -> Iterator[Iterable[tuple[Shape3, NDArray[Any]]]]:
    """Pieces that lie in the same planes, by rising z."""
    if isinstance(file, ChunkedFile):
        yield from file.layers()
        return
    first = 0
    for slab in file.slabs(SIDE):
        yield [((0, 0, first), slab)]
        first += slab.shape[2]


def _put(held: dict[Shape3, NDArray[Any]], start: Sequence[int], voxels: NDArray[Any]) -> None:
    """Put voxels into the chunks that they meet."""
    stop = [a + n for a, n in zip(start, voxels.shape, strict=True)]
    xs, ys, zs = (range(a // SIDE, -(-b // SIDE)) for a, b in zip(start, stop, strict=True))
    for z in zs:
        for y in ys:
            for x in xs:
                low = [max(a, n * SIDE) for a, n in zip(start, (x, y, z), strict=True)]
                high = [min(b, (n + 1) * SIDE) for b, n in zip(stop, (x, y, z), strict=True)]
                piece = voxels[tuple(slice(a - zero, b - zero) for a, b, zero in zip(low, high, start, strict=True))]
                if not piece.any():
                    continue
                if (x, y, z) not in held:
                    held[x, y, z] = np.zeros((SIDE, SIDE, SIDE), voxels.dtype, order="F")
                inside = (slice(a - n * SIDE, b - n * SIDE) for a, b, n in zip(low, high, (x, y, z), strict=True))
                held[x, y, z][tuple(inside)] = piece


def _done(held: dict[Shape3, NDArray[Any]], row: int | None) -> Tiles:
    """Give out and forget the chunks below a row of them; all, where it is None."""
    if row is not None and not any(z < row for _, _, z in held):
        return
    for key in sorted(held, key=lambda place: place[::-1]):
        if row is None or key[2] < row:
            x, y, z = (n * SIDE for n in key)
            yield (x, y, z), held.pop(key)


def _noted(found: Tiles, mag: Mag, anchors: dict[int, Shape3]) -> Tiles:
    """Note a voxel of mag 1 of each label that passes."""
    for start, tile in found:
        values, index = np.unique(tile.reshape(-1, order="F"), return_index=True)
        for value, at in zip(values.tolist(), index.tolist(), strict=True):
            if value and value not in anchors:
                inside = (at % SIDE, at // SIDE % SIDE, at // SIDE**2)
                anchors[value] = mag.times(a + b for a, b in zip(start, inside, strict=True))
        yield start, tile


def _dtype(file: VolumeFile) -> np.dtype[Any]:
    """Unsigned integers of the width that the labels have."""
    header = file.header()
    if header.is_scaled or header.dtype.kind == "f":
        return np.dtype(np.uint32)
    return np.dtype(f"u{header.dtype.itemsize}")


def _labels(voxels: NDArray[Any], file: VolumeFile, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Labels as they are stored; what is below 1 is background."""
    header = file.header()
    if header.is_scaled:
        voxels = voxels * header.slope + header.intercept
    if voxels.dtype.kind == "f" and not (np.isfinite(voxels).all() and (voxels == np.rint(voxels)).all()):
        raise InvalidInput(f"{file.where}: has voxels that are no whole numbers, but labels were expected")
    if voxels.dtype.kind in "if":
        voxels = np.maximum(voxels, 0)
    if voxels.dtype.kind == "f" and voxels.max(initial=0) > np.iinfo(dtype).max:
        raise InvalidInput(
            f"{file.where}: has the label {voxels.max():.0f}, more than {dtype} holds; store it as integers"
        )
    return voxels.astype(dtype, copy=False)


# ---------------------------------------------------------------- what is said of them


@dataclass(frozen=True, eq=False, slots=True)
class _Look:
    """Names and classes of the segments of a layer.

    Parameters
    ----------
    anchors : mapping of label to voxel
        Every segment is in it.
    class_of : mapping of label to Category
    names : mapping of label to str
    """

    anchors: Mapping[int, Shape3]
    class_of: Mapping[int, Category]
    names: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, volume: LabelVolume, classes: ClassMap | None, anchors: Mapping[int, Shape3]) -> _Look:
        """Call each segment like its class; with its label, where a class has several."""
        named = {} if classes is None else {one.id: one for one in classes.categories}
        class_of = {}
        for label in sorted(anchors):
            number = _category(volume, label)
            if number not in named:
                named[number] = _class(classes, number, volume.file.where)
            class_of[label] = named[number]
        often = Counter(one.id for one in class_of.values())
        names = {n: one.name if often[one.id] == 1 else f"{one.name} {n}" for n, one in class_of.items()}
        return cls(anchors, class_of, names)


def _class(classes: ClassMap | None, number: int, where: str) -> Category:
    """The class of a number that is not listed."""
    if classes is None:
        return Category(number, f"label_{number}", color_of(number))
    try:
        (found,) = classes.ids([number]).tolist()
    except InvalidInput as why:
        raise InvalidInput(f"{where}: {why}") from why
    return classes[found]


def _category(volume: LabelVolume, label: int) -> int:
    if volume.category is None:
        return label
    if isinstance(volume.category, int):
        return volume.category
    try:
        return volume.category[label]
    except KeyError as why:
        raise InvalidInput(f"{volume.file.where}: label value {label} belongs to no class") from why


def _list_segments(layer: VolumeLayer, look: _Look) -> None:
    """List the segments of a layer; those of a class that has several are in a group."""
    from voxtract.webknossos import SegmentGroup, SegmentInformation

    often = Counter(one.id for one in look.class_of.values())
    groups: dict[int, int] = {}
    for label, one in look.class_of.items():
        if often[one.id] > 1 and one.id not in groups:
            groups[one.id] = len(groups) + 1
            layer.segment_groups.append(SegmentGroup(groups[one.id], one.name))
        layer.segments[label] = SegmentInformation(
            look.names[label], look.anchors[label], _rgba(one.color), group_id=groups.get(one.id)
        )


def _add_boxes(annotation: Annotation, found: Components, place: Place, look: _Look) -> None:
    """A user bounding box for each component."""
    from voxtract.webknossos import BoundingBox

    start, stop = place.full(found.start), place.full(found.stop)
    for name, label, low, high in zip(
        _component_names(found, look), found.label.tolist(), start.tolist(), stop.tolist(), strict=True
    ):
        size = [b - a for a, b in zip(low, high, strict=True)]
        annotation.user_bounding_boxes.append(
            BoundingBox(
                low, size, name, color=_rgba(look.class_of[label].color), id=len(annotation.user_bounding_boxes)
            )
        )


def _add_nodes(annotation: Annotation, found: Components, place: Place, look: _Look) -> None:
    """A node for each component, in the tree of its class."""
    if not len(found):
        return
    trees = {tree.name: tree for tree in annotation.skeleton.trees}
    centers = np.rint(place.points(found.mass_center)).astype(np.int64)
    for name, label, center in zip(_component_names(found, look), found.label.tolist(), centers.tolist(), strict=True):
        one = look.class_of[label]
        if one.name not in trees:
            trees[one.name] = annotation.skeleton.add_tree(one.name, _rgba(one.color))
        trees[one.name].add_node(center, comment=name)


def _component_names(found: Components, look: _Look) -> list[str]:
    """Each component called like its segment; numbered, where a segment has several."""
    labels = found.label.tolist()
    often, seen = Counter(labels), Counter[int]()
    names = []
    for label in labels:
        seen[label] += 1
        names.append(look.names[label] if often[label] == 1 else f"{look.names[label]} ({seen[label]})")
    return names


def _layer_names(volumes: Sequence[LabelVolume]) -> list[str]:
    """Names that WEBKNOSSOS takes, each once."""
    out: list[str] = []
    for volume in volumes:
        name = again = _NOT_IN_NAMES.sub("_", volume.name).lstrip(".") or "labels"
        while again in out:
            again = f"{name}_{out.count(name) + len(out)}"
        out.append(again)
    return out


def _rgba(color: str) -> tuple[float, float, float, float]:
    red, green, blue = (int(color[n : n + 2], 16) / 255 for n in (1, 3, 5))
    return red, green, blue, 1.0


# ---------------------------------------------------------------- places


def _from_affine(grid: Grid, size: Sequence[float], mag: Mag, where: str) -> list[int]:
    """Voxel of mag 1 at which a volume begins, from the millimetres of its first voxel.

    Raises
    ------
    InvalidInput
        Axes that are turned, flipped or of another length, or a begin between voxels or before the first.
    """
    expected = np.diag(np.array(mag) * size) / NM
    first = grid.affine[:3, 3] * NM / size - (np.array(mag) - 1) / 2
    exact = np.rint(first)
    if (
        not np.allclose(grid.affine[:3, :3], expected, rtol=1e-3, atol=1e-3 * expected.max())
        or np.abs(first - exact).max() > 0.05
        or exact.min() < 0
    ):
        raise InvalidInput(
            f"{where}: its affine says no place in a dataset: voxels of {np.diag(expected).tolist()} mm along x, y, z "
            f"from voxel 0 on were expected, found {grid.affine[:3].tolist()}; give offset=(x, y, z)"
        )
    return [int(n) for n in exact]


def _in_mag(first: Sequence[int], mag: Mag) -> Shape3:
    """A voxel of mag 1 in voxels of a mag."""
    numbers = list(first)
    fits = len(numbers) == 3 and all(
        type(n) is int and n >= 0 and n % m == 0 for n, m in zip(numbers, mag, strict=True)
    )
    if not fits:
        raise InvalidInput(f"offset {numbers} must be x, y, z in voxels of mag 1, not negative, multiples of mag {mag}")
    x, y, z = (n // m for n, m in zip(numbers, mag, strict=True))
    return x, y, z


def _three(values: Iterable[float], what: str) -> tuple[float, float, float]:
    numbers = [float(value) for value in values]
    if len(numbers) != 3 or not all(0 < n < np.inf for n in numbers):
        raise InvalidInput(f"{what} {numbers} must be three finite numbers of nanometres above 0")
    return numbers[0], numbers[1], numbers[2]
