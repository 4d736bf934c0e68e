"""Share of items whose predicted answer equals the gold answer.

    accuracy = (1 / n) sum_i [predicted_i = gold_i]

Answers are compared as they are, character by character: labels come from the task's own list, so there is nothing to
normalise. An answer outside that list counts as wrong. Source: GLUE (Wang et al. 2018), SST-2, QNLI, RTE.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.metrics import _weights

HIGHER_IS_BETTER = True


def evaluate(gold: Sequence[str], predicted: Sequence[str], weights: np.ndarray | None = None) -> float | np.ndarray:
    """Return the accuracy, in 0..1.

    Args:
        gold, predicted: n labels each.
        weights: [R, n], how often each item was drawn in each of R resamples.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no items, different lengths, or weights that do not fit.
    """
    _weights.check(weights, gold=gold, predicted=predicted)
    correct = np.array([[g == p, True] for g, p in zip(gold, predicted, strict=True)], dtype=np.float32)
    right, drawn = _weights.totals(correct, weights).T
    return _weights.quotient(right, drawn, weights)


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    gold = ["1", "1", "1", "0", "0", "1", "0", "1"]
    predicted = ["1", "0", "1", "0", "1", "1", "0", "1"]
    return WorkedExample(
        inputs={"gold": gold, "predicted": predicted},
        expected=0.75,
        how="The second and the fifth of 8 answers are wrong: 6 / 8.",
        wrong={"gold": gold, "predicted": ["0", *predicted[1:]]},
    )
