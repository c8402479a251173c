"""Recorded annotations through the whole way: what is known of them is what the tables and the runs say."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import voxtract
from tests.webknossos.test_samples import ARRAYS, RECORDED
from tests.webknossos.test_samples import L4 as SPARSE
from tests.webknossos.test_samples import L4_DENSE as DENSE
from tests.webknossos.volumes import SAMPLES
from voxtract.geometry import View
from voxtract.read.webknossos import AnnotationSource, open_webknossos
from voxtract.segments import tables

pytest.importorskip("numcodecs", reason="numcodecs decodes zarr chunks")
pytest.importorskip("lz4.block", reason="lz4 decodes wkw chunks")
pytestmark = pytest.mark.real

VIEWS: tuple[View, ...] = ("axial", "coronal", "sagittal")


def opened(name: str, **words: object) -> AnnotationSource:
    if not SAMPLES.is_dir():
        pytest.skip(f"the recorded annotations are not here: {SAMPLES}")
    return open_webknossos(SAMPLES / name, **words)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [SPARSE, RECORDED])
def test_one_segment_on_one_slice(name: str) -> None:
    found = tables(opened(name)).segments
    facts = {n: found[n].tolist() for n in ("SEGMENT", "COMPONENTS", "VOXELS", "X_MIN", "Y_MIN", "Z_MIN")}
    assert facts == {
        "SEGMENT": [1],
        "COMPONENTS": [1],
        "VOXELS": [64576],
        "X_MIN": [3316],
        "Y_MIN": [3420],
        "Z_MIN": [1024],
    }
    assert [found[n].tolist() for n in ("X_MAX", "Y_MAX", "Z_MAX")] == [[3983], [3783], [1024]]
    np.testing.assert_allclose([found[axis][0] for axis in "XYZ"], [3635.1075, 3584.4871, 1024], atol=5e-5)
    np.testing.assert_allclose([found[f"{axis}_NM"][0] for axis in "XYZ"], [40858.608, 40289.635, 28672], atol=5e-3)


def test_123_segments() -> None:
    both = tables(opened(DENSE))
    found = both.to_frames()["segments"].set_index("SEGMENT")
    assert (len(found), found.index.max(), found["VOXELS"].sum()) == (123, 2504698, 3080192)
    low, high = found[["X_MIN", "Y_MIN", "Z_MIN"]].min(), found[["X_MAX", "Y_MAX", "Z_MAX"]].max()
    assert (low.tolist(), (high + 1).tolist()) == ([2656, 4160, 1792], [3040, 4480, 1824])
    one = found.loc[355]
    assert (one["VOXELS"], one["COMPONENTS"]) == (483018, 3)
    assert one[["X_MIN", "Y_MIN", "Z_MIN", "X_MAX", "Y_MAX", "Z_MAX"]].tolist() == [2684, 4215, 1792, 3039, 4479, 1823]
    np.testing.assert_allclose(one[["X", "Y", "Z"]].to_numpy(float), [2866.34, 4355.03, 1809.13], atol=5e-3)
    assert (both.components["SEGMENT"] == 355).sum() == 3


def test_components_of_123_segments_as_scipy_finds_them() -> None:
    source = opened(DENSE)
    whole = source.cases[0].labels[0].file.read().data
    start = np.array([2656, 4160, 1792])
    assert whole[tuple(np.array([2830, 4356, 1792]) - start)] == 2504698
    values, numbers = np.unique(whole, return_inverse=True)
    numbers = numbers.reshape(whole.shape)  # 0 is background
    assert values[0] == 0
    expected = []
    for value, box in zip(values[1:].tolist(), ndimage.find_objects(numbers), strict=True):
        labels, _ = ndimage.label(whole[box] == value, np.ones((3, 3, 3)))
        sizes = np.bincount(labels.ravel())[1:].tolist()
        for part, size in zip(ndimage.find_objects(labels), sizes, strict=True):
            low = [a.start + b.start + int(s) for a, b, s in zip(box, part, start, strict=True)]
            expected.append((value, size, *low))
    found = tables(source).components
    columns = (found[n].tolist() for n in ("SEGMENT", "VOXELS", "X_MIN", "Y_MIN", "Z_MIN"))
    assert sorted(zip(*columns, strict=True)) == sorted(expected)


@pytest.mark.parametrize(("name", "mag"), ARRAYS)
def test_the_voxels(name: str, mag: str) -> None:
    start, shape, digest = ARRAYS[name, mag]
    file = opened(name, mag=mag).cases[0].labels[0].file
    assert (file.place.box.start, file.place.shape) == (start, shape)  # type: ignore[attr-defined]
    assert hashlib.sha256(np.ascontiguousarray(file.read().data).tobytes()).hexdigest() == digest
    slabs = np.concatenate(list(file.slabs(5)), axis=2)
    assert hashlib.sha256(np.ascontiguousarray(slabs).tobytes()).hexdigest() == digest


@pytest.mark.parametrize("name", [SPARSE, DENSE, RECORDED])
def test_a_run_says_the_same(tmp_path: Path, name: str) -> None:
    source = opened(name)
    report = voxtract.extract(source, tmp_path, VIEWS, images=None, extraction_mode="volume", progress=False)
    found, expected = report.components, tables(source).components
    start = source.cases[0].labels[0].file.place.box.start  # type: ignore[attr-defined]
    for view in VIEWS:
        rows = found[found["VIEW"] == view]
        low = (rows[f"{axis}_MIN"] + n for axis, n in zip("IJK", start, strict=True))
        mine = zip(rows["LABEL"], rows["COUNT"], *low, strict=True)
        columns = (expected[n].tolist() for n in ("SEGMENT", "VOXELS", "X_MIN", "Y_MIN", "Z_MIN"))
        assert sorted(mine) == sorted(zip(*columns, strict=True))


def test_a_small_annotation_of_a_huge_box_stays_small() -> None:
    tables(opened(RECORDED))
    tracemalloc.start()
    found = tables(opened(SPARSE)).segments
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["VOXELS"].tolist() == [64576]
    assert peak < 20e6, f"{peak / 1e6:.0f} MB"


def test_back_and_read_again(tmp_path: Path) -> None:
    source = opened(DENSE, region="tight")
    voxtract.convert(source, tmp_path, "webknossos", mags=["2-2-1"], progress=False)
    (path,) = tmp_path.iterdir()
    again = open_webknossos(path)
    for one, two in zip(tables(source).to_frames().values(), tables(again).to_frames().values(), strict=True):
        if "VOXELS" in one:
            assert one.drop(columns=["NAME", "COLOR"]).equals(two.drop(columns=["NAME", "COLOR"]))
    assert again.annotation is not None
    assert len(again.annotation.user_bounding_boxes) == 163
    assert again.annotation.skeleton.get_total_node_count() == 163


def test_what_has_no_voxels() -> None:
    nodes = tables(opened("nml_with_small_distance_nodes.nml")).to_frames()["nodes"]
    assert (len(nodes), sorted(set(nodes["TREE"])), int(nodes["BRANCHPOINT"].sum())) == (22, [1, 2, 3], 3)
    groups = tables(opened("generated_annotation_snapshot.nml")).to_frames()["nodes"]
    assert sorted(set(groups["GROUP"])) == ["", "Example Group"]
    with pytest.raises(voxtract.InvalidInput, match="shows the fallback layer 'segmentation' there"):
        opened("bounding-boxes-example.zip")
