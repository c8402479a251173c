"""Volumes in other axis orders against nibabel, for every order there is."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import WriteNifti
from tests.read.contract import ReaderContract, Truth
from tests.read.test_nifti import encoded, voxels, write
from voxtract.errors import InvalidInput
from voxtract.geometry import Grid
from voxtract.model import Header, VolumeFile
from voxtract.read import NiftiFile
from voxtract.read.oriented import Oriented, oriented

CODES = ["".join(signs) for axes in permutations(("LR", "PA", "IS")) for signs in product(*axes)]
TILT = np.array([[0.98, -0.15, 0.1], [0.17, 0.97, -0.12], [-0.08, 0.13, 0.99]])  # some degrees about every axis


def affine_of(codes: str, spacing: tuple[float, float, float] = (0.5, 0.75, 2.0), oblique: bool = False) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(codes):
        row = "RAS".index({"L": "R", "P": "A", "I": "S"}.get(code, code))
        affine[row, axis] = spacing[axis] * (1 if code in "RAS" else -1)
    if oblique:
        affine[:3, :3] = TILT @ affine[:3, :3]
    affine[:3, 3] = (-11.5, 20.25, 7)
    return affine


def test_there_are_48_orders() -> None:
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("codes", CODES)
def test_equals_nibabels_closest_canonical(tmp_path: Path, write_nifti: WriteNifti, codes: str, oblique: bool) -> None:
    stored = voxels("i2", (3, 4, 5))
    path = write_nifti(tmp_path / "a.nii", stored, affine_of(codes, oblique=oblique))
    truth = nib.as_closest_canonical(nib.load(path))
    file = Oriented(NiftiFile(path))
    header, volume = file.header(), file.read()
    np.testing.assert_array_equal(volume.data, np.asarray(truth.dataobj))
    assert volume.data.dtype == stored.dtype
    for one in (header, volume.header):
        assert one.grid.shape == truth.shape
        np.testing.assert_allclose(one.grid.affine, truth.affine, atol=1e-5)
        assert one.grid.orientation == "RAS"
    for planes in (1, 2, 7):
        pieces = [piece.copy() for piece in file.slabs(planes)]
        assert all(piece.shape[2] <= planes for piece in pieces)
        np.testing.assert_array_equal(np.concatenate(pieces, axis=2), volume.data)
    assert (file.where, file.volume_index, list(file.paths)) == (str(path), None, [str(path)])


@given(codes=st.sampled_from(CODES), wanted=st.sampled_from(CODES), oblique=st.booleans())
def test_every_voxel_keeps_its_place_in_the_patient(codes: str, wanted: str, oblique: bool) -> None:
    grid = Grid((2, 3, 4), affine_of(codes, oblique=oblique))
    places = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    data = np.arange(24).reshape(grid.shape)
    turned = oriented(data, Header(grid, data.dtype, where="scan.nrrd"), wanted)
    assert turned.header.grid.orientation == wanted
    for index in np.ndindex(*turned.header.grid.shape):
        old = places.reshape(-1, 3)[turned.data[index]]
        np.testing.assert_allclose(
            turned.header.grid.points_mm(np.array(index)), grid.points_mm(np.array(old)), atol=1e-9
        )


def test_a_bare_mask_of_another_shape_is_refused() -> None:
    header = Header(Grid((2, 3, 4), np.eye(4)), np.dtype("i2"), where="scan.nrrd")
    with pytest.raises(InvalidInput, match=r"^scan.nrrd: has \(2, 3, 4\) voxels, but the mask \(4, 3, 2\)"):
        oriented(np.zeros((4, 3, 2), np.uint8), header)


@pytest.mark.parametrize("ask", ["header", "read", "slabs"])
def test_an_axis_without_a_direction_is_an_error_that_names_the_file(
    tmp_path: Path, write_nifti: WriteNifti, ask: str
) -> None:
    flat = np.eye(4)
    flat[2, 2] = 0
    path = tmp_path / "flat.nii"
    write(path, encoded(voxels("i2"), affine=flat))
    file = Oriented(NiftiFile(path))
    with pytest.raises(InvalidInput, match=rf"^{path}: affine .* leaves an axis without a direction"):
        list(file.slabs(1)) if ask == "slabs" else getattr(file, ask)()


class TestOriented(ReaderContract):
    """A file that lies in RAS already: the promises of the file hold on."""

    @pytest.fixture
    def truth(self) -> Truth:
        return Truth(voxels("int16", (30, 20, 40)), affine_of("RAS", oblique=True))

    @pytest.fixture
    def file(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        return Oriented(write(tmp_path / "scan.nii.gz", encoded(truth.stored, affine=truth.affine)))

    @pytest.fixture
    def voxels_lost(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        file = write(tmp_path / "lost.nii.gz", encoded(truth.stored, affine=truth.affine))
        assert isinstance(file.path, Path)
        whole = file.path.read_bytes()
        file.path.write_bytes(whole[: len(whole) // 2])
        return Oriented(file)

    @pytest.fixture
    def missing(self, tmp_path: Path) -> VolumeFile:
        return Oriented(NiftiFile(tmp_path / "no such.nii.gz"))
