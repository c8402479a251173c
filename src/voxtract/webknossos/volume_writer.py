"""Inner zips written: the chunks of a volume layer in the form that every server and reader takes."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from voxtract.errors import InvalidInput, OutputError, VoxtractError
from voxtract.geometry import Box
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.chunks import ChunkStore
from voxtract.webknossos.mag import LARGEST, Mag, union
from voxtract.webknossos.volume import LAYER, Axis, box_json, from_box, to_box
from voxtract.webknossos.zarr3 import DTYPES, SIDE, chunk_key, encode_chunk, metadata

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

Chunks = Iterable[tuple[Sequence[int], "NDArray[Any]"]]


def write_volume(
    file: Path | BinaryIO,
    dtype: DTypeLike,
    mags: Mapping[Mag, Chunks],
    bounding_box: BoundingBox | None = None,
    voxel_size_nm: Sequence[float] = (1.0, 1.0, 1.0),
    axes: Sequence[Axis] = (),
) -> None:
    """Write the inner zip of a volume layer (zarr 3). The same chunks give the same bytes.

    Parameters
    ----------
    file : Path or seekable binary file
        A path is written under its final name from the begin; put it in place yourself.
    dtype : integer dtype
    mags : mapping of Mag to chunks
        Each chunk is its first index (those of the extra axes, then voxel x, y, z of the mag, which are multiples of
        32) and its voxels (32, 32, 32). What is given is written, zeros too: a stored 0 hides the fallback layer. One
        chunk is held at a time.
    bounding_box : BoundingBox, optional
        What the metadata declare, in mag 1; grown where chunks lie outside. The union of the chunks where it is None.
    voxel_size_nm : (x, y, z)
    axes : sequence of Axis
        Axes beyond x, y, z.

    Raises
    ------
    InvalidInput
        No integer dtype, a chunk of another dtype or shape, a start between chunks, the same chunk twice.
    OutputError
        It cannot be written.
    """
    stored = np.dtype(dtype).newbyteorder("=")
    if stored.name not in DTYPES:
        raise InvalidInput(f"voxels of {stored} cannot be a volume layer; allowed: {', '.join(DTYPES)}")
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # the zip around it compresses once more
            _write(archive, stored, mags, bounding_box, voxel_size_nm, tuple(axes))
    except VoxtractError:
        raise
    except OSError as why:
        raise OutputError(f"{file}: cannot be written: {why.strerror or why}; check space and permissions") from why


def store_chunks(store: ChunkStore) -> Chunks:
    """All chunks of a store, those at every place along its extra axes, as `write_volume` takes them."""
    for place in store.coordinates:
        for start, voxels in (store.at(*place) if store.axes else store).chunks():
            yield (*place, *start), voxels


def _write(
    archive: zipfile.ZipFile,
    dtype: np.dtype[Any],
    mags: Mapping[Mag, Chunks],
    bounding_box: BoundingBox | None,
    voxel_size_nm: Sequence[float],
    axes: tuple[Axis, ...],
) -> None:
    boxes: dict[Mag, Box | None] = {}
    for mag, chunks in sorted(mags.items()):
        written: set[tuple[int, ...]] = set()
        for start, voxels in chunks:
            key = _checked(mag, start, voxels, dtype, axes)
            if key in written:
                raise InvalidInput(f"mag {mag} has two chunks at {tuple(start)}; write each once")
            written.add(key)
            _put(archive, f"{LAYER}/{mag}/{chunk_key(key)}", encode_chunk(voxels))
        boxes[mag] = _around(written, mag)
    declared = [] if bounding_box is None else [to_box(bounding_box)]
    whole = union([*declared, *filter(None, boxes.values())]) or Box((0, 0, 0), (0, 0, 0))
    for mag in boxes:
        extent = [*(axis.stop for axis in axes), *mag.grown(whole).stop]
        _put(archive, f"{LAYER}/{mag}/zarr.json", metadata(dtype, extent, [axis.name for axis in axes]))
    _put(archive, "datasource-properties.json", _properties(dtype, list(boxes), whole, voxel_size_nm, axes))


def _checked(
    mag: Mag, start: Sequence[int], voxels: NDArray[Any], dtype: np.dtype[Any], axes: tuple[Axis, ...]
) -> tuple[int, ...]:
    """Return the chunk numbers along extra axes, x, y, z."""
    where = f"mag {mag}: chunk at {tuple(start)}"
    if voxels.dtype.newbyteorder("=") != dtype or voxels.shape != (SIDE, SIDE, SIDE):
        raise InvalidInput(f"{where}: {voxels.shape} voxels of {voxels.dtype}, but 32 x 32 x 32 of {dtype} are needed")
    place = tuple(map(int, start))
    if len(place) != len(axes) + 3 or any(n % SIDE for n in place[-3:]):
        raise InvalidInput(
            f"{where}: must give an index for each of {len(axes)} extra axes, and x, y, z that are multiples of {SIDE}"
        )
    if min(place) < 0 or any((n + SIDE) * factor > LARGEST for n, factor in zip(place[-3:], mag, strict=True)):
        raise InvalidInput(f"{where}: lies outside of voxels 0 to {LARGEST} of mag 1, which is all WEBKNOSSOS counts")
    if any(not axis.start <= n < axis.stop for n, axis in zip(place, axes, strict=False)):
        raise InvalidInput(f"{where}: lies outside of its axes {axes}")
    return (*place[:-3], *(n // SIDE for n in place[-3:]))


def _around(keys: set[tuple[int, ...]], mag: Mag) -> Box | None:
    """Mag-1 box of chunks."""
    if not keys:
        return None
    columns = list(zip(*keys, strict=True))[-3:]
    return mag.full(Box(tuple(min(c) * SIDE for c in columns), tuple((max(c) + 1) * SIDE for c in columns)))


def _properties(
    dtype: np.dtype[Any], mags: list[Mag], box: Box, voxel_size_nm: Sequence[float], axes: tuple[Axis, ...]
) -> bytes:
    order = {name: n for n, name in enumerate(["c", *(axis.name for axis in axes), "x", "y", "z"])}
    layer: dict[str, Any] = {
        "name": LAYER,
        "category": "segmentation",
        "dataFormat": "zarr3",
        "boundingBox": box_json(from_box(box)),
        "elementClass": dtype.name,
        "numChannels": 1,
        "mags": [{"mag": list(mag), "path": f"./{LAYER}/{mag}", "axisOrder": order} for mag in mags],
    }
    if axes:
        layer["additionalAxes"] = [
            {"name": axis.name, "bounds": [axis.start, axis.stop], "index": n} for n, axis in enumerate(axes, 1)
        ]
    scale = {"factor": [float(n) for n in voxel_size_nm], "unit": "nanometer"}
    if not all(math.isfinite(n) for n in scale["factor"] if isinstance(n, float)):
        raise InvalidInput(f"voxel size {tuple(voxel_size_nm)}: give three finite numbers of nanometers")
    return json.dumps({"id": {"name": "", "team": ""}, "dataLayers": [layer], "scale": scale}, indent=2).encode()


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name)  # dated 1980, so that the bytes depend on the voxels only
    info.create_system = 3
    info.external_attr = 0o644 << 16
    archive.writestr(info, content)
