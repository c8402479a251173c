"""DICOM wherever NIfTI is taken: the same results as the same volume saved as NIfTI, pairs of both, the commands."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import voxtract
from tests.read.dicom.series import OBLIQUE, affine_of, enhanced, save, voxels, write_series
from voxtract.cli import main
from voxtract.errors import InvalidInput, NotFound
from voxtract.geometry import VIEWS
from voxtract.read import open_plain

SHAPE = (9, 8, 6)
SLOPE, INTERCEPT = "2", "-1024"


def masks() -> NDArray[np.uint8]:
    found = np.zeros(SHAPE, np.uint8)
    found[1:4, 2:5, 1:4] = 1
    found[6:8, 5:7, 3:6] = 2
    return found


def write_nifti(path: Path, stored: NDArray[Any], affine: NDArray[Any], slope: float = 1, inter: float = 0) -> Path:
    """Stored numbers with a scaling; nibabel would choose others, so its two fields are set in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytearray(nib.Nifti1Image(stored, affine).to_bytes())
    content[112:120] = struct.pack("<2f", slope, inter)
    path.write_bytes(gzip.compress(bytes(content)))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """``dicom`` (a series), ``nifti`` (the same volume) and ``labels`` (masks on it), a case ``ct`` in each."""
    stored, affine = voxels(SHAPE) // 40, affine_of(OBLIQUE)
    words: dict[str, Any] = {"RescaleSlope": SLOPE, "RescaleIntercept": INTERCEPT, "SliceThickness": "2"}
    write_series(tmp_path / "dicom" / "ct", stored, affine, **words)
    write_nifti(tmp_path / "nifti" / "ct.nii.gz", stored, affine, float(SLOPE), float(INTERCEPT))
    nib.save(nib.Nifti1Image(masks(), affine), _made(tmp_path / "labels") / "ct.nii.gz")
    return tmp_path


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def files(folder: Path, end: str) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob(f"*{end}"))}


