"""Arrays that a server streams chunk by chunk, as zarr version 2: fetched when asked for, several at a time, and kept.

``.zarray`` says shape and dtype; then there is one raw chunk under each name ``c.x.y.z``, normally in Fortran order. A
chunk that is not there (404) holds the fill value.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import Box
from voxtract.webknossos.connection import Connection, UnexpectedAnswer, value_of
from voxtract.webknossos.json_text import whole_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
S = TypeVar("S")

CACHE_BYTES = 1 << 27
THREADS = 8
MAX_CHUNK_BYTES = 1 << 28
_MISSING_COST = 256  # bytes that the cache counts for a chunk that is not there

_DTYPE = re.compile(r"[<>|][uif][1248]")


class ChunkCache:
    """The chunks used last, up to a number of bytes; for any number of threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: OrderedDict[str, NDArray[Any] | None] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held; a chunk that the server does not have counts as `_MISSING_COST`."""
        return self._bytes

    def get(self, url: str, fetch: Callable[[], NDArray[Any] | None]) -> NDArray[Any] | None:
        """Return the chunk of `url`, fetched where it is not held."""
        with self._lock:
            if url in self._chunks:
                self._chunks.move_to_end(url)
                return self._chunks[url]
        chunk = fetch()  # not under the lock: two threads may fetch the same chunk, but none waits for another one's
        with self._lock:
            if url not in self._chunks:
                self._chunks[url] = chunk
                self._bytes += _cost(chunk)
            while self._bytes > self._limit:
                self._bytes -= _cost(self._chunks.popitem(last=False)[1])
        return chunk


class Stream:
    """The way to streamed arrays: one server, one user, one cache, some threads.

    Parameters
    ----------
    connection : Connection
    token : str, optional
    cache_bytes : int
        Memory for chunks that were read.
    threads : int
        Chunks fetched at the same time.
    """

    def __init__(
        self, connection: Connection, token: str | None, *, cache_bytes: int = CACHE_BYTES, threads: int = THREADS
    ) -> None:
        self._connection = connection
        self._token = token
        self.cache = ChunkCache(cache_bytes)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="voxtract-fetch")
        self._ahead = 2 * threads

    def close(self) -> None:
        """Stop fetching; a second time does nothing."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def get_dict(self, url: str) -> dict[str, Any]:
        """GET a JSON object."""
        return value_of(self._connection.get_json(url, token=self._token), "", dict, f"GET {url}")

    def get_chunk(self, url: str, size: int) -> bytes | None:
        """GET `size` bytes; None where nothing is stored."""
        return self._connection.get_bytes(url, self._token, size)

    def fetched(self, fetch: Callable[[S], T], wanted: Iterable[S]) -> Iterator[tuple[S, T]]:
        """Apply `fetch` on the threads, in order, and only so far ahead that memory stays bounded."""
        waiting: deque[tuple[S, Future[T]]] = deque()
        wanted = iter(wanted)
        try:
            for item in itertools.islice(wanted, self._ahead):
                waiting.append((item, self._pool.submit(fetch, item)))
            while waiting:
                item, future = waiting.popleft()
                yield item, future.result()
                for following in itertools.islice(wanted, 1):
                    waiting.append((following, self._pool.submit(fetch, following)))
        finally:
            for _, future in waiting:
                future.cancel()


