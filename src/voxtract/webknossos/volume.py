"""The voxels of an annotation's volume layer: the inner zip with its chunks, read one at a time, and written.

What is stored is told by the chunks that are there, never by the sizes that the metadata declare: these are usually
those of the whole data set. Every member is read with a limit, so that memory does not depend on what a zip promises.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput, NotFound, UnreadableFile, VoxtractError
from voxtract.geometry import Box
from voxtract.webknossos import json_text, wkw, zarr3
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.chunks import ChunkStore, Codec, CubeCodec
from voxtract.webknossos.mag import Mag, union
from voxtract.webknossos.zarr3 import SIDE

if TYPE_CHECKING:
    pass

DataFormat = Literal["wkw", "zarr3"]
LAYER = "volumeAnnotationData"  # name of the one layer inside the zip

_MAG = r"\d{1,10}(?:-\d{1,10}-\d{1,10})?"
_WKW_HEADER = re.compile(rf"(?P<folder>(?:.*/)?{_MAG}/)header\.wkw", re.ASCII)
_WKW_CUBE = re.compile(r"z(?P<z>\d{1,9})/y(?P<y>\d{1,9})/x(?P<x>\d{1,9})\.wkw", re.ASCII)
_ZARR_JSON = re.compile(rf"(?P<folder>(?:.*/)?{_MAG}/)zarr\.json", re.ASCII)
_NOT_VOXELS = re.compile(r"(?:.*/)?(?:datasource-properties\.json|zarr\.json|\.[^/]*)|__MACOSX/.*", re.ASCII)
_NO_ENTRIES = b"PK\5\6" + bytes(18)
_MOST_LEVELS = 8  # folders between a mag and its chunks: c, 0, x, y and extra axes

ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, struct.error, NotImplementedError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis beyond x, y, z: indices ``start <= index < stop``."""

    name: str
    start: int
    stop: int


