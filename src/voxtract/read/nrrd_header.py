"""The header of a NRRD file decoded.

Format: https://teem.sourceforge.net/nrrd/format.html (magic NRRD0001 to NRRD0005). Text lines up to an empty one:
``field: value``, ``key:=value`` and comments. Array axis i belongs to entry i of every field, the first axis is the
fastest in the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.geometry import Shape3
from voxtract.read.stored import times

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST = 1 << 20  # bytes of a header; those with thousands of gradient directions stay below
_MAGIC = re.compile(r"NRRD000[1-5]")
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: code for code, names in _TYPES.items() for name in names}
_ENCODINGS: dict[str, Literal["raw", "gzip"]] = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
_SPACES = {  # what turns a vector of that space into RAS+
    "right-anterior-superior": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
}
_SHORT = {"ras": "right-anterior-superior", "las": "left-anterior-superior", "lps": "left-posterior-superior"}
_UNITS_MM = {"": 1.0, "mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "nm": 1e-6}
_OTHER_NAMES = {  # spellings that the format allows
    "axismins": "axis mins",
    "axismaxs": "axis maxs",
    "datafile": "data file",
    "lineskip": "line skip",
    "byteskip": "byte skip",
}
_ALONG_SPACE = {"domain", "space", "???", "none"}


@dataclass(frozen=True, eq=False, slots=True)
class NrrdHeader:
    """What the header of a NRRD file says about its voxels, checked.

    Parameters
    ----------
    shape : (x, y, z)
        Axes of the volume in the order of the file.
    frames : int
        Volumes that lie one after the other.
    stored : numpy.dtype
        With the file's byte order.
    encoding : {"raw", "gzip"}
    end : int
        Byte at which the header ends.
    data_file : str, optional
        Name of the file with the voxels, relative to the header's folder; None: they follow the header.
    line_skip, byte_skip : int
        What is passed over before the voxels; a `byte_skip` of -1 means that the raw voxels end the file.
    affine : (4, 4) float64
        RAS+ mm.
    space : str
        The space by its long name; empty where the header names none, and the affine is a guess.
    remarks : tuple of str
        What a person should know.
    """

    shape: Shape3
    frames: int
    stored: np.dtype[Any]
    encoding: Literal["raw", "gzip"]
    end: int
    data_file: str | None
    line_skip: int
    byte_skip: int
    affine: NDArray[np.float64]
    space: str
    remarks: tuple[str, ...]


def end_of(block: bytes) -> int:
    """Bytes up to and with the empty line that ends the header; 0 where `block` has none."""
    found = re.search(rb"\r?\n\r?\n", block)
    return found.end() if found else 0


def decode(block: bytes, where: str) -> NrrdHeader:
    """Decode a header.

    Parameters
    ----------
    block : bytes
        The header and nothing else; without an empty line at its end it is that of a detached file.
    where : str
        For messages.

    Raises
    ------
    DamagedFile
        No NRRD header, or fields that are missing or contradict each other.
    InvalidInput
        A NRRD file that is not one 3D volume of real numbers that lie in one raw or gzip file.
    """
    return _Fields.of(block, where).header(len(block))


@dataclass(frozen=True, slots=True)
class _Fields:
    """Field values by name, as text, and how to say what is wrong with one."""

    values: Mapping[str, str]
    where: str

    @classmethod
    def of(cls, block: bytes, where: str) -> _Fields:
        first, *lines = block.decode("utf-8", "replace").splitlines() or [""]
        if not _MAGIC.fullmatch(first.rstrip()):
            raise DamagedFile(
                f"{where}: is not a NRRD file: it begins with {block[:16]!r}, expected 'NRRD0001' to 'NRRD0005'; "
                "convert it to NRRD, or download it again"
            )
        values: dict[str, str] = {}
        for number, line in enumerate(lines, 2):
            if line.startswith("#") or not line.strip() or re.match(r"[^:]*:=", line):
                continue
            name, colon, value = line.partition(":")
            name = _OTHER_NAMES.get(name.strip().lower(), name.strip().lower())
            if not colon or name in values:
                fault = f"the field {name!r} is there twice" if colon else f"{line[:40]!r} has no colon"
                raise DamagedFile(f"{where}: line {number} of the header: {fault}; export the file again")
            values[name] = value.strip()
        return cls(values, where)

    def header(self, end: int) -> NrrdHeader:
        sizes = self._sizes()
        stored = self._stored()
        remarks: list[str] = []
        space, axes, affine = self._placed(sizes, remarks)
        shape = (sizes[axes[0]], sizes[axes[1]], sizes[axes[2]])
        return NrrdHeader(
            shape,
            math.prod(sizes) // math.prod(shape),
            stored,
            self._encoding(),
            end,
            self._data_file(),
            self._integer("line skip", 0, least=0),
            self._integer("byte skip", 0, least=-1),
            affine,
            space,
            tuple(remarks),
        )

    # --- single fields

    def _sizes(self) -> tuple[int, ...]:
        dimension = self._integer("dimension", None, least=1)
        words = self._needed("sizes").split()
        if len(words) != dimension or not all(re.fullmatch(r"\d{1,18}", word) for word in words):
            raise self._broken("sizes", f"{dimension} whole numbers")
        sizes = tuple(map(int, words))
        if min(sizes) < 1:
            raise self._unusable(f"has the shape {times(sizes)}, which holds no voxel", "every axis >= 1")
        if dimension not in (3, 4):
            raise self._unusable(
                f"has {dimension} axes ({times(sizes)})", "3, or 4 with frames last", "split or stack it first"
            )
        return sizes

    def _stored(self) -> np.dtype[Any]:
        name = self._needed("type").lower()
        if name == "block":
            raise self._unusable("has voxels of type 'block'", "integers or floats", "convert it first")
        if name not in _DTYPES:
            raise self._broken("type", "a NRRD type such as 'short'")
        dtype = np.dtype(_DTYPES[name])
        if dtype.itemsize == 1:
            return dtype
        endian = self._needed("endian").lower()
        if endian not in ("little", "big"):
            raise self._broken("endian", "'little' or 'big'")
        return dtype.newbyteorder("<" if endian == "little" else ">")

    def _encoding(self) -> Literal["raw", "gzip"]:
        encoding = _ENCODINGS.get(self._needed("encoding").lower())
        if encoding is None:
            raise self._unusable(
                f"has the encoding {self.values['encoding']!r}", "'raw' or 'gzip'", "save it again with gzip"
            )
        return encoding

    def _data_file(self) -> str | None:
        name = self.values.get("data file")
        if name is None:
            return None
        if name.upper().startswith("LIST") or re.search(r"%\d*d", name):
            raise self._unusable("spreads its voxels over several data files", "one", "join them to one file first")
        parts = name.replace("\\", "/").split("/")
        if not name or "\0" in name or ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise self._unusable(f"names the data file {name!r}", "one inside its own folder", "move the data there")
        return name

    # --- where the voxels lie

    def _placed(self, sizes: tuple[int, ...], remarks: list[str]) -> tuple[str, tuple[int, ...], NDArray[np.float64]]:
        """Give the long name of the space, the axes of the volume, and the affine."""
        space = self.values.get("space", "").lower()
        space = _SHORT.get(space, space)
        signs = _SPACES.get(space)
        if signs is None:
            told = f"the space {space!r} says" if space else "no space says"
            remarks.append(f"{told} which way is right, anterior and superior; its axes are taken as RAS")
            space, signs = "", (1, 1, 1)
        directions = self._vectors("space directions", len(sizes))
        axes = self._axes(sizes, directions)
        columns = self._columns(axes, directions, len(sizes), remarks)
        origin = self._vectors("space origin", 1)
        if origin is None and space:
            remarks.append("no space origin; the first voxel is taken as 0, 0, 0 mm")
        affine = np.eye(4)
        affine[:3, :3] = columns
        affine[:3, 3] = (origin or [None])[0] or (0.0, 0.0, 0.0)
        affine[:3] *= self._unit_mm(remarks)
        affine[:3] *= np.array(signs)[:, None]
        affine += 0.0  # no -0.0
        if not np.isfinite(affine).all():
            raise self._unusable(f"has the affine {affine[:3].tolist()}", "finite numbers")
        return space, axes, affine

    def _axes(self, sizes: tuple[int, ...], directions: list[_Vector | None] | None) -> tuple[int, ...]:
        """Find the three axes of the volume; a fourth that holds more than one number must be the last."""
        axes = tuple(range(len(sizes)))
        if directions is not None:
            axes = tuple(axis for axis in axes if directions[axis] is not None)
        elif "kinds" in self.values:
            kinds = self.values["kinds"].lower().split()
            if len(kinds) != len(sizes):
                raise self._broken("kinds", f"{len(sizes)} words")
            axes = tuple(axis for axis in axes if kinds[axis] in _ALONG_SPACE)
        elif len(sizes) == 4:
            axes = (0, 1, 2)
        others = [size for axis, size in enumerate(sizes) if axis not in axes]
        if len(axes) != 3 or (axes != (0, 1, 2) and others != [1]):
            raise self._unusable(
                f"has the axes {times(sizes)}, {len(axes)} of them in space", "3, then frames", "split it first"
            )
        return axes

    def _columns(
        self, axes: tuple[int, ...], directions: list[_Vector | None] | None, dimension: int, remarks: list[str]
    ) -> NDArray[np.float64]:
        """(3, 3): column i is one step along axis i of the volume."""
        if directions is not None:
            return np.array([directions[axis] for axis in axes], np.float64).T
        if "spacings" not in self.values:
            remarks.append("neither space directions nor spacings; voxels are taken as 1 mm")
            return np.eye(3)
        words = self.values["spacings"].split()
        try:
            spacings = [float(word) for word in words]
        except ValueError:
            spacings = []
        if len(spacings) != dimension:
            raise self._broken("spacings", f"{dimension} numbers")
        known = [1.0 if math.isnan(spacings[axis]) else spacings[axis] for axis in axes]
        if known != [spacings[axis] for axis in axes]:
            remarks.append(f"spacings {self.values['spacings']} are not all known; taken as 1 mm")
        return np.diag(known)

    def _unit_mm(self, remarks: list[str]) -> float:
        units = {unit.strip() for unit in re.findall(r'"([^"]*)"', self.values.get("space units", ""))}
        if len(units) > 1:
            raise self._unusable(f"has the space units {sorted(units)}", "the same for all axes")
        unit = next(iter(units), "")
        if unit not in _UNITS_MM:
            remarks.append(f"the space unit {unit!r} is not known; taken as mm")
        return _UNITS_MM.get(unit, 1.0)

    # --- values

    def _needed(self, name: str) -> str:
        if name not in self.values:
            raise DamagedFile(f"{self.where}: its header lacks the field {name!r}; export the file again")
        return self.values[name]

    def _integer(self, name: str, default: int | None, least: int) -> int:
        text = str(default) if default is not None and name not in self.values else self._needed(name)
        if not re.fullmatch(r"-?\d{1,18}", text) or int(text) < least:
            raise self._broken(name, f"a whole number of at least {least}")
        return int(text)

    def _vectors(self, name: str, count: int) -> list[_Vector | None] | None:
        """Read ``(a,b,c) none (d,e,f)``; None where the field is missing."""
        if name not in self.values:
            return None
        found = re.findall(r"none|\([^()]*\)", self.values[name])
        if len(found) != count or re.sub(r"none|\([^()]*\)|\s", "", self.values[name]):
            raise self._broken(name, f"{count} times three numbers, as in (1,0,0)")
        return [None if text == "none" else self._vector(name, text) for text in found]

    def _vector(self, name: str, text: str) -> _Vector:
        try:
            x, y, z = map(float, text.strip("()").split(","))
        except ValueError as fault:
            raise self._broken(name, "vectors of three numbers, as in (1,0,0)") from fault
        return x, y, z

    def _broken(self, name: str, expected: str) -> DamagedFile:
        found = self.values[name]
        return DamagedFile(f"{self.where}: its header has {name} {found!r}, expected {expected}; export the file again")

    def _unusable(self, found: str, expected: str, advice: str = "export the file again") -> InvalidInput:
        return InvalidInput(f"{self.where}: {found}, but a volume has {expected}; {advice}")


_Vector = tuple[float, float, float]
