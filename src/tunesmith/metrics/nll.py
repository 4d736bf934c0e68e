"""Negative log-likelihood of the right option, in nats: what a calibrator minimises. Lower is better.

    NLL = -(1 / n) sum_i ln p_i(y_i)

A proper score (Good 1952). It is unforgiving: one right option with probability 0 makes it infinite, so 0 has to be earned.
Uniform guessing among K options has ln K.
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
    """Return the mean negative log-likelihood (nats), from 0 upwards; infinite where a right option had probability 0.

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
    given = rows[np.arange(len(index)), index]
    impossible = given == 0
    loss = -np.log(np.where(impossible, 1.0, given))
    # 0 times infinity would spoil the resamples that did not draw such an item, so these are counted apart.
    columns = np.column_stack([loss, impossible, np.ones(len(index))])
    total, infinite, drawn = _weights.totals(columns, weights).T
    return _weights.quotient(np.where(infinite > 0, np.inf, total), drawn, weights)


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    rows = [[0.5, 0.5], [0.25, 0.75]]
    return WorkedExample(
        inputs={"gold": [0, 0], "probabilities": rows},
        expected=1.0397207708399179,
        how="-ln(1/2) = ln 2 and -ln(1/4) = 2 ln 2; their mean is 1.5 ln 2 = 1.039721.",
        wrong={"gold": [0, 1], "probabilities": rows},
    )
