"""report.html of an alignment without rounds: from judgements that were there, or the best of several answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.report.alignment import in_table, samples
from tunesmith.evaluate.report.curves import Chart, Measured, chart, series
from tunesmith.evaluate.report.template import render

# What is drawn of metrics.jsonl, where it was measured: key, title, unit, whether the axis begins at 0.
_CURVES = (
    ("loss", "Loss", "mean of a batch", False),
    ("accuracy", "Moved the right way", "share of a batch, equal gains a half", True),
    ("margin", "Margin", "nats the preferred one gained more", False),
    ("chosen_logprob", "Preferred", "log p of a completion, nats", False),
    ("rejected_logprob", "Others", "log p of a completion, nats", False),
    ("grad_norm", "Gradient norm", "before clipping", True),
)


@dataclass(frozen=True)
class JudgedReport:
    """An alignment without rounds that is done.

    Attributes:
        outcome: the content of report.json. rows: of metrics.jsonl, none of best-of-n.
        answers: of best-of-n the best ones: prompt, text, score. provenance: name -> value.
    """

    data: str
    method: str
    model: str
    outcome: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    answers: Sequence[Mapping[str, Any]]
    command: str
    provenance: Mapping[str, str]


def write_judged_html(report: JudgedReport) -> str:
    """Return the whole page; equal reports give equal bytes. Every text that came from data or a model is escaped."""
    outcome = report.outcome
    best = "curve" in outcome
    return render(
        "alignment",
        {
            "report": report, "outcome": outcome, "sentence": best_words(outcome) if best else verdict(outcome),
            "title": "What more answers buy" if best else "Step by step", "axis": "at most so many nats" if best else "step",
            "curves": [_best_of(outcome["curve"])] if best else _curves(report.rows), "compared": compared(outcome),
            "optimised": [], "held_out": False, "samples": [("The best answers", samples(report.answers))] if best else [],
            "table": in_table(outcome),
            "files": "answers/ has every answer" if best else "metrics.jsonl has every step",
        },
    )  # fmt: skip


def verdict(outcome: Mapping[str, Any]) -> str:
    """Say in words what held-out judgements say of what was learned."""
    after = outcome["after"]
    if not after:
        return "Nothing was held out, so nothing says whether it learned anything."
    found = (
        f"it moved the right way in {after['accuracy']:.1%} of {_several(after['n'], 'judgement')} "
        f"(95 % interval {after['low']:.1%} to {after['high']:.1%}; 50 % is chance)"
    )
    asked = _several(after["prompts"], "held-out prompt")
    if after["low"] > 0.5:
        return f"It learned what was asked for: on {asked} {found}."
    if after["high"] < 0.5:
        return f"It learned the opposite of what was asked for: on {asked} {found}."
    cannot = "cannot" if after["prompts"] != 1 else "alone cannot"
    return f"{asked} {cannot} tell whether it learned anything: {found}."


def best_words(outcome: Mapping[str, Any]) -> str:
    """Say in words what taking the best of several answers is worth."""
    return (
        f"The best of {outcome['samples']:,} answers scores {outcome['score']:.3f}, one alone {outcome['score_before']:.3f}, "
        f"and is at most {outcome['kl']:.2f} nats from the policy."
    )


def compared(outcome: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (measure, before, after) of held-out judgements; [] where there are none."""
    before, after = outcome.get("before"), outcome.get("after")
    if not before or not after:
        return []
    rows = [
        ("moved the right way", "accuracy", "{:.1%}"), ("preferred one is the likelier", "likelier", "{:.1%}"),
        ("margin, nats", "margin", "{:.2f}"), ("log p of preferred, nats", "chosen_logprob", "{:.1f}"),
        ("log p of others, nats", "rejected_logprob", "{:.1f}"),
    ]  # fmt: skip
    found = [(name, form.format(before[key]), form.format(after[key])) for name, key, form in rows if after[key] is not None]
    if outcome["kl"] is not None:
        found.append(("nats an answer from the reference", "0.00", f"{outcome['kl']:.2f}"))
    return found


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    lines = [(series(rows, key), title, unit, zero) for key, title, unit, zero in _CURVES]
    last = max((line[-1][0] for line, *_ in lines if line), default=1)
    return [
        chart(Measured(title, unit, line, noisy=True, from_zero=zero), (1, last)) for line, title, unit, zero in lines if line
    ]


def _best_of(curve: Sequence[Mapping[str, float]]) -> Chart:
    points = [(point["kl"], point["score"]) for point in curve]
    counts = ", ".join(f"{point['n']:,}" for point in curve)
    measured = Measured("Score", f"mean of the best of {counts}", dots=points, from_zero=False)
    return chart(measured, (0.0, points[-1][0]), "nats", whole=False)


def _several(count: int, what: str) -> str:
    return numbers.count(count) + f" {what}" + ("" if count == 1 else "s")
