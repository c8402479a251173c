"""Pascal VOC: an XML file beside each image (The PASCAL Visual Object Classes Challenge 2012, Development Kit).

Pixels are counted from 1 there and boxes are inclusive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput
from voxtract.write.frame import image_boxes, row_categories

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.model import Findings
    from voxtract.write.annotations import Finished, Masks
    from voxtract.write.files import Content

_HEAD = """<annotation>
\t<folder>{folder}</folder>
\t<filename>{file}</filename>
\t<size>
\t\t<width>{width}</width>
\t\t<height>{height}</height>
\t\t<depth>1</depth>
\t</size>
\t<segmented>0</segmented>
"""
_OBJECT = """\t<object>
\t\t<name>%s</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>%d</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>%d</xmin>
\t\t\t<ymin>%d</ymin>
\t\t\t<xmax>%d</xmax>
\t\t\t<ymax>%d</ymax>
\t\t</bndbox>
\t</object>
"""
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2


@dataclass(frozen=True, slots=True)
class Voc:
    """An XML file for each chosen slice, called as its image; see `AnnotationFormat`.

    Parameters
    ----------
    class_map : ClassMap, optional
        Without one, each label value is a class called ``label_<value>``.

    Notes
    -----
    An object is `truncated` where it touches the border of the slice, padding aside: it may go on outside of it.
    VOC keeps masks in images of their own; none are written. A case without a label volume has no files.
    """

    class_map: ClassMap | None = None

    def case_files(self, found: Findings, masks: Masks | None) -> Iterator[tuple[str, Content]]:  # noqa: ARG002
        """A file for each chosen slice.

        Raises
        ------
        InvalidInput
            A label that has no class, components of the volume, or a name with characters that XML cannot hold.
        """
        if not found.labelled:
            return
        height, width = found.plane.size
        names = [_text(category.name) for category in row_categories(found, self.class_map)]
        boxes = image_boxes(found)
        numbers = np.concatenate([_truncated(found)[:, None], boxes + 1], axis=1).tolist()
        objects = [_OBJECT % (name, *row) for name, row in zip(names, numbers, strict=True)]
        for index, rows in found.by_slice():
            folder, _, file = found.name(index).rpartition("/")
            head = _HEAD.format(folder=_text(folder.rpartition("/")[2]), file=_text(file), width=width, height=height)
            yield found.name(index, ".xml"), head + "".join([objects[i] for i in rows.tolist()]) + "</annotation>\n"

    def run_files(self, run: Finished) -> Iterator[tuple[str, Iterable[bytes]]]:  # noqa: ARG002
        """None."""
        return iter(())


def _truncated(found: Findings) -> NDArray[np.bool_]:
    """Whether each box touches the border of its slice."""
    axes = list(found.plane.axes[:2])
    touches = (found.rows.start[:, axes] == 0) | (found.rows.stop[:, axes] == np.array(found.plane.shape)[axes])
    either: NDArray[np.bool_] = touches.any(axis=1)
    return either


def _text(value: str) -> str:
    if bad := _NOT_XML.search(value):
        raise InvalidInput(f"{value!r}: VOC is XML, which cannot hold {bad[0]!r}; rename the file or the class")
    return escape(value, {"\r": "&#13;"})
