"""Labels, boxes and centers of any source as annotations, read back with ElementTree, zarr and our own reader."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import voxtract
from tests.conftest import WriteNifti
from tests.read.webknossos.made import Layer, blob, random_chunks, segment, write
from tests.test_labelling import CLASSES, InMemory, overlapping
from tests.webknossos.test_downsample import counted as most_frequent
from tests.webknossos.volumes import Chunks
from voxtract.cli import main
from voxtract.errors import InvalidInput
from voxtract.model import Case, LabelVolume, Source
from voxtract.read.webknossos import open_webknossos
from voxtract.segments import tables

pytest.importorskip("numcodecs", reason="numcodecs encodes volume layers")
zarr = pytest.importorskip("zarr", reason="zarr reads what was written")

NM = 1e-6


def in_memory(data: NDArray[Any], affine: NDArray[Any] | None = None, **words: Any) -> Source:
    file = InMemory(data, "memory", np.diag([4 * NM, 5 * NM, 35 * NM, 1]) if affine is None else affine)
    return Source("in memory", (Case("a", None, (LabelVolume(file, "cells", **words),)),), classes=CLASSES)


def converted(source: Source, folder: Path, **words: Any) -> Path:
    report = voxtract.convert(source, folder, "webknossos", progress=False, **words)
    assert not report.failed, report.failed[0].error
    (path,) = folder.iterdir()
    return path


def nml(path: Path) -> ET.Element:
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".nml"))
        return ET.fromstring(archive.read(name))


def by_zarr(path: Path, location: str, mag: str = "1") -> NDArray[Any]:
    """The array of one mag, as zarr reads it: from voxel 0 on."""
    with zipfile.ZipFile(path) as archive:
        inner = zipfile.ZipFile(io.BytesIO(archive.read(location)))
    prefix = f"volumeAnnotationData/{mag}/"
    make = zarr.core.buffer.default_buffer_prototype().buffer.from_bytes
    store = zarr.storage.MemoryStore(
        {name.removeprefix(prefix): make(inner.read(name)) for name in inner.namelist() if name.startswith(prefix)}
    )
    found: NDArray[Any] = np.asarray(zarr.open_array(store, mode="r")[0])
    return found


def test_what_is_written(tmp_path: Path) -> None:
    data = np.zeros((40, 34, 3), np.int16)
    data[1:4, 2:5, 0:2] = 1  # a lung, one of its two pieces
    data[30:36, 30:34, 2] = 1
    data[20, 20, 0] = 5  # a vessel
    data[5, 5, 1] = -7  # background
    path = converted(in_memory(data), tmp_path / "out", dataset_name="cortex", organization_id="lab")
    assert path.name == "a.zip"
    root = nml(path)
    experiment = root.find("parameters/experiment")
    scale = root.find("parameters/scale")
    assert experiment is not None
    assert scale is not None
    assert (experiment.get("name"), experiment.get("organization")) == ("cortex", "lab")
    assert [float(scale.get(axis) or 0) for axis in "xyz"] == pytest.approx([4, 5, 35])
    boxes = {
        box.get("name"): tuple(
            int(box.get(n) or 0) for n in ("topLeftX", "topLeftY", "topLeftZ", "width", "height", "depth")
        )
        for box in root.findall("parameters/userBoundingBox")
    }
    assert boxes == {
        "lung, left (1)": (1, 2, 0, 3, 3, 2),
        "vessel": (20, 20, 0, 1, 1, 1),
        "lung, left (2)": (30, 30, 2, 6, 4, 1),
    }
    assert sorted(box.get("id") or "" for box in root.findall("parameters/userBoundingBox")) == ["0", "1", "2"]
    trees = {
        tree.get("name"): {tuple(float(node.get(axis) or 0) for axis in "xyz") for node in tree.findall("nodes/node")}
        for tree in root.findall("thing")
    }
    assert trees == {"lung, left": {(2, 3, 0), (32, 32, 2)}, "vessel": {(20, 20, 0)}}
    assert float(root.findall("thing")[0].get("color.r") or 0) == pytest.approx(0x10 / 255)
    assert {c.get("content") for c in root.findall("comments/comment")} == set(boxes)
    (volume,) = root.findall("volume")
    assert (volume.get("name"), volume.get("format"), volume.get("largestSegmentId")) == ("cells", "zarr3", "5")
    segments = {s.get("id"): s for s in volume.findall("segments/segment")}
    assert {n: s.get("name") for n, s in segments.items()} == {"1": "lung, left", "5": "vessel"}
    for number, one in segments.items():
        anchor = tuple(int(one.get(f"anchorPosition{axis}") or 0) for axis in "XYZ")
        assert data[anchor] == int(number or 0)
    voxels = by_zarr(path, volume.get("location") or "")
    assert voxels.dtype == np.uint16
    np.testing.assert_array_equal(voxels[:40, :34, :3], np.maximum(data, 0))
    assert np.count_nonzero(voxels) == np.count_nonzero(data > 0)


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    data = np.zeros((40, 34, 3), np.uint8)
    data[1:4, 2:5, 0:2] = 1
    one, two = (converted(in_memory(data), tmp_path / name) for name in "ab")
    assert one.read_bytes() == two.read_bytes()


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    places=st.sets(st.tuples(st.integers(2, 4), st.integers(0, 1), st.integers(1, 2)), min_size=1, max_size=3),
    mag=st.sampled_from(["1", "2-2-1"]),
    cut=st.sampled_from([None, (70, 3, 20, 60, 40, 50)]),
)
def test_an_annotation_goes_back_to_where_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    places: set[tuple[int, int, int]],
    mag: str,
    cut: tuple[int, ...] | None,
) -> None:
    folder = tmp_path_factory.mktemp("back")
    chunks: Any = random_chunks(np.random.default_rng(seed), sorted(places))
    path = write(folder / "a.zip", Layer("cells", {mag: chunks}, segment(2, "axon", (1.0, 0.0, 0.0))))
    source = open_webknossos(path, region=cut)
    back = converted(source, folder / "out")
    one = tables(source)
    assume(len(one.components["SEGMENT"]) > 0)
    two = tables(open_webknossos(back))
    for name in ("segments", "components"):
        frames = [table.to_frames()[name].drop(columns=["NAME", "COLOR", "GROUP"]) for table in (one, two)]
        left, right = (frame[frame["VOXELS"] > 0].reset_index(drop=True) for frame in frames)
        # Boxes are floats beside a segment that is listed but has no voxels here.
        pd.testing.assert_frame_equal(left, right, check_dtype=False)
    named = dict(zip(two.segments["SEGMENT"].tolist(), two.segments["NAME"].tolist(), strict=True))
    assert all(text == ("axon" if n == 2 else f"segment_{n}") for n, text in named.items())
    again = open_webknossos(back).annotation
    assert again is not None
    assert (again.dataset_name, again.organization_id, again.voxel_size) == ("cortex", "lab", (4, 5, 35))
    boxes = [[*box.topleft, *(n - 1 for n in box.bottomright)] for box in again.user_bounding_boxes]
    columns = [one.components[f"{axis}_{end}"] for end in ("MIN", "MAX") for axis in "XYZ"]
    assert boxes == np.stack(columns, axis=1).tolist()
    centers = sorted(tuple(node.position) for tree in again.skeleton.flattened_trees() for node in tree.nodes)
    expected = np.rint(np.stack([one.components[axis] for axis in "XYZ"], axis=1)).astype(int)
    assert centers == sorted(map(tuple, expected.tolist()))


def test_coarser_mags(tmp_path: Path) -> None:
    data = np.kron(np.random.default_rng(3).integers(0, 3, (20, 9, 12)), np.ones((4, 4, 4), int)).astype(np.uint8)
    path = converted(in_memory(data), tmp_path / "out", mags=["4-4-2", "2-2-1"], boxes=False, centers=False)
    assert nml(path).find("parameters/userBoundingBox") is None
    assert nml(path).find("thing") is None
    padded = np.zeros((96, 64, 64), np.uint8)
    padded[:80, :36, :48] = data
    once = most_frequent(padded, (2, 2, 1))
    for mag, expected in (("1", padded), ("2-2-1", once), ("4-4-2", most_frequent(once, (2, 2, 2)))):
        found = by_zarr(path, "data_0_cells.zip", mag)
        whole = np.zeros_like(found)
        inside = tuple(map(slice, np.minimum(expected.shape, whole.shape)))
        whole[inside] = expected[inside]
        np.testing.assert_array_equal(found, whole)
    for mags, message in ((["3"], "mag '3' is none"), (["2-2-1", "4-1-1"], "cannot be computed from mag 2-2-1")):
        report = voxtract.convert(in_memory(data), tmp_path / mags[-1], "webknossos", mags=mags, progress=False)
        assert message in str(report.failed[0].error)


def test_several_volumes_and_objects_of_one_class(tmp_path: Path) -> None:
    lung, tumour = overlapping()
    case = Case("b", None, (lung, tumour))
    path = converted(Source("two", (case,), classes=CLASSES), tmp_path / "out", voxel_size=(100, 100, 300))
    root = nml(path)
    assert [v.get("name") for v in root.findall("volume")] == ["lung", "tumour"]
    for volume, layer in zip(root.findall("volume"), (lung, tumour), strict=True):
        data = layer.file.read().data
        found = by_zarr(path, volume.get("location") or "")
        np.testing.assert_array_equal(found[tuple(map(slice, data.shape))], data)
    first = root.findall("volume")[0]
    of_class = {s.get("name") for s in first.findall("segments/segment")}
    values = sorted(set(np.unique(lung.file.read().data).tolist()) - {0})
    assert of_class == ({f"lung, left {n}" for n in values} if len(values) > 1 else {"lung, left"})
    groups = {g.get("id"): g.get("name") for g in first.findall("groups/group")}
    assert set(groups.values()) == ({"lung, left"} if len(values) > 1 else set())
    (named,) = {tree.get("name") for tree in root.findall("thing")} - {"lung, left"}
    assert named == "tumour"


def test_where_a_volume_is_put(tmp_path: Path, write_nifti: WriteNifti) -> None:
    source = open_webknossos(
        write(tmp_path / "a.zip", Layer("v", {"2-2-1": {(1, 1, 1): blob((3, np.s_[2:6, 1:2, 0:2]))}}))
    )
    voxtract.convert(source, tmp_path / "pairs", "nifti")
    pairs = voxtract.open_source(labels=tmp_path / "pairs/labels")
    expected = {"X_MIN": 68, "X_MAX": 75, "Y_MIN": 66, "Z_MIN": 32, "VOXELS": 8 * 4}
    told: list[dict[str, Any]] = [
        {"offset": "affine", "mag": "2-2-1"},
        {"offset": [64, 64, 32], "mag": "2-2-1", "voxel_size": [4, 5, 35], "dataset_name": "cortex"},
    ]
    for n, words in enumerate(told):
        path = converted(pairs, tmp_path / str(n), **words)
        found = tables(open_webknossos(path)).segments
        assert {name: found[name].tolist() for name in expected} == {name: [n] for name, n in expected.items()}
    assert float(nml(path).find("parameters/scale").get("z")) == pytest.approx(35)  # type: ignore[union-attr, arg-type]
    report = voxtract.convert(pairs, tmp_path / "wrong", "webknossos", offset="affine", progress=False)
    assert "its affine says no place in a dataset" in str(report.failed[0].error)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"offset": [1, 2]}, r"offset \[1, 2\] must be x, y, z"),
        ({"offset": [1, 2, -3]}, "must be x, y, z in voxels of mag 1, not negative"),
        ({"offset": [1, 2, 3], "mag": "2-2-1"}, "multiples of mag 2-2-1"),
        ({"offset": "header"}, "offset 'header' must be 'affine'"),
        ({"voxel_size": [1, 2, 0]}, "voxel_size .* must be three finite numbers"),
        ({"mag": 3}, "mag 3 is none"),
    ],
)
def test_words_that_do_not_fit(tmp_path: Path, words: dict[str, Any], message: str) -> None:
    report = voxtract.convert(in_memory(np.ones((2, 2, 2), np.uint8)), tmp_path, "webknossos", progress=False, **words)
    with pytest.raises(InvalidInput, match=message):
        raise report.failed[0].error or AssertionError
    assert not list(tmp_path.rglob("*.zip"))


def test_labels_that_are_no_whole_numbers(tmp_path: Path) -> None:
    data = np.full((2, 2, 2), 2.5, np.float32)
    report = voxtract.convert(in_memory(data), tmp_path / "a", "webknossos", progress=False)
    assert report.failed
    path = converted(in_memory(data * 2), tmp_path / "b", boxes=False)
    assert by_zarr(path, "data_0_cells.zip").dtype == np.uint32
    report = voxtract.convert(in_memory(np.full((2, 2, 2), 9, np.uint8), category={1: 1}), tmp_path / "c", "webknossos")
    assert "label value 9 belongs to no class" in str(report.failed[0].error)


def test_nothing_labelled_is_a_layer_without_data(tmp_path: Path) -> None:
    path = converted(in_memory(np.zeros((2, 2, 2), np.uint8)), tmp_path / "out")
    (volume,) = nml(path).findall("volume")
    assert volume.get("location") is None
    report = voxtract.convert(
        Source("image", (Case("a", InMemory(np.zeros((2, 2, 2), np.uint8))),)), tmp_path / "none", "webknossos"
    )
    assert (report.exit_code, list((tmp_path / "none").iterdir())) == (0, [])


def test_far_apart_is_never_held(tmp_path: Path) -> None:
    chunks: Chunks = {(0, 0, 0): blob((1, np.s_[0:2, 0:2, 0:2])), (1000, 1000, 50): blob((1, np.s_[30:32, 5:6, 7:8]))}
    source = open_webknossos(write(tmp_path / "a.zip", Layer("cells", {"1": chunks})))
    path = converted(source, tmp_path / "out", memory_limit=200 << 20)
    found = tables(open_webknossos(path))
    assert found.components["X_MIN"].tolist() == [0, 32030]


def test_the_command(tmp_path: Path, write_nifti: WriteNifti, capsys: pytest.CaptureFixture[str]) -> None:
    data = np.zeros((8, 8, 4), np.uint8)
    data[2:4, 2:4, 1] = 3
    write_nifti(tmp_path / "in/a.nii.gz", data)
    command = ["convert", "--labels", str(tmp_path / "in"), str(tmp_path / "out"), "--to", "webknossos", "--json"]
    assert main([*command, "--with", "offset=[10,20,30]", "--with", "voxel_size=[4,4,35]"]) == 0
    capsys.readouterr()
    assert tables(voxtract.open_source(tmp_path / "out/a.zip")).segments["Z_MIN"].tolist() == [31]
    assert main([*command, "--overwrite", "--with", "find=1"]) == 2
    assert "find: not known for 'webknossos'; allowed: dataset_name, organization_id, offset" in capsys.readouterr().err
