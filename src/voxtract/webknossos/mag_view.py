"""One mag of a data set's layer: boxes of voxels read and written, counted in mag 1."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import Box, Shape3
from voxtract.webknossos import properties, wkw
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.errors import WrongUse
from voxtract.webknossos.mag import Mag, union
from voxtract.webknossos.volume import from_box, to_box
from voxtract.webknossos.zarr_array import ZarrArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.webknossos.dataset import Layer


class StoredArray(Protocol):
    """What wkw and zarr arrays have in common; all counted in voxels of their mag."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels."""

    @property
    def channels(self) -> int:
        """Values of each voxel."""

    @property
    def chunk(self) -> Shape3:
        """Voxels of the smallest piece that is decoded."""

    @property
    def shard(self) -> Shape3:
        """Voxels of a file."""

    @property
    def keeps_zeros(self) -> bool:
        """Whether a chunk of zeros that was written differs from one that was not."""

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels (channels, x, y, z); zeros where nothing is stored."""

    def write(self, start: Shape3, voxels: NDArray[Any]) -> None:
        """Put voxels (channels, x, y, z) at `start`."""

    def shards(self) -> Iterator[Box]:
        """Boxes that have a file."""

    def chunks(self) -> Iterator[tuple[Shape3, NDArray[Any]]]:
        """Start and voxels (channels, x, y, z) of the stored chunks."""


class MagView:
    """One mag of a layer.

    Parameters
    ----------
    layer : Layer
    mag : Mag
    document : dict
        Its part of ``datasource-properties.json``.
    """

    def __init__(self, layer: Layer, mag: Mag, document: Mapping[str, Any]) -> None:
        self.layer = layer
        self.mag = mag
        self.document = document

    @property
    def where(self) -> str:
        """The mag, for messages."""
        return f"{self.layer.where}, mag {self.mag}"

    @property
    def path(self) -> Path:
        """Its folder.

        Raises
        ------
        InvalidInput
            It lies on a server.
        """
        said = self.document.get("path")
        if isinstance(said, str) and said:
            if re.match(r"[A-Za-z][A-Za-z0-9+.\-]+://", said):
                raise InvalidInput(f"{self.where}: lies at {said}, which is not on this machine; download it first")
            return self.layer.dataset.path / said
        usual = self.layer.path / self.mag.name
        long = self.layer.path / "-".join(map(str, self.mag))
        return long if long.is_dir() and not usual.is_dir() else usual

    @cached_property
    def array(self) -> StoredArray:
        """Its voxels, counted in this mag.

        Raises
        ------
        NotFound, UnreadableFile, DamagedFile, InvalidInput
            There is no array of the layer's format and dtype that can be read.
        """
        array: StoredArray
        if self.layer.data_format == "wkw":
            array = wkw.WkwArray.open(self.path)
        else:
            order = self.document.get("axisOrder")
            known = isinstance(order, dict) and all(type(axis) is int for axis in order.values())
            array = ZarrArray.open(self.path, order if known else None, writable=not self.layer.dataset.read_only)
        if (array.dtype, array.channels) != (self.layer.dtype, self.layer.num_channels):
            raise InvalidInput(
                f"{self.where}: holds {array.channels} channels of {array.dtype}, but the layer "
                f"{self.layer.num_channels} of {self.layer.dtype}; repair {properties.FILE}"
            )
        return array

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels of one channel."""
        return self.layer.dtype

    def read(
        self,
        *,
        absolute_offset: Sequence[int] | None = None,
        relative_offset: Sequence[int] | None = None,
        size: Sequence[int] | None = None,
        absolute_bounding_box: BoundingBox | None = None,
    ) -> NDArray[Any]:
        """Read a box of voxels; without arguments, the layer's box.

        Parameters
        ----------
        absolute_offset, size : (x, y, z), optional
            First voxel and number of voxels, in mag 1; multiples of the mag.
        relative_offset : (x, y, z), optional
            Instead of `absolute_offset`: counted from the begin of the layer's box.
        absolute_bounding_box : BoundingBox, optional
            Instead of both.

        Returns
        -------
        (channels, x, y, z) array in voxels of this mag; zeros where nothing is stored

        Raises
        ------
        WrongUse
            Two offsets, an offset without size, a box that is negative or no multiple of the mag (also an
            AssertionError).
        DamagedFile
            A chunk does not decode.
        InvalidInput
            It does not fit into memory.
        """
        if not any(value is not None for value in (absolute_offset, relative_offset, size, absolute_bounding_box)):
            return self.array.read(self.mag.grown(to_box(self.layer.bounding_box)))
        offset = self._offset(absolute_offset, relative_offset, absolute_bounding_box)
        if absolute_bounding_box is not None:
            if size is not None:
                raise WrongUse(f"{self.where}: give absolute_bounding_box without a size")
            size = absolute_bounding_box.size
        if offset is None or size is None:
            raise WrongUse(f"{self.where}: give both an offset and a size, or absolute_bounding_box")
        return self.array.read(self._aligned(offset, size))

    def write(
        self,
        data: NDArray[Any],
        *,
        absolute_offset: Sequence[int] | None = None,
        relative_offset: Sequence[int] | None = None,
        absolute_bounding_box: BoundingBox | None = None,
    ) -> None:
        """Write voxels; chunks that they cover in part keep their other voxels, and the layer's box grows.

        Other mags are not changed: see `voxtract.webknossos.downsample.rebuild_mags`.

        Parameters
        ----------
        data : (channels, x, y, z) or, of one channel, (x, y, z) array
            In voxels of this mag, of the layer's dtype.
        absolute_offset, relative_offset, absolute_bounding_box
            As `read`; the layer's begin where none is given.

        Raises
        ------
        WrongUse
            As `read`; another dtype, shape or number of channels; open for reading only.
        OutputError
            It cannot be written.
        """
        self.layer.dataset.check_writable()
        voxels = data[None] if data.ndim == 3 else data
        if voxels.ndim != 4 or voxels.shape[0] != self.layer.num_channels or voxels.dtype != self.dtype:
            raise WrongUse(
                f"{self.where}: cannot take an array of shape {data.shape} and dtype {data.dtype}; "
                f"{self.layer.num_channels} channels x, y, z of {self.dtype} are needed"
            )
        offset = self._offset(absolute_offset, relative_offset, absolute_bounding_box)
        offset = self.layer.bounding_box.topleft if offset is None else offset
        size = self.mag.times(voxels.shape[1:])
        if absolute_bounding_box is not None and tuple(absolute_bounding_box.size) != size:
            raise WrongUse(f"{self.where}: voxels for {size} of mag 1 do not fit {absolute_bounding_box}")
        if 0 in size:
            return
        x, y, z = self._aligned(offset, size).start
        self.array.write((x, y, z), voxels)
        here = Box(tuple(offset), tuple(a + n for a, n in zip(offset, size, strict=True)))
        grown = union([to_box(self.layer.bounding_box), here])
        if grown is not None and grown != to_box(self.layer.bounding_box):
            self.layer.bounding_box = from_box(grown)

    def chunks(self) -> Iterator[tuple[Shape3, NDArray[Any]]]:
        """Each stored chunk: first voxel x, y, z in this mag, and its voxels (x, y, z).

        Chunks of zeros are left out where a file holds several chunks. Order: file by file (z, y, x).

        Raises
        ------
        InvalidInput
            The layer has several channels.
        DamagedFile
            A chunk does not decode.
        """
        if self.layer.num_channels != 1:
            raise InvalidInput(f"{self.where}: has {self.layer.num_channels} channels, but labels have one")
        for start, voxels in self.array.chunks():
            yield start, voxels[0]

    def _offset(
        self, absolute: Sequence[int] | None, relative: Sequence[int] | None, box: BoundingBox | None
    ) -> Sequence[int] | None:
        given = [value for value in (absolute, relative, box) if value is not None]
        if len(given) > 1:
            raise WrongUse(f"{self.where}: give one of absolute_offset, relative_offset and absolute_bounding_box")
        if relative is not None:
            return [a + b for a, b in zip(relative, self.layer.bounding_box.topleft, strict=True)]
        return absolute if box is None else box.topleft

    def _aligned(self, offset: Sequence[int], size: Sequence[int]) -> Box:
        """Voxels of this mag."""
        numbers = [*offset, *size]
        if len(offset) != 3 or len(size) != 3 or min(numbers) < 0:
            raise WrongUse(f"{self.where}: offset {tuple(offset)} and size {tuple(size)} must be x, y, z, not negative")
        if any(n % factor for n, factor in zip(numbers, [*self.mag, *self.mag], strict=True)):
            raise WrongUse(
                f"{self.where}: offset {tuple(offset)} and size {tuple(size)} are counted in mag 1 and must be "
                f"multiples of {tuple(self.mag)}"
            )
        start = tuple(int(n) // factor for n, factor in zip(offset, self.mag, strict=True))
        return Box(start, tuple(a + int(n) // factor for a, n, factor in zip(start, size, self.mag, strict=True)))
