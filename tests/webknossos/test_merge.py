"""A fallback layer and an annotation merged, against the same with dense arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.webknossos.test_downsample import counted as mode_of
from tests.webknossos.volumes import Chunks, labels, wkw_members, zarr_members, zipped
from voxtract.errors import DamagedFile, OutputError
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.dataset import Dataset, Layer
from voxtract.webknossos.mag import Mag
from voxtract.webknossos.merge import merge_fallback
from voxtract.webknossos.volume import VolumeData

zarr = pytest.importorskip("zarr", reason="zarr reads and writes data sets")
pytest.importorskip("lz4.block", reason="lz4 decodes wkw")

SIZE = (96, 64, 64)
START = (32, 0, 32)
BOX = BoundingBox((0, 0, 0), (192, 128, 128))
# one in the fallback, one erased, one past its end, one far beyond
CHUNKS: Chunks = {
    (2, 1, 1): labels(11),
    (3, 0, 2): np.zeros((32, 32, 32), "u4"),
    (4, 1, 2): labels(12),
    (5, 3, 3): labels(13),
}


def fallback(folder: Path, data_format: Any = "zarr3", dtype: str = "u4", **sizes: Any) -> Layer:
    dataset = Dataset.create(folder, (4, 4, 35), "their name + more")
    layer = dataset.add_layer("segmentation", dtype=dtype, data_format=data_format, largest_segment_id=500)
    voxels = labels(1, dtype, SIZE)
    sizes = {"chunk": (32,) * 3, "shard": (64,) * 3, **sizes}
    for mag, factor in (("1", (1, 1, 1)), ("2-2-1", (2, 2, 1)), ("4-4-2", (4, 4, 2))):
        layer.add_mag(mag, **sizes).write(mode_of(voxels, factor), absolute_offset=START)
    return layer


def volume(chunks: Chunks = CHUNKS, kind: str = "zarr3", mag: str = "1") -> VolumeData:
    content = wkw_members({mag: chunks}) if kind == "wkw" else zarr_members({mag: chunks})
    return VolumeData.open(zipped(content), "data_Volume.zip")


def merged() -> NDArray[Any]:
    whole = np.zeros(tuple(BOX.size), "u4")
    whole[32:128, :64, 32:96] = labels(1, "u4", SIZE)
    for (x, y, z), voxels in CHUNKS.items():
        whole[32 * x : 32 * x + 32, 32 * y : 32 * y + 32, 32 * z : 32 * z + 32] = voxels
    return whole


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["zarr3", "wkw"])
@pytest.mark.parametrize(
    ("data_format", "sizes"),
    [
        ("zarr3", {}),
        ("zarr3", {"shard": None}),
        ("zarr3", {"chunk": (16, 16, 16), "shard": (96, 32, 32)}),
        ("zarr3", {"chunk": (64, 64, 64), "shard": (128, 128, 64)}),
        ("wkw", {}),
        ("wkw", {"shard": (32, 32, 32)}),
    ],
)
def test_the_annotation_is_written_over_the_fallback(tmp_path: Path, kind: str, data_format: Any, sizes: Any) -> None:
    layer = fallback(tmp_path / "old", data_format, **sizes)
    before = files(tmp_path / "old")
    dataset = merge_fallback(tmp_path / "new", layer, volume(kind=kind))
    found = dataset.get_layer("segmentation")
    assert (dataset.name, dataset.voxel_size, list(dataset.layers)) == ("new", (4, 4, 35), ["segmentation"])
    assert (found.data_format, found.dtype, found.largest_segment_id) == (data_format, np.dtype("u4"), 2**32 - 1)
    arrays = [view.get_mag(1).array for view in (found, layer)]
    assert arrays[0].chunk == arrays[1].chunk
    assert arrays[0].shard == arrays[1].shard
    whole = merged()
    np.testing.assert_array_equal(found.get_mag(1).read(absolute_bounding_box=BOX)[0], whole)
    half = mode_of(whole, (2, 2, 1))
    np.testing.assert_array_equal(found.get_mag("2-2-1").read(absolute_bounding_box=BOX)[0], half)
    quarter = found.get_mag("4-4-2").read(absolute_bounding_box=BOX)[0]
    np.testing.assert_array_equal(quarter, mode_of(half, (2, 2, 2)))
    shard = np.maximum(arrays[0].shard, 32)
    last = [(n * 32 // s + 1) * s for n, s in zip((5, 3, 3), shard.tolist(), strict=True)]
    first = [min(a, n * 32 // s * s) for a, n, s in zip(START, (2, 0, 1), shard.tolist(), strict=True)]
    assert found.bounding_box == BoundingBox(first, np.subtract(last, first).tolist())
    assert files(tmp_path / "old") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_one_mag_alone(tmp_path: Path) -> None:
    layer = fallback(tmp_path / "old")
    found = merge_fallback(tmp_path / "new", layer, volume(), "my name", coarser_mags=False)
    assert found.name == "my name"
    assert list(found.get_layer("segmentation").mags) == [Mag(1)]
    assert sorted(path.name for path in (tmp_path / "new" / "segmentation").iterdir()) == ["1"]


def test_an_annotation_in_a_coarser_mag(tmp_path: Path) -> None:
    layer = fallback(tmp_path / "old")
    chunks: Chunks = {(1, 1, 2): labels(4)}
    found = merge_fallback(tmp_path / "new", layer, volume(chunks, mag="2-2-1")).get_layer("segmentation")
    assert list(found.mags) == [Mag("2-2-1"), Mag("4-4-2")]
    whole = layer.get_mag("2-2-1").read(absolute_bounding_box=BOX)[0]
    whole[32:64, 32:64, 64:96] = labels(4)
    np.testing.assert_array_equal(found.get_mag("2-2-1").read(absolute_bounding_box=BOX)[0], whole)
    coarse = found.get_mag("4-4-2").read(absolute_bounding_box=BOX)[0]
    np.testing.assert_array_equal(coarse, mode_of(whole, (2, 2, 2)))


def test_other_readers_read_the_result(tmp_path: Path) -> None:
    merge_fallback(tmp_path / "z", fallback(tmp_path / "old z"), volume())
    array = zarr.open_array(tmp_path / "z" / "segmentation" / "1", mode="r")
    np.testing.assert_array_equal(array[0, :192, :128, :128], merged())
    wkw = pytest.importorskip("wkw", reason="the package of the format's authors reads what is written")
    merge_fallback(tmp_path / "w", fallback(tmp_path / "old w", "wkw"), volume())
    with wkw.Dataset.open(str(tmp_path / "w" / "segmentation" / "1")) as opened:
        np.testing.assert_array_equal(opened.read((0, 0, 0), (192, 128, 128))[0], merged())


def test_zarr_2_and_old_wkw_fallbacks(tmp_path: Path) -> None:
    layer = fallback(tmp_path / "old", "wkw")
    layer.document["wkwResolutions"] = [{"resolution": m["mag"], "cubeLength": 64} for m in layer.document.pop("mags")]
    layer.dataset.save()
    found = merge_fallback(tmp_path / "new", layer, volume()).get_layer("segmentation")
    assert "wkwResolutions" not in found.document
    assert set(found.document["mags"][0]) >= {"mag", "path", "cubeLength", "axisOrder"}
    np.testing.assert_array_equal(found.get_mag(1).read(absolute_bounding_box=BOX)[0], merged())
    other = Dataset.create(tmp_path / "v2", (1, 1, 1))
    array = zarr.create_array(
        store=other.path / "seg" / "1",
        shape=(1, *SIZE),
        chunks=(1, 32, 32, 32),
        dtype="uint32",
        zarr_format=2,
        order="F",
    )
    array[...] = labels(1, "u4", SIZE)[None]
    item = {"name": "seg", "elementClass": "uint32", "dataFormat": "zarr", "mags": [{"mag": [1, 1, 1]}]}
    box = {"topLeft": [0, 0, 0], "width": 96, "height": 64, "depth": 64}
    layer = other.put_layer({**item, "boundingBox": box, "largestSegmentId": None})
    found = merge_fallback(tmp_path / "new v2", layer, volume()).get_layer("seg")
    assert found.largest_segment_id is None
    assert found.data_format == "zarr"
    whole = np.zeros(tuple(BOX.size), "u4")
    whole[:96, :64, :64] = labels(1, "u4", SIZE)
    for (x, y, z), voxels in CHUNKS.items():
        whole[32 * x : 32 * x + 32, 32 * y : 32 * y + 32, 32 * z : 32 * z + 32] = voxels
    np.testing.assert_array_equal(found.get_mag(1).read(absolute_bounding_box=BOX)[0], whole)


def test_what_cannot_be_merged_leaves_nothing(tmp_path: Path) -> None:
    layer = fallback(tmp_path / "old")
    short = fallback(tmp_path / "short", dtype="u2")
    broken = zarr_members({"1": CHUNKS})
    broken["volumeAnnotationData/1/0.5.3.3"] = b"nothing"
    with_time: Chunks = {(4, 0, 0, 0): labels(1)}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_bytes(b"")
    before = files(tmp_path)
    cases: list[tuple[str, Layer, VolumeData, Any, str]] = [
        ("new", layer, VolumeData.open(b"", "a.zip"), AssertionError, "a.zip: the volume layer has no data"),
        ("new", layer, volume({}), AssertionError, "has no data"),
        ("new", short, volume(), AssertionError, "has voxels of uint32, but .* of uint16"),
        ("new", layer, volume(mag="8"), AssertionError, "has no mag 8; mags: 1, 2-2-1, 4-4-2"),
        ("new", layer, volume(with_time), AssertionError, "has the axes t beyond"),
        ("new", layer, VolumeData.open(zipped(broken)), DamagedFile, r"0\.5\.3\.3: 7 bytes"),
        ("full", layer, volume(), RuntimeError, "is there already and not empty"),
        ("full/a", layer, volume(), FileExistsError, "is there already"),
    ]
    for name, over, data, kind, message in cases:
        with pytest.raises(kind, match=message):
            merge_fallback(tmp_path / name, over, data)
    assert files(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "old", "short"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    merge_fallback(tmp_path / "new", fallback(tmp_path / "old"), volume())
    found = Dataset.open(tmp_path / "new").get_layer("segmentation").get_mag(1)
    np.testing.assert_array_equal(found.read(absolute_bounding_box=BOX)[0], merged())


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = fallback(tmp_path / "old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(OutputError, match="No space left on device"):
        merge_fallback(tmp_path / "new", layer, volume())
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_rows_that_are_written_one_by_one_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxtract.webknossos.downsample._BAND_BYTES", 1)
    monkeypatch.setattr("voxtract.webknossos.downsample._MOST_ROWS", 1)
    found = merge_fallback(tmp_path / "new", fallback(tmp_path / "old", shard=(128,) * 3), volume())
    layer = found.get_layer("segmentation")
    np.testing.assert_array_equal(layer.get_mag(1).read(absolute_bounding_box=BOX)[0], merged())
    half = mode_of(merged(), (2, 2, 1))
    np.testing.assert_array_equal(layer.get_mag("2-2-1").read(absolute_bounding_box=BOX)[0], half)
