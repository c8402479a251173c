"""A small data set to try everything on: CT-like phantoms with known lesions, and one real MR scan.

Nothing is downloaded. The phantoms are drawn here from ellipsoids, with a fixed seed; the MR scan is the one that
ships inside nibabel's own package data. What a phantom holds is known exactly, because every lesion is a union of
ellipsoids whose middles lie on voxels: `Lesion.box` says from the formula alone where a component has to be found.

The phantoms look like a CT when windowed. They are drawings, not anatomy; the classes are names, not diagnoses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voxtract.errors import NotFound
from voxtract.geometry import Box, Grid, Reorientation
from voxtract.write import nifti
from voxtract.write.files import Staging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Vector = tuple[float, float, float]
    Voxels = NDArray[np.float32]

CLASSES = {1: "lung nodule", 2: "liver lesion", 3: "bone metastasis", 4: "bright tissue"}

_AIR, _LUNG, _FAT, _FLUID, _MUSCLE, _SKIN = -1000.0, -860.0, -100.0, 12.0, 55.0, 20.0  # Hounsfield units
_LESION_HU = {1: 45.0, 2: 40.0, 3: 30.0}
_BODY_MM = (164.0, 116.0)  # half width and half depth of the trunk
_MR_FILE = ("tests", "data", "example4d.nii.gz")  # in nibabel: EPI of a head, 128 x 96 x 24 voxels, 2 frames


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """Points with ``sum(((point - center) / radius) ** 2) <= 1``, in RAS+ millimetres, axes along R, A and S."""

    center_mm: Vector
    radius_mm: Vector


@dataclass(frozen=True, slots=True)
class Lesion:
    """One connected piece of one class: a union of ellipsoids whose middles are voxels.

    >>> ball = Ellipsoid((8.0, 6.0, 10.0), (4.8, 4.8, 10.8))
    >>> Lesion(2, (ball,)).box(np.diag([2.0, 2.0, 5.0, 1.0]))
    Box(start=(2, 1, 0), stop=(7, 6, 5))
    """

    label: int
    parts: tuple[Ellipsoid, ...]

    def box(self, affine: NDArray[np.float64]) -> Box:
        """Find the voxels that the lesion takes in a volume stored with `affine` (4, 4), without a look at the volume.

        From the middle of each ellipsoid as many whole voxels to either side as fit its radius. Exact where each
        voxel axis runs along R, A or S.
        """
        to_voxel = np.linalg.inv(affine)
        middle = np.array([to_voxel[:3, :3] @ part.center_mm + to_voxel[:3, 3] for part in self.parts])
        reach = np.floor([np.abs(to_voxel[:3, :3]) @ part.radius_mm for part in self.parts])
        start = np.rint(middle - reach).min(axis=0)
        stop = np.rint(middle + reach).max(axis=0) + 1
        return Box(tuple(map(int, start)), tuple(map(int, stop)))


@dataclass(frozen=True, slots=True)
class DemoCase:
    """One image and its label volume, under the same name in two folders.

    Parameters
    ----------
    id : str
        File name without ``.nii.gz``.
    image, labels : Path
    about : str
        What is special about the case, in one line.
    lesions : tuple of Lesion
        Every component (26 neighbours) of the label volume; empty for the MR scan, where no truth is known.
    """

    id: str
    image: Path
    labels: Path
    about: str
    lesions: tuple[Lesion, ...] = ()


@dataclass(frozen=True, slots=True)
class DemoData:
    """The data set: folders ``images`` and ``labels`` with the same file names, and what is in them."""

    images: Path
    labels: Path
    cases: tuple[DemoCase, ...]


def make_data_set(folder: str | Path) -> DemoData:
    """Write the data set below `folder`: ``images/<case>.nii.gz`` and ``labels/<case>.nii.gz``, four cases.

    The same bytes on every run with the same versions of NumPy, SciPy and zlib. Takes a second, needs no
    network.

    Parameters
    ----------
    folder : path
        Made if it is missing; files of an earlier run are replaced.

    Raises
    ------
    NotFound
        The installed nibabel came without its test data.
    OutputError
        The folder cannot be made or written to.
    """
    root = Path(folder)
    with Staging(root) as staging:
        return DemoData(root / "images", root / "labels", (*_write_phantoms(root, staging), _write_mr(root, staging)))


# ---------------------------------------------------------------------------------------------------- the files


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How one phantom is drawn and stored."""

    id: str
    about: str
    seed: int
    shape: tuple[int, int, int]  # along R, A, S, whatever the stored order
    spacing_mm: Vector
    codes: str  # orientation on disk
    intercept: float  # on disk: Hounsfield = stored + intercept; uint16 unless 0


