"""The picture of gain against forgetting: the task's metric (up) against nats of general text lost (right)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.report.figures import Figure, Mark, Tick, percent, place, ranks, scale, ticks
from tunesmith.evaluate.results import RouteResult
from tunesmith.evaluate.tradeoff import Tradeoff
from tunesmith.evaluate.verdict import Verdict

_LEAST_RISE, _LEAST_GAIN = 0.01, 0.02


@dataclass(frozen=True)
class Point:
    """A model in the picture: what it reaches (with its interval) and the nats per token that it lost."""

    name: str
    kind: str
    number: int
    value: float
    low: float
    high: float
    rise: float
    chosen: bool = False


def draw(points: Sequence[Point]) -> Figure:
    """Lay out points: value upwards, rise to the right; the dashed line marks no forgetting."""
    left, right, across = scale([0.0, *(p.rise for p in points)], _LEAST_RISE)
    low, high, up = scale([v for p in points for v in (p.value, p.low, p.high)], _LEAST_GAIN)
    marks = [
        Mark(
            route=p.name, kind=p.kind, number=p.number, recommended=p.chosen,
            value=f"{numbers.interval(p.value, p.low, p.high, 3)}, {numbers.signed(p.rise, 3)} nats per token",
            x=percent(p.rise, left, right), y=100 - percent(p.value, low, high),
            low=100 - percent(p.low, low, high), high=100 - percent(p.high, low, high),
        )
        for p in points
    ]  # fmt: skip
    y_ticks = tuple(Tick(100 - t.at, t.text) for t in ticks(low, high, up))
    return Figure(place(marks, ()), ticks(left, right, across), y_ticks)


def of_ladder(results: Sequence[RouteResult], tradeoff: Tradeoff | None, verdict: Verdict) -> Figure | None:
    """Return the picture of a ladder's routes, None where none was measured on the guard set."""
    if tradeoff is None:
        return None
    rank, by_route = ranks(results), {r.route: r for r in results}
    start = by_route[tradeoff.before]
    points = [Point(start.route, start.kind, rank[start.route], start.value, start.low, start.high, 0.0)]
    for trade in tradeoff.trades:
        r = by_route[trade.route]
        points.append(Point(r.route, r.kind, rank[r.route], r.value, r.low, r.high, trade.rise.value, trade.meets))
    return draw(points)


def of_mixes(curve: Mapping[str, Any] | None) -> Figure | None:
    """Return the curve of WiSE-FT as `wise_ft` of report.json has it, one point for each alpha."""
    if not curve:
        return None
    start = next(p["nats"] for p in curve["points"] if p["alpha"] == 0)
    return draw([
        Point(f"alpha {p['alpha']:g}", "prompt" if p["alpha"] == 0 else "tuned", 0, p["value"], p["value"], p["value"],
              p["nats"] - start, p["alpha"] == curve["alpha"])
        for p in curve["points"]
    ])  # fmt: skip
