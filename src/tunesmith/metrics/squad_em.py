"""Share of answers that equal the gold answer without case, punctuation and the articles a, an, the (SQuAD).

No answer is the empty text, and right where the gold answer is empty too (SQuAD 2.0). Source: Rajpurkar et al. 2016, section
6.1. Where a question has several gold answers, the best one is taken before the metric is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.metrics import _squad, _weights

HIGHER_IS_BETTER = True


def evaluate(gold: Sequence[str], predicted: Sequence[str], weights: np.ndarray | None = None) -> float | np.ndarray:
    """Return the share of exact matches, in 0..1.

    Args:
        gold, predicted: n answers each.
        weights: [R, n], how often each item was drawn in each of R resamples.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no items, different lengths, or weights that do not fit.
    """
    _weights.check(weights, gold=gold, predicted=predicted)
    rows = [(_squad.words(one) == _squad.words(other), True) for one, other in zip(gold, predicted, strict=True)]
    right, drawn = _weights.totals(np.array(rows, dtype=np.float32), weights).T
    return _weights.quotient(right, drawn, weights)


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    gold = ["the Normans", "10th century", "", ""]
    return WorkedExample(
        inputs={"gold": gold, "predicted": ["Normans.", "the 10th", "", "France"]},
        expected=0.5,
        how="'the Normans' and 'Normans.' are both 'normans'; '10th century' is not '10th'; no answer is no answer: 2 / 4.",
        wrong={"gold": gold, "predicted": ["Normans.", "the 10th century", "", "France"]},
    )
