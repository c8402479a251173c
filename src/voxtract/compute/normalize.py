"""How a stored voxel becomes a pixel: scaling, normalisation, rounding, saturation.

Everything is one formula, ``pixel = clip((stored - shift) * gain + base)``, whose numbers `pixel_rule` works out
once per volume. The arithmetic is float64 and is rounded once, to the dtype of the image; `voxtract.compute.planes`
applies it to blocks that fit the cache, so that a volume is never held as float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from voxtract.compute.moments import BLOCK, Blocks, of_sums
from voxtract.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from voxtract.model import Header

NormalizationName = Literal["min-max", "z-score", "percentile"]
WindowName = Literal[
    "abdomen",
    "angio",
    "bone",
    "brain",
    "liver",
    "lung",
    "mediastinum",
    "soft-tissue",
    "spine",
    "stroke",
    "subdural",
    "temporal-bone",
]
# A pair is a window: (center, width) in units of the values, as are the WINDOWS.
Normalization = NormalizationName | WindowName | tuple[float, float] | None

# Windows of CT by name: (center, width) in Hounsfield units. Radiopaedia, "Windowing (CT)",
# https://radiopaedia.org/articles/windowing-ct, typical values; where it gives a range (subdural, and soft tissue of
# head and neck) a value within. It has none for vessels: "angio" is the preset "CT Angio" of RadiAnt and others.
WINDOWS: dict[WindowName, tuple[float, float]] = {
    "abdomen": (50, 400),
    "angio": (300, 600),
    "bone": (400, 1800),
    "brain": (40, 80),
    "liver": (30, 150),
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
    "soft-tissue": (40, 400),
    "spine": (50, 250),
    "stroke": (40, 40),
    "subdural": (75, 215),
    "temporal-bone": (600, 2800),
}

PERCENTILES = (0.5, 99.5)  # what nnU-Net clips CT to; a metal implant no longer sets the scale

# Stored dtypes that tifffile, Pillow and OpenCV all read back equal (tests/write/test_tiff.py asks them).
# Pillow takes int8 and uint32 for their neighbours of other sign and, like OpenCV, does not open float16.
KEPT_DTYPES = ("uint8", "int16", "uint16", "int32", "float32")
DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64")

_BLOCK = 1 << 16  # voxels: 512 KiB as float64, within L2
_HISTOGRAM_BLOCK = 1 << 18  # voxels: adding up 65,536 bins costs little beside counting these


class Statistics:
    """Numbers about all voxels of a volume, as stored; each is worked out when it is first asked for.

    Voxels that are NaN or infinite are left out. Without any finite voxel all numbers are 0.

    Parameters
    ----------
    data : (x, y, z) array
        Booleans, integers or floats in any memory order.

    Examples
    --------
    >>> seen = Statistics(np.array([[[1.0, 2.0, 6.0, np.nan]]]))
    >>> seen.extent, seen.moments[0]
    ((1.0, 6.0), 3.0)
    """

    def __init__(self, data: NDArray[Any]) -> None:
        data = np.asarray(data)
        self._data = data.view(np.uint8) if data.dtype == np.bool_ else data

    @cached_property
    def extent(self) -> tuple[float, float]:
        """Smallest and largest stored number."""
        ends = [(block.min(), block.max()) for block in _finite_blocks(self._data, self._data.dtype, _BLOCK)]
        return (float(min(low for low, _ in ends)), float(max(high for _, high in ends))) if ends else (0.0, 0.0)

    @cached_property
    def moments(self) -> tuple[float, float]:
        """Mean and (population) standard deviation of the stored numbers; see `voxtract.compute.moments`."""
        if self._data.dtype.kind in "iu" and self._data.dtype.itemsize <= 4:
            return of_sums(*_exact_sums(self._data))
        return Blocks.join([Blocks.of(numbers) for numbers in _whole_blocks(self._data)]).moments()

    @cached_property
    def percentiles(self) -> tuple[float, float]:
        """The `PERCENTILES` of the stored numbers, with linear interpolation (as `numpy.percentile`).

        Notes
        -----
        Exact and without sorting: a histogram of the upper 16 bits finds the bins of the ranks that are wanted; where
        a number has more bits, only the numbers in those few bins are gathered and partitioned.
        """
        dtype = np.dtype(np.float64) if self._data.dtype.itemsize > 8 else self._data.dtype.newbyteorder("=")
        order = _bins_in_order(dtype)
        counts = np.zeros(len(order), np.int64)
        for block in _finite_blocks(self._data, dtype, _HISTOGRAM_BLOCK):
            counts += np.bincount(_bins(block), minlength=len(order))
        upto = counts[order].cumsum()
        if not upto[-1]:
            return 0.0, 0.0
        places = [Place.of(percent, int(upto[-1])) for percent in PERCENTILES]
        ranks = sorted({rank for place in places for rank in (place.below, place.above)})
        at: dict[int, float] = {}
        for step, group in itertools.groupby(ranks, lambda rank: int(np.searchsorted(upto, rank, "right"))):
            here = list(group)
            members = self._members(dtype, int(order[step]))
            before = int(upto[step - 1]) if step else 0
            inside = [min(rank - before, len(members) - 1) for rank in here]
            members.partition(inside)
            at.update(zip(here, members[inside].tolist(), strict=True))
        low, high = (place.between(at[place.below], at[place.above]) for place in places)
        return low, high

    def _members(self, dtype: np.dtype[Any], key: int) -> NDArray[Any]:
        """Stored numbers of one bin; a single one where they are all the same."""
        if dtype.itemsize <= 2:
            return np.array([key], f"u{dtype.itemsize}").view(dtype)
        blocks = _finite_blocks(self._data, dtype, _HISTOGRAM_BLOCK)
        return np.concatenate([block[_bins(block) == key] for block in blocks])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a percentile lies among sorted values: between two ranks.

    Parameters
    ----------
    below, above : int
        Ranks, 0-based.
    fraction : float
        Of the way from the one to the other.
    """

    below: int
    above: int
    fraction: float

    @classmethod
    def of(cls, percent: float, count: int) -> Place:
        """The place of a percentile among `count` numbers."""
        position = percent / 100 * (count - 1)
        below = int(position)
        return cls(below, min(below + 1, count - 1), position - below)

    def between(self, below: float, above: float) -> float:
        """The percentile, from the numbers at the two ranks."""
        return below + (above - below) * self.fraction


