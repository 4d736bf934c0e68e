"""report.html of `decide`: how far its probabilities can be trusted, and what abstaining gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunesmith.evaluate.reliability import Bin
from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.report.curves import Chart, Measured, chart
from tunesmith.evaluate.report.template import render

_LABELS = {
    "accuracy": "Accuracy", "ece": "ECE", "ece_equal_mass": "ECE, equal mass", "brier": "Brier", "nll": "NLL", "auroc": "AUROC",
    "aurc": "AURC", "coverage_at_95": "Coverage at 95 % right",
}  # fmt: skip


@dataclass(frozen=True)
class DecisionReport:
    """A finished calibration.

    Attributes:
        outcome: the content of report.json. before, after: bins of the reliability diagrams.
        curve: coverage and risk at every threshold, after calibration. provenance: name -> value.
    """

    outcome: Mapping[str, Any]
    before: Sequence[Bin]
    after: Sequence[Bin]
    curve: tuple[np.ndarray, np.ndarray]
    command: str
    provenance: Mapping[str, str]


def write_decision_html(report: DecisionReport) -> str:
    """Return the whole page; equal reports give equal bytes. Every text that came from data or a user is escaped."""
    outcome = report.outcome
    rows = [(name, name == outcome["calibration"], values) for name, values in outcome["calibrators"].items()]
    return render(
        "decision",
        {
            "report": report,
            "outcome": outcome,
            "sentences": sentences(outcome),
            "risk": _risk(report),
            "diagrams": [_diagram("Before calibration", report.before), _diagram("After calibration", report.after)],
            "columns": _LABELS,
            "rows": [(name, chosen, [_cell(values.get(key)) for key in _LABELS]) for name, chosen, values in rows],
        },
    )


def sentences(outcome: Mapping[str, Any]) -> list[str]:
    """Say in words what was found, the most important first."""
    before, after = (outcome["calibrators"][name] for name in ("none", outcome["calibration"]))
    said = [
        f"{outcome['calibration'].capitalize()} calibration takes the calibration error (ECE) from {before['ece']['value']:.3f} "
        f"to {after['ece']['value']:.3f} and the accuracy from {before['accuracy']['value']:.3f} to "
        f"{after['accuracy']['value']:.3f} on {outcome['test_rows']:,} test rows."
    ]
    return said + threshold_words(outcome)


def threshold_words(outcome: Mapping[str, Any]) -> list[str]:
    """Say what the threshold does on the test rows, and what is guaranteed."""
    threshold, target = outcome["threshold"], outcome["target"]
    said = []
    if target and not target["answered"]:
        said.append(
            f"No threshold could be shown to reach an accuracy of {target['target']:g} on {target['rows']:,} rows, so the "
            f"decider always abstains; that takes at least {target['rows_needed']:,} rows answered without an error."
        )
    elif target:
        said.append(
            f"{_which(threshold['abstain_below'])} are right at least {target['target']:.0%} of the time: the lower bound from "
            f"{target['right']:,} of {target['answered']:,} rows is {target['bound']:.3f}, with an error of {target['error']:g}."
        )
    if threshold["abstain_below"] and threshold["answered"]:
        said.append(
            f"On the test rows {threshold['coverage']:.1%} are answered, {threshold['accuracy']['value']:.1%} of these right "
            f"[{threshold['accuracy']['low']:.3f}, {threshold['accuracy']['high']:.3f}]."
        )
    elif threshold["abstain_below"] and not target:
        said.append(f"No test row is answered with a probability of {threshold['abstain_below']:g} or more.")
    return said


def _which(abstain_below: float) -> str:
    return f"Answers from a probability of {abstain_below:.3f} on" if abstain_below else "All answers, without abstaining,"


def _cell(measure: Mapping[str, float] | None) -> tuple[str, str]:
    if measure is None:
        return numbers.NONE, ""
    spread = f"[{measure['low']:.3f}, {measure['high']:.3f}]" if measure["low"] < measure["high"] else ""
    return f"{measure['value']:.3f}", spread


def _risk(report: DecisionReport) -> Chart:
    coverage, risk = report.curve
    at = np.searchsorted(coverage, np.arange(1, 101) / 100 - 1e-9)
    line = [(percent, float(risk[i])) for percent, i in zip(range(1, 101), at, strict=True)]
    target, threshold = report.outcome["target"], report.outcome["threshold"]
    answered = 0 < threshold["coverage"] < 1
    dots = [(round(100 * threshold["coverage"]), 1 - threshold["accuracy"]["value"])] if answered else []
    drawn = chart(Measured("Risk", "", line, dots, limit=1 - target["target"] if target else 0.0), (0, 100))
    words = f"Risk against coverage: {risk[0]:.3f} where only the surest rows are answered, {risk[-1]:.3f} where all are."
    if answered:
        said = f"{threshold['coverage']:.1%} answered, {1 - threshold['accuracy']['value']:.1%} of them wrong"
        drawn = replace(drawn, dots=(replace(drawn.dots[0], text=said, kept=True),))
    return replace(drawn, words=words)


def _diagram(title: str, bins: Sequence[Bin]) -> Chart:
    diagonal = [(0, 0.0), (100, 1.0)]
    points = [(100 * b.confidence, b.accuracy) for b in bins]
    drawn = chart(Measured(title, "", diagonal, points), (0, 100))  # type: ignore[arg-type]
    said = [f"confidence {b.confidence:.3f}, accuracy {b.accuracy:.3f}, {b.n} rows" for b in bins]
    return replace(
        drawn,
        words=f"{title}: {'; '.join(said)}.",
        dots=tuple(replace(dot, text=text, kept=False) for dot, text in zip(drawn.dots, said, strict=True)),
    )
