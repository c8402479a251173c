"""Zarr arrays on disk (versions 2 and 3, with shards or without) as one mag of a layer, through zarr-python.

zarr-python takes what zarr metadata may ask for, so these are checked first: only plain numbers, only codecs that do
nothing but compress, no chunk larger than memory should be asked for. Old servers name the axis order "F", which it
refuses; that is put right in memory.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput, NotFound, OutputError, UnreadableFile, VoxtractError
from voxtract.geometry import Box, Shape3
from voxtract.webknossos import json_text
from voxtract.webknossos.chunks import zeros
from voxtract.webknossos.packages import need
from voxtract.webknossos.zarr3 import parse_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

AXES = ("c", "x", "y", "z")

SHARDING = "sharding_indexed"

_DTYPES = {*(f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64)), "float32", "float64"}
_CODECS = {"transpose", "bytes", "blosc", "zstd", "gzip", "crc32c", SHARDING}
_COMPRESSORS = {None, "blosc", "zstd", "gzip", "zlib", "lz4", "bz2"}
_MOST_CHUNK_BYTES = 1 << 30
_MOST_INNER = 1 << 21  # chunks of a shard: 32768 are usual
_ROW_BYTES = 1 << 25  # of shards, about as much is decoded at a time when going through the chunks
_FAULTS = (ValueError, TypeError, KeyError, IndexError, RuntimeError, EOFError)


class ZarrArray:
    """One array.

    Parameters
    ----------
    folder : Path
    document : dict
        Its metadata, checked.
    order : mapping of "c", "x", "y", "z" to axis, optional
        "c" may be missing. Axes that it does not name have one index. Told by the names in the metadata, else by the
        number of axes, where it is None.
    writable : bool
    """

    def __init__(self, folder: Path, document: dict[str, Any], order: Mapping[str, int] | None, writable: bool) -> None:
        self.folder = folder
        self._document = document
        self._writable = writable
        self._array = self._opened()
        self._order = _axis_order(order, document, self._array.shape, str(folder))

    @classmethod
    def open(cls, folder: Path, order: Mapping[str, int] | None = None, writable: bool = True) -> ZarrArray:
        """Open the array in `folder`.

        Parameters
        ----------
        folder : Path
        order : mapping of axis name to axis, optional
            Where c, x, y and z are; told by the names in the metadata, else by the number of axes, where it is None.
        writable : bool

        Raises
        ------
        NotFound, UnreadableFile
            No array there, or not readable.
        DamagedFile, InvalidInput
            Metadata that cannot be, or that ask for what is not done here.
        """
        version, document = _metadata(folder)
        checked = (_checked3 if version == 3 else _checked2)(document, str(folder))
        array = cls(folder, checked, order, writable)
        _check_names(folder, array._array)
        return array

    def _opened(self) -> Any:
        zarr = need("zarr", str(self.folder))
        # Zeros that are written are stored: in a volume layer they hide the fallback layer.
        keep_zeros = {"array.write_empty_chunks": SHARDING not in str(self._document.get("codecs"))}
        with _mapped(str(self.folder)), zarr.config.set(keep_zeros):
            store = zarr.storage.LocalStore(self.folder, read_only=not self._writable)
            return zarr.Array.from_dict(zarr.storage.StorePath(store), self._document)

    @classmethod
    def create(
        cls, folder: Path, dtype: np.dtype[Any], channels: int, extent: Shape3, chunk: Shape3, shard: Shape3 | None
    ) -> ZarrArray:
        """Make an array in a new folder: axes c, x, y, z, stored x fastest, zstd.

        Parameters
        ----------
        folder : Path
        dtype : numpy.dtype
        channels : int
        extent : (x, y, z)
            Voxels; it grows with what is written.
        chunk : (x, y, z)
        shard : (x, y, z), optional
            Voxels of a file, a multiple of `chunk`; one file per chunk where it is None.

        Raises
        ------
        OutputError
            The folder is there already, or cannot be written to.
        """
        zarr = need("zarr", str(folder))
        if folder.exists():
            raise OutputError(f"{folder}: is there already; choose another name or remove it")
        with _mapped(str(folder), writing=True):
            zarr.create_array(
                store=zarr.storage.LocalStore(folder),
                shape=(channels, *(max(1, n) for n in extent)),
                dtype=dtype.name,
                chunks=(channels, *chunk),
                shards=None if shard is None else (channels, *shard),
                filters=[zarr.codecs.TransposeCodec(order=(3, 2, 1, 0))],
                compressors=[zarr.codecs.ZstdCodec(level=5, checksum=True)],
                fill_value=0,
                dimension_names=list(AXES),
            )
        return cls.open(folder)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels, in native byte order."""
        dtype: np.dtype[Any] = self._array.dtype.newbyteorder("=")
        return dtype

    @property
    def channels(self) -> int:
        """Values of each voxel."""
        return int(self._array.shape[self._order["c"]]) if "c" in self._order else 1

    @property
    def extent(self) -> Shape3:
        """Voxels that the metadata declare."""
        return self._xyz(self._array.shape)

    @property
    def chunk(self) -> Shape3:
        """Voxels of a chunk, the smallest piece that can be decoded."""
        return self._xyz(self._array.chunks)

    @property
    def shard(self) -> Shape3:
        """Voxels of a shard, the piece that has a file."""
        return self._xyz(self._array.shards or self._array.chunks)

    @property
    def keeps_zeros(self) -> bool:
        """Whether a chunk of zeros that was written differs from one that was not."""
        return self._array.shards is None

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box of voxels of this mag; zeros where nothing is stored.

        Returns
        -------
        (channels, x, y, z) array, Fortran-ordered

        Raises
        ------
        DamagedFile
            A chunk does not decode.
        """
        out = zeros((self.channels, *box.shape), self.dtype, str(self.folder))
        stop = [min(a, b) for a, b in zip(box.stop, self.extent, strict=True)]
        if any(a >= b for a, b in zip(box.start, stop, strict=True)):
            return out
        with _mapped(str(self.folder)):
            found = np.asarray(self._array[self._index(box.start, stop)])
        part = tuple(slice(b - a) for a, b in zip(box.start, stop, strict=True))
        out[:, *part] = self._to_cxyz(found)
        return out

    def write(self, start: Shape3, voxels: NDArray[Any]) -> None:
        """Put voxels (channels, x, y, z) at `start`; the declared extent grows where they need it.

        Raises
        ------
        OutputError
            It cannot be written.
        DamagedFile
            A chunk that must be kept in part does not decode.
        """
        stop = [a + n for a, n in zip(start, voxels.shape[1:], strict=True)]
        with _mapped(str(self.folder), writing=True):
            if any(a > b for a, b in zip(stop, self.extent, strict=True)):
                self._grow(stop)
            self._array[self._index(start, stop)] = self._from_cxyz(voxels)

    def shards(self) -> Iterator[Box]:
        """Boxes of the shards (chunks where there are none) that have a file, by z, y, x."""
        axes = len(self._array.shape)
        found = {self._xyz(parse_key(name) or ()) for name in _chunk_names(self.folder, "", axes)}
        for x, y, z in sorted(found, key=lambda place: place[::-1]):
            start = tuple(n * side for n, side in zip((x, y, z), self.shard, strict=True))
            yield Box(start, tuple(n + side for n, side in zip(start, self.shard, strict=True)))

    def chunks(self) -> Iterator[tuple[Shape3, NDArray[Any]]]:
        """Start and voxels (channels, x, y, z) of the stored chunks, shard by shard.

        Of shards, the chunks that hold zeros only are left out. Chunks are whole, also at the end of the array.
        """
        for box in self.shards():
            for row in self._rows(box):
                voxels = self.read(row)
                steps = [range(0, n, side) for n, side in zip(row.shape, self.chunk, strict=True)]
                for z, y, x in itertools.product(*steps[::-1]):
                    right, down, deep = self.chunk
                    piece = voxels[:, x : x + right, y : y + down, z : z + deep]
                    if self.keeps_zeros or piece.any():
                        yield (row.start[0] + x, row.start[1] + y, row.start[2] + z), piece

    def _rows(self, box: Box) -> Iterator[Box]:
        """Cut a shard into rows of chunks along x, as many at a time along y as memory should hold."""
        row_bytes = box.shape[0] * self.chunk[1] * self.chunk[2] * self.channels * self.dtype.itemsize
        height = max(1, _ROW_BYTES // row_bytes) * self.chunk[1]
        for z in range(box.start[2], box.stop[2], self.chunk[2]):
            for y in range(box.start[1], box.stop[1], height):
                yield Box((box.start[0], y, z), (box.stop[0], min(y + height, box.stop[1]), z + self.chunk[2]))

    def _grow(self, stop: Sequence[int]) -> None:
        """Declare a larger extent. zarr's own resize looks at every chunk that the old one could have had."""
        shape = list(self._array.shape)
        for axis, n in zip("xyz", stop, strict=True):
            shape[self._order[axis]] = max(shape[self._order[axis]], n)
        self._document = {**self._document, "shape": shape}
        file = self.folder / ("zarr.json" if self._document["zarr_format"] == 3 else ".zarray")
        part = file.with_name(f".{file.name.lstrip('.')}.{os.getpid()}.part")
        part.write_text(json.dumps(self._document, indent=2))
        part.replace(file)
        self._array = self._opened()

    def _xyz(self, values: Sequence[int]) -> Shape3:
        x, y, z = (int(values[self._order[axis]]) for axis in "xyz")
        return x, y, z

    def _index(self, start: Sequence[int], stop: Sequence[int]) -> tuple[slice, ...]:
        index = [slice(None)] * len(self._array.shape)
        for axis, a, b in zip("xyz", start, stop, strict=True):
            index[self._order[axis]] = slice(a, b)
        return tuple(index)

    def _to_cxyz(self, found: NDArray[Any]) -> NDArray[Any]:
        kept = [self._order[axis] for axis in AXES if axis in self._order]
        others = [axis for axis in range(found.ndim) if axis not in kept]
        voxels: NDArray[Any] = found.transpose(*others, *kept)[(0,) * len(others)]
        return voxels if "c" in self._order else voxels[None]

    def _from_cxyz(self, voxels: NDArray[Any]) -> NDArray[Any]:
        names = [axis for axis in AXES if axis in self._order]
        voxels = voxels if "c" in self._order else voxels[0]
        ranked = sorted(range(len(names)), key=lambda n: self._order[names[n]])
        others = tuple(axis for axis in range(len(self._array.shape)) if axis not in self._order.values())
        return np.expand_dims(voxels.transpose(ranked), others)


