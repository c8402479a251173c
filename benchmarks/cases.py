"""The content grid: named, deterministic label volumes that every component benchmark and test is run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Shape3 = tuple[int, int, int]
REFERENCE: Shape3 = (512, 512, 160)
SEED = 20240607

Volume = NDArray[Any]  # (z, y, x) in C order while it is filled: (x, y, z) in Fortran order once turned


def content(name: str, shape: Shape3 = REFERENCE, dtype: DTypeLike = np.uint8) -> Volume:
    """Fortran-ordered (x, y, z) labels of the kind `name` (a key of `CONTENTS`)."""
    x, y, z = shape
    volume = np.zeros((z, y, x), dtype)
    CONTENTS[name](volume, np.random.default_rng(SEED))
    return volume.T


def _empty(_volume: Volume, _rng: np.random.Generator) -> None:
    pass


def _one_voxel(volume: Volume, _rng: np.random.Generator) -> None:
    volume[tuple(n // 2 for n in volume.shape)] = 1


def _sparse_lesions(volume: Volume, rng: np.random.Generator) -> None:
    """Sixty lesions of 0.2 to 2 % of the field of view each: far below 0.1 % foreground."""
    _ellipsoids(volume, rng, count=60, smallest=0.002, largest=0.02)


def _organ_blobs(volume: Volume, rng: np.random.Generator) -> None:
    """Organs and vessels in one mask: about 2.8 % foreground, 1700 components over the axial slices."""
    _ellipsoids(volume, rng, count=185, smallest=0.012, largest=0.075)


def _atlas(volume: Volume, rng: np.random.Generator) -> None:
    """A head of wavy touching regions, 117 labels, 21 % foreground."""
    planes, rows, columns = volume.shape
    y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    names = rng.permutation(np.arange(5 * 8 * 8) % 117 + 1).reshape(5, 8, 8).astype(volume.dtype)
    for plane, z in zip(volume, np.linspace(-1, 1, planes), strict=True):
        waves = 0.1 * np.sin(7 * x + 3 * z) * np.cos(5 * y), 0.1 * np.cos(6 * y - 2 * z) * np.sin(4 * x + z)
        k = np.intp((z + 1) / 2 * 4.999)
        j, i = (np.clip((a + wave + 1) * 4, 0, 7.999).astype(np.intp) for a, wave in zip((y, x), waves, strict=True))
        head = x**2 + y**2 * 0.8 + z**2 < 0.525
        plane[head] = names[k][j, i][head]


def _noise50(volume: Volume, rng: np.random.Generator) -> None:
    for plane in volume:
        plane[...] = rng.integers(0, 2, plane.shape, np.uint8)


def _checkerboard(volume: Volume, _rng: np.random.Generator) -> None:
    z, y, x = np.ogrid[tuple(slice(n) for n in volume.shape)]
    even = ((y + x) % 2).astype(volume.dtype)[0]
    for plane, parity in zip(volume, z.ravel() % 2, strict=True):
        plane[...] = even ^ parity.astype(volume.dtype)


def _all_foreground(volume: Volume, _rng: np.random.Generator) -> None:
    volume[...] = 1


def _ellipsoids(volume: Volume, rng: np.random.Generator, count: int, smallest: float, largest: float) -> None:
    """Ellipsoids with half axes in fractions of the field of view, in the middle two thirds of it."""
    size = np.array(volume.shape)
    for _ in range(count):
        middle = size * rng.uniform(1 / 6, 5 / 6, 3)
        half = np.maximum(size * np.exp(rng.uniform(np.log(smallest), np.log(largest), 3)), 0.6)
        start = np.maximum(np.ceil(middle - half), 0).astype(int)
        stop = np.minimum(np.floor(middle + half) + 1, size).astype(int)
        z, y, x = (((np.arange(a, b) - m) / h) ** 2 for a, b, m, h in zip(start, stop, middle, half, strict=True))
        box = volume[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]]
        box[z[:, None, None] + y[:, None] + x <= 1] = 1


CONTENTS: dict[str, Callable[[Volume, np.random.Generator], None]] = {
    "empty": _empty,
    "one_voxel": _one_voxel,
    "sparse_lesions": _sparse_lesions,
    "organ_blobs": _organ_blobs,
    "atlas": _atlas,
    "noise50": _noise50,
    "checkerboard": _checkerboard,
    "all_foreground": _all_foreground,
}
