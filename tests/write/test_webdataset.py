"""Shards as webdataset, tarfile and tar read them."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import tarfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.write.annotated import ALL, Annotated, annotate, annotated, around, box_voxels
from tests.write.written import contents, noise, view_of, write
from voxtract.classes import ClassMap
from voxtract.compute.components import find_components
from voxtract.errors import InvalidInput
from voxtract.model import Findings
from voxtract.write import image_format, image_writer
from voxtract.write.files import Staging
from voxtract.write.images import ImageWriter
from voxtract.write.webdataset import Samples, WebDataset, _header

LARGE = 10**9


def shards(size: int = LARGE, *, images: str = "tiff", compression: str | None = None) -> ImageWriter:
    return image_writer("webdataset", compression, sample_format=images, shard_size=size, class_map=None)


def samples(root: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Every sample, as webdataset hands them out undecoded."""
    tars = [str(root / name) for name in names if name.endswith(".tar")]
    if not tars:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves files open
        return list(webdataset.WebDataset(tars, shardshuffle=False))


def told(sample: dict[str, Any]) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    value: dict[str, Any] = json.loads(sample["json"], parse_constant=refuse)
    return value


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
def test_every_slice_is_a_sample(tmp_path: Path, dtype: str, compression: str | None) -> None:
    found = view_of((9, 7, 5), "coronal", target=(11, 8), suffix=".tar")
    images = noise(found, dtype)
    names = write(tmp_path, shards(compression=compression), found, images)
    assert names == ["case/coronal/case_coronal_000.tar", ".voxtract/shards/case_coronal"]
    read = samples(tmp_path, names)
    assert [sample["__key__"] for sample in read] == [f"case_coronal_{k:03d}" for k in range(7)]
    for k, sample in enumerate(read):
        image = tifffile.imread(io.BytesIO(sample["tif"]))
        assert image.dtype == dtype
        np.testing.assert_array_equal(image, images[k])
        assert told(sample) == {
            "case": "case",
            "view": "coronal",
            "split": None,
            "labelled": False,
            "size": [11, 8],
            "pad": [1, 1],
            "spacing_mm": [0.5, 2.0],
            "slice_spacing_mm": 0.75,
            "affine": np.diag([0.5, 0.75, 2.0, 1.0]).tolist(),
            "slice": k,
            **{name: [] for name in ("boxes", "centers", "labels", "categories", "classes", "areas")},
        }


def test_webdataset_decodes_png_and_json_itself(tmp_path: Path) -> None:
    found = view_of((6, 5, 3), suffix=".tar")
    images = noise(found, np.uint8)
    write(tmp_path, shards(images="png"), found, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        shard = webdataset.WebDataset(str(tmp_path / found.name(0)), shardshuffle=False)
        read = list(shard.decode("l8").to_tuple("png", "json"))
    assert [sample["slice"] for _, sample in read] == [0, 1, 2]
    np.testing.assert_array_equal([image for image, _ in read], images)


def test_a_file_of_the_archive_is_the_file_that_images_tiff_would_write(tmp_path: Path) -> None:
    found = view_of((6, 5, 3), suffix=".tar")
    images = noise(found, np.int16)
    (sample, *_) = samples(tmp_path, write(tmp_path, shards(), found, images))
    parts = image_format("tiff").encode(images[0], found.plane.pixel_spacing_mm(found.grid.spacing_mm))
    assert sample["tif"] == b"".join(map(bytes, parts))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=annotated(), classes=st.sampled_from([None, ALL]))
def test_boxes_are_those_of_the_components(tmp_path: Path, case: Annotated, classes: ClassMap | None) -> None:
    root = tmp_path / os.urandom(4).hex()
    found = replace(case.found, suffix=".tar", stem="data/case_")
    writer = WebDataset(image_format("tiff"), LARGE, classes)
    read = samples(root, write(root, writer, found, noise(found, np.uint8)))
    assert [told(sample)["slice"] for sample in read] == found.slices.tolist()
    for sample in read:
        rows = told(sample)
        truth = case.in_slice(rows["slice"])
        assert len(rows["boxes"]) == len(truth)
        for number, (label, voxels) in enumerate(truth):
            assert rows["labels"][number] == label
            assert box_voxels(case, rows["slice"], rows["boxes"][number]) == around(voxels)
            assert rows["areas"][number] == len(voxels)
            name = f"label_{label}" if classes is None else {1: "liver", 2: 'a "b" & <c>'}.get(label, "all the rest")
            assert rows["classes"][number] == name
            left, top, right, bottom = rows["boxes"][number]
            assert rows["centers"][number] == [(left + right) / 2, (top + bottom) / 2]
    shutil.rmtree(root)


