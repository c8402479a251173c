"""Arrays as zarr-python reads them, and their metadata against the words of OME-Zarr 0.5."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.write.written import contents, noise, view_of, write
from voxtract.errors import InvalidInput, OutputError
from voxtract.geometry import VIEWS, View
from voxtract.write import image_writer
from voxtract.write.files import Staging
from voxtract.write.images import ImageWriter


def arrays(compression: str | None = None) -> ImageWriter:
    return image_writer("zarr", compression, sample_format="tiff", shard_size=1, class_map=None)


DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_index_z_y_x_is_pixel_y_x_of_slice_z(tmp_path: Path, dtype: str, compression: str | None) -> None:
    found = view_of((9, 7, 5), "coronal", target=(11, 8), suffix=".zarr")
    images = noise(found, dtype)
    names = write(tmp_path, arrays(compression), found, images)
    assert names == ["case/coronal/case_coronal.zarr/zarr.json"]
    array = zarr.open_group(tmp_path / found.store, mode="r")["0"]
    assert isinstance(array, zarr.Array)
    assert (array.shape, array.chunks, array.dtype) == ((7, 11, 8), (1, 11, 8), np.dtype(dtype))
    np.testing.assert_array_equal(np.asarray(array[:]), images)
    np.testing.assert_array_equal(np.asarray(array[3, 2:9, 1]), images[3, 2:9, 1])


@pytest.mark.parametrize("view", VIEWS)
def test_metadata_say_what_ome_zarr_asks_for(tmp_path: Path, view: View) -> None:
    found = view_of((9, 7, 5), view, suffix=".zarr")
    write(tmp_path, arrays(), found, noise(found, np.int16))
    group = zarr.open_group(tmp_path / found.store, mode="r")
    assert group.metadata.zarr_format == 3
    ome: Any = group.attrs["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert image["name"] == f"case_{view}"
    assert [axis["name"] for axis in image["axes"]] == ["z", "y", "x"]
    assert all((axis["type"], axis["unit"]) == ("space", "millimeter") for axis in image["axes"])
    (level,) = image["datasets"]
    (scale,) = level["coordinateTransformations"]
    array = group[level["path"]]
    assert isinstance(array, zarr.Array)
    assert array.metadata.to_dict()["dimension_names"] == ("z", "y", "x")
    x, y, z = 0.5, 0.75, 2.0  # of the volume
    assert scale["type"] == "scale"
    assert scale["scale"] == {"axial": [z, x, y], "coronal": [y, x, z], "sagittal": [x, y, z]}[view]
    assert group.attrs["voxtract"] == {
        "case": "case",
        "view": view,
        "split": None,
        "slices": list(range(found.plane.count)),
        "pad": [0, 0],
        "affine": np.diag([0.5, 0.75, 2.0, 1.0]).tolist(),
    }


@pytest.mark.parametrize("spacing", [0.0, np.nan, np.inf])
def test_a_spacing_that_is_none_is_told_without_a_unit(tmp_path: Path, spacing: float) -> None:
    found = view_of((4, 3, 2), suffix=".zarr", affine=np.diag([1.0, spacing, 2.0, 1.0]))
    write(tmp_path, arrays(), found, noise(found, np.uint8))
    for path in tmp_path.rglob("zarr.json"):
        assert not {"NaN", "Infinity"} & set(path.read_text().replace('"', " ").replace(",", " ").split())
    ome: Any = zarr.open_group(tmp_path / found.store, mode="r").attrs["ome"]
    (image,) = ome["multiscales"]
    assert image["datasets"][0]["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    assert not any("unit" in axis for axis in image["axes"])


@pytest.mark.parametrize(
    ("dtype", "pad"),
    [("u1", 7), ("i2", -1024), ("f4", -1.5), ("f4", np.nan), ("f4", -np.inf), ("f8", np.inf), ("u8", 3)],
)
def test_slices_that_were_not_chosen_read_as_padding(tmp_path: Path, dtype: str, pad: float) -> None:
    found = view_of((4, 3, 6), slices=[1, 4], suffix=".zarr")
    images = noise(found, dtype)
    write(tmp_path, arrays(), found, images, pad_value=pad)
    array: Any = zarr.open_group(tmp_path / found.store, mode="r")["0"]
    np.testing.assert_array_equal(array[[1, 4]], images[[1, 4]])
    np.testing.assert_array_equal(array[[0, 2, 3, 5]], np.full((4, 4, 3), pad, dtype))
    assert len(list((tmp_path / found.store / "0/c").iterdir())) == 2


@given(seed=st.integers(0, 10**6), compression=st.sampled_from([None, "zstd"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
def test_bytes_do_not_depend_on_who_came_first(tmp_path: Path, seed: int, compression: str | None) -> None:
    found = view_of((6, 5, 9), slices=[0, 1, 4, 5, 6, 8], suffix=".zarr")
    images = noise(found, np.uint8)
    order = found.slices.tolist()
    random.Random(seed).shuffle(order)
    write(tmp_path / "a", arrays(compression), found, images)
    write(tmp_path / "b", arrays(compression), found, images, order=order)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_an_array_appears_whole_and_replaces_the_one_before(tmp_path: Path) -> None:
    found = view_of((4, 3, 6), suffix=".zarr")
    images = noise(found, np.int16)
    write(tmp_path, arrays(), found, images)
    fewer = view_of((4, 3, 6), slices=[2], suffix=".zarr")
    with Staging(tmp_path) as staging, staging.batch() as batch:
        begun = arrays().begin(fewer, images.dtype, 0, batch)
        begun.write(2, images[0])
        old: Any = zarr.open_group(tmp_path / found.store, mode="r")["0"]
        np.testing.assert_array_equal(old[:], images)
        begun.finish()
    new: Any = zarr.open_group(tmp_path / found.store, mode="r")["0"]
    np.testing.assert_array_equal(new[2], images[0])
    assert not np.asarray(new[[0, 1, 3, 4, 5]]).any()
    assert not list(tmp_path.glob(".voxtract-staging-*"))


def test_what_fails_in_between_leaves_what_was_there(tmp_path: Path) -> None:
    found = view_of((4, 3, 6), suffix=".zarr")
    images = noise(found, np.int16)
    write(tmp_path, arrays(), found, images)
    before = contents(tmp_path)

    def interrupted(staging: Staging) -> None:
        with staging.batch() as batch:
            arrays().begin(found, images.dtype, 0, batch).write(0, images[1])
            raise KeyboardInterrupt

    with Staging(tmp_path) as staging:
        with pytest.raises(KeyboardInterrupt):
            interrupted(staging)
        (stage,) = tmp_path.glob(".voxtract-staging-*")
        assert list(stage.iterdir()) == []
    assert contents(tmp_path) == before


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    found = view_of((4, 3, 2), suffix=".zarr")
    (tmp_path / "case/axial").mkdir(parents=True)
    (tmp_path / found.store).write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"case_axial\.zarr: cannot be written: a file is in the way of a folder"):
        write(tmp_path, arrays(), found, noise(found, np.uint8))
    assert contents(tmp_path) == {found.store: b"mine"}


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_other_compressions_are_refused(compression: str) -> None:
    with pytest.raises(
        InvalidInput, match=rf"compression '{compression}' is not known for zarr; allowed: None, 'zstd'"
    ):
        arrays(compression)


def test_a_codec_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxtract.write.zarr.find_spec", lambda _: None)
    with pytest.raises(InvalidInput, match=r"pip install 'voxtract\[zstd\]'"):
        arrays("zstd")
    assert arrays().suffix == ".zarr"


def test_files_are_few_and_plain(tmp_path: Path) -> None:
    found = view_of((4, 3, 2), suffix=".zarr")
    images = noise(found, np.int16)
    write(tmp_path, arrays(), found, images)
    files = contents(tmp_path / found.store)
    assert sorted(files) == ["0/c/0/0/0", "0/c/1/0/0", "0/zarr.json", "zarr.json"]
    assert files["0/c/1/0/0"] == images[1].tobytes()
    assert json.loads(files["0/zarr.json"])["fill_value"] == 0
