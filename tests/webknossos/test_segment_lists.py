"""Boxes, counts and centroids of segments against a plain loop over the voxels."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.strategies import masks
from tests.webknossos.volumes import VARIANTS, Chunks, labels, zarr_members, zipped
from voxtract.errors import DamagedFile
from voxtract.geometry import Box
from voxtract.webknossos import segments
from voxtract.webknossos.mag import Mag
from voxtract.webknossos.segments import find_segments, nonzero_box
from voxtract.webknossos.volume import VolumeData


@dataclass
class Pieces:
    """Chunks of any size at any place."""

    mag: Mag
    dtype: np.dtype[Any]
    pieces: list[tuple[tuple[int, int, int], NDArray[Any]]]

    def chunks(self) -> Iterator[tuple[tuple[int, int, int], NDArray[Any]]]:
        yield from self.pieces


def truth(source: Pieces) -> dict[int, tuple[list[int], list[int], int, list[float]]]:
    """Voxel by voxel of mag 1."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for start, voxels in source.pieces:
        for place in np.ndindex(voxels.shape):
            value = int(voxels[place])
            if value <= 0:
                continue
            corner = [(a + b) * m for a, b, m in zip(start, place, source.mag, strict=True)]
            for inner in np.ndindex(*source.mag):
                found.setdefault(value, []).append(tuple(a + b for a, b in zip(corner, inner, strict=True)))
    return {
        value: (
            [min(v[axis] for v in voxels) for axis in range(3)],
            [max(v[axis] for v in voxels) + 1 for axis in range(3)],
            len(voxels),
            [sum(v[axis] for v in voxels) / len(voxels) for axis in range(3)],
        )
        for value, voxels in found.items()
    }


@given(
    parts=st.lists(st.tuples(st.tuples(*[st.integers(0, 30)] * 3), masks(max_side=5)), max_size=4),
    mag=st.sampled_from(["1", "2-2-1", "4"]),
    dtype=st.sampled_from(["u1", "u2", "u4", "u8", "i4", "i8"]),
    few=st.booleans(),
)
@settings(max_examples=60)
def test_segments_are_those_of_a_plain_loop(parts: Any, mag: str, dtype: str, few: bool) -> None:
    source = Pieces(Mag(mag), np.dtype(dtype), [(start, voxels.astype(dtype)) for start, voxels in parts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "_MERGE_ROWS", 0 if few else 1 << 15)
        found = find_segments(source)
    expected = truth(source)
    assert found.id.dtype == source.dtype
    assert found.id.tolist() == sorted(expected)
    for n, value in enumerate(found.id.tolist()):
        start, stop, count, centroid = expected[value]
        assert (found.start[n].tolist(), found.stop[n].tolist(), int(found.count[n])) == (start, stop, count)
        assert found.centroid[n] == pytest.approx(centroid, abs=1e-9)
    assert {column.dtype for column in (found.start, found.stop, found.count)} == {np.dtype(np.int64)}
    boxes = [(e[0], e[1]) for e in expected.values()]
    around = np.array(boxes).reshape((-1, 2, 3))
    whole = found.box
    assert (whole is None) == (not boxes)
    if whole is not None:
        assert (list(whole.start), list(whole.stop)) == (
            around[:, 0].min(axis=0).tolist(),
            around[:, 1].max(axis=0).tolist(),
        )
    if dtype[0] == "u":
        assert nonzero_box(source) == whole


def test_nothing_stored_is_no_segment() -> None:
    source = Pieces(Mag(1), np.dtype("u2"), [])
    found = find_segments(source)
    assert len(found) == 0
    assert found.id.dtype == np.uint16
    assert (found.start.shape, found.centroid.shape) == ((0, 3), (0, 3))
    assert nonzero_box(source) is None
    assert find_segments(Pieces(Mag(1), np.dtype("u2"), [((0, 0, 0), np.zeros((3, 3, 3), "u2"))])).box is None


def test_far_away_and_large_sums_stay_exact() -> None:
    full = np.full((32, 32, 32), 2**64 - 1, "u8")
    start = (2**31 - 64, 2**31 - 64, 2**31 - 64)
    source = Pieces(Mag(1), full.dtype, [(start, full), ((start[0] + 32, start[1], start[2]), full)])
    found = find_segments(source)
    assert found.id.tolist() == [2**64 - 1]
    assert found.count.tolist() == [2 * 32**3]
    assert found.centroid.tolist() == [[start[0] + 31.5, start[1] + 15.5, start[2] + 15.5]]


def test_segments_of_a_zip_never_touch_the_declared_box() -> None:
    """A box of 2**60 voxels is declared, and two chunks far apart are stored."""
    chunks: Chunks = {(1, 2, 3): labels(1), (30000, 30000, 30000): labels(2)}
    volume = VolumeData.open(zipped(zarr_members({"1": chunks}, VARIANTS["server of early 2025"])))
    assert volume.declared_box is not None
    assert volume.declared_box.size == (1 << 20,) * 3
    tracemalloc.start()
    try:
        found = find_segments(volume.mags[Mag(1)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8e6
    values, counts = np.unique(np.concatenate([voxels.ravel() for voxels in chunks.values()]), return_counts=True)
    assert found.id.tolist() == values[1:].tolist()
    assert found.count.tolist() == counts[1:].tolist()
    assert found.box == nonzero_box(volume.mags[Mag(1)])
    assert found.box is not None
    assert found.box.stop == (960032, 960032, 960032)


def test_a_chunk_that_does_not_decode_is_named() -> None:
    def damage(members: dict[str, bytes]) -> None:
        members["volumeAnnotationData/1/0.0.0.1"] = b"nothing"

    volume = VolumeData.open(zipped(zarr_members({"1": {(0, 0, 0): labels(1), (0, 0, 1): labels(2)}}), damage), "a.zip")
    with pytest.raises(DamagedFile, match=r"^a\.zip/volumeAnnotationData/1/0\.0\.0\.1: 7 bytes are neither"):
        find_segments(volume.mags[Mag(1)])


def test_boxes_are_half_open() -> None:
    voxels = np.zeros((4, 4, 4), "u1")
    voxels[1, 2, 3] = 9
    assert nonzero_box(Pieces(Mag("2-2-1"), voxels.dtype, [((10, 20, 30), voxels)])) == Box((22, 44, 33), (24, 46, 34))
