"""Charts as SVG: stacked histograms, outlines of two distributions, a map of where things are.

Colours come from the page's style (``--c`` of a series, else those of the page), so that a chart follows light and
dark. Text stays text; each bar says its numbers when pointed at, and the label of a chart says what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.html import esc

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIDTH, _HEIGHT = 320, 190  # of the drawing, in its own units; a unit is about a pixel
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 8, 22, 34
_BINS = 25  # at most, of a histogram
_MAP = 188  # longer side of a map


@dataclass(frozen=True, eq=False, slots=True)
class Series:
    """Values of one kind, and what to draw them with; without a colour that of the page."""

    name: str
    values: NDArray[Any]
    color: str = ""


def histogram(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_label: str,
    whole: bool = False,
    span: tuple[float, float] | None = None,
) -> str:
    """Stacked bars over bins of equal, round width; the highest percent of the values share the last bin.

    Parameters
    ----------
    series : sequence of Series
        Values (n,); those without any value are left out.
    label : str
        What the chart shows, in a sentence.
    x_label, y_label : str
    whole : bool
        The values are whole numbers: a bin is at least 1 wide and centered on them.
    span : (low, high), optional
        All values lie between these, and the axis shows them.
    """
    series = [one for one in series if len(one.values)]
    if not series:
        return _nothing(label)
    everything = np.concatenate([one.values for one in series]).astype(np.float64)
    edges, is_open = _edges(everything, whole) if span is None else (np.linspace(*span, _BINS + 1), False)
    counts = [np.histogram(np.minimum(one.values, edges[-1] - 1e-9), edges)[0] for one in series]
    most = int(np.sum(counts, axis=0).max())
    axes = _Axes(float(edges[0]), float(edges[-1]), _nice_top(most), counts=True)
    bars = []
    below = np.zeros(len(edges) - 1)
    for one, found in zip(series, counts, strict=True):
        style = f' style="--c:{esc(one.color)}"' if one.color else ""
        bars.append(f'<g class="bars"{style}>')
        for bin_, count in enumerate(found.tolist()):
            if count:
                low, high = edges[bin_ : bin_ + 2].tolist()
                last = is_open and bin_ == len(found) - 1
                said = _range_text(low, high, whole, last)
                left, right = axes.x(low) + 0.5, axes.x(high) - 0.5
                bottom, top = axes.y(below[bin_]), axes.y(below[bin_] + count)
                name = f"{one.name}, " if len(series) > 1 else ""
                bars.append(
                    f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0.5):.1f}" '
                    f'height="{max(bottom - top, 0.7):.1f}"><title>{esc(name)}{said}: {count:,}</title></rect>'
                )
        bars.append("</g>")
        below += found
    return _svg(label, axes.grid(y_label, x_label, is_open=is_open, shift=0.5 if whole else 0.0) + "".join(bars))


def outlines(series: Sequence[Series], edges: NDArray[np.float64], *, label: str, x_label: str) -> str:
    """Filled outlines of distributions over the same bins, each in percent of its own total.

    `values` of each series are its counts (bins,).
    """
    shares = [(one, 100 * one.values / max(1, int(one.values.sum()))) for one in series if one.values.sum()]
    if not shares:
        return _nothing(label)
    top = max(float(share.max()) for _, share in shares)
    axes = _Axes(float(edges[0]), float(edges[-1]), _nice_top(top))
    shapes = []
    for rank, (one, share) in enumerate(shares):
        points = [f"M{axes.x(edges[0]):.1f} {axes.y(0):.1f}"]
        for low, high, value in zip(edges[:-1].tolist(), edges[1:].tolist(), share.tolist(), strict=True):
            points.append(f"L{axes.x(low):.1f} {axes.y(value):.1f}H{axes.x(high):.1f}")
        points.append(f"V{axes.y(0):.1f}Z")
        shapes.append(f'<path class="outline o{rank}" d="{"".join(points)}"><title>{esc(one.name)}</title></path>')
    key = "".join(
        f'<span class="key o{rank}"><i aria-hidden="true"></i>{esc(one.name)}</span>'
        for rank, (one, _) in enumerate(shares)
    )
    return _svg(label, axes.grid("% of pixels", x_label) + "".join(shapes)) + f'<p class="keys">{key}</p>'


def position_map(counts: NDArray[np.int64], size_mm: tuple[float, float], *, label: str) -> str:
    """Where things are in a slice: (rows, columns) counts, drawn as a slice of `size_mm` (height, width)."""
    rows, columns = counts.shape
    scale = _MAP / max(size_mm)
    height, width = (max(40.0, side * scale) for side in size_mm)
    cell_h, cell_w = height / rows, width / columns
    most = max(1, int(counts.max()))
    cells = []
    for row, column in np.argwhere(counts).tolist():
        count = int(counts[row, column])
        cells.append(
            f'<rect x="{column * cell_w:.1f}" y="{row * cell_h:.1f}" width="{cell_w:.2f}" height="{cell_h:.2f}" '
            f'opacity="{0.15 + 0.85 * math.sqrt(count / most):.2f}"><title>{count:,}</title></rect>'
        )
    middle = f'<path class="rule" d="M{width / 2:.1f} 0V{height:.1f}M0 {height / 2:.1f}H{width:.1f}"/>'
    frame = f'<rect class="frame" width="{width:.1f}" height="{height:.1f}"/>'
    return (
        f'<svg class="map" role="img" aria-label="{esc(label)}" viewBox="-1 -1 {width + 2:.1f} {height + 2:.1f}" '
        f'style="max-width:{width + 2:.0f}px">{frame}{middle}<g class="heat">{"".join(cells)}</g></svg>'
    )


@dataclass(frozen=True, slots=True)
class _Axes:
    """From values to the drawing."""

    low: float
    high: float
    top: float
    counts: bool = False  # up to `top`, which are whole numbers

    def x(self, value: float) -> float:
        return _LEFT + (value - self.low) / (self.high - self.low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self.top * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self, y_label: str, x_label: str, *, is_open: bool = False, shift: float = 0.0) -> str:
        """Lines and numbers; with `is_open` the last number is a least one."""
        parts = []
        for value in _ticks(0, self.top, 4):
            if self.counts and value != round(value):
                continue
            y = self.y(value)
            parts.append(f'<path class="rule" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
        ticks = _ticks(self.low + shift, self.high - shift, 6)
        if shift:
            ticks = [value for value in ticks if value == round(value)]
        for value in ticks:
            sign = "≥ " if is_open and value >= self.high else ""
            parts.append(
                f'<text x="{self.x(value):.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">'
                f"{sign}{_number(value)}</text>"
            )
        parts.append(f'<path class="axis" d="M{_LEFT} {self.y(0):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="unit" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 5}" text-anchor="end">{esc(x_label)}</text>'
        )
        parts.append(f'<text class="unit" x="0" y="9">{esc(y_label)}</text>')
        return f'<g class="grid">{"".join(parts)}</g>'


def _svg(label: str, content: str) -> str:
    return f'<svg class="chart" role="img" aria-label="{esc(label)}" viewBox="0 0 {_WIDTH} {_HEIGHT}">{content}</svg>'


def _nothing(label: str) -> str:
    return f'<p class="none" role="img" aria-label="{esc(label)}">nothing to show</p>'


def _edges(values: NDArray[np.float64], whole: bool) -> tuple[NDArray[np.float64], bool]:
    """Round bin edges over the values, and whether the last bin also holds what lies beyond it."""
    low, high = float(values.min()), float(values.max())
    end = float(np.percentile(values, 99))
    is_open = end < low + 0.6 * (high - low)  # a few far ones would leave no room for the others
    last = end if is_open else high
    if low > 0 and low < 0.4 * last:
        low = 0.0  # sizes and counts are best seen from 0
    step = _nice((last - low) / _BINS)
    if whole:
        step = max(1.0, math.ceil(step))
        start = low - 0.5
        count = max(1, math.ceil((last + 0.5 - start) / step))
    else:
        step = step or 1.0
        start = math.floor(low / step) * step
        count = max(1, math.ceil((last - start) / step + 1e-9))
    return np.array([start + step * k for k in range(count + 1)], np.float64), is_open


def _range_text(low: float, high: float, whole: bool, last: bool) -> str:
    if whole:
        first, end = math.ceil(low), math.floor(high - 0.5)
        return f"{first:,} or more" if last else f"{first:,}" if first == end else f"{first:,} to {end:,}"
    return f"{_number(low)} or more" if last else f"{_number(low)} to {_number(high)}"


def _nice(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10, … (and tenths) that is not below `value`; 0 for 0."""
    if value <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= value * (1 - 1e-9))


def _nice_top(value: float) -> float:
    step = _nice(value / 4)
    return max(step * math.ceil(value / step - 1e-9), 1e-9) if step else 1.0


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round values between `low` and `high`, about `count` of them."""
    step = _nice((high - low) / count) or 1.0
    first = math.ceil(low / step - 1e-6)
    return [step * k for k in range(first, math.floor(high / step + 1e-6) + 1)]


def _number(value: float) -> str:
    """Short text of a round number."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:.4g}".replace("-", "−")  # the sign, not a hyphen
