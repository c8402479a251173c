"""Streamed datasets: what is read is what the server holds, whatever box is asked for."""

from __future__ import annotations

import hashlib
import itertools
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.webknossos.stub_server import Reply, StubServer, as_json, moved
from voxtract.errors import InvalidInput
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.client import Client, remote_annotation_dataset, remote_base_dataset, webknossos_context
from voxtract.webknossos.connection import ServerError, UnexpectedAnswer
from voxtract.webknossos.errors import NoSuchLayer, WrongUse
from voxtract.webknossos.mag import Mag
from voxtract.webknossos.remote import RemoteDataset
from voxtract.webknossos.stream import ChunkCache

pytest.importorskip("httpx", reason="httpx, which speaks to servers, is not installed")

ID = "5f7d3a8b0100008900e4c1aa"
DATASET_ID = "59e9cfbdba632ac2ab8b23b5"
TOKEN = "T0ken-of_a.user"
STREAM = f"/data/v12/annotations/zarr/{ID}"
SIDE = 32


def layer_json(name: str, mags: list[list[int]], **more: Any) -> dict[str, Any]:
    box = {"topLeft": [10, 0, 5], "width": 80, "height": 64, "depth": 60}
    listed = [
        {"mag": mag, "path": f"./{name}/{Mag(mag)}", "axisOrder": {"x": 1, "y": 2, "z": 3, "c": 0}} for mag in mags
    ]
    return {
        "name": name,
        "category": "segmentation",
        "dataFormat": "zarr",
        "boundingBox": box,
        "elementClass": "uint32",
        "mags": listed,
        "numChannels": 1,
        "largestSegmentId": 7,
        **more,
    }


def properties_json(*layers: dict[str, Any]) -> dict[str, Any]:
    scale = {"factor": [11.24, 11.24, 28], "unit": "nanometer"}
    return {"id": {"name": "l4_sample", "team": "Lab"}, "dataLayers": list(layers), "scale": scale}


def with_mag(mag: list[int], path: Any) -> dict[str, Any]:
    return properties_json(layer_json("a", []) | {"mags": [{"mag": mag, "path": path}]})


def zarray(shape: tuple[int, ...], dtype: str, **more: Any) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "fill_value": 0,
        "zarr_format": 2,
        "order": "F",
        "chunks": [1, SIDE, SIDE, SIDE],
        "compressor": None,
        "filters": None,
        "shape": list(shape),
        "dimension_separator": ".",
        **more,
    }


