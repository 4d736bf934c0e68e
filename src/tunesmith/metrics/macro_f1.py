"""Mean over labels of the F1 of each label, so that rare labels count as much as frequent ones.

    F1_l = 2 TP_l / (gold_l + predicted_l);    macro F1 = mean of F1_l over the labels that occur

with TP_l the items of label l that were given l, gold_l its items and predicted_l how often it was given. A label occurs
if it is in gold or in predicted (scikit-learn's rule); an answer outside the task's labels is thus one more label, with F1
0. In a bootstrap resample the mean goes over the labels that occur in that resample. Source: SuperGLUE (Wang et al.
2019), CommitmentBank; scikit-learn `f1_score(average="macro")`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.metrics import _weights

HIGHER_IS_BETTER = True

# Free-text answers can bring thousands of labels; this many are counted at a time to bound memory.
_LABELS = 32


def evaluate(gold: Sequence[str], predicted: Sequence[str], weights: np.ndarray | None = None) -> float | np.ndarray:
    """Return the macro F1, in 0..1.

    Args:
        gold, predicted: n labels each.
        weights: [R, n], how often each item was drawn in each of R resamples.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no items, different lengths, or weights that do not fit.
    """
    _weights.check(weights, gold=gold, predicted=predicted)
    number = {label: i for i, label in enumerate(dict.fromkeys([*gold, *predicted]))}
    true = np.array([number[g] for g in gold])[:, None]
    given = np.array([number[p] for p in predicted])[:, None]
    f1_sum = np.zeros(1 if weights is None else len(weights))
    occurring = np.zeros_like(f1_sum)
    for start in range(0, len(number), _LABELS):
        label = np.arange(start, min(start + _LABELS, len(number)))
        is_true, is_given = true == label, given == label
        counts = np.hstack([is_true & is_given, is_true.astype(np.float32) + is_given]).astype(np.float32)
        hits, named = np.hsplit(_weights.totals(counts, weights), 2)
        f1_sum += (2 * hits / np.maximum(named, 1)).sum(axis=1)
        occurring += (named > 0).sum(axis=1)
    return _weights.quotient(f1_sum, occurring, weights)


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    gold, predicted = ["0", "0", "1", "2", "2"], ["0", "1", "1", "2", "0"]
    return WorkedExample(
        inputs={"gold": gold, "predicted": predicted},
        expected=11 / 18,
        how="F1 of 0 is 2*1/(2+2) = 1/2, of 1 is 2*1/(1+2) = 2/3, of 2 is 2*1/(2+1) = 2/3; their mean is 11/18 = .611111.",
        wrong={"gold": gold, "predicted": ["0", "1", "1", "2", "2"]},
    )