def _bins(block: NDArray[Any]) -> NDArray[Any]:
    """Upper 16 bits of each number; all 8 of a byte."""
    bits = block.view(f"u{block.itemsize}")
    return (bits >> 8 * block.itemsize - 16).astype(np.uint16) if block.itemsize > 2 else bits


def _bins_in_order(dtype: np.dtype[Any]) -> NDArray[np.int64]:
    """All values of `_bins`, sorted by the numbers they stand for: a set first bit means a negative one."""
    bins = np.arange(1 << 8 * min(2, dtype.itemsize))
    if dtype.kind == "u":
        return bins
    positive, negative = np.split(bins, 2)
    return np.concatenate([negative if dtype.kind == "i" else negative[::-1], positive])


def _exact_sums(data: NDArray[Any]) -> tuple[int, int, int]:
    """Count, sum and sum of squares of integers of up to 32 bits.

    Products of 16 bits, of which a block has 2^16, add up to less than 2^53: exact as float64, for which BLAS is fast.
    """
    count, total, squares = 0, 0, 0
    for block in _finite_blocks(data, data.dtype, _BLOCK):
        count += len(block)
        total += int(block.sum(dtype=np.int64))
        if data.dtype.itemsize <= 2:
            values = block.astype(np.float64)
            squares += int(values @ values)
            continue
        high, low = (part.astype(np.float64) for part in (block >> 16, block & 0xFFFF))
        squares += (int(high @ high) << 32) + (int(high @ low) << 17) + int(low @ low)
    return count, total, squares