@contextmanager
def _mapped(where: str, writing: bool = False) -> Iterator[None]:
    """Whatever zarr and its codecs raise leaves as one of our errors."""
    try:
        yield
    except VoxtractError:
        raise
    except OSError as why:
        if writing:
            raise OutputError(f"{where}: cannot be written: {why.strerror or why}") from why
        raise UnreadableFile(f"{where}: cannot be read: {why.strerror or why}; check permissions and disk") from why
    except MemoryError as why:
        raise InvalidInput(f"{where}: its chunks do not fit into memory ({why}); use a machine with more") from why
    except _FAULTS as why:
        raise DamagedFile(f"{where}: does not decode as a zarr array ({why}); export it again") from why


def _metadata(folder: Path) -> tuple[int, dict[str, Any]]:
    """Version and metadata of the array in a folder."""
    for version, name in ((3, "zarr.json"), (2, ".zarray")):
        path = folder / name
        try:
            return version, json_text.parse(path.read_bytes(), str(path))
        except FileNotFoundError:
            continue
        except OSError as why:
            raise UnreadableFile(f"{path}: cannot be read: {why.strerror or why}; check permissions") from why
    raise NotFound(f"{folder}: holds neither zarr.json nor .zarray, so it is no zarr array; check the layer's path")


def _checked3(document: dict[str, Any], where: str) -> dict[str, Any]:
    """Check metadata of version 3; return them with axis orders as lists."""
    if document.get("node_type") != "array" or document.get("data_type") not in _DTYPES:
        raise InvalidInput(
            f"{where}: is a zarr {document.get('node_type')!r} of {document.get('data_type')!r}, but an array of one "
            f"of {', '.join(sorted(_DTYPES))} was expected"
        )
    grid = json_text.entry(document, "chunk_grid", "configuration", "chunk_shape")
    count = len(grid) if isinstance(grid, list) else 0
    codecs = _checked_codecs(document.get("codecs"), count, where)
    inner = next((json_text.entry(c, "configuration", "chunk_shape") for c in codecs if c["name"] == SHARDING), grid)
    itemsize = np.dtype(document["data_type"]).itemsize
    _check_chunk(inner, count, itemsize, where)
    if json_text.whole_numbers(grid, count) is None or math.prod(grid) // max(1, math.prod(inner)) > _MOST_INNER:
        raise InvalidInput(f"{where}: shards of {grid} for chunks of {inner}; at most {_MOST_INNER} chunks are taken")
    return {**document, "codecs": codecs}


