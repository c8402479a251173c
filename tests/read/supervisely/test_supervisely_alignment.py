"""Labels on the grid of their volume: what is taken, what is refused and how it says so, and what only voxels tell."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.processing import resample_from_to
from numpy.typing import NDArray

from tests.read.supervisely.trees import LPS, RAS, SHAPE, image, labels, nifti, problem, quiet, told
from tests.read.test_oriented import CODES, affine_of
from voxtract.errors import InvalidInput
from voxtract.geometry import Grid
from voxtract.model import Case
from voxtract.read import NiftiFile
from voxtract.read.supervisely import open_supervisely
from voxtract.read.supervisely.alignment import mismatch
from voxtract.read.supervisely.files import LabelFile, Located, Resampled


def pair(root: Path, volume: NDArray[Any], mask: NDArray[Any], mask_data: NDArray[Any] | None = None) -> Path:
    nifti(root / "CT.nii.gz", image(), volume)
    nifti(root / "CT" / "lung.nii.gz", labels(1, 2) if mask_data is None else mask_data, mask)
    return root


def only(root: Path, **words: Any) -> Case:
    (case,) = open_supervisely(root, **words).cases
    return case


# --- to RAS


@pytest.mark.parametrize("codes", CODES)
def test_volume_and_labels_of_any_orders_meet_in_ras(tmp_path: Path, codes: str) -> None:
    """The mask is stored in the opposite order of axes of its volume; each voxel's place decides."""
    volume, affine = image(1, (3, 4, 5)), affine_of(codes, oblique=True)
    img = nifti(tmp_path / "CT.nii.gz", volume, affine)
    turned = nib.Nifti1Image((volume > 500).astype("u1"), affine).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nib.save(turned, tmp_path / "lung.nii.gz")
    (tmp_path / "CT").mkdir()
    (tmp_path / "lung.nii.gz").rename(tmp_path / "CT" / "lung.nii.gz")
    case = only(tmp_path)
    truth = nib.as_closest_canonical(nib.load(img))
    assert case.image is not None
    found, mask = case.image.read(), case.labels[0].file.read()
    np.testing.assert_array_equal(found.data, np.asarray(truth.dataobj))
    np.testing.assert_array_equal(mask.data, np.asarray(truth.dataobj) > 500)
    assert found.header.grid.mismatch(mask.header.grid) is None
    slabs = [slab.copy() for slab in case.labels[0].file.slabs(2)]
    np.testing.assert_array_equal(np.concatenate(slabs, axis=2), mask.data)


@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
def test_units_of_length_become_millimetres(tmp_path: Path, version: Any) -> None:
    pair(tmp_path, RAS, RAS)
    for unit, factor in (("meter", 0.001), ("micron", 1000.0)):
        for name, data in (("CT.nii.gz", image()), ("CT/lung.nii.gz", labels(1))):
            img = version(data, RAS @ np.diag([factor, factor, factor, 1]))
            img.header.set_xyzt_units(unit)
            nib.save(img, tmp_path / name)
        case = only(tmp_path)
        assert case.image is not None
        for file in (case.image, case.labels[0].file):
            np.testing.assert_allclose(file.header().grid.affine, RAS, rtol=1e-6)
            np.testing.assert_allclose(file.read().header.grid.affine, RAS, rtol=1e-6)


# --- the same grid or not


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAR"])
@pytest.mark.parametrize("off", [1e-5, 0.04])
def test_float_noise_is_no_difference(tmp_path: Path, codes: str, off: float) -> None:
    affine = affine_of(codes)
    pair(tmp_path, affine, shifted(affine, off))
    case = only(tmp_path)
    assert case.image is not None
    grids = case.image.header().grid, case.labels[0].file.header().grid, case.labels[0].file.read().header.grid
    for grid in grids[1:]:
        assert grids[0].mismatch(grid) is None  # also for those who compare more closely


def shifted(affine: NDArray[Any], mm: float) -> NDArray[Any]:
    moved = affine.copy()
    moved[0, 3] += mm
    return moved