def _whole_blocks(data: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Yield all voxels in memory order as float64, in pieces of whole blocks of `voxtract.compute.moments`."""
    kept: list[NDArray[np.float64]] = []
    waiting = 0
    for block in _blocks(data, np.dtype(np.float64), _BLOCK):
        kept.append(block.copy())
        waiting += len(block)
        if waiting >= _BLOCK:
            numbers = np.concatenate(kept)
            whole = waiting - waiting % BLOCK
            yield numbers[:whole]
            kept, waiting = [numbers[whole:]], waiting - whole
    if waiting:
        yield np.concatenate(kept)


def _finite_blocks(data: NDArray[Any], dtype: np.dtype[Any], size: int) -> Iterator[NDArray[Any]]:
    """Yield the finite voxels in memory order, at most `size` at once, as 1D arrays that the next step overwrites."""
    for block in _blocks(data, dtype, size):
        if data.dtype.kind == "f" and not (finite := np.isfinite(block)).all():
            block = block[finite]
        if len(block):
            yield block


def _blocks(data: NDArray[Any], dtype: np.dtype[Any], size: int) -> Iterator[NDArray[Any]]:
    """Yield all voxels in memory order, at most `size` at once, as 1D arrays that the next step overwrites."""
    blocks = np.nditer(
        data,
        ["external_loop", "buffered", "zerosize_ok"],
        ["readonly"],
        op_dtypes=dtype.newbyteorder("="),
        order="K",
        casting="same_kind",
        buffersize=size,
    )
    yield from cast("Iterator[NDArray[Any]]", blocks)


@dataclass(frozen=True, slots=True)
class PixelRule:
    """How the stored voxels of one volume become pixels: ``clip((stored - shift) * gain + base, low, high)``.

    Parameters
    ----------
    stored : numpy.dtype
        Dtype of the voxels.
    dtype : numpy.dtype
        Dtype of the image. Integers are rounded (halves to even); a voxel that is NaN becomes 0 there.
    pad_value : float
        Pixels around a slice that is smaller than its target; a number that `dtype` holds.
    shift, gain, base : float
        The formula.
    low, high : float
        Pixels beyond become these.
    saturate : bool
        Whether finite numbers may lie beyond what the float `dtype` holds; they become its largest number.
    """

    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    pad_value: float
    shift: float = 0.0
    gain: float = 1.0
    base: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    saturate: bool = False

    @property
    def is_copy(self) -> bool:
        """Whether a pixel is the stored number itself, at most in a dtype that holds it."""
        formula = (self.shift, self.gain, self.base, self.low, self.high)
        return formula == (0.0, 1.0, 0.0, -math.inf, math.inf) and not self.saturate

    def pixels(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Turn stored numbers into pixels.

        Parameters
        ----------
        voxels : array of `stored`
            A block that fits the cache eight times over, since it is worked on as float64.

        Returns
        -------
        array of `dtype`, of the same shape; `voxels` itself where nothing changes
        """
        if self.is_copy:
            return voxels.astype(self.dtype, copy=False)
        work = voxels.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite voxels: their pixel is infinite or NaN, as it is
            if self.shift:
                work -= self.shift
            if self.gain != 1:
                work *= self.gain
            if self.base:
                work += self.base
        if self.dtype.kind != "f":
            np.rint(work, out=work)
            if self.stored.kind == "f":
                work[np.isnan(work)] = 0
        if (self.low, self.high) != (-math.inf, math.inf):
            np.clip(work, self.low, self.high, out=work)
        if self.saturate:
            limit = float(np.finfo(self.dtype).max)
            if not (-limit <= work.min() and work.max() <= limit):  # also where a voxel is NaN
                np.clip(work, -limit, limit, out=work, where=np.isfinite(work))
        return work.astype(self.dtype)


def pixel_rule(
    header: Header,
    *,
    dtype: DTypeLike = "auto",
    normalization: Normalization = None,
    pad_value: float = 0.0,
    statistics: Statistics | None = None,
) -> PixelRule:
    """Work out how the voxels of a volume become pixels.

    Parameters
    ----------
    header : Header
        Stored dtype, slope and intercept of the volume.
    dtype : {"auto", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64"}
        ``"auto"`` keeps the stored dtype where nothing is to be computed, image readers open it (see `KEPT_DTYPES`)
        and it holds `pad_value`; else it is float32. Any other word forces that dtype, with rounding and saturation.
    normalization : {None, "min-max", "z-score", "percentile"}, a name of `WINDOWS` or (center, width)
        ``"min-max"`` maps the volume's smallest and largest value to 0 and 1, ``"percentile"`` the `PERCENTILES`,
        a window the values center -+ width / 2; what lies beyond is clipped. ``"z-score"`` is (value - mean) / std.
        A volume of one value becomes 0. With an integer `dtype`, 0..1 is stretched over 0..its largest number.
    pad_value : float
        In units of the image, that is, after scaling and normalisation.
    statistics : Statistics, optional
        Of the volume; only a normalisation by name looks at it.

    Raises
    ------
    InvalidInput
        Unknown `dtype` or `normalization` (the message lists the allowed ones), a window without width, z-scores
        as integers, a `pad_value` that is no number, voxels that are no numbers, or an unusable slope.
    TypeError
        A normalisation by name without `statistics`.

    Examples
    --------
    >>> from voxtract.geometry import Grid
    >>> from voxtract.model import Header
    >>> header = Header(Grid((4, 5, 6), np.eye(4)), np.dtype(np.int16))
    >>> pixel_rule(header).dtype, pixel_rule(header, pad_value=0.5).dtype
    (dtype('int16'), dtype('float32'))
    >>> rule = pixel_rule(header, dtype="uint8", normalization=(40, 400))
    >>> rule.pixels(np.array([-1000, -160, 0, 240], np.int16))
    array([  0,   0, 102, 255], dtype=uint8)
    """
    normalization = named_window(normalization)
    _check_numbers(header)
    target = _target_dtype(header, dtype, normalization, pad_value)
    pad = _held(pad_value, target)
    if normalization is None:
        return _plain(header, target, pad)
    if normalization == "z-score":
        if target.kind != "f":
            raise InvalidInput(
                f"dtype {target.name!r} with normalization 'z-score' would round all contrast away; "
                "take dtype 'float32', or 'min-max', 'percentile' or a window (center, width)"
            )
        mean, std = _given(statistics, normalization).moments
        gain = math.copysign(1 / std, header.slope) if std else 0.0
        return PixelRule(header.dtype, target, pad, shift=mean, gain=gain)
    if normalization == "min-max":
        ends = _given(statistics, normalization).extent
    elif normalization == "percentile":
        ends = _given(statistics, normalization).percentiles
    else:
        center, width = normalization
        ends = _stored(center - width / 2, header), _stored(center + width / 2, header)
    low, high = sorted(ends, reverse=header.slope < 0)  # the stored number of the smallest value comes first
    top = 1.0 if target.kind == "f" else float(np.iinfo(target).max)
    gain = top / (high - low) if high != low else 0.0
    return PixelRule(header.dtype, target, pad, shift=low, gain=gain, low=0.0, high=top)


def named_window(normalization: Normalization) -> NormalizationName | tuple[float, float] | None:
    """Return the (center, width) of a window given by name, and all else as it is.

    Raises
    ------
    InvalidInput
        See `check_normalization`.

    Examples
    --------
    >>> named_window("lung"), named_window("z-score")
    ((-600, 1500), 'z-score')
    """
    check_normalization(normalization)
    if isinstance(normalization, str) and normalization in WINDOWS:
        return WINDOWS[normalization]
    return cast("NormalizationName | tuple[float, float] | None", normalization)


def check_normalization(normalization: Normalization) -> None:
    """Raise `InvalidInput` where `normalization` is not one of the allowed words or a window (center, width)."""
    names = (*get_args(NormalizationName), *WINDOWS)
    if normalization is None or (isinstance(normalization, str) and normalization in names):
        return
    allowed = f"allowed: None, {', '.join(map(repr, names))} or a window (center, width)"
    if not isinstance(normalization, tuple) or len(normalization) != 2:
        raise InvalidInput(f"normalization {normalization!r} is not known; {allowed}")
    center, width = normalization
    if not (_is_number(center) and _is_number(width) and width > 0):
        raise InvalidInput(f"window {normalization!r}: center must be a finite number and width one above 0; {allowed}")


def check_dtype(dtype: DTypeLike) -> np.dtype[Any] | None:
    """Return the dtype that `dtype` forces, or None for ``"auto"``.

    Raises
    ------
    InvalidInput
        Any other word; the message lists the allowed ones.
    """
    if isinstance(dtype, str) and dtype == "auto":
        return None
    try:
        forced = None if dtype is None else np.dtype(dtype).newbyteorder("=")
    except TypeError:
        forced = None
    if forced is None or forced.name not in DTYPES:
        raise InvalidInput(f"dtype {dtype!r} is not known; allowed: 'auto', {', '.join(map(repr, DTYPES))}")
    return forced


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value)


