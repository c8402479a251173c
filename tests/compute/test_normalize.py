"""Stored voxels into pixels, against float64 arithmetic over the whole volume and NumPy's own statistics."""

import itertools
import math
import warnings
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from voxtract.compute import normalize
from voxtract.compute.normalize import (
    DTYPES,
    WINDOWS,
    PixelRule,
    Statistics,
    WindowName,
    check_normalization,
    named_window,
    pixel_rule,
)
from voxtract.errors import InvalidInput
from voxtract.geometry import Grid
from voxtract.model import Header

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
FLOATS = ("float16", "float32", "float64")


def rule(stored: Any, slope: float = 1.0, intercept: float = 0.0, **options: Any) -> PixelRule:
    header = Header(Grid((2, 3, 4), np.eye(4)), np.dtype(stored), slope, intercept, where="scan.nii.gz")
    return pixel_rule(header, **options)


def numbers(dtype: Any, shape: tuple[int, ...] = (31, 17, 9), seed: int = 0) -> NDArray[Any]:
    """The whole range of an integer dtype, or floats of both signs."""
    random = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return random.normal(100, 50, shape).astype(kind)
    ends = np.iinfo(kind)
    return random.integers(ends.min, ends.max, shape, dtype=kind, endpoint=True)


class TestStatistics:
    @pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
    def test_are_those_of_numpy(self, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
        monkeypatch.setattr(normalize, "_BLOCK", 100)  # many blocks, the last one short
        monkeypatch.setattr(normalize, "_HISTOGRAM_BLOCK", 100)
        data = numbers(dtype)
        truth = data.astype(np.longdouble)
        for stored in (data, np.asfortranarray(data), data[::-1, :, ::2], data[:, ::-1].transpose(2, 0, 1)):
            seen, truth = Statistics(stored), stored.astype(np.longdouble)
            assert seen.extent == (float(stored.min()), float(stored.max()))
            mean, std = seen.moments
            assert mean == pytest.approx(float(truth.mean()), rel=1e-12, abs=1e-12 * float(truth.std()))
            assert std == pytest.approx(float(truth.std()), rel=1e-12)
            wanted = np.percentile(stored.astype(np.float64), (0.5, 99.5))
            np.testing.assert_allclose(seen.percentiles, wanted, rtol=1e-12)

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_leave_out_what_is_not_finite(self, dtype: str) -> None:
        data = numbers(dtype)
        holes = data.copy()
        holes[::3] = np.nan
        holes[1, 2], holes[4, 5] = np.inf, -np.inf
        left = holes[np.isfinite(holes)].astype(np.float64)
        seen = Statistics(holes)
        assert seen.extent == (left.min(), left.max())
        np.testing.assert_allclose(seen.moments, (left.mean(), left.std()), rtol=1e-12)
        np.testing.assert_allclose(seen.percentiles, np.percentile(left, (0.5, 99.5)), rtol=1e-12)

    def test_of_a_small_spread_on_a_large_mean(self) -> None:
        data = (1e9 + np.random.default_rng(0).normal(0, 1e-3, (50, 60, 70))).astype(np.float64)
        assert Statistics(data).moments[1] == pytest.approx(float(data.astype(np.longdouble).std()), rel=1e-6)

    @pytest.mark.parametrize("data", [np.full((2, 2, 2), np.nan), np.zeros((0, 3, 3), np.int16), np.zeros((0, 3, 3))])
    def test_of_nothing_are_zero(self, data: NDArray[Any]) -> None:
        seen = Statistics(data)
        assert (seen.extent, seen.moments, seen.percentiles) == ((0, 0), (0, 0), (0, 0))

    def test_of_booleans_and_big_endian(self) -> None:
        assert Statistics(np.array([[[False, True, True, True]]])).moments[0] == 0.75
        big = np.array([[[-300, 1, 2, 5]]], ">i2")
        assert Statistics(big).extent == (-300, 5)
        assert Statistics(big).percentiles == tuple(np.percentile(big, (0.5, 99.5)))

    @settings(max_examples=100, deadline=None)
    @given(
        hnp.arrays(
            st.sampled_from(["uint8", "int8", "int16", "float32"]), st.integers(1, 400), elements=st.integers(0, 9)
        )
    )
    def test_percentiles_of_few_values(self, data: NDArray[Any]) -> None:
        wanted = np.percentile(data.astype(np.float64), (0.5, 99.5))
        np.testing.assert_allclose(Statistics(data.reshape(1, 1, -1)).percentiles, wanted, rtol=1e-12, atol=1e-12)


class TestDtype:
    @pytest.mark.parametrize(
        ("stored", "wanted"),
        [
            *((name, name) for name in ("uint8", "int16", "uint16", "int32", "float32")),
            *((name, "float32") for name in ("int8", "uint32", "int64", "uint64", "float16", "float64", "longdouble")),
            ("bool", "uint8"),
        ],
    )
    def test_kept_where_readers_open_it(self, stored: str, wanted: str) -> None:
        assert rule(stored).dtype == wanted
        assert rule(stored, 2.0).dtype == "float32"
        assert rule(stored, 1.0, -1024.0).dtype == "float32"
        assert rule(stored, normalization=(0, 1)).dtype == "float32"

    @pytest.mark.parametrize(
        ("stored", "pad_value", "wanted"),
        [
            ("uint8", -1024, "float32"),
            ("uint8", 255, "uint8"),
            ("uint8", 256, "float32"),
            ("int16", -1024, "int16"),
            ("int16", 0.5, "float32"),
            ("int16", math.nan, "float32"),
            ("int32", math.inf, "float32"),
            ("int32", 2**31 - 1, "int32"),
            ("float32", 0.1, "float32"),
            ("bool", 7, "uint8"),
        ],
    )
    def test_kept_where_it_holds_the_padding(self, stored: str, pad_value: float, wanted: str) -> None:
        found = rule(stored, pad_value=pad_value)
        assert found.dtype == wanted
        np.testing.assert_equal(found.pad_value, np.float32(pad_value) if wanted == "float32" else pad_value)

    @pytest.mark.parametrize("forced", DTYPES)
    def test_forced(self, forced: str) -> None:
        assert (
            rule("int16", 2.0, dtype=forced, normalization="min-max", statistics=Statistics(numbers("int16"))).dtype
            == forced
        )
        assert rule("int16", dtype=np.dtype(forced)).dtype == forced

    def test_a_forced_dtype_saturates_the_padding(self) -> None:
        assert rule("int16", dtype="uint8", pad_value=-1024).pad_value == 0
        assert rule("int16", dtype="uint8", pad_value=math.inf).pad_value == 255
        assert rule("int16", dtype="uint8", pad_value=math.nan).pad_value == 0
        assert rule("int16", dtype="uint8", pad_value=2.6).pad_value == 3
        assert rule("int16", dtype="float16", pad_value=-1e9).pad_value == -65504
        assert rule("int16", dtype="float16", pad_value=-math.inf).pad_value == -math.inf


def saturated(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Exact rounding with Python's integers: half to even, NaN to 0, no wrap-around."""
    ends = np.iinfo(dtype)
    out = np.zeros(values.shape, dtype)
    for place, value in np.ndenumerate(values):
        number = float(value)
        if math.isnan(number):
            continue
        whole = ends.max if number == math.inf else ends.min if number == -math.inf else round(number)
        out[place] = min(max(whole, int(ends.min)), int(ends.max))
    return out


class TestPlain:
    @pytest.mark.parametrize("stored", [*INTEGERS, *FLOATS, "bool"])
    def test_stored_numbers_pass_untouched(self, stored: str) -> None:
        data = numbers("uint8").astype(bool) if stored == "bool" else numbers(stored)
        found = rule(stored)
        pixels = found.pixels(data)
        assert pixels.dtype == found.dtype
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(pixels, data.astype(found.dtype))

    @pytest.mark.parametrize("stored", ["int8", "uint8", "int16", "int32", "uint64", "float32", "float64"])
    @pytest.mark.parametrize("scale", [(2.0, 0.0), (1.0, -1024.0), (0.1, 0.3), (-3.0, 7.0)])
    def test_scaling_is_float64_rounded_once(self, stored: str, scale: tuple[float, float]) -> None:
        data = numbers(stored)
        wanted = (data.astype(np.float64) * scale[0] + scale[1]).astype(np.float32)
        np.testing.assert_array_equal(rule(stored, *scale).pixels(data), wanted)

    @pytest.mark.parametrize("stored", ["int8", "int16", "uint16", "uint32", "float32", "float64"])
    @pytest.mark.parametrize("forced", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
    @pytest.mark.parametrize("scale", [(1.0, 0.0), (0.25, -3.0)])
    def test_integers_are_rounded_and_saturated(self, stored: str, forced: str, scale: tuple[float, float]) -> None:
        data = numbers(stored, (40, 5, 2))
        if np.dtype(stored).kind == "f":
            data.flat[:8] = np.nan, np.inf, -np.inf, 0.5, 1.5, 2.5, -0.5, 3e38
        found = rule(stored, *scale, dtype=forced)
        pixels = found.pixels(data)
        assert pixels.dtype == forced
        np.testing.assert_array_equal(pixels, saturated(data.astype(np.float64) * scale[0] + scale[1], forced))

    def test_floats_saturate_too_but_infinity_stays(self) -> None:
        values = np.array([1e300, -1e300, math.inf, -math.inf, math.nan, 1.0])
        largest = np.finfo(np.float32).max
        np.testing.assert_array_equal(
            rule("float64").pixels(values), np.array([largest, -largest, *values[2:]], np.float32)
        )
        wide = np.array([0, 65504, 65535], np.uint16)
        np.testing.assert_array_equal(
            rule("uint16", dtype="float16").pixels(wide), np.array([0, 65504, 65504], np.float16)
        )
        scaled = np.array([3e38, 1, math.nan], np.float32)
        np.testing.assert_array_equal(
            rule("float32", 10.0).pixels(scaled), np.array([largest, 10, math.nan], np.float32)
        )

    @settings(max_examples=200, deadline=None)
    @given(
        hnp.arrays(np.float64, 20, elements=st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf])),
        st.sampled_from(["int8", "uint8", "int16", "uint16", "int32", "uint32"]),
    )
    def test_no_number_wraps_around(self, data: NDArray[Any], forced: str) -> None:
        np.testing.assert_array_equal(rule("float64", dtype=forced).pixels(data), saturated(data, forced))


def normalized(values: NDArray[Any], normalization: Any) -> NDArray[Any]:
    """The formulas of the documentation over float64 values; NaN and infinities take no part in the statistics."""
    finite = values[np.isfinite(values)]
    if normalization == "z-score":
        return np.asarray((values - finite.mean()) / finite.std())
    if normalization == "min-max":
        low, high = finite.min(), finite.max()
    elif normalization == "percentile":
        low, high = np.percentile(finite, (0.5, 99.5))
    else:
        center, width = normalization
        low, high = center - width / 2, center + width / 2
    return np.asarray((np.clip(values, low, high) - low) / (high - low))


NORMALIZATIONS = ("min-max", "z-score", "percentile", (40.0, 80.0))


class TestNormalization:
    @pytest.mark.parametrize("normalization", NORMALIZATIONS)
    @pytest.mark.parametrize("stored", ["uint8", "int16", "int32", "uint32", "int64", "uint64", "float32", "float64"])
    @pytest.mark.parametrize("scale", [(1.0, 0.0), (2.5, -1024.0), (-0.5, 10.0)])
    def test_is_that_of_float64_over_the_whole_volume(
        self, normalization: Any, stored: str, scale: tuple[float, float]
    ) -> None:
        data = numbers(stored)
        found = rule(stored, *scale, normalization=normalization, statistics=Statistics(data), pad_value=-1.0)
        pixels = found.pixels(data)
        assert pixels.dtype == np.float32
        assert found.pad_value == -1
        wanted = normalized(data.astype(np.float64) * scale[0] + scale[1], normalization)
        np.testing.assert_allclose(pixels, wanted, rtol=2e-7, atol=2e-7)

    @pytest.mark.parametrize("normalization", NORMALIZATIONS)
    def test_of_an_image_with_holes(self, normalization: Any) -> None:
        data = numbers("float32")
        data[3], data[4, 5], data[5, 6] = np.nan, np.inf, -np.inf
        pixels = rule("float32", normalization=normalization, statistics=Statistics(data)).pixels(data)
        np.testing.assert_allclose(pixels, normalized(data.astype(np.float64), normalization), rtol=2e-7, atol=2e-7)

    @pytest.mark.parametrize("slope", [1.0, -0.3])
    @pytest.mark.parametrize("stored", ["int16", "float32"])
    def test_reaches_both_ends_exactly(self, slope: float, stored: str) -> None:
        data = numbers(stored)
        for normalization in ("min-max", "percentile"):
            found = rule(stored, slope, 11.0, normalization=normalization, statistics=Statistics(data))
            pixels = found.pixels(data)
            assert (pixels.min(), pixels.max()) == (0, 1)
        assert (pixels[np.unravel_index(data.argmin(), data.shape)] == 0) == (slope > 0)

    @pytest.mark.parametrize("normalization", ["min-max", "z-score", "percentile"])
    @pytest.mark.parametrize("stored", ["uint8", "float32"])
    def test_of_one_value_is_zero(self, normalization: Any, stored: str) -> None:
        data = np.full((3, 4, 5), 7, stored)
        found = rule(stored, 2.0, 5.0, normalization=normalization, statistics=Statistics(data))
        np.testing.assert_array_equal(found.pixels(data), np.zeros(data.shape, np.float32))

    @pytest.mark.parametrize("forced", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
    def test_is_stretched_over_a_forced_integer(self, forced: str) -> None:
        data, top = numbers("int16"), np.iinfo(forced).max
        for normalization in ("min-max", "percentile", (40.0, 4000.0)):
            found = rule("int16", dtype=forced, normalization=normalization, statistics=Statistics(data))
            pixels = found.pixels(data)
            assert pixels.dtype == forced
            assert (pixels.min(), pixels.max()) == (0, top)
            wanted = normalized(data.astype(np.float64), normalization) * top
            np.testing.assert_allclose(pixels.astype(np.float64), wanted, rtol=1e-12, atol=0.5000001)

    def test_needs_the_statistics(self) -> None:
        with pytest.raises(TypeError, match=r"'min-max' needs the statistics"):
            rule("int16", normalization="min-max")
        assert rule("int16", normalization=(40, 400)).gain == 1 / 400

    def test_of_16_bit_volumes_never_meets_a_warning(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for stored, normalization in itertools.product(("bool", "uint8", "float16"), NORMALIZATIONS):
                data = np.ones((2, 2, 2), stored)
                rule(stored, normalization=normalization, statistics=Statistics(data)).pixels(data)


class TestWindows:
    """Radiopaedia gives width and level: W:80 L:40 for the brain is black at 0 and white at 80 HU."""

    @pytest.mark.parametrize(
        ("name", "black", "white"),
        [
            ("abdomen", -150, 250),
            ("angio", 0, 600),
            ("bone", -500, 1300),
            ("brain", 0, 80),
            ("liver", -45, 105),
            ("lung", -1350, 150),
            ("mediastinum", -125, 225),
            ("soft-tissue", -160, 240),
            ("spine", -75, 175),
            ("stroke", 20, 60),
            ("subdural", -32.5, 182.5),
            ("temporal-bone", -800, 2000),
        ],
    )
    def test_by_name_is_the_window_as_eight_bits(self, name: Any, black: float, white: float) -> None:
        """As files store CT: 0..4095 with intercept -1024."""
        data = np.arange(4096, dtype=np.uint16).reshape(1, 64, 64)
        found = rule("uint16", 1.0, -1024.0, dtype="uint8", normalization=name)
        assert found == rule("uint16", 1.0, -1024.0, dtype="uint8", normalization=WINDOWS[name])
        pixels = found.pixels(data)
        assert pixels.dtype == np.uint8
        wanted = [round(min(max((hu - black) / (white - black), 0), 1) * 255) for hu in range(-1024, 3072)]
        assert np.abs(pixels.ravel().astype(int) - wanted).max() <= 1  # a half may fall to either side
        assert np.mean(pixels.ravel() == wanted) > 0.99
        assert pixels.max() == 255
        assert (pixels.min() == 0) == (black >= -1024)

    def test_are_all_tested(self) -> None:
        assert set(get_args(WindowName)) == set(WINDOWS)
        assert sorted(WINDOWS) == list(WINDOWS)
        assert len(WINDOWS) == 12

    def test_the_two_ends_of_eight_bits(self) -> None:
        values = np.array([-2000, -160, -159, 39, 41, 239, 240, 3000], np.int16)
        pixels = rule("int16", dtype="uint8", normalization=(40, 400)).pixels(values)
        assert pixels.tolist() == [0, 0, 1, 127, 128, 254, 255, 255]

    def test_of_a_falling_scale(self) -> None:
        values = np.array([-9, 0, 20, 80, 99], np.int16)
        found = rule("int16", -1.0, 80.0, dtype="uint8", normalization="brain")
        assert found.pixels(values).tolist() == [255, 255, 191, 0, 0]

    @pytest.mark.parametrize("normalization", [None, "min-max", "z-score", "percentile", (1.0, 2.0)])
    def test_all_else_stays_as_it_is(self, normalization: Any) -> None:
        assert named_window(normalization) == normalization
        assert named_window("bone") == (400, 1800)
        with pytest.raises(InvalidInput, match="'bones' is not known"):
            named_window("bones")  # type: ignore[arg-type]

    def test_by_name_need_no_statistics_and_give_float_by_default(self) -> None:
        found = rule("int16", normalization="liver")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.pixels(np.array([-45, 30, 105], np.int16)), [0, 0.5, 1], atol=1e-7)


class TestErrors:
    @pytest.mark.parametrize("normalization", ["minmax", "Lung", "", 3, (1,), (1, 2, 3), [40, 400], True])
    def test_an_unknown_normalization_lists_the_known_ones(self, normalization: Any) -> None:
        with pytest.raises(
            InvalidInput, match=r"None, 'min-max', 'z-score', 'percentile', .*'lung', .* or a window \(center, width\)"
        ):
            check_normalization(normalization)

    @pytest.mark.parametrize("window", [(40, 0), (40, -1), (math.nan, 400), (40, math.inf), ("40", 400)])
    def test_a_window_without_width(self, window: Any) -> None:
        with pytest.raises(InvalidInput, match=r"width one above 0"):
            rule("int16", normalization=window)

    @pytest.mark.parametrize("name", ["int", "int64", "uint64", "complex64", "bool", "Auto", "", None, "U3"])
    def test_an_unknown_dtype_lists_the_known_ones(self, name: Any) -> None:
        with pytest.raises(InvalidInput, match=r"allowed: 'auto', 'int8', 'uint8', .*'float64'"):
            rule("int16", dtype=name)

    def test_z_scores_as_integers(self) -> None:
        with pytest.raises(InvalidInput, match=r"'uint8' with normalization 'z-score'.*'float32'"):
            rule("int16", dtype="uint8", normalization="z-score", statistics=Statistics(numbers("int16")))

    @pytest.mark.parametrize("name", ["complex64", "V3", "U4"])
    def test_voxels_that_are_no_numbers(self, name: Any) -> None:
        with pytest.raises(InvalidInput, match=r"scan.nii.gz: voxels of dtype"):
            rule(name)

    @pytest.mark.parametrize("scale", [(0.0, 1.0), (math.nan, 0.0), (1.0, math.inf)])
    def test_a_slope_that_loses_the_values(self, scale: tuple[float, float]) -> None:
        with pytest.raises(InvalidInput, match=r"scan.nii.gz: slope .* expected finite numbers"):
            rule("int16", *scale)

    def test_padding_with_a_word(self) -> None:
        with pytest.raises(InvalidInput, match=r"pad_value 'black' is not a number"):
            rule("int16", pad_value="black")
