"""Annotations as sources: what is stored in chunks gives what the same voxels give when they are held whole."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import voxtract
from tests.read.webknossos.made import (
    Layer,
    blob,
    dense,
    random_chunks,
    segment,
    task_box,
    user_box,
    write,
)
from tests.webknossos.volumes import VARIANTS, Chunks, zarr_members, zipped
from tests.webknossos.volumes import dense as painted
from voxtract.cli import main
from voxtract.errors import DamagedFile, InvalidInput, NotFound
from voxtract.geometry import View
from voxtract.model import ChunkedFile
from voxtract.read.formats import recognised
from voxtract.read.webknossos import open_webknossos

pytest.importorskip("numcodecs", reason="numcodecs decodes volume layers")

VIEWS: tuple[View, ...] = ("axial", "coronal", "sagittal")
CUBE = blob((1, np.s_[0:4, 0:4, 0:4]))


def frames(source: Any, folder: Path, **words: Any) -> pd.DataFrame:
    report = voxtract.extract(source, folder, VIEWS, images=None, progress=False, **words)
    assert not report.failed, report.failed[0].error
    return report.components


# ---------------------------------------------------------------- the same as the dense array


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    places=st.sets(st.tuples(st.integers(3, 5), st.integers(0, 1), st.integers(2, 3)), min_size=1, max_size=4),
    words=st.sampled_from(
        [
            {},
            {"extraction_mode": "volume"},
            {"objects": "labels"},
            {"connectivity": 1},
            {"center": "mass", "min_size": 3},
        ]
    ),
    kind=st.sampled_from(["zarr3", "wkw"]),
    cut=st.sampled_from([None, (101, 3, 70, 50, 37, 41)]),
)
def test_chunks_give_what_the_dense_array_gives(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    places: set[tuple[int, int, int]],
    words: dict[str, Any],
    kind: str,
    cut: tuple[int, ...] | None,
) -> None:
    folder = tmp_path_factory.mktemp("dense")
    chunks: Any = random_chunks(np.random.default_rng(seed), sorted(places))
    path = write(folder / "a.zip", Layer("cells", {"1": chunks}, kind=kind))
    source = open_webknossos(path, region=cut)
    corners = np.array(sorted(places)) * 32
    start = tuple(corners.min(axis=0).tolist()) if cut is None else cut[:3]
    stop = tuple((corners.max(axis=0) + 32).tolist()) if cut is None else tuple(np.add(cut[:3], cut[3:]).tolist())
    whole = painted(chunks, start, tuple(np.subtract(stop, start).tolist()), "u4")
    file = source.cases[0].labels[0].file
    assert isinstance(file, ChunkedFile)
    np.testing.assert_array_equal(file.read().data, whole)
    np.testing.assert_array_equal(np.concatenate(list(file.slabs(7)), axis=2), whole)
    one = frames(source, folder / "chunked", **words)
    two = frames(dense(source, [whole]), folder / "dense", **words)
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_every_kind_of_server_and_width(tmp_path: Path, variant: Any, dtype: str) -> None:
    chunk = blob(
        (200, np.s_[1:9, 2:3, 30:32]),
        (3, np.s_[30:32, 0:2, 0:2]),
        dtype=dtype.replace("uint", "u")[:1] + str(int(dtype[4:]) // 8),
    )
    path = write(tmp_path / "a.zip", Layer("cells", {"1": {(2, 1, 0): chunk}}, dtype=dtype, variant=variant))
    file = open_webknossos(path).cases[0].labels[0].file
    assert file.header().dtype == np.dtype(dtype)
    np.testing.assert_array_equal(file.read().data, chunk)
    ((row,),) = [list(row) for row in file.layers()]  # type: ignore[attr-defined]
    assert row[0] == (0, 0, 0)
    np.testing.assert_array_equal(row[1], chunk)


def test_where_the_voxels_are(tmp_path: Path) -> None:
    layer = Layer("cells", {"1": {(2, 1, 3): CUBE}, "2-2-1": {(1, 0, 3): CUBE}})
    path = write(tmp_path / "a.zip", layer)
    header = open_webknossos(path).cases[0].labels[0].file.header()
    assert header.grid.shape == (32, 32, 32)
    nm = np.array([4, 5, 35])
    np.testing.assert_allclose(header.grid.affine[:3, 3], np.array([64, 32, 96]) * nm * 1e-6)
    np.testing.assert_allclose(np.diag(header.grid.affine)[:3], nm * 1e-6)
    coarse = open_webknossos(path, mag="2-2-1").cases[0].labels[0].file.header()
    # voxel 32 of mag 2 covers the voxels 64 and 65 of mag 1: its middle is at 64.5
    np.testing.assert_allclose(coarse.grid.affine[:3, 3], np.array([64.5, 0.5, 96]) * nm * 1e-6)
    np.testing.assert_allclose(coarse.grid.spacing_mm, nm * [2, 2, 1] * 1e-6)


def test_unknown_voxel_size_is_remarked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", Layer("v", {"1": {(0, 0, 0): CUBE}}), scale='x="-1" y="-1" z="-1"')
    source = open_webknossos(path)
    assert ["voxel size is not known" in one.message for one in source.remarks] == [True]
    assert source.cases[0].labels[0].file.header().grid.spacing_mm == pytest.approx((1e-6,) * 3)


# ---------------------------------------------------------------- regions


def boxed(tmp_path: Path) -> Path:
    parameters = (
        task_box((60, 30, 95), (20, 20, 5))
        + user_box("soma", (64, 32, 96), (4, 4, 4))
        + user_box("soma", (64, 32, 97), (2, 2, 2), 1)
        + user_box("a/b", (-4, 0, 0), (10, 6, 3), 2)
        + user_box("nothing", (5, 5, 5), (0, 3, 3), 3)
        + user_box("outside", (-9, 5, 5), (4, 3, 3), 4)
    )
    chunks: Chunks = {(2, 1, 3): CUBE, (3, 1, 3): blob((5, np.s_[10:12, 31:32, 6:8]))}
    return write(tmp_path / "my axons.zip", Layer("cells", {"1": chunks}), parameters=parameters)


def regions(path: Path, **words: Any) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    cases = open_webknossos(path, **words).cases
    return {case.id: (box.start, box.stop) for case in cases for box in [case.labels[0].file.place.box]}  # type: ignore[attr-defined]


def test_regions(tmp_path: Path) -> None:
    path = boxed(tmp_path)
    assert regions(path) == {"my axons": ((64, 32, 96), (128, 64, 128))}
    assert regions(path, region="annotation") == regions(path)
    assert regions(path, region="tight") == {"my axons": ((64, 32, 96), (108, 64, 104))}
    assert regions(path, region="task") == {"my axons_task": ((60, 30, 95), (80, 50, 100))}
    user = {
        "my axons_soma": ((64, 32, 96), (68, 36, 100)),
        "my axons_soma_2": ((64, 32, 97), (66, 34, 99)),
        "my axons_a_b": ((0, 0, 0), (6, 6, 3)),
    }
    assert regions(path, region="user") == user
    assert regions(path, region="boxes") == regions(path, region="task") | user
    assert regions(path, region=[1, 2, 3, 4, 5, 6]) == {"my axons": ((1, 2, 3), (5, 7, 9))}
    assert regions(path, region="tight", margin=(4, 0, 100)) == {"my axons": ((60, 32, 0), (112, 64, 204))}


def test_what_is_said_of_boxes(tmp_path: Path) -> None:
    source = open_webknossos(boxed(tmp_path), region="user")
    assert [one.reason for one in source.skipped] == [
        "holds no voxel",
        "lies outside of the dataset: it ends at (-5, 8, 8)",
    ]
    assert ["box 'a/b' begins at (-4, 0, 0)" in one.message for one in source.remarks] == [True]
    assert source.matches[0].why == "volume layer 'cells', mag 1, voxels (64, 32, 96) to (68, 36, 100)"


def test_boxes_are_cut_out(tmp_path: Path) -> None:
    found = voxtract.extract(
        open_webknossos(boxed(tmp_path), region="user"), tmp_path / "out", images=None, extraction_mode="volume"
    ).components
    assert found[["CASE", "LABEL", "COUNT"]].to_numpy().tolist() == [
        ["my axons_soma", 1, 64],
        ["my axons_soma_2", 1, 8],
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"region": "nowhere"}, "region 'nowhere' is not known; allowed: 'annotation', 'tight'"),
        ({"region": (1, 2, 3)}, "must be x, y, z, width, height, depth"),
        ({"region": (1, 2, 3, 4, 0, 6)}, "must be x, y, z, width, height, depth"),
        ({"region": "dataset"}, "region='dataset' needs the dataset"),
        ({"margin": -1}, "margin -1 must be a whole number"),
        ({"margin": (1, 2)}, "must be a whole number of voxels, or three"),
        ({"mag": "2"}, "not all layers have mag 2: volume layer 'cells': 1; take another"),
        ({"mag": "3"}, "mag '3' is none"),
        ({"class_by": "tree"}, "class_by 'tree' is not known"),
        ({"volume_layer": "nuclei"}, r"has no layer 'nuclei'; give the name or the id of one: 'cells' \(id 0\)"),
        ({"volume_layer": 7}, "has no layer 7"),
        ({"layer": "color"}, "layer='color' is one of a dataset"),
        ({"fallback": True}, "fallback=True needs the dataset"),
    ],
)
def test_words_that_are_refused(tmp_path: Path, words: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        open_webknossos(boxed(tmp_path), **words)


@pytest.mark.parametrize("region", ["task", "user", "boxes"])
def test_an_annotation_without_boxes(tmp_path: Path, region: Any) -> None:
    path = write(tmp_path / "a.zip", Layer("v", {"1": {(0, 0, 0): CUBE}}))
    with pytest.raises(InvalidInput, match=r"bounding box(es)?; take region='annotation'"):
        open_webknossos(path, region=region)


def test_nothing_but_zeros(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", Layer("v", {"1": {(0, 0, 0): blob()}}))
    with pytest.raises(InvalidInput, match="nothing is annotated in voxels"):
        open_webknossos(path, region="tight")
    assert len(frames(open_webknossos(path), tmp_path / "out", extraction_mode="volume")) == 0


# ---------------------------------------------------------------- layers


def test_layers_without_voxels_are_skipped(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.zip",
        Layer("empty"),
        Layer("from below", attributes='fallbackLayer="segmentation"'),
        Layer("lost", attributes='location="gone.zip"'),
        Layer("headers only", {"1": {}}),
        Layer("cells", {"1": {(0, 0, 0): CUBE}}),
    )
    source = open_webknossos(path)
    assert [volume.name for volume in source.cases[0].labels] == ["cells"]
    below = "layer 'segmentation'"
    assert [(one.where.removeprefix(f"{path}, "), one.reason) for one in source.skipped] == [
        ("volume layer 'empty' (id 0)", "has no voxels"),
        (
            "volume layer 'from below' (id 1)",
            f"has no voxels; WEBKNOSSOS shows the fallback {below} there: fallback=True with dataset= takes it",
        ),
        (
            "volume layer 'lost' (id 2)",
            "has no voxels; its voxels are to be in 'gone.zip', which is not in the archive",
        ),
        ("volume layer 'headers only' (id 3)", "has no voxels"),
    ]
    assert source.remarks == ()
    with pytest.raises(InvalidInput, match=r"volume layer 'lost' \(id 2\) has no voxels; its voxels are to be in"):
        open_webknossos(path, volume_layer="lost")


def test_several_layers(tmp_path: Path) -> None:
    one = Layer(
        "cells", {"1": {(0, 0, 0): blob((1, np.s_[0:4, 0:4, 0:4]), (9, np.s_[8:9, 0:1, 0:1]))}}, segment(1, "soma")
    )
    two = Layer("cells", {"1": {(0, 0, 0): blob((1, np.s_[2:6, 0:4, 0:4]))}}, segment(1, "soma"), dtype="uint32")
    path = write(tmp_path / "a.zip", one, two)
    source = open_webknossos(path)
    assert [volume.name for volume in source.cases[0].labels] == ["cells", "cells_2"]
    found = frames(source, tmp_path / "out", extraction_mode="volume")
    found = found[found["VIEW"] == "axial"][["LABEL", "CLASS", "COUNT"]].to_numpy().tolist()
    # classes of the second layer are counted from 2**32 on: its ids mean other things than those of the first
    assert found == [[1, "soma (1)", 64], [9, "segment_9", 1], [1, f"soma ({2**32 + 1})", 64]]
    assert [v.name for v in open_webknossos(path, volume_layer=1).cases[0].labels] == ["cells_2"]
    with pytest.raises(InvalidInput, match="has several layers 'cells'"):
        open_webknossos(path, volume_layer="cells")
    both = open_webknossos(path, volume_layer=[1, 0]).cases[0].labels
    assert [volume.name for volume in both] == ["cells_2", "cells"]


def test_an_id_that_belongs_to_another_layer_s_numbers_is_refused(tmp_path: Path) -> None:
    big = blob((1, np.s_[0:1, 0:1, 0:1]), dtype="u8")
    big[5, 5, 5] = 2**53
    layers = [Layer(name, {"1": {(0, 0, 0): big}}, dtype="uint64") for name in "ab"]
    report = voxtract.extract(open_webknossos(write(tmp_path / "a.zip", *layers)), tmp_path / "out", images=None)
    assert f"label values {2**53} belong to no class" in str(report.failed[0].error)


def test_layers_of_different_mags(tmp_path: Path) -> None:
    fine = Layer("fine", {"1": {(0, 0, 0): CUBE}, "2": {(0, 0, 0): CUBE}})
    coarse = Layer("coarse", {"2": {(0, 0, 0): CUBE}})
    source = open_webknossos(write(tmp_path / "a.zip", fine, coarse))
    assert {volume.file.place.mag.name for volume in source.cases[0].labels} == {"2"}  # type: ignore[attr-defined]
    apart = write(tmp_path / "b.zip", Layer("fine", {"1": {(0, 0, 0): CUBE}}), coarse)
    with pytest.raises(InvalidInput, match="no mag in common: volume layer 'fine': 1; volume layer 'coarse': 2"):
        open_webknossos(apart)
    assert len(open_webknossos(apart, volume_layer="coarse").cases[0].labels) == 1


def test_axes_beyond_x_y_z(tmp_path: Path) -> None:
    flat = Layer("at one time", {"1": {(3, 0, 0, 0): CUBE}})
    times = Layer("film", {"1": {(3, 0, 0, 0): CUBE, (4, 0, 0, 0): CUBE}})
    source = open_webknossos(write(tmp_path / "a.zip", flat, times))
    assert [volume.name for volume in source.cases[0].labels] == ["at one time"]
    np.testing.assert_array_equal(source.cases[0].labels[0].file.read().data, CUBE)
    (left_out,) = source.skipped
    assert "has voxels at 2 places along t, but a volume has the axes x, y, z" in left_out.reason
    with pytest.raises(InvalidInput, match="2 places along t"):
        open_webknossos(tmp_path / "a.zip", volume_layer="film")


# ---------------------------------------------------------------- classes


def classed(tmp_path: Path) -> Path:
    groups = '<group id="1" name="neurons"><group id="2" name="somata"/></group>'
    inside = (
        segment(1, "soma", (1.0, 0.5, 0.0), 2)
        + segment(2, "axon", group=1)
        + segment(3, "axon", group=1)
        + segment(4)
        + segment(5, "segment_9")
    )
    boxes = [(n, np.s_[2 * n : 2 * n + 1, 0:1, 0:1]) for n in (1, 2, 3, 4, 5, 9)]
    return write(tmp_path / "a.zip", Layer("cells", {"1": {(0, 0, 0): blob(*boxes)}}, inside, groups))


@pytest.mark.parametrize(
    ("by", "names", "keys"),
    [
        (
            "segment",
            ["soma", "axon (2)", "axon (3)", "segment_4", "segment_9 (5)", "segment_9"],
            [None] * 6,
        ),
        (
            "group",
            ["neurons/somata", "neurons", "neurons", "no group", "no group", "no group"],
            ["soma", "axon", "axon", None, "segment_9", None],
        ),
        ("layer", ["cells"] * 6, ["soma", "axon", "axon", None, "segment_9", None]),
    ],
)
def test_classes(tmp_path: Path, by: Any, names: list[str], keys: list[str | None]) -> None:
    source = open_webknossos(classed(tmp_path), class_by=by)
    found = frames(source, tmp_path / "out", extraction_mode="volume")
    found = found[found["VIEW"] == "axial"].sort_values("LABEL")
    assert found["LABEL"].tolist() == [1, 2, 3, 4, 5, 9]
    assert found["CLASS"].astype(str).tolist() == names
    assert [None if pd.isna(key) else key for key in found["OBJECT"]] == keys


def test_colors_are_those_of_the_list(tmp_path: Path) -> None:
    classes = open_webknossos(classed(tmp_path)).classes
    assert classes is not None
    assert classes[1].color == "#ff8000"
    assert classes[77].name == "segment_77"
    assert not voxtract.extract(classed(tmp_path), tmp_path / "out", annotations="coco").failed
    categories = json.loads((tmp_path / "out/coco.json").read_text())["categories"]
    assert {one["id"]: one["color"] for one in categories}[1] == "#ff8000"


def test_a_run_is_resumed_with_the_classes_of_the_source(tmp_path: Path) -> None:
    path = classed(tmp_path)
    voxtract.extract(path, tmp_path / "out", images=None)
    again = voxtract.extract(path, tmp_path / "out", images=None, resume=True)
    assert [one.status for one in again.results] == ["resumed"]
    write(path, Layer("cells", {"1": {(0, 0, 0): CUBE}}))
    assert open_webknossos(path).cases[0].labels[0].file.paths == (str(path),)


# ---------------------------------------------------------------- skeletons

TREES = """
<thing id="3" name="axon" color.r="0" color.g="1" color.b="0" color.a="1" groupId="8">
  <nodes><node id="1" x="10" y="20" z="30"/><node id="2" x="11" y="20" z="30"/>
  <node id="5" x="200" y="20" z="70"/></nodes>
  <edges><edge source="1" target="2"/></edges></thing>