@pytest.mark.parametrize("form", ["series", "tree", "one file"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reorient": "RAS", "target_size": (12, 12), "normalization": (40, 400)},
        {"spacing": (0.8, 1.1, 1.7), "dtype": "int16"},
    ],
    ids=["as it is", "turned and windowed", "resampled"],
)
def test_the_results_are_those_of_the_volume_saved_as_nifti(folders: Path, form: str, options: dict[str, Any]) -> None:
    """Pixels and tables; TIFF files differ in the resolution tag, as NIfTI has its affine in 32 bits only."""
    dicom = {"series": folders / "dicom" / "ct", "tree": folders / "dicom"}.get(form, folders / "many" / "ct.dcm")
    if form == "one file":
        words: Any = {"RescaleSlope": SLOPE, "RescaleIntercept": INTERCEPT}
        save(enhanced(voxels(SHAPE) // 40, affine_of(OBLIQUE), **words), dicom)
    words = {"views": VIEWS, "data_mode": "box", "extra_columns": ("LABEL", "AREA"), "progress": False, **options}
    out = {}
    for name, image in (("dicom", dicom), ("nifti", folders / "nifti")):
        source = voxtract.open_source(image=image, labels=folders / "labels")
        report = voxtract.extract(source, folders / f"out-{name}", **words)
        assert (report.exit_code, [one.id for one in report.results]) == (0, ["ct"])
        out[name] = folders / f"out-{name}"
    tables = files(out["dicom"], ".csv")
    assert list(tables) == list(files(out["nifti"], ".csv"))
    for name, path in tables.items():
        assert path.read_bytes() == (out["nifti"] / name).read_bytes(), name
    assert sum(len(path.read_text().splitlines()) - 1 for path in tables.values()) > 8
    images = files(out["dicom"], ".tif")
    assert list(images) == list(files(out["nifti"], ".tif"))
    for name, path in images.items():
        one, other = tifffile.imread(path), tifffile.imread(out["nifti"] / name)
        assert one.dtype == other.dtype
        if "spacing" in options:  # positions between voxels differ by what 32 bits leave of the affine
            np.testing.assert_allclose(one, other, atol=1)
        else:
            np.testing.assert_array_equal(one, other)


def test_where_the_affine_fits_32_bits_the_files_are_the_same_bytes(tmp_path: Path) -> None:
    stored, affine = voxels(SHAPE), affine_of()
    write_series(tmp_path / "dicom" / "ct", stored, affine)
    write_nifti(tmp_path / "nifti" / "ct.nii.gz", stored, affine)
    for name in ("dicom", "nifti"):
        voxtract.extract(tmp_path / name, tmp_path / f"out-{name}", views=VIEWS, progress=False)
    one, other = (files(tmp_path / f"out-{name}", ".tif") for name in ("dicom", "nifti"))
    assert len(one) == sum(SHAPE)
    assert {name: path.read_bytes() for name, path in one.items()} == {n: p.read_bytes() for n, p in other.items()}


def test_images_of_one_kind_and_labels_of_the_other_are_pairs(folders: Path) -> None:
    source = voxtract.open_source(image=folders / "dicom", labels=folders / "labels")
    (case,) = source.cases
    assert case.image is not None
    assert (case.id, Path(case.image.where).name) == ("ct", "ct")
    np.testing.assert_array_equal(case.labels[0].file.read().data, masks())
    assert voxtract.open_source(folders / "dicom", labels=folders / "labels").cases[0].id == "ct"


def test_pairs_are_by_name_where_there_are_several(folders: Path) -> None:
    write_series(folders / "dicom" / "other", voxels(SHAPE), affine_of(OBLIQUE), SeriesInstanceUID="1.2.3.4")
    write_series(folders / "dicom" / "lonely", voxels(SHAPE), affine_of(OBLIQUE), SeriesInstanceUID="1.2.3.5")
    nib.save(nib.Nifti1Image(masks(), affine_of(OBLIQUE)), folders / "labels" / "other_seg.nii.gz")
    nib.save(nib.Nifti1Image(masks(), affine_of(OBLIQUE)), folders / "labels" / "nobody.nii.gz")
    source = voxtract.open_source(image=folders / "dicom", labels=folders / "labels")
    assert [case.id for case in source.cases] == ["ct", "other"]
    assert sorted(skip.reason for skip in source.skipped) == [
        "no image for case 'nobody'",
        "no labels for case 'lonely'",
    ]
    nothing = _made(folders / "else")
    nib.save(nib.Nifti1Image(masks(), affine_of(OBLIQUE)), nothing / "x.nii.gz")
    nib.save(nib.Nifti1Image(masks(), affine_of(OBLIQUE)), nothing / "y.nii.gz")
    with pytest.raises(InvalidInput, match="no image belongs to any labels; there are cases ct"):
        voxtract.open_source(image=folders / "dicom", labels=nothing)


def test_labels_on_another_grid_are_refused_case_by_case(folders: Path) -> None:
    nib.save(nib.Nifti1Image(masks(), affine_of()), folders / "labels" / "ct.nii.gz")
    report = voxtract.extract(
        voxtract.open_source(image=folders / "dicom", labels=folders / "labels"), folders / "out", progress=False
    )
    assert "affine" in str(report.failed[0].error)


def test_a_seg_with_a_nifti_image(folders: Path) -> None:
    pytest.importorskip("highdicom", reason="writes the segmentation")
    from tests.read.dicom.test_segments import write_seg

    write_seg(_made(folders / "seg") / "ct.dcm", folders / "dicom" / "ct", (masks() == 1)[..., None], names=("liver",))
    source = voxtract.open_source(image=folders / "nifti", labels=folders / "seg")
    (case,) = source.cases
    assert source.classes is not None
    assert [category.name for category in source.classes.categories] == ["liver"]
    mine = case.labels[0].file.read()
    first = int(np.flatnonzero((masks() == 1).any(axis=(0, 1)))[0])
    assert mine.header.grid.shape[:2] == SHAPE[:2]
    assert (mine.data > 0).sum() == (masks() == 1).sum()
    assert first == 1  # a SEG of its own reaches from its first frame to its last, so grids differ: see below
    report = voxtract.extract(source, folders / "out", progress=False)
    assert "shape" in str(report.failed[0].error)
    pair = voxtract.open_source(image=folders / "dicom", labels=folders / "seg")
    np.testing.assert_array_equal(pair.cases[0].labels[0].file.read().data, masks() == 1)


@pytest.mark.parametrize("form", ["series", "tree", "one file", "one slice"])
def test_slices_of_dicom(folders: Path, form: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = {
        "series": folders / "dicom" / "ct",
        "tree": folders / "dicom",
        "one slice": folders / "dicom" / "ct" / "IM0001.dcm",
    }.get(form, folders / "many" / "ct.dcm")
    if form == "one file":
        save(enhanced(voxels(SHAPE) // 40, affine_of(OBLIQUE)), path)
    name = "IM0001" if form == "one slice" else "ct"
    assert main(["slices", str(path), str(folders / "out"), "--save-stats"]) == 0
    written = files(folders / "out", ".tif")
    count = 1 if form == "one slice" else SHAPE[2]
    assert list(written) == [f"{name}/axial/{name}_axial_{k:03d}.tif" for k in range(count)]
    (case,) = open_plain(path, "image").cases
    assert case.image is not None
    volume = case.image.read()
    for k, image in enumerate(written.values()):
        values = volume.data[:, :, k] * np.float32(volume.header.slope) + np.float32(volume.header.intercept)
        np.testing.assert_array_equal(tifffile.imread(image), values)
    assert f"{name}" in (folders / "out" / "axial_slices_stats.csv").read_text()
    assert f"{count} slice" in capfd.readouterr().out


def test_a_folder_with_neither_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(NotFound, match=r"nii\.gz"):
        open_plain(tmp_path, "image")
    with pytest.raises(NotFound):
        open_plain(tmp_path / "nowhere", "image")


def test_inspect_says_what_a_series_is(folders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folders / "dicom"), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    (volume,) = told["volumes"]
    assert (volume["case"], volume["shape"], volume["dtype"]) == ("ct", list(SHAPE), "int16")
    assert (volume["slope"], volume["intercept"]) == (2, -1024)
    assert volume["spacing_mm"] == pytest.approx([0.5, 0.75, 2.0])
    stored = voxels(SHAPE) // 40
    assert volume["range"] == [int(stored.min()) * 2 - 1024, int(stored.max()) * 2 - 1024]
    (match,) = told["matches"]
    assert match["why"] == f"CT series 4: {SHAPE[2]} slices in {SHAPE[2]} files"
    assert main(["inspect", str(folders / "dicom" / "ct")]) == 0
    assert "CT series 4" in capfd.readouterr().out


def test_a_series_with_a_hole_fails_alone(folders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = write_series(folders / "dicom" / "broken", voxels(SHAPE), affine_of(), SeriesInstanceUID="1.2.3.4")
    (broken / "IM0003.dcm").unlink()
    assert main(["extract", str(folders / "dicom"), str(folders / "out"), "--annotations", "none"]) == 1
    assert "1 slices are missing" in capfd.readouterr().err
    assert len(files(folders / "out", ".tif")) == SHAPE[2]
    assert main(["inspect", str(folders / "dicom")]) == 1
    assert "1 slices are missing" in capfd.readouterr().err


def test_what_is_left_out_or_remarked_is_exit_code_1_if_strict(folders: Path) -> None:
    words = ["extract", str(folders / "dicom"), str(folders / "out"), "--annotations", "none", "--overwrite"]
    assert main([*words, "--strict"]) == 0
    (folders / "dicom" / "notes.txt").write_text("no DICOM")
    assert main(words) == 0
    assert main([*words, "--strict"]) == 1


def test_words_of_the_reader_come_through_set(folders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in (folders / "dicom" / "ct").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:128] + b"\0\0\0\0" + content[132:])
    assert main(["inspect", str(folders / "dicom"), "--format", "dicom"]) == 2
    assert "force=True" in capfd.readouterr().err
    assert main(["inspect", str(folders / "dicom"), "--format", "dicom", "--set", "colour=true"]) == 2
    assert "colour: not known to the reader of format 'dicom'; allowed: force" in capfd.readouterr().err