def _check_numbers(header: Header) -> None:
    if header.dtype.kind not in "biuf":
        raise InvalidInput(f"{header.where}: voxels of dtype {header.dtype} are no real numbers and make no image")
    if not (math.isfinite(header.slope) and header.slope and math.isfinite(header.intercept)):
        raise InvalidInput(
            f"{header.where}: slope {header.slope} and intercept {header.intercept} lose every voxel's value; "
            "expected finite numbers and a slope other than 0"
        )


def _target_dtype(header: Header, dtype: DTypeLike, normalization: Normalization, pad_value: float) -> np.dtype[Any]:
    forced = check_dtype(dtype)
    if forced is not None:
        return forced
    stored = np.dtype(np.uint8) if header.dtype == np.bool_ else header.dtype.newbyteorder("=")
    plain = normalization is None and not header.is_scaled
    if plain and stored.name in KEPT_DTYPES and (stored.kind == "f" or _held(pad_value, stored) == pad_value):
        return stored
    return np.dtype(np.float32)


def _held(value: float, dtype: np.dtype[Any]) -> float:
    """Round and saturate `value` to a number that `dtype` holds."""
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise InvalidInput(f"pad_value {value!r} is not a number")
    if dtype.kind == "f":
        limit = float(np.finfo(dtype).max)
        return float(dtype.type(min(max(value, -limit), limit) if math.isfinite(value) else value))
    ends = np.iinfo(dtype)
    if math.isnan(value):
        return 0
    return int(min(max(np.rint(value), ends.min), ends.max))


