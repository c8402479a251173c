"""wkw: voxels in cubes of blocks, raw or LZ4, one file per cube.

A cube file begins with 16 bytes: ``WKW``, version 1, the sides of a block (voxels) and of the cube (blocks) as powers
of two in the low and high half of a byte, how blocks are stored, the dtype, bytes per voxel (of all channels), and
where the data begin (u64). LZ4 cubes go on with the end of every block (u64, counted from the file's begin). Blocks
lie in Morton order, x in the lowest bit; the voxels of a block have the channel running fastest, then x, y, z. All
numbers are little endian. ``header.wkw`` beside the cubes holds the same 16 bytes with the offset 0.

Source: the public description of the format (github.com/scalableminds/webknossos-wrap, MIT) and files.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from voxtract.errors import DamagedFile, NotFound, OutputError, UnreadableFile
from voxtract.geometry import Box, Shape3
from voxtract.webknossos.packages import need

if TYPE_CHECKING:
    from numpy.typing import NDArray

RAW, LZ4, LZ4_HC = 1, 2, 3
HEADER_BYTES = 16
DTYPES = {n: np.dtype(name) for n, name in enumerate(("u1", "u2", "u4", "u8", "f4", "f8", "i1", "i2", "i4", "i8"), 1)}

_LAYOUT = struct.Struct("<3s5BQ")
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_MOST_BLOCK_BYTES = 1 << 28  # 32 voxels a side are usual: 256 KiB of uint64
_MOST_BLOCKS = 1 << 7  # along a side of a cube; 32 are usual


@dataclass(frozen=True, slots=True)
class Header:
    """What the first 16 bytes say.

    Parameters
    ----------
    dtype : numpy.dtype
        One of `DTYPES`.
    channels : int
    block : int
        Voxels along each side of a block, a power of two.
    cube : int
        Blocks along each side of a cube, a power of two.
    kind : int
        `RAW`, `LZ4` or `LZ4_HC`.

    Examples
    --------
    >>> Header(np.dtype("u4")).encode().hex(" ", 4)
    '574b5701 05020304 00000000 00000000'
    """

    dtype: np.dtype[Any]
    channels: int = 1
    block: int = 32
    cube: int = 1
    kind: int = LZ4

    @classmethod
    def decode(cls, raw: bytes, where: str) -> tuple[Header, int]:
        """Read and check a header.

        Returns
        -------
        Header, and where the data begin

        Raises
        ------
        DamagedFile
            Too short, another format or version, sizes that contradict each other.
        """
        if len(raw) < HEADER_BYTES or raw[:3] != b"WKW":
            raise DamagedFile(f"{where}: begins with {raw[:4]!r}, but a wkw file with 'WKW'; export it again")
        _, version, sides, kind, code, voxel_bytes, offset = _LAYOUT.unpack(raw[:HEADER_BYTES])
        dtype = DTYPES.get(code)
        if version != 1 or kind not in (RAW, LZ4, LZ4_HC) or dtype is None:
            raise DamagedFile(
                f"{where}: wkw version {version}, block type {kind}, voxel type {code}, but version 1, block types "
                f"1 to 3 and voxel types 1 to {max(DTYPES)} are known; export it again"
            )
        channels, odd = divmod(voxel_bytes, dtype.itemsize)
        header = cls(dtype, channels, 1 << (sides & 15), 1 << (sides >> 4), kind)
        if odd or not channels or header.block_bytes > _MOST_BLOCK_BYTES or header.cube > _MOST_BLOCKS:
            raise DamagedFile(
                f"{where}: {voxel_bytes} bytes per voxel of {dtype}, {header.block} voxels along a block and "
                f"{header.cube} blocks along a cube is no wkw header that a tool writes; export it again"
            )
        return header, offset

    def encode(self, offset: int = 0) -> bytes:
        """Return the 16 bytes; `offset` is 0 in ``header.wkw``."""
        sides = (self.block.bit_length() - 1) | (self.cube.bit_length() - 1) << 4
        code = _CODES[self.dtype]
        return _LAYOUT.pack(b"WKW", 1, sides, self.kind, code, self.channels * self.dtype.itemsize, offset)

    @property
    def block_bytes(self) -> int:
        """Bytes of a decoded block."""
        return self.block**3 * self.channels * self.dtype.itemsize

    @property
    def side(self) -> int:
        """Voxels along each side of a cube."""
        return self.block * self.cube

    @property
    def data_offset(self) -> int:
        """Where the first block begins in a cube file."""
        return HEADER_BYTES + (0 if self.kind == RAW else 8 * self.cube**3)

    def same_voxels(self, other: Header) -> bool:
        """Whether `other` speaks of the same kind of voxels in cubes of the same size."""
        return (self.dtype, self.channels, self.block, self.cube) == (
            other.dtype,
            other.channels,
            other.block,
            other.cube,
        )

    def decode_block(self, stored: bytes, where: str) -> NDArray[Any]:
        """Decode one block.

        Returns
        -------
        (channels, x, y, z) array, Fortran-ordered, read-only

        Raises
        ------
        DamagedFile
            It does not decode to exactly one block.
        InvalidInput
            The package lz4 is missing.
        """
        if self.kind != RAW:
            lz4 = need("lz4.block", where)
            try:
                stored = lz4.decompress(stored, uncompressed_size=self.block_bytes)
            except lz4.LZ4BlockError as why:
                raise DamagedFile(f"{where}: a block is no LZ4 data ({why}); export it again") from why
        if len(stored) != self.block_bytes:
            raise DamagedFile(
                f"{where}: a block holds {len(stored)} bytes, but {self.block}^3 voxels of {self.dtype} need "
                f"{self.block_bytes}; export it again"
            )
        voxels = np.frombuffer(stored, self.dtype.newbyteorder("<")).astype(self.dtype, copy=False)
        return voxels.reshape((self.channels, self.block, self.block, self.block), order="F")

    def encode_block(self, voxels: NDArray[Any]) -> bytes:
        """Encode one block (channels, x, y, z) of the header's dtype."""
        raw = voxels.astype(self.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
        if self.kind == RAW:
            return raw
        stored: bytes = need("lz4.block", "writing wkw").compress(raw, store_size=False)
        return stored


@lru_cache(maxsize=8)
def morton(side: int) -> NDArray[np.int64]:
    """Positions of the ``side**3`` blocks of a cube (`side` a power of two) in the order in which they are stored.

    Returns
    -------
    (side ** 3, 3) int64

    Examples
    --------
    >>> morton(2).tolist()[:4]
    [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]
    """
    number = np.arange(side**3)
    place = np.zeros((side**3, 3), np.int64)
    for bit in range(side.bit_length() - 1):
        for axis in range(3):
            place[:, axis] |= (number >> (3 * bit + axis) & 1) << bit
    place.setflags(write=False)
    return place


class Cube:
    """The blocks of one cube file that is open for reading.

    Parameters
    ----------
    file : BinaryIO
        Open at its begin, seekable.
    where : str
        For messages.

    Raises
    ------
    DamagedFile
        The header is none, or the file is too short for its blocks.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file = file
        self.where = where
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.header, offset = Header.decode(file.read(HEADER_BYTES), where)
        count = self.header.cube**3
        self.ends: NDArray[np.int64]
        if self.header.kind == RAW:
            self.ends = offset + np.arange(count + 1) * self.header.block_bytes
        else:
            table = file.read(8 * count) if HEADER_BYTES + 8 * count <= min(size, offset) else b""
            if len(table) != 8 * count:
                raise DamagedFile(f"{where}: {size} bytes are too few for a table of {count} blocks; export it again")
            # Ends beyond 2**63 become negative, and so are refused below.
            self.ends = np.concatenate([[offset], np.frombuffer(table, "<u8").astype(np.int64)])
        if offset < HEADER_BYTES or self.ends[-1] > size or (np.diff(self.ends) < 0).any():
            raise DamagedFile(
                f"{where}: its blocks end at byte {self.ends.max()}, but the file has {size}; export it again"
            )

    def stored(self, index: int) -> bytes:
        """Bytes of block `index` (Morton order) as stored."""
        first, last = self.ends[index : index + 2].tolist()
        if last - first > 2 * self.header.block_bytes + 64:  # LZ4 grows what it cannot compress by less than 1 %
            raise DamagedFile(
                f"{self.where}: a block takes {last - first} bytes for {self.header.block_bytes}; export it again"
            )
        self._file.seek(first)
        return self._file.read(last - first)

    def block(self, index: int) -> NDArray[Any]:
        """Voxels (channels, x, y, z) of block `index` (Morton order)."""
        return self.header.decode_block(self.stored(index), self.where)


def write_cube(file: BinaryIO, header: Header, blocks: Iterable[bytes]) -> None:
    """Write a cube file.

    Parameters
    ----------
    file : BinaryIO
        Open at its begin for writing, seekable.
    header : Header
    blocks : bytes of every block as stored, in Morton order
        They are asked for one by one.
    """
    file.write(header.encode(header.data_offset))
    if header.kind == RAW:
        file.writelines(blocks)
        return
    ends = np.zeros(header.cube**3, "<u8")
    file.write(ends.tobytes())
    end = header.data_offset
    for index, stored in enumerate(blocks):
        end += file.write(stored)
        ends[index] = end
    file.seek(HEADER_BYTES)
    file.write(ends.tobytes())


_FOLDER_Z, _FOLDER_Y, _FILE_X = (re.compile(p) for p in (r"z(\d{1,9})", r"y(\d{1,9})", r"x(\d{1,9})\.wkw"))


class WkwArray:
    """The cubes of one mag of a layer in a folder.

    Parameters
    ----------
    folder : Path
    header : Header
    """

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder = folder
        self.header = header

    @classmethod
    def open(cls, folder: Path) -> WkwArray:
        """Open a folder that holds ``header.wkw``.

        Raises
        ------
        NotFound, UnreadableFile, DamagedFile
            No such file, not readable, no wkw header.
        """
        path = folder / "header.wkw"
        try:
            with path.open("rb") as file:
                raw = file.read(HEADER_BYTES)
        except FileNotFoundError as why:
            raise NotFound(f"{path}: no such file, so {folder.name} is no wkw mag; check the layer's path") from why
        except OSError as why:
            raise UnreadableFile(f"{path}: cannot be read: {why.strerror or why}") from why
        return cls(folder, Header.decode(raw, str(path))[0])

    @classmethod
    def create(cls, folder: Path, header: Header) -> WkwArray:
        """Make the folder and its ``header.wkw``.

        Raises
        ------
        OutputError
            The folder is there already, or cannot be written to.
        """
        try:
            folder.mkdir(parents=True)
            (folder / "header.wkw").write_bytes(header.encode())
        except OSError as why:
            raise OutputError(f"{folder}: cannot be made: {why.strerror or why}") from why
        return cls(folder, header)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels."""
        return self.header.dtype

    @property
    def channels(self) -> int:
        """Values of each voxel."""
        return self.header.channels

    @property
    def chunk(self) -> Shape3:
        """Voxels of a block, the smallest piece that can be decoded."""
        return (self.header.block,) * 3

    @property
    def shard(self) -> Shape3:
        """Voxels of a cube, the piece that has a file."""
        return (self.header.side,) * 3

    @property
    def keeps_zeros(self) -> bool:
        """Whether a block of zeros that was written differs from one that was not."""
        return self.header.cube == 1

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box of voxels of this mag; zeros where nothing is stored.

        Returns
        -------
        (channels, x, y, z) array, Fortran-ordered

        Raises
        ------
        DamagedFile
            A cube does not decode, or does not fit ``header.wkw``.
        """
        out = np.zeros((self.channels, *box.shape), self.dtype, order="F")
        for place in _tiles(box, self.header.side):
            path = self._path(place)
            if not path.exists():
                continue
            blocks = self._overlaps(tuple(n * self.header.side for n in place), box)
            with self._cube(path) as cube:
                for index, (source, target) in blocks.items():
                    out[target] = cube.block(index)[source]
        return out

    def write(self, start: Shape3, voxels: NDArray[Any]) -> None:
        """Put voxels (channels, x, y, z) at `start`; blocks that they cover in part keep their other voxels.

        A cube is written anew beside the old one, block by block, and then takes its place.

        Raises
        ------
        DamagedFile
            A cube that must be kept in part does not decode.
        OutputError
            It cannot be written.
        """
        box = Box(start, tuple(a + n for a, n in zip(start, voxels.shape[1:], strict=True)))
        for place in _tiles(box, self.header.side):
            self._rewrite(place, box, voxels)

    def shards(self) -> Iterator[Box]:
        """Boxes of the cubes that have a file, by z, y, x."""
        for z, rows in _numbered(self.folder, _FOLDER_Z):
            for y, row in _numbered(rows, _FOLDER_Y):
                for x, _ in _numbered(row, _FILE_X):
                    start = tuple(n * self.header.side for n in (x, y, z))
                    yield Box(start, tuple(n + self.header.side for n in start))

    def chunks(self) -> Iterator[tuple[Shape3, NDArray[Any]]]:
        """Start and voxels (channels, x, y, z) of the stored blocks, cube by cube.

        Of cubes with several blocks, those that hold zeros only are left out.
        """
        within = (morton(self.header.cube) * self.header.block).tolist()
        for box in self.shards():
            x, y, z = box.start
            with self._cube(self._path((x // self.header.side, y // self.header.side, z // self.header.side))) as cube:
                for index, (right, down, deep) in enumerate(within):
                    voxels = cube.block(index)
                    if self.keeps_zeros or voxels.any():
                        yield (x + right, y + down, z + deep), voxels

    def recode(self, folder: Path, header: Header) -> WkwArray:
        """Write all cubes into a new folder, with blocks stored as `header` says; one block is held at a time.

        Raises
        ------
        DamagedFile, OutputError
            A cube does not decode; it cannot be written.
        """
        array = WkwArray.create(folder, header)
        for box in self.shards():
            x, y, z = (n // self.header.side for n in box.start)
            path = array._path((x, y, z))
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._cube(self._path((x, y, z))) as cube, path.open("wb") as file:
                write_cube(file, header, map(header.encode_block, map(cube.block, range(header.cube**3))))
        return array

    def _path(self, place: Shape3) -> Path:
        x, y, z = place
        return self.folder / f"z{z}" / f"y{y}" / f"x{x}.wkw"

    @contextmanager
    def _cube(self, path: Path) -> Iterator[Cube]:
        try:
            file = path.open("rb")
        except OSError as why:
            raise UnreadableFile(f"{path}: cannot be read: {why.strerror or why}; check permissions and disk") from why
        with file:
            cube = Cube(file, str(path))
            if not cube.header.same_voxels(self.header):
                raise DamagedFile(f"{path}: its header says {cube.header}, header.wkw {self.header}; export it again")
            yield cube

    def _overlaps(self, origin: tuple[int, ...], box: Box) -> dict[int, tuple[_Place, _Place]]:
        """Morton indices of the cube's blocks that meet `box`, and which voxels of block and box those are."""
        starts = morton(self.header.cube) * self.header.block + origin
        low = np.maximum(starts, box.start)
        high = np.minimum(starts + self.header.block, box.stop)
        met = np.flatnonzero((low < high).all(axis=1))
        return {
            index: (_place(first, last, start), _place(first, last, box.start))
            for index, first, last, start in zip(
                met.tolist(), low[met].tolist(), high[met].tolist(), starts[met].tolist(), strict=True
            )
        }

    def _rewrite(self, place: Shape3, box: Box, voxels: NDArray[Any]) -> None:
        path = self._path(place)
        touched = self._overlaps(tuple(n * self.header.side for n in place), box)
        whole = (self.channels, *self.chunk)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._cube(path) if path.exists() else nullcontext() as old, part.open("wb") as file:
                header = self.header if old is None else old.header  # untouched blocks stay as they are stored
                empty = header.encode_block(np.zeros(whole, self.dtype))

                def block(index: int) -> bytes:
                    if index not in touched:
                        return empty if old is None else old.stored(index)
                    source, target = touched[index]
                    piece = voxels[target]
                    if piece.shape != whole:
                        full = np.zeros(whole, self.dtype) if old is None else old.block(index).copy()
                        full[source] = piece
                        piece = full
                    return header.encode_block(piece)

                write_cube(file, header, map(block, range(header.cube**3)))
            part.replace(path)
        except OSError as why:
            if isinstance(why, UnreadableFile):
                raise
            raise OutputError(f"{path}: cannot be written: {why.strerror or why}") from why
        finally:
            part.unlink(missing_ok=True)


_Place = tuple[slice, slice, slice, slice]


def _place(low: Sequence[int], high: Sequence[int], origin: Sequence[int]) -> _Place:
    """All channels of the voxels `low` to `high`, counted from `origin`."""
    x, y, z = (slice(a - zero, b - zero) for a, b, zero in zip(low, high, origin, strict=True))
    return slice(None), x, y, z


def _tiles(box: Box, side: int) -> Iterator[Shape3]:
    """Numbers (x, y, z) of the cubes that meet `box`, x fastest."""
    ranges = [range(a // side, -(-b // side)) for a, b in zip(box.start, box.stop, strict=True)]
    for z, y, x in itertools.product(*ranges[::-1]):
        yield x, y, z


def _numbered(folder: Path, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    """Entries of `folder` whose name is `pattern`, by their number."""
    try:
        found = [(pattern.fullmatch(path.name), path) for path in folder.iterdir()]
    except OSError as why:
        raise UnreadableFile(f"{folder}: cannot be listed: {why.strerror or why}") from why
    return sorted((int(match[1]), path) for match, path in found if match)
