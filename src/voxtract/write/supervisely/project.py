"""A volume project as Supervisely keeps it on disk: volumes and masks as NRRD, annotations as JSON."""

from __future__ import annotations

import base64
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, Grid, Plane, View
from voxtract.model import Case, LabelVolume
from voxtract.write import nrrd
from voxtract.write.files import Content
from voxtract.write.supervisely.objects import RasLabels, RasScores, Thing, key_of, labels_of, on_ras, values

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABEL_TAG = "label value"  # read/supervisely/annotation.py looks for it

# Supervisely passes over datasets whose names end like one of its own folders and files, without a word.
_RESERVED = ("volume", "ann", "mask", "interpolation", "meta", "metadata", "datasets", "blob", "video_info")
# The SDK (6.74) uploads a mask through a temporary file that it reads before the last 8 KiB of it are flushed.
_LEAST = 8193
_NORMALS: dict[View, tuple[int, int, int]] = {"axial": (0, 0, 1), "coronal": (0, 1, 0), "sagittal": (1, 0, 0)}


@dataclass(frozen=True, slots=True)
class VolumeProject:
    """Writer of a project.

    All volumes are turned to RAS by flips and swaps of axes; slope and intercept are applied to the voxels, because
    NRRD has neither. Each object of a label volume becomes an object of its class with one binary mask, or with one
    bitmap per slice where the volume was drawn on slices. What label value it had is kept as a tag, unless each class
    of the case has one object whose value is the class id. Keys are those that objects came with, or made of the path.

    Parameters
    ----------
    classes : ClassMap
        Of all cases.
    dataset : str
        Its name; ``parent/child`` nests.

    Raises
    ------
    InvalidInput
        A dataset name that is no name, or that Supervisely passes over.
    """

    classes: ClassMap
    dataset: str = "ds0"

    def __post_init__(self) -> None:
        for part in self.dataset.split("/"):
            if not part.strip() or part.startswith(".") or any(ord(char) < 32 for char in part):
                raise InvalidInput(f"dataset {self.dataset!r} is no name; give one such as 'ds0', or 'parent/child'")
            if part.lower().endswith(_RESERVED):
                raise InvalidInput(
                    f"dataset {self.dataset!r}: Supervisely passes over names that end with {', '.join(_RESERVED)}; "
                    "give another"
                )

    def case_files(self, case: Case) -> Iterator[tuple[str, Content]]:
        """Files of one case: the volume, the masks, and last the annotation.

        Raises
        ------
        VoxtractError
            A file that cannot be read, or something that a project cannot hold; see `labels_of`.
        """
        folder = self.dataset.replace("/", "/datasets/")
        name = f"{case.id}.nrrd"
        grid, meta = None, {}
        if case.image is None:
            yield f"{folder}/volume/{name}", b""  # as in a download of annotations alone
        else:
            volume, grid, _ = on_ras(case.image)
            voxels = values(volume)
            meta = _intensity(voxels)
            yield f"{folder}/volume/{name}", nrrd.encode(voxels, grid.affine)
        said = _Said(f"{self.dataset}/{case.id}", self.classes)
        for labels, on in labels_of(case, grid, self.classes, said.path):
            grid = on
            if labels.views is None:
                for figure, mask in said.masks(labels):
                    yield f"{folder}/mask/{name}/{figure}.nrrd", nrrd.encode(mask, grid.affine, least=_LEAST)
            else:
                said.draw(labels)
        if grid is None:
            raise InvalidInput(f"case {case.id!r} has neither an image nor labels; there is nothing to write")
        annotation = {"volumeMeta": _volume_meta(grid) | meta, **said.to_dict()}
        yield f"{folder}/ann/{name}.json", _json(annotation)

    def run_files(self, cases: Iterable[Case]) -> Iterator[tuple[str, Content]]:
        """Files of the project; of `cases` no file is read."""
        drawn: set[int] | None = set()
        for volume in (volume for case in cases for volume in case.labels):
            if volume.views is not None and drawn is not None:
                drawn = None if volume.category is None else drawn | _told(volume)
        classes: list[dict[str, Any]] = [
            {
                "title": category.name,
                "description": f"Mask pixel value: {category.id}",
                # A class that is drawn on slices, too, must take figures of any kind.
                "shape": "any" if drawn is None or category.id in drawn else "mask_3d",
                "color": category.color.upper(),
                "geometry_config": {},
                "hotkey": "",
            }
            for category in self.classes.categories
        ]
        tag = {
            "name": LABEL_TAG,
            "value_type": "any_number",
            "color": "#808080",
            "hotkey": "",
            "applicable_type": "objectsOnly",
            "classes": [],
        }
        yield "meta.json", _json({"classes": classes, "tags": [tag], "projectType": "volumes"})
        yield "key_id_map.json", _json({"tags": {}, "objects": {}, "figures": {}, "videos": {}})


