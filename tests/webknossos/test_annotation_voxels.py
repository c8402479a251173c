"""Volume layers of annotations exported, copied, edited and merged."""

from __future__ import annotations

import copy
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.webknossos.annotations import SMALLEST, names
from tests.webknossos.volumes import Chunks, dense, labels, wkw_members, zarr_members, zipped
from voxtract.errors import InvalidInput, NotFound
from voxtract.webknossos import (
    AlreadyThere,
    Annotation,
    BoundingBox,
    Dataset,
    FormatError,
    Mag,
    NoSuchLayer,
    WrongUse,
)

pytest.importorskip("numcodecs", reason="numcodecs decodes volume layers")
pytest.importorskip("zarr", reason="zarr holds the layers of datasets")
pytest.importorskip("lz4.block", reason="lz4 decodes wkw")

CHUNKS: dict[str, Chunks] = {
    "1": {(0, 0, 0): labels(1), (2, 1, 0): labels(2), (1, 0, 3): np.zeros((32, 32, 32), "u4")},
    "2-2-1": {(1, 0, 0): labels(3)},
}
SIZE = (96, 64, 128)


def loaded(tmp_path: Path, data: bytes | None, attributes: str = "", more: str = "") -> Annotation:
    """An annotation of data set "seg-data" with one volume layer, and what else is asked for."""
    location = "" if data is None else 'location="data_0_cells.zip" '
    nml = SMALLEST.replace('name="d"', 'name="seg-data"').replace('x="1" y="1" z="1"', 'x="4" y="4" z="35"')
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("a+b.nml", nml.format(f'<volume id="0" name="cells" {location}{attributes}/>{more}'))
        if data is not None:
            made.writestr("data_0_cells.zip", data)
    return Annotation.load(tmp_path / "a.zip")


KINDS = {"zarr3": lambda: zipped(zarr_members(CHUNKS)), "wkw": lambda: zipped(wkw_members(CHUNKS))}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def annotation(kind: str, tmp_path: Path) -> Annotation:
    return loaded(tmp_path, KINDS[kind]())


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.create(tmp_path / "dataset", (4, 4, 35))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_voxels_are_opened(annotation: Annotation, kind: str) -> None:
    with annotation.get_volume_layer().open() as volume:
        assert volume.data_format == kind
        assert np.array_equal(volume.mags[Mag(1)].read((0, 0, 0), SIZE), dense(CHUNKS["1"], (0, 0, 0), SIZE, "u4"))


def test_export_copies_every_mag(annotation: Annotation, kind: str, dataset: Dataset) -> None:
    layer = annotation.export_volume_layer_to_dataset(dataset)
    assert [layer.name, str(layer.data_format), layer.category] == ["volume_layer", kind, "segmentation"]
    assert layer.dtype == np.dtype("uint32")
    assert layer.largest_segment_id == 2**32 - 1
    again = Dataset.open(dataset.path).get_layer("volume_layer")
    for mag, chunks in CHUNKS.items():
        size = Mag(mag).times(SIZE)
        read = again.get_mag(mag).read(absolute_offset=(0, 0, 0), size=size)
        assert np.array_equal(read[0], dense(chunks, (0, 0, 0), SIZE, "u4"))
    if kind == "wkw":
        assert again.bounding_box == BoundingBox((0, 0, 0), SIZE)


def test_the_largest_id_of_the_file_is_believed(tmp_path: Path, dataset: Dataset) -> None:
    annotation = loaded(tmp_path, KINDS["zarr3"](), 'largestSegmentId="77"')
    assert annotation.export_volume_layer_to_dataset(dataset, "x", "cells", 0).largest_segment_id == 77


