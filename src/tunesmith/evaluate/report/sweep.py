"""report.html and the terminal table of `tune --sweep`: quality against how many numbers were trained."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.report.figures import quality_against
from tunesmith.evaluate.report.template import render


@dataclass(frozen=True)
class SweepReport:
    """A finished sweep: the content of report.json, what makes it again, and name -> value of what it was made with."""

    outcome: Mapping[str, Any]
    command: str
    provenance: Mapping[str, str]


@dataclass(frozen=True)
class _Point:
    route: str
    value: float
    low: float
    high: float
    draws: tuple[float, ...]
    kind: str = "tuned"


def write_sweep_html(report: SweepReport) -> str:
    """Return the whole page; equal reports give equal bytes. Every text that came from data or a user is escaped."""
    outcome = report.outcome
    rows = sorted(outcome["combinations"], key=lambda c: (-c["value"], c["trained_parameters"], c["name"]))
    points = [_Point(c["name"], c["value"], c["low"], c["high"], tuple(c["seeds"])) for c in rows]
    figure = quality_against(
        points,
        {c["name"]: rank for rank, c in enumerate(rows, 1)},
        {c["name"]: math.log10(max(c["trained_parameters"], 1)) for c in rows},
        {c["name"]: f"{c['trained_parameters']:,} trained parameters" for c in rows},
        outcome["recommended"],
    )
    metric = outcome["metric"].replace("_", " ")
    return render("sweep", {"report": report, "outcome": outcome, "rows": rows, "figure": figure, "metric": metric})


def table(outcome: Mapping[str, Any]) -> str:
    """Return the verdict and one line a combination, in the order they were asked for."""
    rows = [("", "combination", outcome["metric"].replace("_", " "), "parameters", "minus the best", "seconds")]
    for c in outcome["combinations"]:
        mark = ">" if c["name"] == outcome["recommended"] else "*" if c["name"] == outcome["best"] else ""
        gap = c["difference"]
        apart = f"{gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]" if gap else numbers.NONE
        value = numbers.interval(c["value"], c["low"], c["high"], 3)
        rows.append((mark, c["name"], value, f"{c['trained_parameters']:,}", apart, f"{c['seconds']:,.0f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = {3, 5}
    lines = [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))).rstrip()
        for r in rows
    ]
    lines += ["> = recommended, * = best" if outcome["recommended"] != outcome["best"] else "> = recommended, and the best"]
    said = [piece for line in (outcome["verdict"], *outcome["warnings"]) for piece in textwrap.wrap(line, 80)]
    return "\n".join([*lines, "", *said, f"Report: {outcome['run_dir']}/report.html"])