def test_centers_are_those_of_the_mass_where_it_is_known() -> None:
    labels = np.zeros((6, 8, 2), np.uint8)
    labels[1, 1:5, 0] = 1
    labels[2:4, 1, 0] = 1  # an L
    case = annotate(labels, target=(10, 12))
    found = replace(case.found, rows=find_components(labels, "axial", mass=True))
    at = np.argwhere(labels[:, :, 0])
    ((x, y),) = json.loads(Samples(found, None).text(0))["centers"]
    assert (y - 2, x - 2) == pytest.approx(tuple(at.mean(axis=0)))


def test_objects_and_scores_are_told_where_the_source_has_them() -> None:
    labels = np.zeros((6, 8, 2), np.uint8)
    labels[0, 0, 0], labels[2, 2, 0], labels[4, 4, 1] = 1, 2, 1
    found = annotate(labels).found
    assert not {"objects", "scores"} & json.loads(Samples(found, None).text(0)).keys()
    scored = replace(found, rows=replace(found.rows, score=np.array([0.25, np.nan, 1])), objects=({1: "uuid-a"},))
    first, second = (json.loads(Samples(scored, None).text(k)) for k in (0, 1))
    assert (first["objects"], first["scores"]) == (["uuid-a", None], [0.25, None])
    assert (second["objects"], second["scores"]) == (["uuid-a"], [1.0])


