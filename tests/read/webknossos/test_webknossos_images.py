"""Boxes of datasets as images, with and without annotations: from folders and from a server."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import voxtract
from tests.read.webknossos.made import Layer, blob, segment, user_box, write
from tests.webknossos.stub_server import StubServer, as_file, as_json
from tests.webknossos.test_remote import layer_json, properties_json, put_array, zarray
from voxtract.errors import InvalidInput, NotFound
from voxtract.read.webknossos import open_webknossos
from voxtract.webknossos import Dataset, webknossos_context
from voxtract.webknossos.connection import ServerError

pytest.importorskip("numcodecs", reason="numcodecs decodes volume layers")
pytest.importorskip("zarr", reason="zarr reads and writes datasets")

ID = "5f7d3a8b0100008900e4c1aa"
DATASET_ID = "59e9cfbdba632ac2ab8b23b5"
TOKEN = "T0ken-of_a.user"
START = (32, 0, 64)
SHAPE = (100, 70, 50)
IMAGE = np.random.default_rng(0).integers(1, 256, SHAPE).astype(np.uint8)
CELLS = blob((3, np.s_[4:9, 5:9, 30:32]), (7, np.s_[20:25, 0:3, 2:3]))


def cells() -> NDArray[Any]:
    """Ids of the segmentation layer, as large as the image."""
    ids = np.zeros(SHAPE, np.uint32)
    ids[10:30, 20:60, 5:45] = 11
    ids[60:64, 0:10, 0:50] = 12
    return ids


@pytest.fixture(scope="module", params=["zarr3", "wkw", "sharded", "small chunks"])
def dataset(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Dataset:
    return made(tmp_path_factory.mktemp("set") / "cortex", request.param)


def made(folder: Path, kind: str = "zarr3") -> Dataset:
    if kind == "wkw":
        pytest.importorskip("lz4.block", reason="lz4 decodes wkw")
    all_sizes: dict[str, dict[str, Any]] = {
        "zarr3": {"shard": None},
        "wkw": {"shard": (64, 64, 64)},
        "sharded": {"shard": (64, 32, 64)},
        "small chunks": {"chunk": (16, 16, 8), "shard": (32, 64, 16)},
    }
    sizes = all_sizes[kind]
    dataset = Dataset.create(folder, (4, 5, 35), "cortex")
    data_format: Any = "wkw" if kind == "wkw" else "zarr3"
    color = dataset.add_layer("color", "color", dtype="uint8", data_format=data_format)
    color.add_mag(1, **sizes).write(IMAGE, absolute_offset=START)
    color.add_mag("2-2-1", **sizes).write(IMAGE[::2, ::2], absolute_offset=START)
    ids = dataset.add_layer("segmentation", dtype="uint32", data_format=data_format, largest_segment_id=12)
    ids.add_mag(1, **sizes).write(cells(), absolute_offset=START)
    return Dataset.open(folder)


def cut(data: NDArray[Any], start: tuple[int, ...], stop: tuple[int, ...]) -> NDArray[Any]:
    """A box of voxels of the dataset, zero where `data` is not."""
    whole = np.zeros((300, 300, 300), data.dtype)
    whole[tuple(slice(a, a + n) for a, n in zip(START, data.shape, strict=True))] = data
    return whole[tuple(map(slice, start, stop))]


def annotated(tmp_path: Path, **words: Any) -> Path:
    boxes = user_box("left", (30, 2, 60), (41, 33, 9)) + user_box("right", (60, 31, 93), (13, 7, 3), 1)
    layer = Layer("mine", {"1": {(1, 0, 2): CELLS}, "2-2-1": {(0, 0, 2): CELLS}}, segment(3, "nucleus"), **words)
    return write(tmp_path / "a.zip", layer, parameters=boxes)


def test_slices_of_the_dataset_inside_of_boxes(tmp_path: Path, dataset: Dataset) -> None:
    source = open_webknossos(annotated(tmp_path), dataset=dataset.path, region="user")
    report = voxtract.extract(source, tmp_path / "out", ("axial", "coronal"), data_mode="box", progress=False)
    assert not report.failed
    for name, start, stop in (("a_left", (30, 2, 60), (71, 35, 69)), ("a_right", (60, 31, 93), (73, 38, 96))):
        expected = cut(IMAGE, start, stop)
        for z in range(expected.shape[2]):
            slice_ = tifffile.imread(tmp_path / f"out/{name}/axial/{name}_axial_{z:03d}.tif")
            np.testing.assert_array_equal(slice_, expected[:, :, z])
        for y in range(expected.shape[1]):
            slice_ = tifffile.imread(tmp_path / f"out/{name}/coronal/{name}_coronal_{y:03d}.tif")
            np.testing.assert_array_equal(slice_, expected[:, y])
    # (52..56, 0..2, 66) has id 7: of it y = 2 lies in the box that begins at (30, 2, 60)
    table = (tmp_path / "out/a_left/axial/a_left_axial_006.csv").read_text()
    assert table == "X_MIN,Y_MIN,Z_MIN,X_MAX,Y_MAX,Z_MAX\n0,22,6,0,26,6\n"


def test_slices_around_what_is_annotated(tmp_path: Path, dataset: Dataset) -> None:
    source = open_webknossos(annotated(tmp_path), dataset=dataset.path, region="tight", margin=(5, 0, 2))
    report = voxtract.extract(source, tmp_path / "out", slices="annotated", progress=False)
    # z 66 and 94, 95; the box begins at 64
    names = sorted(path.name for path in (tmp_path / "out").rglob("*.tif"))
    assert names == ["a_axial_002.tif", "a_axial_030.tif", "a_axial_031.tif"]
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "out/a/axial/a_axial_030.tif"), cut(IMAGE, (31, 0, 94), (62, 9, 95))[:, :, 0]
    )
    found = report.components
    origin = np.array([31, 0, 64])
    boxes = {
        label: (tuple(low + origin), tuple(high + origin))
        for label, low, high in zip(
            found["LABEL"],
            found[["I_MIN", "J_MIN", "K_MIN"]].to_numpy(),
            found[["I_MAX", "J_MAX", "K_MAX"]].to_numpy(),
            strict=True,
        )
    }
    assert boxes == {7: ((52, 0, 66), (56, 2, 66)), 3: ((36, 5, 95), (40, 8, 95))}


@pytest.mark.parametrize("planes", [1, 5, 1000])
def test_an_image_in_pieces_is_the_image(tmp_path: Path, dataset: Dataset, planes: int) -> None:
    source = open_webknossos(annotated(tmp_path), dataset=dataset.path, region=(30, 2, 60, 110, 80, 70))
    image = source.cases[0].image
    assert image is not None
    expected = cut(IMAGE, (30, 2, 60), (140, 82, 130))
    np.testing.assert_array_equal(image.read().data, expected)
    pieces = [piece.copy() for piece in image.slabs(planes)]
    assert all(piece.shape[2] <= planes for piece in pieces)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=2), expected)
    assert pickle.loads(pickle.dumps(image)) == image


def test_the_mag_that_both_have(tmp_path: Path) -> None:
    dataset = made(tmp_path / "cortex")
    path = annotated(tmp_path)
    source = open_webknossos(path, dataset=dataset.path, mag="2-2-1", region=(32, 0, 64, 64, 32, 32))
    (case,) = source.cases
    assert case.image is not None
    np.testing.assert_array_equal(case.image.read().data, IMAGE[:64:2, :32:2, :32])
    np.testing.assert_array_equal(case.labels[0].file.read().data[:16, :16], CELLS[16:, :16])
    coarse = write(tmp_path / "b.zip", Layer("mine", {"2-2-1": {(0, 0, 2): CELLS}}))
    assert open_webknossos(coarse, dataset=dataset.path).cases[0].image.place.mag.name == "2-2-1"  # type: ignore[union-attr]
    coarser = write(tmp_path / "c.zip", Layer("mine", {"4": {(0, 0, 0): CELLS}}))
    with pytest.raises(InvalidInput, match="no mag in common: volume layer 'mine': 4; image layer 'color': 1, 2-2-1"):
        open_webknossos(coarser, dataset=dataset.path)


def test_which_layer_is_the_image(tmp_path: Path) -> None:
    dataset = made(tmp_path / "cortex")
    path = annotated(tmp_path)
    named = open_webknossos(path, dataset=dataset.path, layer="segmentation", region=(32, 0, 64, 100, 70, 50))
    np.testing.assert_array_equal(named.cases[0].image.read().data, cells())  # type: ignore[union-attr]
    dataset.add_layer("color_2", "color", dtype="uint8").add_mag(1)
    with pytest.raises(InvalidInput, match=r"which layer is the image.* there are 'color', 'color_2'"):
        open_webknossos(path, dataset=dataset.path)
    with pytest.raises(InvalidInput, match="has no layer 'gold'"):
        open_webknossos(path, dataset=dataset.path, layer="gold")
    dataset.add_layer("empty", "color", dtype="uint8")
    with pytest.raises(InvalidInput, match="layer 'empty': has no mag"):
        open_webknossos(path, dataset=dataset.path, layer="empty")
    rgb = dataset.add_layer("rgb", "color", dtype="uint8", num_channels=3)
    rgb.add_mag(1).write(np.ones((3, 8, 8, 8), np.uint8), absolute_offset=(32, 0, 64))
    colored = open_webknossos(path, dataset=dataset.path, layer="rgb").cases[0].image
    assert colored is not None
    with pytest.raises(InvalidInput, match="has 3 channels, but slices have one"):
        colored.header()
    with pytest.raises(NotFound, match="is no data set"):
        open_webknossos(path, dataset=tmp_path)


def test_a_dataset_is_a_source(tmp_path: Path, dataset: Dataset) -> None:
    source = voxtract.open_source(dataset.path)
    (case,) = source.cases
    assert (case.id, [volume.name for volume in case.labels]) == ("cortex", ["segmentation"])
    report = voxtract.extract(source, tmp_path / "out", extraction_mode="volume", progress=False)
    assert not report.failed
    found = report.components
    assert found[["LABEL", "COUNT", "CLASS"]].to_numpy().tolist() == [
        [12, 4 * 10 * 50, "segment_12"],
        [11, 20 * 40 * 40, "segment_11"],
    ]
    first = tifffile.imread(tmp_path / "out/cortex/axial/cortex_axial_000.tif")
    np.testing.assert_array_equal(first, IMAGE[:, :, 0])
    only = open_webknossos(dataset.path, region=(50, 30, 80, 10, 10, 10)).cases[0].labels[0].file
    np.testing.assert_array_equal(only.read().data, cut(cells(), (50, 30, 80), (60, 40, 90)))
    for words, message in (
        ({"skeleton": True, "region": "user"}, "has no drawn boxes"),
        ({"fallback": True}, "is a dataset; fallback=True is for annotations"),
        ({"dataset": dataset.path}, "is a dataset itself"),
        ({"volume_layer": "color"}, "has no layer 'color'"),
    ):
        with pytest.raises(InvalidInput, match=message):
            open_webknossos(dataset.path, **words)


def test_what_is_stored_is_gone_through_once(dataset: Dataset) -> None:
    """Rows of chunks come by rising z, and pieces do not overlap."""
    file: Any = open_webknossos(dataset.path).cases[0].labels[0].file
    seen = np.zeros(SHAPE, np.int64)
    last = 0
    for row in file.layers():
        ends = []
        for (x, y, z), voxels in row:
            right, down, deep = voxels.shape
            seen[x : x + right, y : y + down, z : z + deep] += 1
            assert z >= last
            ends.append(z + deep)
        last = max([last, *ends])
    assert seen.max() == 1
    assert (seen[cells() > 0] == 1).all()


def test_the_fallback_layer_below(tmp_path: Path, dataset: Dataset) -> None:
    edited = blob((9, np.s_[20:32, 0:4, 20:32]))  # the rest of the chunk was erased
    path = write(
        tmp_path / "a.zip",
        Layer("mine", {"1": {(1, 1, 2): edited}}, attributes='fallbackLayer="segmentation"'),
        Layer("nothing of its own", attributes='fallbackLayer="segmentation"'),
    )
    shown = cut(cells(), START, (132, 70, 114)).copy()
    below = shown.copy()
    shown[0:32, 32:64, 0:32] = edited
    source = open_webknossos(path, dataset=dataset.path, fallback=True, region="dataset")
    mine, nothing = source.cases[0].labels
    np.testing.assert_array_equal(mine.file.read().data, shown)
    np.testing.assert_array_equal(nothing.file.read().data, below)
    assert "over the fallback layer 'segmentation'" in source.matches[1].why
    found = voxtract.extract(source, tmp_path / "out", images=None, extraction_mode="volume").components
    counts = found.groupby("LABEL")["COUNT"].sum().to_dict()
    assert counts[9] == np.count_nonzero(edited)
    assert counts[11] == np.count_nonzero(shown == 11) + np.count_nonzero(below == 11)
    alone = open_webknossos(path, dataset=dataset.path, region="dataset")
    assert [volume.name for volume in alone.cases[0].labels] == ["mine"]
    np.testing.assert_array_equal(alone.cases[0].labels[0].file.read().data[0:32, 32:64, 0:32], edited)


# ---------------------------------------------------------------- from a server


@pytest.fixture
def served(server: StubServer, tmp_path: Path) -> StubServer:
    """An annotation and its dataset, as servers show them."""
    pytest.importorskip("httpx", reason="httpx, which speaks to servers, is not installed")
    server.put(f"/api/v12/annotations/{ID}/download", as_file("a.zip", annotated(tmp_path).read_bytes()))
    info = {"id": DATASET_ID, "name": "cortex", "dataSource": {}, "dataStore": {"url": server.url}}
    server.put(f"/api/v12/datasets/{DATASET_ID}", as_json(info))
    server.put("/api/v12/datasets", as_json([{"id": DATASET_ID, "name": "cortex"}]))
    annotation = {"id": ID, "dataStore": {"url": server.url}}
    server.put(f"/api/v12/annotations/{ID}/info", as_json(annotation))
    box = {"topLeft": list(START), "width": SHAPE[0], "height": SHAPE[1], "depth": SHAPE[2]}
    color = layer_json("color", [[1, 1, 1]], category="color", elementClass="uint8", boundingBox=box)
    ids = layer_json("segmentation", [[1, 1, 1]], boundingBox=box)
    whole = np.zeros((1, *(a + n for a, n in zip(START, SHAPE, strict=True))), np.uint8)
    whole[0, START[0] :, START[1] :, START[2] :] = IMAGE
    labels = np.zeros(whole.shape, np.uint32)
    labels[0, START[0] :, START[1] :, START[2] :] = cells()
    for stream in (f"/data/v12/zarr/{DATASET_ID}", f"/data/v12/annotations/zarr/{ID}"):
        server.put(f"{stream}/datasource-properties.json", as_json(properties_json(color, ids)))
        put_array(server, f"{stream}/color/1", whole, set(), zarray(whole.shape, "|u1"))
        put_array(server, f"{stream}/segmentation/1", labels, set(), zarray(labels.shape, "<u4"))
    return server


@pytest.mark.parametrize("dataset", ["server", "{url}/datasets/cortex-{dataset}/view", "{url}/annotations/{id}"])
def test_an_annotation_and_its_dataset_from_a_server(served: StubServer, tmp_path: Path, dataset: str) -> None:
    link = f"{served.url}/annotations/{ID}#40,5,66"
    images = dataset.format(url=served.url, dataset=DATASET_ID, id=ID)
    with webknossos_context(served.url, TOKEN):
        source = voxtract.open_source(link, dataset=images, region="user")
    assert source.description == f"WEBKNOSSOS annotation {served.url}/annotations/{ID}, mag 1"
    assert source.cases[0].labels[0].file.paths == ()  # a temporary file, which no later run finds again
    report = voxtract.extract(source, tmp_path / "out", progress=False)
    assert not report.failed, report.failed[0].error
    left = [tifffile.imread(tmp_path / f"out/a_left/axial/a_left_axial_{z:03d}.tif") for z in range(9)]
    np.testing.assert_array_equal(np.stack(left, axis=2), cut(IMAGE, (30, 2, 60), (71, 35, 69)))
    assert {one.token for one in served.asked if "buildinfo" not in one.path} == {TOKEN}
    image = source.cases[0].image
    with pytest.raises(InvalidInput, match="cannot be sent to another process"):
        pickle.dumps(image)


@pytest.mark.parametrize("link", ["{url}/datasets/cortex-{id}", "{url}/datasets/Lab/cortex/view?token=shared-T0ken"])
def test_a_dataset_from_a_server(served: StubServer, tmp_path: Path, link: str) -> None:
    with webknossos_context(served.url, TOKEN):
        source = voxtract.open_source(link.format(url=served.url, id=DATASET_ID), region=[50, 10, 70, 20, 20, 20])
    report = voxtract.extract(source, tmp_path / "out", extraction_mode="volume", progress=False)
    assert not report.failed, report.failed[0].error
    counted = cut(cells(), (50, 10, 70), (70, 30, 90))
    assert report.components["COUNT"].sum() == np.count_nonzero(counted)
    chunks = [one for one in served.asked if "/color/1/0." in one.path]
    assert {one.token for one in chunks} == {"shared-T0ken" if "token=" in link else TOKEN}


def test_what_a_server_refuses_names_no_token(served: StubServer) -> None:
    with webknossos_context(served.url, TOKEN):
        for link in (f"{served.url}/annotations/{ID[:-1]}b", f"{served.url}/datasets/a-{ID}?token=shared-T0ken"):
            with pytest.raises(ServerError) as caught:
                voxtract.open_source(link)
            assert "T0ken" not in str(caught.value)
        with pytest.raises(InvalidInput, match="names no dataset"):
            voxtract.open_source(f"{served.url}/datasets/")
