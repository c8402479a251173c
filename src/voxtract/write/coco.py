"""COCO: all images and boxes of a run, or of each split of it, in one JSON file (https://cocodataset.org/#format-data).

A case leaves a hidden part with a line of JSON for each image and, after it, one for each of its annotations, all
without ids. At the end of the run the lines are numbered and put one after the other, so the file is written piece
by piece however many cases there are.

Masks are run lengths (RLE) of the image read column by column, beginning with the pixels that are not set. COCO packs
the lengths into text: from the fourth on the difference to the length before the last is stored; 5 bits at a time, the
lowest first, each as the character 48 + bits, and 32 more where another one follows. The highest of the last 5 bits
is the sign (rleToString in the COCO API, maskApi.c).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from voxtract.classes import ClassMap
from voxtract.write.frame import image_boxes, row_categories

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.model import Findings
    from voxtract.write.annotations import Finished, Masks
    from voxtract.write.files import Content

_FOLDER = ".voxtract/coco"
_IMAGE = b'{"file_name"'  # how the lines of images begin; those of annotations begin with the category


@dataclass(frozen=True, slots=True)
class Coco:
    """One ``coco.json`` for the run, or a ``coco_<split>.json`` for each split; see `AnnotationFormat`.

    Parameters
    ----------
    class_map : ClassMap, optional
        Its classes are the categories, under their ids. Without one, each label value is a category of its own.

    Notes
    -----
    `bbox` is x, y, width, height with half-open widths, `area` the number of pixels, `segmentation` a compressed RLE
    of the padded image where masks are asked for. File names are relative to the JSON file. Images of cases without a
    label volume are left out: nobody has said that there is nothing on them. Ids count from 1. An annotation whose
    object has a score in its slice has it as `score`.
    """

    class_map: ClassMap | None = None

    def case_files(self, found: Findings, masks: Masks | None) -> Iterator[tuple[str, Content]]:
        """The part of one view of one case.

        Raises
        ------
        InvalidInput
            A label that has no class, or components of the volume.
        """
        if found.labelled:
            yield part_name(found), "".join(self._lines(found, masks))

    def run_files(self, run: Finished) -> Iterator[tuple[str, Iterable[bytes]]]:
        """The JSON files, from the parts."""
        parts: dict[str | None, list[str]] = {}
        labels: set[int] = set()
        for found in run.findings():
            if found.labelled:
                parts.setdefault(found.split, []).append(part_name(found))
                labels.update(np.unique(found.rows.class_id).tolist())
        values = np.array(sorted(labels), np.uint64)
        classes = ClassMap.of_labels(values) if self.class_map is None else self.class_map.covering(values)
        for split, names in parts.items():
            yield f"coco{'' if split is None else f'_{split}'}.json", _joined(run, names, _head(classes))

    def _lines(self, found: Findings, masks: Masks | None) -> Iterator[str]:
        height, width = found.plane.size
        x, y, x_last, y_last = image_boxes(found).T
        numbers = np.stack([x, y, x_last - x + 1, y_last - y + 1, found.rows.count], axis=1).tolist()
        ids = [category.id for category in row_categories(found, self.class_map)]
        template = '{"category_id":%d,"bbox":[%d,%d,%d,%d],"area":%d,"iscrowd":0'
        lines = [template % (id_, *row) for id_, row in zip(ids, numbers, strict=True)]
        if found.rows.score is not None:
            scores = found.rows.score.tolist()
            lines = [line if s != s else f'{line},"score":{s!r}' for line, s in zip(lines, scores, strict=True)]
        if masks is not None:
            size = f',"segmentation":{{"size":[{height},{width}],"counts":"'
            texts = _run_lengths(found, masks)
            lines = [line + size + text.replace("\\", "\\\\") + '"}' for line, text in zip(lines, texts, strict=True)]
        for index, rows in found.by_slice():
            name = json.dumps(found.name(index).removeprefix("./"))
            yield f'{{"file_name":{name},"height":{height},"width":{width}}}\n'
            for i in rows.tolist():
                yield lines[i] + "}\n"


def part_name(found: Findings) -> str:
    """File that one view of one case leaves for the end of the run."""
    return f"{_FOLDER}/{found.case_id}_{found.plane.view}.jsonl"


def _head(classes: ClassMap) -> bytes:
    """The beginning of a file, up to the images."""
    head = {
        "info": {"description": "made by voxtract", "version": version("voxtract")},
        "licenses": [],
        "categories": [
            {"id": category.id, "name": category.name, "supercategory": "", "color": category.color}
            for category in classes.categories
        ],
    }
    return json.dumps(head, separators=(",", ":")).encode()[:-1]


def _joined(run: Finished, names: list[str], head: bytes) -> Iterator[bytes]:
    """Content of a file: the parts are read once for the images and once for the annotations."""
    yield head + b',"images":['
    image = 0
    for name in names:
        lines = []
        for line in run.part(name).splitlines():
            if line.startswith(_IMAGE):
                image += 1
                lines.append(b'%s\n{"id":%d,%s' % (b"," if image > 1 else b"", image, line[1:]))
        yield b"".join(lines)
    yield b'\n],"annotations":['
    image = annotation = 0
    for name in names:
        lines = []
        for line in run.part(name).splitlines():
            if line.startswith(_IMAGE):
                image += 1
            else:
                annotation += 1
                comma = b"," if annotation > 1 else b""
                lines.append(b'%s\n{"id":%d,"image_id":%d,%s' % (comma, annotation, image, line[1:]))
        yield b"".join(lines)
    yield b"\n]}\n"


def _run_lengths(found: Findings, masks: Masks) -> list[str]:
    """Packed run lengths of each row's mask in its image."""
    height, width = found.plane.size
    corners = image_boxes(found)[:, :2].tolist()
    changes = [_changes(masks(i), x, y, height) for i, (x, y) in enumerate(corners)]
    if not changes:
        return []
    # 0, the changes and the end of each image in one array, so that the lengths of all come from one difference
    many = np.array([len(one) for one in changes])
    last = np.cumsum(many + 2) - 1
    edges = np.zeros(last[-1] + 1, np.int64)
    edges[np.arange(many.sum()) + 2 * np.repeat(np.arange(len(many)), many) + 1] = np.concatenate(changes)
    edges[last] = height * width
    lengths = np.diff(edges)
    keep = np.ones(len(lengths), bool)
    keep[last[:-1]] = False  # from the end of one image to the beginning of the next
    keep[last[lengths[last - 1] == 0] - 1] = False  # nothing follows where the last pixel is set
    ends = np.concatenate([[0], np.cumsum(keep)])[last]
    return packed(lengths[keep], ends)


