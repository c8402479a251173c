"""Label volumes out of what was drawn in one group: fetched, decoded and painted when they are read.

Objects that overlap go into different volumes ("layers"). How many there are is settled before anything is fetched,
from which objects share a frame; what really overlaps is known when the masks have been decoded, and then every object
goes into the lowest layer where it fits. So without overlaps all are in the first one, and the others are empty.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.model import Header, Volume, VolumeFile
from voxtract.read.labelbox.fetch import Fetcher, FetchFailed, shown
from voxtract.read.labelbox.masks import declared_size, decode_composite, decode_instance
from voxtract.read.labelbox.planes import GroupPlane, Options
from voxtract.read.labelbox.polylines import Piece, cut, painted
from voxtract.read.labelbox.values import Drawn, Group, Issue, MaskRef, Place, Polyline, Report, polyline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.storage import Remote

log = logging.getLogger("voxtract")

Key = tuple[str, str]  # feature id and kind, for a feature may be a line on one frame and a mask on another
Shapes = dict[int, list[Drawn]]  # by frame

_KEPT = 4  # groups whose pixels are kept, so that the layers of one are decoded together


@dataclass(frozen=True, slots=True)
class Painting:
    """One group over one image, and all that is needed to paint it.

    Parameters
    ----------
    image : VolumeFile
        Gives the grid.
    group : Group
    values : ((feature, kind, label value), ...)
    options : Options
    base : int
        Number of the first frame.
    fetcher : Fetcher
    place : Place
        Of the label, for issues.
    opened : int
        Which opening of an export it belongs to: a later one fetches again.
    """

    image: VolumeFile = field(hash=False)
    group: Group
    values: tuple[tuple[str, str, int], ...]
    options: Options
    base: int
    fetcher: Fetcher
    place: Place
    opened: int

    def plane(self) -> GroupPlane:
        """The plane of the group; the image's header is read."""
        return GroupPlane.of(self.group.name, self.image.header().grid, self.options, self.base, self.image)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned integers that hold all values."""
        return np.min_scalar_type(max((value for _, _, value in self.values), default=1))


@dataclass(frozen=True, eq=False, slots=True)
class Painted:
    """Pixels of each object, the layer it is in, and what went wrong."""

    pieces: Mapping[Key, tuple[Piece, ...]]
    layers: Mapping[Key, int]
    issues: tuple[Issue, ...]


@dataclass(frozen=True, slots=True)
class GroupLabels:
    """A label volume of one group; a `VolumeFile`.

    Parameters
    ----------
    painting : Painting
    layer : int
        0-based.
    strict : bool
        Whether a mask that cannot be had, and the like, is an error. Else it is a warning, and the object is missing.
    heard : dict of issues to None
        Takes what goes wrong when it is read.
    """

    painting: Painting
    layer: int = 0
    strict: bool = False
    heard: dict[Issue, None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def where(self) -> str:
        """Export, data row, label and group, for messages."""
        return self.painting.place.at(group=self.painting.group.name).where

    @property
    def volume_index(self) -> int | None:
        """There is one volume."""
        return None

    @property
    def paths(self) -> tuple[str | Remote, ...]:
        """The export, and the files of the image, whose grid it has."""
        return (self.painting.place.file, *self.painting.image.paths)

    def header(self) -> Header:
        """The image's grid and an unsigned integer dtype; nothing is fetched.

        Raises
        ------
        VoxtractError
            As the image's own.
        """
        return Header(self.painting.image.header().grid, self.painting.dtype, where=self.where)

    def issues(self) -> tuple[Issue, ...]:
        """What goes wrong when the group is painted; fetches and decodes it."""
        return paint(self.painting).issues

    def read(self) -> Volume:
        """Fetch and decode the masks of the group, and paint this layer of it.

        Returns
        -------
        Volume
            Label values (x, y, z), Fortran-ordered; 0 where nothing was drawn.

        Raises
        ------
        InvalidInput
            The plane of the group is not known; or, if strict, the first of the issues.
        VoxtractError
            As the image's header.
        """
        found = paint(self.painting)
        if found.issues and self.strict:
            more = f" (and {len(found.issues) - 1} more)" if len(found.issues) > 1 else ""
            raise InvalidInput(f"{found.issues[0]}{more}")
        if self.layer == 0:
            for issue in found.issues:
                log.warning("%s", issue)
            self.heard.update(dict.fromkeys(found.issues))
        header = self.header()
        plane = self.painting.plane()
        data = np.zeros(header.grid.shape, header.dtype, order="F")
        for feature, kind, value in self.painting.values:
            if found.layers.get((feature, kind)) != self.layer:
                continue
            for piece in found.pieces[feature, kind]:
                rows, columns = piece.mask.shape
                picture = plane.picture(data, piece.index)
                picture[piece.row : piece.row + rows, piece.column : piece.column + columns][piece.mask] = value
        return Volume(header, data)

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """As `read`, in pieces along z."""
        data = self.read().data
        for first in range(0, data.shape[2], planes):
            yield data[:, :, first : first + planes]


def keys_of(group: Group) -> list[Key]:
    """The objects of a group, in the order of their first frames."""
    return list(dict.fromkeys((one.feature, one.kind) for frame in group.frames for one in frame.objects))


def names_of(group: Group) -> dict[Key, str]:
    """The tool of each object, as its first frame names it."""
    names: dict[Key, str] = {}
    for frame in group.frames:
        for one in frame.objects:
            names.setdefault((one.feature, one.kind), one.name)
    return names


# --- frames between those drawn


def shapes(group: Group, options: Options, place: Place, report: Report) -> Shapes:
    """What is on each frame, with lines put on the frames of their segments between as `options.fill` says."""
    found: Shapes = {frame.number: list(frame.objects) for frame in group.frames}
    if options.fill == "none":
        return found
    drawn: dict[str, dict[int, Drawn]] = {}
    for frame in group.frames:
        for one in frame.objects:
            if one.kind == "polyline":
                drawn.setdefault(one.feature, {})[frame.number] = one
    for feature, ranges in group.segments:
        here = place.at(group=group.name, feature=feature)
        for first, last in ranges:
            for number, one in _between(drawn.get(feature, {}), first, last, options, here, report):
                found.setdefault(number, []).append(one)
    return found


def _between(
    drawn: Mapping[int, Drawn], first: int, last: int, options: Options, place: Place, report: Report
) -> Iterator[tuple[int, Drawn]]:
    numbers = [number for number in sorted(drawn) if first <= number <= last]
    ends = [*numbers[1:], last + 1] if options.fill == "hold" else numbers[1:]
    for before, after in zip(numbers, ends, strict=False):
        one, other = drawn[before], drawn.get(after)
        for number in range(before + 1, after):
            line = (
                _line_between(one, other, (number - before) / (after - before))
                if options.fill == "linear"
                else one.geometry
            )
            if line is None:
                report(
                    place.at(frame=number).issue(
                        "fill-not-possible",
                        f"the lines of frames {before} and {after} have different numbers of points, so none is put "
                        "between; fill='hold' repeats the first",
                    )
                )
                break
            yield number, one._replace(geometry=line, key_frame=False)


def _line_between(one: Drawn, other: Drawn | None, share: float) -> Polyline | None:
    if other is None or not isinstance(one.geometry, Polyline) or not isinstance(other.geometry, Polyline):
        return None
    a, b = one.geometry.points, other.geometry.points
    return polyline(a + share * (b - a)) if a.shape == b.shape else None


# --- layers


def layers_at_most(group: Group, options: Options) -> dict[Key, int]:
    """A layer for each object such that no two in one layer can overlap, whatever the masks hold."""
    rivals: dict[Key, set[Key]] = {key: set() for key in keys_of(group)}
    for drawn in shapes(group, options, Place(""), lambda _: None).values():
        for i, one in enumerate(drawn):
            for other in drawn[:i]:
                if _may_overlap(one, other, options):
                    rivals[one.feature, one.kind].add((other.feature, other.kind))
                    rivals[other.feature, other.kind].add((one.feature, one.kind))
    layers: dict[Key, int] = {}
    for key, others in rivals.items():
        taken = {layers[other] for other in others if other in layers}
        layers[key] = next(n for n in range(len(taken) + 1) if n not in taken)
    return layers


def _may_overlap(one: Drawn, other: Drawn, options: Options) -> bool:
    a, b = one.geometry, other.geometry
    if isinstance(a, MaskRef) and isinstance(b, MaskRef):
        return a.url != b.url or a.color is None or b.color is None or a.color == b.color
    if isinstance(a, Polyline) and isinstance(b, Polyline) and options.inplane == "native":
        apart = (a.points.min(axis=0) > b.points.max(axis=0) + 1) | (b.points.min(axis=0) > a.points.max(axis=0) + 1)
        return not bool(apart.any())
    return True


def _compacted(pieces: Mapping[Key, tuple[Piece, ...]], most: Mapping[Key, int]) -> dict[Key, int]:
    """Move every object to the lowest layer where it overlaps nothing; never above the one it has in `most`.

    Objects come in the order of their layers in `most`, so that an object finds in its own none that it may overlap.
    """
    layers: dict[Key, int] = {}
    filled: list[dict[int, list[Piece]]] = [{} for _ in range(max(most.values(), default=-1) + 1)]
    for key in sorted(pieces, key=lambda key: most[key]):
        fits = (
            layer
            for layer in range(most[key])
            if not any(piece.overlaps(other) for piece in pieces[key] for other in filled[layer].get(piece.index, ()))
        )
        layers[key] = next(fits, most[key])
        for piece in pieces[key]:
            filled[layers[key]].setdefault(piece.index, []).append(piece)
    return layers


# --- pixels


@lru_cache(maxsize=_KEPT)
def paint(painting: Painting) -> Painted:
    """Fetch, decode and place everything that was drawn in a group; the last few groups are kept.

    Raises
    ------
    VoxtractError
        The image's header cannot be read.
    InvalidInput
        The plane of the group is not known.
    """
    issues: list[Issue] = []
    plane = painting.plane()
    place = painting.place.at(group=plane.group)
    pieces: dict[Key, list[Piece]] = {}
    masks: dict[str, list[tuple[Place, int, MaskRef]]] = {}
    outside: dict[str, list[tuple[float, Place]]] = {}
    for number, drawn in sorted(shapes(painting.group, painting.options, place, issues.append).items()):
        index = plane.slice_of(number)
        if index is None:
            here = place.at(frame=number)
            message = f"the frame {plane.beyond()}; its {len(drawn)} objects are left out"
            issues.append(here.issue("frame-beyond", message))
            continue
        for one in drawn:
            here = place.at(frame=number, feature=one.feature)
            if isinstance(one.geometry, MaskRef):
                masks.setdefault(one.geometry.url, []).append((here, index, one.geometry))
                continue
            over = _overshoot(one.geometry, plane)
            piece = painted(one.geometry, plane, index, painting.options.closed, painting.options.paint == "area")
            if over > 0 or piece is None:
                outside.setdefault(one.feature, []).append((over, here))
            if piece is not None:
                pieces.setdefault((one.feature, "polyline"), []).append(piece)
    issues += [_outside(found) for found in outside.values()]
    for found in _decoded(masks, plane, painting.fetcher):
        if isinstance(found, Issue):
            issues.append(found)
        else:
            feature, piece = found
            pieces.setdefault((feature, "mask"), []).append(piece)
    done = {key: tuple(found) for key, found in pieces.items()}
    return Painted(done, _compacted(done, layers_at_most(painting.group, painting.options)), tuple(issues))


def _overshoot(line: Polyline, plane: GroupPlane) -> float:
    """How far points lie outside of the picture, in voxels; 0 if none does."""
    height, width = plane.native_size
    corners = plane.corners(line.points)
    return float(max((-corners).max(), (corners - np.array([width, height])).max(), 0.0))


def _outside(found: list[tuple[float, Place]]) -> Issue:
    over, place = max(found, key=lambda one: one[0])
    message = (
        f"points lie outside of the picture on {len(found)} frames, here by {over:g} voxels, the most; "
        "the coordinates stay, pixels are cut off"
    )
    return place.issue("points-outside", message)


def _decoded(
    masks: Mapping[str, list[tuple[Place, int, MaskRef]]], plane: GroupPlane, fetcher: Fetcher
) -> Iterator[tuple[str, Piece] | Issue]:
    """Pieces, or issues, of all masks of a group as one batch; an address that is there several times is taken once."""
    if not masks:
        return
    content = fetcher.many(masks, "png")

    def decode(url: str) -> list[tuple[str, Piece] | Issue]:
        return list(_one(url, content[url], masks[url], plane, fetcher.limits.pixels_most))

    with ThreadPoolExecutor(min(fetcher.limits.parallel, len(masks))) as pool:
        for found in pool.map(decode, masks):
            yield from found


def _one(
    url: str, png: bytes | FetchFailed, wanted: list[tuple[Place, int, MaskRef]], plane: GroupPlane, pixels_most: int
) -> Iterator[tuple[str, Piece] | Issue]:
    """What one PNG gives to each object that names it."""
    where = shown(url)
    left_out = "the object is left out on this frame"
    if isinstance(png, FetchFailed):
        yield from (place.issue(png.code, f"{png}; {left_out}") for place, _, _ in wanted)
        return
    try:
        fault = plane.size_fault(declared_size(png, where, pixels_most))
        if fault is not None:
            yield from (place.issue("mask-size", f"{where}: the mask {fault}; {left_out}") for place, _, _ in wanted)
            return
        composite = decode_composite(png, where) if any(ref.color is not None for _, _, ref in wanted) else None
        instance, uniform = (
            (None, True) if all(ref.color is not None for _, _, ref in wanted) else decode_instance(png, where)
        )
    except (DamagedFile, InvalidInput) as why:
        code = "bad-png" if isinstance(why, DamagedFile) else "mask-refused"
        yield from (place.issue(code, f"{why}; {left_out}") for place, _, _ in wanted)
        return
    for place, index, ref in wanted:
        if ref.color is not None and composite is not None:
            mask = (composite == np.array(ref.color, np.uint8)).all(axis=2)
            nothing = place.issue("no-such-color", f"{where}: no pixel has the colour {ref.color}; {left_out}")
        else:
            assert instance is not None  # noqa: S101 - one of the two was decoded
            mask = instance
            nothing = place.issue("empty-mask", f"{where}: the mask is empty; {left_out}")
            if not uniform:
                yield place.issue(
                    "several-values", f"{where}: the mask of one object has pixels of several values; all are taken"
                )
        piece = cut(index, plane.native(mask))
        yield nothing if piece is None else (place.feature, piece)
