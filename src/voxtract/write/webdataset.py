"""WebDataset shards: tar files of samples, each an image and a JSON of its boxes (github.com/webdataset/webdataset).

Every view of every case has shards of its own, ``<case>_<view>_000.tar`` and so on, each of at most so many bytes. So
they do not depend on the other cases, nor on who came first: cases are added, done again or spread over machines
without a byte of the others being touched, and none is written twice. Readers take any list of shards, shuffle it, and
share it out by whole shards, which keeps the slices of a patient together.

A sample is called ``<case>_<view>_<index>``. Readers end that name at the first dot, so dots in a case id are written
as ``%2E``, and percent signs as ``%25``; the JSON has the id as it is. Archives are ustar, with a pax header where a
name is long (POSIX.1-2001), and hold neither times nor owners.
"""

from __future__ import annotations

import json
import math
import tarfile
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.classes import ClassMap
from voxtract.write.frame import image_boxes, object_keys, row_categories

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.model import Findings
    from voxtract.write.files import Batch
    from voxtract.write.images import ImageFormat, Images

END = bytes(2 * tarfile.BLOCKSIZE)  # of an archive

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

Parts = Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class WebDataset:
    """Writer of shards; see `ImageWriter`.

    Parameters
    ----------
    format : ImageFormat
        Of the images.
    shard_size : int
        Bytes of a shard at most; a larger sample has a shard of its own.
    class_map : ClassMap, optional
        Without one, each label value is a class called ``label_<value>``.
    """

    format: ImageFormat
    shard_size: int
    class_map: ClassMap | None = None
    suffix: str = ".tar"

    def begin(self, found: Findings, dtype: np.dtype[Any], pad_value: float, batch: Batch) -> Images:  # noqa: ARG002
        """Describe all samples.

        Raises
        ------
        InvalidInput
            A label that has no class, or components of the volume.
        """
        return _Shards(self, found, batch)


class _Shards:
    """The shards of one view of one case."""

    in_order = True

    def __init__(self, writer: WebDataset, found: Findings, batch: Batch) -> None:
        self._format, self._shard_size = writer.format, writer.shard_size
        self._found, self._batch = found, batch
        self._spacing_mm = found.plane.pixel_spacing_mm(found.grid.spacing_mm)
        self._samples = Samples(found, writer.class_map)
        self._lock = threading.Lock()  # guards all below
        self._waiting: dict[int, tuple[Parts, int, int]] = {}
        self._order = deque(found.slices.tolist())
        self._places: list[tuple[int, int, int]] = []  # of each image: shard, first byte, bytes
        self._size = 0  # of the shard in hand

    def write(self, index: int, image: NDArray[Any]) -> None:
        name = self._samples.name(index)
        content = self._format.encode(image, self._spacing_mm)
        nbytes = _size(content)
        head = _header(name + self._format.suffix, nbytes)
        text = self._samples.text(index)
        tail = [_header(f"{name}.json", len(text)), text, _padding(len(text))]
        with self._lock:
            self._waiting[index] = [head, *content, _padding(nbytes), *tail], len(head), nbytes
            while self._order and self._order[0] in self._waiting:
                self._append(*self._waiting.pop(self._order.popleft()))

    def finish(self) -> list[str]:
        shards = range(self._places[-1][0] + 1 if self._places else 0)
        if shards:
            self._batch.append(self._found.name(shards[-1]), END)
        self._batch.write(self._found.places, np.array(self._places, "<i8").tobytes())
        return [*map(self._found.name, shards), self._found.places]

    def _append(self, sample: Parts, head: int, nbytes: int) -> None:
        """Write the next sample, whose image has a header of `head` bytes, and `nbytes` itself."""
        shard = self._places[-1][0] if self._places else 0
        size = _size(sample)
        if self._size and self._size + size + len(END) > self._shard_size:
            self._batch.append(self._found.name(shard), END)
            shard, self._size = shard + 1, 0
        self._batch.append(self._found.name(shard), sample)
        self._places.append((shard, self._size + head, nbytes))
        self._size += size


