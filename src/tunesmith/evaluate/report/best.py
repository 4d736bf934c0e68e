"""report.html of best-of-n: what the best of more answers is worth, and which they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluate.report.alignment import in_table, samples
from tunesmith.evaluate.report.curves import Chart, Measured, chart
from tunesmith.evaluate.report.template import render


@dataclass(frozen=True)
class BestReport:
    """Best-of-n that is done.

    Attributes:
        outcome: the content of report.json. answers: the best ones: prompt, text, score. provenance: name -> value.
    """

    data: str
    method: str
    model: str
    outcome: Mapping[str, Any]
    answers: Sequence[Mapping[str, Any]]
    command: str
    provenance: Mapping[str, str]


def write_best_html(report: BestReport) -> str:
    """Return the whole page; equal reports give equal bytes. Every text that came from data or a model is escaped."""
    outcome = report.outcome
    sentence = (
        f"The best of {outcome['samples']:,} answers scores {outcome['score']:.3f}, one alone {outcome['score_before']:.3f}, "
        f"and is at most {outcome['kl']:.2f} nats from the policy."
    )
    return render(
        "alignment",
        {
            "report": report, "outcome": outcome, "sentence": sentence, "title": "What more answers buy",
            "axis": "at most so many nats", "curves": [_curve(outcome["curve"])], "optimised": [], "held_out": False,
            "samples": [("The best answers", samples(report.answers))], "table": in_table(outcome),
            "files": "answers/ has every answer",
        },
    )  # fmt: skip


def _curve(curve: Sequence[Mapping[str, float]]) -> Chart:
    points = [(point["kl"], point["score"]) for point in curve]
    counts = ", ".join(f"{point['n']:,}" for point in curve)
    measured = Measured("Score", f"mean of the best of {counts}", dots=points, from_zero=False)
    return chart(measured, (0.0, points[-1][0]), "nats", whole=False)