@pytest.mark.parametrize("size", [1, 3000, 5000, 9000, LARGE])
def test_shards_are_as_large_as_they_may_be_and_no_larger(tmp_path: Path, size: int) -> None:
    found = view_of((8, 9, 11), slices=[0, 2, 3, 4, 6, 7, 9, 10], suffix=".tar")
    images = noise(found, np.int16)
    names = write(tmp_path, shards(size), found, images)
    tars = [tmp_path / name for name in names[:-1]]
    assert tars == sorted(tmp_path.rglob("*.tar"))
    counts = []
    for tar in tars:
        with tarfile.open(tar) as opened:
            counts.append(len(opened.getnames()) // 2)
        assert tar.stat().st_size <= size or counts[-1] == 1
    sizes = [tar.stat().st_size for tar in tars]
    assert sum(counts) == len(found.slices)
    one = max(sizes) // max(counts)
    if size > 2 * one:
        assert all(count == counts[0] for count in counts[:-1]), "each is filled before the next begins"
    assert [s["__key__"] for s in samples(tmp_path, names)] == [f"case_axial_{k:03d}" for k in found.slices]


@given(seed=st.integers(0, 10**6), size=st.sampled_from([1, 4000, LARGE]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_bytes_do_not_depend_on_who_came_first(tmp_path: Path, seed: int, size: int) -> None:
    found = view_of((6, 5, 9), slices=[0, 1, 4, 5, 6, 8], suffix=".tar")
    images = noise(found, np.uint8)
    order = found.slices.tolist()
    random.Random(seed).shuffle(order)
    for name, one in (("a", None), ("b", order)):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        write(tmp_path / name, shards(size, compression="zlib"), found, images, order=one)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_many_threads_write_the_same_bytes(tmp_path: Path) -> None:
    found = view_of((16, 16, 200), suffix=".tar")
    images = noise(found, np.int16)
    write(tmp_path / "a", shards(20_000), found, images)
    with Staging(tmp_path / "b") as staging, staging.batch() as batch, ThreadPoolExecutor(8) as pool:
        begun = shards(20_000).begin(found, images.dtype, 0, batch)
        list(pool.map(lambda k: begun.write(k, images[k]), range(200)))
        begun.finish()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_archives_hold_neither_times_nor_owners(tmp_path: Path) -> None:
    found = view_of((6, 5, 3), suffix=".tar")
    names = write(tmp_path, shards(), found, noise(found, np.uint8))
    with tarfile.open(tmp_path / names[0]) as opened:
        for member in opened:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            assert (member.mode, member.type, member.pax_headers) == (0o644, tarfile.REGTYPE, {})
            assert member.offset % 512 == 0


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar command here")
def test_the_tar_command_reads_them(tmp_path: Path) -> None:
    found = view_of((6, 5, 3), case="c" * 120, suffix=".tar")
    names = write(tmp_path, shards(), found, noise(found, np.uint8))
    listed = subprocess.run(["tar", "-tf", tmp_path / names[0]], check=True, capture_output=True, text=True)
    assert listed.stdout.splitlines() == [
        f"{'c' * 120}_axial_{k:03d}.{end}" for k in range(3) for end in ("tif", "json")
    ]
    assert listed.stderr == ""


CASES = [
    "a.b",
    "1.2.840.113619.2",
    "50%",
    "%2E",
    "a%2Eb",
    "Größe 日本",
    "__meta__",
    "c" * 120,
    "ü" * 80,
    "caf\udce9",
    ".x",
]


def test_names_end_where_readers_end_them_and_stay_apart(tmp_path: Path) -> None:
    names: list[str] = []
    for case in CASES:
        found = view_of((4, 3, 2), case=case, suffix=".tar")
        names += write(tmp_path, shards(), found, noise(found, np.uint8))
    read = samples(tmp_path, names)
    assert [told(sample)["case"] for sample in read] == [case for case in CASES for _ in range(2)]
    assert all(set(sample) >= {"tif", "json"} for sample in read)
    keys = [sample["__key__"] for sample in read]
    assert len(set(keys)) == len(keys)
    assert keys[:3] == ["a%2Eb_axial_000", "a%2Eb_axial_001", "1%2E2%2E840%2E113619%2E2_axial_000"]


@given(
    name=st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=120).filter(
        lambda name: not name.endswith("/")
    ),
    nbytes=st.integers(0, 2**36),
)
def test_headers_are_those_of_tarfile(name: str, nbytes: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = nbytes
    assert _header(name, nbytes) == member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def test_what_no_header_told_is_null(tmp_path: Path) -> None:
    found = view_of((4, 3, 2), suffix=".tar", affine=np.diag([np.nan, 1.0, np.inf, 1.0]))
    (sample, _) = samples(tmp_path, write(tmp_path, shards(), found, noise(found, np.uint8)))
    assert told(sample)["spacing_mm"] == [None, 1.0]
    assert told(sample)["slice_spacing_mm"] is None
    assert told(sample)["affine"][0][0] is None


def test_no_slice_no_shard(tmp_path: Path) -> None:
    found = view_of((4, 3, 2), slices=[], suffix=".tar")
    assert write(tmp_path, shards(), found, np.zeros((2, 4, 3), np.uint8)) == [".voxtract/shards/case_axial"]
    assert not list(tmp_path.rglob("*.tar"))


def test_what_cannot_be_said_is_refused(tmp_path: Path) -> None:
    labels = np.full((3, 3, 3), 7, np.uint8)
    found: Findings = replace(annotate(labels).found, suffix=".tar")
    image: NDArray[Any] = np.zeros((3, 3, 3), np.uint8)
    with pytest.raises(InvalidInput, match="7"):
        write(tmp_path, WebDataset(image_format("tiff"), LARGE, ClassMap.of({1: "liver"})), found, image)
    with pytest.raises(InvalidInput, match="components were found in the volume"):
        write(tmp_path, shards(), replace(found, extent="volume"), image)
    with pytest.raises(InvalidInput, match="sample_format 'zarr' is not known; allowed: 'tiff', 'png'"):
        shards(images="zarr")
    with pytest.raises(InvalidInput, match="does not go with PNG"):
        shards(images="png", compression="zstd")
    with pytest.raises(InvalidInput, match="PNG holds uint8 or uint16"):
        write(tmp_path, shards(images="png"), found, image.astype(np.int16))
    assert contents(tmp_path) == {}


def test_sixteen_bit_png(tmp_path: Path) -> None:
    found = view_of((6, 5, 2), suffix=".tar")
    images = noise(found, np.uint16)
    for k, sample in enumerate(samples(tmp_path, write(tmp_path, shards(images="png"), found, images))):
        with Image.open(io.BytesIO(sample["png"])) as opened:
            np.testing.assert_array_equal(np.asarray(opened), images[k])