def turned(affine: NDArray[Any]) -> NDArray[Any]:
    angle = 0.2
    about_z = np.eye(4)
    about_z[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return np.asarray(about_z @ affine)


@pytest.mark.parametrize(
    ("affine", "said"),
    [
        (shifted(RAS, 5), "origin (5, 0, 0) instead of (0, 0, 0) mm"),
        (RAS @ np.diag([1.5, 1, 1, 1]), "spacing (1.5, 2, 3) instead of (1, 2, 3) mm"),
        (turned(RAS), "direction 0.9801 0.1987 0 -0.1987 0.9801 0 0 0 1 instead of 1 0 0 0 1 0 0 0 1"),
    ],
)
def test_another_grid_is_an_error_that_says_how(tmp_path: Path, affine: NDArray[Any], said: str) -> None:
    pair(tmp_path, RAS, affine)
    nifti(tmp_path / "MR.nii.gz", image())
    source = open_supervisely(tmp_path)
    message = problem(source, "CT")
    assert message.startswith(f"{tmp_path}/CT/lung.nii.gz: lies on another grid than its volume {tmp_path}/CT.nii.gz: ")
    assert said in message
    assert message.endswith(
        "; export both from one volume, or pass resample_labels=True (--set resample_labels=true), "
        "or trust='voxels' (--set trust=voxels) if only the header is wrong"
    )
    assert [case.id for case in source.cases] == ["CT", "MR"]


def test_another_shape_is_an_error_that_says_so(tmp_path: Path) -> None:
    pair(tmp_path, RAS, RAS, labels(1, shape=(4, 5, 7)))
    nifti(tmp_path / "MR.nii.gz", image())
    message = problem(open_supervisely(tmp_path, trust="voxels"), "CT")
    assert "shape 4 x 5 x 7 instead of 4 x 5 x 6 voxels" in message
    assert "trust" not in message.partition("shape")[2]


def test_mismatch_says_nothing_of_the_same_grid() -> None:
    grid = Grid(SHAPE, affine_of("RAS", oblique=True))
    assert mismatch(grid, grid) is None
    assert mismatch(Grid(SHAPE, grid.affine + 1e-7), grid) is None


@given(
    move=st.tuples(*[st.floats(-0.4, 0.4)] * 3),
    scale=st.tuples(*[st.floats(0.9, 1.1)] * 3),
)
def test_mismatch_is_about_corners(move: tuple[float, ...], scale: tuple[float, ...]) -> None:
    grid = Grid(SHAPE, affine_of("RAS", oblique=True))
    change = np.diag([*scale, 1.0])
    change[:3, 3] = move
    corners = np.array([[i, j, k] for i in (0, 3) for j in (0, 4) for k in (0, 5)])
    far = max(abs(scale[a] * corner[a] + move[a] - corner[a]) for corner in corners for a in range(3))
    if abs(far - 0.1) > 1e-6:
        assert (mismatch(Grid(SHAPE, grid.affine @ change), grid) is None) == (far < 0.1)


# --- trust="voxels"


def test_a_header_that_is_not_trusted_is_that_of_the_volume(tmp_path: Path) -> None:
    mask = labels(1, 2, 3)
    pair(tmp_path, affine_of("LPI", oblique=True), np.eye(4), mask)
    source = open_supervisely(tmp_path, trust="voxels")
    (case,) = source.cases
    truth = nib.as_closest_canonical(nib.Nifti1Image(mask, affine_of("LPI", oblique=True)))
    found = case.labels[0].file.read()
    np.testing.assert_array_equal(found.data, np.asarray(truth.dataobj))
    np.testing.assert_allclose(found.header.grid.affine, truth.affine, atol=1e-5)
    (remark,) = told(source, tmp_path)[1]["CT/lung.nii.gz"]
    assert remark.startswith("its header is not used, as trust='voxels' asks for (spacing")


def test_a_header_that_fits_is_trusted(tmp_path: Path) -> None:
    mask = labels(1, 2, 3)
    pair(tmp_path, RAS, RAS @ np.array([[-1.0, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), mask[::-1])
    source = quiet(open_supervisely(tmp_path, trust="voxels"))
    np.testing.assert_array_equal(source.cases[0].labels[0].file.read().data, mask)


# --- resample_labels


def nearest(data: NDArray[Any], source: NDArray[Any], shape: tuple[int, ...], target: NDArray[Any]) -> NDArray[Any]:
    img = resample_from_to(nib.Nifti1Image(data, source), (shape, target), order=0, mode="grid-constant", cval=0)
    found: NDArray[Any] = np.asarray(img.dataobj)
    return found


@pytest.mark.parametrize(
    "affine",
    [
        np.array([[0.7, 0, 0, 0.11], [0, 1.3, 0, -2.23], [0, 0, 1.7, 1.37], [0, 0, 0, 1.0]]),
        np.array([[0.7, 0.2, 0, 0.11], [-0.1, 1.3, 0.3, -2.23], [0.1, 0, 1.7, 1.37], [0, 0, 0, 1.0]]),
    ],
)
def test_resampled_labels_are_those_of_nibabel(tmp_path: Path, affine: NDArray[Any]) -> None:
    mask = np.random.default_rng(0).integers(0, 9, (9, 8, 10)).astype("u2")
    pair(tmp_path, LPS, affine, mask)
    nifti(tmp_path / "CT.nii.gz", image(0, (8, 7, 9)), LPS)
    source = open_supervisely(tmp_path, resample_labels=True)
    (case,) = source.cases
    assert case.image is not None
    grid = case.image.header().grid
    file = case.labels[0].file
    found = file.read()
    assert found.data.dtype == np.uint16
    assert found.header.grid.mismatch(grid) is None
    assert file.header().grid.mismatch(grid) is None
    np.testing.assert_array_equal(found.data, nearest(mask, affine, grid.shape, grid.affine))
    assert found.data.any()
    for planes in (1, 4, 20):
        slabs = [slab.copy() for slab in file.slabs(planes)]
        np.testing.assert_array_equal(np.concatenate(slabs, axis=2), found.data)
    (remark,) = (one for one in told(source, tmp_path)[1]["CT/lung.nii.gz"] if one.startswith("resampled"))
    assert remark.startswith(f"resampled to the grid of {tmp_path}/CT.nii.gz (shape 9 x 8 x 10 instead of 8 x 7 x 9")


def test_of_two_equally_near_the_higher_index(tmp_path: Path) -> None:
    mask = np.arange(1, 9, dtype="u1").reshape(8, 1, 1)
    path = nifti(tmp_path / "a.nii", mask, np.eye(4))
    grid = Grid((4, 1, 1), np.array([[2.0, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    assert Resampled(NiftiFile(path), grid).read().data.ravel().tolist() == [2, 4, 6, 8]


def test_labels_that_fit_are_not_resampled(tmp_path: Path) -> None:
    pair(tmp_path, LPS, LPS)
    assert not isinstance(quiet(open_supervisely(tmp_path, resample_labels=True)).cases[0].labels[0].file, Resampled)


def test_a_file_that_has_changed_since_it_was_listed(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", labels(1))
    with pytest.raises(InvalidInput, match=r"a.nii: has 4 x 5 x 6 voxels, but 4 x 5 x 7 when it was listed"):
        Located(NiftiFile(path), Grid((4, 5, 7), RAS)).read()


# --- what headers leave in doubt


def test_sform_and_qform_that_differ_are_remarked(tmp_path: Path) -> None:
    pair(tmp_path, RAS, RAS)
    img = nib.Nifti1Image(image(), RAS)
    img.set_qform(shifted(RAS, 2), 1)
    nib.save(img, tmp_path / "CT.nii.gz")
    source = open_supervisely(tmp_path)
    (remark,) = told(source, tmp_path)[1]["CT.nii.gz"]
    assert remark.startswith("sform and qform differ by up to 0 in a step and 2 in the origin; the sform is taken")
    assert source.cases[0].image is not None
    np.testing.assert_allclose(source.cases[0].image.header().grid.affine, RAS)


@pytest.mark.parametrize("codes", CODES)
def test_forms_that_agree_are_not_remarked(tmp_path: Path, codes: str) -> None:
    affine = affine_of(codes, oblique=False)
    nifti(tmp_path / "CT.nii", image(), affine)
    quiet(open_supervisely(tmp_path))


def test_no_orientation_is_remarked(tmp_path: Path) -> None:
    img = nib.Nifti1Image(image(), None)
    nib.save(img, tmp_path / "CT.nii")
    (remark,) = told(open_supervisely(tmp_path), tmp_path)[1]["CT.nii"]
    assert remark.startswith("no orientation is set")


def test_axes_that_are_not_at_right_angles_are_remarked(tmp_path: Path) -> None:
    sheared = RAS.copy()
    sheared[0, 1] = 0.3
    img = nib.Nifti1Image(image(), sheared)
    img.set_sform(sheared, 1)
    img.set_qform(None, 0)
    nib.save(img, tmp_path / "CT.nii")
    (remark,) = told(open_supervisely(tmp_path), tmp_path)[1]["CT.nii"]
    assert remark.startswith("its axes are not at right angles")


def test_what_was_repaired_is_remarked(tmp_path: Path) -> None:
    path = nifti(tmp_path / "CT.nii", image())
    raw = bytearray(path.read_bytes())
    raw[80:84] = np.float32(-1).tobytes()  # pixdim[1]
    path.write_bytes(raw)
    assert any("should be positive" in one for one in told(open_supervisely(tmp_path), tmp_path)[1]["CT.nii"])


# --- labels are integers


@pytest.mark.parametrize(
    ("dtype", "becomes"),
    [("u1", "u1"), ("i2", "i2"), ("u2", "u2"), ("i4", "i4"), ("f4", "i4"), ("f8", "i8"), ("u8", "u8")],
)
def test_whole_numbers_are_labels_whatever_they_are_stored_as(tmp_path: Path, dtype: str, becomes: str) -> None:
    values = (1, 2, 200) if dtype == "u1" else (1, 300, 30_000)
    file = LabelFile(NiftiFile(nifti(tmp_path / "a.nii", labels(*values, dtype=dtype))))
    found = file.read()
    assert found.data.dtype == file.header().dtype == found.header.dtype == np.dtype(becomes)
    np.testing.assert_array_equal(found.data, labels(*values, dtype=dtype))
    np.testing.assert_array_equal(np.concatenate([s.copy() for s in file.slabs(4)], axis=2), found.data)


def test_scaled_labels_are_scaled(tmp_path: Path) -> None:
    img = nib.Nifti1Image(labels(1, 2), RAS)
    img.header.set_slope_inter(2, 0)
    nib.save(img, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([2, 0], "f4").tobytes()
    raw[352:] = labels(1, 2).tobytes(order="F")
    (tmp_path / "a.nii").write_bytes(raw)
    found = LabelFile(NiftiFile(tmp_path / "a.nii")).read()
    np.testing.assert_array_equal(found.data, 2 * labels(1, 2).astype(int))
    assert not found.header.is_scaled


@pytest.mark.parametrize(
    ("dtype", "value", "said"), [("f4", 0.5, "0.5"), ("f4", np.nan, "nan"), ("f8", np.inf, "inf"), ("f4", 3e9, "3e+09")]
)
def test_other_numbers_are_an_error_that_names_the_voxel(tmp_path: Path, dtype: str, value: float, said: str) -> None:
    data = labels(1, 2, dtype=dtype)
    data[1, 2, 3] = value
    file = LabelFile(NiftiFile(nifti(tmp_path / "a.nii", data)))
    assert file.header().dtype.kind == "i"
    for ask in (file.read, lambda: list(file.slabs(2))):
        with pytest.raises(InvalidInput) as caught:
            ask()
        assert str(caught.value).startswith(f"{tmp_path}/a.nii: voxel (1, 2, 3) of the file is {said}, but a label is")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (labels(), "no voxel is labelled: all are 0 or below"),
        (labels(-3, -1, dtype="i2"), "no voxel is labelled: all are 0 or below"),
        (labels(-3, 4, dtype="i2"), "has values below 0, down to -3, which are taken as background"),
        (labels(-3, 4, dtype="f4"), "has values below 0, down to -3, which are taken as background"),
    ],
)
def test_what_voxels_tell_is_a_warning_or_with_strict_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: NDArray[Any], said: str
) -> None:
    path = nifti(tmp_path / "a.nii", data)
    caplog.set_level(logging.WARNING)
    for read in (lambda file: file.read(), lambda file: list(file.slabs(2))):
        caplog.clear()
        read(LabelFile(NiftiFile(path)))
        assert f"{path}: {said}" in [record.getMessage() for record in caplog.records]
        with pytest.raises(InvalidInput) as caught:
            read(LabelFile(NiftiFile(path), strict=True))
        assert str(caught.value) == f"{path}: {said}"


def test_good_labels_are_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    LabelFile(NiftiFile(nifti(tmp_path / "a.nii", labels(1, 5))), needed=(1,), hoped=(5,), table="t.csv").read()
    assert caplog.records == []


def test_labels_that_are_scored_but_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = nifti(tmp_path / "a.nii", labels(1, 5))
    caplog.set_level(logging.WARNING)
    LabelFile(NiftiFile(path), needed=(1,), hoped=(2, 300), table="t.csv").read()
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: no voxel has the label 2, 300, which t.csv scores"
    ]
    with pytest.raises(InvalidInput, match=r"a.nii: no voxel has the label 2, which t.csv scores; correct"):
        list(LabelFile(NiftiFile(path), needed=(2,), table="t.csv").slabs(1))


def test_a_thousand_objects_in_one_file(tmp_path: Path) -> None:
    data = np.arange(1200, dtype="u2").reshape(10, 10, 12)
    pair(tmp_path, np.eye(4), np.eye(4), data)
    nifti(tmp_path / "CT.nii.gz", image(0, data.shape), np.eye(4))
    np.testing.assert_array_equal(only(tmp_path).labels[0].file.read().data, data)