def put_array(server: StubServer, path: str, voxels: NDArray[Any], missing: set[tuple[int, ...]], about: Any) -> None:
    """Serve (c, x, y, z) voxels as the chunks that a server would make of them; the last ones reach past the end."""
    server.put(f"{path}/.zarray", as_json(about))
    order, size = about["order"], about["chunks"]
    for place in itertools.product(*(range(-(-n // side)) for n, side in zip(voxels.shape, size, strict=True))):
        if place in missing:
            continue
        chunk = np.full(size, 99, about["dtype"])
        part = voxels[tuple(slice(i * side, (i + 1) * side) for i, side in zip(place, size, strict=True))]
        chunk[tuple(slice(n) for n in part.shape)] = part
        server.put(f"{path}/{'.'.join(map(str, place))}", Reply(body=chunk.tobytes(order=order)))


RNG = np.random.default_rng(5)
VOXELS = RNG.integers(1, 2**32, (1, 90, 64, 65), np.uint32)
MISSING: set[tuple[int, ...]] = {(0, 1, 0, 0), (0, 0, 1, 1)}


def truth() -> NDArray[np.uint32]:
    """All voxels, with zeros for what is missing and far beyond the end."""
    found = np.zeros((1, 150, 150, 150), np.uint32)
    found[:, :90, :64, :65] = VOXELS
    for _, x, y, z in MISSING:
        found[:, x * 32 : x * 32 + 32, y * 32 : y * 32 + 32, z * 32 : z * 32 + 32] = 0
    return found


TRUTH = truth()


@pytest.fixture
def dataset(server: StubServer) -> Iterator[RemoteDataset]:
    layer = layer_json("Volume", [[1, 1, 1], [2, 2, 1]])
    server.put(f"{STREAM}/datasource-properties.json", as_json(properties_json(layer)))
    put_array(server, f"{STREAM}/Volume/1", VOXELS, MISSING, zarray(VOXELS.shape, "<u4"))
    coarse = VOXELS[:, ::2, ::2]
    put_array(server, f"{STREAM}/Volume/2-2-1", coarse, set(), zarray(coarse.shape, "<u4"))
    with (
        Client(server.url, TOKEN, 5, sleep=lambda _: None) as client,
        RemoteDataset(client, f"{server.url}{STREAM}") as opened,
    ):
        yield opened


class TestReading:
    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(box=st.tuples(*[st.tuples(st.integers(0, 110), st.integers(0, 40))] * 3))
    def test_any_box_is_the_same_box_of_the_whole(self, dataset: RemoteDataset, box: Any) -> None:
        offset, size = zip(*box, strict=True)
        found = dataset.get_layer("Volume").get_mag(1).read(absolute_offset=offset, size=size)
        expected = TRUTH[:, *(slice(a, a + n) for a, n in box)]
        assert found.dtype == np.uint32
        assert found.flags.f_contiguous
        np.testing.assert_array_equal(found, expected)

    def test_coarser_mags_are_asked_in_voxels_of_mag_1(self, dataset: RemoteDataset) -> None:
        mag = dataset.get_layer("Volume").get_mag("2-2-1")
        found = mag.read(absolute_offset=(20, 4, 3), size=(60, 30, 40))
        np.testing.assert_array_equal(found, VOXELS[:, 20:80:2, 4:34:2, 3:43])

    def test_a_place_is_named_in_four_ways(self, dataset: RemoteDataset) -> None:
        mag = dataset.get_layer("Volume").get_finest_mag()
        expected = TRUTH[:, 15:55, 8:16, 6:36]
        for found in (
            mag.read(absolute_offset=(15, 8, 6), size=(40, 8, 30)),
            mag.read(relative_offset=(5, 8, 1), size=(40, 8, 30)),
            mag.read(absolute_offset=np.array([15, 8, 6]), size=np.array([40, 8, 30])),
            mag.read(absolute_bounding_box=BoundingBox((15, 8, 6), (40, 8, 30))),
        ):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(mag.read(), TRUTH[:, 10:90, :64, 5:65])
        coarse = dataset.get_layer("Volume").get_mag((2, 2, 1)).read()
        np.testing.assert_array_equal(coarse, VOXELS[:, 10:90:2, 0:64:2, 5:65])

    @pytest.mark.parametrize(
        "arguments",
        [
            {"absolute_offset": (0, 0, 0)},
            {"relative_offset": (0, 0, 0)},
            {"size": (2, 2, 2)},
            {"absolute_offset": (0, 0, 0), "relative_offset": (0, 0, 0), "size": (2, 2, 2)},
            {"absolute_offset": (0, 0, 0), "absolute_bounding_box": BoundingBox((0, 0, 0), (2, 2, 2))},
            {"size": (2, 2, 2), "absolute_bounding_box": BoundingBox((0, 0, 0), (2, 2, 2))},
            {"absolute_offset": (-2, 0, 0), "size": (2, 2, 2)},
            {"relative_offset": (-12, 0, 0), "size": (2, 2, 2)},
            {"absolute_offset": (0, 0, 0), "size": (2, -2, 2)},
            {"absolute_offset": (1, 0, 0), "size": (2, 2, 2)},
            {"absolute_offset": (0, 0, 0), "size": (2, 3, 2)},
            {"absolute_bounding_box": BoundingBox((1, 1, 0), (2, 2, 2))},
        ],
    )
    def test_what_is_no_box_is_told_before_anything_is_fetched(
        self, dataset: RemoteDataset, server: StubServer, arguments: Any
    ) -> None:
        before = len(server.asked)
        with pytest.raises(AssertionError) as caught:
            dataset.get_layer("Volume").get_mag("2-2-1").read(**arguments)
        assert isinstance(caught.value, WrongUse)
        assert len(server.asked) == before

    def test_only_chunks_that_are_needed_are_fetched_and_only_once(
        self, dataset: RemoteDataset, server: StubServer
    ) -> None:
        mag = dataset.get_layer("Volume").get_mag(1)
        for _ in range(2):
            mag.read(absolute_offset=(31, 0, 0), size=(2, 32, 32))
            mag.read(absolute_offset=(200, 0, 0), size=(64, 64, 64))
        assert sorted(server.paths()) == sorted(
            [
                "/api/buildinfo",
                f"{STREAM}/datasource-properties.json",
                f"{STREAM}/Volume/1/.zarray",
                f"{STREAM}/Volume/1/0.0.0.0",
                f"{STREAM}/Volume/1/0.1.0.0",
            ][1:]
        )
        assert {one.token for one in server.asked} == {TOKEN}

    def test_a_large_read_holds_no_more_chunks_than_the_cache_may(
        self, dataset: RemoteDataset, server: StubServer
    ) -> None:
        dataset.stream.cache = ChunkCache(3 * 4 * SIDE**3)
        mag = dataset.get_layer("Volume").get_mag(1)
        np.testing.assert_array_equal(mag.read(absolute_offset=(0, 0, 0), size=(90, 64, 65)), TRUTH[:, :90, :64, :65])
        assert 0 < dataset.stream.cache.nbytes <= 3 * 4 * SIDE**3
        assert len(server.asked) == 2 + 3 * 2 * 3

    @pytest.mark.parametrize(
        ("dtype", "channels", "more"),
        [
            ("|u1", 3, {"chunks": [3, 16, 8, 32]}),
            ("|u1", 2, {"chunks": [1, 16, 8, 32]}),
            (">u2", 1, {}),
            ("<f4", 1, {"fill_value": 2.5}),
            ("<i8", 1, {"order": "C"}),
            ("<u8", 1, {"dimension_seperator": ".", "fill_value": None}),
        ],
    )
    def test_other_layers(
        self, dataset: RemoteDataset, server: StubServer, dtype: str, channels: int, more: dict[str, Any]
    ) -> None:
        voxels = RNG.integers(0, 100, (channels, 40, 33, 20)).astype(dtype)
        about = zarray(voxels.shape, dtype, **more)
        if "dimension_seperator" in more:
            del about["dimension_separator"]
        put_array(server, f"{STREAM}/Volume/1", voxels, {(0, 0, 0, 0)}, about)
        server.put(f"{STREAM}/Volume/1/0.0.0.0", Reply(404))
        found = dataset.get_layer("Volume").get_mag(1).read(absolute_offset=(1, 2, 3), size=(40, 33, 20))
        expected = np.zeros((channels, 41, 35, 23), dtype)
        expected[:, :40, :33, :20] = voxels
        expected[tuple(slice(n) for n in about["chunks"])][:, :40, :33, :20] = about["fill_value"] or 0
        assert found.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(found, expected[:, 1:, 2:, 3:])

    def test_zarr_reads_the_same(self, dataset: RemoteDataset, server: StubServer) -> None:
        zarr = pytest.importorskip("zarr", reason="zarr is not installed")
        prefix = f"{STREAM}/Volume/1/"
        stored = {
            path.removeprefix(prefix): zarr.core.buffer.cpu.Buffer.from_bytes(replies[0].body)
            for path, replies in server.replies.items()
            if path.startswith(prefix)
        }
        expected = np.asarray(zarr.open_array(zarr.storage.MemoryStore(stored), mode="r")[:, 3:80, 1:60, 2:65])
        found = dataset.get_layer("Volume").get_mag(1).read(absolute_offset=(3, 1, 2), size=(77, 59, 63))
        np.testing.assert_array_equal(found, expected)


class TestTrouble:
    @pytest.mark.parametrize(
        "bad", [Reply(drop=True), Reply(503), Reply(body=bytes(131072), cut=1000), Reply(body=bytes(5))]
    )
    def test_a_chunk_that_fails_is_fetched_again(self, dataset: RemoteDataset, server: StubServer, bad: Reply) -> None:
        path = f"{STREAM}/Volume/1/0.0.0.0"
        server.put(path, bad, bad, *server.replies[path])
        found = dataset.get_layer("Volume").get_mag(1).read(absolute_offset=(0, 0, 0), size=(40, 40, 40))
        np.testing.assert_array_equal(found, TRUTH[:, :40, :40, :40])

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (Reply(body=bytes(131073)), "more than 131072 bytes came, but 131072 were expected"),
            (Reply(body=bytes(131071)), "131071 bytes came, but 131072 were expected; tried 5 times"),
            (Reply(403, b"no"), "status 403: no"),
            (Reply(500), "status 500; tried 5 times"),
            (Reply(404, b'{"messages": []}'), None),
        ],
    )
    def test_only_a_missing_chunk_is_zeros(
        self, dataset: RemoteDataset, server: StubServer, bad: Reply, message: str | None
    ) -> None:
        server.put(f"{STREAM}/Volume/1/0.0.0.0", bad)
        mag = dataset.get_layer("Volume").get_mag(1)
        if message is None:
            assert not mag.read(absolute_offset=(0, 0, 0), size=(32, 32, 32)).any()
            return
        with pytest.raises(ServerError, match=message) as caught:
            mag.read(absolute_offset=(0, 0, 0), size=(90, 64, 65))
        assert f"{STREAM}/Volume/1/0.0.0.0" in str(caught.value)

    def test_a_chunk_that_lies_elsewhere_is_fetched_without_the_token(
        self, dataset: RemoteDataset, server: StubServer, other_server: StubServer
    ) -> None:
        path = f"{STREAM}/Volume/1/0.0.0.0"
        (chunk,) = server.replies[path]
        server.put(path, moved(f"{other_server.url}/bucket/1"))
        other_server.put("/bucket/1", chunk)
        found = dataset.get_layer("Volume").get_mag(1).read(absolute_offset=(0, 0, 0), size=(32, 32, 32))
        np.testing.assert_array_equal(found, TRUTH[:, :32, :32, :32])
        assert other_server.asked[0].token is None

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"dtype": "|O"}, "dtype '|O' is not known"),
            ({"dtype": 5}, "'dtype' in the answer to be a str"),
            ({"compressor": {"id": "blosc"}}, "raw zarr 2 chunks are expected"),
            ({"filters": [{"id": "delta"}]}, "raw zarr 2 chunks"),
            ({"zarr_format": 3}, "raw zarr 2 chunks"),
            ({"shape": [1, 2, 3, 4, 5], "chunks": [1, 1, 32, 32, 32]}, "5 axes"),
            ({"chunks": [1, 32, 32]}, "chunks [1, 32, 32]"),
            ({"chunks": [1, 32, 32, 0]}, "chunks [1, 32, 32, 0]"),
            ({"chunks": [1, 32, 32, "32"]}, "chunks [1, 32, 32, '32']"),
            ({"chunks": [1, 32768, 32768, 32768]}, "larger than"),
            ({"shape": None}, "'shape'"),
            ({"fill_value": "NaN"}, "fill 'NaN'"),
        ],
    )
    def test_arrays_of_another_kind_are_told(
        self, dataset: RemoteDataset, server: StubServer, more: dict[str, Any], message: str
    ) -> None:
        server.put(f"{STREAM}/Volume/1/.zarray", as_json(zarray((1, 32, 32, 32), "<u4") | more))
        with pytest.raises((InvalidInput, UnexpectedAnswer)) as caught:
            dataset.get_layer("Volume").get_mag(1).read(absolute_offset=(0, 0, 0), size=(1, 1, 1))
        assert message in str(caught.value)
        assert f"GET {server.url}{STREAM}/Volume/1/.zarray: " in str(caught.value)

    def test_a_box_beyond_all_memory_is_told(self, dataset: RemoteDataset) -> None:
        with pytest.raises(InvalidInput, match="does not fit into memory"):
            dataset.get_layer("Volume").get_mag(1).read(absolute_offset=(0, 0, 0), size=(2**21, 2**21, 2**21))