class VolumeData:
    """The inner zip of a volume layer, open for reading.

    Attributes
    ----------
    where : str
        The zip, for messages.
    data_format : "wkw" or "zarr3", or None where the zip has no entries
        Told by the entries.
    dtype : numpy.dtype, or None where the zip has no entries
        Of the voxels: an integer type in native byte order.
    mags : dict of Mag to ChunkStore
        Finest first; a mag may hold no chunk.
    axes : tuple of Axis
        Axes beyond x, y, z.
    name : str
        Of the layer in the zip's metadata; empty where there are none.
    declared_box : BoundingBox, optional
        What the metadata declare, usually the whole data set; mag 1.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.where = where
        self._file = file
        archive = zipfile.ZipFile(file if file.seek(0, os.SEEK_END) else BytesIO(_NO_ENTRIES))
        self._archive = archive
        self._infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        if len(self._infos) != sum(not info.is_dir() for info in archive.infolist()):
            raise DamagedFile(f"{where}: two of its members have the same name; export the annotation again")
        names = list(self._infos)
        self.data_format: DataFormat | None = None
        if any(name.rpartition("/")[2] == ".zarray" for name in names):
            raise InvalidInput(f"{where}: holds zarr 2 arrays, which no volume layer has; open it as a dataset instead")
        if any(name.endswith(".wkw") for name in names):
            self.data_format = "wkw"
        if any(name.endswith("zarr.json") for name in names):
            if self.data_format:
                raise DamagedFile(f"{where}: holds both wkw and zarr 3 files; export the annotation again")
            self.data_format = "zarr3"
        layer = self._layer(names)
        self.name = str(layer.get("name", ""))
        self.declared_box = parse_box(layer.get("boundingBox"))
        self.mags: dict[Mag, ChunkStore] = dict(sorted(self._stores(names)))
        dtypes = {store.dtype: mag for mag, store in self.mags.items()}
        if len(dtypes) > 1:
            found = ", ".join(f"{dtype} in mag {mag}" for dtype, mag in dtypes.items())
            raise DamagedFile(f"{where}: the mags have different voxels: {found}; export the annotation again")
        self.dtype: np.dtype[Any] | None = next(iter(dtypes), None)
        self.axes = self._axes()

    @classmethod
    def open(cls, file: Path | str | bytes | BinaryIO, where: str | None = None) -> VolumeData:
        """Open an inner zip; no voxel is read.

        Parameters
        ----------
        file : path, bytes, or seekable binary file
            0 bytes are a layer without data, as a zip without entries is.
        where : str, optional
            What messages call it; the path where it is not given.

        Raises
        ------
        NotFound, UnreadableFile
            No such file, or not readable.
        DamagedFile
            No zip, or one whose entries contradict each other or are none of a volume layer.
        InvalidInput
            Voxels that are no integers; zarr 2 arrays, which no volume layer has.
        """
        where = where or (str(file) if isinstance(file, Path | str) else "volume data")
        if isinstance(file, bytes):
            file = BytesIO(file)
        if not isinstance(file, Path | str):
            return cls._opened(file, where)
        try:
            opened = Path(file).open("rb")  # noqa: SIM115 - open for as long as the layer is
        except FileNotFoundError as why:
            raise NotFound(f"{where}: no such file; check the spelling") from why
        except OSError as why:
            raise UnreadableFile(f"{where}: cannot be read: {why.strerror or why}; check permissions and disk") from why
        try:
            return cls._opened(opened, where)
        except BaseException:
            opened.close()
            raise

    @classmethod
    def _opened(cls, file: BinaryIO, where: str) -> VolumeData:
        try:
            return cls(file, where)
        except VoxtractError:
            raise
        except OSError as why:
            raise UnreadableFile(f"{where}: cannot be read: {why.strerror or why}; check permissions and disk") from why
        except ZIP_FAULTS as why:
            raise DamagedFile(f"{where}: is no zip with the voxels of a volume layer ({why}); export it again") from why

    def close(self) -> None:
        """Close the zip and the file; nothing can be read any more."""
        self._archive.close()
        self._file.close()

    def __enter__(self) -> VolumeData:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_empty(self) -> bool:
        """Whether no chunk is stored in any mag."""
        return not any(map(len, self.mags.values()))

    @property
    def finest(self) -> ChunkStore | None:
        """The finest mag that holds a chunk; where none does, the finest mag; None where there is none."""
        return next((store for store in self.mags.values() if len(store)), next(iter(self.mags.values()), None))

    @property
    def stored_box(self) -> BoundingBox:
        """Union of the stored chunks of the finest mag, in voxels of mag 1; of no voxel where nothing is stored."""
        if self.finest is None:
            return BoundingBox((0, 0, 0), (0, 0, 0))
        return from_box(self.finest.mag.full(self.finest.box))

    @property
    def bounding_box(self) -> BoundingBox:
        """The declared box, grown where chunks lie outside of it; the union of the stored chunks where there is none.

        Voxels of mag 1. It is usually the whole data set: read by chunks, not by this box.
        """
        if self.declared_box is None or self.is_empty:
            return self.declared_box or self.stored_box
        both = union([to_box(self.declared_box), to_box(self.stored_box)])
        return self.declared_box if both is None else from_box(both)

    @cached_property
    def largest_segment_id(self) -> int:
        """Largest voxel of the finest mag, 0 where nothing is stored; all its chunks are decoded once."""
        if self.finest is None:
            return 0
        return max(0, *(int(self.finest.decode(index).max()) for index in range(len(self.finest))), 0)

    def _layer(self, names: Iterable[str]) -> dict[str, Any]:
        """The layer that ``datasource-properties.json`` describes; nothing where there is no such file."""
        name = next((name for name in names if name.rpartition("/")[2] == "datasource-properties.json"), None)
        if name is None:
            return {}
        document = json_text.parse(self._read(name, json_text.MOST_BYTES), f"{self.where}/{name}")
        layer = json_text.entry(document, "dataLayers", 0)
        return layer if isinstance(layer, dict) else {}

    def _stores(self, names: Sequence[str]) -> Iterator[tuple[Mag, ChunkStore]]:
        """The mags, from the names of the members."""
        folders: dict[str, tuple[Codec, list[str], list[tuple[int, ...]]]] = {}
        header = _WKW_HEADER if self.data_format == "wkw" else _ZARR_JSON
        for name in names:
            if match := header.fullmatch(name):
                folders[match["folder"]] = self._codec(name), [], []
        for name in names:
            folder = self._folder(name, folders)
            chunk = self._chunk(name, folder, folders[folder][0]) if folder in folders else None
            if chunk is not None:
                folders[folder][1].append(name)
                folders[folder][2].append(chunk)
            elif not header.fullmatch(name) and not _NOT_VOXELS.fullmatch(name):
                raise DamagedFile(
                    f"{self.where}: its member {name!r} is neither a chunk nor a header of a volume layer, so voxels "
                    "might be lost; export the annotation again"
                )
        seen: dict[Mag, str] = {}
        for folder, (codec, members, chunks) in folders.items():
            mag = self._mag(folder)
            if mag in seen:
                raise DamagedFile(f"{self.where}: {seen[mag]} and {folder} are the same mag; export it again")
            seen[mag] = folder
            axes = codec.axes if isinstance(codec, zarr3.ChunkCodec) else ()
            array = np.array(chunks, np.int64).reshape((-1, 3 + len(axes)))
            yield mag, ChunkStore(mag, codec, axes, array, members, self._read, self.where)

    def _mag(self, folder: str) -> Mag:
        try:
            return Mag(folder.split("/")[-2])
        except InvalidInput as why:
            raise DamagedFile(f"{self.where}/{folder}: {why}") from why

    def _folder(self, name: str, folders: Mapping[str, object]) -> str:
        """Folder of a mag in which a member lies, or one above it."""
        folder = name
        for _ in range(_MOST_LEVELS):
            folder = folder.rstrip("/").rpartition("/")[0] + "/"
            if folder in folders:
                break
        return folder

    def _codec(self, name: str) -> Codec:
        """How the chunks of a mag are stored, from its header."""
        where = f"{self.where}/{name}"
        if self.data_format == "zarr3":
            return zarr3.ChunkCodec.parse(self._read(name, json_text.MOST_BYTES), where)
        header, _ = wkw.Header.decode(self._read(name, wkw.HEADER_BYTES), where)
        if (header.block, header.cube, header.channels) != (SIDE, 1, 1) or header.dtype.kind not in "ui":
            raise InvalidInput(
                f"{where}: cubes of {header.cube} blocks of {header.block} voxels a side, {header.channels} channels "
                f"of {header.dtype}, but those of a volume layer have one block of {SIDE} and one channel of integers; "
                "open it as a dataset instead"
            )
        return CubeCodec(header)

    def _chunk(self, name: str, folder: str, codec: Codec) -> tuple[int, ...] | None:
        """Chunk numbers (extra axes, x, y, z) of a member; None where it is no chunk."""
        key = name[len(folder) :]
        if isinstance(codec, CubeCodec):
            match = _WKW_CUBE.fullmatch(key)
            return (int(match["x"]), int(match["y"]), int(match["z"])) if match else None
        numbers = zarr3.parse_key(key)
        if numbers is None:
            return None
        axes = codec.axes if isinstance(codec, zarr3.ChunkCodec) else ()
        if len(numbers) != len(axes) + 4 or numbers[0] != 0:
            raise DamagedFile(
                f"{self.where}/{name}: must name the channel, which is 0, {''.join(f'{a}, ' for a in axes)}x, y and z; "
                "export the annotation again"
            )
        return numbers[1:]

    def _axes(self) -> tuple[Axis, ...]:
        """The extra axes, as far as chunks are stored along them."""
        stores = list(self.mags.values())
        if len({store.axes for store in stores}) > 1:
            raise DamagedFile(f"{self.where}: the mags have different axes; export the annotation again")
        names = stores[0].axes if stores else ()
        found = [place for store in stores for place in store.coordinates]
        columns = list(zip(*found, strict=True)) or [()] * len(names)
        return tuple(
            Axis(name, min(column, default=0), max(column, default=-1) + 1)
            for name, column in zip(names, columns, strict=True)
        )

    def _read(self, name: str, limit: int) -> bytes:
        """Read a member of at most `limit` bytes."""
        where = f"{self.where}/{name}"
        try:
            with self._archive.open(self._infos[name]) as file:
                raw = file.read(limit + 1)
        except OSError as why:
            raise UnreadableFile(f"{where}: cannot be read: {why.strerror or why}; check the disk") from why
        except ZIP_FAULTS as why:
            raise DamagedFile(f"{where}: is damaged in the zip ({why}); export the annotation again") from why
        if len(raw) > limit:
            raise DamagedFile(f"{where}: holds more than {limit} bytes, which it cannot; export the annotation again")
        return raw


def parse_box(value: Any) -> BoundingBox | None:
    """Read a box of ``datasource-properties.json``; None where it is none."""
    top_left = json_text.whole_numbers(json_text.entry(value, "topLeft"), 3)
    size = json_text.whole_numbers([json_text.entry(value, name) for name in ("width", "height", "depth")], 3)
    if top_left is None or size is None or min(size) < 0:
        return None
    return BoundingBox(top_left, size)


def box_json(box: BoundingBox) -> dict[str, Any]:
    """Write a box for ``datasource-properties.json``."""
    width, height, depth = box.size
    return {"topLeft": list(box.topleft), "width": width, "height": height, "depth": depth}


def to_box(box: BoundingBox) -> Box:
    """The same voxels as start and stop."""
    return Box(tuple(box.topleft), tuple(box.bottomright))


def from_box(box: Box) -> BoundingBox:
    """The same voxels as top left and size."""
    return BoundingBox(box.start, box.shape)
