"""report.html of `honesty`: who answers, hedges and declines what, what that is worth, and when each is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.report.curves import Chart, Measured, chart
from tunesmith.evaluate.report.figures import Tick
from tunesmith.evaluate.report.template import render
from tunesmith.rl.reward_table import ACTIONS, RewardTable

_TITLES = {
    "base": "base model", "prompt": "instruction prompt", "threshold": "base with a threshold", "gold": "tuned on gold answers",
    "gold_threshold": "gold with a threshold",
    "boundary": "tuned on the boundary", "aligned": "aligned by the table",
}  # fmt: skip
_OUTCOMES = {
    "correct": "right", "hedged_correct": "hedged, right", "declined": "declined", "hedged_wrong": "hedged, wrong",
    "wrong": "wrong", "unparseable": "unreadable",
}  # fmt: skip
_WORDS = {"answer": "answer plainly", "hedge": "hedge", "decline": "say that one does not know"}
_SHOWN = 12


@dataclass(frozen=True)
class Line:
    """The expected reward of a way of answering, over p from 0 to 1: corners as SVG writes them, and where its name stands."""

    action: str
    points: str
    name_y: float


@dataclass(frozen=True)
class TablePicture:
    """Three lines and the stretches of p where each is the highest; all in percent of the area."""

    lines: tuple[Line, ...]
    cuts: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    words: str


def verdict(found: Mapping[str, Any]) -> str:
    """Say in one sentence what the last route is worth, and whether it gets there by declining everything."""
    routes = {route["route"]: route for route in found["routes"]}
    last = found["routes"][-1]
    if len(routes) == 1:
        return f"The {_TITLES['base']} scores {_signed(last['score']['value'])} under the table."
    others = {d["b"]: d for d in found["differences"] if d["a"] == last["route"]}
    better = [_TITLES[name] for name, d in others.items() if d["verdict"] == "better"]
    unsure = [_TITLES[name] for name, d in others.items() if d["verdict"] not in ("better", "worse")]
    worse = [_TITLES[name] for name, d in others.items() if d["verdict"] == "worse"]
    said = [f"better than {_listed(better)}"] if better else []
    said += [f"not told apart from {_listed(unsure)}"] if unsure else []
    said += [f"worse than {_listed(worse)}"] if worse else []
    kept = last["known_answered"]
    known = f"; it still answers {kept['value']:.0%} of the {kept['n']:,} questions that were known" if kept["n"] else ""
    start = f"{_signed(routes['base']['score']['value'])} to {_signed(last['score']['value'])}"
    return f"The route '{last['route']}' takes the score a question from {start}, {' and '.join(said)}{known}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def table_words(table: RewardTable) -> list[str]:
    """Say when each way of answering is best, and which never is."""
    parts = [f"{_WORDS[r.action]} where p is between {float(r.low):.3f} and {float(r.high):.3f}" for r in table.regions()]
    said = [f"With the probability p of being right, the best is to {'; to '.join(parts)}."]
    if "hedge" in table.never_best():
        said.append("Hedging is best for no p: a table that is to teach it needs to punish a hedged wrong answer less.")
    return said


def table_picture(table: RewardTable) -> TablePicture:
    """Draw the three lines."""
    ends = {a: (float(table.expected(a, 0)), float(table.expected(a, 1))) for a in ACTIONS}
    low, high = min(min(e) for e in ends.values()), max(max(e) for e in ends.values())

    def y(value: float) -> float:
        return round(100 * (high - value) / (high - low), 2)

    lines = tuple(Line(a, f"0,{y(ends[a][0])} 100,{y(ends[a][1])}", y(ends[a][0])) for a in ACTIONS)
    cuts = tuple(Tick(round(100 * float(r.low), 2), f"{float(r.low):.3f}") for r in table.regions()[1:])
    steps = np.linspace(low, high, 6)
    return TablePicture(
        lines, cuts, tuple(Tick(20.0 * i, f"{i / 5:.1f}") for i in range(6)), tuple(Tick(y(v), f"{v:.1f}") for v in steps),
        f"Expected reward against the probability of being right. {' '.join(table_words(table))}",
    )  # fmt: skip


def write_honesty_html(
    report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], command: str, provenance: Mapping[str, str]
) -> str:
    """Return the whole page; equal reports give equal bytes. Every text that came from data, a model or a user is escaped.

    Args:
        report: the content of report.json. rows: those of predictions.jsonl.
    """
    table = RewardTable(**report["table"])
    return render("honesty", {
        "report": report, "table": table, "sentences": table_words(table), "picture": table_picture(table), "titles": _TITLES,
        "outcomes": _OUTCOMES, "risks": [_risk(route) for route in report["routes"] if route["curve"]["coverage"]],
        "cell": _cell, "number": lambda v: numbers.NONE if v is None else f"{v:.3f}", "shown": _examples(rows),
        "command": command, "provenance": provenance,
    })  # fmt: skip


def _cell(share: Mapping[str, Any]) -> tuple[str, str]:
    if share["value"] is None:
        return numbers.NONE, ""
    return f"{share['value']:.1%}", f"[{share['low']:.3f}, {share['high']:.3f}] of {share['n']:,}"


def _risk(route: Mapping[str, Any]) -> Chart:
    coverage, risk = np.array(route["curve"]["coverage"]), np.array(route["curve"]["risk"])
    last = max(1, round(100 * coverage[-1]))
    at = np.minimum(np.searchsorted(coverage, np.arange(1, last + 1) / 100 - 1e-9), len(risk) - 1)
    line = [(percent, float(risk[i])) for percent, i in zip(range(1, last + 1), at, strict=True)]
    title = _TITLES[route["route"]]
    drawn = chart(Measured(title, "", line, [(last, float(risk[-1]))]), (0, 100))
    said = f"{coverage[-1]:.1%} answered, {risk[-1]:.1%} of them wrong"
    return replace(
        drawn, words=f"{title}: {said}; {risk[0]:.1%} wrong among the surest.",
        dots=(replace(drawn.dots[0], text=said, kept=True),) if drawn.dots else (),
    )  # fmt: skip


def _examples(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Choose rows to show: some known, some not, some without an answer."""
    kinds = [
        [row for row in rows if row["known"]], [row for row in rows if row["answers"] and not row["known"]],
        [row for row in rows if not row["answers"]],
    ]  # fmt: skip
    return [row for some in kinds for row in some[: _SHOWN // len(kinds)]]
