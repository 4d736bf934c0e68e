"""Spearman's correlation: Pearson's, of the ranks of predicted and gold numbers; equal numbers share the mean of their places.

It asks only for the right order. In a bootstrap resample ranks are those within the resample. 0 where one side is the same
for all items. Source: GLUE (Wang et al. 2018), STS-B.
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
    return correlation(numbers(gold, "gold"), numbers(predicted, "predicted"), weights, ranked=True)


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    gold = ["1", "2", "3", "4"]
    return WorkedExample(
        inputs={"gold": gold, "predicted": ["10", "20", "20", "-5"]},
        expected=-1.5 / np.sqrt(5 * 4.5),
        how="Ranks 1 2 3 4 and 2 3.5 3.5 1, both around 2.5: products .75 - .5 + .5 - 2.25 = -1.5, "
        "squares 5 and 4.5: -1.5 / sqrt(22.5) = -.316228.",
        wrong={"gold": gold, "predicted": ["10", "20", "20", "35"]},
    )
