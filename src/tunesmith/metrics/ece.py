"""Expected calibration error: how far confidence is from accuracy, on average over bins of confidence. Lower is better.

    ECE = sum_b (n_b / n) |acc_b - conf_b|

with n_b the items of bin b, acc_b the share of them answered right and conf_b their mean confidence. Bins have equal width,
((b - 1)/B, b/B] with B = 15 (Guo et al. 2017, section 2; Naeini et al. 2015), or hold equally many items (`equal_mass`;
HELM, Liang et al. 2022, uses 10 of these): equal width is what most papers print, equal mass is steadier where confidences
crowd together. Items of one confidence never part. In a bootstrap resample the bins stay those of the sample. The estimate is
biased upwards by about the noise of a bin, so compare it on equally many items only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.errors import UserError
from tunesmith.core.records import WorkedExample
from tunesmith.metrics import _weights
from tunesmith.metrics._probabilities import flags

HIGHER_IS_BETTER = False


def evaluate(
    confidence: Sequence[float],
    correct: Sequence[int],
    weights: np.ndarray | None = None,
    bins: int = 15,
    equal_mass: bool = False,
) -> float | np.ndarray:
    """Return the expected calibration error, in 0..1.

    Args:
        confidence: probability of the answer that was given, in 0..1, for n items.
        correct: 1 where that answer was right, else 0.
        weights: [R, n], how often each item was drawn in each of R resamples.
        bins: how many. equal_mass: bins of equally many items instead of equal width.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no items, different lengths, weights that do not fit, no bins, or values outside 0..1.
    """
    _weights.check(weights, confidence=confidence, correct=correct)
    value, right = np.asarray(confidence, dtype=np.float64), flags(correct, "correct")
    if bins < 1:
        raise UserError(f"{bins} bins", "Use at least one.")
    for i in np.flatnonzero(~((value >= 0) & (value <= 1)))[:1]:
        raise UserError(f"item {i} has confidence {value[i]:g}", "It is a probability, in 0..1.")
    member = np.eye(bins)[bin_of(value, bins, equal_mass)]
    gaps = _weights.totals(member * (value - right)[:, None], weights)
    drawn = _weights.totals(np.ones((len(value), 1)), weights)[:, 0]
    return _weights.quotient(np.abs(gaps).sum(axis=1), drawn, weights)


def bin_of(confidence: np.ndarray, bins: int, equal_mass: bool = False) -> np.ndarray:
    """Return the bin of each of n confidences, counted from 0: [n] int64."""
    if equal_mass:
        rank = np.searchsorted(np.sort(confidence), confidence, side="left")
        return rank * bins // len(confidence)
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    confidence, correct = [0.95, 0.95, 0.95, 0.95, 0.55, 0.55], [1, 1, 1, 0, 1, 0]
    return WorkedExample(
        inputs={"confidence": confidence, "correct": correct},
        expected=(4 * 0.2 + 2 * 0.05) / 6,
        how="Four items at .95 are right 3 times in 4, off by .20; two at .55 once in 2, off by .05: (4*.20 + 2*.05)/6 = .15.",
        wrong={"confidence": confidence, "correct": [1, 1, 1, 1, 1, 0]},
    )