_RECIPES = (
    _Recipe("ct-01", "RAS, int16 Hounsfield units", 11, (192, 160, 52), (1.9, 1.9, 4.6), "RAS", 0.0),
    _Recipe("ct-02-lps", "LPS, uint16 with intercept -1024", 22, (176, 176, 60), (2.05, 2.05, 4.0), "LPS", -1024.0),
    _Recipe("ct-03-asl", "axes permuted: A, S, L", 33, (184, 144, 96), (2.0, 2.1, 2.5), "ASL", 0.0),
)


def _write_phantoms(root: Path, staging: Staging) -> list[DemoCase]:
    cases = []
    for recipe in _RECIPES:
        grid = _centered(recipe.shape, recipe.spacing_mm)
        rng = np.random.default_rng(recipe.seed)
        lesions = _lesions(grid, recipe.seed)
        labels = _draw_labels(lesions, grid)
        image = np.rint(_draw_ct(grid, labels, rng)) - recipe.intercept
        image = image.astype(np.uint16 if recipe.intercept else np.int16)
        store = Reorientation.between(grid, recipe.codes)
        affine = store.grid(grid).affine
        case = _case(root, recipe.id, f"CT-like phantom, {recipe.about}", lesions)
        _write_case(staging, case, store.array(image), store.array(labels), affine, recipe.intercept)
        cases.append(case)
    return cases


def _case(root: Path, name: str, about: str, lesions: tuple[Lesion, ...] = ()) -> DemoCase:
    file = f"{name}.nii.gz"
    return DemoCase(name, root / "images" / file, root / "labels" / file, about, lesions)


def _write_case(
    staging: Staging,
    case: DemoCase,
    image: NDArray[np.generic],
    labels: NDArray[np.generic],
    affine: NDArray[np.float64],
    intercept: float = 0.0,
) -> None:
    for path, data, offset in ((case.image, image, intercept), (case.labels, labels, 0.0)):
        staging.write(f"{path.parent.name}/{path.name}", nifti.encode(data, affine, intercept=offset))


