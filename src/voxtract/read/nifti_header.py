"""The header of a NIfTI file decoded, with the same repairs and the same affine as nibabel.

Format: https://nifti.nimh.nih.gov (nifti1.h, nifti2.h). Own, because to import nibabel takes as long as to inflate half
a CT volume, and to decode a header with it as long as a small mask; the tests hold the two against each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTES = {1: 348, 2: 540}
FIRST_VOXEL = {1: 352, 2: 544}  # the header and 4 bytes that announce extensions
QUATERNION_EPS = {1: 3 * float(np.finfo("f4").eps), 2: 3 * float(np.finfo("f8").eps)}  # of 1 - (b² + c² + d²)

# The fields used: name, type and place.
_FIELDS = {
    1: (
        ("sizeof_hdr", "i4", 0),
        ("dim", "8i2", 40),
        ("datatype", "i2", 70),
        ("pixdim", "8f4", 76),
        ("vox_offset", "f4", 108),
        ("scl_slope", "f4", 112),
        ("scl_inter", "f4", 116),
        ("xyzt_units", "u1", 123),
        ("qform_code", "i2", 252),
        ("sform_code", "i2", 254),
        ("quatern", "3f4", 256),
        ("qoffset", "3f4", 268),
        ("srow", "(3,4)f4", 280),
    ),
    2: (
        ("sizeof_hdr", "i4", 0),
        ("datatype", "i2", 12),
        ("dim", "8i8", 16),
        ("pixdim", "8f8", 104),
        ("vox_offset", "i8", 168),
        ("scl_slope", "f8", 176),
        ("scl_inter", "f8", 184),
        ("qform_code", "i4", 344),
        ("sform_code", "i4", 348),
        ("quatern", "3f8", 352),
        ("qoffset", "3f8", 376),
        ("srow", "(3,4)f8", 400),
        ("xyzt_units", "i4", 500),
    ),
}
_EOL_CHECK = (b"\r\n\x1a\n", bytes(4))  # in NIfTI-2 behind the mark: text-mode transfers change it
_XFORM_CODES = range(6)
_MILLIMETRES = {1: 1000.0, 3: 0.001}  # of metres and microns
_SAME = 1e-3  # of a voxel
_SKEW = 1e-3  # cosine of the angle between two axes; float32 leaves some 1e-6
_NUMBERS = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_OTHERS = {
    0: "of no declared type",
    1: "single bits",
    32: "complex numbers",
    128: "RGB colours",
    255: "of no declared type",
    1536: "floats of 128 bits",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "RGB colours",
}


@dataclass(frozen=True, eq=False, slots=True)
class NiftiHeader:
    """What the header of a NIfTI file says about its voxels, checked.

    Parameters
    ----------
    version : {1, 2}
    dim : tuple of int
        Size of each axis, 1 to 7 of them.
    stored : numpy.dtype
        With the file's byte order.
    offset : int
        Byte of the uncompressed file at which the voxels begin.
    affine : (4, 4) float64
        RAS+ mm, from the sform, else the qform, else the voxel sizes with the volume's center at the origin and x
        flipped (the standard's method 1, as nibabel reads it).
    slope, intercept : float
        1 and 0 where the slope is 0 or not finite.
    remarks : tuple of str
        What was repaired.
    fields : numpy.void
        As written, see `_FIELDS`.
    """

    version: int
    dim: tuple[int, ...]
    stored: np.dtype[Any]
    offset: int
    affine: NDArray[np.float64]
    slope: float
    intercept: float
    remarks: tuple[str, ...]
    fields: Any

    @property
    def mm_per_unit(self) -> float:
        """Millimetres per unit of length that the header names; 1 where it names none."""
        return _MILLIMETRES.get(int(self.fields["xyzt_units"]) & 7, 1.0)

    def doubts(self) -> tuple[str, ...]:
        """Say why the volume may lie elsewhere than `affine` has it.

        No orientation is set; two are that differ, in a step or in the origin, by more than 1e-3 of a voxel, so that
        readers that prefer the other one see it elsewhere; or the axes are not at right angles, which some refuse.
        """
        told = []
        codes = {name: int(self.fields[f"{name}_code"]) in range(1, 6) for name in ("sform", "qform")}
        if not any(codes.values()):
            told.append("no orientation is set (sform_code and qform_code are 0); x is taken to grow to the left")
        elif all(codes.values()) and (apart := self._forms_apart()):
            told.append(f"sform and qform differ by {apart}; the sform is taken, other readers take the qform")
        axes = self.affine[:3, :3] / np.maximum(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)), 1e-30)
        if np.abs(np.triu(axes.T @ axes, 1)).max() > _SKEW:
            told.append("its axes are not at right angles; other readers may refuse it")
        return tuple(told)

    def _forms_apart(self) -> str:
        """By how much sform and qform differ at the corners of the volume; empty where they agree."""
        try:
            qform = _qform(self.fields, self.version, "qform", _sizes(self.fields))
        except InvalidInput:
            return "an unknown amount (the qform cannot be worked with)"
        voxel = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        tolerance = _SAME * np.array([*voxel, voxel.min()])
        apart = np.abs(qform - self.affine)[:3]
        if (apart <= tolerance).all():
            return ""
        return f"up to {apart[:, :3].max():.3g} in a step and {apart[:, 3].max():.3g} in the origin"


def size_of(block: bytes) -> int:
    """Bytes of the header that begins with `block` (4 bytes or more), 0 where the number there is none of NIfTI's."""
    begins = int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")
    return next((size for size in BYTES.values() if size in begins), 0)


def decode(block: bytes, where: str) -> NiftiHeader:
    """Decode a header; what can be repaired is repaired, with a remark.

    Parameters
    ----------
    block : bytes
        The beginning of the uncompressed file; `size_of` says how much is needed.
    where : str
        For messages.

    Raises
    ------
    DamagedFile
        Cut short, no NIfTI, or numbers that cannot be.
    InvalidInput
        A header/image pair; voxels that are no real numbers of at most 64 bits; a scale or an orientation that cannot
        be worked with.
    """
    version = _version(block, where)
    fields, order = _fields(block, version)
    if version == 2 and block[8:12] not in _EOL_CHECK:
        raise DamagedFile(
            f"{where}: the header was changed by a transfer in text mode; copy the file again in binary mode"
        )
    axes = int(fields["dim"][0])
    if not 1 <= axes <= 7:
        raise DamagedFile(f"{where}: the header names {axes} axes, but NIfTI has 1 to 7; export the file again")
    remarks: list[str] = []
    return NiftiHeader(
        version,
        tuple(int(n) for n in fields["dim"][1 : axes + 1]),
        _stored(int(fields["datatype"]), order, where),
        _offset(fields["vox_offset"], version, where),
        _affine(fields, version, where, remarks),
        *_scale(float(fields["scl_slope"]), float(fields["scl_inter"]), where),
        tuple(remarks),
        fields,
    )


def _version(block: bytes, where: str) -> int:
    size = size_of(block)
    magic = block[4:8] if size == BYTES[2] else block[344:348]
    if magic in (b"ni1\0", b"ni2\0"):
        raise InvalidInput(
            f"{where}: is the header of a header/image pair (.hdr and .img); convert the pair to one .nii.gz file, "
            "for instance with nibabel.load and nibabel.save"
        )
    if len(block) < size:
        raise DamagedFile(
            f"{where}: the header is cut short: {len(block)} of {size} bytes; copy or export the file again"
        )
    version = {b"n+1\0": 1, b"n+2\0": 2}.get(magic)
    if version is None:
        raise DamagedFile(
            f"{where}: is not a NIfTI file: it begins with {block[:16]!r} and lacks the mark 'n+1' or 'n+2'; "
            "convert it to NIfTI, or download it again"
        )
    return version


def _fields(block: bytes, version: int) -> tuple[Any, str]:
    """Give the fields of a header by name, and the byte order it is written in."""
    little = np.frombuffer(block, _layout(version, "<"), 1)[0]
    big = np.frombuffer(block, _layout(version, ">"), 1)[0]
    if little["sizeof_hdr"] != BYTES[version] and (
        big["sizeof_hdr"] == BYTES[version] or not 1 <= little["dim"][0] <= 7
    ):
        return big, ">"
    return little, "<"


@cache
def _layout(version: int, order: Literal["<", ">"]) -> np.dtype[Any]:
    names, formats, offsets = zip(*_FIELDS[version], strict=True)
    native = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": BYTES[version]})
    return native.newbyteorder(order)


def _stored(code: int, order: str, where: str) -> np.dtype[Any]:
    if code in _NUMBERS:
        return np.dtype(order + _NUMBERS[code])
    raise InvalidInput(
        f"{where}: its voxels are {_OTHERS.get(code, f'of the unknown type {code}')}, but integers or floats of at "
        "most 64 bits are needed; convert it to one number per voxel first"
    )


def _offset(value: Any, version: int, where: str) -> int:
    if not value >= FIRST_VOXEL[version] or math.isinf(value):
        raise DamagedFile(
            f"{where}: vox_offset {value:g} puts the voxels inside the header, expected >= {FIRST_VOXEL[version]}; "
            "export the file again"
        )
    return int(value)


def _scale(slope: float, intercept: float, where: str) -> tuple[float, float]:
    if slope == 0 or not math.isfinite(slope):
        return 1.0, 0.0
    if not math.isfinite(intercept):
        raise InvalidInput(
            f"{where}: its scaling cannot be worked with: slope {slope:g}, intercept {intercept:g}; "
            "export the file again"
        )
    return slope, intercept


def _affine(fields: Any, version: int, where: str, remarks: list[str]) -> NDArray[np.float64]:
    codes = {}
    for name in ("sform_code", "qform_code"):
        codes[name] = int(fields[name])
        if codes[name] not in _XFORM_CODES:
            remarks.append(f"{name} {codes[name]} is none of the standard's; taken as 0")
            codes[name] = 0
    if (fields["pixdim"][1:4] <= 0).any():
        told = fields["pixdim"][1:4].astype(np.float64).tolist()
        remarks.append(f"voxel sizes {told} should be positive; zeros are taken as 1, signs dropped")
    sizes = _sizes(fields)
    affine = np.eye(4)
    if codes["sform_code"]:
        affine[:3] = fields["srow"]
    elif codes["qform_code"]:
        affine = _qform(fields, version, where, sizes)
    else:
        sizes[0] = -sizes[0]
        affine[:3, :3] = np.diag(sizes)
        affine[:3, 3] = (1 - fields["dim"][1:4].astype(np.float64)) / 2 * sizes
    if not np.isfinite(affine).all():
        raise InvalidInput(f"{where}: its affine {affine[:3].tolist()} is not finite; export the file again")
    return affine


def _sizes(fields: Any) -> NDArray[np.float64]:
    """Voxel sizes, repaired."""
    sizes: NDArray[np.float64] = np.abs(fields["pixdim"][1:4].astype(np.float64))
    sizes[sizes == 0] = 1
    return sizes


def _qform(fields: Any, version: int, where: str, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    affine = np.eye(4)
    signed = sizes * (1, 1, -1 if fields["pixdim"][0] == -1 else 1)
    affine[:3, :3] = _rotation(fields["quatern"], version, where) * signed
    affine[:3, 3] = fields["qoffset"]
    return affine


def _rotation(quaternion: NDArray[Any], version: int, where: str) -> NDArray[Any]:
    """Rotation matrix of the unit quaternion a + bi + cj + dk, a >= 0, of which (b, c, d) is given."""
    b, c, d = quaternion.astype(np.longdouble)
    rest = 1 - (b * b + c * c + d * d)  # what is left for a²
    if rest < -QUATERNION_EPS[version]:
        raise InvalidInput(
            f"{where}: its orientation cannot be worked with: quaternion {quaternion.tolist()} is longer than 1; "
            "export the file again"
        )
    a = np.sqrt(rest) if rest > QUATERNION_EPS[version] else 0
    s = 2 / (a * a + b * b + c * c + d * d)
    bs, cs, ds = b * s, c * s, d * s
    return np.array(
        [
            [1 - (c * cs + d * ds), b * cs - a * ds, b * ds + a * cs],
            [b * cs + a * ds, 1 - (b * bs + d * ds), c * ds - a * bs],
            [b * ds - a * cs, c * ds + a * bs, 1 - (b * bs + c * cs)],
        ]
    )
