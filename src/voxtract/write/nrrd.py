"""A volume as NRRD, with the header that Supervisely, 3D Slicer and ITK understand alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.write.deflate import deflated, raw_pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TYPES = {
    "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32", "uint32": "uint32",
    "int64": "int64", "uint64": "uint64", "float32": "float", "float64": "double",
}  # fmt: skip
_COMMENT = "#" + " " * 126 + "\n"  # its length is a multiple of 16, see below


def encode(
    voxels: NDArray[Any], affine: NDArray[np.float64], *, compress: bool = True, least: int = 0
) -> list[bytes | memoryview]:
    """Turn a volume into the bytes of a ``.nrrd`` file.

    Parameters
    ----------
    voxels : (x, y, z) array of integers or floats up to 64 bits, or bool (stored as uint8)
        Any strides; the dtype is kept.
    affine : (4, 4) float64
        RAS+ mm; kept to the last bit: row i of ``space directions`` is column i of it.
    compress : bool
        Gzip; otherwise raw.
    least : int
        Bytes that the file has at least: empty comments make up for what it lacks.

    Returns
    -------
    list of buffers, to be written one after the other; the same on every run (see `deflated`)

    Raises
    ------
    InvalidInput
        Another dtype, another number of axes, no voxel, or an affine that is not finite.
    """
    voxels = voxels.view(np.uint8) if voxels.dtype == bool else voxels
    if voxels.dtype.name not in _TYPES or voxels.ndim != 3 or voxels.size == 0:
        raise InvalidInput(
            f"NRRD is written of volumes (x, y, z) of integers or floats up to 64 bits, but there is {voxels.dtype} of "
            f"shape {voxels.shape}; convert it first"
        )
    if not np.isfinite(affine).all():
        raise InvalidInput(f"affine {np.asarray(affine)[:3].tolist()} is not finite; repair it first")
    stored = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    directions = " ".join(_vector(affine[:3, axis]) for axis in range(3))
    header = (
        "NRRD0004\n"
        f"type: {_TYPES[voxels.dtype.name]}\n"
        "dimension: 3\n"
        "space: right-anterior-superior\n"
        f"sizes: {' '.join(map(str, voxels.shape))}\n"
        f"space directions: {directions}\n"
        "kinds: domain domain domain\n"
        "endian: little\n"
        f"encoding: {'gzip' if compress else 'raw'}\n"
        f"space origin: {_vector(affine[:3, 3])}\n"
    )
    if not compress:  # a comment moves the voxels to where the machine reads them whole
        header += "#" + " " * (-(len(header) + 3) % 16) + "\n"
    pieces = [*(deflated(b"", stored) if compress else raw_pieces(stored))]
    lacking = least - len(header) - 1 - sum(memoryview(piece).nbytes for piece in pieces)
    header += _COMMENT * -(-lacking // len(_COMMENT))
    return [f"{header}\n".encode("ascii"), *pieces]


def _vector(values: NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(value) + 0.0) for value in values)})"
