"""Brier score: squared distance between the probabilities and what happened. Lower is better.

    Brier = (1 / n) sum_i sum_k (p_ik - [y_i = k])^2

over all K options, from 0 to 2 (Brier 1950, whose sum this is). For two options it is twice the one-sided form that
scikit-learn prints for binary labels; BIG-bench divides by K. It is a proper score: the honest probabilities have the best
expectation, and it falls both with calibration and with discrimination.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.metrics import _weights
from tunesmith.metrics._probabilities import table

HIGHER_IS_BETTER = False


def evaluate(
    gold: Sequence[int], probabilities: Sequence[Sequence[float]], weights: np.ndarray | None = None
) -> float | np.ndarray:
    """Return the Brier score, in 0..2.

    Args:
        gold: index of the right option of each of n items.
        probabilities: n rows of K probabilities.
        weights: [R, n], how often each item was drawn in each of R resamples.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no items, different lengths, weights that do not fit, or rows that are no probabilities.
    """
    index, rows = table(gold, probabilities, weights)
    distance = ((rows - np.eye(rows.shape[1])[index]) ** 2).sum(axis=1)
    score, drawn = _weights.totals(np.column_stack([distance, np.ones(len(index))]), weights).T
    return _weights.quotient(score, drawn, weights)


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    rows = [[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]]
    return WorkedExample(
        inputs={"gold": [0, 1], "probabilities": rows},
        expected=0.32,
        how="(.3^2 + .2^2 + .1^2) = .14 and (.5^2 + .5^2 + 0) = .50; their mean is .32.",
        wrong={"gold": [1, 1], "probabilities": rows},
    )
