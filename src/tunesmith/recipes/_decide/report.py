"""What `decide` reports: what each calibrator and the threshold are worth on the test rows, and the files of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.core.files import write_json, write_jsonl, write_manifest, write_text
from tunesmith.core.records import Example
from tunesmith.core.seeds import derive
from tunesmith.evaluate.abstention import Threshold, risk_coverage, rows_needed
from tunesmith.evaluate.decision import Decider, gold_index, uncalibrated
from tunesmith.evaluate.reliability import diagram, quality
from tunesmith.evaluate.report.decision import DecisionReport, write_decision_html
from tunesmith.stats.binomial import interval


class TestRows:
    """Test rows, what was right, and the probabilities each calibrator gave them.

    Args:
        scores: option -> score, one a row. gold: the right options. fitted: calibrator -> its decider.
        decider: the one that is saved, with its threshold.
    """

    def __init__(
        self, rows: Sequence[Example], scores: Sequence[Mapping[str, float]], gold: Sequence[str],
        fitted: Mapping[str, Decider], decider: Decider,
    ) -> None:  # fmt: skip
        self.rows, self.decider = rows, decider
        self.right = gold_index(decider.question, gold)
        self.before = uncalibrated(decider.question, scores)
        self.after = decider.probabilities(scores)
        self._tables = {"none": self.before, **{name: d.probabilities(scores) for name, d in fitted.items()}}

    def measures(self, seed: int) -> dict[str, Any]:
        """Return calibrator -> name -> {value, low, high}; "none" = before calibration."""
        found = {name: quality(table, self.right, derive(seed, "bootstrap")) for name, table in self._tables.items()}
        return {name: {key: asdict(measure) for key, measure in measures.items()} for name, measures in found.items()}

    def threshold(self) -> dict[str, Any]:
        """Return what the decider's threshold does here, with an exact interval for the accuracy of what is answered."""
        answered = self.after.max(axis=1) >= self.decider.abstain_below
        n, correct = int(answered.sum()), int((self.after.argmax(axis=1) == self.right)[answered].sum())
        low, high = interval(correct, n) if n else (0.0, 1.0)
        accuracy = {"value": correct / n if n else None, "low": low, "high": high}
        return {
            "abstain_below": self.decider.abstain_below,
            "answered": n,
            "coverage": n / len(self.right),
            "accuracy": accuracy,
        }

    def write(self, folder: Path, content: Mapping[str, Any]) -> None:
        """Write predictions.jsonl, report.html, report.json and the manifest of a run."""
        options = self.decider.question.options
        rows = [
            {"id": row.id, "where": row.where, "gold": options[gold], "probabilities": dict(zip(options, p, strict=True))}
            for row, gold, p in zip(self.rows, self.right, self.after.tolist(), strict=True)
        ]
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        page = DecisionReport(
            outcome=content, before=diagram(self.before, self.right), after=diagram(self.after, self.right),
            curve=risk_coverage(self.after.max(axis=1), self.after.argmax(axis=1) == self.right), command=record["command"],
            provenance={**record["versions"], **{key: record["inputs"][key] for key in ("model_identity", "template")}},
        )  # fmt: skip
        write_jsonl(folder / "predictions.jsonl", rows)
        write_text(folder / "report.html", write_decision_html(page))
        write_json(folder / "report.json", content)
        write_manifest(folder)


def target_facts(target: Threshold | None) -> dict[str, Any] | None:
    """Return what is known about a threshold that was searched for; None where none was."""
    return {**asdict(target), "rows_needed": rows_needed(target.target, target.error)} if target else None
