"""Pearson's correlation of predicted and gold numbers: 1 = on a rising line, 0 = none, as STS-B is measured.

    r = sum (x - mean x)(y - mean y) / sqrt(sum (x - mean x)^2  sum (y - mean y)^2)

0 where one side is the same for all items, because a constant predicts nothing. Source: GLUE (Wang et al. 2018), STS-B.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.metrics._correlation import correlation, numbers

HIGHER_IS_BETTER = True


def evaluate(
    gold: Sequence[str | float], predicted: Sequence[str | float], weights: np.ndarray | None = None
) -> float | np.ndarray:
    """Return the correlation, in -1..1.

    Args:
        gold, predicted: n numbers each, as numbers or as text.
        weights: [R, n], how often each item was drawn in each of R resamples.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no items, different lengths, something that is no number, or weights that do not fit.
    """
    return correlation(numbers(gold, "gold"), numbers(predicted, "predicted"), weights, ranked=False)


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    gold = ["1", "2", "3"]
    return WorkedExample(
        inputs={"gold": gold, "predicted": ["1", "2", "6"]},
        expected=5 / np.sqrt(2 * 14),
        how="Means 2 and 3; products (-1)(-2) + 0(-1) + 1*3 = 5, squares 1 + 0 + 1 = 2 and 4 + 1 + 9 = 14: 5 / sqrt(28).",
        wrong={"gold": gold, "predicted": ["1", "2", "3"]},
    )