def _checked_codecs(codecs: Any, count: int, where: str) -> list[dict[str, Any]]:
    if not isinstance(codecs, list):
        raise DamagedFile(f"{where}: lists no codecs; export it again")
    out = []
    for codec in codecs:
        name, settings = json_text.entry(codec, "name"), json_text.entry(codec, "configuration") or {}
        if name not in _CODECS or not isinstance(settings, dict):
            raise InvalidInput(f"{where}: codec {codec!r} is not known; known are {', '.join(sorted(_CODECS))}")
        if name == "transpose" and settings.get("order") in ("F", "C"):
            axes = list(range(count))
            settings = {**settings, "order": axes[::-1] if settings["order"] == "F" else axes}
        if name == SHARDING:
            settings = {**settings, "codecs": _checked_codecs(settings.get("codecs"), count, where)}
        out.append({**codec, "configuration": settings})
    return out


def _checked2(document: dict[str, Any], where: str) -> dict[str, Any]:
    """Check metadata of version 2: filters could run any code."""
    dtype, filters = str(document.get("dtype")), document.get("filters")
    compressor = json_text.entry(document, "compressor", "id")
    if not re.fullmatch(r"[<>|][uif][1248]", dtype) or filters or compressor not in _COMPRESSORS:
        raise InvalidInput(
            f"{where}: dtype {dtype!r}, filters {filters!r} and compressor {compressor!r}; taken are numbers without "
            f"filters, compressed with {', '.join(sorted(filter(None, _COMPRESSORS)))} or not at all"
        )
    chunks = document.get("chunks")
    _check_chunk(chunks, len(chunks) if isinstance(chunks, list) else 0, int(dtype[2]), where)
    return document


