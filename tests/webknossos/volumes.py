"""Inner zips of volume layers made by hand: every kind of server, byte by byte, without the code under test."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "webknossos"
DTYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")

Place = tuple[int, ...]  # chunk numbers: extra axes, x, y, z
Chunks = dict[Place, NDArray[Any]]


@dataclass(frozen=True)
class Variant:
    """What a server writes around the chunks."""

    prefix: str
    encoding: str
    order: Any
    lists_blosc: bool
    mag_paths: bool = True


VARIANTS = {
    "server of 2023": Variant("c.", "default", "F", True, False),
    "server of early 2025": Variant("c.", "v2", None, False),
    "server since July 2025": Variant("", "v2", "reversed", True),
    "official library": Variant("c.", "default", "reversed", True),
}


def labels(seed: int, dtype: DTypeLike = "u4", shape: tuple[int, ...] = (32, 32, 32)) -> NDArray[Any]:
    """Blocks of equal ids, some of them 0, the largest of the dtype among them."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 90, [max(1, n // 4) for n in shape]).astype(dtype)
    values[rng.random(values.shape) < 0.4] = 0
    values.flat[0] = np.iinfo(np.dtype(dtype).type).max
    out = np.kron(values, np.ones([4 if n >= 4 else 1 for n in shape], dtype))[tuple(slice(n) for n in shape)]
    return out.astype(dtype)


def blosc(raw: bytes) -> bytes:
    numcodecs = pytest.importorskip("numcodecs", reason="numcodecs decodes volume layers")
    stored: bytes = numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE).encode(np.frombuffer(raw, np.uint8))
    return stored


def little(voxels: NDArray[Any]) -> NDArray[Any]:
    return voxels.astype(voxels.dtype.newbyteorder("<"))


def zarr_json(dtype: str, variant: Variant, extra: int = 0) -> dict[str, Any]:
    axes = 4 + extra
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if variant.order is not None:
        order = list(range(axes))[::-1] if variant.order == "reversed" else variant.order
        codecs.insert(0, {"name": "transpose", "configuration": {"order": order}})
    if variant.lists_blosc:
        settings = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 1, "blocksize": 0}
        codecs.append({"name": "blosc", "configuration": settings})
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [1, *[9] * extra, 1 << 20, 1 << 20, 1 << 20],  # far more than is stored
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *[1] * extra, 32, 32, 32]}},
        "chunk_key_encoding": {"name": variant.encoding, "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": codecs,
        "dimension_names": ["c", *"tuvw"[:extra], "x", "y", "z"],
    }


def zarr_members(
    mags: Mapping[str, Chunks],
    variant: Variant = VARIANTS["server since July 2025"],
    dtype: str = "uint32",
    box: tuple[list[int], list[int]] | None = ([0, 0, 0], [1 << 20, 1 << 20, 1 << 20]),
) -> dict[str, bytes]:
    """Members of an inner zip of zarr 3."""
    extra = next((len(place) - 3 for chunks in mags.values() for place in chunks), 0)
    out = {}
    for mag, chunks in mags.items():
        out[f"volumeAnnotationData/{mag}/zarr.json"] = json.dumps(zarr_json(dtype, variant, extra)).encode()
        for place, voxels in chunks.items():
            name = ".".join(map(str, (0, *place)))
            raw = little(voxels).tobytes(order="F")
            out[f"volumeAnnotationData/{mag}/{variant.prefix}{name}"] = blosc(raw)
    layer: dict[str, Any] = {"name": "volumeAnnotationData", "category": "segmentation", "elementClass": dtype}
    if box is not None:
        layer["boundingBox"] = dict(zip(("topLeft", "width", "height", "depth"), (box[0], *box[1]), strict=True))
    out["datasource-properties.json"] = json.dumps({"dataLayers": [layer], "scale": [4, 4, 35]}).encode()
    return out


WKW_CODES = {"u1": 1, "u2": 2, "u4": 3, "u8": 4, "f4": 5, "f8": 6, "i1": 7, "i2": 8, "i4": 9, "i8": 10}


def wkw_header(dtype: str, kind: int = 2, offset: int = 0, sides: int = 0x05, version: int = 1) -> bytes:
    itemsize = np.dtype(dtype).itemsize
    return struct.pack("<3s5BQ", b"WKW", version, sides, kind, WKW_CODES[dtype], itemsize, offset)


def wkw_cube(voxels: NDArray[Any], kind: int = 2) -> bytes:
    raw = little(voxels).tobytes(order="F")
    dtype = voxels.dtype.str[1:]
    if kind == 1:
        return wkw_header(dtype, kind, 16) + raw
    block = pytest.importorskip("lz4.block", reason="lz4 decodes wkw")
    mode = "high_compression" if kind == 3 else "default"
    stored: bytes = block.compress(raw, mode=mode, store_size=False)
    return wkw_header(dtype, kind, 24) + struct.pack("<Q", 24 + len(stored)) + stored


def wkw_members(mags: Mapping[str, Chunks], dtype: str = "u4", kind: int = 2) -> dict[str, bytes]:
    """Members of an inner zip of wkw."""
    out = {}
    for mag, chunks in mags.items():
        out[f"{mag}/header.wkw"] = wkw_header(dtype, kind)
        for (x, y, z), voxels in chunks.items():
            out[f"{mag}/z{z}/y{y}/x{x}.wkw"] = wkw_cube(voxels, kind)
    return out


def zipped(members: Mapping[str, bytes], change: Callable[[dict[str, bytes]], None] | None = None) -> bytes:
    """A zip of the members, in an order that no reader should rely on."""
    members = dict(members)
    if change is not None:
        change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(members, key=lambda name: name[::-1]):
            archive.writestr(name, members[name])
    return buffer.getvalue()


def dense(chunks: Chunks, start: Place, size: Place, dtype: DTypeLike) -> NDArray[Any]:
    """What reading a box gives, voxel block by voxel block."""
    whole = np.zeros([a + n + 64 for a, n in zip(start, size, strict=True)], dtype)
    for (x, y, z), voxels in chunks.items():
        part = whole[32 * x : 32 * x + 32, 32 * y : 32 * y + 32, 32 * z : 32 * z + 32]
        part[...] = voxels[tuple(map(slice, part.shape))]
    return whole[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]


def sample(name: str) -> bytes:
    """The inner zip of a recorded annotation."""
    if not SAMPLES.is_dir():
        pytest.skip(f"the recorded annotations are not here: {SAMPLES}")
    with zipfile.ZipFile(SAMPLES / name) as archive:
        return archive.read("data_Volume.zip")
