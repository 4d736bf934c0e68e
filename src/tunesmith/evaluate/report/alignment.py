"""report.html of `align`: how score, divergence and health went round by round, over-optimisation, and what is answered now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.report.curves import Chart, Measured, chart
from tunesmith.evaluate.report.template import render
from tunesmith.rl import best_of_n

_TEXT = 400
# Said elsewhere on the page.
_NOT_ROWS = ("warnings", "curve")
# What is drawn, where it was measured: key, title, unit, whether the axis begins at 0.
_CURVES = (
    ("score", "Score", "mean of a round, by the scorer that is learned from", False),
    ("held_out", "Held-out score", "by the scorer that is only watched", False),
    ("kl", "KL to the reference", "nats an answer", True),
    ("beta", "Price of a nat", "beta", True),
    ("entropy", "Entropy", "nats a token, of what was sampled", True),
    ("completion_length", "Length", "tokens", True),
    ("distinct_2", "Distinct-2", "share of pairs of tokens that differ", True),
    ("repetition", "Repetition", "share of an answer's 4-grams seen in it before", True),
    ("policy_clipped", "Clipped", "share of tokens whose ratio the clip holds back", True),
    ("explained_variance", "Explained variance", "of returns, by the value head", False),
    ("sampled_apart", "Sampler and policy", "nats a token between their numbers for what was sampled elsewhere", True),
    ("ties", "Ties", "share of prompts whose answers all score the same", True),
)


@dataclass(frozen=True)
class AlignmentReport:
    """An alignment that is done.

    Attributes:
        outcome: the content of report.json. rounds: what was measured of each.
        first, last: answers of the first and the last round: prompt, text, score and, if there is one, held_out.
        provenance: name -> value.
    """

    data: str
    method: str
    model: str
    outcome: Mapping[str, Any]
    rounds: Sequence[Mapping[str, float]]
    first: Sequence[Mapping[str, Any]]
    last: Sequence[Mapping[str, Any]]
    command: str
    provenance: Mapping[str, str]


def write_alignment_html(report: AlignmentReport) -> str:
    """Return the whole page; equal reports give equal bytes. Every text that came from data or a model is escaped."""
    rounds = report.rounds
    span = (1, max(len(rounds), 2))
    curves = []
    for key, title, unit, from_zero in _CURVES:
        line = [(i + 1, one[key]) for i, one in enumerate(rounds) if math.isfinite(one.get(key, math.nan))]
        if line:
            curves.append(chart(Measured(title, unit, line, from_zero=from_zero), span, "round"))
    return render(
        "alignment",
        {
            "report": report, "outcome": report.outcome, "sentence": _sentence(report.outcome), "title": "Round by round",
            "axis": "round", "curves": curves,
            "optimised": over_optimisation(report), "held_out": "held_out" in report.rounds[0],
            "samples": [("First round", samples(report.first)), ("Last round", samples(report.last))],
            "table": in_table(report.outcome), "files": "metrics.jsonl has every step, rollouts/ every answer",
        },
    )  # fmt: skip


def over_optimisation(report: AlignmentReport) -> list[Chart]:
    """Return what scorers say over the square root of KL, the policy's rounds as lines and best-of-n as dots (Gao et al. 2022).

    Scores are in standard deviations from the mean of the first round. Best-of-n chooses among the first round's answers,
    whatever their prompts, by the scorer that is learned from.
    """
    if len(report.rounds) < 2:
        return []
    lines: dict[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]] = {}
    for key in ("score", "held_out"):
        if key not in report.rounds[0]:
            continue
        mean, deviation = report.rounds[0][key], report.rounds[0][f"{key}_std"] or 1.0
        policy = sorted((math.sqrt(max(one["kl"], 0.0)), (one[key] - mean) / deviation) for one in report.rounds)
        scores, values = [a["score"] for a in report.first], [a[key] for a in report.first]
        counts = [n for n in (1, 2, 4, 8, 16, 32) if 2 * n <= len(scores)]
        best = [(math.sqrt(best_of_n.kl(n)), (best_of_n.expected(scores, n, values) - mean) / deviation) for n in counts]
        lines[key] = policy, best
    end = max(x for some in lines.values() for line in some for x, _ in line)
    titles = {"score": "By the scorer that is learned from", "held_out": "By the held-out scorer"}
    return [
        chart(
            Measured(titles[key], "standard deviations", policy, best, from_zero=True),
            (0.0, max(end, 1e-3)),
            "sqrt KL",
            whole=False,
        )
        for key, (policy, best) in lines.items()
    ]


def _sentence(outcome: Mapping[str, Any]) -> str:
    held_out = outcome.get("held_out")
    also = f", the held-out score from {outcome['held_out_before']:.3f} to {held_out:.3f}," if held_out is not None else ""
    return (
        f"{outcome['rollouts']:,} answers took the score from {outcome['score_before']:.3f} to {outcome['score']:.3f}{also} at "
        f"{outcome['kl']:.2f} nats an answer from the reference."
    )


def in_table(outcome: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the numbers and words of a report that stand nowhere else on its page, as (name, value)."""
    return [(key.replace("_", " "), _value(value)) for key, value in outcome.items() if key not in _NOT_ROWS]


def samples(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the first answers (prompt, text, score and, if there is one, held_out) as the page shows them."""
    shown = []
    for row in rows[:5]:
        said = f"score {row['score']:.3f}" + (f", held out {row['held_out']:.3f}" if "held_out" in row else "")
        shown.append({**{key: numbers.shorten(str(row[key]), _TEXT) for key in ("prompt", "text")}, "said": said})
    return shown


def _value(value: Any) -> str:
    if value is None:
        return numbers.NONE
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
