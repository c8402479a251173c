"""The plain functions: every word of their contract, with pandas, PIL and tifffile as readers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

import voxtract
from tests.conftest import WriteNifti, stored
from voxtract.slices import (
    extract_annotations,
    extract_annotations_dataset,
    extract_slices,
    extract_slices_dataset,
)

# image[row, column] of slice k, spelled out without the package's own geometry
CUT = {
    "axial": lambda a, k: a[:, :, k],
    "coronal": lambda a, k: a[:, k, :],
    "sagittal": lambda a, k: a[k, :, :],
}
COUNT = {"axial": 2, "coronal": 1, "sagittal": 0}
VIEWS = ("axial", "coronal", "sagittal")


@pytest.fixture
def images(tmp_path: Path, write_nifti: WriteNifti) -> Path:
    rng = np.random.default_rng(1)
    for name, shape in (("b case.nii.gz", (7, 5, 4)), ("ä1.nii.gz", (6, 6, 3))):
        write_nifti(tmp_path / "in" / name, rng.integers(-900, 900, shape).astype(np.int16))
    return tmp_path / "in"


@pytest.fixture
def masks(tmp_path: Path, write_nifti: WriteNifti) -> Path:
    a = np.zeros((12, 10, 5), np.uint8)
    a[2:5, 3:8, 1:3] = 1
    a[9:11, 0:2, 1] = 2
    a[7, 9, 3] = 1
    write_nifti(tmp_path / "masks" / "lesions.nii.gz", a)
    write_nifti(tmp_path / "masks" / "void.nii.gz", np.zeros((12, 10, 5), np.uint8))
    return tmp_path / "masks"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("saving_mode", ["case", "view"])
def test_slices_lie_where_they_should_and_hold_the_voxels(
    images: Path, tmp_path: Path, view: Any, saving_mode: Any
) -> None:
    out = tmp_path / "out"
    extract_slices_dataset(str(images), str(out), view, saving_mode)
    made = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    expected = []
    for name in ("b case", "ä1"):
        volume = stored(images / f"{name}.nii.gz")
        for k in range(volume.shape[COUNT[view]]):
            folder = f"{name}/{view}" if saving_mode == "case" else view
            expected.append(f"{folder}/{name}_{view}_{k:03d}.tif")
            written = tifffile.imread(out / expected[-1])
            assert written.dtype == np.int16
            np.testing.assert_array_equal(written, CUT[view](volume, k))
            with Image.open(out / expected[-1]) as opened:
                np.testing.assert_array_equal(np.asarray(opened), CUT[view](volume, k))
    assert made == sorted(expected)


def test_padding_goes_around_and_the_odd_pixel_to_the_bottom_right(images: Path, tmp_path: Path) -> None:
    extract_slices_dataset(images, tmp_path / "out", "axial", target_size=(10, 8), pad_value=-7)
    written = tifffile.imread(tmp_path / "out/b case/axial/b case_axial_002.tif")
    expected = np.pad(stored(images / "b case.nii.gz")[:, :, 2], ((1, 2), (1, 2)), constant_values=-7)
    np.testing.assert_array_equal(written, expected)


@pytest.mark.parametrize("normalization", ["min-max", "z-score", "percentile", (40, 400)])
def test_normalization_is_accepted(images: Path, tmp_path: Path, normalization: Any) -> None:
    extract_slices_dataset(images, tmp_path / "out", normalization=normalization)
    volume = stored(images / "ä1.nii.gz").astype(np.float64)
    stack = np.stack([tifffile.imread(tmp_path / f"out/ä1/axial/ä1_axial_{k:03d}.tif") for k in range(3)], axis=2)
    low, high = {
        "min-max": (volume.min(), volume.max()),
        "percentile": tuple(np.percentile(volume, [0.5, 99.5])),
        (40, 400): (-160, 240),
    }.get(normalization, (0, 0))
    expected = (
        (volume - volume.mean()) / volume.std()
        if normalization == "z-score"
        else np.clip((volume - low) / (high - low), 0, 1)
    )
    assert stack.dtype == np.float32
    np.testing.assert_allclose(stack, expected, rtol=1e-6, atol=1e-6)


def test_stats_read_like_those_of_nidataset(images: Path, tmp_path: Path) -> None:
    extract_slices_dataset(images, tmp_path / "out", "coronal", save_stats=True)
    text = (tmp_path / "out/coronal_slices_stats.csv").read_text(encoding="utf-8")
    assert text == "FILENAME,NUM_SLICES,TOTAL_SLICES\nb case.nii.gz,5,\nä1.nii.gz,6,\nTOTAL_SLICES,11,11\n"
    stats = pd.read_csv(tmp_path / "out/coronal_slices_stats.csv")
    assert stats.iloc[-1]["TOTAL_SLICES"] == 11
    per_file = stats[stats["FILENAME"] != "TOTAL_SLICES"]
    assert dict(zip(per_file["FILENAME"], per_file["NUM_SLICES"], strict=True)) == {"b case.nii.gz": 5, "ä1.nii.gz": 6}
    assert per_file["TOTAL_SLICES"].isna().all()


def test_annotation_stats_count_rows(masks: Path, tmp_path: Path) -> None:
    extract_annotations_dataset(masks, tmp_path / "out", save_stats=True)
    text = (tmp_path / "out/axial_annotations_stats.csv").read_text()
    assert text == (
        "FILENAME,NUM_ANNOTATIONS,TOTAL_ANNOTATIONS\nlesions.nii.gz,4,\nvoid.nii.gz,0,\nTOTAL_ANNOTATIONS,4,4\n"
    )


def test_every_slice_gets_a_table_even_an_empty_one(masks: Path, tmp_path: Path) -> None:
    extract_annotations_dataset(masks, tmp_path / "out")
    made = sorted(p.name for p in (tmp_path / "out/lesions/axial").iterdir())
    assert made == [f"lesions_axial_{n}.csv" for n in range(5)]
    assert (tmp_path / "out/lesions/axial/lesions_axial_0.csv").read_text() == "X,Y,Z\n"
    assert (tmp_path / "out/lesions/axial/lesions_axial_1.csv").read_text() == "X,Y,Z\n5.0,3.0,1.0\n0.5,9.5,1.0\n"
    assert (tmp_path / "out/void/axial/void_axial_4.csv").read_text() == "X,Y,Z\n"


def test_empty_slices_can_be_left_out_and_indices_padded(masks: Path, tmp_path: Path) -> None:
    extract_annotations_dataset(masks, tmp_path / "out", saving_mode="view", skip_empty=True, index_width=3)
    made = sorted(p.name for p in (tmp_path / "out/axial").iterdir())
    assert made == ["lesions_axial_001.csv", "lesions_axial_002.csv", "lesions_axial_003.csv"]


@pytest.mark.parametrize("view", VIEWS)
def test_volume_mode_writes_one_table(masks: Path, tmp_path: Path, view: Any) -> None:
    extract_annotations_dataset(masks, tmp_path / "out", view, "view", "volume", "box", extra_columns=("LABEL", "AREA"))
    table = pd.read_csv(tmp_path / f"out/{view}/lesions.csv")
    assert list(table) == ["X_MIN", "Y_MIN", "Z_MIN", "X_MAX", "Y_MAX", "Z_MAX", "LABEL", "AREA"]
    volume = stored(masks / "lesions.nii.gz")
    row, column, index = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}[view]
    expected = set()
    for value in (1, 2):
        found, _ = ndimage.label(volume == value, np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(found), 1):
            low, high = [s.start for s in box], [s.stop - 1 for s in box]
            area = int((found == number).sum())
            expected.add((low[column], low[row], low[index], high[column], high[row], high[index], value, area))
    assert {tuple(map(int, r)) for r in table.itertuples(index=False)} == expected
    assert len((tmp_path / f"out/{view}/void.csv").read_text().splitlines()) == 1


def test_slice_rows_of_the_whole_volume_in_one_table(masks: Path, tmp_path: Path) -> None:
    extract_annotations_dataset(masks, tmp_path / "out", extraction_mode="volume", data_mode="box", components="slice")
    table = pd.read_csv(tmp_path / "out/lesions/axial/lesions.csv")
    assert table["Z_MIN"].tolist() == [1, 1, 2, 3]
    assert (table["Z_MIN"] == table["Z_MAX"]).all()


@pytest.mark.parametrize("view", VIEWS)
def test_the_pixel_under_a_center_is_the_voxel_of_the_component(masks: Path, tmp_path: Path, view: Any) -> None:
    """The invariant: image[Y, X] of the written image is the voxel that the row speaks of; padding included."""
    size = (17, 16)
    extract_slices_dataset(masks, tmp_path / "s", view, target_size=size)
    extract_annotations_dataset(
        masks, tmp_path / "a", view, data_mode="box", target_size=size, extra_columns=("LABEL", "AREA")
    )
    seen = 0
    for table_path in sorted((tmp_path / f"a/lesions/{view}").iterdir()):
        index = int(table_path.stem.rsplit("_", 1)[1])
        image = tifffile.imread(tmp_path / f"s/lesions/{view}/lesions_{view}_{index:03d}.tif")
        assert image.shape == size
        for r in pd.read_csv(table_path).itertuples(index=False):
            assert (image[r.Y_MIN : r.Y_MAX + 1, r.X_MIN : r.X_MAX + 1] == r.LABEL).sum() == r.AREA
            assert r.Z_MIN == r.Z_MAX == index
            seen += r.AREA
    assert seen == np.count_nonzero(stored(masks / "lesions.nii.gz"))


def test_radius_is_half_the_box(masks: Path, tmp_path: Path) -> None:
    extract_annotations_dataset(masks, tmp_path / "out", extraction_mode="volume", data_mode="radius")
    text = (tmp_path / "out/lesions/axial/lesions.csv").read_text()
    assert text.splitlines()[:2] == ["X,Y,Z,RADIUS_X,RADIUS_Y,RADIUS_Z", "5.0,3.0,1.5,2.0,1.0,0.5"]


@pytest.mark.parametrize("function", [extract_slices_dataset, extract_annotations_dataset])
def test_missing_and_empty_folders(function: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        function(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"\.nii\.gz"):
        function(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("function", "words", "allowed"),
    [
        (extract_slices_dataset, {"view": "frontal"}, "'coronal'"),
        (extract_slices_dataset, {"saving_mode": "flat"}, "'case', 'view'"),
        (extract_slices_dataset, {"normalization": "max"}, "'min-max'"),
        (extract_slices_dataset, {"dtype": "int7"}, "'uint8'"),
        (extract_slices_dataset, {"compression": "jpeg"}, "'zlib'"),
        (extract_annotations_dataset, {"view": "AXIAL"}, "'axial'"),
        (extract_annotations_dataset, {"extraction_mode": "both"}, "'slice', 'volume'"),
        (extract_annotations_dataset, {"data_mode": "centre"}, "'center'"),
        (extract_annotations_dataset, {"extra_columns": ("COLOR",)}, "LABEL"),
        (extract_annotations_dataset, {"connectivity": 3}, "1, 2"),
        (extract_annotations_dataset, {"components": "volume"}, "extraction_mode='volume'"),
    ],
)
def test_bad_words_are_value_errors_that_list_the_allowed_ones(
    masks: Path, tmp_path: Path, function: Any, words: dict[str, Any], allowed: str
) -> None:
    with pytest.raises(ValueError, match=allowed):
        function(masks, tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


def test_a_file_that_fails_is_named_and_the_rest_is_complete(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = (images / "b case.nii.gz").read_bytes()
    (images / "a broken.nii.gz").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.ERROR, "voxtract"):
        extract_slices_dataset(images, tmp_path / "out", save_stats=True)
    (record,) = caplog.records
    assert "a broken.nii.gz" in record.getMessage()
    assert not (tmp_path / "out/a broken").exists()
    assert len(list((tmp_path / "out").rglob("*.tif"))) == 4 + 3
    stats = pd.read_csv(tmp_path / "out/axial_slices_stats.csv")
    assert stats["FILENAME"].tolist() == ["b case.nii.gz", "ä1.nii.gz", "TOTAL_SLICES"]
    bar = capfd.readouterr().err
    assert "ä1.nii.gz" in bar  # the progress bar shows the file in hand
    assert "3/3" in bar


def test_a_slice_larger_than_its_target_skips_that_file_alone(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extract_slices_dataset(images, tmp_path / "out", target_size=(6, 6))
    (record,) = caplog.records
    assert all(part in record.getMessage() for part in ("b case.nii.gz", "7 x 5", "6 x 6"))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["ä1"]


def test_only_nii_gz_of_the_folder_itself(images: Path, tmp_path: Path, write_nifti: WriteNifti) -> None:
    write_nifti(images / "sub" / "c.nii.gz", np.zeros((2, 2, 2), np.uint8))
    write_nifti(images / "d.nii", np.zeros((2, 2, 2), np.uint8))
    extract_slices_dataset(images, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b case", "ä1"]


def test_one_file_returns_what_it_wrote(images: Path, masks: Path, tmp_path: Path) -> None:
    written = extract_slices(str(images / "ä1.nii.gz"), str(tmp_path / "s"), "sagittal")
    assert written == [str(tmp_path / "s" / f"ä1_sagittal_{k:03d}.tif") for k in range(6)]
    assert all(Path(p).is_file() for p in written)
    written = extract_annotations(masks / "lesions.nii.gz", tmp_path / "a", data_mode="box")
    assert written == [str(tmp_path / "a" / f"lesions_axial_{k}.csv") for k in range(5)]
    written = extract_annotations(masks / "lesions.nii.gz", tmp_path / "v", "coronal", "volume")
    assert written == [str(tmp_path / "v" / "lesions.csv")]


def test_one_file_raises(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"b case\.nii\.gz.*7 x 5.*3 x 3"):
        extract_slices(images / "b case.nii.gz", tmp_path / "out", target_size=(3, 3))
    with pytest.raises(FileNotFoundError, match="gone"):
        extract_annotations(images / "gone.nii.gz", tmp_path / "out")


def test_names_are_importable_from_the_package() -> None:
    assert voxtract.extract_slices_dataset is extract_slices_dataset
    assert voxtract.extract_annotations_dataset is extract_annotations_dataset
    assert voxtract.extract_slices is extract_slices
    assert voxtract.extract_annotations is extract_annotations
