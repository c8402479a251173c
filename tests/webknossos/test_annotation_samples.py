"""Recorded annotations: every fact survives, and the voxels are the ones that others found."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.webknossos.annotations import facts
from tests.webknossos.volumes import SAMPLES
from voxtract.webknossos import Annotation, BoundingBox, Dataset, Mag, SegmentInformation, Skeleton

pytestmark = pytest.mark.real
NAMES = [
    "bounding-boxes-example.zip",
    "l4_sample__explorational__suser__94b271.zip",
    "l4dense_motta_et_al_demo_v2__explorational__4a6356.zip",
    "recorded_download_api12_skipvolume.zip",
    "recorded_download_api12_zarr3.zip",
    "generated_annotation_snapshot.nml",
    "handmade_full_features.nml",
    "nml_with_small_distance_nodes.nml",
    "nml_with_volumes.nml",
]
L4 = "l4_sample__explorational__suser__94b271.zip"
L4_DENSE = "l4dense_motta_et_al_demo_v2__explorational__4a6356.zip"
WITH_VOXELS = {L4, L4_DENSE, "recorded_download_api12_zarr3.zip"}
TOLD = {
    "bounding-boxes-example.zip": ["'data_Volume.zip', where its voxels are to be, has no entries"],
    "generated_annotation_snapshot.nml": ["has the offset"],
    "nml_with_small_distance_nodes.nml": ["has the offset"],
    "handmade_full_features.nml": ["volume layer 'Volume Layer' .id 0. has no data"],
}


@pytest.fixture(params=NAMES)
def sample(request: pytest.FixtureRequest) -> Path:
    path = SAMPLES / str(request.param)
    if not path.is_file():
        pytest.skip(f"the recorded annotations are not here: {SAMPLES}")
    return path


def load(path: Path) -> Annotation:
    """Load a file that should be told about as `TOLD` says."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        annotation = Annotation.load(path)
    expected = TOLD.get(path.name, [])
    assert len(told) == len(expected)
    for one, words in zip(told, expected, strict=True):
        assert words.replace(".", "") in str(one.message).replace("(", "").replace(")", "").replace(".", "")
    return annotation


def nml_of(path: Path) -> str:
    if path.suffix == ".nml":
        return path.read_text(encoding="utf-8")
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".nml"))
        return archive.read(name).decode()


def test_every_fact_survives_loading_and_saving(sample: Path, tmp_path: Path) -> None:
    annotation = load(sample)
    annotation.save(tmp_path / "saved.zip")
    lost = facts(nml_of(sample)) - facts(nml_of(tmp_path / "saved.zip"))
    allowed = {"location"} if sample.name not in WITH_VOXELS else set()
    if sample.name == "handmade_full_features.nml":  # old spellings, said in the present ones
        allowed |= {"comment", "groupId", "colorr", "colorg", "colorb", "colora"}
    assert {fact[1] for fact in lost} - {"interpolation"} <= allowed
    assert {fact for fact in lost if fact[1] == "interpolation" and fact[2] not in ("True", "False")} == set()


def test_what_is_saved_is_loaded(sample: Path, tmp_path: Path) -> None:
    annotation = load(sample)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*has the offset")
        annotation.save(tmp_path / "a.zip")
        again = Annotation.load(tmp_path / "a.zip")
        assert again == annotation
        again.save(tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    annotation.skeleton.save(tmp_path / "c.nml")
    assert Skeleton.load(tmp_path / "c.nml") == annotation.skeleton


@pytest.mark.parametrize("name", sorted(WITH_VOXELS))
def test_inner_zips_keep_their_bytes(name: str, tmp_path: Path) -> None:
    if not SAMPLES.is_dir():
        pytest.skip(f"the recorded annotations are not here: {SAMPLES}")
    load(SAMPLES / name).save(tmp_path / "a.zip")
    with zipfile.ZipFile(SAMPLES / name) as before, zipfile.ZipFile(tmp_path / "a.zip") as after:
        assert before.read("data_Volume.zip") == after.read("data_Volume.zip")


def open_sample(name: str) -> Annotation:
    if not SAMPLES.is_dir():
        pytest.skip(f"the recorded annotations are not here: {SAMPLES}")
    return load(SAMPLES / name)


def test_boxes_of_a_server() -> None:
    annotation = open_sample("bounding-boxes-example.zip")
    first, second = annotation.user_bounding_boxes
    assert first == BoundingBox((2371, 4063, 1676), (891, 579, 232))
    assert (first.name, first.is_visible, first.id) == ("Bounding box 1", True, 1)
    assert first.color == (0.1764705926179886, 0.4470588266849518, 0.054901961237192154, 1.0)
    assert (second.topleft, second.is_visible) == ((371, 4063, 1676), False)
    (layer,) = annotation.volume_layers
    assert (layer.data, layer.fallback_layer) == (None, "segmentation")
    assert (annotation.owner_name, annotation.annotation_id) == ("Philipp", "622b4661010000300122ec24")


def test_trees_of_an_old_python_writer() -> None:
    skeleton = open_sample("nml_with_small_distance_nodes.nml").skeleton
    trees = list(skeleton.flattened_trees())
    assert len(trees) == 3
    assert skeleton.get_total_node_count() == 22
    assert sum(len(tree.edges) for tree in trees) == 18
    node = skeleton.get_node_by_id(1)
    assert (node.position, node.radius, node.rotation) == ((1, 1, 4), 2.0, (0.2, 0.2, 0.2))
    assert (node.interpolation, node.bitDepth, node.inMag, node.inVp) == (True, 8, 1, 0)


def test_segments_of_a_layer_without_data() -> None:
    annotation = open_sample("nml_with_volumes.nml")
    assert list(annotation.get_volume_layer_names()) == ["segmentation"]
    assert annotation.get_volume_layer_segments() == {
        2504698: SegmentInformation("test_segment", (3581, 3585, 1024), created=1666187488227)
    }


@pytest.mark.parametrize(
    ("name", "start", "shape", "digest", "kind"),
    [
        (
            L4,
            (3296, 3392, 1024),
            (704, 416, 32),
            "16df9f6e7ce7f0554a714b95c41e87d75857e5337c20b16f4caef7e5a4ba6451",
            "zarr3",
        ),
        (
            L4_DENSE,
            (2656, 4160, 1792),
            (384, 320, 32),
            "a80863a88e973dac485d43dbf811b8dfbe4922d25772ae59ecceb6347548b4d3",
            "wkw",
        ),
    ],
)
def test_exported_voxels(
    name: str, start: tuple[int, int, int], shape: tuple[int, int, int], digest: str, kind: str, tmp_path: Path
) -> None:
    for package in ("numcodecs", "zarr", "lz4.block"):
        pytest.importorskip(package, reason=f"{package} holds and decodes voxels")
    annotation = open_sample(name)
    dataset = Dataset.create(tmp_path / "dataset", annotation.voxel_size)
    layer = annotation.export_volume_layer_to_dataset(dataset)
    assert layer.data_format == kind
    voxels = layer.get_mag(1).read(absolute_offset=start, size=shape)[0]
    assert hashlib.sha256(np.ascontiguousarray(voxels).tobytes()).hexdigest() == digest
    with annotation.temporary_volume_layer_copy() as copy:
        assert np.array_equal(copy.get_mag(1).read(absolute_offset=start, size=shape)[0], voxels)
        assert sorted(copy.mags) == sorted(layer.mags)
    assert Mag(1) in layer.mags
