"""Data sets on disk against zarr-python, wkw and tensorstore, in both directions; metadata in every form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.webknossos.volumes import VARIANTS, labels, zarr_members
from voxtract.errors import DamagedFile, InvalidInput, NotFound, OutputError, UnreadableFile
from voxtract.geometry import Box
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.dataset import Dataset, Layer
from voxtract.webknossos.errors import AlreadyThere, NoSuchLayer, WrongUse
from voxtract.webknossos.mag import Mag
from voxtract.webknossos.segments import find_segments

zarr = pytest.importorskip("zarr", reason="zarr reads and writes data sets")
pytest.importorskip("lz4.block", reason="lz4 decodes wkw")


def noise(shape: tuple[int, ...], dtype: Any = "u4", seed: int = 3) -> NDArray[Any]:
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.create(tmp_path / "set", (11.24, 11.24, 28))


def small(layer: Layer, mag: Any = 1, shard: int | None = 64) -> Any:
    return layer.add_mag(mag, chunk=(32,) * 3, shard=None if shard is None else (shard,) * 3)


# -- metadata ---------------------------------------------------------------------------------------------------------


def test_a_new_data_set_says_what_the_format_asks_for(dataset: Dataset) -> None:
    layer = dataset.add_layer("seg", dtype="u8", bounding_box=BoundingBox((5, 6, 7), (40, 30, 20)))
    small(layer)
    small(layer, "2-2-1")
    found = json.loads((dataset.path / "datasource-properties.json").read_text())
    axes = {"c": 0, "x": 1, "y": 2, "z": 3}
    assert found == {
        "id": {"name": "set", "team": ""},
        "scale": {"factor": [11.24, 11.24, 28.0], "unit": "nanometer"},
        "version": 1,
        "dataLayers": [
            {
                "name": "seg",
                "category": "segmentation",
                "boundingBox": {"topLeft": [5, 6, 7], "width": 40, "height": 30, "depth": 20},
                "elementClass": "uint64",
                "dataFormat": "zarr3",
                "numChannels": 1,
                "mags": [
                    {"mag": [1, 1, 1], "path": "./seg/1", "axisOrder": axes},
                    {"mag": [2, 2, 1], "path": "./seg/2-2-1", "axisOrder": axes},
                ],
                "largestSegmentId": None,
            }
        ],
    }
    assert [path.name for path in dataset.path.iterdir() if path.is_file()] == ["datasource-properties.json"]


def test_a_data_set_opened_again_is_the_same(dataset: Dataset) -> None:
    layer = dataset.add_layer("color", "color", dtype="u1", num_channels=3, data_format="wkw")
    small(layer, "2-2-1")
    again = Dataset.open(dataset.path)
    assert (again.name, again.voxel_size) == ("set", (11.24, 11.24, 28.0))
    layer = again.get_layer("color")
    assert (layer.name, layer.category, layer.dtype, layer.num_channels) == ("color", "color", np.dtype("u1"), 3)
    assert (layer.data_format, layer.largest_segment_id, list(layer.mags)) == ("wkw", None, [Mag("2-2-1")])
    assert layer.bounding_box == BoundingBox((0, 0, 0), (0, 0, 0))
    assert layer.document["mags"][0]["cubeLength"] == 64
    assert layer.get_mag("2-2-1").mag == layer.get_mag((2, 2, 1)).mag == layer.get_finest_mag().mag


def test_ids_beyond_what_javascript_counts_are_written_as_text(dataset: Dataset) -> None:
    layer = dataset.add_layer("seg", dtype="u8", largest_segment_id=2**53 - 1)
    assert layer.document["largestSegmentId"] == 2**53 - 1
    layer.largest_segment_id = 2**64 - 1
    found = json.loads((dataset.path / "datasource-properties.json").read_text())["dataLayers"][0]["largestSegmentId"]
    assert found == {"customJsonEncoding": "bigint", "value": str(2**64 - 1)}
    assert Dataset.open(dataset.path).get_layer("seg").largest_segment_id == 2**64 - 1


def test_what_is_not_known_stays(dataset: Dataset) -> None:
    dataset.document["defaultViewConfiguration"] = {"zoom": 3}
    layer = dataset.add_layer("seg")
    layer.document["mappings"] = ["a"]
    layer.bounding_box = BoundingBox((1, 2, 3), (4, 5, 6))
    again = Dataset.open(dataset.path)
    assert again.document["defaultViewConfiguration"] == {"zoom": 3}
    assert again.get_layer("seg").document["mappings"] == ["a"]
    assert again.get_layer("seg").bounding_box == BoundingBox((1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ([11.2, 11.2, 25], (11.2, 11.2, 25.0)),
        ({"factor": [1, 2, 3]}, (1.0, 2.0, 3.0)),
        ({"factor": [1, 2, 3], "unit": "micrometer"}, (1000.0, 2000.0, 3000.0)),
    ],
)
def test_old_and_new_voxel_sizes(dataset: Dataset, scale: Any, expected: Any) -> None:
    dataset.document["scale"] = scale
    assert dataset.voxel_size == expected


@pytest.mark.parametrize("scale", [None, [1, 2], {"factor": [1, 2, "3"]}, {"factor": [1, 2, 3], "unit": "ell"}])
def test_voxel_sizes_that_are_none(dataset: Dataset, scale: Any) -> None:
    dataset.document["scale"] = scale
    with pytest.raises(DamagedFile, match="scale"):
        _ = dataset.voxel_size


def test_old_wkw_layers_call_their_mags_resolutions(dataset: Dataset) -> None:
    layer = dataset.add_layer("seg", dtype="u2", data_format="wkw")
    small(layer).write(noise((1, 40, 40, 40), "u2"))
    small(layer, "2-2-1")
    del layer.document["mags"], layer.document["dataFormat"]
    sizes = [{"resolution": 1, "cubeLength": 64}, {"resolution": [2, 2, 1], "cubeLength": 64}]
    layer.document["wkwResolutions"] = sizes
    dataset.save()
    layer = Dataset.open(dataset.path).get_layer("seg")
    assert (layer.data_format, list(layer.mags)) == ("wkw", [Mag(1), Mag("2-2-1")])
    np.testing.assert_array_equal(layer.get_mag(1).read(), noise((1, 40, 40, 40), "u2"))


def test_a_mag_lies_where_it_says(dataset: Dataset, tmp_path: Path) -> None:
    layer = dataset.add_layer("seg", dtype="u2")
    small(layer).write(noise((1, 8, 8, 8), "u2"))
    moved = (dataset.path / "seg" / "1").rename(tmp_path / "elsewhere")
    layer.document["mags"][0]["path"] = str(moved)
    np.testing.assert_array_equal(layer.get_mag(1).read(), noise((1, 8, 8, 8), "u2"))
    layer.document["mags"][0]["path"] = "../elsewhere"
    np.testing.assert_array_equal(layer.get_mag(1).read(), noise((1, 8, 8, 8), "u2"))
    moved.rename(dataset.path / "seg" / "1-1-1")
    del layer.document["mags"][0]["path"]
    np.testing.assert_array_equal(layer.get_mag(1).read(), noise((1, 8, 8, 8), "u2"))
    layer.document["mags"][0]["path"] = "s3://bucket/1"
    with pytest.raises(InvalidInput, match="s3://bucket/1, which is not on this machine"):
        layer.get_mag(1).read()


def test_layers_that_cannot_be_added(dataset: Dataset) -> None:
    dataset.add_layer("seg")
    (dataset.path / "folder").mkdir()
    for name, kind, message in [
        ("seg", WrongUse, "has a layer 'seg' already"),
        (".hidden", InvalidInput, "allowed are letters"),
        ("a/b", InvalidInput, "allowed are letters"),
        ("", InvalidInput, "allowed are letters"),
        ("é", InvalidInput, "allowed are letters"),
        ("folder", AlreadyThere, "though it is no layer"),
    ]:
        with pytest.raises(kind, match=message):
            dataset.add_layer(name)
    with pytest.raises(InvalidInput, match="complex128 cannot be a layer"):
        dataset.add_layer("other", dtype="c16")
    with pytest.raises(InvalidInput, match="data format 'zarr' is not written"):
        dataset.add_layer("other", data_format="zarr")
    assert list(Dataset.open(dataset.path).layers) == ["seg"]
    assert Dataset.open(dataset.path).layers["seg"].document == dataset.layers["seg"].document
    dataset.add_layer("Aa0_-.$@")


def test_mags_that_cannot_be_added(dataset: Dataset) -> None:
    layer = dataset.add_layer("seg")
    small(layer)
    with pytest.raises(WrongUse, match="has mag 1 already"):
        small(layer, "1-1-1")
    with pytest.raises(InvalidInput, match="no multiple of chunks"):
        layer.add_mag(2, chunk=(32, 32, 32), shard=(64, 64, 48))
    with pytest.raises(WrongUse, match="has no mag 4; mags: 1"):
        layer.get_mag(4)
    other = dataset.add_layer("other", data_format="wkw")
    for chunk, shard in [((32, 32, 16), (64, 64, 32)), ((32, 32, 32), (96, 96, 96)), ((24,) * 3, (48,) * 3)]:
        with pytest.raises(InvalidInput, match="is not written"):
            other.add_mag(1, chunk=chunk, shard=shard)
    with pytest.raises(WrongUse, match="has no mag; add one"):
        other.get_finest_mag()


def test_data_sets_that_are_none(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(NotFound, match="is no data set"):
        Dataset.open(tmp_path / "none")
    with pytest.raises(NotFound, match="is no data set"):
        Dataset.open(tmp_path)
    with pytest.raises(AlreadyThere, match="not empty") as told:
        Dataset.create(tmp_path, (1, 1, 1))
    assert isinstance(told.value, RuntimeError)
    for size in [(1, 1), (1, 1, 0), (1, 1, float("nan"))]:
        with pytest.raises(InvalidInput, match="three positive numbers"):
            Dataset.create(tmp_path / "other", size)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be made"):
        Dataset.create(tmp_path / "file", (1, 1, 1))
    (dataset.path / "datasource-properties.json").write_text("[]")
    with pytest.raises(DamagedFile, match="JSON list"):
        Dataset.open(dataset.path)
    (dataset.path / "datasource-properties.json").unlink()
    (dataset.path / "datasource-properties.json").mkdir()
    with pytest.raises(UnreadableFile, match="cannot be read"):
        Dataset.open(dataset.path)


@pytest.mark.parametrize(
    ("change", "ask", "message"),
    [
        ({"boundingBox": {"topLeft": [0, 0, 0], "width": -1, "height": 0, "depth": 0}}, "bounding_box", "boundingBox"),
        ({"boundingBox": None}, "bounding_box", "boundingBox None is none"),
        ({"elementClass": "uint128"}, "dtype", "elementClass 'uint128' is not known"),
        ({"dataFormat": "n5"}, "data_format", "'n5' is not read"),
        ({"largestSegmentId": "many"}, "largest_segment_id", "'many' is no whole number"),
        ({"largestSegmentId": 1.5}, "largest_segment_id", "1.5 is no whole number"),
        ({"mags": [{"mag": [3, 1, 1]}]}, "mags", "is none; give a power of two"),
        ({"mags": [{}]}, "mags", "mag None is none"),
    ],
)
def test_layers_that_say_what_cannot_be(dataset: Dataset, change: Any, ask: str, message: str) -> None:
    layer = dataset.add_layer("seg")
    layer.document.update(change)
    with pytest.raises(InvalidInput, match=message):
        getattr(layer, ask)


@pytest.mark.parametrize("value", [None, [], [1, "a"], "seg"])
def test_no_layers(dataset: Dataset, value: Any) -> None:
    dataset.document["dataLayers"] = value
    assert dataset.layers == {}
    with pytest.raises(NoSuchLayer, match="has no layer 'seg'; layers: none"):
        dataset.get_layer("seg")


def test_open_for_reading_only(dataset: Dataset) -> None:
    layer = dataset.add_layer("seg", dtype="u2")
    small(layer).write(noise((1, 8, 8, 8), "u2"))
    before = {path: path.read_bytes() for path in dataset.path.rglob("*") if path.is_file()}
    closed = Dataset.open(dataset.path, read_only=True)
    layer = closed.get_layer("seg")
    refused: list[Any] = [
        lambda: layer.get_mag(1).write(np.zeros((8, 8, 8), "u2")),
        lambda: setattr(layer, "bounding_box", BoundingBox((0, 0, 0), (1, 1, 1))),
        lambda: setattr(layer, "largest_segment_id", 7),
        lambda: layer.add_mag(2),
        lambda: closed.add_layer("other"),
        closed.save,
    ]
    for change in refused:
        with pytest.raises(WrongUse, match="open for reading only"):
            change()
    np.testing.assert_array_equal(layer.get_mag(1).read(), noise((1, 8, 8, 8), "u2"))
    assert {path: path.read_bytes() for path in dataset.path.rglob("*") if path.is_file()} == before


# -- voxels -----------------------------------------------------------------------------------------------------------


def truth_of(boxes: list[Any], channels: int, dtype: str) -> NDArray[Any]:
    truth = np.zeros((channels, 160, 96, 96), dtype)
    for seed, (start, size) in enumerate(boxes):
        truth[:, *(slice(a, a + n) for a, n in zip(start, size, strict=True))] = noise((channels, *size), dtype, seed)
    return truth


@given(
    boxes=st.lists(
        st.tuples(st.tuples(*[st.integers(0, 50)] * 3), st.tuples(*[st.integers(1, 40)] * 3)), min_size=1, max_size=3
    ),
    data_format=st.sampled_from(["zarr3", "wkw"]),
    shard=st.sampled_from([16, 32, None]),
    dtype=st.sampled_from(["u1", "u8", "i4"]),
    channels=st.integers(1, 2),
)
@settings(max_examples=25)
def test_what_is_written_is_read_wherever_it_lies(
    tmp_path_factory: Any, boxes: Any, data_format: Any, shard: Any, dtype: str, channels: int
) -> None:
    dataset = Dataset.create(tmp_path_factory.mktemp("set"), (1, 1, 1))
    layer = dataset.add_layer("a", dtype=dtype, num_channels=channels, data_format=data_format)
    view = layer.add_mag(1, chunk=(16,) * 3, shard=None if shard is None else (shard,) * 3)
    for seed, (start, size) in enumerate(boxes):
        view.write(noise((channels, *size), dtype, seed), absolute_offset=start)
    truth = truth_of(boxes, channels, dtype)
    view = Dataset.open(dataset.path).get_layer("a").get_mag(1)
    found = view.read(absolute_offset=(0, 0, 0), size=(160, 96, 96))
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, truth)
    low = [min(start[axis] for start, _ in boxes) for axis in range(3)]
    high = [max(start[axis] + size[axis] for start, size in boxes) for axis in range(3)]
    # the empty box of a new layer holds no voxel, so the first write makes it
    assert view.layer.bounding_box == BoundingBox(low, [b - a for a, b in zip(low, high, strict=True)])
    np.testing.assert_array_equal(view.read(), truth[:, *map(slice, low, high)])
    if channels == 1:
        whole = np.zeros((160, 96, 96), dtype)
        for start, voxels in view.chunks():
            assert voxels.shape == (16, 16, 16)
            whole[tuple(slice(a, a + 16) for a in start)] = voxels
        np.testing.assert_array_equal(whole, truth[0])
        places = np.argwhere(truth[0])
        tight = layer.tight_box()
        assert tuple(tight.topleft) == tuple(places.min(axis=0) if len(places) else (0, 0, 0))
        assert tuple(tight.bottomright) == tuple(places.max(axis=0) + 1 if len(places) else (0, 0, 0))


@pytest.mark.parametrize("data_format", ["zarr3", "wkw"])
def test_positions_are_counted_in_mag_1(dataset: Dataset, data_format: Any) -> None:
    layer = dataset.add_layer("a", dtype="u2", data_format=data_format)
    view = small(layer, "4-2-1")
    voxels = noise((1, 20, 20, 20), "u2")
    view.write(voxels, absolute_offset=(40, 20, 7))
    assert layer.bounding_box == BoundingBox((40, 20, 7), (80, 40, 20))
    cut = voxels[:, 3:5, 4:10, 1:2]
    np.testing.assert_array_equal(view.read(absolute_offset=(52, 28, 8), size=(8, 12, 1)), cut)
    np.testing.assert_array_equal(view.read(relative_offset=(12, 8, 1), size=(8, 12, 1)), cut)
    np.testing.assert_array_equal(view.read(absolute_bounding_box=BoundingBox((52, 28, 8), (8, 12, 1))), cut)
    np.testing.assert_array_equal(view.read(), voxels)
    np.testing.assert_array_equal(next(view.chunks())[1][10:30, 10:30, 7:27], voxels[0])
    assert not view.read(absolute_offset=(4000, 20, 7), size=(8, 2, 1)).any()
    layer.bounding_box = BoundingBox((41, 21, 7), (1, 1, 1))
    assert view.read().shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"absolute_offset": (0, 0, 0)}, "both an offset and a size"),
        ({"size": (4, 2, 1)}, "both an offset and a size"),
        ({"absolute_offset": (0, 0, 0), "relative_offset": (0, 0, 0), "size": (4, 2, 1)}, "one of absolute_offset"),
        ({"absolute_offset": (0, 0, 0), "absolute_bounding_box": BoundingBox((0, 0, 0), (4, 2, 1))}, "one of"),
        ({"size": (4, 2, 1), "absolute_bounding_box": BoundingBox((0, 0, 0), (4, 2, 1))}, "without a size"),
        ({"absolute_offset": (2, 0, 0), "size": (4, 2, 1)}, r"multiples of \(4, 2, 1\)"),
        ({"absolute_offset": (0, 0, 0), "size": (4, 3, 1)}, "multiples of"),
        ({"absolute_offset": (-4, 0, 0), "size": (4, 2, 1)}, "not negative"),
        ({"absolute_offset": (0, 0), "size": (4, 2, 1)}, "must be x, y, z"),
    ],
)
def test_boxes_that_cannot_be_read(dataset: Dataset, arguments: Any, message: str) -> None:
    view = small(dataset.add_layer("a"), "4-2-1")
    with pytest.raises(AssertionError, match=message) as told:
        view.read(**arguments)
    assert isinstance(told.value, InvalidInput)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (np.zeros((4, 4, 4), "u2"), {}, "shape .4, 4, 4. and dtype uint16"),
        (np.zeros((2, 4, 4, 4), "u4"), {}, "cannot take an array of shape"),
        (np.zeros((4, 4), "u4"), {}, "cannot take an array of shape"),
        (np.zeros((4, 4, 4), "u4"), {"absolute_offset": (2, 0, 0)}, "multiples of"),
        (np.zeros((4, 4, 4), "u4"), {"absolute_bounding_box": BoundingBox((0, 0, 0), (4, 4, 4))}, "do not fit"),
    ],
)
def test_what_cannot_be_written(dataset: Dataset, data: Any, arguments: Any, message: str) -> None:
    view = small(dataset.add_layer("a"), "4-2-1")
    with pytest.raises(WrongUse, match=message):
        view.write(data, **arguments)
    assert list(view.array.shards()) == []


def test_writing_no_voxels_changes_nothing(dataset: Dataset) -> None:
    layer = dataset.add_layer("a")
    small(layer).write(np.zeros((0, 4, 4), "u4"))
    assert layer.bounding_box.is_empty
    assert layer.tight_box().is_empty


def test_zeros_hide_the_fallback_where_a_file_is_one_chunk(dataset: Dataset) -> None:
    """In a layer without shards a chunk that was erased is stored, and stays known as touched."""
    for data_format in ("zarr3", "wkw"):
        view = small(dataset.add_layer(data_format, data_format=data_format), shard=None)
        view.write(np.ones((32, 32, 32), "u4"), absolute_offset=(32, 0, 0))
        view.write(np.zeros((32, 32, 32), "u4"), absolute_offset=(32, 0, 0))
        ((start, voxels),) = view.chunks()
        assert start == (32, 0, 0)
        assert not voxels.any()


def test_layers_with_channels_are_no_labels(dataset: Dataset) -> None:
    view = small(dataset.add_layer("color", "color", dtype="u1", num_channels=3))
    with pytest.raises(InvalidInput, match="has 3 channels, but labels have one"):
        list(view.chunks())


def test_segments_of_a_layer(dataset: Dataset) -> None:
    layer = dataset.add_layer("a", dtype="u2")
    voxels = labels(5, "u2", (70, 40, 50))
    small(layer, "2-2-1").write(voxels, absolute_offset=(20, 20, 20))
    found = find_segments(layer.get_finest_mag())
    assert found.id.tolist() == np.unique(voxels)[1:].tolist()
    first = np.argwhere(voxels == found.id[0])
    assert found.start[0].tolist() == (first.min(axis=0) * (2, 2, 1) + 20).tolist()
    assert found.count[0] == 4 * len(first)


# -- other readers and writers ----------------------------------------------------------------------------------------


def test_other_readers_read_sharded_layers(dataset: Dataset) -> None:
    layer = dataset.add_layer("a", dtype="u8")
    voxels = noise((1, 100, 70, 40), "u8")
    layer.add_mag(1).write(voxels, absolute_offset=(1000, 0, 5))
    metadata = json.loads((dataset.path / "a" / "1" / "zarr.json").read_text())
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == [1, 1024, 1024, 1024]
    (sharding,) = metadata["codecs"]
    assert (sharding["name"], sharding["configuration"]["chunk_shape"]) == ("sharding_indexed", [1, 32, 32, 32])
    inner = sharding["configuration"]["codecs"]
    assert [codec["name"] for codec in inner] == ["transpose", "bytes", "zstd"]
    assert inner[0]["configuration"]["order"] == [3, 2, 1, 0]
    assert inner[2]["configuration"] == {"level": 5, "checksum": True}
    assert [codec["name"] for codec in sharding["configuration"]["index_codecs"]] == ["bytes", "crc32c"]
    assert sorted(path.name for path in (dataset.path / "a" / "1" / "c" / "0").iterdir()) == ["0", "1"]
    array = zarr.open_array(dataset.path / "a" / "1", mode="r")
    np.testing.assert_array_equal(array[:, 1000:1100, :70, 5:45], voxels)
    tensorstore = pytest.importorskip("tensorstore", reason="a second reader of zarr")
    kvstore = {"driver": "file", "path": str(dataset.path / "a" / "1")}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    np.testing.assert_array_equal(array[:, 1000:1100, :70, 5:45].read().result(), voxels)


def test_another_reader_reads_wkw_layers(dataset: Dataset) -> None:
    wkw = pytest.importorskip("wkw", reason="the package of the format's authors reads what is written")
    voxels = noise((1, 100, 70, 40), "u2")
    small(dataset.add_layer("a", dtype="u2", data_format="wkw")).write(voxels, absolute_offset=(10, 20, 30))
    with wkw.Dataset.open(str(dataset.path / "a" / "1")) as other:
        np.testing.assert_array_equal(other.read((10, 20, 30), (100, 70, 40)), voxels)


def put_array(dataset: Dataset, item: dict[str, Any], **options: Any) -> tuple[Any, Layer]:
    """An array by zarr-python in a layer of its own."""
    array = zarr.create_array(store=dataset.path / "other" / "1", fill_value=0, **options)
    box = {"topLeft": [0, 0, 0], "width": 50, "height": 40, "depth": 30}
    layer = {"name": "other", "category": "segmentation", "boundingBox": box, "elementClass": "uint16"}
    return array, dataset.put_layer({**layer, "dataFormat": "zarr3", "numChannels": 1, **item})


@pytest.mark.parametrize(
    ("version", "options"),
    [
        (2, {"order": "F", "chunk_key_encoding": {"name": "v2", "separator": "/"}}),
        (2, {"order": "C", "chunk_key_encoding": {"name": "v2", "separator": "."}, "compressors": None}),
        (3, {"chunk_key_encoding": {"name": "default", "separator": "."}}),
        (3, {"chunk_key_encoding": {"name": "v2", "separator": "."}, "compressors": None}),
        (3, {"shards": (1, 32, 32, 16)}),
    ],
)
def test_arrays_of_zarr_in_other_forms(dataset: Dataset, version: int, options: Any) -> None:
    voxels = noise((1, 50, 40, 30), "u2")
    shape = {"shape": (1, 50, 40, 30), "chunks": (1, 16, 16, 16), "dtype": "uint16", "zarr_format": version}
    item = {"dataFormat": "zarr" if version == 2 else "zarr3", "mags": [{"mag": [1, 1, 1]}]}
    array, layer = put_array(dataset, item, **shape, **options)
    array[...] = voxels
    view = layer.get_mag(1)
    np.testing.assert_array_equal(view.read(), voxels)
    assert not view.read(absolute_offset=(40, 0, 0), size=(40, 4, 4))[:, 10:].any()
    whole = np.zeros((64, 48, 32), "u2")
    for start, piece in view.chunks():
        whole[tuple(slice(a, a + n) for a, n in zip(start, piece.shape, strict=True))] = piece
    np.testing.assert_array_equal(whole[:50, :40, :30], voxels[0])


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("x", "y", "z"), None),
        (("z", "y", "x"), None),
        (("t", "c", "z", "y", "x"), None),
        (None, "zcxy"),
        (None, "xyz"),
    ],
)
def test_arrays_with_other_axes(dataset: Dataset, names: Any, order: str | None) -> None:
    voxels = noise((50, 40, 30), "u2")
    axes = names or tuple(order or "")
    sizes = {"c": 1, "t": 1, "x": 50, "y": 40, "z": 30}
    item: dict[str, Any] = {"mag": [1, 1, 1]}
    if order is not None:
        item["axisOrder"] = {name: axis for axis, name in enumerate(order)}
    array, layer = put_array(
        dataset,
        {"mags": [item]},
        shape=tuple(sizes[name] for name in axes),
        chunks=tuple(min(16, sizes[name]) for name in axes),
        dtype="uint16",
        dimension_names=None if names is None else tuple(names),
    )
    spatial = [name for name in axes if name in "xyz"]
    moved = voxels.transpose(["xyz".index(name) for name in spatial])
    array[...] = moved.reshape([sizes[name] for name in axes])
    view = layer.get_mag(1)
    np.testing.assert_array_equal(view.read()[0], voxels)
    view.write(voxels[:9, :8, :7] + np.uint16(1), absolute_offset=(20, 3, 11))
    np.testing.assert_array_equal(view.read(absolute_offset=(20, 3, 11), size=(9, 8, 7))[0], voxels[:9, :8, :7] + 1)
    assert len(list(view.array.shards())) == 4 * 3 * 2


def test_the_order_that_old_servers_name(dataset: Dataset) -> None:
    _, layer = put_array(
        dataset, {"mags": [{"mag": 1}]}, shape=(1, 50, 40, 30), chunks=(1, 32, 32, 32), dtype="uint16", filters="auto"
    )
    folder = dataset.path / "other" / "1"
    content = zarr_members({"1": {(0, 0, 0): labels(1, "u2")}}, VARIANTS["server of 2023"], "uint16")
    for name, raw in content.items():
        if "/1/" in name:
            (folder / name.rpartition("/")[2]).write_bytes(raw)
    with pytest.raises((TypeError, ValueError)):
        zarr.open_array(folder, mode="r")
    view = layer.get_mag(1)
    np.testing.assert_array_equal(view.read(absolute_offset=(0, 0, 0), size=(32, 32, 32))[0], labels(1, "u2"))
    view.write(labels(2, "u2"), absolute_offset=(2**21, 0, 0))
    np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[0, 2**21 :, :32, :32], labels(2, "u2"))


def test_an_array_that_others_read_as_zeros_is_refused(dataset: Dataset) -> None:
    _, layer = put_array(dataset, {"mags": [{"mag": 1}]}, shape=(1, 9, 9, 9), chunks=(1, 32, 32, 32), dtype="uint16")
    folder = dataset.path / "other" / "1"
    content = zarr_members({"1": {(0, 0, 0): labels(1, "u2")}}, VARIANTS["server of early 2025"], "uint16")
    for name, raw in content.items():
        if "/1/" in name:
            (folder / name.rpartition("/")[2]).write_bytes(raw)
    assert not zarr.open_array(folder, mode="r")[0, :32, :32, :32].any()
    with pytest.raises(DamagedFile, match=r"its chunk c\.0\.0\.0\.0 should be called 0\.0\.0\.0, .* read as zeros"):
        layer.get_mag(1).read()


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


PICKLE = [{"id": "pickle", "protocol": 5}]


@pytest.mark.parametrize(
    ("version", "change", "message"),
    [
        (2, {"filters": PICKLE}, "taken are numbers without filters"),
        (2, {"dtype": "|O", "filters": PICKLE}, "taken are numbers without filters"),
        (2, {"dtype": "<c8"}, "taken are numbers without filters"),
        (2, {"compressor": {"id": "pickle"}}, "taken are numbers without filters"),
        (2, {"chunks": [1, 4096, 4096, 4096]}, "at most 1073741824 bytes"),
        (2, {"chunks": [1, 0, 1, 1]}, "at least 1 voxel"),
        (2, {"chunks": None}, "at least 1 voxel"),
        (3, {"data_type": "string"}, "an array of one of"),
        (3, {"node_type": "group"}, "is a zarr 'group'"),
        (3, {"codecs": [{"name": "numcodecs.pickle"}]}, "codec .* is not known"),
        (3, {"codecs": None}, "lists no codecs"),
        (3, {"codecs": [{"name": "bytes", "configuration": []}, 7]}, "codec 7 is not known"),
        (3, {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 4096, 4096, 4096]}}}, "at most"),
        (3, {"chunk_grid": {}}, "at least 1 voxel"),
        (3, {"shape": [1, 50, 40]}, "does not"),
        (3, {"shape": None}, "does not decode as a zarr array"),
        (3, {"fill_value": "x"}, "does not decode as a zarr array"),
        (3, {"dimension_names": ["a", "b", "x", "y"], "shape": [2, 2, 2, 2]}, "channels of uint16"),
    ],
)
def test_arrays_that_ask_for_what_is_not_done(dataset: Dataset, version: int, change: Any, message: str) -> None:
    shape = {"shape": (1, 50, 40, 30), "chunks": (1, 16, 16, 16), "dtype": "uint16", "zarr_format": version}
    item = {"dataFormat": "zarr" if version == 2 else "zarr3", "mags": [{"mag": 1}]}
    _, layer = put_array(dataset, item, **shape)
    change_json(dataset.path / "other" / "1" / (".zarray" if version == 2 else "zarr.json"), **change)
    with pytest.raises(InvalidInput, match=message):
        layer.get_mag(1).read()


def test_shards_with_too_many_chunks(dataset: Dataset) -> None:
    layer = dataset.add_layer("a", dtype="u1")
    layer.add_mag(1)
    path = dataset.path / "a" / "1" / "zarr.json"
    path.write_text(path.read_text().replace("1024", str(2**30)))
    with pytest.raises(InvalidInput, match="at most 2097152 chunks"):
        layer.get_mag(1).read()


@pytest.mark.parametrize(
    ("shape", "order", "message"),
    [
        ((1, 2, 9, 9, 9), {"c": 0, "x": 2, "y": 3, "z": 4}, "axes beyond c, x, y, z"),
        ((9, 9, 9), {"x": 0, "y": 1}, "does not fit 3 axes"),
        ((9, 9, 9), {"x": 0, "y": 1, "z": 1}, "does not fit 3 axes"),
        ((9, 9, 9), {"x": 0, "y": 1, "z": 3}, "does not fit 3 axes"),
        ((2, 9, 9, 9), {"c": 0, "x": 1, "y": 2, "z": 3}, "holds 2 channels of uint16, but the layer 1 of uint16"),
    ],
)
def test_axes_that_cannot_be(dataset: Dataset, shape: Any, order: Any, message: str) -> None:
    item = {"mags": [{"mag": 1, "axisOrder": order}]}
    _, layer = put_array(dataset, item, shape=shape, chunks=(1,) * len(shape), dtype="uint16")
    with pytest.raises(InvalidInput, match=message):
        layer.get_mag(1).read()


@pytest.mark.parametrize("shard", [None, 64])
def test_chunks_that_do_not_decode(dataset: Dataset, shard: int | None) -> None:
    layer = dataset.add_layer("a", dtype="u2")
    view = small(layer, shard=shard)
    view.write(noise((1, 64, 64, 64), "u2"))
    (first, *_) = sorted(path for path in (dataset.path / "a" / "1" / "c").rglob("*") if path.is_file())
    raw = bytearray(first.read_bytes())
    raw[5:60] = b"\xff" * 55
    raw[-30:] = bytes(30)
    first.write_bytes(raw)
    with pytest.raises(DamagedFile, match="does not decode as a zarr array"):
        list(view.chunks())


def test_mags_that_are_not_there(dataset: Dataset) -> None:
    for data_format in ("zarr3", "wkw"):
        layer = dataset.add_layer(data_format, data_format=data_format)
        layer.document["mags"] = [{"mag": [1, 1, 1]}]
        with pytest.raises(NotFound, match=r"no zarr array|is no wkw mag"):
            layer.get_mag(1).read()


def test_a_dtype_that_the_layer_does_not_say(dataset: Dataset) -> None:
    layer = dataset.add_layer("a", dtype="u2", data_format="wkw")
    small(layer)
    layer.document["elementClass"] = "uint32"
    with pytest.raises(InvalidInput, match="holds 1 channels of uint16, but the layer 1 of uint32"):
        layer.get_mag(1).read()


def test_a_full_disk_is_told_and_leaves_no_part(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (dataset.path / "datasource-properties.json").read_bytes()

    def full(self: Path, _: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        dataset.add_layer("a")
    monkeypatch.undo()
    assert [path.name for path in dataset.path.iterdir()] == ["datasource-properties.json"]
    assert (dataset.path / "datasource-properties.json").read_bytes() == before


def test_a_box_read_from_a_large_layer_is_bounded(dataset: Dataset) -> None:
    layer = dataset.add_layer("a", bounding_box=BoundingBox((0, 0, 0), (1 << 20,) * 3))
    view = layer.add_mag(1)
    assert view.array.read(Box((5, 5, 5), (6, 7, 8))).shape == (1, 1, 2, 3)
    with pytest.raises(InvalidInput, match="cannot be held in memory"):
        view.read()
