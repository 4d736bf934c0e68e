"""Curves of a training, in percent of the plotting area; the template draws them as inline SVG (see `figures`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluate.report.figures import Tick

Series = Sequence[tuple[float, float]]
# A longer curve is drawn by the lowest and the highest value of each of so many stretches: no spike is lost.
_STRETCHES = 400
_SMOOTHED_FROM = 20
_MOST_DOTS = 60
_LOGARITHMIC_FROM = 30.0


@dataclass(frozen=True)
class Measured:
    """What one chart is to show.

    Attributes:
        line: drawn thin, with its moving average above it if it is `noisy` and long enough.
        dots: joined, and marked where they are not too many.
        kept: the last dot of this value gets a ring. limit: draw a line at this height if it is in sight; 0 = none.
        from_zero: the axis begins at 0. may_be_logarithmic: it is where values differ by a factor of 30 or more.
    """

    title: str
    unit: str
    line: Series = ()
    dots: Series = ()
    kept: float | None = None
    limit: float = 0.0
    noisy: bool = False
    from_zero: bool = True
    may_be_logarithmic: bool = False


@dataclass(frozen=True)
class Dot:
    """A single measurement: where, what it says to who points at it, and whether its weights were the best."""

    x: float
    y: float
    text: str
    kept: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart ready to be drawn.

    Attributes:
        raw, smooth, joined: corners of lines as SVG writes them, "x,y x,y" in percent; "" = no such line.
        dots: single measurements. limit: a horizontal line, if one is in sight.
        span: steps that the smoothed line averages over, 0 without one. words: what the chart shows, for who cannot see it.
    """

    title: str
    unit: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    raw: str = ""
    smooth: str = ""
    joined: str = ""
    dots: tuple[Dot, ...] = ()
    limit: Tick | None = None
    span: int = 0
    logarithmic: bool = False
    words: str = ""


