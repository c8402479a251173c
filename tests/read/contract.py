"""What every reader promises; a new one subclasses `ReaderContract`, gives the fixtures, and inherits the tests."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from voxtract.errors import DamagedFile, NotFound, VoxtractError
from voxtract.model import VolumeFile


@dataclass(frozen=True, eq=False)
class Truth:
    """What the test put into the file."""

    stored: NDArray[Any]
    affine: NDArray[np.float64]
    slope: float = 1.0
    intercept: float = 0.0


class ReaderContract:
    @pytest.fixture
    def truth(self) -> Truth:
        raise NotImplementedError

    @pytest.fixture
    def file(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        """A file that holds `truth`."""
        raise NotImplementedError

    @pytest.fixture
    def voxels_lost(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        """A file of `truth` whose header is whole but whose voxels are not."""
        raise NotImplementedError

    @pytest.fixture
    def missing(self, tmp_path: Path) -> VolumeFile:
        """A file that is not there."""
        raise NotImplementedError

    def test_header_says_what_is_in_the_file(self, file: VolumeFile, truth: Truth) -> None:
        header = file.header()
        assert header.grid.shape == truth.stored.shape
        np.testing.assert_allclose(header.grid.affine, truth.affine, rtol=1e-6, atol=1e-6)
        assert header.grid.affine.dtype == np.float64
        assert header.dtype == truth.stored.dtype.newbyteorder("=")
        assert header.dtype.isnative
        assert (header.slope, header.intercept) == (truth.slope, truth.intercept)
        assert header.nbytes == truth.stored.nbytes

    def test_read_gives_the_stored_voxels(self, file: VolumeFile, truth: Truth) -> None:
        data = file.read().data
        assert type(data) is np.ndarray
        assert data.dtype == truth.stored.dtype.newbyteorder("=")
        assert data.dtype.isnative
        assert data.flags.f_contiguous
        np.testing.assert_array_equal(data, truth.stored)

    def test_read_gives_the_same_header(self, file: VolumeFile) -> None:
        first, second = file.header(), file.read().header
        assert first.grid.shape == second.grid.shape
        np.testing.assert_array_equal(first.grid.affine, second.grid.affine)
        assert (first.dtype, first.slope, first.intercept) == (second.dtype, second.slope, second.intercept)
        assert first.where == second.where == file.where

    def test_header_is_known_though_the_voxels_are_lost(self, voxels_lost: VolumeFile, truth: Truth) -> None:
        assert voxels_lost.header().grid.shape == truth.stored.shape

    def test_lost_voxels_are_an_error_that_names_the_file(self, voxels_lost: VolumeFile) -> None:
        with pytest.raises(DamagedFile) as caught:
            voxels_lost.read()
        assert str(caught.value).startswith(f"{voxels_lost.where}: ")

    @pytest.mark.parametrize("ask", ["header", "read"])
    def test_a_missing_file_is_an_error_that_names_it(self, missing: VolumeFile, ask: str) -> None:
        with pytest.raises(NotFound) as caught:
            getattr(missing, ask)()
        assert isinstance(caught.value, VoxtractError)
        assert str(caught.value).startswith(f"{missing.where}: ")

    def test_threads_read_the_same_file_at_once(self, file: VolumeFile, truth: Truth) -> None:
        with ThreadPoolExecutor(4) as pool:
            for volume in pool.map(lambda _: file.read(), range(8)):
                np.testing.assert_array_equal(volume.data, truth.stored)

    def test_file_is_a_value(self, file: VolumeFile) -> None:
        copy = pickle.loads(pickle.dumps(file))
        assert copy == file
        assert hash(copy) == hash(file)
        np.testing.assert_array_equal(copy.read().data, file.read().data)
