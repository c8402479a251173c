"""YOLO: a text file for each image, and ``data.yaml``, in the layout that Ultralytics' tools expect.

The labels of ``images/train/a.png`` are in ``labels/train/a.txt``: readers replace the last folder of the path that is
called ``images``. A line is an object: the index of its class, then center and size of its box, or the corners of a
polygon, as fractions of the image's width and height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput
from voxtract.write.frame import image_boxes, row_categories

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.model import Findings
    from voxtract.write.annotations import Finished, Masks
    from voxtract.write.files import Content

# Corners X, Y of a mask's outline, where pixel i covers i .. i + 1.
Outline = Callable[["NDArray[np.bool_]"], "NDArray[np.float64]"]


@dataclass(frozen=True, slots=True)
class Yolo:
    """Label files beside the images' folder, and ``data.yaml``; see `AnnotationFormat`.

    Parameters
    ----------
    class_map : ClassMap
        A class's index is its rank among the ids.
    outline : Outline, optional
        Draws the polygons where masks are asked for.

    Raises
    ------
    InvalidInput
        No class map: label files are written before all labels of the run are known.

    Notes
    -----
    A polygon runs along the outer edges of the pixels, so its bounding box is the box of the component; holes are
    filled. Numbers have 7 decimals, enough for the exact pixel in images of a million pixels a side. An image without
    objects has an empty file, one of a case without a label volume has none.
    """

    class_map: ClassMap | None
    outline: Outline | None = None

    def __post_init__(self) -> None:
        if self.class_map is None:
            raise InvalidInput(
                "annotations='yolo' needs a class map: YOLO counts classes from 0, and which one a label becomes must "
                'be known before the first file is written; pass class_map={1: "liver", 2: "tumour"} (--class-map), '
                'or {"*": "lesion"} for one class of all labels'
            )

    def case_files(self, found: Findings, masks: Masks | None) -> Iterator[tuple[str, Content]]:
        """A label file for each chosen slice.

        Raises
        ------
        InvalidInput
            A label that has no class, components of the volume, or images that are not below a folder ``images``.
        """
        if not found.labelled:
            return
        places = _boxes(found) if masks is None or self.outline is None else _polygons(found, masks, self.outline)
        rank = {category.id: index for index, category in enumerate(self._classes.categories)}
        categories = row_categories(found, self._classes)
        if unlisted := {category.id for category in categories} - rank.keys():
            raise InvalidInput(
                f"label values {', '.join(map(str, sorted(unlisted)))} have no name, but YOLO counts classes from a "
                "list; pass a class map that names them (--class-map)"
            )
        indices = [rank[category.id] for category in categories]
        lines = [f"{index} {place}\n" for index, place in zip(indices, places, strict=True)]
        for index, rows in found.by_slice():
            yield _label_file(found.name(index, ".txt")), "".join([lines[i] for i in rows.tolist()])

    def run_files(self, run: Finished) -> Iterator[tuple[str, Iterable[bytes]]]:
        """``data.yaml``, which names the images of each split and the classes, and lists of images where needed.

        A split is given as its folder, or as a list, ``<split>.txt``, where its images have no folder of their own or
        the folder holds images of cases without labels: they would be taken for images without objects.
        """
        is_folder: dict[str | None, bool] = {}
        for found in run.findings():
            whole = found.labelled and found.stem.startswith(f"{_folder(found.split)}/")
            is_folder[found.split] = whole and is_folder.get(found.split, True)
        places = {split: _folder(split) if whole else f"{split or 'train'}.txt" for split, whole in is_folder.items()}
        yield "data.yaml", [_data_yaml(self._classes, places).encode()]
        for split, place in places.items():
            if not is_folder[split]:
                yield place, _listed(run, split)

    @property
    def _classes(self) -> ClassMap:
        if self.class_map is None:
            raise TypeError("checked in __post_init__")
        return self.class_map


def _boxes(found: Findings) -> list[str]:
    height, width = found.plane.size
    x, y, x_last, y_last = image_boxes(found).T
    columns = (
        (x + x_last + 1) / 2 / width,
        (y + y_last + 1) / 2 / height,
        (x_last + 1 - x) / width,
        (y_last + 1 - y) / height,
    )
    return [f"{a:.7f} {b:.7f} {c:.7f} {d:.7f}" for a, b, c, d in np.stack(columns, axis=1).tolist()]


def _polygons(found: Findings, masks: Masks, outline: Outline) -> list[str]:
    height, width = found.plane.size
    columns, rows = ([f"{edge / size:.7f}" for edge in range(size + 1)] for size in (width, height))
    polygons = []
    for i, corner in enumerate(image_boxes(found)[:, :2]):
        points = outline(masks(i)).astype(np.int64) + corner
        polygons.append(" ".join([f"{columns[x]} {rows[y]}" for x, y in points.tolist()]))
    return polygons


def _label_file(name: str) -> str:
    head, images, tail = f"/{name}".rpartition("/images/")
    if not images:
        raise InvalidInput(f"{name}: YOLO finds labels by the image's folder, which must lie below one called 'images'")
    return f"{head}/labels/{tail}"[1:]


def _folder(split: str | None) -> str:
    return "images" if split is None else f"images/{split}"


def _listed(run: Finished, split: str | None) -> Iterator[bytes]:
    """A line for each image of the split that somebody has looked at; ``./`` is the folder of the list."""
    for found in run.findings():
        if found.labelled and found.split == split:
            lines = "".join(f"./{found.name(index)}\n" for index in found.slices.tolist())
            yield lines.encode("utf-8", "surrogateescape")


def _data_yaml(classes: ClassMap, places: dict[str | None, str]) -> str:
    """Where the images are, and what the classes are called; train and val must be there.

    Ultralytics takes places from the folder of the file only where no `path` is given, even ``.`` is another one.
    """
    told = {split: places[split] for split in ("train", "val", "test") if split in places}
    if None in places:
        told["train"] = places[None]
    lines = [f"{split}: {_quoted(place)}" for split, place in told.items()]
    for split in ("train", "val"):
        if split not in told:
            instead = told.get("test") or told.get("train") or "images"
            lines += [f"# no case is in a part called {split}: split the cases (--split) to measure on unseen ones"]
            lines += [f"{split}: {_quoted(instead)}"]
    lines += ["names:", *(f"  {index}: {_quoted(c.name)}" for index, c in enumerate(classes.categories))]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A YAML text in double quotes: what cannot be seen is escaped, since YAML forbids or folds most of it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
