"""One slice of an extraction, however its images were written: files, arrays, shards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput, NotFound, UnreadableFile
from voxtract.read.images import AGAIN, image_errors, read_image
from voxtract.storage import Info, Place, Remote

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.model import Findings


def read_slice(root: Place, found: Findings, index: int) -> NDArray[Any]:
    """Read the image of a slice.

    Parameters
    ----------
    root : Path, or Remote for a URL
        Output folder of the extraction.
    found : Findings
        With images.
    index : int
        One of ``found.slices``.

    Returns
    -------
    (height, width) array of the stored dtype, in this machine's byte order

    Raises
    ------
    NotFound, UnreadableFile, DamagedFile, InvalidInput
        As `voxtract.read.images.read_image`; an array that other software has written anew, in a way that only
        zarr-python reads, is an `InvalidInput`.
    """
    file = slice_file(root, found, index)
    if found.suffix == ".zarr":
        return _read_chunk(root / found.store, file, found.plane.size)
    if found.suffix == ".tar":
        ((_, first, nbytes),) = _within_shards(root, found, [index])
        return read_image(file, found.plane.size, (first, nbytes))
    return read_image(file, found.plane.size)


def slice_file(root: Place, found: Findings, index: int) -> Place:
    """File that holds the image of a slice: the image itself, a chunk of an array, or a shard.

    Raises
    ------
    NotFound, UnreadableFile, DamagedFile
        What says in which shard it is cannot be read.
    """
    return root / _names(root, found, [index])[0]


def missing_files(
    root: Place, found: Findings, slices: Sequence[int], listing: Callable[[str], Container[str]]
) -> list[Place]:
    """Files that should hold the images of `slices`, and are not there.

    `listing` gives the names in a folder, told relative to `root`; images of many cases may lie in one, so it should
    remember them. Raises as `slice_file`.
    """
    missing = []
    for name in _names(root, found, slices):
        # A store has a folder only because of what is in it, and one listing tells all chunks.
        seen = name.removesuffix("/0/0") if isinstance(root, Remote) and found.suffix == ".zarr" else name
        folder, _, last = seen.rpartition("/")
        if last not in listing(folder):
            missing.append(root / name)
    return missing


def _names(root: Place, found: Findings, slices: Sequence[int]) -> list[str]:
    """File of each slice, relative to `root`."""
    if found.suffix == ".zarr":
        return [f"{found.store}/0/c/{index}/0/0" for index in slices]
    if found.suffix == ".tar":
        return [found.name(shard) for shard, _, _ in _within_shards(root, found, slices)]
    return [found.name(index) for index in slices]


# ---------------------------------------------------------------------------------------------------------- shards


def _within_shards(root: Place, found: Findings, slices: Sequence[int]) -> list[tuple[int, int, int]]:
    """Shard, first byte and number of bytes of images."""
    path = root / found.places
    try:
        places = _places(path, path.info() if isinstance(path, Remote) else path.stat().st_mtime_ns)
    except FileNotFoundError as why:
        raise NotFound(f"{path}: says where the images are, and is missing; {AGAIN}") from why
    except OSError as why:
        todo = "" if isinstance(path, Remote) else "; check permissions and disk"
        raise UnreadableFile(f"{path}: cannot be read: {why.strerror}{todo}") from why
    if places.size != 3 * len(found.slices) or places.min(initial=0) < 0:
        raise DamagedFile(f"{path}: does not speak of the {len(found.slices)} slices extracted; {AGAIN}")
    chosen: list[tuple[int, int, int]] = places.reshape(-1, 3)[np.searchsorted(found.slices, slices)].tolist()
    return chosen


@lru_cache(maxsize=64)  # slices of a case are mostly asked for together; the state, since it may be extracted anew
def _places(path: Place, state: int | Info) -> NDArray[np.int64]:  # noqa: ARG001
    content = path.read_bytes()
    return np.frombuffer(content[: len(content) // 8 * 8], "<i8").astype(np.int64)


# ---------------------------------------------------------------------------------------------------------- arrays


def _read_chunk(store: Place, file: Place, size: tuple[int, int]) -> NDArray[Any]:
    metadata = store / "0/zarr.json"
    with image_errors(metadata):
        dtype, chunk, codecs = _array(metadata.read_bytes())
        if codecs not in (("bytes",), ("bytes", "zstd")) or chunk != (1, *size):
            raise InvalidInput(
                f"{metadata}: chunks of {chunk}, coded as {', '.join(codecs)}, are not those that were extracted "
                f"{(1, *size)}; read it with zarr, or extract anew with overwrite=True (--overwrite)"
            )
    with image_errors(file):
        content = file.read_bytes() if len(codecs) == 1 else _inflated(file)
        if len(content) != size[0] * size[1] * dtype.itemsize:
            raise ValueError("it is cut short, or has grown")
        return np.frombuffer(content, dtype).reshape(size).astype(dtype.newbyteorder("="), copy=False)


@lru_cache(maxsize=64)  # all slices of a view have the same
def _array(metadata: bytes) -> tuple[np.dtype[Any], tuple[int, ...], tuple[str, ...]]:
    """Dtype, shape of a chunk and codecs of an array."""
    told = json.loads(metadata)
    order = told["codecs"][0].get("configuration", {}).get("endian", sys.byteorder)
    dtype = np.dtype(told["data_type"]).newbyteorder("<" if order == "little" else ">")
    chunk = tuple(told["chunk_grid"]["configuration"]["chunk_shape"])
    return dtype, chunk, tuple(codec["name"] for codec in told["codecs"])


def _inflated(file: Place) -> bytes:
    try:
        import imagecodecs
    except ImportError as why:
        raise InvalidInput(
            f"{file}: is compressed with zstd, which needs the package imagecodecs; pip install 'voxtract[zstd]'"
        ) from why
    return bytes(imagecodecs.zstd_decode(file.read_bytes()))
