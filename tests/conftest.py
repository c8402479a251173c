"""Shared inputs: NIfTI files written by nibabel, and the real data where it is at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

# How long an example takes is the machine's business.
settings.register_profile("voxtract", deadline=None)
settings.load_profile("voxtract")

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "real"

WriteNifti = Callable[..., Path]


@pytest.fixture
def write_nifti() -> WriteNifti:
    """Write an array as NIfTI with nibabel, parents made."""

    def write(path: Path, data: NDArray[Any], affine: NDArray[Any] | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
        return path

    return write


def stored(path: Path) -> NDArray[Any]:
    """Voxels as nibabel reads them, in their stored dtype."""
    return np.asarray(nib.nifti1.load(path).dataobj)


@pytest.fixture
def real_data() -> Path:
    """Folder of real volumes, which are not part of the repository."""
    if not REAL.is_dir():
        pytest.skip(f"the real volumes are not here: {REAL}")
    return REAL
