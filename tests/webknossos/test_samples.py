"""The recorded annotations: voxels, boxes, ids and centroids as others found them."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest

from tests.webknossos.volumes import SAMPLES, sample
from voxtract.geometry import Box
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.mag import Mag
from voxtract.webknossos.segments import find_segments, nonzero_box
from voxtract.webknossos.volume import VolumeData
from voxtract.webknossos.volume_writer import store_chunks, write_volume

pytestmark = pytest.mark.real
pytest.importorskip("numcodecs", reason="numcodecs decodes volume layers")
pytest.importorskip("lz4.block", reason="lz4 decodes wkw")

L4 = "l4_sample__explorational__suser__94b271.zip"
L4_DENSE = "l4dense_motta_et_al_demo_v2__explorational__4a6356.zip"
RECORDED = "recorded_download_api12_zarr3.zip"
EMPTY = "bounding-boxes-example.zip"

ARRAYS = {
    (L4, "1"): ((3296, 3392, 1024), (704, 416, 32), "16df9f6e7ce7f0554a714b95c41e87d75857e5337c20b16f4caef7e5a4ba6451"),
    (L4, "2-2-1"): (
        (1632, 1696, 1024),
        (384, 224, 32),
        "fbc44c55996fd35b0835854a39fb11605587da510ff41e47da57f72baa8e69e6",
    ),
    (L4_DENSE, "1"): (
        (2656, 4160, 1792),
        (384, 320, 32),
        "a80863a88e973dac485d43dbf811b8dfbe4922d25772ae59ecceb6347548b4d3",
    ),
    (L4_DENSE, "2-2-1"): (
        (1312, 2080, 1792),
        (224, 160, 32),
        "cd6787014f72021c12f3bb9297a8f8c916e94c7216810d094c4b85cc293fdcc7",
    ),
    (RECORDED, "1"): (
        (3296, 3392, 1024),
        (704, 416, 32),
        "16df9f6e7ce7f0554a714b95c41e87d75857e5337c20b16f4caef7e5a4ba6451",
    ),
    (RECORDED, "2-2-1"): (
        (1632, 1696, 1024),
        (384, 224, 32),
        "fbc44c55996fd35b0835854a39fb11605587da510ff41e47da57f72baa8e69e6",
    ),
}


@pytest.mark.parametrize(("name", "mag"), ARRAYS)
def test_voxels_of_the_stored_chunks(name: str, mag: str) -> None:
    start, size, digest = ARRAYS[name, mag]
    store = VolumeData.open(sample(name)).mags[Mag(mag)]
    assert (store.box.start, store.box.shape, store.dtype) == (start, size, np.dtype("u4"))
    voxels = store.read(start, size)
    assert hashlib.sha256(np.ascontiguousarray(voxels, dtype="<u4").tobytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("name", "data_format", "chunks", "mags"),
    [
        (L4, "zarr3", 111, ["1", "2-2-1", "4-4-1", "8-8-2", "16-16-4"]),
        (RECORDED, "zarr3", 111, ["1", "2-2-1", "4-4-1", "8-8-2", "16-16-4"]),
        (L4_DENSE, "wkw", 94, ["1", "2-2-1", *(f"{n}-{n}-{n // 2}" for n in 2 ** np.arange(2, 11))]),
    ],
)
def test_what_is_stored(name: str, data_format: str, chunks: int, mags: list[str]) -> None:
    volume = VolumeData.open(sample(name))
    assert (volume.data_format, [str(mag) for mag in volume.mags]) == (data_format, mags)
    assert len(volume.mags[Mag(1)]) == len(list(volume.mags[Mag(1)].chunks())) == chunks
    declared = None if data_format == "wkw" else BoundingBox((3072, 3072, 512), (1024, 1024, 1024))
    assert volume.declared_box == declared


@pytest.mark.parametrize("name", [L4, RECORDED])
def test_the_one_segment(name: str) -> None:
    store = VolumeData.open(sample(name)).mags[Mag(1)]
    found = find_segments(store)
    assert (found.id.tolist(), found.count.tolist()) == ([1], [64576])
    assert found.box == nonzero_box(store) == Box((3316, 3420, 1024), (3984, 3784, 1025))
    assert found.centroid[0] == pytest.approx([3635.1075, 3584.4871, 1024], abs=1e-4)


def test_the_many_segments() -> None:
    volume = VolumeData.open(sample(L4_DENSE))
    store = volume.mags[Mag(1)]
    found = find_segments(store)
    assert (len(found), int(found.count.sum()), volume.largest_segment_id) == (123, 3080192, 2504698)
    assert found.id[-1] == 2504698
    assert found.box == nonzero_box(store) == Box((2656, 4160, 1792), (3040, 4480, 1824))
    n = found.id.tolist().index(355)
    assert (found.start[n].tolist(), found.stop[n].tolist()) == ([2684, 4215, 1792], [3040, 4480, 1824])
    assert found.count[n] == 483018
    assert found.centroid[n] == pytest.approx([2866.34, 4355.03, 1809.13], abs=0.005)
    assert store.read((2830, 4356, 1792), (1, 1, 1)).tolist() == [[[2504698]]]


def test_every_segment_of_the_dense_array() -> None:
    """Against looking for each id in the whole array."""
    store = VolumeData.open(sample(L4_DENSE)).mags[Mag(1)]
    dense = store.read(store.box.start, store.box.shape)
    found = find_segments(store)
    ids, counts = np.unique(dense[dense > 0], return_counts=True)
    assert (found.id.tolist(), found.count.tolist()) == (ids.tolist(), counts.tolist())
    for n in range(0, len(found), 10):
        places = np.argwhere(dense == found.id[n]) + store.box.start
        assert found.start[n].tolist() == places.min(axis=0).tolist()
        assert found.stop[n].tolist() == (places.max(axis=0) + 1).tolist()
        assert found.centroid[n] == pytest.approx(places.mean(axis=0), abs=1e-9)


def test_a_layer_without_entries() -> None:
    volume = VolumeData.open(sample(EMPTY))
    assert volume.is_empty
    assert volume.mags == {}


@pytest.mark.parametrize("name", [L4, L4_DENSE])
def test_written_again_all_mags_are_equal(name: str) -> None:
    volume = VolumeData.open(sample(name))
    assert volume.dtype is not None
    buffer = io.BytesIO()
    write_volume(buffer, volume.dtype, {mag: store_chunks(store) for mag, store in volume.mags.items()})
    again = VolumeData.open(buffer.getvalue())
    assert list(again.mags) == list(volume.mags)
    for mag, store in volume.mags.items():
        assert again.mags[mag].positions.tolist() == store.positions.tolist()
        for (_, a), (_, b) in zip(again.mags[mag].chunks(), store.chunks(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_samples_are_where_the_tests_look() -> None:
    if not SAMPLES.is_dir():
        pytest.skip(f"the recorded annotations are not here: {SAMPLES}")
    assert {L4, L4_DENSE, RECORDED, EMPTY} <= {path.name for path in SAMPLES.iterdir()}
