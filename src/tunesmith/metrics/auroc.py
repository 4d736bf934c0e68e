"""Area under the ROC curve: how often a positive item scores above a negative one.

    AUROC = P(s+ > s-) + P(s+ = s-) / 2

over all pairs of a positive and a negative item, which is the Mann-Whitney statistic (Hanley & McNeil 1982). Only the order of
the scores counts, so no temperature changes it. With a decision's confidence as score and "was right" as positive, it says how
well abstaining can work: 0.5 = not at all, 1 = every wrong answer is less sure than every right one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.errors import UserError
from tunesmith.core.records import WorkedExample
from tunesmith.metrics import _weights
from tunesmith.metrics._probabilities import flags

HIGHER_IS_BETTER = True


def evaluate(positive: Sequence[int], score: Sequence[float], weights: np.ndarray | None = None) -> float | np.ndarray:
    """Return the area, in 0..1.

    Args:
        positive: 1 for the items that should score high, else 0, for n items.
        score: n finite numbers.
        weights: [R, n], how often each item was drawn in each of R resamples.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no items, different lengths, weights that do not fit, a score that is not finite, or items of one kind only.
    """
    _weights.check(weights, positive=positive, score=score)
    is_positive, values = flags(positive, "positive"), np.asarray(score, dtype=np.float64)
    for i in np.flatnonzero(~np.isfinite(values))[:1]:
        raise UserError(f"item {i} has the score {values[i]}", "Check the model: its output is not finite.")
    if is_positive.all() or not is_positive.any():
        raise UserError("all items are of one kind, and there are no pairs to compare", "Give positive and negative ones.")
    drawn = np.ones((1, len(values))) if weights is None else weights
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))  # where each group of equal scores begins
    area, pairs = np.empty(len(drawn)), np.empty(len(drawn))
    rows = max(1, (1 << 22) // len(values))
    for start in range(0, len(drawn), rows):
        block = drawn[start : start + rows, order].astype(np.float64)
        high = np.add.reduceat(block * is_positive[order], starts, axis=1)
        low = np.add.reduceat(block * ~is_positive[order], starts, axis=1)
        below = low.cumsum(axis=1) - low / 2
        area[start : start + rows] = (high * below).sum(axis=1)
        pairs[start : start + rows] = high.sum(axis=1) * low.sum(axis=1)
    return _weights.quotient(area, pairs, weights)


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    positive, score = [1, 0, 1, 0], [0.9, 0.6, 0.6, 0.2]
    return WorkedExample(
        inputs={"positive": positive, "score": score},
        expected=0.875,
        how="Of 2 * 2 pairs, .9 beats .6 and .2, .6 beats .2 and ties with .6: (3 + 1/2) / 4 = .875.",
        wrong={"positive": positive, "score": [0.9, 0.7, 0.6, 0.2]},
    )
