"""When to keep silent: risk against coverage, and a threshold whose accuracy is guaranteed.

Answering only where the confidence is high enough trades coverage, the share of rows that are answered, for risk, the share
of these that are wrong (El-Yaniv & Wiener 2010; Geifman & El-Yaniv 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tunesmith.core.errors import UserError
from tunesmith.evaluate.decision import NEVER
from tunesmith.stats.binomial import lower_bound

_TRIED = 10


@dataclass(frozen=True)
class Threshold:
    """A threshold for the confidence and what is known about it.

    Attributes:
        abstain_below: answer from this confidence on; 0 = always, `NEVER` where no threshold reached the target.
        target: accuracy asked for. error: probability that what is answered is less accurate than the target all the same.
        answered, right: of the rows it was chosen on. rows: how many these were. bound: lower bound on the accuracy.
    """

    abstain_below: float
    target: float
    error: float
    answered: int
    right: int
    rows: int
    bound: float


def guaranteed_threshold(confidence: np.ndarray, correct: np.ndarray, target: float, error: float = 0.05) -> Threshold:
    """Find the threshold that answers most and whose accuracy on new rows is at least `target`, up to probability `error`.

    Ten thresholds are tried, those that answer about 10 %, 20 %, ..., 100 % of the rows, and that with the largest share is
    taken whose exact lower bound (Clopper-Pearson at error/10) reaches the target. The k rows above the (k+1)-th largest
    confidence t are, given t, k independent draws of those above t, so their right answers are binomial and each bound
    holds; all ten hold together with probability 1 - error (Bonferroni). Nothing is assumed about the model or how well it
    is calibrated, only that these rows are drawn as the later ones are, and were not used to fit or choose anything else.

    Args:
        confidence: [n] largest probability of each row. correct: [n] whether that option was right.

    Raises:
        UserError: no rows, or a target or error outside 0..1.
    """
    n = len(confidence)
    if n == 0 or not 0 < target < 1 or not 0 < error < 1:
        raise UserError(f"no threshold for target {target:g}, error {error:g} and {n} rows", "Both must lie between 0 and 1.")
    order = np.sort(confidence)[::-1]
    for tenth in range(_TRIED, 0, -1):
        k = math.ceil(n * tenth / _TRIED)
        below = float(order[k]) if k < n else -1.0
        answers = confidence > below
        if not answers.any():
            continue
        right, answered = int(correct[answers].sum()), int(answers.sum())
        bound = lower_bound(right, answered, error / _TRIED)
        if bound >= target:
            # "Above t" is "from the next number after t on".
            return Threshold(float(np.nextafter(below, 2.0)) if k < n else 0.0, target, error, answered, right, n, bound)
    return Threshold(NEVER, target, error, 0, 0, n, 0.0)


def rows_needed(target: float, error: float = 0.05) -> int:
    """Return how many rows must be answered, all of them right, before a threshold can be shown to reach the target."""
    return math.ceil(math.log(error / _TRIED) / math.log(target))


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage [m] and risk [m] at every threshold, from the surest rows on; rows of one confidence enter together.

    Args:
        confidence: [n] largest probability of each row. correct: [n] whether that option was right.
    """
    order = np.argsort(-confidence, kind="stable")
    last = np.flatnonzero(np.diff(confidence[order], append=-np.inf))
    wrong = np.cumsum(~correct[order].astype(bool))
    return (last + 1) / len(order), wrong[last] / (last + 1)


def area(coverage: np.ndarray, risk: np.ndarray) -> float:
    """Return the area under the risk-coverage curve: mean risk over all shares of rows, lower is better (AURC)."""
    return float((np.diff(coverage, prepend=0.0) * risk).sum())