def _changes(mask: NDArray[np.bool_], x: int, y: int, height: int) -> NDArray[np.int64]:
    """Where the image, read column by column, changes from not set to set and back."""
    rows, columns = mask.shape
    flat = np.zeros(1 + columns * (rows + 1), bool)  # one pixel before all, and one below each column
    flat[1:].reshape(columns, rows + 1)[:, :rows] = mask.T
    at = np.flatnonzero(flat[1:] != flat[:-1])
    changes: NDArray[np.int64] = at + at // (rows + 1) * (height - rows - 1) + (x * height + y)
    if rows == height:  # a run that reaches the bottom may go on at the top of the next column
        joined = changes[1:] == changes[:-1]
        changes = changes[~(np.append(joined, False) | np.append(False, joined))]
    return changes


def packed(lengths: NDArray[np.int64], ends: NDArray[np.int64]) -> list[str]:
    """Pack run lengths of masks, one mask after the other, into COCO's text.

    Parameters
    ----------
    lengths : (n,) int64
    ends : (masks,) int64
        Where each mask's lengths end.

    Examples
    --------
    >>> packed(np.array([6, 1, 40, 4, 5, 4, 5, 4, 21]), np.array([9]))
    ['61X13mN000`0']
    """
    begins = np.concatenate([[0], ends[:-1]])
    place = np.arange(len(lengths)) - np.repeat(begins, ends - begins)
    rest = lengths.copy()
    later = np.flatnonzero(place > 2)
    rest[later] -= lengths[later - 2]
    groups = []
    more = np.ones(len(rest), bool)
    while more.any():
        bits = rest & 31
        rest >>= 5  # keeps the sign
        goes_on = rest != -((bits >> 4) & 1)  # else: nothing is left but the sign, and that is the highest bit
        groups.append(np.where(more, bits + 32 * goes_on + 48, 0).astype(np.uint8))
        more &= goes_on
    characters = np.stack(groups, axis=1)
    used = characters != 0
    text = characters[used].tobytes().decode("ascii")
    stops = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return [text[a:b] for a, b in zip(stops[begins].tolist(), stops[ends].tolist(), strict=True)]
