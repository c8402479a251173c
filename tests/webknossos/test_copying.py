"""Layers copied: voxel for voxel, byte for byte where these are right, and nothing left behind where it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.webknossos.volumes import VARIANTS, Chunks, labels, sample, wkw_members, zarr_members, zipped
from voxtract.errors import DamagedFile, InvalidInput, OutputError
from voxtract.webknossos import wkw
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.copying import copy_layer, copy_volume, temporary_copy
from voxtract.webknossos.dataset import Dataset
from voxtract.webknossos.errors import AlreadyThere, WrongUse
from voxtract.webknossos.mag import Mag
from voxtract.webknossos.volume import VolumeData

zarr = pytest.importorskip("zarr", reason="zarr reads and writes data sets")
pytest.importorskip("lz4.block", reason="lz4 decodes wkw")

FINE: Chunks = {(1, 2, 3): labels(1), (5, 2, 3): labels(2), (1, 2, 4): np.zeros((32, 32, 32), "u4")}
COARSE: Chunks = {(0, 1, 3): labels(3)}


def open_kind(kind: str, **options: Any) -> VolumeData:
    mags = {"1": FINE, "2-2-1": COARSE}
    content = wkw_members(mags) if kind == "wkw" else zarr_members(mags, VARIANTS[kind], **options)
    return VolumeData.open(zipped(content), "data_Volume.zip")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.create(tmp_path / "set", (4, 4, 35))


@pytest.mark.parametrize("kind", ["wkw", *VARIANTS])
def test_all_mags_are_copied_in_their_format(dataset: Dataset, kind: str) -> None:
    volume = open_kind(kind)
    layer = copy_volume(volume, dataset, "labels")
    layer = Dataset.open(dataset.path).get_layer("labels")
    assert (layer.name, layer.category, layer.data_format) == ("labels", "segmentation", volume.data_format)
    assert (layer.dtype, layer.num_channels, layer.largest_segment_id) == (np.dtype("u4"), 1, 2**32 - 1)
    assert layer.bounding_box == volume.bounding_box
    assert list(layer.mags) == [Mag(1), Mag("2-2-1")]
    assert layer.document["mags"][1]["path"] == "./labels/2-2-1"
    for mag, store in volume.mags.items():
        found = {start: voxels for start, voxels in layer.get_mag(mag).chunks()}  # noqa: C416
        assert found.keys() == {start for start, _ in store.chunks()}  # chunks of zeros too
        for start, voxels in store.chunks():
            np.testing.assert_array_equal(found[start], voxels)
    assert sorted(path.name for path in dataset.path.iterdir()) == ["datasource-properties.json", "labels"]


@pytest.mark.parametrize("kind", ["wkw", "official library", "server of 2023"])
def test_chunks_are_copied_as_they_are_stored(dataset: Dataset, kind: str) -> None:
    volume = open_kind(kind)
    copy_volume(volume, dataset, "a")
    store = volume.mags[Mag(1)]
    name = "z3/y2/x5.wkw" if kind == "wkw" else "c.0.5.2.3"
    place = store.positions.tolist().index([160, 64, 96])
    assert (dataset.path / "a" / "1" / name).read_bytes() == store.stored(place)


def test_the_other_packages_read_the_copy(dataset: Dataset) -> None:
    copy_volume(open_kind("wkw"), dataset, "w")
    copy_volume(open_kind("server of early 2025", box=([32, 64, 96], [200, 32, 64])), dataset, "z")
    array = zarr.open_array(dataset.path / "z" / "1", mode="r")
    assert array.shape == (1, 256, 96, 160)
    np.testing.assert_array_equal(array[0, 160:192, 64:96, 96:128], labels(2))
    other = pytest.importorskip("wkw", reason="the package of the format's authors reads what is written")
    with other.Dataset.open(str(dataset.path / "w" / "2-2-1")) as opened:
        np.testing.assert_array_equal(opened.read((0, 32, 96), (32, 32, 32))[0], labels(3))


def test_an_order_that_servers_do_not_write_is_put_right(dataset: Dataset) -> None:
    content = zarr_members({"1": {(0, 0, 0): labels(1).transpose(2, 1, 0)}})
    name = "volumeAnnotationData/1/zarr.json"
    document = json.loads(content[name])
    document["codecs"][0]["configuration"]["order"] = "C"
    content[name] = json.dumps(document).encode()
    layer = copy_volume(VolumeData.open(zipped(content)), dataset)
    assert layer.name == "volume_layer"
    np.testing.assert_array_equal(next(layer.get_mag(1).chunks())[1], labels(1))


def test_extra_axes_are_copied(dataset: Dataset) -> None:
    chunks: Chunks = {(7, 1, 2, 3): labels(1), (8, 1, 2, 3): labels(2)}
    layer = copy_volume(VolumeData.open(zipped(zarr_members({"1": chunks}))), dataset, "a")
    assert layer.document["additionalAxes"] == [{"name": "t", "bounds": [7, 9], "index": 1}]
    array = zarr.open_array(dataset.path / "a" / "1", mode="r")
    np.testing.assert_array_equal(array[0, 8, 32:64, 64:96, 96:128], labels(2))


def test_an_id_that_is_known_is_not_looked_for(dataset: Dataset) -> None:
    content = wkw_members({"1": {(0, 0, 0): labels(1)}})
    raw = content["1/z0/y0/x0.wkw"]
    content["1/z0/y0/x0.wkw"] = raw[:60] + b"\xff" * (len(raw) - 60)  # would not decode
    assert copy_volume(VolumeData.open(zipped(content)), dataset, "a", 7).largest_segment_id == 7


def test_headers_alone_are_copied(dataset: Dataset) -> None:
    for kind, content in (("w", wkw_members({"1": {}})), ("z", zarr_members({"1": {}}, box=None))):
        layer = copy_volume(VolumeData.open(zipped(content)), dataset, kind)
        assert layer.bounding_box.is_empty
        assert list(layer.get_mag(1).chunks()) == []
        layer.get_mag(1).write(labels(2), absolute_offset=(64, 0, 0))
        assert [start for start, _ in layer.get_mag(1).chunks()] == [(64, 0, 0)]


def test_what_cannot_be_copied_leaves_nothing(dataset: Dataset) -> None:
    dataset.add_layer("there")
    before = {path: path.read_bytes() for path in dataset.path.rglob("*") if path.is_file()}
    good = open_kind("wkw")
    broken = zarr_members({"1": FINE})
    broken["volumeAnnotationData/1/0.5.2.3"] = b"nothing"
    short = wkw_members({"1": FINE})
    short["1/z3/y2/x5.wkw"] = short["1/z3/y2/x5.wkw"][:-1]
    cases: list[tuple[VolumeData, str, Any, str]] = [
        (VolumeData.open(b"", "a.zip"), "a", AssertionError, "a.zip: the volume layer has no data"),
        (good, "there", AssertionError, "has a layer 'there' already"),
        (good, "../a", ValueError, "allowed are letters"),
        (VolumeData.open(zipped(broken)), "a", DamagedFile, "7 bytes are neither"),
        (VolumeData.open(zipped(short)), "a", DamagedFile, "x5.wkw: its blocks end"),
    ]
    for volume, name, kind, message in cases:
        with pytest.raises(kind, match=message):
            copy_volume(volume, dataset, name, 5)
    (dataset.path / "folder").mkdir()
    with pytest.raises(AlreadyThere, match="though it is no layer"):
        copy_volume(good, dataset, "folder")
    (dataset.path / "folder").rmdir()
    assert {path: path.read_bytes() for path in dataset.path.rglob("*") if path.is_file()} == before
    assert {path.name for path in dataset.path.iterdir()} == {"datasource-properties.json"}


def test_a_full_disk_leaves_nothing(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(self: Path, raw: bytes) -> int:
        if "x5" in self.name:
            raise OSError(28, "No space left on device")
        return write(self, raw)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        copy_volume(open_kind("wkw"), dataset, "a")
    assert [path.name for path in dataset.path.iterdir()] == ["datasource-properties.json"]
    assert dataset.layers == {}


def test_temporary_copies_go_away() -> None:
    volume = open_kind("official library")
    with temporary_copy(volume, "a", (4, 4, 35)) as layer:
        folder = layer.dataset.path
        assert list(layer.dataset.voxel_size) == [4, 4, 35]
        found = layer.get_mag(1).read(absolute_offset=(160, 64, 96), size=(32, 32, 32))[0]
        np.testing.assert_array_equal(found, labels(2))
        with pytest.raises(WrongUse, match="open for reading only"):
            layer.get_mag(1).write(labels(1))
        with pytest.raises(WrongUse, match="open for reading only"):
            layer.bounding_box = BoundingBox((0, 0, 0), (1, 1, 1))
    assert not folder.exists()
    with temporary_copy(volume, "a", (1, 1, 1), read_only=False) as layer:
        folder = layer.dataset.path
        layer.get_mag(1).write(labels(9), absolute_offset=(0, 0, 0))
        layer.largest_segment_id = 3
    assert not folder.exists()
    assert volume.mags[Mag(1)].positions.tolist() == open_kind("official library").mags[Mag(1)].positions.tolist()


@pytest.mark.parametrize(("data_format", "kind"), [("zarr3", None), ("wkw", wkw.LZ4), ("wkw", wkw.RAW)])
def test_layers_of_other_data_sets_are_copied(dataset: Dataset, tmp_path: Path, data_format: Any, kind: Any) -> None:
    source = Dataset.create(tmp_path / "source", (1, 1, 1))
    layer = source.add_layer("seg", dtype="u2", data_format=data_format, largest_segment_id=90)
    for mag in ("1", "2"):
        if kind == wkw.RAW:
            header = wkw.Header(np.dtype("u2"), block=32, cube=2, kind=wkw.RAW)
            wkw.WkwArray.create(layer.path / mag, header)
            layer.put_mag(Mag(mag))
        else:
            layer.add_mag(mag, shard=(64,) * 3)
        layer.get_mag(mag).write(labels(1, "u2", (40, 50, 60)), absolute_offset=(20, 0, 0))
    copied = copy_layer(layer, dataset, "other")
    assert (copied.name, copied.largest_segment_id) == ("other", 90)
    assert copied.bounding_box == layer.bounding_box
    for mag in ("1", "2"):
        np.testing.assert_array_equal(copied.get_mag(mag).read(), layer.get_mag(mag).read())
        assert copied.get_mag(mag).path == dataset.path / "other" / mag
    array = copied.get_mag(1).array
    if isinstance(array, wkw.WkwArray):
        assert array.header.kind == wkw.LZ4
        assert next((dataset.path / "other" / "1").rglob("x0.wkw")).read_bytes()[5] == wkw.LZ4
    with pytest.raises(WrongUse, match="has a layer 'other' already"):
        copy_layer(layer, dataset, "other")
    with pytest.raises(InvalidInput, match="allowed are letters"):
        copy_layer(layer, dataset, ".x")


@pytest.mark.real
@pytest.mark.parametrize(
    "name",
    [
        "l4_sample__explorational__suser__94b271.zip",
        "recorded_download_api12_zarr3.zip",
        "l4dense_motta_et_al_demo_v2__explorational__4a6356.zip",
    ],
)
def test_recorded_annotations_are_copied(dataset: Dataset, name: str) -> None:
    volume = VolumeData.open(sample(name))
    layer = copy_volume(volume, dataset, "a")
    assert list(layer.mags) == list(volume.mags)
    for mag, store in volume.mags.items():
        box = store.box
        found = layer.get_mag(mag).array.read(box)[0]
        np.testing.assert_array_equal(found, store.read(box.start, box.shape))
    whole, tight = {
        "zarr3": (BoundingBox((3072, 3072, 512), (1024, 1024, 1024)), BoundingBox((3316, 3420, 1024), (668, 364, 1))),
        "wkw": (BoundingBox((2656, 4160, 1792), (384, 320, 32)), BoundingBox((2656, 4160, 1792), (384, 320, 32))),
    }[layer.data_format]
    assert (layer.bounding_box, layer.tight_box()) == (whole, tight)