def test_exports_that_are_refused_write_nothing(annotation: Annotation, dataset: Dataset) -> None:
    annotation.export_volume_layer_to_dataset(dataset, "taken")
    before = {name: (dataset.path / name).stat().st_mtime_ns for name in files(dataset.path)}
    empty = annotation.add_volume_layer("empty")
    cases: list[tuple[type[Exception], dict[str, Any]]] = [
        (AssertionError, {"layer_name": "taken", "volume_layer_name": "cells"}),
        (ValueError, {"layer_name": "a/b", "volume_layer_name": "cells"}),
        (ValueError, {"layer_name": ".a", "volume_layer_name": "cells"}),
        (AssertionError, {"layer_name": "new", "volume_layer_id": empty.id}),
        (AssertionError, {"layer_name": "new", "volume_layer_name": "none"}),
        (ValueError, {"layer_name": "new"}),
    ]
    for kind, words in cases:
        with pytest.raises(kind) as caught:
            annotation.export_volume_layer_to_dataset(dataset, **words)
        assert isinstance(caught.value, InvalidInput)
    assert {name: (dataset.path / name).stat().st_mtime_ns for name in files(dataset.path)} == before


def test_a_temporary_copy_cannot_be_changed(annotation: Annotation, scratch: Path) -> None:
    with annotation.temporary_volume_layer_copy() as layer:
        assert layer.get_finest_mag().read(absolute_offset=(0, 0, 0), size=SIZE).shape == (1, *SIZE)
        with pytest.raises(AssertionError, match="reading only"):
            layer.get_finest_mag().write(np.ones((32, 32, 32), "u4"), absolute_offset=(0, 0, 0))
        with pytest.raises(AssertionError, match="reading only"):
            layer.bounding_box = BoundingBox((0, 0, 0), (1, 1, 1))
        assert names(scratch)
    assert names(scratch) == []


def test_changes_of_a_temporary_copy_stay_there(annotation: Annotation, scratch: Path) -> None:
    before = annotation.get_volume_layer().data
    with annotation.temporary_volume_layer_copy("cells", 0, read_only=False) as layer:
        layer.get_finest_mag().write(np.full((32, 32, 32), 5, "u4"), absolute_offset=(0, 0, 0))
        assert (layer.get_finest_mag().read(absolute_offset=(0, 0, 0), size=(32, 32, 32)) == 5).all()
    assert annotation.get_volume_layer().data is before
    assert names(scratch) == []
    with pytest.raises(RuntimeError, match="mine"), annotation.temporary_volume_layer_copy():
        raise RuntimeError("mine")
    assert names(scratch) == []
    with pytest.raises(NoSuchLayer), annotation.temporary_volume_layer_copy("none"):
        pass


def test_layers_without_data_have_no_copy(tmp_path: Path) -> None:
    annotation = loaded(tmp_path, None)
    with (
        pytest.raises(AssertionError, match=r"volume layer 'cells' .id 0. has no data"),
        annotation.temporary_volume_layer_copy(),
    ):
        pass


def test_voxels_are_edited_and_saved(annotation: Annotation, tmp_path: Path, scratch: Path) -> None:
    layer = annotation.get_volume_layer()
    expected = dense(CHUNKS["1"], (0, 0, 0), SIZE, "u4")
    with layer.edit() as editable:
        editable.get_mag(1).write(np.full((10, 1, 1), 9, "u4"), absolute_offset=(60, 5, 7))
        editable.get_mag(1).write(np.zeros((32, 32, 32), "u4"), absolute_offset=(0, 0, 0))
    expected[60:70, 5, 7] = 9
    expected[:32, :32, :32] = 0
    assert copy.deepcopy(annotation) == annotation
    annotation.save(tmp_path / "b.zip")
    again = Annotation.load(tmp_path / "b.zip")
    assert again == annotation
    with again.get_volume_layer().open() as volume:
        assert volume.data_format == "zarr3"
        store = volume.mags[Mag(1)]
        assert np.array_equal(store.read((0, 0, 0), SIZE), expected)
        stored = {tuple(place) for place, _ in store.chunks()}
        assert {(0, 0, 0), (32, 0, 96)} <= stored  # zeros that somebody wrote hide the fallback
        assert np.array_equal(
            volume.mags[Mag("2-2-1")].read((0, 0, 0), SIZE), dense(CHUNKS["2-2-1"], (0, 0, 0), SIZE, "u4")
        )
    layer.data = None
    assert names(scratch) == []


