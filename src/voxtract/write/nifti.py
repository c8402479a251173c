"""A volume as NIfTI: the voxels in their stored dtype, scaling and affine in the header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.write.deflate import deflated, raw_pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DTYPES = {"int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"}
_SCANNER = 1  # code of an affine that speaks of the scanner's space; ITK takes the sform only with this one
_LONGEST = 32767  # voxels along an axis of NIfTI-1


def encode(
    voxels: NDArray[Any],
    affine: NDArray[np.float64],
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    compress: bool = True,
) -> list[bytes | memoryview]:
    """Turn a volume into the bytes of a ``.nii.gz`` or ``.nii`` file.

    Parameters
    ----------
    voxels : (x, y, z) array of integers or floats up to 64 bits, or bool (stored as uint8)
        Any strides; the dtype is kept.
    affine : (4, 4) float64
        RAS+ mm; becomes the sform, and the qform too where it has no shear. NIfTI-1 rounds it to 32 bits.
    slope, intercept : float
        A voxel's value is stored * slope + intercept.
    compress : bool
        Gzip, for ``.nii.gz``; otherwise ``.nii``.

    Returns
    -------
    list of buffers, to be written one after the other; the same on every run (see `deflated`)
        NIfTI-1, or NIfTI-2 where an axis is too long for it or the scaling needs 64 bits.

    Raises
    ------
    InvalidInput
        Another dtype, another number of axes, no voxel, or an affine that is not finite.
    """
    voxels = voxels.view(np.uint8) if voxels.dtype == bool else voxels
    if voxels.dtype.name not in _DTYPES or voxels.ndim != 3 or voxels.size == 0:
        raise InvalidInput(
            f"NIfTI is written of volumes (x, y, z) of integers or floats up to 64 bits, but there is {voxels.dtype} "
            f"of shape {voxels.shape}; convert it first"
        )
    if not np.isfinite(affine).all():
        raise InvalidInput(f"affine {np.asarray(affine)[:3].tolist()} is not finite; repair it first")
    import nibabel

    wide = max(voxels.shape) > _LONGEST or any(float(np.float32(v)) != v for v in (slope, intercept))
    kind: Any = nibabel.Nifti2Header if wide else nibabel.Nifti1Header
    header = kind(endianness="<")
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header["pixdim"][1:4] = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    header.set_sform(affine, _SCANNER)
    if _is_rigid(affine):
        header.set_qform(affine, _SCANNER)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header["magic"] = header.single_magic
    offset = len(header.binaryblock) + 4  # and an empty list of extensions
    header["vox_offset"] = offset
    head = header.binaryblock.ljust(offset, b"\0")
    stored = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    return list(deflated(head, stored)) if compress else [head, *raw_pieces(stored)]


def _is_rigid(affine: NDArray[np.float64]) -> bool:
    """Whether a rotation and voxel sizes say the same as `affine`, so that a qform can hold it."""
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if not lengths.all():
        return False
    unit = affine[:3, :3] / lengths
    return bool(np.abs(unit.T @ unit - np.eye(3)).max() < 1e-5)
