"""Tables of segments, components and nodes, in global coordinates, against SciPy on the dense array."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

import voxtract
from tests.conftest import WriteNifti
from tests.read.webknossos.made import Layer, blob, random_chunks, segment, user_box, write
from tests.webknossos.volumes import Chunks, dense
from voxtract.cli import main
from voxtract.errors import InvalidInput
from voxtract.read.webknossos import open_webknossos
from voxtract.segments import COMPONENTS, NODES, SEGMENTS, tables

pytest.importorskip("numcodecs", reason="numcodecs decodes volume layers")

BOX = ["X_MIN", "Y_MIN", "Z_MIN", "X_MAX", "Y_MAX", "Z_MAX"]
NM = np.array([4.0, 5.0, 35.0])


def by_scipy(whole: NDArray[Any], start: NDArray[np.int64], reach: int) -> list[dict[str, Any]]:
    """Each component of each id, found one id at a time on the dense array."""
    found = []
    for value in np.unique(whole[whole > 0]).tolist():
        labels, count = ndimage.label(whole == value, ndimage.generate_binary_structure(3, reach))
        for number in range(1, count + 1):
            voxels = np.argwhere(labels == number)
            low, high = voxels.min(axis=0) + start, voxels.max(axis=0) + start
            row = {"SEGMENT": value, "VOXELS": len(voxels), **dict(zip(BOX, [*low, *high], strict=True))}
            mean = voxels.mean(axis=0) + start
            row |= dict(zip("XYZ", mean, strict=True)) | dict(zip(("X_NM", "Y_NM", "Z_NM"), mean * NM, strict=True))
            row |= dict(zip(("SIZE_X_NM", "SIZE_Y_NM", "SIZE_Z_NM"), (high - low + 1) * NM, strict=True))
            found.append({**row, "VOLUME_NM3": len(voxels) * NM.prod()})
    return found


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    places=st.sets(st.tuples(st.integers(3, 5), st.integers(0, 1), st.integers(7, 8)), min_size=1, max_size=4),
    reach=st.sampled_from([None, 1, 2]),
)
def test_components_are_joined_across_chunks(
    tmp_path_factory: pytest.TempPathFactory, seed: int, places: set[tuple[int, int, int]], reach: int | None
) -> None:
    chunks: Any = random_chunks(np.random.default_rng(seed), sorted(places))
    path = write(tmp_path_factory.mktemp("a") / "a.zip", Layer("cells", {"1": chunks}))
    corners = np.array(sorted(places)) * 32
    start = corners.min(axis=0)
    size = (corners.max(axis=0) + 32 - start).tolist()
    whole = dense(chunks, tuple(start.tolist()), tuple(size), "u4")
    found = tables(open_webknossos(path), connectivity=reach)
    expected = pd.DataFrame(by_scipy(whole, start, reach or 3))
    frames = found.to_frames()
    columns = list(expected.columns)
    order = ["SEGMENT", *BOX, "VOXELS"]
    mine = frames["components"][columns].sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(mine, expected.sort_values(order, ignore_index=True), check_dtype=False)
    segments = frames["segments"].set_index("SEGMENT")
    assert segments.index.tolist() == sorted(set(expected["SEGMENT"]))
    for value, rows in expected.groupby("SEGMENT"):
        one = segments.loc[value]
        voxels = np.argwhere(whole == value) + start
        assert (one["COMPONENTS"], one["VOXELS"]) == (len(rows), len(voxels))
        assert one[BOX].tolist() == [*voxels.min(axis=0), *voxels.max(axis=0)]
        np.testing.assert_allclose(one[["X", "Y", "Z"]].to_numpy(float), voxels.mean(axis=0))


def test_as_cc3d_finds_them(tmp_path: Path) -> None:
    cc3d = pytest.importorskip("cc3d", reason="cc3d is not installed")
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 1), (0, 0, 1)]
    chunks: Any = random_chunks(np.random.default_rng(8), places)
    path = write(tmp_path / "a.zip", Layer("cells", {"1": chunks}))
    whole = dense(chunks, (0, 0, 0), (64, 64, 64), "u4")
    statistics = cc3d.statistics(cc3d.connected_components(whole, connectivity=26))
    boxes = [[s.start for s in box] + [s.stop - 1 for s in box] for box in statistics["bounding_boxes"][1:]]
    theirs = sorted(zip(statistics["voxel_counts"][1:].tolist(), boxes, strict=True))
    found = tables(open_webknossos(path)).components
    mine = np.stack([found[name] for name in BOX], axis=1).tolist()
    assert sorted(zip(found["VOXELS"].tolist(), mine, strict=True)) == theirs


def test_a_coarse_mag_is_told_in_voxels_of_mag_1(tmp_path: Path) -> None:
    chunk = blob((6, np.s_[2:5, 1:2, 3:5]))
    path = write(tmp_path / "a.zip", Layer("cells", {"4-4-2": {(10, 0, 1): chunk}}))
    one = tables(open_webknossos(path)).to_frames()["segments"].iloc[0]
    # voxels 322..324 along x cover the voxels 1288..1299 of mag 1
    assert one[BOX].tolist() == [1288, 4, 70, 1299, 7, 73]
    assert one[["X", "Y", "Z"]].tolist() == [1293.5, 5.5, 71.5]
    assert one["VOXELS"] == 6 * 4 * 4 * 2
    assert one["VOLUME_NM3"] == 6 * 32 * NM.prod()


def test_names_groups_colors_and_what_is_only_listed(tmp_path: Path) -> None:
    listed = segment(2, "soma, left", (1.0, 0.0, 0.0), 4) + segment(77, "lost") + segment(5)
    groups = '<group id="4" name="cells"/>'
    chunk = blob((2, np.s_[0:2, 0:2, 0:1]), (9, np.s_[9:10, 9:10, 9:10]), (2, np.s_[20:21, 0:1, 0:1]))
    path = write(tmp_path / "a.zip", Layer("v", {"1": {(0, 0, 0): chunk}}, listed, groups), Layer("empty"))
    found = tables(open_webknossos(path, class_by="layer")).to_frames()
    segments = found["segments"]
    assert list(segments.columns) == list(SEGMENTS)
    assert list(found["components"].columns) == list(COMPONENTS)
    shown = segments[["CASE", "LAYER", "SEGMENT", "NAME", "GROUP", "COLOR", "COMPONENTS", "VOXELS"]].to_numpy().tolist()
    assert shown == [
        ["a", "v", 2, "soma, left", "cells", "#ff0000", 2, 5],
        ["a", "v", 5, "", "", "", 0, 0],
        ["a", "v", 9, "", "", "", 1, 1],
        ["a", "v", 77, "lost", "", "", 0, 0],
    ]
    assert segments.loc[[1, 3], [*BOX, "X", "Z_NM", "VOLUME_NM3"]].isna().all(axis=None)
    assert found["components"]["SEGMENT"].tolist() == [2, 2, 9]
    large = tables(open_webknossos(path), min_size=2)
    assert large.components["VOXELS"].tolist() == [4]
    assert large.segments["COMPONENTS"].tolist() == [1, 0, 0]


TREES = """
<thing id="3" name="axon" color.r="0" color.g="1" color.b="0" color.a="1" groupId="8"><nodes>
  <node id="1" x="10" y="20" z="30" radius="12.5"/><node id="2" x="11.6" y="20" z="30"/></nodes>
  <edges><edge source="1" target="2"/></edges></thing>
