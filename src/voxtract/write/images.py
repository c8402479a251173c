"""What every way to write slice images has in common.

Slices of one view of one case are cut by several threads, in any order; what is written is the same whoever came
first. All of it belongs to one batch of `voxtract.write.files`, so it appears when the case is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from voxtract.model import Findings
    from voxtract.write.files import Batch


class ImageFormat(Protocol):
    """A kind of image file."""

    @property
    def suffix(self) -> str:
        """End of the file name, with the dot."""

    def encode(self, image: NDArray[Any], spacing_mm: tuple[float, float]) -> Sequence[bytes | memoryview]:
        """Turn a C-contiguous (height, width) image with the (row, column) spacing into the buffers of a file."""


class Images(Protocol):
    """The slices of one view of one case, on their way to the disk."""

    @property
    def in_order(self) -> bool:
        """Whether a slice waits in memory for those before it, so that too many must not be cut ahead of them."""

    def write(self, index: int, image: NDArray[Any]) -> None:
        """Write the chosen slice `index`, a C-contiguous (height, width) array; from any thread, in any order."""

    def finish(self) -> list[str]:
        """Write what comes after the last slice, and name all files, relative to the output folder."""


class ImageWriter(Protocol):
    """A way to write slice images."""

    @property
    def suffix(self) -> str:
        """What `Findings.suffix` says of the images."""

    def begin(self, found: Findings, dtype: np.dtype[Any], pad_value: float, batch: Batch) -> Images:
        """Begin with one view of one case, whose images are of `dtype` and have `pad_value` around them."""


@dataclass(frozen=True, slots=True)
class Files:
    """Every slice as a file of its own, ``<case>_<view>_<index><suffix>``; see `ImageWriter`."""

    format: ImageFormat

    @property
    def suffix(self) -> str:
        """Of the files."""
        return self.format.suffix

    def begin(self, found: Findings, dtype: np.dtype[Any], pad_value: float, batch: Batch) -> Images:  # noqa: ARG002
        """Nothing comes before the first slice."""
        return _Files(self.format, found, found.plane.pixel_spacing_mm(found.grid.spacing_mm), batch)


@dataclass(frozen=True, slots=True)
class _Files:
    format: ImageFormat
    found: Findings
    spacing_mm: tuple[float, float]
    batch: Batch
    in_order: ClassVar = False

    def write(self, index: int, image: NDArray[Any]) -> None:
        self.batch.write(self.found.name(index), self.format.encode(image, self.spacing_mm))

    def finish(self) -> list[str]:
        return [self.found.name(index) for index in self.found.slices.tolist()]
