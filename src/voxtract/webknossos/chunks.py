"""The stored chunks of one mag of a volume layer: where they are, and each one decoded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.geometry import Box, Shape3
from voxtract.webknossos import wkw
from voxtract.webknossos.mag import LARGEST, Mag
from voxtract.webknossos.zarr3 import SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Codec(Protocol):
    """How one chunk of 32 x 32 x 32 voxels becomes an array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels."""

    @property
    def most_bytes(self) -> int:
        """A stored chunk has no more bytes."""

    def decode(self, stored: bytes, where: str) -> NDArray[Any]:
        """Voxels (32, 32, 32) as x, y, z, Fortran-ordered."""


@dataclass(frozen=True, slots=True)
class CubeCodec:
    """A chunk in a wkw cube of one block."""

    header: wkw.Header

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels."""
        return self.header.dtype

    @property
    def most_bytes(self) -> int:
        """A stored chunk has no more bytes."""
        return self.header.data_offset + 2 * self.header.block_bytes

    def decode(self, stored: bytes, where: str) -> NDArray[Any]:
        """Voxels (32, 32, 32) as x, y, z, Fortran-ordered."""
        voxels: NDArray[Any] = self.cube(stored, where).block(0)[0]
        return voxels

    def cube(self, stored: bytes, where: str) -> wkw.Cube:
        """Open a cube and check that its header fits."""
        cube = wkw.Cube(BytesIO(stored), where)
        if not cube.header.same_voxels(self.header):
            raise DamagedFile(f"{where}: its header says {cube.header}, header.wkw {self.header}; export it again")
        return cube


