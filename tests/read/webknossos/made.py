"""Annotations made by hand, byte by byte, and the dense array that they stand for."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from tests.webknossos.volumes import VARIANTS, Chunks, Variant, wkw_members, zarr_members, zipped
from voxtract.geometry import Grid
from voxtract.model import Header, LabelVolume, Source, Volume

SIZE_NM = (4.0, 5.0, 35.0)
CODES = {"uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8", "int32": "i4"}


@dataclass(frozen=True)
class Layer:
    """A volume layer: chunks of each mag, and what stands in its element."""

    name: str
    mags: dict[str, Chunks] = field(default_factory=dict)
    segments: str = ""
    groups: str = ""
    attributes: str = ""
    dtype: str = "uint32"
    kind: str = "zarr3"
    variant: Variant = VARIANTS["server since July 2025"]

    def content(self) -> bytes:
        if self.kind == "wkw":
            return zipped(wkw_members(self.mags, CODES[self.dtype]))
        return zipped(zarr_members(self.mags, self.variant, self.dtype))


def write(path: Path, *layers: Layer, parameters: str = "", more: str = "", scale: str = 'x="4" y="5" z="35"') -> Path:
    """An annotation zip, or an NML where the path ends so."""
    volumes = []
    for n, layer in enumerate(layers):
        location = f'location="data_{n}.zip"' if layer.mags and path.suffix == ".zip" else ""
        name = quoteattr(layer.name)
        volumes.append(
            f'<volume id="{n}" name={name} {location} {layer.attributes}>'
            f"<segments>{layer.segments}</segments><groups>{layer.groups}</groups></volume>"
        )
    nml = (
        f'<things><parameters><experiment name="cortex" organization="lab"/><scale {scale}/>{parameters}</parameters>'
        f"{more}{''.join(volumes)}</things>"
    )
    if path.suffix == ".nml":
        path.write_text(nml)
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{path.stem}.nml", nml)
        for n, layer in enumerate(layers):
            if layer.mags:
                archive.writestr(f"data_{n}.zip", layer.content())
    return path


def user_box(name: str, start: tuple[int, ...], size: tuple[int, ...], number: int = 0) -> str:
    return _box(f'<userBoundingBox id="{number}" name={quoteattr(name)}', start, size)


def task_box(start: tuple[int, ...], size: tuple[int, ...]) -> str:
    return _box("<taskBoundingBox", start, size)


def _box(begin: str, start: tuple[int, ...], size: tuple[int, ...]) -> str:
    names = ("topLeftX", "topLeftY", "topLeftZ", "width", "height", "depth")
    told = " ".join(f'{n}="{v}"' for n, v in zip(names, (*start, *size), strict=True))
    return f"{begin} {told}/>"


def segment(number: int, name: str = "", color: tuple[float, ...] = (), group: int | None = None) -> str:
    """A segment of the list of a layer."""
    told = [f'id="{number}"', *([f"name={quoteattr(name)}"] if name else [])]
    told += [f'color.{c}="{v}"' for c, v in zip("rgb", color, strict=False)] + (['color.a="1"'] if color else [])
    told += [] if group is None else [f'groupId="{group}"']
    return f"<segment {' '.join(told)}/>"


def blob(*values: tuple[int, tuple[slice, ...]], dtype: str = "u4") -> NDArray[Any]:
    """A chunk in which boxes are painted."""
    chunk = np.zeros((32, 32, 32), dtype)
    for value, place in values:
        chunk[place] = value
    return chunk


def random_chunks(rng: np.random.Generator, places: list[tuple[int, int, int]], dtype: str = "u4") -> Chunks:
    """Chunks of boxes of a few ids that often reach the chunk's border, so that they go on in the next one."""
    chunks: Chunks = {}
    for place in places:
        chunk = np.zeros((32, 32, 32), dtype)
        for value in rng.integers(1, 4, 12).tolist():
            low = rng.integers(-6, 30, 3)
            high = np.minimum(low + rng.integers(1, 14, 3), 32)
            chunk[tuple(map(slice, np.maximum(low, 0), high))] = value
        chunks[place] = chunk
    return chunks


@dataclass(frozen=True, eq=False)
class Dense:
    """A label volume held whole: what the chunked one is compared with."""

    data: NDArray[Any]
    head: Header

    @property
    def where(self) -> str:
        return self.head.where

    volume_index: int | None = None
    paths: tuple[str, ...] = ()

    def header(self) -> Header:
        return self.head

    def read(self) -> Volume:
        return Volume(self.head, self.data)

    def slabs(self, planes: int) -> Any:
        for first in range(0, self.data.shape[2], planes):
            yield self.data[:, :, first : first + planes]


def dense(source: Source, arrays: list[NDArray[Any]]) -> Source:
    """The same source whose only case has its labels in memory."""
    (case,) = source.cases
    labels = []
    for volume, data in zip(case.labels, arrays, strict=True):
        header = volume.file.header()
        grid = Grid(header.grid.shape, header.grid.affine.copy())
        assert data.shape == grid.shape
        file = Dense(data, Header(grid, header.dtype, where=header.where))
        labels.append(LabelVolume(file, volume.name, volume.category, volume.objects))
    return Source(source.description, (type(case)(case.id, None, tuple(labels)),), classes=source.classes)
