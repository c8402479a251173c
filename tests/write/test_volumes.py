"""Volumes written as NRRD and NIfTI, read back by others' readers and by ours."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.strategies import LAYOUTS, Layout, laid_out
from voxtract.errors import InvalidInput
from voxtract.read import NiftiFile
from voxtract.read.nrrd import NrrdFile
from voxtract.write import nifti, nrrd

OBLIQUE = np.array([[0.9, 0.1, 0.0, -10.0], [-0.2, 1.1, 0.3, 20.5], [0.0, -0.4, 2.5, 3.25], [0, 0, 0, 1]])
DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?"]


def voxels(dtype: str, shape: tuple[int, int, int] = (5, 6, 7), seed: int = 0) -> NDArray[Any]:
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    data: NDArray[Any] = (raw % 2 if dtype == "?" else raw).view(dtype)[..., 0]
    return np.nan_to_num(data) if data.dtype.kind == "f" else data


def save(path: Path, buffers: list[bytes | memoryview]) -> Path:
    path.write_bytes(b"".join(buffers))
    return path


affines = st.lists(st.floats(-100, 100, width=32), min_size=12, max_size=12).map(
    lambda values: np.vstack([np.array(values).reshape(3, 4), [0, 0, 0, 1]])
)
anything = given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    affine=affines,
    compress=st.booleans(),
)


@settings(max_examples=60)
@anything
def test_nrrd_comes_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    dtype: str,
    layout: Layout,
    affine: NDArray[np.float64],
    compress: bool,
) -> None:
    data = voxels(dtype, shape)
    affine = affine + 1e-9  # not to be had in 32 bits
    affine[3] = 0, 0, 0, 1
    content = nrrd.encode(laid_out(data, layout), affine, compress=compress)
    path = save(tmp_path_factory.mktemp("nrrd") / "a.nrrd", content)
    volume = NrrdFile(path).read()
    assert volume.data.dtype == (np.uint8 if dtype == "?" else np.dtype(dtype))
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_array_equal(volume.header.grid.affine, affine)
    other = pytest.importorskip("nrrd", reason="pynrrd is the other reader and writer of NRRD")
    again, header = other.read(str(path))
    np.testing.assert_array_equal(again, data)
    assert again.dtype == volume.data.dtype
    assert header["space"] == "right-anterior-superior"
    np.testing.assert_array_equal(header["space directions"], affine[:3, :3].T)
    np.testing.assert_array_equal(header["space origin"], affine[:3, 3])


@pytest.mark.parametrize("compress", [True, False])
def test_itk_puts_nrrd_where_it_lies(tmp_path: Path, compress: bool) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="ITK reads NRRD in Supervisely and 3D Slicer")
    turn, spacing = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]), (0.5, 0.75, 3.0)
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = 10, 20, -30.125
    data = voxels("i2")
    image = sitk.ReadImage(str(save(tmp_path / "a.nrrd", nrrd.encode(data, affine, compress=compress))))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), data)
    for point in ([0, 0, 0], [4, 0, 0], [0, 5, 0], [1, 2, 6]):
        expected = affine[:3, :3] @ point + affine[:3, 3]
        found = np.array(image.TransformIndexToPhysicalPoint(point)) * (-1, -1, 1)  # ITK speaks LPS
        np.testing.assert_allclose(found, expected, atol=1e-9)


@settings(max_examples=60)
@anything
def test_nifti_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    dtype: str,
    layout: Layout,
    affine: NDArray[np.float64],
    compress: bool,
) -> None:
    data = voxels(dtype, shape)
    content = nifti.encode(laid_out(data, layout), affine, compress=compress)
    path = save(tmp_path_factory.mktemp("nifti") / ("a.nii.gz" if compress else "a.nii"), content)
    image = nib.nifti1.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), data)
    assert image.get_data_dtype() == (np.uint8 if dtype == "?" else np.dtype(dtype))
    np.testing.assert_array_equal(image.affine, affine)
    volume = NiftiFile(path).read()
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_array_equal(volume.header.grid.affine, affine)
    assert not volume.header.is_scaled


def test_nifti_has_the_qform_where_it_can(tmp_path: Path) -> None:
    turn = np.array([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]) @ np.diag([0.5, 0.75, -3, 1])
    for affine, code in ((turn, 1), (OBLIQUE, 0), (np.diag([1, 0, 1, 1.0]), 0)):
        image = nib.nifti1.load(save(tmp_path / "a.nii.gz", nifti.encode(voxels("i2"), affine)))
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, code)
        np.testing.assert_allclose(image.get_sform(), affine, atol=1e-6)
        if code:
            np.testing.assert_allclose(image.get_qform(), affine, atol=1e-6)
        assert image.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize(("slope", "intercept", "version"), [(2.0, -1024.0, 1), (0.1, 0.0, 2), (1.0, 1 / 3, 2)])
def test_nifti_keeps_the_scaling_to_the_bit(tmp_path: Path, slope: float, intercept: float, version: int) -> None:
    data = voxels("i2")
    path = save(tmp_path / "a.nii.gz", nifti.encode(data, np.eye(4), slope=slope, intercept=intercept))
    volume = NiftiFile(path).read()
    assert (volume.header.slope, volume.header.intercept) == (slope, intercept)
    np.testing.assert_array_equal(volume.data, data)
    assert int.from_bytes(gzip.decompress(path.read_bytes())[:4], "little") == {1: 348, 2: 540}[version]
    np.testing.assert_allclose(nib.nifti1.load(path).get_fdata() if version == 1 else nib.nifti2.load(path).get_fdata(), data * slope + intercept)  # fmt: skip  # noqa: E501


def test_an_axis_too_long_for_nifti_1_makes_nifti_2(tmp_path: Path) -> None:
    data = np.arange(40_000, dtype="u2").reshape(40_000, 1, 1)
    path = save(tmp_path / "a.nii.gz", nifti.encode(data, OBLIQUE))
    np.testing.assert_array_equal(np.asarray(nib.nifti2.load(path).dataobj), data)
    np.testing.assert_array_equal(nib.nifti2.load(path).affine, OBLIQUE)
    np.testing.assert_array_equal(NiftiFile(path).read().data, data)


Encode = Callable[..., list[bytes | memoryview]]


@pytest.mark.parametrize("encode", [nrrd.encode, nifti.encode])
class TestBoth:
    @pytest.mark.parametrize("compress", [True, False])
    def test_every_run_writes_the_same_bytes(self, encode: Encode, compress: bool) -> None:
        first, *others = (
            b"".join(encode(laid_out(voxels("i2"), layout), OBLIQUE, compress=compress)) for layout in LAYOUTS
        )
        assert all(other == first for other in others)

    @pytest.mark.parametrize("compress", [True, False])
    def test_the_other_byte_order_is_turned(self, encode: Encode, compress: bool) -> None:
        data = voxels("i4")
        swapped = data.astype(">i4")
        assert b"".join(encode(swapped, OBLIQUE, compress=compress)) == b"".join(
            encode(data, OBLIQUE, compress=compress)
        )

    def test_no_time_is_in_the_gzip(self, encode: Encode) -> None:
        content = b"".join(encode(voxels("i2"), OBLIQUE))
        begin = content.index(b"\x1f\x8b")
        assert content[begin + 3] == 0  # no name
        assert content[begin + 4 : begin + 8] == bytes(4)

    def test_voxels_of_more_than_a_piece(self, encode: Encode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        whole = b"".join(encode(voxels("i2"), OBLIQUE, compress=False))
        for piece in (7, 60, 100):
            monkeypatch.setattr("voxtract.write.deflate._PIECE", piece)
            assert b"".join(encode(voxels("i2"), OBLIQUE, compress=False)) == whole
            path = save(tmp_path / "a.nrrd", encode(voxels("i2"), OBLIQUE))
            reader: Any = NrrdFile if encode is nrrd.encode else NiftiFile
            np.testing.assert_array_equal(reader(path).read().data, voxels("i2"))

    @pytest.mark.parametrize(
        "data", [np.zeros((2, 2)), np.zeros((2, 0, 2)), np.zeros((2, 2, 2), "c8"), np.zeros((2, 2, 2), "f2")]
    )
    def test_what_is_no_volume_of_numbers_is_refused(self, encode: Encode, data: NDArray[Any]) -> None:
        with pytest.raises(InvalidInput, match=rf"{data.dtype}.*{data.shape[0]}"):
            encode(data, OBLIQUE)

    def test_an_affine_that_is_not_finite_is_refused(self, encode: Encode) -> None:
        with pytest.raises(InvalidInput, match="not finite"):
            encode(voxels("u1"), OBLIQUE * np.nan)
