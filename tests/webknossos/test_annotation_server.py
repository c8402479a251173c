"""Annotations from a server and to it."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.webknossos.annotations import SMALLEST, names
from tests.webknossos.stub_server import StubServer, as_file, as_json
from tests.webknossos.volumes import labels, zarr_members, zipped
from voxtract.errors import InvalidInput
from voxtract.webknossos import Annotation, AnnotationType, FormatError, WrongUse, webknossos_context
from voxtract.webknossos.connection import ServerError

pytest.importorskip("httpx", reason="httpx, which speaks to servers, is not installed")

ID = "5f7d3a8b0100008900e4c1aa"
OTHER_ID = "5f7d3a8b0100008900e4c1ab"
DATASET_ID = "59e9cfbdba632ac2ab8b23b5"
TOKEN = "T0ken-of_a.user"
DOWNLOAD = f"/api/v12/annotations/{ID}/download"
UPLOAD = "/api/v12/annotations/upload"
PROPERTIES = {"id": {"name": "d", "team": ""}, "dataLayers": [], "scale": {"factor": [4, 4, 35], "unit": "nanometer"}}


def voxels() -> bytes:
    return zipped(zarr_members({"1": {(0, 0, 0): labels(1)}}))


def archive(more: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("axons.nml", SMALLEST.format(more + '<volume id="0" name="cells" location="data_Volume.zip"/>'))
        made.writestr("data_Volume.zip", voxels())
    return buffer.getvalue()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_downloaded_annotation_keeps_its_voxels_and_leaves_no_file(server: StubServer, scratch: Path) -> None:
    server.put(DOWNLOAD, as_file("axons.zip", archive()))
    with webknossos_context(server.url, TOKEN):
        annotation = Annotation.download(ID)
    assert (annotation.name, annotation.annotation_id) == ("axons", ID)
    assert server.only(DOWNLOAD).token == TOKEN
    assert server.only(DOWNLOAD).query["skipVolumeData"] == "false"
    layer = annotation.get_volume_layer()
    del annotation
    with layer.open() as volume:
        assert volume.largest_segment_id == 2**32 - 1
    del layer, volume
    assert names(scratch) == []


def test_the_file_s_id_counts_and_an_nml_will_do(server: StubServer) -> None:
    nml = SMALLEST.format(f'<meta name="annotationId" content="{OTHER_ID}"/>')
    server.put(DOWNLOAD, as_file("axons.nml", nml.encode()))
    with webknossos_context(server.url):
        annotation = Annotation.download(f"{server.url}/annotations/Task/{ID}#1,2,3")
    assert (annotation.name, annotation.annotation_id) == ("axons", OTHER_ID)


def test_voxels_can_be_left_out(server: StubServer) -> None:
    server.put(DOWNLOAD, as_file("axons.nml", SMALLEST.format("").encode()))
    with webknossos_context("http://127.0.0.1:1", TOKEN), pytest.warns(UserWarning, match="no token is sent"):
        Annotation.download(ID, webknossos_url=server.url, skip_volume_data=True)
    assert server.only(DOWNLOAD).token is None
    assert server.only(DOWNLOAD).query["skipVolumeData"] == "true"


def test_the_type_is_ignored_and_does_not_go_with_a_link(server: StubServer) -> None:
    server.put(DOWNLOAD, as_file("axons.nml", SMALLEST.format("").encode()))
    with webknossos_context(server.url), pytest.warns(DeprecationWarning, match="annotation_type"):
        Annotation.download(ID, AnnotationType.TASK)
    for words in ({"annotation_type": "Task"}, {"webknossos_url": server.url}):
        with pytest.raises(AssertionError) as caught:
            Annotation.download(f"{server.url}/annotations/{ID}", **words)  # type: ignore[arg-type]
        assert isinstance(caught.value, WrongUse)
    with pytest.raises(ValueError, match="neither an id"):
        Annotation.download("nonsense")


@pytest.mark.parametrize("name", ["axons.zip", "axons.nml"])
def test_what_is_no_annotation_is_told(server: StubServer, scratch: Path, name: str) -> None:
    nml = b"<things></things>"
    server.put(DOWNLOAD, as_file(name, zipped({"axons.nml": nml}) if name == "axons.zip" else nml))
    with webknossos_context(server.url), pytest.raises(FormatError) as caught:
        Annotation.download(ID)
    assert "axons" in str(caught.value)
    del caught
    assert names(scratch) == []


def uploaded(server: StubServer) -> zipfile.ZipFile:
    """The archive in the body of the one upload."""
    body = server.only(UPLOAD).body
    start, end = body.index(b"PK\x03\x04"), body.rindex(b"PK\x05\x06") + 22
    return zipfile.ZipFile(io.BytesIO(body[start:end]))


def test_an_upload(server: StubServer, scratch: Path) -> None:
    for package in ("numcodecs", "zarr"):
        pytest.importorskip(package, reason=f"{package} writes the voxels")
    server.put(UPLOAD, as_json({"annotation": {"typ": "Explorational", "id": ID}, "messages": []}))
    server.put("/api/v12/user", as_json({"id": "1", "email": "a@example.org", "organization": "Lab"}))
    annotation = Annotation("my axons", dataset_name="d", voxel_size=(4, 4, 35))
    full, empty = annotation.add_volume_layer("full", "uint16"), annotation.add_volume_layer("empty", "uint16")
    with full.edit() as editable:
        editable.add_mag(1).write(np.ones((3, 3, 3), "u2"), absolute_offset=(0, 0, 0))
    with empty.edit() as editable:
        editable.add_mag(1)
    assert empty.data is not None
    with webknossos_context(server.url, TOKEN):
        assert annotation.upload() == f"{server.url}/annotations/{ID}"
    assert annotation.organization_id == "Lab"
    assert b'filename="my axons.zip"' in server.only(UPLOAD).body
    with uploaded(server) as made:
        assert sorted(made.namelist()) == ["data_0_full.zip", "my axons.nml"]  # servers refuse zips without chunks
        assert b'organization="Lab"' in made.read("my axons.nml")
    full.data = empty.data = None
    assert names(scratch) == []


def test_an_organization_that_is_given_stays(server: StubServer) -> None:
    server.put(UPLOAD, as_json({"annotation": {"typ": "Explorational", "id": ID}}))
    annotation = Annotation("a", dataset_name="d", voxel_size=(4, 4, 35), organization_id="Mine")
    with webknossos_context(server.url, TOKEN):
        annotation.upload()
    assert annotation.organization_id == "Mine"
    assert "/api/v12/user" not in server.paths()


def test_uploads_that_are_refused(server: StubServer) -> None:
    annotation = Annotation("a", dataset_name="d", voxel_size=(4, 4, 35))
    with webknossos_context(server.url), pytest.raises(RuntimeError, match="needs a token") as caught:
        annotation.upload()
    assert isinstance(caught.value, ServerError)
    annotation.add_volume_layer("v")
    annotation.add_volume_layer("v")
    with webknossos_context(server.url, TOKEN), pytest.raises(AssertionError, match="two volume layers are called 'v'"):
        annotation.upload()
    assert server.asked == []


def test_streaming_what_is_not_on_a_server(server: StubServer) -> None:
    annotation = Annotation("a", dataset_name="d", voxel_size=(4, 4, 35))
    with webknossos_context(server.url), pytest.raises(ValueError, match="has no annotation_id") as caught:
        annotation.get_remote_annotation_dataset()
    assert isinstance(caught.value, InvalidInput)
    assert server.asked == []


def streams(server: StubServer) -> None:
    dataset = {"id": DATASET_ID, "name": "d", "dataSource": {"dataLayers": []}, "dataStore": {"url": server.url}}
    server.put("/api/v12/datasets", as_json([{"id": DATASET_ID, "name": "d"}]))
    server.put(f"/api/v12/datasets/{DATASET_ID}", as_json(dataset))
    server.put(f"/api/v12/annotations/{ID}/info", as_json({"id": ID, "dataStore": {"url": server.url}}))
    for path in (f"annotations/zarr/{ID}", f"zarr/{DATASET_ID}"):
        server.put(f"/data/v12/{path}/datasource-properties.json", as_json(PROPERTIES))


def test_streaming_an_annotation_from_the_server_it_came_from(server: StubServer) -> None:
    streams(server)
    server.put(DOWNLOAD, as_file("axons.zip", archive()))
    with webknossos_context(server.url):
        annotation = Annotation.download(f"{server.url}/annotations/{ID}")
    with pytest.warns(UserWarning, match="no token is sent"), annotation.get_remote_annotation_dataset() as dataset:
        assert dataset.voxel_size == (4.0, 4.0, 35.0)
    assert f"/data/v12/annotations/zarr/{ID}/datasource-properties.json" in server.paths()


def test_streaming_a_dataset(server: StubServer) -> None:
    streams(server)
    annotation = Annotation("a", dataset_name="d", voxel_size=(4, 4, 35), organization_id="Lab")
    with webknossos_context(server.url), annotation.get_remote_base_dataset(webknossos_url=server.url) as dataset:
        assert dataset.name == "d"
    assert server.only("/api/v12/datasets").query["searchQuery"] == "d"
    annotation.dataset_id = DATASET_ID
    with webknossos_context(server.url), annotation.get_remote_base_dataset("s4aring") as dataset:
        assert dataset.name == "d"
    assert len([path for path in server.paths() if path == "/api/v12/datasets"]) == 1
    assert server.asked[-1].token == "s4aring"


def test_opening_an_annotation_as_a_dataset(server: StubServer) -> None:
    streams(server)
    server.put(DOWNLOAD, as_file("axons.zip", archive()))
    with webknossos_context(server.url), Annotation.open_as_remote_dataset(ID) as dataset:
        assert dataset.name == "d"
    assert server.only(DOWNLOAD).query["skipVolumeData"] == "true"
