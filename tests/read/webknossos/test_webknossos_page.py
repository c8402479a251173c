"""The page about WEBKNOSSOS: its example runs as it stands, and its words are those that there are."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.read.webknossos.made import Layer, blob, segment, user_box, write
from tests.webknossos.stub_server import StubServer, as_json
from voxtract.read.webknossos import open_webknossos
from voxtract.webknossos import Annotation, Dataset
from voxtract.write.webknossos import AnnotationZips

for package in ("numcodecs", "zarr", "httpx"):
    pytest.importorskip(package, reason=f"{package} is of the extra webknossos")

PAGE = Path(__file__).parents[3] / "docs" / "webknossos.md"
UPLOAD = "/api/v12/annotations/upload"
NODES = '<thing id="3" name="axon"><nodes><node id="1" x="40" y="41" z="70"/></nodes><edges/></thing>'


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: StubServer) -> Path:
    """What the example needs: an annotation, its dataset, a server."""
    chunk = blob((3, np.s_[4:9, 5:9, 2:5]), (7, np.s_[10:14, 3:6, 2:3]))
    boxes = user_box("left", (32, 32, 64), (20, 16, 8))
    layer = Layer("cells", {"1": {(1, 1, 2): chunk}}, segment(3, "nucleus"))
    write(tmp_path / "cells.zip", layer, parameters=boxes, more=NODES)
    color = Dataset.create(tmp_path / "cortex", (4, 5, 35)).add_layer("color", "color", dtype="uint8")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 32)).astype(np.uint8)
    color.add_mag(1, shard=None).write(image, absolute_offset=(0, 0, 64))
    server.put(UPLOAD, as_json({"annotation": {"typ": "Explorational", "id": "5f7d3a8b0100008900e4c1aa"}}))
    server.put("/api/v12/user", as_json({"organization": "lab"}))
    monkeypatch.setenv("WK_URL", server.url)
    monkeypatch.setenv("WK_TOKEN", "T0ken-of_a.user")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_runs(at_hand: Path, server: StubServer, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    shown = capsys.readouterr().out
    assert "1 of 1 case done: 8 slices" in shown
    assert f"{server.url}/annotations/5f7d3a8b0100008900e4c1aa" in shown
    table = pd.read_csv(at_hand / "training/cells_left/axial/cells_left_axial_002.csv")
    assert table.to_numpy().tolist() == [
        [5, 4, 2, 8, 8, 2],
        [3, 10, 2, 5, 13, 2],
    ]  # segments 3 and 7: columns are y, rows x
    renamed = Annotation.load(at_hand / "renamed.zip")
    assert renamed.get_volume_layer_segments()[3].name == "the largest"
    assert [box.name for box in renamed.user_bounding_boxes] == ["left", "look here"]
    body = server.only(UPLOAD).body
    start, end = body.index(b"PK\x03\x04"), body.rindex(b"PK\x05\x06") + 22
    (at_hand / "sent.zip").write_bytes(body[start:end])
    sent = open_webknossos(at_hand / "sent.zip")
    assert sent.annotation is not None
    assert sent.annotation.dataset_name == "cortex"
    assert sorted(tuple(box.topleft) for box in sent.annotation.user_bounding_boxes) == [(36, 37, 66), (42, 35, 66)]


def test_the_words_are_those_that_there_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    words = {one.name for one in inspect.signature(open_webknossos).parameters.values() if one.kind is one.KEYWORD_ONLY}
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", text, re.MULTILINE)
    assert {word for row in rows for word in re.findall(r"`([a-z_]+)`", row)} >= words
    options = set(inspect.signature(AnnotationZips).parameters) - {"find", "classes"}
    assert all(f"`{option}`" in text for option in options)