class TestLayers:
    def open(self, server: StubServer, answer: Any) -> RemoteDataset:
        server.put(f"{STREAM}/datasource-properties.json", answer if isinstance(answer, Reply) else as_json(answer))
        return RemoteDataset(Client(server.url, TOKEN, 5), f"{server.url}{STREAM}")

    def test_what_a_dataset_says_of_itself(self, server: StubServer) -> None:
        big = {"customJsonEncoding": "bigint", "value": str(2**64 - 1)}
        color = layer_json("color raw", [[1, 1, 1]], category="color", elementClass="uint24", largestSegmentId=None)
        layer = layer_json("Volume", [[4, 4, 2], [1, 1, 1], [2, 2, 1]], largestSegmentId=big)
        del layer["mags"][1]["path"]  # as servers of API 9
        found = self.open(server, properties_json(color, layer))
        assert (found.name, found.voxel_size, list(found.layers)) == (
            "l4_sample",
            (11.24, 11.24, 28),
            ["color raw", "Volume"],
        )
        raw, volume = found.layers.values()
        assert (raw.category, raw.dtype, raw.largest_segment_id) == ("color", np.dtype("u1"), None)
        assert raw.get_mag(1).url.endswith(f"{STREAM}/color%20raw/1")
        assert (volume.category, volume.dtype, volume.data_format) == ("segmentation", np.dtype("u4"), "zarr")
        assert volume.largest_segment_id == 2**64 - 1
        assert volume.bounding_box == BoundingBox((10, 0, 5), (80, 64, 60))
        assert list(volume.mags) == [Mag(1), Mag("2-2-1"), Mag("4-4-2")]
        assert volume.get_finest_mag().mag == Mag(1)
        assert volume.get_finest_mag().url == f"{server.url}{STREAM}/Volume/1"
        assert TOKEN not in repr(found) + repr(volume) + repr(volume.get_mag(1))
        with pytest.raises(NoSuchLayer, match="no layer 'volume'; there are 'color raw', 'Volume'"):
            found.get_layer("volume")
        with pytest.raises(WrongUse, match="no mag 8; there are 1, 2-2-1, 4-4-2"):
            volume.get_mag(8)
        found.close()
        found.close()

    def test_a_unit_and_an_old_scale(self, server: StubServer) -> None:
        micro = properties_json() | {"scale": {"factor": [0.5, 1, 2], "unit": "micrometer"}}
        assert self.open(server, micro).voxel_size == (500, 1000, 2000)
        assert self.open(server, properties_json() | {"scale": [11, 12, 13]}).voxel_size == (11, 12, 13)

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (Reply(body=b"<html>"), "a web page instead of data"),
            (Reply(body=b"{"), "is no JSON"),
            ([], "to be a dict, but found list"),
            ({}, r"id\.name"),
            (properties_json() | {"scale": {"factor": [1, 2], "unit": "nanometer"}}, "scale"),
            (properties_json() | {"scale": {"factor": [1, 2, 3], "unit": "cubit"}}, "cubit"),
            (properties_json() | {"dataLayers": {}}, "dataLayers"),
            (properties_json() | {"dataLayers": [5]}, "to be a dict, but found int"),
            (properties_json({"name": "a"}), "layer 'a': boundingBox None"),
            (properties_json(layer_json("a", [], boundingBox={"topLeft": [1, 2]})), "boundingBox"),
            (properties_json(layer_json("a", [], largestSegmentId="many")), "largestSegmentId 'many'"),
            (with_mag([1, 3, 1], None), "mag .*none"),
            (with_mag([1, 1, 1], "../../b"), "leaves the dataset"),
            (with_mag([1, 1, 1], "/b/1"), "leaves the dataset"),
            (with_mag([1, 1, 1], "https://h/"), "leaves the dataset"),
            (with_mag([1, 1, 1], 5), "leaves the dataset"),
        ],
    )
    def test_what_is_no_dataset_is_told(self, server: StubServer, answer: Any, message: str) -> None:
        with pytest.raises(UnexpectedAnswer, match=message) as caught:
            self.open(server, answer)
        assert f"{STREAM}/datasource-properties.json" in str(caught.value)

    def test_an_unknown_dtype_troubles_only_its_layer(self, server: StubServer) -> None:
        found = self.open(server, properties_json(layer_json("a", [], elementClass="vector"), layer_json("b", [])))
        assert found.get_layer("b").dtype == np.uint32
        with pytest.raises(InvalidInput, match="vector"):
            _ = found.get_layer("a").dtype
        with pytest.raises(WrongUse, match="has no mag"):
            found.get_layer("b").get_finest_mag()