def _plain(header: Header, target: np.dtype[Any], pad: float) -> PixelRule:
    """Build the rule that only scales."""
    low, high, saturate = -math.inf, math.inf, False
    stored = header.dtype
    if target.kind == "f":
        saturate = _may_exceed(header, float(np.finfo(target).max))
    elif header.is_scaled or not np.can_cast(stored, target, "safe"):
        low, high = float(np.iinfo(target).min), float(np.iinfo(target).max)
    return PixelRule(
        stored, target, pad, gain=header.slope, base=header.intercept, low=low, high=high, saturate=saturate
    )


def _may_exceed(header: Header, limit: float) -> bool:
    """Whether a voxel's value can lie beyond -+ `limit`, judged by the stored dtype."""
    if header.dtype.kind == "f":
        return header.is_scaled or float(np.finfo(header.dtype).max) > limit
    reach = (
        1.0
        if header.dtype.kind == "b"
        else float(max(-int(np.iinfo(header.dtype).min), int(np.iinfo(header.dtype).max)))
    )
    return reach * abs(header.slope) + abs(header.intercept) > limit


def _stored(value: float, header: Header) -> float:
    return (value - header.intercept) / header.slope


def _given(statistics: Statistics | None, normalization: str) -> Statistics:
    if statistics is None:
        raise TypeError(f"normalization {normalization!r} needs the statistics of the volume")
    return statistics
