"""Results into files: images, tables, and how they are put in place. Nothing here measures or computes.

A writer of images has a `suffix` and turns one image into the bytes of one file; a writer of annotations says which
files a case has and which the run (annotations.py). `image_format` and `annotation_format` choose them by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from voxtract.errors import InvalidInput, check_choice
from voxtract.write.png import Png
from voxtract.write.tables import Columns, Csv
from voxtract.write.tiff import Tiff

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.classes import ClassMap
    from voxtract.write.annotations import AnnotationFormat
    from voxtract.write.yolo import Outline

IMAGE_FORMATS = ("tiff", "png")
ANNOTATION_FORMATS = ("csv", "coco", "yolo", "voc", "parquet")


class ImageFormat(Protocol):
    """A kind of image file."""

    @property
    def suffix(self) -> str:
        """End of the file name, with the dot."""

    def encode(self, image: NDArray[Any], spacing_mm: tuple[float, float]) -> Sequence[bytes | memoryview]:
        """Turn a C-contiguous (height, width) image with the (row, column) spacing into the buffers of a file."""


def image_format(name: str, compression: str | None = None) -> ImageFormat:
    """Choose a writer of images.

    Parameters
    ----------
    name : {"tiff", "png"}
    compression : {None, "zlib", "zstd", "lzw"}
        Only for TIFF.

    Raises
    ------
    InvalidInput
        Unknown words (the message lists the allowed ones), compression for PNG, or a codec that is not installed.

    Examples
    --------
    >>> image_format("tiff").suffix
    '.tif'
    """
    check_choice("images", name, IMAGE_FORMATS)
    if name == "tiff":
        return Tiff(compression)
    if compression is not None:
        raise InvalidInput(f"compression {compression!r} does not go with PNG, which is always deflated; leave it out")
    return Png()


def annotation_format(
    name: str,
    *,
    columns: Columns,
    extraction_mode: Literal["slice", "volume"],
    skip_empty: bool,
    index_width: int,
    class_map: ClassMap | None,
    outline: Outline | None,
) -> AnnotationFormat:
    """Choose a writer of annotations; it takes those of the keywords that concern it.

    Parameters
    ----------
    name : {"csv", "coco", "yolo", "voc", "parquet"}
    columns, extraction_mode, skip_empty, index_width
        Of CSV; see `voxtract.write.tables.Csv`.
    class_map : ClassMap, optional
    outline : function, optional
        Draws the polygons of YOLO.

    Raises
    ------
    InvalidInput
        An unknown word, or a format that cannot do without what was left out.
    """
    check_choice("annotations", name, ANNOTATION_FORMATS)
    if name == "csv":
        return Csv(columns, extraction_mode, skip_empty, index_width, class_map)
    if name == "coco":
        from voxtract.write.coco import Coco

        return Coco(class_map)
    if name == "yolo":
        from voxtract.write.yolo import Yolo

        return Yolo(class_map, outline)
    if name == "voc":
        from voxtract.write.voc import Voc

        return Voc(class_map)
    from voxtract.write.parquet import Parquet

    return Parquet(class_map)