class TestOpening:
    """From an id, a link or a name to the stream."""

    @pytest.fixture(autouse=True)
    def _answers(self, server: StubServer) -> None:
        self.store = {"name": "localhost", "url": f"{server.url}/"}
        self.info = {"id": ID, "typ": "Explorational", "organization": "Lab", "dataSetName": "l4_sample"}
        self.dataset = {
            "id": DATASET_ID,
            "name": "l4_sample",
            "dataSource": {"dataLayers": []},
            "dataStore": self.store,
        }
        properties = as_json(properties_json(layer_json("Volume", [[1, 1, 1]])))
        server.put(f"/api/v12/annotations/{ID}/info", as_json(self.info | {"dataStore": self.store}))
        server.put(f"{STREAM}/datasource-properties.json", properties)
        server.put(f"/data/v12/zarr/{DATASET_ID}/datasource-properties.json", properties)
        server.put(f"/api/v12/datasets/{DATASET_ID}", as_json(self.dataset))
        longer = self.dataset | {"id": "0" * 24, "name": "l4_sample_dense"}
        server.put("/api/v12/datasets", as_json([longer, self.dataset]))
        server.put("/api/v12/user", as_json({"id": "1", "organization": "Lab"}))

    @pytest.mark.parametrize("given", [ID, "{url}/annotations/" + ID + "#1,2,3"])
    def test_an_annotation(self, server: StubServer, given: str) -> None:
        with webknossos_context(server.url, TOKEN), remote_annotation_dataset(given.format(url=server.url)) as found:
            assert found.url == f"{server.url}{STREAM}"
            assert list(found.layers) == ["Volume"]
        assert server.paths() == [
            "/api/buildinfo",
            f"/api/v12/annotations/{ID}/info",
            f"{STREAM}/datasource-properties.json",
        ]
        assert [one.token for one in server.asked] == [None, TOKEN, TOKEN]

    def test_an_annotation_that_names_no_data_store(self, server: StubServer) -> None:
        server.put(
            f"/api/v12/annotations/{ID}/info", as_json(self.info | {"datasetId": DATASET_ID}), as_json(self.info)
        )
        with webknossos_context(server.url, TOKEN):
            for _ in range(2):  # first with the dataset's id, then with its name only
                with remote_annotation_dataset(ID) as found:
                    assert found.url == f"{server.url}{STREAM}"

    def test_an_annotation_on_another_server_is_asked_for_without_the_token(
        self, server: StubServer, other_server: StubServer
    ) -> None:
        with webknossos_context(other_server.url, TOKEN), pytest.warns(UserWarning, match="no token is sent"):
            remote_annotation_dataset(f"{server.url}/annotations/{ID}").close()
        assert TOKEN not in str(server.asked)

    def test_a_dataset_by_its_id(self, server: StubServer) -> None:
        with webknossos_context(server.url, TOKEN), remote_base_dataset(dataset_id=DATASET_ID) as found:
            assert found.url == f"{server.url}/data/v12/zarr/{DATASET_ID}"
        assert server.only(f"/api/v12/datasets/{DATASET_ID}").query == {}

    def test_a_dataset_by_its_whole_name(self, server: StubServer) -> None:
        with webknossos_context(server.url, TOKEN):
            remote_base_dataset("l4_sample", "Lab").close()
            remote_base_dataset("l4_sample").close()
        asked = [one for one in server.asked if one.path == "/api/v12/datasets"]
        assert [one.query for one in asked] == [
            {"isActive": "true", "organizationId": "Lab", "searchQuery": "l4_sample"}
        ] * 2
        assert server.paths().count("/api/v12/user") == 1

    @pytest.mark.parametrize("hits", [[], ["l4_sample_dense"], ["l4_sample", "l4_sample"]])
    def test_a_name_that_the_list_leaves_open(self, server: StubServer, hits: list[str]) -> None:
        found = [self.dataset | {"name": name, "id": f"{index:024}"} for index, name in enumerate(hits)]
        server.put("/api/v12/datasets", as_json(found))
        server.put("/api/v12/datasets/disambiguate/Lab/l4_sample/toId", as_json({"id": DATASET_ID}))
        with webknossos_context(server.url, TOKEN), remote_base_dataset("l4_sample", "Lab") as opened:
            assert opened.url.endswith(DATASET_ID)

    def test_a_sharing_token_takes_the_place_of_the_user_s(self, server: StubServer) -> None:
        with webknossos_context(server.url, TOKEN):
            remote_base_dataset(dataset_id=DATASET_ID, sharing_token="S3cret").close()
        asked = server.only(f"/api/v12/datasets/{DATASET_ID}")
        assert (asked.token, asked.query) == ("S3cret", {"sharingToken": "S3cret"})
        assert server.asked[-1].token == "S3cret"
        assert TOKEN not in str(server.asked)

    def test_a_dataset_that_the_server_cannot_use(self, server: StubServer) -> None:
        server.put(
            f"/api/v12/datasets/{DATASET_ID}", as_json(self.dataset | {"dataSource": {"status": "Not imported"}})
        )
        with webknossos_context(server.url, TOKEN), pytest.raises(ServerError, match=f"{DATASET_ID}: Not imported"):
            remote_base_dataset(dataset_id=DATASET_ID)

    @pytest.mark.parametrize("store", [None, {}, {"url": 5}, {"url": "ftp://h"}])
    def test_a_dataset_without_a_data_store(self, server: StubServer, store: Any) -> None:
        server.put(f"/api/v12/datasets/{DATASET_ID}", as_json(self.dataset | {"dataStore": store}))
        with webknossos_context(server.url, TOKEN), pytest.raises((UnexpectedAnswer, InvalidInput), match=r"url|URL"):
            remote_base_dataset(dataset_id=DATASET_ID)

    def test_old_servers_stream_datasets_by_name(self, bare_server: StubServer) -> None:
        versions = {"currentApiVersion": 9, "oldestSupportedApiVersion": 1}
        bare_server.put("/api/buildinfo", as_json({"httpApiVersioning": versions}))
        about = self.dataset | {"dataSource": {"id": {"name": "l4 sample", "team": "Lab"}, "dataLayers": []}}
        bare_server.put(f"/api/v9/datasets/{DATASET_ID}", as_json(about))
        path = "/data/zarr/Lab/l4%20sample"
        bare_server.put(f"{path}/datasource-properties.json", as_json(properties_json()))
        with webknossos_context(bare_server.url, TOKEN), remote_base_dataset(dataset_id=DATASET_ID) as found:
            assert found.url == f"{bare_server.url}{path}"

    def test_the_data_interface_has_fewer_versions(self, bare_server: StubServer) -> None:
        versions = {"currentApiVersion": 16, "oldestSupportedApiVersion": 12}
        bare_server.put("/api/buildinfo", as_json({"httpApiVersioning": versions}))
        bare_server.put(f"/api/v16/annotations/{ID}/info", as_json(self.info | {"dataStore": self.store}))
        with webknossos_context(bare_server.url, TOKEN), Client() as client:
            assert client.annotation_stream(ID) == f"{bare_server.url}/data/v15/annotations/zarr/{ID}"

    def test_no_token_goes_to_a_store_that_is_less_encrypted(self) -> None:
        with Client("https://h.org", TOKEN) as client:
            assert client.stream_token("https://data.h.org/data/v12/zarr/1") == TOKEN
            with pytest.warns(UserWarning, match=r"http://data\.h\.org/x, which is not encrypted; no token"):
                assert client.stream_token("http://data.h.org/x?y=1") is None
            with pytest.warns(UserWarning, match="not encrypted"):
                assert client.stream_token("http://h.org", "S3cret") is None

    def test_one_of_name_and_id_is_needed(self, server: StubServer) -> None:
        with webknossos_context(server.url, TOKEN):
            with pytest.raises(WrongUse, match="by its name or its id"):
                remote_base_dataset()
            with pytest.raises(InvalidInput, match=r"dataset 'l4' is not an id of 24 hexadecimal digits$"):
                remote_base_dataset(dataset_id="l4")


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    cache, fetched = ChunkCache(3000), list[str]()

    def get(name: str) -> None:
        def fetch() -> NDArray[Any]:
            fetched.append(name)
            return np.zeros(1000 - 256, np.uint8)

        cache.get(name, fetch)

    for name in "abcadbabc":
        get(name)
    assert fetched == ["a", "b", "c", "d", "b", "c"]
    assert cache.nbytes == 3000


