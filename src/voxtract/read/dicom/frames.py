"""The values that say where a frame's pixels are, how they are stored, what they mean and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Vector = tuple[float, float, float]
Mark = tuple[str, tuple[Any, ...]]
Storage = Literal["plain", "bits", "compressed", "whole"]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the pixels of a frame are stored.

    Parameters
    ----------
    rows, columns : int
    dtype : numpy.dtype
        Of a pixel, with the file's byte order.
    bits_stored, high_bit : int
        Bits of a number that count, and the highest of them.
    syntax : str
        Transfer syntax UID.
    storage : {"plain", "bits", "compressed", "whole"}
        One number after the other; a bit for each pixel; frame by frame compressed; or only as the whole file.
    count : int
        Frames in the file.
    """

    rows: int
    columns: int
    dtype: np.dtype[Any]
    bits_stored: int
    high_bit: int
    syntax: str
    storage: Storage
    count: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of a frame, uncompressed."""
        return self.rows * self.columns * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Table:
    """A modality LUT: the value of the stored number ``first + i`` is ``values[i]``; beyond its ends they go on."""

    first: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pixels of a frame lie in the patient (LPS+ mm, as DICOM has it).

    Parameters
    ----------
    position : (x, y, z)
        Center of the first pixel.
    orientation : 6 floats
        Directions in which the column and the row index grow, unit vectors.
    spacing : (row, column)
        Distance of neighbouring rows, and of neighbouring columns.
    """

    position: Vector
    orientation: tuple[float, ...]
    spacing: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """One plane of pixels.

    Parameters
    ----------
    path : str
    number : int
        In its file, 0-based.
    offset : int
        Byte of the file at which its pixels begin if they are stored plainly, else the value of the element that holds
        those of all frames.
    encoding : Encoding
    place : Place, optional
    thickness : float, optional
        Slice thickness in mm; says only how thick a single slice is.
    instance : int, optional
        Instance number of its file, which says nothing of where it lies.
    slope, intercept : float
    table : Table, optional
        Applied instead of slope and intercept.
    marks : (name, values), ...
        What may tell it from other frames at the same place.
    """

    path: str
    number: int
    offset: int
    encoding: Encoding
    place: Place | None
    thickness: float | None
    instance: int | None = None
    slope: float = 1.0
    intercept: float = 0.0
    table: Table | None = None
    marks: tuple[Mark, ...] = ()