<thing id="7" name="dendrite"><nodes><node id="9" x="-1" y="21" z="30"/></nodes><edges/></thing>
<comments><comment node="2" content="a, &quot;b&quot;&#10;c"/></comments>
<branchpoints><branchpoint id="1"/></branchpoints>
<groups><group id="9" name="left"><group id="8" name="cells"/></group></groups>
"""


def test_nodes(tmp_path: Path) -> None:
    nodes = tables(open_webknossos(write(tmp_path / "a.nml", more=TREES))).to_frames()["nodes"]
    assert list(nodes.columns) == list(NODES)
    radius = nodes.pop("RADIUS_NM")
    assert radius.fillna(-1).tolist() == [-1, 12.5, -1]
    assert nodes.to_numpy().tolist() == [
        [7, "dendrite", "", "", 9, -1, 21, 30, -4.0, 105.0, 1050.0, 0, ""],
        [3, "axon", "left/cells", "#00ff00", 1, 10, 20, 30, 40.0, 100.0, 1050.0, 1, ""],
        [3, "axon", "left/cells", "#00ff00", 2, 12, 20, 30, 48.0, 100.0, 1050.0, 0, 'a, "b"\nc'],
    ]


def test_the_command_writes_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = user_box("one", (0, 0, 0), (3, 9, 9)) + user_box("two", (3, 0, 0), (4, 9, 9), 1)
    chunk = blob((2, np.s_[0:5, 0:2, 0:1]), (3, np.s_[6:7, 0:1, 0:1]))
    path = write(
        tmp_path / "a.zip", Layer("v", {"1": {(0, 0, 0): chunk}}, segment(2, "s")), parameters=boxes, more=TREES
    )
    command = ["convert", str(path), str(tmp_path / "out"), "--to", "tables", "--quiet"]
    assert main([*command, "--set", "region=user"]) == 0
    segments = pd.read_csv(tmp_path / "out/segments.csv")
    shown = segments[["CASE", "SEGMENT", "NAME", "VOXELS", "X_MIN", "X_MAX", "X"]].fillna("").to_numpy().tolist()
    assert shown == [["a_one", 2, "s", 6, 0, 2, 1.0], ["a_two", 2, "s", 4, 3, 4, 3.5], ["a_two", 3, "", 1, 6, 6, 6.0]]
    again = tables(open_webknossos(path, region="user")).to_frames()
    for name, frame in again.items():
        read = pd.read_csv(tmp_path / f"out/{name}.csv", keep_default_na=False, na_values={"RADIUS_NM": [""]})
        pd.testing.assert_frame_equal(read, frame, check_dtype=False)
    assert main(command) == 2
    assert "holds segments.csv, components.csv, nodes.csv already; pass overwrite=True" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--with", "min_size=6"]) == 0
    assert len(pd.read_csv(tmp_path / "out/components.csv")) == 1
    assert main([*command, "--overwrite", "--with", "oops=1"]) == 2
    assert "oops: not known for 'tables'; allowed: connectivity, min_size" in capsys.readouterr().err


def test_whole_volumes_have_tables_too(tmp_path: Path, write_nifti: WriteNifti) -> None:
    data = np.zeros((9, 8, 7), np.int16)
    data[1:3, 2:4, 3] = 4
    data[5, 5, 5] = 4
    write_nifti(tmp_path / "in/a.nii.gz", data, np.diag([0.5, 2.0, 3.0, 1]))
    source = voxtract.open_source(labels=tmp_path / "in")
    found = tables(source)
    assert found.components["X_MIN"].tolist() == [1, 5]
    assert found.segments["SIZE_X_NM"].tolist() == [5 * 0.5e6]
    assert found.nodes == {}
    report = voxtract.convert(source, tmp_path / "out", "tables")
    assert (report.exit_code, report.annotations) == (0, 2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["components.csv", "segments.csv"]


def test_a_case_that_cannot_be_read_is_named(tmp_path: Path, write_nifti: WriteNifti) -> None:
    write_nifti(tmp_path / "in/a.nii.gz", np.ones((3, 3, 3), np.uint8))
    write_nifti(tmp_path / "in/b.nii.gz", np.full((3, 3, 3), 0.5, np.float32))
    report = voxtract.convert(voxtract.open_source(labels=tmp_path / "in"), tmp_path / "out", "tables", progress=False)
    assert [one.status for one in report.results] == ["done", "failed"]
    assert "b.nii.gz" in str(report.failed[0].error)
    assert pd.read_csv(tmp_path / "out/segments.csv")["CASE"].tolist() == ["a"]
    with pytest.raises(InvalidInput, match=r"b\.nii\.gz"):
        tables(voxtract.open_source(labels=tmp_path / "in"))


def test_memory_of_tables_does_not_depend_on_the_extent(tmp_path: Path) -> None:
    chunk = blob((1, np.s_[0:4, 0:4, 0:4]))
    places: Chunks = {(n * 37, n * 29, n): chunk for n in range(40)}  # a box of 46,000 x 36,000 x 1,300 voxels: 8.6 TB
    path = write(tmp_path / "a.zip", Layer("cells", {"1": places}))
    tables(open_webknossos(write(tmp_path / "warm.zip", Layer("cells", {"1": {(0, 0, 0): chunk}}))))
    tracemalloc.start()
    found = tables(open_webknossos(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.segments["COMPONENTS"].tolist(), found.segments["VOXELS"].tolist()) == ([40], [40 * 64])
    assert peak < 20e6, f"{peak / 1e6:.0f} MB"