def test_the_cache_is_bounded_where_nothing_is_there() -> None:
    cache = ChunkCache(2560)
    for number in range(1000):
        assert cache.get(str(number), lambda: None) is None
    assert cache.nbytes == 2560


@pytest.mark.real
class TestRecordedAnswers:
    """A server of October 2025, as it was recorded, answers again."""

    FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "webknossos"
    ID = "690087510100008900017bd4"

    @pytest.fixture(autouse=True)
    def _replayed(self, bare_server: StubServer) -> None:
        recorded = self.FOLDER / "http_recorded_api12.json"
        if not recorded.is_file():
            pytest.skip(f"the recorded answers are not here: {recorded}")
        text = recorded.read_text(encoding="utf-8").replace("http://localhost:9000", bare_server.url)
        self.recorded = {
            one["path"].partition("?")[0].replace("/api/v12/buildinfo", "/api/buildinfo"): one
            for one in json.loads(text)["interactions"]
        }
        for path, one in self.recorded.items():
            if "json" in one:
                bare_server.put(path, replace(as_json(one["json"], one["status"]), headers=one["response_headers"]))

    def test_a_streamed_annotation(self, bare_server: StubServer) -> None:
        numcodecs = pytest.importorskip("numcodecs", reason="numcodecs, which decodes the sample, is not installed")
        chunk_path = f"/data/v12/annotations/zarr/{self.ID}/Volume/16-16-4/0.7.7.8"
        with zipfile.ZipFile(self.FOLDER / "recorded_download_api12_zarr3.zip") as outer:
            (name,) = [entry for entry in outer.namelist() if entry.endswith(".zip")]
            with outer.open(name) as file, zipfile.ZipFile(file) as inner:
                (entry,) = [entry for entry in inner.namelist() if entry.endswith("16-16-4/0.7.7.8")]
                chunk = bytes(numcodecs.Blosc().decode(inner.read(entry)))
        assert hashlib.sha256(chunk).hexdigest() == self.recorded[chunk_path]["body_sha256"]
        bare_server.put(chunk_path, Reply(body=chunk))
        info = self.recorded["/api/v12/annotations/570ba0092a7c0e980056fe9b/info"]["json"]
        bare_server.put(f"/api/v12/annotations/{self.ID}/info", as_json(info))
        with webknossos_context(bare_server.url, TOKEN), remote_annotation_dataset(self.ID) as found:
            assert list(found.layers) == ["color", "segmentation", "Volume"]
            assert found.voxel_size == pytest.approx((11.24, 11.24, 28), rel=1e-6)
            layer = found.get_layer("Volume")
            assert layer.bounding_box == BoundingBox((3072, 3072, 512), (1024, 1024, 1024))
            assert (layer.dtype, layer.largest_segment_id) == (np.dtype("u4"), 1)
            mag = layer.get_mag("16-16-4")
            found_voxels = mag.read(absolute_offset=(3584, 3584, 1024), size=(512, 512, 128))
            nothing = mag.read(absolute_offset=(0, 0, 0), size=(512, 512, 128))
        expected = np.frombuffer(chunk, "<u4").reshape((1, 32, 32, 32), order="F")
        assert expected.any()
        np.testing.assert_array_equal(found_voxels, expected)
        assert not nothing.any()

    def test_downloads_uploads_and_questions(self, bare_server: StubServer, tmp_path: Path) -> None:
        path = f"/api/v12/annotations/{self.ID}/download"
        body = (self.FOLDER / "recorded_download_api12_zarr3.zip").read_bytes()
        bare_server.put(path, Reply(body=body, headers=self.recorded[path]["response_headers"]))
        with webknossos_context(bare_server.url, TOKEN), Client() as client:
            file = client.download(self.ID, tmp_path)
            assert file.name == "l4_sample__explorational__suser__94b271.zip"
            assert file.read_bytes() == body
            assert client.upload(file) == f"{bare_server.url}/annotations/{self.ID}"
            assert client.organization() == "Organization_X"
            assert client.dataset_id("Organization_X", "l4_sample") == "59e9cfbdba632ac2ab8b23b5"
            assert len(client.annotations()) == 5
            info = client.annotation_info("570ba0092a7c0e980056fe9b")
            assert (info["typ"], info["owner"]["firstName"]) == ("Explorational", "user_A")
        with webknossos_context(bare_server.url, TOKEN), remote_base_dataset("l4_sample", "Organization_X") as found:
            assert list(found.layers) == ["color", "segmentation"]
        sent = bare_server.only("/api/v12/annotations/upload")
        boundary = sent.headers["content-type"].partition("boundary=")[2]
        starts = self.recorded["/api/v12/annotations/upload"]["request_body_starts"].replace("BOUNDARY", boundary)
        assert sent.body.startswith(starts.encode())
