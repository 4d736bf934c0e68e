"""Metrics: one file each. `evaluate(gold, predicted, weights)` gives the value, or one value per row of weights."""

from __future__ import annotations

import inspect
from types import ModuleType


def judges_answers(metric: ModuleType) -> bool:
    """Return whether a metric compares answers with gold ones and more is better; others measure texts or probabilities."""
    return metric.HIGHER_IS_BETTER and "predicted" in inspect.signature(metric.evaluate).parameters
