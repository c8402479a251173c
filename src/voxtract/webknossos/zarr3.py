"""The zarr 3 chunks of an annotation's volume layer: 32 voxels a side, one file each.

Servers have written four kinds of metadata around the same chunk bytes, one of them wrong: it lists no compression and
another way of naming chunks than the files have, and readers that believe it find nothing but zeros. So the chunks are
judged by their own content. The axes are c (always 0), then any extra ones, then x, y, z, and x runs fastest.

Chunks are Blosc with the header of its version 1: bytes 4 to 7 hold the decoded size, 12 to 15 the stored size (u32).
Sources: the zarr 3 and c-blosc format descriptions, files of servers of 2023 and 2025.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.webknossos.json_text import entry, parse, whole_numbers
from voxtract.webknossos.packages import need

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 32  # voxels of a chunk along x, y and z
VOXELS = SIDE**3
DTYPES = {name: np.dtype(name) for sign in ("u", "") for name in (f"{sign}int{8 * 2**n}" for n in range(4))}
BLOSC_OVERHEAD = 16

_KEY = re.compile(r"(?:c[./])?(\d{1,9}(?:[./]\d{1,9})*)")


def parse_key(key: str) -> tuple[int, ...] | None:
    """Chunk numbers (c, extra axes, x, y, z) in the name of a chunk file; None where it is no such name.

    >>> parse_key("c.0.103.107.32"), parse_key("0.103.107.32"), parse_key("zarr.json")
    ((0, 103, 107, 32), (0, 103, 107, 32), None)
    """
    match = _KEY.fullmatch(key)
    if not match or not key.isascii():
        return None
    return tuple(map(int, re.split("[./]", match[1])))


def chunk_key(chunk: Sequence[int]) -> str:
    """Name of a chunk file, from the chunk numbers along extra axes, x, y, z.

    >>> chunk_key((103, 107, 32))
    'c.0.103.107.32'
    """
    return ".".join(map(str, ("c", 0, *chunk)))


@dataclass(frozen=True, slots=True)
class ChunkCodec:
    """How the chunks of one mag are stored.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the voxels, an integer type in native byte order.
    axes : tuple of str
        Names of the axes between channel and x.
    order : "F", "C" or the axes as they are stored, slowest first; None where the metadata say nothing
    compressed : bool
        Whether the metadata list a compression.
    big_endian : bool
    """

    dtype: np.dtype[Any]
    axes: tuple[str, ...] = ()
    order: str | tuple[int, ...] | None = "F"
    compressed: bool = True
    big_endian: bool = False

    @classmethod
    def parse(cls, raw: bytes, where: str) -> ChunkCodec:
        """Read a ``zarr.json``. Its shape and its way of naming chunks are not looked at: they can be wrong.

        Raises
        ------
        DamagedFile
            No JSON, or a part is missing.
        InvalidInput
            Voxels that are no integers, other chunks than 32 voxels a side, sharding.
        """
        document = parse(raw, where)
        dtype = DTYPES.get(str(document.get("data_type")))
        if dtype is None:
            raise InvalidInput(
                f"{where}: data_type {document.get('data_type')!r} is no voxel type of a volume layer; allowed: "
                + ", ".join(DTYPES)
            )
        shape = entry(document, "chunk_grid", "configuration", "chunk_shape")
        count = len(shape) if isinstance(shape, list) else 0
        if count < 4 or whole_numbers(shape, count) != (*(1,) * (count - 3), SIDE, SIDE, SIDE):
            raise InvalidInput(
                f"{where}: chunks of {shape} voxels, but those of a volume layer are [1, 32, 32, 32] (and 1 along "
                "extra axes); open it as a dataset instead"
            )
        names = document.get("dimension_names")
        axes = tuple(map(str, names[1:-3])) if isinstance(names, list) and len(names) == count else ()
        axes = axes or tuple(f"axis{n}" for n in range(1, count - 3))
        return _with_codecs(cls(dtype, axes, None, compressed=False), document.get("codecs"), where)

    @property
    def most_bytes(self) -> int:
        """A stored chunk has no more bytes."""
        return VOXELS * self.dtype.itemsize + BLOSC_OVERHEAD

    def is_blosc(self, stored: bytes) -> bool:
        """Whether the bytes are a chunk in Blosc, told by the two sizes in its header."""
        sizes = struct.unpack("<I4xI", stored[4:16]) if len(stored) >= 16 else None
        return sizes == (VOXELS * self.dtype.itemsize, len(stored))

    def is_plain(self, stored: bytes, where: str) -> bool:
        """Whether the bytes are what every tool takes for a chunk: Blosc, x fastest, little endian.

        Raises
        ------
        DamagedFile
            They are no chunk at all.
        """
        is_blosc = self._check(stored, where)
        little = not self.big_endian or self.dtype.itemsize == 1
        return is_blosc and little and self._voxel_axes(is_blosc) == (2, 1, 0)

    def decode(self, stored: bytes, where: str) -> NDArray[Any]:
        """Decode a chunk.

        Returns
        -------
        (32, 32, 32) array x, y, z, Fortran-ordered; may be read-only

        Raises
        ------
        DamagedFile
            The bytes are neither Blosc nor voxels as they are, or do not decode.
        InvalidInput
            The package numcodecs is missing.
        """
        is_blosc = self._check(stored, where)
        if is_blosc:
            try:
                stored = need("numcodecs.blosc", where).decompress(stored)
            except RuntimeError as why:
                raise DamagedFile(f"{where}: its Blosc data are damaged ({why}); export it again") from why
        flat = np.frombuffer(stored, self.dtype.newbyteorder(">" if self.big_endian else "<"))
        axes = self._voxel_axes(is_blosc)
        voxels = flat.astype(self.dtype, copy=False).reshape((SIDE, SIDE, SIDE)).transpose(np.argsort(axes))
        return np.asfortranarray(voxels)

    def _check(self, stored: bytes, where: str) -> bool:
        """Tell Blosc from voxels as they are."""
        size = VOXELS * self.dtype.itemsize
        is_blosc = self.is_blosc(stored)
        if not is_blosc and len(stored) != size:
            raise DamagedFile(
                f"{where}: {len(stored)} bytes are neither a Blosc chunk nor 32 x 32 x 32 voxels of {self.dtype} as "
                f"they are ({size} bytes); export the annotation again"
            )
        return is_blosc

    def _voxel_axes(self, is_blosc: bool) -> tuple[int, ...]:
        """The axes x, y, z (0, 1, 2) as they are stored, slowest first."""
        order = self.order
        if order is None:  # metadata that are wrong about the compression are not believed about the order either
            order = "F" if is_blosc and not self.compressed else "C"
        if isinstance(order, str):
            return (2, 1, 0) if order == "F" else (0, 1, 2)
        first = len(order) - 3
        return tuple(axis - first for axis in order if axis >= first)


def _with_codecs(codec: ChunkCodec, listed: Any, where: str) -> ChunkCodec:
    """Add what the list of codecs says."""
    if not isinstance(listed, list):
        raise DamagedFile(f"{where}: lists no codecs; export it again")
    count = len(codec.axes) + 4
    order, compressed, big_endian = codec.order, codec.compressed, codec.big_endian
    for item in listed:
        match entry(item, "name"):
            case "transpose":
                found = entry(item, "configuration", "order")
                order = found if found in ("F", "C") else whole_numbers(found, count)
                if order is None or (not isinstance(order, str) and sorted(order) != list(range(count))):
                    raise DamagedFile(f"{where}: transposes {count} axes by {found}; export it again")
            case "bytes":
                big_endian = entry(item, "configuration", "endian") == "big"
            case "sharding_indexed":
                raise InvalidInput(f"{where}: a volume layer has no shards; open it as a dataset instead")
            case _:
                compressed = True
    return ChunkCodec(codec.dtype, codec.axes, order, compressed, big_endian)


def encode_chunk(voxels: NDArray[Any]) -> bytes:
    """Encode a chunk (32, 32, 32) as servers do: x fastest, little endian, Blosc (lz4, 5, shuffle, type size 1)."""
    raw = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
    blosc = need("numcodecs.blosc", "writing a volume layer")
    # One Blosc block per chunk: several are compressed by threads, and lie in the order in which these end.
    stored: bytes = blosc.compress(np.frombuffer(raw, np.uint8), b"lz4", 5, blosc.SHUFFLE, len(raw))
    return stored


def metadata(dtype: np.dtype[Any], extent: Sequence[int], axes: Sequence[str] = ()) -> bytes:
    """Write the ``zarr.json`` of a mag.

    Parameters
    ----------
    dtype : numpy.dtype
    extent : sequence of int
        First index past the end along extra axes, x, y, z; x, y and z are rounded up to whole chunks.
    axes : sequence of str
        Names of the extra axes.

    Returns
    -------
    bytes: JSON, in the form that all servers and zarr readers take
    """
    count = len(extent) + 1
    extra, voxels = list(extent[:-3]), [max(1, math.ceil(n / SIDE)) * SIDE for n in extent[-3:]]
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [1, *extra, *voxels],
            "data_type": dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [*[1] * (count - 3), SIDE, SIDE, SIDE]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": 0,
            "codecs": [
                {"name": "transpose", "configuration": {"order": list(range(count))[::-1]}},
                {"name": "bytes", "configuration": {"endian": "little"}},
                {
                    "name": "blosc",
                    "configuration": {
                        "cname": "lz4",
                        "clevel": 5,
                        "shuffle": "shuffle",
                        "typesize": 1,
                        "blocksize": 0,
                    },
                },
            ],
            "attributes": {},
            "dimension_names": ["c", *axes, "x", "y", "z"],
        },
        indent=2,
    ).encode()
