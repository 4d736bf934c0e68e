"""Micro F1 of texts with several labels each: every label of every text counts once.

    F1 = 2 hits / (labels in gold + labels predicted)

An answer is its labels with commas between them, "" where there are none. 0 where no label occurs at all. Source:
scikit-learn `f1_score(average="micro")` on indicator matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.metrics import _labels, _weights

HIGHER_IS_BETTER = True


def evaluate(gold: Sequence[str], predicted: Sequence[str], weights: np.ndarray | None = None) -> float | np.ndarray:
    """Return the micro F1, in 0..1.

    Args:
        gold, predicted: n answers each.
        weights: [R, n], how often each item was drawn in each of R resamples.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no items, different lengths, or weights that do not fit.
    """
    _weights.check(weights, gold=gold, predicted=predicted)
    columns = np.stack([one.sum(1) for one in _labels.counts(gold, predicted)], 1)
    hits, named = _weights.totals(columns, weights).T
    return _weights.quotient(hits, np.where(named > 0, named, 1.0), weights)


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    gold = ["sport, politics", "sport", ""]
    return WorkedExample(
        inputs={"gold": gold, "predicted": ["sport", "politics, sport", "art"]},
        expected=4 / 7,
        how="Gold names 3 labels and the answers 4; sport is right twice: 2 * 2 / (3 + 4) = .571429. Order is nothing.",
        wrong={"gold": gold, "predicted": ["sport", "sport", "art"]},
    )