class _Said:
    """The annotation of one case while its label volumes are gone through."""

    def __init__(self, path: str, classes: ClassMap) -> None:
        self.path, self._classes = path, classes
        self._objects: dict[str, Thing] = {}
        self._solids: list[dict[str, Any]] = []
        self._slices: dict[View, dict[int, list[dict[str, Any]]]] = {view: {} for view in VIEWS}

    def masks(self, labels: RasLabels) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Note the objects of a volume; gives the key of each figure, and its mask, which the next one overwrites."""
        mask = np.zeros(labels.voxels.shape, np.uint8, order="F")
        for thing in labels.things:
            self._add(thing, labels)
            figure = key_of(f"{self.path}/{thing.key}/{len(self._solids)}")
            self._solids.append(_figure(figure, thing, "mask_3d", {}) | {"customData": _scores(thing.scores)})
            planes = slice(thing.first, thing.stop)
            np.equal(labels.voxels[..., planes], thing.label, out=mask[..., planes], casting="unsafe")
            yield figure, mask
            mask[..., planes] = 0

    def draw(self, labels: RasLabels) -> None:
        """Note the objects of a volume, and on each slice of its views the pixels of each."""
        for thing in labels.things:
            self._add(thing, labels)
            part = labels.voxels[..., thing.first : thing.stop] == thing.label
            for view in labels.views or ():
                axis = Plane(view, part.shape).axes[2]
                others = tuple(other for other in range(3) if other != axis)
                first = thing.first if axis == 2 else 0
                for at in np.flatnonzero(part.any(axis=others)).tolist():
                    index = first + at
                    image = part.take(at, axis=axis).T  # rows, columns as Supervisely shows the slice
                    origin = (0, thing.first) if axis != 2 else (0, 0)
                    here = self._slices[view].setdefault(index, [])
                    key = key_of(f"{self.path}/{thing.key}/{view}/{index}/{len(here)}")
                    figure = _figure(key, thing, "bitmap", _bitmap(image, origin))
                    score = thing.scores.get(view, {}).get(index)
                    scores: RasScores = {} if score is None else {view: {index: score}}
                    place = {"sliceIndex": index, "planeName": view, "normal": _normal(view)}
                    here.append(figure | {"meta": place, "customData": _scores(scores)})

    def to_dict(self) -> dict[str, Any]:
        """What of the annotation is not `volumeMeta`."""
        things = self._objects.values()
        classes = {thing.category for thing in things}
        plain = len(classes) == len(things) and all(thing.label == thing.category for thing in things)
        return {
            "description": "",
            "key": key_of(self.path),
            "tags": [],
            "objects": [self._object(key, thing, plain) for key, thing in self._objects.items()],
            "planes": [
                {
                    "name": view,
                    "normal": _normal(view),
                    "slices": [{"index": index, "figures": found} for index, found in sorted(slices.items())],
                }
                for view, slices in self._slices.items()
                if slices
            ],
            "spatialFigures": self._solids,
        }

    def _add(self, thing: Thing, labels: RasLabels) -> None:
        other = self._objects.setdefault(thing.key, thing)
        if other.category != thing.category:
            names = [self._classes[number].name for number in (other.category, thing.category)]
            raise InvalidInput(
                f"{labels.volume.file.where}: object {thing.key} is of the class {names[1]!r} here, and of "
                f"{names[0]!r} in another label volume of the case; give each object one class"
            )

    def _object(self, key: str, thing: Thing, plain: bool) -> dict[str, Any]:
        tag = {"name": LABEL_TAG, "value": thing.label, "key": key_of(f"{self.path}/{key}/tag")}
        return {"key": key, "classTitle": self._classes[thing.category].name, "tags": [] if plain else [tag]}


def _told(volume: LabelVolume) -> set[int]:
    told = volume.category
    return {told} if isinstance(told, int) else set((told or {}).values())


def _figure(key: str, thing: Thing, kind: str, geometry: dict[str, Any]) -> dict[str, Any]:
    return {"key": key, "objectKey": thing.key, "geometryType": kind, "geometry": geometry}


def _normal(view: View) -> dict[str, int]:
    return dict(zip("xyz", _NORMALS[view], strict=True))


def _scores(scores: RasScores) -> dict[str, Any]:
    """Form of `customData`; two decimals, or as many as it takes."""
    return {
        "-".join(map(str, _NORMALS[view])): {
            str(index): {"score": _text(score), "comment": None} for index, score in sorted(found.items())
        }
        for view, found in scores.items()
    }


def _text(score: float) -> str:
    short = f"{score:.2f}"
    return short if float(short) == score else repr(float(score))


def _bitmap(image: NDArray[np.bool_], origin: tuple[int, int]) -> dict[str, Any]:
    """Form of a bitmap: the part (rows, columns) with its pixels, and where that begins; `origin` is that of image."""
    from PIL import Image

    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    part = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    picture = Image.fromarray(part.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=0)
    data = base64.b64encode(zlib.compress(file.getvalue())).decode("ascii")
    place = [int(columns[0]) + origin[0], int(rows[0]) + origin[1]]
    return {"bitmap": {"origin": place, "data": data}, "shape": "bitmap", "geometryType": "bitmap"}


def _volume_meta(grid: Grid) -> dict[str, Any]:
    """Where the voxels lie, in all the ways that a reader may look for."""
    matrix, spacing = grid.affine, grid.spacing_mm
    return {
        "ACS": "RAS",
        "dimensionsIJK": dict(zip("xyz", grid.shape, strict=True)),
        "IJK2WorldMatrix": matrix.reshape(-1).tolist(),
        "spacing": list(spacing),
        "origin": matrix[:3, 3].tolist(),
        "directions": (matrix[:3, :3] / np.array(spacing)).reshape(-1).tolist(),
        "channelsCount": 1,
        "rescaleSlope": 1,
        "rescaleIntercept": 0,
        "intensity": {"min": 0, "max": 0},
        "windowWidth": 0,
        "windowCenter": 0,
    }


def _intensity(voxels: NDArray[Any]) -> dict[str, Any]:
    """Range of the voxels, and the window that shows it; of those that are finite."""
    low, high = voxels.min().item(), voxels.max().item()
    if not math.isfinite(low) or not math.isfinite(high):
        finite = voxels[np.isfinite(voxels)]
        low, high = (finite.min().item(), finite.max().item()) if finite.size else (0, 0)
    return {
        "intensity": {"min": low, "max": high},
        "windowWidth": high - low,
        "windowCenter": low + (high - low) / 2,
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1)