def _centered(shape: tuple[int, int, int], spacing_mm: Vector) -> Grid:
    """RAS grid with the middle voxel at the origin."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-(n // 2) * d for n, d in zip(shape, spacing_mm, strict=True)]
    return Grid(shape, affine)


def _write_mr(root: Path, staging: Staging) -> DemoCase:
    """Store the first frame of nibabel's head scan, and what is bright in it.

    "Bright tissue" is a threshold and nothing else. The coils make the rim of the head bright, so each voxel
    (smoothed by one voxel) is divided by the mean of the head around it (Gaussian of 8 voxels); what is above the
    97th percentile inside the head (above a third of the 99th percentile, less a rim of 8 voxels) is taken, in
    pieces of at least 30 voxels.
    """
    import nibabel
    from scipy import ndimage

    path = Path(nibabel.__file__).parent.joinpath(*_MR_FILE)
    try:
        scan = nibabel.Nifti1Image.from_filename(path)
    except FileNotFoundError as why:
        raise NotFound(f"{path}: the MR scan of nibabel's package data is missing; install nibabel with pip") from why
    image = np.asarray(scan.dataobj)[..., 0]
    smooth = ndimage.gaussian_filter(image.astype(np.float32), 1.0)
    head = ndimage.binary_fill_holes(smooth > np.percentile(smooth, 99) / 3)
    share = ndimage.gaussian_filter(head.astype(np.float32), 8.0)
    contrast = smooth * share / (ndimage.gaussian_filter(smooth * head, 8.0) + 1)
    inner = ndimage.binary_erosion(head, iterations=8, border_value=1)
    bright = inner & (contrast > np.percentile(contrast[inner], 97))
    pieces, _ = ndimage.label(bright, structure=np.ones((3, 3, 3)))
    large = np.bincount(pieces.ravel()) >= 30
    large[0] = False
    about = "real MR scan from nibabel's package data (example4d, first frame), oblique, LAS"
    case = _case(root, "mr-head", about)
    _write_case(staging, case, image, large[pieces] * np.uint8(4), scan.affine)
    return case


# -------------------------------------------------------------------------------------------------- the lesions


def _lesions(grid: Grid, seed: int) -> tuple[Lesion, ...]:
    """Place the lesions of one phantom: the same kinds in each, a little moved and scaled by the seed."""
    rng = np.random.default_rng(seed + 1)

    def ball(center: Vector, radius: Vector) -> Ellipsoid:
        shift, scale = rng.uniform(-4, 4, 3), rng.uniform(1.0, 1.35)
        return _snapped(grid, np.add(center, shift), np.multiply(radius, scale))

    fork = ball((78, -2, -62), (9, 9, 7))
    metastasis = ball((125, 4, 28), (7, 9, 8))
    return (
        Lesion(1, (ball((-86, 8, 60), (9, 9, 9)),)),
        Lesion(1, (ball((62, 42, 78), (6, 6, 7)),)),
        Lesion(1, (ball((88, -48, 25), (12, 9, 10)),)),
        Lesion(1, _chain(grid, ball((-60, -38, 88), (8, 7, 6)), ((9, 4, 4), (-3, 10, -4)))),  # spiculated
        Lesion(2, (ball((96, 30, -30), (13, 11, 11)),)),
        # two prongs that are apart in the upper slices and one lesion below
        Lesion(2, (fork, *_prongs(grid, fork))),
        Lesion(2, _chain(grid, ball((52, 50, -38), (9, 9, 8)), ((8, 6, 0), (-6, 5, 5)))),
        Lesion(3, (metastasis,)),
        Lesion(1, (_beside(grid, metastasis, (11, 10, 9)),)),  # touches the metastasis: two classes, two boxes
        Lesion(3, (ball((6, -62, 38), (8, 8, 8)),)),
        Lesion(3, (ball((0, -60, -55), (10, 8, 9)),)),
    )


def _snapped(grid: Grid, center_mm: NDArray[np.float64], radius_mm: NDArray[np.float64]) -> Ellipsoid:
    """Move the middle onto the nearest voxel and give the radius a safe distance from whole voxels."""
    spacing, origin = np.array(grid.spacing_mm), grid.affine[:3, 3]
    center = np.rint((center_mm - origin) / spacing) * spacing + origin
    radius = (np.maximum(np.rint(radius_mm / spacing), 1) + 0.4) * spacing
    return Ellipsoid(_vector(center), _vector(radius))


def _vector(values: NDArray[np.float64]) -> Vector:
    x, y, z = values.tolist()
    return x, y, z


def _chain(grid: Grid, first: Ellipsoid, shifts: Sequence[Vector]) -> tuple[Ellipsoid, ...]:
    """`first` and smaller ellipsoids that stick out of it."""
    center, radius = np.array(first.center_mm), np.array(first.radius_mm)
    return (first, *(_snapped(grid, center + shift, 0.65 * radius) for shift in shifts))


def _prongs(grid: Grid, base: Ellipsoid) -> tuple[Ellipsoid, Ellipsoid]:
    """Two tall ellipsoids that rise from the left and the right end of `base`."""
    center, radius = np.array(base.center_mm), np.array(base.radius_mm)
    shift = radius * (1.1, 0, 2.0)
    left, right = (_snapped(grid, center + shift * (side, 1, 1), radius * (0.55, 0.6, 1.9)) for side in (-1, 1))
    return left, right


def _beside(grid: Grid, other: Ellipsoid, radius_mm: Vector) -> Ellipsoid:
    """Place an ellipsoid left (-x) of `other`: the last voxel of one and the first of the other are neighbours."""
    spacing = grid.spacing_mm[0]
    own = _snapped(grid, np.array(other.center_mm), np.array(radius_mm))
    apart = (other.radius_mm[0] // spacing + own.radius_mm[0] // spacing + 1) * spacing
    return Ellipsoid((other.center_mm[0] - apart, *other.center_mm[1:]), own.radius_mm)


def _draw_labels(lesions: Sequence[Lesion], grid: Grid) -> NDArray[np.uint8]:
    labels = np.zeros(grid.shape, np.uint8)
    for lesion in lesions:
        for part in lesion.parts:
            where, inside = _inside(grid, part)
            labels[where][inside] = lesion.label
    return labels


def _inside(grid: Grid, part: Ellipsoid) -> tuple[tuple[slice, slice, slice], NDArray[np.bool_]]:
    """Cut out the part of the grid around an ellipsoid, and say which of its voxels are inside."""
    where = []
    total: NDArray[np.float64] | float = 0.0
    for axis in range(3):
        center, radius = part.center_mm[axis], part.radius_mm[axis]
        origin, spacing = grid.affine[axis, 3], grid.spacing_mm[axis]
        low = max(int(np.ceil((center - radius - origin) / spacing)), 0)
        high = min(int(np.floor((center + radius - origin) / spacing)) + 1, grid.shape[axis])
        line = ((np.arange(low, max(high, low)) * spacing + origin - center) / radius) ** 2
        total = total + line.reshape([-1 if a == axis else 1 for a in range(3)])
        where.append(slice(low, max(high, low)))
    return (where[0], where[1], where[2]), np.asarray(total <= 1)


# ---------------------------------------------------------------------------------------------------- the image


def _draw_ct(grid: Grid, labels: NDArray[np.uint8], rng: np.random.Generator) -> Voxels:
    """Draw Hounsfield units (x, y, z): air, table, trunk, organs, bones, lesions; then blur and noise."""
    from scipy import ndimage

    x, y, z = _axes_mm(grid)
    width, depth = _BODY_MM
    # 1 on the skin; the trunk is a little flat at the back and narrower towards the shoulders and the hips
    waist = 1 - np.float32(0.05) * np.cos(z / 55)
    power = np.abs(x / (width * waist)) ** 2.3 + np.abs(y / (depth * waist)) ** 2.3
    trunk = np.power(power, np.float32(1 / 2.3), dtype=np.float32)
    image = np.full(grid.shape, _AIR, np.float32)
    table = np.abs(y + depth + 14 - (x / 190) ** 2 * 22) < 3
    image[np.broadcast_to(table & (np.abs(x) < 172), grid.shape)] = -120
    for edge, value in ((1.0, _SKIN), (0.98, _FAT), (0.87, _MUSCLE), (0.74, _FAT + 25)):
        image[trunk < edge] = value
    _draw_chest(image, grid, (x, y, z), trunk, rng)
    _draw_belly(image, grid, rng)
    _draw_bones(image, (x, y, z), trunk)
    for label, value in _LESION_HU.items():
        image[labels == label] = value
    in_plane = [0.9 / d for d in grid.spacing_mm[:2]]  # blur of 0.9 mm: edges as soft as a scanner's
    image = ndimage.gaussian_filter(image, (*in_plane, 0))
    noise = ndimage.gaussian_filter(rng.standard_normal(grid.shape, np.float32), (0.6, 0.6, 0))
    image += noise * np.float32(22) + _texture(grid.shape, rng, 9) * np.float32(7)
    return np.clip(image, -1024, 3071)


def _axes_mm(grid: Grid) -> tuple[Voxels, Voxels, Voxels]:
    lines = [
        (np.arange(n) * grid.spacing_mm[axis] + grid.affine[axis, 3]).astype(np.float32)
        for axis, n in enumerate(grid.shape)
    ]
    return lines[0][:, None, None], lines[1][None, :, None], lines[2][None, None, :]


def _texture(shape: tuple[int, ...], rng: np.random.Generator, grain: int) -> Voxels:
    """Smooth noise, standard deviation about 1: random values every `grain` voxels, linear in between."""
    values = rng.standard_normal([n // grain + 2 for n in shape]).astype(np.float32) * np.float32(1.6)
    for n in shape:  # each turn interpolates along the first axis and puts it last
        distance = np.abs(np.arange(n)[:, None] / grain - np.arange(n // grain + 2))
        values = np.tensordot(values, np.maximum(1 - distance, 0).astype(np.float32), axes=(0, 1))
    return values


def _paint(image: Voxels, grid: Grid, center_mm: Vector, radius_mm: Vector, value: float) -> None:
    where, inside = _inside(grid, Ellipsoid(center_mm, radius_mm))
    image[where][inside] = value


def _draw_chest(
    image: Voxels, grid: Grid, axes: tuple[Voxels, Voxels, Voxels], trunk: Voxels, rng: np.random.Generator
) -> None:
    """Two lungs with vessels above domed diaphragms, heart, great vessels, airways."""
    x, y, z = axes
    lung = np.zeros(grid.shape, bool)
    for side in (-1, 1):
        where, inside = _inside(grid, Ellipsoid((side * 76.0, 0.0, 18.0), (60.0, 88.0, 124.0)))
        lung[where] |= inside
    dome = -8 - ((np.abs(x) - 70) ** 2 + (y - 10) ** 2) / 160  # floor of the lungs, higher in the middle
    lung &= (trunk < 0.76) & (z > dome)
    image[lung] = _LUNG
    # where two smooth random fields are both near zero there are lines: they pass for vessels
    first, second = _texture(grid.shape, rng, 8), _texture(grid.shape, rng, 8)
    image[lung & (first**2 + second**2 < 0.05)] = 20
    _paint(image, grid, (-22.0, 22.0, 22.0), (52.0, 46.0, 40.0), _MUSCLE)
    _paint(image, grid, (-34.0, 16.0, 20.0), (28.0, 24.0, 26.0), 170)
    _paint(image, grid, (12.0, 26.0, 26.0), (24.0, 22.0, 24.0), 140)
    _paint(image, grid, (4.0, 26.0, 74.0), (17.0, 17.0, 30.0), 180)
    for side in (-1, 1):
        _paint(image, grid, (side * 16.0, -18.0, 84.0), (6.0, 7.0, 22.0), _AIR)
    _paint(image, grid, (0.0, -8.0, 118.0), (8.0, 9.0, 26.0), _AIR)


def _draw_belly(image: Voxels, grid: Grid, rng: np.random.Generator) -> None:
    """Liver with vessels, spleen, kidneys, stomach, bowel, aorta."""
    for _ in range(26):
        center = (rng.uniform(-75, 70), rng.uniform(0, 62), rng.uniform(-130, -80))
        _paint(image, grid, center, (14.0, 12.0, 15.0), float(rng.choice([_FLUID + 15, _MUSCLE, _MUSCLE - 10])))
    liver = Ellipsoid((66.0, 12.0, -48.0), (66.0, 68.0, 42.0))
    where, inside = _inside(grid, liver)
    branches = _texture(image[where].shape, rng, 9) ** 2 + _texture(image[where].shape, rng, 9) ** 2 < 0.03
    image[where][inside] = np.where(branches, 175, 112)[inside]
    _paint(image, grid, (14.0, 44.0, -42.0), (46.0, 28.0, 24.0), 112)
    _paint(image, grid, (-66.0, 32.0, -42.0), (34.0, 38.0, 30.0), _FLUID + 8)
    _paint(image, grid, (-92.0, -34.0, -40.0), (24.0, 34.0, 38.0), 128)
    for side in (-1, 1):
        _paint(image, grid, (side * 58.0, -44.0, -98.0), (23.0, 26.0, 44.0), 165)
        _paint(image, grid, (side * 50.0, -40.0, -98.0), (11.0, 12.0, 22.0), _FAT)
    _paint(image, grid, (-14.0, -34.0, -30.0), (11.0, 11.0, 400.0), 190)
    _paint(image, grid, (20.0, -28.0, -90.0), (12.0, 10.0, 130.0), 120)


def _draw_bones(image: Voxels, axes: tuple[Voxels, Voxels, Voxels], trunk: Voxels) -> None:
    """Spine of vertebrae and discs with canal and processes; ribs that run down to the front; breastbone."""
    x, y, z = axes
    back = y + 62
    muscle = ((np.abs(x) - 28) / 26) ** 2 + ((back + 22) / 18) ** 2 < 1
    image[np.broadcast_to(muscle, image.shape)] = _MUSCLE + 8
    vertebra = (x / 21) ** 2 + (back / 16) ** 2
    disc = np.cos(2 * np.pi * z / 30) < -0.86
    image[np.broadcast_to(vertebra < 1, image.shape)] = 520
    image[np.broadcast_to((vertebra < 0.78) & ~disc, image.shape)] = 240
    image[np.broadcast_to((vertebra < 0.9) & disc, image.shape)] = 85
    arch = (x / 17) ** 2 + ((back + 24) / 13) ** 2
    spine = (np.abs(x) < 3.5) & (np.abs(back + 40) < 12) & (np.cos(2 * np.pi * z / 30) > 0)
    wings = (np.abs(x) < 36) & (np.abs(back + 22 + np.abs(x) / 6) < 4) & (np.cos(2 * np.pi * z / 30) > 0.5)
    image[np.broadcast_to(((arch < 1) & (arch > 0.55)) | spine | wings, image.shape)] = 430
    image[np.broadcast_to(arch < 0.5, image.shape)] = _FLUID + 10
    around = np.arctan2(np.abs(x), -y)  # 0 at the back, pi in front
    rib = np.cos(2 * np.pi * (z + 34 * around) / 27)
    cage = (trunk > 0.77) & (trunk < 0.84) & (around > 0.3) & (around < 2.5) & (z > -75)
    image[cage & (rib > 0.45)] = 480
    image[cage & (trunk > 0.785) & (trunk < 0.825) & (rib > 0.72)] = 230
    breast = (np.abs(x) < 17) & (trunk > 0.78) & (trunk < 0.85) & (y > 0) & (z > 0)
    image[breast] = 300