<thing id="7" name="dendrite"><nodes><node id="9" x="10" y="21" z="30"/><node id="11" x="10" y="20" z="30"/></nodes>
  <edges/></thing>
<comments><comment node="2" content="a, &quot;b&quot;"/></comments>
<branchpoints><branchpoint id="9" time="1"/></branchpoints>
<groups><group id="8" name="cells"/></groups>
"""


def test_nodes_are_labels_of_one_voxel(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nml", more=TREES)
    source = open_webknossos(path)
    assert [one.message for one in source.remarks] == [
        "case a: 1 nodes lie in the voxel of an earlier one, and are not among its labels"
    ]
    found = frames(source, tmp_path / "out", extra_columns=("LABEL", "CLASS"))
    axial = found[found["VIEW"] == "axial"].sort_values("LABEL")
    # region: the box around the nodes, which begins at (10, 20, 30); columns are y, rows x
    rows = axial[["LABEL", "CLASS", "COUNT", "CENTER_Y", "CENTER_X", "CENTER_Z"]].astype(object).to_numpy().tolist()
    # trees outside of groups come first, so node 1 of the axon lies in the voxel of an earlier one
    assert rows == [
        [1, "dendrite", 1, 0, 1, 0],
        [2, "dendrite", 1, 0, 0, 0],
        [4, "axon", 1, 1, 0, 0],
        [5, "axon", 1, 190, 0, 40],
    ]
    whole = source.cases[0].labels[0].file.read().data
    assert whole.shape == (191, 2, 41)
    assert {tuple(at): int(whole[tuple(at)]) for at in np.argwhere(whole).tolist()} == {
        (0, 1, 0): 1,
        (0, 0, 0): 2,
        (1, 0, 0): 4,
        (190, 0, 40): 5,
    }
    pd.testing.assert_frame_equal(
        found, frames(dense(source, [whole]), tmp_path / "dense", extra_columns=("LABEL", "CLASS"))
    )


def test_nodes_beside_voxels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", Layer("skeleton", {"1": {(0, 0, 0): CUBE}}, segment(1, "axon")), more=TREES)
    assert [volume.name for volume in open_webknossos(path).cases[0].labels] == ["skeleton"]
    source = open_webknossos(path, skeleton=True)
    assert [volume.name for volume in source.cases[0].labels] == ["skeleton", "skeleton_2"]
    assert source.cases[0].labels[0].file.header().grid.shape == (201, 32, 71)
    found = frames(source, tmp_path / "out", extraction_mode="volume")
    names = found[found["VIEW"] == "axial"]["CLASS"].value_counts().to_dict()
    assert {name: n for name, n in names.items() if n} == {"axon (1)": 1, f"axon ({2**32 + 3})": 2, "dendrite": 2}
    grouped = open_webknossos(path, skeleton=True, class_by="group", region=(0, 0, 0, 64, 64, 64))
    names = frames(grouped, tmp_path / "groups", extraction_mode="volume")["CLASS"].value_counts().to_dict()
    assert {name: n for name, n in names.items() if n} == {"cells": 3, "no group": 9}


def test_nodes_in_a_coarse_mag(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nml", more=TREES)
    file = open_webknossos(path, mag="2-2-1", region=(10, 20, 30, 4, 4, 2)).cases[0].labels[0].file
    assert {tuple(at) for at in np.argwhere(file.read().data).tolist()} == {(0, 0, 0)}


# ---------------------------------------------------------------- large, damaged, not there


def far_apart(folder: Path) -> Path:
    """Two objects in a box of 35,000 x 35,000 x 2,000 voxels: 9.8 TB; one of them reaches over four chunks."""
    chunks: Chunks = {
        (0, 0, 0): CUBE,
        (1090, 1090, 60): blob((7, np.s_[30:32, 31:32, 30:32])),
        (1091, 1090, 60): blob((7, np.s_[0:2, 31:32, 30:32])),
        (1090, 1091, 61): blob((7, np.s_[31:32, 0:1, 0:1])),
    }
    return write(folder / "a.zip", Layer("cells", {"1": chunks}))


def test_memory_does_not_depend_on_how_far_things_are_apart(tmp_path: Path) -> None:
    path = far_apart(tmp_path)
    voxtract.extract(classed(tmp_path / ".."), tmp_path / "warm", images=None, extraction_mode="volume")
    tracemalloc.start()
    source = open_webknossos(path)
    report = voxtract.extract(source, tmp_path / "out", VIEWS, images=None, extraction_mode="volume", progress=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert source.cases[0].labels[0].file.header().nbytes > 9 * 10**12
    assert not report.failed
    found = report.components
    axial = found[found["VIEW"] == "axial"]
    assert axial[["LABEL", "COUNT"]].to_numpy().tolist() == [[1, 64], [7, 9]]
    assert axial[["I_MIN", "J_MIN", "K_MIN"]].to_numpy().tolist() == [[0, 0, 0], [34910, 34911, 1950]]
    assert peak < 60e6, f"{peak / 1e6:.0f} MB"


def test_what_needs_the_whole_volume_is_refused(tmp_path: Path) -> None:
    source = open_webknossos(far_apart(tmp_path))
    file = source.cases[0].labels[0].file
    with pytest.raises(
        InvalidInput, match=r"the box of 34944 x 34944 x 1984 voxels has 9,690\.5 GB, too many to be held"
    ):
        file.read()
    with pytest.raises(InvalidInput, match=r"one plane has 4\.9 GB"):
        next(file.slabs(1))
    report = voxtract.extract(source, tmp_path / "out", images=None, reorient="LPS", progress=False)
    assert "needs about" in str(report.failed[0].error)


def test_a_chunk_that_does_not_decode(tmp_path: Path) -> None:
    good = write(tmp_path / "good.zip", Layer("cells", {"1": {(0, 0, 0): CUBE, (1, 0, 0): CUBE}}))
    members = zarr_members({"1": {(0, 0, 0): CUBE, (1, 0, 0): CUBE}})
    name = next(name for name in members if name.endswith("0.1.0.0"))
    members[name] = members[name][:16] + bytes(len(members[name]) - 16)
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        new.writestr("bad.nml", old.read("good.nml"))
        new.writestr("data_0.zip", zipped(members))
    file = open_webknossos(path).cases[0].labels[0].file
    assert file.header().grid.shape == (64, 32, 32)
    with pytest.raises(DamagedFile, match=r"data_0\.zip/volumeAnnotationData/1/0\.1\.0\.0"):
        file.read()
    report = voxtract.extract(path, tmp_path / "out", images=None, progress=False)
    assert "0.1.0.0" in str(report.failed[0].error)
    assert not list((tmp_path / "out").rglob("*.csv"))


def test_ids_that_no_class_can_have(tmp_path: Path) -> None:
    chunk = blob((1, np.s_[0:1, 0:1, 0:1]), dtype="u8")
    chunk[3, 3, 3] = 2**63 - 1
    path = write(tmp_path / "a.zip", Layer("v", {"1": {(0, 0, 0): chunk}}, dtype="uint64"))
    assert frames(open_webknossos(path), tmp_path / "a", extraction_mode="volume")["LABEL"].max() == 2**63 - 1
    chunk[4, 4, 4] = 2**63
    path = write(tmp_path / "b.zip", Layer("v", {"1": {(0, 0, 0): chunk}}, dtype="uint64"))
    report = voxtract.extract(path, tmp_path / "b", images=None, progress=False)
    assert f"has the segment id {2**63}, but ids up to 2**63 - 1 are counted" in str(report.failed[0].error)
    with pytest.raises(InvalidInput, match="segment id"):
        open_webknossos(path).cases[0].labels[0].file.read()


def test_an_annotation_that_changes_or_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", Layer("v", {"1": {(0, 0, 0): CUBE}}))
    file = open_webknossos(path).cases[0].labels[0].file
    write(path, Layer("v", {"1": {(0, 0, 0): CUBE, (1, 1, 1): CUBE}}))
    with pytest.raises(DamagedFile, match="has changed since it was loaded"):
        file.read()
    path.unlink()
    with pytest.raises(NotFound, match=r"a\.zip: no such file"):
        file.read()
    with pytest.raises(NotFound, match=r"a\.zip: no such file"):
        open_webknossos(path)


def test_a_file_is_a_value_and_read_by_many_threads(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", Layer("v", {"1": random_chunks(np.random.default_rng(1), [(0, 0, 0), (1, 0, 2)])}))
    file: Any = open_webknossos(path).cases[0].labels[0].file
    whole = file.read().data
    copy = pickle.loads(pickle.dumps(file))
    assert (copy, hash(copy)) == (file, hash(file))
    np.testing.assert_array_equal(copy.read().data, whole)
    assert whole.flags.f_contiguous
    with ThreadPoolExecutor(4) as pool:
        for volume in pool.map(lambda _: open_webknossos(path).cases[0].labels[0].file.read(), range(8)):
            np.testing.assert_array_equal(volume.data, whole)
        for rows in pool.map(lambda _: [start for row in file.layers() for start, _ in row], range(8)):
            assert rows == [(0, 0, 0), (32, 0, 64)]


# ---------------------------------------------------------------- recognised, from the command line


def test_what_is_recognised(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", Layer("v", {"1": {(0, 0, 0): CUBE}}))
    assert recognised(path) == "webknossos"
    assert recognised(write(tmp_path / "A.NML".lower(), more=TREES)) == "webknossos"
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("ct/ct.nii.gz", b"")
    assert recognised(tmp_path / "other.zip") == "supervisely"
    (tmp_path / "broken.zip").write_bytes(path.read_bytes()[:100])
    assert recognised(tmp_path / "broken.zip") == "supervisely"
    (tmp_path / "set").mkdir()
    (tmp_path / "set/datasource-properties.json").write_text("{}")
    assert recognised(tmp_path / "set") == "webknossos"
    with pytest.raises(
        InvalidInput, match=r"oops: not known to the reader of format 'webknossos'; allowed: class_by, "
    ):
        voxtract.open_source(path, oops=1)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = boxed(tmp_path)
    words = ["--set", "region=user", "--set", 'class_by="layer"']
    assert main(["inspect", str(path), *words]) == 0
    out = capsys.readouterr().out
    assert "volume layer 'cells', mag 1, voxels (64, 32, 96) to (68, 36, 100)" in out
    assert "holds no voxel" in out
    done = main(
        ["extract", str(path), str(tmp_path / "out"), "--images", "none", "--data-mode", "box", "--json", *words]
    )
    assert (done, json.loads(capsys.readouterr().out)["annotations"]) == (0, 4 + 2)
    table = (tmp_path / "out/my axons_soma/axial/my axons_soma_axial_000.csv").read_text()
    assert table == "X_MIN,Y_MIN,Z_MIN,X_MAX,Y_MAX,Z_MAX\n0,0,0,3,3,0\n"


def test_starting_the_command_does_not_import_it() -> None:
    code = (
        "import sys\nfrom voxtract.cli import main\nimport voxtract.conversion, voxtract.read\n"
        "print([name for name in sys.modules if name.startswith(('voxtract.webknossos', 'voxtract.read.webknossos'))])"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "[]"
