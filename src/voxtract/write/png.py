"""PNG slices, 8 or 16 bit grey, through Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from voxtract.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Png:
    """Writer of PNG slices; PNG is always deflated, so there is nothing to choose."""

    suffix: str = ".png"

    def encode(self, image: NDArray[Any], spacing_mm: tuple[float, float]) -> Sequence[bytes | memoryview]:
        """Turn one image into the bytes of a file.

        Parameters
        ----------
        image : (height, width) uint8 or uint16 array
        spacing_mm : (row, column)
            Distance of neighbouring pixels; becomes the pHYs chunk, in pixels per metre.

        Returns
        -------
        sequence of buffers, to be written one after the other

        Raises
        ------
        InvalidInput
            The image has another dtype.
        """
        if image.dtype.name not in ("uint8", "uint16"):
            raise InvalidInput(
                f"PNG holds uint8 or uint16, but the slices are {image.dtype}; write TIFF, or pass dtype='uint8' "
                "(or 'uint16'), best with a normalization, which is then stretched over its range"
            )
        from PIL import Image

        options: dict[str, Any] = {}
        if all(math.isfinite(spacing) and 1e-6 < spacing < 1e3 for spacing in spacing_mm):
            row, column = spacing_mm
            options["dpi"] = (25.4 / column, 25.4 / row)
        file = BytesIO()
        Image.fromarray(image).save(file, "PNG", **options)
        return [file.getvalue()]