def _check_chunk(chunk: Any, count: int, itemsize: int, where: str) -> None:
    sides = json_text.whole_numbers(chunk, count)
    if not sides or min(sides) < 1 or math.prod(sides) * itemsize > _MOST_CHUNK_BYTES:
        raise InvalidInput(
            f"{where}: chunks of {chunk} voxels of {itemsize} bytes; at least 1 voxel and at most "
            f"{_MOST_CHUNK_BYTES} bytes are taken"
        )


def _check_names(folder: Path, array: Any) -> None:
    """Refuse an array whose chunks have other names than its metadata say: all of it would read as zeros."""
    name = next(_chunk_names(folder, "", len(array.shape)), None)
    expected = None if name is None else array.metadata.encode_chunk_key(parse_key(name))
    if name != expected:
        raise DamagedFile(
            f"{folder}: its chunk {name} should be called {expected}, say its metadata, so it would read as zeros; "
            "servers wrote such annotations until 2025: copy the layer out of the annotation's zip"
        )


def _chunk_names(folder: Path, prefix: str, axes: int) -> Iterator[str]:
    """Names of chunk files, as they are met."""
    with os.scandir(folder) as entries:
        for entry in entries:
            key = parse_key(prefix + entry.name)
            if entry.is_dir():
                yield from _chunk_names(folder / entry.name, f"{prefix}{entry.name}/", axes)
            elif key is not None and len(key) == axes:
                yield prefix + entry.name


def _axis_order(
    given: Mapping[str, int] | None, document: dict[str, Any], shape: Sequence[int], where: str
) -> dict[str, int]:
    """Where c, x, y and z are among the axes of an array."""
    names = document.get("dimension_names")
    if given is None and isinstance(names, list) and {"x", "y", "z"} <= set(map(str, names)):
        given = {str(name): axis for axis, name in enumerate(names)}
    if given is None:
        given = {name: axis for axis, name in enumerate(AXES if len(shape) > 3 else AXES[1:])}
    order = {name: axis for name, axis in given.items() if name in AXES}
    axes = list(order.values())
    if not {"x", "y", "z"} <= set(order) or len(set(axes)) != len(axes) or not set(axes) <= set(range(len(shape))):
        raise InvalidInput(
            f"{where}: axis order {dict(given)} does not fit {len(shape)} axes; give x, y, z and maybe c"
        )
    if any(n != 1 for axis, n in enumerate(shape) if axis not in axes):
        raise InvalidInput(
            f"{where}: shape {tuple(shape)} has axes beyond c, x, y, z with more than one index, which are not read"
        )
    return order
