"""Results into files: images, tables, and how they are put in place. Nothing here measures or computes.

A format of images has a `suffix` and turns one image into the bytes of one file; a writer of images says where these
bytes go: to files, shards, arrays (images.py). A writer of annotations says which files a case has and which the run
(annotations.py). `image_format`, `image_writer` and `annotation_format` choose them by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from voxtract.errors import InvalidInput, check_choice
from voxtract.write.images import Files, ImageFormat, ImageWriter
from voxtract.write.png import Png
from voxtract.write.tables import Columns, Csv
from voxtract.write.tiff import Tiff

if TYPE_CHECKING:
    from voxtract.classes import ClassMap
    from voxtract.write.annotations import AnnotationFormat
    from voxtract.write.yolo import Outline

FILES = ("tiff", "png")  # formats of one file for each slice
IMAGE_FORMATS = (*FILES, "webdataset", "zarr")
ANNOTATION_FORMATS = ("csv", "coco", "yolo", "voc", "parquet")


def image_format(name: str, compression: str | None = None) -> ImageFormat:
    """Choose a kind of image file.

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
    check_choice("images", name, FILES)
    if name == "tiff":
        return Tiff(compression)
    if compression is not None:
        raise InvalidInput(f"compression {compression!r} does not go with PNG, which is always deflated; leave it out")
    return Png()


def image_writer(
    name: str,
    compression: str | None = None,
    *,
    sample_format: str,
    shard_size: int,
    class_map: ClassMap | None,
) -> ImageWriter:
    """Choose a writer of images; it takes those of the keywords that concern it.

    Parameters
    ----------
    name : {"tiff", "png", "webdataset", "zarr"}
    compression : {None, "zlib", "zstd", "lzw"}
        Of TIFF, also within shards; of zarr only "zstd".
    sample_format : {"tiff", "png"}
        Images in the shards of "webdataset".
    shard_size : int
        Bytes of a shard, at most.
    class_map : ClassMap, optional
        Names the classes in shards.

    Raises
    ------
    InvalidInput
        As `image_format`.
    """
    check_choice("images", name, IMAGE_FORMATS)
    if name == "zarr":
        from voxtract.write.zarr import Zarr

        return Zarr(compression)
    if name == "webdataset":
        from voxtract.write.webdataset import WebDataset

        check_choice("sample_format", sample_format, FILES)
        return WebDataset(image_format(sample_format, compression), shard_size, class_map)
    return Files(image_format(name, compression))


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
