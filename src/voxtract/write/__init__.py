"""Results into files: images, tables, and how they are put in place. Nothing here measures or computes.

A writer of images has a `suffix` and turns one image into the bytes of one file; `image_format` is where it is
chosen by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from voxtract.errors import InvalidInput, check_choice
from voxtract.write.png import Png
from voxtract.write.tiff import Tiff

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE_FORMATS = ("tiff", "png")


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