def test_a_new_layer_is_written(tmp_path: Path) -> None:
    annotation = Annotation("a", dataset_name="d", voxel_size=(-1, -1, -1))
    layer = annotation.add_volume_layer("cells", "uint16")
    voxels = np.arange(40 * 33 * 5, dtype="u2").reshape(40, 33, 5)
    with layer.edit() as editable:
        editable.add_mag(1).write(voxels, absolute_offset=(100, 200, 300))
        editable.get_mag(1).write(np.zeros((32, 32, 32), "u2"), absolute_offset=(0, 0, 0))
    assert layer.largest_segment_id == voxels.max()
    annotation.save(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as made:
        assert sorted(made.namelist()) == ["a.nml", "data_0_cells.zip"]
        with zipfile.ZipFile(made.open("data_0_cells.zip")) as inner:
            assert {"volumeAnnotationData/1/c.0.3.6.9", "volumeAnnotationData/1/c.0.0.0.0"} <= set(inner.namelist())
    with Annotation.load(tmp_path / "a.zip").get_volume_layer().open() as volume:
        assert np.array_equal(volume.mags[Mag(1)].read((100, 200, 300), (40, 33, 5)), voxels)


def test_edits_that_fail_change_nothing(annotation: Annotation, scratch: Path) -> None:
    layer = annotation.get_volume_layer()
    before = layer.data

    def edit_and_fail() -> None:
        with layer.edit() as editable:
            editable.get_mag(1).write(np.ones((32, 32, 32), "u4"), absolute_offset=(0, 0, 0))
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        edit_and_fail()
    new = annotation.add_volume_layer("new", "uint8")
    for sizes in ({"chunk": (64, 64, 64)}, {"shard": (64, 64, 64)}):
        with pytest.raises(WrongUse, match="annotations have chunks of"), new.edit() as editable:
            editable.add_mag(1, **sizes)
    assert (layer.data, new.data) == (before, None)
    assert names(scratch) == []


def test_an_edit_that_writes_nothing_leaves_a_new_layer_without_data() -> None:
    annotation = Annotation("a", dataset_name="d", voxel_size=(1, 1, 1))
    layer = annotation.add_volume_layer("v")
    with layer.edit():
        pass
    assert layer.data is None


def test_damaged_voxels_are_told(tmp_path: Path, dataset: Dataset) -> None:
    members = zarr_members(CHUNKS)
    members["volumeAnnotationData/1/0.0.0.0"] = b"broken"
    annotation = loaded(tmp_path, zipped(members))
    with pytest.raises(InvalidInput, match=r"data_0_cells\.zip"), annotation.get_volume_layer().edit():
        pass
    with pytest.raises(InvalidInput, match=r"data_0_cells\.zip"):
        annotation.export_volume_layer_to_dataset(dataset)
    assert files(dataset.path) == ["datasource-properties.json"]
    (tmp_path / "a.zip").unlink()
    with pytest.raises(FileNotFoundError):
        annotation.export_volume_layer_to_dataset(dataset)


# Fallback layers


def fallback(tmp_path: Path, dtype: str = "uint32", mag: Any = 1) -> NDArray[Any]:
    """A data set "seg-data" with the layer "seg"; returns its voxels."""
    layer = Dataset.create(tmp_path / "sets" / "seg-data", (4, 4, 35)).add_layer(
        "seg", dtype=dtype, largest_segment_id=50
    )
    voxels = np.random.default_rng(3).integers(1, 50, (128, 96, 64)).astype(dtype)
    layer.add_mag(mag, shard=(64, 64, 64)).write(voxels, absolute_offset=(0, 0, 0))
    return voxels


def test_merging_writes_every_stored_chunk_over_the_fallback(tmp_path: Path, kind: str) -> None:
    voxels = fallback(tmp_path)
    annotation = loaded(tmp_path, KINDS[kind](), 'fallbackLayer="seg"')
    merged = annotation.merge_fallback_layer(tmp_path / "merged", tmp_path / "sets")
    layer = merged.get_layer("seg")
    expected = np.zeros((128, 96, 128), "u4")
    expected[:, :, :64] = voxels
    for (x, y, z), chunk in CHUNKS["1"].items():
        expected[32 * x : 32 * x + 32, 32 * y : 32 * y + 32, 32 * z : 32 * z + 32] = chunk
    read = layer.get_mag(1).read(absolute_offset=(0, 0, 0), size=(128, 96, 128))
    assert np.array_equal(read[0], expected)
    assert list(merged.layers) == ["seg"]
    assert layer.largest_segment_id == 2**32 - 1
    assert json.loads((tmp_path / "merged" / "datasource-properties.json").read_text())["id"]["name"] == "merged"


def test_merging_without_a_fallback_exports_the_layer(annotation: Annotation, kind: str, tmp_path: Path) -> None:
    merged = annotation.merge_fallback_layer(tmp_path / "merged", tmp_path / "nowhere", executor=object())  # type: ignore[arg-type]
    assert list(merged.layers) == ["volume_layer"]
    assert merged.get_layer("volume_layer").data_format == kind
    assert merged.voxel_size == (4, 4, 35)


@pytest.mark.parametrize("data", [None, lambda: zipped(zarr_members({"1": {}}))])
def test_merging_without_data_copies_the_fallback(tmp_path: Path, data: Any) -> None:
    voxels = fallback(tmp_path)
    annotation = loaded(tmp_path, data and data(), 'fallbackLayer="seg"')
    (tmp_path / "merged").mkdir()
    merged = annotation.merge_fallback_layer(str(tmp_path / "merged"), str(tmp_path / "sets"))
    read = merged.get_layer("seg").get_mag(1).read(absolute_offset=(0, 0, 0), size=(128, 96, 64))
    assert np.array_equal(read[0], voxels)


def test_merging_one_of_several_layers(tmp_path: Path) -> None:
    annotation = loaded(tmp_path, KINDS["zarr3"](), more='<volume id="1" name="other" fallbackLayer="seg"/>')
    assert list(annotation.merge_fallback_layer(tmp_path / "merged", tmp_path, "cells").layers) == ["volume_layer"]
    for name in (None, "none"):
        with pytest.raises(AssertionError):
            annotation.merge_fallback_layer(tmp_path / "other", tmp_path, name)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ("target", RuntimeError, "is there already and not empty"),
        ("target file", RuntimeError, "is there already and not empty"),
        ("dtype", AssertionError, "uint16"),
        ("mag", AssertionError, "mag"),
        ("layer", AssertionError, "no layer 'gone'"),
        ("dataset", FileNotFoundError, "seg-data"),
        ("no data, no fallback", AssertionError, "has no data"),
        ("chunk", ValueError, "data_0_cells.zip"),
    ],
)
def test_merges_that_are_refused_leave_nothing_behind(
    tmp_path: Path, change: str, kind: type[Exception], message: str
) -> None:
    if change != "dataset":
        fallback(tmp_path, "uint16" if change == "dtype" else "uint32", 2 if change == "mag" else 1)
    members = zarr_members(CHUNKS)
    if change == "chunk":
        members["volumeAnnotationData/1/0.2.1.0"] = b"broken"
    data = None if change == "no data, no fallback" else zipped(members)
    name = {"layer": 'fallbackLayer="gone"', "no data, no fallback": ""}.get(change, 'fallbackLayer="seg"')
    annotation = loaded(tmp_path, data, name)
    target = tmp_path / "merged"
    if change == "target":
        (target / "x").mkdir(parents=True)
    if change == "target file":
        target.write_text("x")
    before = files(tmp_path)
    with pytest.raises(kind, match=message):
        annotation.merge_fallback_layer(target, tmp_path / "sets")
    assert files(tmp_path) == before


def test_a_target_that_is_there_is_told_whatever_is_merged(tmp_path: Path) -> None:
    fallback(tmp_path)
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "x").touch()
    for data, attributes in [(KINDS["wkw"](), ""), (None, 'fallbackLayer="seg"')]:
        with pytest.raises(AlreadyThere, match="choose another folder"):
            loaded(tmp_path, data, attributes).merge_fallback_layer(tmp_path / "merged", tmp_path / "sets")
    assert issubclass(NotFound, FileNotFoundError)
    assert issubclass(FormatError, RuntimeError)
