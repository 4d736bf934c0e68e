"""How a model does on test rows: every metric of a task with its interval, and each answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.core.registry import METRICS
from tunesmith.core.seeds import derive
from tunesmith.evaluate.results import Prediction
from tunesmith.stats.bootstrap import interval, resample_counts

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Tested:
    """How a trained model did on test rows.

    Attributes:
        results: task, metric, value, low, high (95 % interval over items) and n, one a metric.
        predictions: one row an item, as they go into `predictions.jsonl`.
    """

    results: list[dict[str, Any]]
    predictions: list[dict[str, Any]]


def with_intervals(task: str, metrics: Sequence[str], predictions: Sequence[Prediction], seed: int) -> list[dict[str, Any]]:
    """Return every metric of a task with its interval: task, metric, value, low, high, n."""
    weights = resample_counts(len(predictions), _RESAMPLES, derive(seed, "bootstrap"))
    predicted, results = [p.predicted for p in predictions], []
    for name in metrics:
        metric = METRICS.get(name).evaluate
        gold = [p.gold_for(metric) for p in predictions]
        low, high = interval(metric(gold, predicted, weights))
        value = float(metric(gold, predicted))
        results.append({"task": task, "metric": name, "value": value, "low": low, "high": high, "n": len(gold)})
    return results


def tested(task: str, metrics: Sequence[str], predictions: Sequence[Prediction], seed: int) -> Tested:
    """Measure answers to test items."""
    results = with_intervals(task, metrics, predictions, seed)
    return Tested(results, [{**asdict(p), "correct": p.correct} for p in predictions])