def series(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """Return (step, value) of the rows of metrics.jsonl that have a finite number under `key`."""
    found = [(row.get("step"), row.get(key)) for row in rows]
    return [
        (step, float(value))
        for step, value in found
        if isinstance(step, int) and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]


def smoothed(values: Sequence[float], span: int) -> list[float]:
    """Return the exponential moving average over about `span` values, without the pull towards zero at its start.

    s_t = sum_i (1 - a)^i x_{t-i} / sum_i (1 - a)^i with a = 2 / (span + 1).
    """
    keep = 1 - 2 / (span + 1)
    total = weight = 0.0
    result = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        result.append(total / weight)
    return result


def short(value: float) -> str:
    """Write a number in few characters: "0", "3e-4", "0.25", "12", "3,400", "25k", "1.2M", "1e38"."""
    if value == 0:
        return "0"
    size = abs(value)
    if size < 0.001 or size >= 1e12:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    if size >= 999_500:
        return f"{value / 1e6:.3g}M"
    if size >= 9_999.5:
        return f"{value / 1e3:.4g}k"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def chart(measured: Measured, steps: tuple[float, float], axis: str = "step", whole: bool = True) -> Chart:
    """Lay out one chart; `steps` are the first and the last of the run, so that all its charts have one axis.

    Args:
        axis: what stands along it, for words. whole: it is counted, and not measured.
    """
    line, dots = measured.line, measured.dots
    values = [value for _, value in (*line, *dots)] or [0.0, 1.0]
    logarithmic = measured.may_be_logarithmic and min(values) > 0 and max(values) / min(values) >= _LOGARITHMIC_FROM
    scale = math.log10 if logarithmic else float
    bounds = [*values, 0.0] if measured.from_zero and not logarithmic else values
    low, high, y_ticks = _axis(bounds, logarithmic)
    first, last = steps[0], max(steps[1], steps[0] + 1) if whole else steps[1]

    def at(step: float, value: float) -> tuple[float, float]:
        x, y = (step - first) / (last - first), (scale(value) - low) / (high - low)
        return round(100 * x, 2), round(100 - 100 * y, 2)

    span = len(line) // 20 if measured.noisy and len(line) >= _SMOOTHED_FROM else 0
    means = smoothed([value for _, value in line], span) if span else []
    mean_line = [(step, mean) for (step, _), mean in zip(line, means, strict=False)]
    if len(line) == 1:  # no line yet
        dots = [*dots, *line]
    kept = next((step for step, value in reversed(dots) if value == measured.kept), None)
    limit = measured.limit if measured.limit > 0 and low <= scale(measured.limit) <= high else 0.0
    return Chart(
        title=measured.title, unit=measured.unit, x_ticks=_x_ticks(first, last, whole),
        y_ticks=tuple(Tick(round(100 - 100 * (place - low) / (high - low), 2), text) for place, text in y_ticks),
        raw=_corners(at, _thinned(line)),
        smooth=_corners(at, mean_line[:: max(len(mean_line) // _STRETCHES, 1)] + mean_line[-1:]),
        joined=_corners(at, _thinned(dots)),
        dots=tuple(
            Dot(*at(s, v), f"{axis} {_count(s)}: {short(v)}", s == kept) for s, v in dots if s == kept or len(dots) <= _MOST_DOTS
        ),
        limit=Tick(at(first, limit)[1], short(limit)) if limit else None, span=span, logarithmic=logarithmic,
        words=_words(measured.title, measured.unit, line or dots, axis),
    )  # fmt: skip


def _thinned(line: Series) -> Series:
    if len(line) <= 2 * _STRETCHES:
        return line
    kept: list[tuple[float, float]] = []
    for i in range(_STRETCHES):
        part = line[len(line) * i // _STRETCHES : len(line) * (i + 1) // _STRETCHES]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return kept


def _corners(at: Any, line: Series) -> str:
    return " ".join("{:g},{:g}".format(*at(step, value)) for step, value in line) if len(line) > 1 else ""


def _words(title: str, unit: str, line: Series, axis: str) -> str:
    if not line:
        return f"{title}: nothing was measured."
    values = [value for _, value in line]
    unit = f" {unit}" if unit else ""
    return (
        f"{title}: {short(values[0])}{unit} at {axis} {_count(line[0][0])}, "
        f"{short(values[-1])}{unit} at {axis} {_count(line[-1][0])}, "
        f"lowest {short(min(values))}, highest {short(max(values))}."
    )


def _axis(values: Sequence[float], logarithmic: bool) -> tuple[float, float, list[tuple[float, str]]]:
    """Return the ends of an axis and its ticks as (place, text); places are powers of ten where it is logarithmic."""
    if logarithmic:
        low, high = math.log10(min(values)), math.log10(max(values))
        pad = 0.04 * (high - low)
        decades = range(math.floor(low), math.ceil(high) + 1)
        digits = (1, 2, 5) if high - low < 2.5 else (1,)
        places = [(math.log10(d) + e, short(d * 10.0**e)) for e in decades for d in digits]
        return low - pad, high + pad, [(p, text) for p, text in places if low - pad <= p <= high + pad]
    span = max(max(values) - min(values), 1e-3 * max(map(abs, values)), 1e-9)
    step = _nice(span / 5)
    low, high = math.floor(min(values) / step + 1e-9) * step, math.ceil(max(values) / step - 1e-9) * step
    if high <= low:
        high = low + step
    return low, high, [(low + i * step, short(round(low + i * step, 12))) for i in range(round((high - low) / step) + 1)]


def _x_ticks(first: float, last: float, whole: bool) -> tuple[Tick, ...]:
    step = _nice((last - first) / 5)
    step = max(round(step), 1) if whole else step
    places = [i * step for i in range(math.ceil(first / step), math.floor(last / step + 1e-9) + 1)]
    return tuple(Tick(round(100 * (s - first) / (last - first), 2), _count(round(s, 12))) for s in places)


def _count(place: float) -> str:
    return f"{place:,}" if isinstance(place, int) else short(place)


def _nice(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
