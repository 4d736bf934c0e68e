"""report.html: one file that needs no network and no JavaScript, the same bytes for the same report."""

from __future__ import annotations

from typing import Any

from tunesmith.evaluate.report import figures, items, numbers, tradeoff
from tunesmith.evaluate.report.record import LadderReport
from tunesmith.evaluate.report.template import render
from tunesmith.evaluate.results import RouteResult
from tunesmith.evaluate.verdict import CLEAR, cost, difference, is_reference
from tunesmith.stats.compare import Difference


def write_html(report: LadderReport) -> str:
    """Return the whole page. Every text that came from data, a model or a user is escaped."""
    return render("page", _context(report))


def _context(report: LadderReport) -> dict[str, Any]:
    results = report.results
    tests = {d.test for d in report.comparison.differences}
    chosen = next((r for r in results if r.route == report.verdict.recommended), None)
    return {
        "report": report,
        "verdict": report.verdict,
        "clear": report.verdict.evidence == CLEAR,
        "metric": report.metric.replace("_", " "),
        "n": max((r.n for r in results), default=0),
        "level": numbers.percent(report.comparison.level),
        "chosen": chosen,
        "cost_figure": figures.quality_cost(results, report.verdict),
        "rank_figure": figures.intervals(results, report.verdict),
        "rank": figures.ranks(results),
        "ranked": figures.ranked(results),
        "references": {r.route for r in results if is_reference(r)},
        "priced": any(r.price_per_1000 is not None for r in results),
        "tradeoff": report.tradeoff,
        "trade_figure": tradeoff.of_ladder(results, report.tradeoff, report.verdict),
        "forgetful": [r for r in figures.ranked(results) if r.forgetting is not None],
        "tests": _tests(report, chosen),
        "one_test": tests.pop() if len(tests) == 1 else "",
        "flips": items.flips(report),
        "extremes": items.extremes(report),
        "samples": items.samples(report),
        "notes": [(r.route, note) for r in results for note in r.notes],
    }


def _tests(report: LadderReport, chosen: RouteResult | None) -> list[tuple[str, list[Difference]]]:
    """Group the tested pairs: those of the recommended route, then the rest, each with the costlier route first."""
    by_route = {r.route: r for r in report.results}
    first: list[Difference] = []
    rest: list[Difference] = []
    for d in report.comparison.differences:
        if chosen is not None and chosen.route in (d.a, d.b):
            other = d.b if d.a == chosen.route else d.a
            first.append(difference(report.comparison, chosen.route, other))
            continue
        swap = d.a in by_route and d.b in by_route and cost(by_route[d.a]) < cost(by_route[d.b])
        rest.append(difference(report.comparison, d.b, d.a) if swap else d)
    rank = figures.ranks(report.results)
    first.sort(key=lambda d: (rank.get(d.b, 0), d.b))
    rest.sort(key=lambda d: (rank.get(d.a, 0), rank.get(d.b, 0), d.a, d.b))
    named = [(f"{chosen.route} against every other route", first)] if chosen is not None and first else []
    return named + ([("All other pairs" if named else "All pairs", rest)] if rest else [])