@dataclass(frozen=True, eq=False)
class RemoteArray:
    """A streamed zarr array of the axes (channel, x, y, z).

    Parameters
    ----------
    url : str
        Where its chunks lie.
    shape, chunk : (c, x, y, z)
        Voxels of the array and of a chunk.
    stored : dtype
        With the byte order of the chunks.
    fill_value : number
        Of voxels that are in no chunk.
    order : {"F", "C"}
        Of the voxels in a chunk.
    """

    stream: Stream = field(repr=False)
    url: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    stored: np.dtype[Any]
    fill_value: float
    order: Literal["F", "C"]
    separator: str

    @classmethod
    def parse(cls, stream: Stream, url: str) -> RemoteArray:
        """Ask for ``.zarray`` and check it.

        Raises
        ------
        UnexpectedAnswer
            It is no description of an array.
        InvalidInput
            It is compressed, filtered, or has other axes.
        """
        where = f"GET {url}/.zarray"
        about = stream.get_dict(f"{url}/.zarray")
        dtype = value_of(about, "dtype", str, where)
        axes = len(value_of(about, "shape", list, where))
        shape, chunk = (whole_numbers(about[key], axes) for key in ("shape", "chunks") if key in about)
        fill = about.get("fill_value") or 0
        if not shape or not chunk or min(shape) < 0 or min(chunk) < 1 or not isinstance(fill, int | float):
            raise UnexpectedAnswer(f"{where}: shape {about['shape']!r}, chunks {about.get('chunks')!r}, fill {fill!r}")
        order: Literal["F", "C"] = "C" if about.get("order") == "C" else "F"
        found = {key: about.get(key) for key in ("compressor", "filters", "zarr_format")}
        if found != {"compressor": None, "filters": None, "zarr_format": 2} or axes != 4:
            raise InvalidInput(f"{where}: {axes} axes and {found}, but 4 axes of raw zarr 2 chunks are expected")
        if not _DTYPE.fullmatch(dtype):
            raise InvalidInput(f"{where}: dtype {dtype!r} is not known; integers and floats are")
        stored = np.dtype(dtype)
        if math.prod(chunk) * stored.itemsize > MAX_CHUNK_BYTES:
            raise InvalidInput(f"{where}: chunks of {chunk} are larger than {MAX_CHUNK_BYTES} bytes")
        # Old servers misspell the name, but mean the dot, which is zarr's own default.
        separator = about.get("dimension_separator", about.get("dimension_seperator", "."))
        return cls(stream, url, shape, chunk, stored, fill, order, "/" if separator == "/" else ".")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels that `read` gives, in native byte order."""
        return self.stored.newbyteorder("=")

    @property
    def channels(self) -> int:
        """Values of each voxel."""
        return self.shape[0]

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box of array indices (x, y, z).

        Returns
        -------
        (channels, x, y, z) array, Fortran-ordered
            Zero outside of the array, `fill_value` where the server has no chunk.

        Raises
        ------
        ServerError, UnexpectedAnswer
            The server or the connection fails, or a chunk has the wrong number of bytes.
        InvalidInput
            The box does not fit into memory.
        """
        start, stop = (0, *box.start), (self.channels, *box.stop)
        try:
            out = np.zeros((self.channels, *box.shape), self.dtype, order="F")
        except (MemoryError, ValueError) as fault:
            raise InvalidInput(
                f"{self.url}: a box of {box.shape} voxels does not fit into memory; read less"
            ) from fault
        inside = [(max(0, a), min(b, n)) for a, b, n in zip(start, stop, self.shape, strict=True)]
        if any(a >= b for a, b in inside):
            return out
        places = itertools.product(*(range(a // n, -(-b // n)) for (a, b), n in zip(inside, self.chunk, strict=True)))
        for place, voxels in self.stream.fetched(self._fetch, places):
            low = [max(a, i * n) for (a, _), i, n in zip(inside, place, self.chunk, strict=True)]
            high = [min(b, i * n + n) for (_, b), i, n in zip(inside, place, self.chunk, strict=True)]
            target = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
            if voxels is None:
                out[target] = self.fill_value
                continue
            first = [i * n for i, n in zip(place, self.chunk, strict=True)]
            out[target] = voxels[tuple(slice(a - f, b - f) for a, b, f in zip(low, high, first, strict=True))]
        return out

    def _fetch(self, place: tuple[int, ...]) -> NDArray[Any] | None:
        url = f"{self.url}/{self.separator.join(map(str, place))}"

        def decoded() -> NDArray[Any] | None:
            raw = self.stream.get_chunk(url, math.prod(self.chunk) * self.stored.itemsize)
            return None if raw is None else np.frombuffer(raw, self.stored).reshape(self.chunk, order=self.order)

        return self.stream.cache.get(url, decoded)


def _cost(chunk: NDArray[Any] | None) -> int:
    return _MISSING_COST if chunk is None else chunk.nbytes + _MISSING_COST