class Samples:
    """What the samples of one view of one case are called, and what their JSON says.

    Parameters
    ----------
    found : Findings
    class_map : ClassMap, optional

    Raises
    ------
    InvalidInput
        A label that has no class, or components of the volume.
    """

    def __init__(self, found: Findings, class_map: ClassMap | None) -> None:
        case = found.case_id.replace("%", "%25").replace(".", "%2E")
        self._stem = f"{case}_{found.plane.view}_"
        rows, plane = found.rows, found.plane
        centers = rows.box_center if rows.total is None else rows.mass_center
        categories = row_categories(found, class_map)
        self._columns: dict[str, list[Any]] = {
            "boxes": image_boxes(found).tolist(),
            "centers": plane.pixel(centers)[:, :2].tolist(),
            "labels": rows.label.tolist(),
            "categories": [category.id for category in categories],
            "classes": [category.name for category in categories],
            "areas": rows.count.tolist(),
        }
        if found.objects:
            self._columns["objects"] = object_keys(found).tolist()
        if rows.score is not None:
            self._columns["scores"] = _finite(rows.score.tolist())
        self._slices = rows.start[:, plane.axes[2]]
        case_ = {
            "case": found.case_id,
            "view": plane.view,
            "split": found.split,
            "labelled": found.labelled,
            "size": plane.size,
            "pad": plane.pad,
            "spacing_mm": _finite(plane.pixel_spacing_mm(found.grid.spacing_mm)),
            "slice_spacing_mm": _finite([found.grid.spacing_mm[plane.axes[2]]])[0],
            "affine": [_finite(row) for row in found.grid.affine.tolist()],
        }
        self._case = _encode(case_)[:-1]  # the same in all slices

    def name(self, index: int) -> str:
        """Name of a sample, without a suffix."""
        return f"{self._stem}{index:03d}"

    def text(self, index: int) -> bytes:
        """JSON of a slice.

        Returns
        -------
        bytes: an object
            ``case``, ``view``, ``slice``, ``split``, and whether the case is ``labelled`` at all. ``size`` and ``pad``
            are (height, width) and (top, left) in pixels, ``spacing_mm`` is (row, column), ``affine`` takes voxels
            (x, y, z, 1) of the volume that was cut to RAS+ millimetres; what is not finite is null. Then lists with
            an entry for each component: ``boxes`` X_MIN, Y_MIN, X_MAX, Y_MAX, inclusive pixels of the padded image;
            ``centers`` X, Y, of the mass where that was asked for; ``labels``, values in the label volume;
            ``categories`` and ``classes``, ids and names; ``areas`` in pixels; ``objects``, keys in the tool they
            come from, and ``scores``, where the case has such, null for a component without.
        """
        first, last = np.searchsorted(self._slices, [index, index + 1]).tolist()
        rows = {name: values[first:last] for name, values in self._columns.items()}
        return f'{self._case},"slice":{index},{_encode(rows)[1:]}'.encode()


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _size(parts: Parts) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def _header(name: str, nbytes: int) -> bytes:
    """What comes before the bytes of a member."""
    if len(name) <= 100 and name.isascii() and nbytes < 8**11:  # fits; tarfile takes ten times as long for it
        fields = name.encode().ljust(100, b"\0") + _OWNER + b"%011o\0" % nbytes + _TIME
        return fields + b"%06o\0 " % (sum(fields) + _CHECKSUM) + _REST
    return _member(name, nbytes)


def _member(name: str, nbytes: int = 0) -> bytes:
    """Header of any member: of nobody, from 1970, for all to read."""
    member = tarfile.TarInfo(name)
    member.size = nbytes
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


# What lies between the name, the size and the checksum of a header, and after them (POSIX.1-2001, ustar).
_OWNER, _TIME, _REST = (_member("")[slice(*ends)] for ends in ((100, 124), (136, 148), (156, None)))
_CHECKSUM = 8 * ord(" ") + sum(_REST)  # it counts as spaces in itself


def _padding(nbytes: int) -> bytes:
    """What comes after them: members begin at whole blocks."""
    return bytes(-nbytes % tarfile.BLOCKSIZE)
