"""Where everything stands in the two figures, in percent of the plotting area; the template draws them as inline SVG.

Positions are percentages and text is text, so a figure fits a phone as well as a wide screen, follows the light or dark
scheme, is searchable, and the same report gives the same bytes whatever fonts or plotting library are installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.results import RouteResult
from tunesmith.evaluate.verdict import Verdict, is_reference

FASTEST_MS = 0.01
WIDTH, HEIGHT = 1000, 400
_MARK = 22
_LETTER = 7.4
_SIDES = (
    (17, 5, "start"),
    (-17, 5, "end"),
    (14, -13, "start"),
    (14, 22, "start"),
    (0, -20, "middle"),
    (0, 30, "middle"),
    (-14, -13, "end"),
    (-14, 22, "end"),
)


class Point(Protocol):
    """What can be drawn: a thing with a name, a kind (its shape), a value with its interval, and a value a draw."""

    @property
    def route(self) -> str:
        """Its name."""
        ...

    @property
    def kind(self) -> str:
        """Its shape."""
        ...

    @property
    def value(self) -> float:
        """What it reached."""
        ...

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        ...

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        ...

    @property
    def draws(self) -> Sequence[float]:
        """The value of each draw."""
        ...


@dataclass(frozen=True)
class Tick:
    """A line of the grid: where (percent) and what is written beside it."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """One route in a figure.

    Attributes:
        number: rank by quality, 0 for a reference line; written into the mark and beside the route everywhere.
        x, y, low, high: percent of the plotting area (y from the top); draws: the same for each draw's value.
        shift: pixels to the right that keep coinciding marks apart. label_x, label_y, anchor: place of the name, from the mark.
    """

    route: str
    kind: str
    number: int
    recommended: bool
    value: str
    x: float
    y: float
    low: float
    high: float
    draws: tuple[float, ...] = ()
    shift: int = 0
    label_x: int = 0
    label_y: int = 0
    anchor: str = "none"


@dataclass(frozen=True)
class Figure:
    """A figure ready to be drawn: marks, grid, reference lines, and the best-for-its-cost steps (x1, y1, x2, y2)."""

    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...] = ()
    references: tuple[Tick, ...] = ()
    steps: tuple[tuple[float, float, float, float], ...] = ()


def ranked(results: Sequence[RouteResult]) -> list[RouteResult]:
    """Return the routes from the highest metric to the lowest; equal ones by name."""
    return sorted(results, key=lambda r: (-r.value, r.route))


def ranks(results: Sequence[RouteResult]) -> dict[str, int]:
    """Return each route's rank by quality from 1, and 0 for reference lines."""
    order = [r.route for r in ranked(results) if not is_reference(r)]
    return {r.route: 0 if is_reference(r) else order.index(r.route) + 1 for r in results}


def intervals(results: Sequence[RouteResult], verdict: Verdict) -> Figure:
    """Lay out the ranked intervals: one row a route, value and 95 % interval along x, reference lines vertical."""
    low, high, step = domain(results)
    rank = ranks(results)

    def at(value: float) -> float:
        return percent(value, low, high)

    marks = tuple(
        Mark(
            route=r.route,
            kind="reference" if is_reference(r) else r.kind,
            number=rank[r.route],
            recommended=r.route == verdict.recommended,
            value=numbers.interval(r.value, r.low, r.high, 3),
            x=at(r.value),
            y=50,
            low=at(r.low),
            high=at(r.high),
            draws=tuple(at(d) for d in r.draws) if len(r.draws) > 1 else (),
        )
        for r in ranked(results)
    )
    references = tuple(Tick(at(r.value), r.route) for r in results if is_reference(r))
    return Figure(marks, ticks(low, high, step), references=references)


def quality_cost(results: Sequence[RouteResult], verdict: Verdict) -> Figure:
    """Lay out quality (y) against milliseconds per query (x, logarithmic).

    Milliseconds per query, because that cost returns with every answer; training is paid once and stands in the table.
    A route faster than `FASTEST_MS` stands at the left edge.
    """
    rank = ranks(results)
    candidates = [r for r in ranked(results) if not is_reference(r)]
    costs = {r.route: math.log10(max(r.ms_per_query, FASTEST_MS)) if math.isfinite(r.ms_per_query) else 0.0 for r in candidates}
    said = {r.route: f"{numbers.milliseconds(r.ms_per_query)} ms per query" for r in candidates}
    references = [r for r in results if is_reference(r)]
    figure = quality_against(candidates, rank, costs, said, verdict.recommended, references)
    if figure.x_ticks and any(r.ms_per_query < FASTEST_MS for r in candidates):
        first = replace(figure.x_ticks[0], text=f"≤ {figure.x_ticks[0].text}")
        return replace(figure, x_ticks=(first, *figure.x_ticks[1:]))
    return figure


