"""report.html of a training: its curves, its numbers, and what happened if it did not end well."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluate.report import numbers, tradeoff
from tunesmith.evaluate.report.curves import Chart, Measured, chart, series, short
from tunesmith.evaluate.report.judged import compared, verdict
from tunesmith.evaluate.report.template import render
from tunesmith.evaluate.results import Forgetting

# Said elsewhere on the page, or not a number worth a row.
_NOT_ROWS = ("status", "warnings", "error", "fix", "gain", "forgetting", "wise_ft", "before", "after")
_SAMPLE_LENGTH = 4_000


@dataclass(frozen=True)
class TrainingReport:
    """A training that ended, however it did.

    Attributes:
        data, method, model: what was learned, how, by what.
        outcome: the content of report.json; of a training that did not get so far, `status` ("stopped" or "failed"),
            `error`, `fix` and what is known.
        rows: of metrics.jsonl. clip_norm: of the settings, 0 = none.
        samples: training rows as (where it stands, pieces of text and whether they count).
        command: what makes this run or goes on with it. provenance: name -> value. verb: the command's name.
    """

    data: str
    method: str
    model: str
    outcome: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    clip_norm: float
    samples: Sequence[tuple[str, Sequence[tuple[str, bool]]]]
    command: str
    provenance: Mapping[str, str]
    verb: str = "tune"

    @property
    def change(self) -> Forgetting | None:
        """What the model forgot, None where that was not measured."""
        record = self.outcome.get("forgetting")
        return Forgetting.of_record(record) if record else None


def in_words(gain: Mapping[str, Any] | None, change: Forgetting) -> list[str]:
    """Say what was gained here and lost there, a sentence each."""
    lines = []
    if gain:
        name = gain["measure"].removeprefix("eval_")
        lines.append(f"gain here: {name} {gain['before']:.3f} -> {gain['after']:.3f} on validation rows")
    there = [f"perplexity of {change.text} {change.perplexity_before:.2f} -> {change.perplexity_after:.2f}"]
    if change.choice_accuracies:
        there.append("choices {:.3f} -> {:.3f}".format(*change.choice_accuracies))
    if change.tasks:
        there.append(f"sibling tasks {numbers.signed(change.accuracy_change, 3)}")
    return [*lines, f"loss there: {', '.join(there)}"]


def write_training_html(report: TrainingReport) -> str:
    """Return the whole page; equal reports give equal bytes. Every text that came from data or a user is escaped."""
    charts = _charts(report)
    return render(
        "training",
        {
            "report": report,
            "outcome": report.outcome,
            "status": report.outcome["status"],
            "sentence": _sentence(report),
            "facts": _facts(report),
            "compared": compared(report.outcome),
            "loss": charts[0] if charts else None,
            "charts": charts[1:],
            "held_out": bool(series(report.rows, "eval_loss")),
            "table": [(_label(key), _value(key, value)) for key, value in report.outcome.items() if key not in _NOT_ROWS],
            "change": report.change,
            "words": in_words(report.outcome.get("gain"), report.change) if report.change else [],
            "mixes": tradeoff.of_mixes(report.outcome.get("wise_ft")),
            "samples": [(where, _shortened(pieces)) for where, pieces in report.samples],
        },
    )


def _charts(report: TrainingReport) -> list[Chart]:
    rows = report.rows
    losses, held_out, accuracy = (series(rows, key) for key in ("loss", "eval_loss", "eval_accuracy"))
    value = report.outcome.get("validation")
    kept = -value if held_out and value is not None else value
    measured = [
        Measured("Loss", "nats per counted token", losses, held_out, kept, noisy=True, from_zero=False, may_be_logarithmic=True),
        Measured("Loss on held-out rows", "nats per counted token", dots=held_out, kept=kept, from_zero=False),
        Measured("Accuracy on validation rows", "", dots=accuracy, kept=kept, from_zero=False),
        Measured("Agreement", "share of a batch's judgements", series(rows, "accuracy"), noisy=True, from_zero=False),
        Measured("Margin", "nats that the preferred gained more", series(rows, "margin"), noisy=True, from_zero=False),
        Measured("Preferred completions", "log p, nats", series(rows, "chosen_logprob"), noisy=True, from_zero=False),
        Measured("Other completions", "log p, nats", series(rows, "rejected_logprob"), noisy=True, from_zero=False),
        Measured("Gradient norm", "before clipping", series(rows, "grad_norm"), limit=report.clip_norm, noisy=True,
                 may_be_logarithmic=True),
        Measured("Learning rate", "", series(rows, "learning_rate")),
        Measured("Tokens per second", "", series(rows, "tokens_per_second"), noisy=True),
        Measured("Peak memory", "GB", series(rows, "peak_memory_gb")),
    ]  # fmt: skip
    steps = (losses[0][0], losses[-1][0]) if losses else (0, 1)
    return [chart(m, steps) for m in measured if m.line or m.dots]


def _sentence(report: TrainingReport) -> str:
    outcome, rows = report.outcome, report.rows
    if outcome["status"] != "done":
        happened = str(outcome["error"]).partition("\n")[0]
        return happened[:1].upper() + happened[1:]
    losses = series(rows, "loss")
    if not losses:
        return "The training is done."
    steps = f"{losses[-1][0]:,} steps" if losses[-1][0] > 1 else "One step"
    change = f"took the loss from {losses[0][1]:.3f} to {losses[-1][1]:.3f}"
    if outcome.get("after"):
        return verdict(outcome)
    value = outcome.get("validation")
    if value is None:
        return f"{steps} {change}; nothing was held out to measure it on."
    measured = f"loss {-value:.3f} on held-out rows" if series(rows, "eval_loss") else f"accuracy {value:.3f} on validation rows"
    return f"{steps} {change}; the weights that were kept have {measured}."


def _facts(report: TrainingReport) -> list[tuple[str, str, str]]:
    """The few numbers that stand at the top: (what, number, unit)."""
    last = report.rows[-1] if report.rows else {}
    known = {"tokens": last.get("num_tokens"), "steps": last.get("step"), "peak_memory_gb": last.get("peak_memory_gb")}
    known.update({key: value for key, value in report.outcome.items() if value is not None})
    shown = (
        ("Steps", "steps", "", "{:,}"), ("Tokens", "tokens", "", "{:,}"), ("Speed", "tokens_per_second", "tokens/s", "{:,.0f}"),
        ("Peak memory", "peak_memory_gb", "GB", "{:.2f}"), ("Trained parameters", "trained_parameters", "", "{:,}"),
    )  # fmt: skip
    facts = [(name, form.format(known[key]), unit) for name, key, unit, form in shown if isinstance(known.get(key), int | float)]
    if isinstance(seconds := known.get("seconds"), int | float):
        facts.append(("Training", numbers.duration(seconds), ""))
    return facts


def _label(key: str) -> str:
    name = key.removesuffix("_gb").replace("_", " ").capitalize()
    return f"{name} (larger is better)" if key == "validation" else name


def _value(key: str, value: Any) -> str:
    if value is None:
        return numbers.NONE
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    if key.endswith("seconds"):
        return f"{numbers.duration(value)}"
    if isinstance(value, int) or 1000 <= abs(value) < 1e12:
        return f"{value:,.0f}"
    return f"{value:.2f} GB" if key.endswith("_gb") else short(value).replace("-", "\N{MINUS SIGN}")


def _shortened(pieces: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    left, kept = _SAMPLE_LENGTH, []
    for text, counts in pieces:
        if left > 0:
            kept.append((numbers.shorten(text, left) if len(text) > left else text, counts))
        left -= len(text)
    return kept