class ChunkStore:
    """The stored chunks of one mag.

    Parameters
    ----------
    mag : Mag
    codec : Codec
    axes : tuple of str
        Names of the axes beyond x, y, z.
    numbers : (n, a + 3) int64
        Chunk numbers along the extra axes, x, y, z; sorted here by extra axes, z, y, x.
    names : n str
        Members that hold them.
    read : (member, limit) -> bytes
    where : str
        The zip, for messages.
    """

    def __init__(
        self,
        mag: Mag,
        codec: Codec,
        axes: tuple[str, ...],
        numbers: NDArray[np.int64],
        names: Sequence[str],
        read: Callable[[str, int], bytes],
        where: str,
    ) -> None:
        order = np.lexsort([*numbers[:, -3:].T, *numbers[:, :-3].T[::-1]])  # extra axes slowest, then z, y, x
        self.mag = mag
        self.codec = codec
        self.axes = axes
        self.where = where
        self.numbers = numbers[order]
        self._names = [names[n] for n in order.tolist()]
        self._read = read
        same = np.flatnonzero((self.numbers[1:] == self.numbers[:-1]).all(axis=1))
        if len(same):
            first, second = self._names[same[0] : same[0] + 2]
            raise DamagedFile(f"{where}: {first} and {second} are the same chunk; export the annotation again")
        if len(numbers) and (numbers[:, -3:].max(axis=0) + 1 > LARGEST // (SIDE * np.array(mag))).any():
            raise DamagedFile(
                f"{where}: mag {mag} has a chunk at {numbers[:, -3:].max(axis=0).tolist()}, which is past voxel "
                f"{LARGEST} of mag 1, more than WEBKNOSSOS counts; export the annotation again"
            )

    def __len__(self) -> int:
        return len(self._names)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels: an integer type in native byte order."""
        return self.codec.dtype

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """(n, 3) first voxel x, y, z of each stored chunk, in voxels of this mag; sorted by z, y, x."""
        return self.numbers[:, -3:] * SIDE

    @cached_property
    def coordinates(self) -> list[tuple[int, ...]]:
        """Places along the extra axes at which chunks are stored, ascending; ``[()]`` where there are no such axes."""
        if not self.axes:
            return [()]
        return [tuple(row) for row in np.unique(self.numbers[:, :-3], axis=0).tolist()]

    def at(self, *coordinates: int) -> ChunkStore:
        """Return the chunks at one place along the extra axes.

        Raises
        ------
        InvalidInput
            Not one number per extra axis.
        """
        if len(coordinates) != len(self.axes):
            raise InvalidInput(f"{self.where}: {coordinates} must give one index for each axis of {self.axes}")
        here = np.flatnonzero((self.numbers[:, :-3] == np.array(coordinates, np.int64)).all(axis=1))
        return ChunkStore(
            self.mag, self.codec, (), self.numbers[here, -3:], [self._names[n] for n in here], self._read, self.where
        )

    @cached_property
    def box(self) -> Box:
        """Union of the stored chunks in voxels of this mag; of no voxel where nothing is stored."""
        if not len(self):
            return Box((0, 0, 0), (0, 0, 0))
        return Box(tuple(self.positions.min(axis=0).tolist()), tuple((self.positions.max(axis=0) + SIDE).tolist()))

    def stored(self, index: int) -> bytes:
        """Bytes of chunk `index` (of `positions`) as they are stored."""
        return self._read(self._names[index], self.codec.most_bytes)

    def member(self, index: int) -> str:
        """Where chunk `index` (of `positions`) is, for messages."""
        return f"{self.where}/{self._names[index]}"

    def decode(self, index: int) -> NDArray[Any]:
        """Decode chunk `index` (of `positions`).

        Returns
        -------
        (32, 32, 32) array x, y, z, Fortran-ordered; may be read-only

        Raises
        ------
        DamagedFile
            It does not decode; the message names the member.
        """
        return self.codec.decode(self.stored(index), self.member(index))

    def chunks(self) -> Iterator[tuple[Shape3, NDArray[Any]]]:
        """Each stored chunk: first voxel x, y, z in this mag, and its voxels (32, 32, 32), Fortran-ordered.

        Sorted by z, y, x; one chunk is decoded at a time.

        Raises
        ------
        DamagedFile
            A chunk does not decode.
        InvalidInput
            Chunks at several places along extra axes: see `at`.
        """
        self._check_flat()
        for index, (x, y, z) in enumerate(self.positions.tolist()):
            yield (x, y, z), self.decode(index)

    def read(self, start: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
        """Read a box of voxels of this mag; zeros where nothing is stored.

        Parameters
        ----------
        start, size : (x, y, z)
            In voxels of this mag; `start` may be negative.

        Returns
        -------
        (x, y, z) array, Fortran-ordered

        Raises
        ------
        DamagedFile, InvalidInput
            As `chunks`; also a negative size, or one that does not fit into memory.
        """
        self._check_flat()
        low, high = np.array(start, np.int64), np.array(start, np.int64) + np.array(size, np.int64)
        out = zeros(size, self.dtype, self.where)
        # Sorted by z, so that a slice is found without looking at all of them.
        first = int(np.searchsorted(self.positions[:, 2], low[2] - SIDE, "right"))
        last = int(np.searchsorted(self.positions[:, 2], high[2], "left"))
        near = self.positions[first:last]
        for index in np.flatnonzero(((near < high) & (near + SIDE > low)).all(axis=1)).tolist():
            place = near[index]
            a, b = np.maximum(place, low), np.minimum(place + SIDE, high)
            out[tuple(map(slice, a - low, b - low))] = self.decode(first + index)[
                tuple(map(slice, a - place, b - place))
            ]
        return out

    def _check_flat(self) -> None:
        if self.axes and len(self.coordinates) > 1:
            raise InvalidInput(
                f"{self.where}: chunks at {len(self.coordinates)} places along {', '.join(self.axes)}; take one with "
                f"at(), as in .at{self.coordinates[0]}"
            )


def zeros(size: Sequence[int], dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    """Make a Fortran-ordered array of zeros, or say that there is not enough memory."""
    try:
        return np.zeros(tuple(map(int, size)), dtype, order="F")
    except (MemoryError, ValueError) as why:
        raise InvalidInput(
            f"{where}: a box of {' x '.join(map(str, size))} voxels of {dtype} cannot be held in memory ({why}); read "
            "a smaller one, or the stored chunks one by one"
        ) from why