def quality_against(
    points: Sequence[Point], numbered: Mapping[str, int], costs: Mapping[str, float], said: Mapping[str, str],
    recommended: str | None, references: Sequence[Point] = (),
) -> Figure:  # fmt: skip
    """Lay out quality (y) against a cost (x, logarithmic) of the same things, by name.

    Args:
        numbered: what is written into each mark. costs: their logarithms to base 10. said: the costs in words.
        recommended: the one that gets a ring. references: drawn as horizontal lines.
    """
    low, high, step = domain([*points, *references])
    left = math.floor(min(costs.values(), default=0) + 1e-9)
    right = max(math.ceil(max(costs.values(), default=1) + 0.1), left + 1)
    marks = [
        Mark(
            route=r.route,
            kind=r.kind,
            number=numbered[r.route],
            recommended=r.route == recommended,
            value=f"{numbers.interval(r.value, r.low, r.high, 3)}, {said[r.route]}",
            x=percent(costs[r.route], left, right),
            y=100 - percent(r.value, low, high),
            low=100 - percent(r.low, low, high),
            high=100 - percent(r.high, low, high),
        )
        for r in points
    ]
    x_ticks = tuple(Tick(percent(e, left, right), f"{10.0**e:,.{max(0, -e)}f}") for e in range(left, right + 1))
    y_ticks = tuple(Tick(100 - t.at, t.text) for t in ticks(low, high, step))
    lines = tuple(Tick(100 - percent(r.value, low, high), r.route) for r in references)
    steps = _steps(marks)
    return Figure(place(marks, steps), x_ticks, y_ticks, lines, steps)


def percent(value: float, low: float, high: float) -> float:
    """Return where a value stands between two others, percent, never outside."""
    return round(min(max(100 * (value - low) / (high - low), 0), 100), 2) if math.isfinite(value) else 0.0


def domain(results: Sequence[Point]) -> tuple[float, float, float]:
    """Return where an axis of the routes' metric begins and ends, and its step."""
    low, high, step = scale([v for r in results for v in (r.value, r.low, r.high, *r.draws)], 0.02)
    if low < 1 < high and all(r.value <= 1 for r in results):
        high = 1.0
    return low, high, step


def scale(numbers: Sequence[float], least: float) -> tuple[float, float, float]:
    """Return where an axis of these numbers begins and ends, and its step; it covers at least `least`."""
    values = [v for v in numbers if math.isfinite(v)] or [0.0, 1.0]
    raw = max(max(values) - min(values), least) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    low = math.floor(min(values) / step + 1e-9) * step
    high = max(math.ceil(max(values) / step - 1e-9) * step, low + step)
    return low, high, step


def ticks(low: float, high: float, step: float) -> tuple[Tick, ...]:
    """Return the grid lines of an axis."""
    places = max(1, -math.floor(math.log10(step) + 1e-9))
    count = round((high - low) / step)
    return tuple(Tick(percent(low + i * step, low, high), numbers.fixed(low + i * step, places)) for i in range(count + 1))


def _steps(marks: Sequence[Mark]) -> tuple[tuple[float, float, float, float], ...]:
    """The staircase below which a route is both slower and worse than another."""
    lines: list[tuple[float, float, float, float]] = []
    x, y = 0.0, 0.0
    for mark in sorted(marks, key=lambda m: (m.x, m.y)):
        if lines and mark.y >= y:
            continue
        if lines:
            lines[-1] = (x, y, mark.x, y)
            lines.append((mark.x, y, mark.x, mark.y))
        x, y = mark.x, mark.y
        lines.append((x, y, 100.0, y))
    return tuple(lines)


def place(marks: Sequence[Mark], steps: Sequence[tuple[float, float, float, float]]) -> tuple[Mark, ...]:
    """Move coinciding marks apart and give each name a place that covers nothing, at the width of a desktop page."""
    boxes: list[tuple[float, float, float, float]] = []
    moved: list[Mark] = []
    for mark in marks:
        x, y = mark.x * WIDTH / 100, mark.y * HEIGHT / 100
        shifts = (0, -_MARK, _MARK, -2 * _MARK, 2 * _MARK, -3 * _MARK, 3 * _MARK)
        shift = next((s for s in shifts if not _hits(_box(x + s, y), boxes)), 0)
        boxes.append(_box(x + shift, y))
        moved.append(replace(mark, shift=shift))
    for x1, y1, x2, y2 in steps:
        left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        boxes.append((left * WIDTH / 100 - 2, top * HEIGHT / 100 - 2, right * WIDTH / 100 + 2, bottom * HEIGHT / 100 + 2))
    placed = []
    for mark in moved:
        x, y = mark.x * WIDTH / 100 + mark.shift, mark.y * HEIGHT / 100
        width = len(mark.route) * _LETTER
        for dx, dy, anchor in _SIDES:
            start = x + dx - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
            box = (start, y + dy - 12, start + width, y + dy + 3)
            if box[0] >= -20 and box[2] <= WIDTH and box[1] >= 0 and not _hits(box, boxes):
                boxes.append(box)
                mark = replace(mark, label_x=dx, label_y=dy, anchor=anchor)
                break
        placed.append(mark)
    return tuple(placed)


def _box(x: float, y: float) -> tuple[float, float, float, float]:
    half = _MARK / 2 - 1
    return x - half, y - half, x + half, y + half


def _hits(box: tuple[float, float, float, float], boxes: Sequence[tuple[float, float, float, float]]) -> bool:
    return any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in boxes)
