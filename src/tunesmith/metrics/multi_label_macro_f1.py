"""Macro F1 of texts with several labels each: the mean of the F1 of each label, so that rare labels count as much.

    F1_l = 2 hits_l / (gold_l + predicted_l);    macro F1 = mean of F1_l over the labels that occur

An answer is its labels with commas between them, "" where there are none. A label occurs if it is in gold or in predicted;
in a bootstrap resample, in that resample. Source: scikit-learn `f1_score(average="macro")` on indicator matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.metrics import _labels, _weights

HIGHER_IS_BETTER = True


def evaluate(gold: Sequence[str], predicted: Sequence[str], weights: np.ndarray | None = None) -> float | np.ndarray:
    """Return the macro F1, in 0..1; 0 where no label occurs.

    Args:
        gold, predicted: n answers each.
        weights: [R, n], how often each item was drawn in each of R resamples.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no items, different lengths, or weights that do not fit.
    """
    _weights.check(weights, gold=gold, predicted=predicted)
    hits, named = (_weights.totals(one, weights) for one in _labels.counts(gold, predicted))
    occurring = (named > 0).sum(axis=1)
    return _weights.quotient((hits / np.maximum(named, 1e-9)).sum(axis=1), np.maximum(occurring, 1).astype(np.float64), weights)


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    gold = ["sport, politics", "sport", ""]
    return WorkedExample(
        inputs={"gold": gold, "predicted": ["sport", "politics, sport", "art"]},
        expected=1 / 3,
        how="sport is right both times: 1; politics never: 0 of 2; art never: 0 of 1; their mean is 1 / 3.",
        wrong={"gold": gold, "predicted": ["sport", "politics, sport", ""]},
    )
