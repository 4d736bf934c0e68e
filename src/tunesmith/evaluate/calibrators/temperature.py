"""Temperature scaling: divide all scores by one number before the softmax (Guo et al. 2017, section 4.2).

    p_k = exp(s_k / T) / sum_j exp(s_j / T)

T > 0 minimises the negative log-likelihood of held-out rows. That is convex in 1/T, so the minimum is found to the last digit
by halving an interval, between T = 0.01 and T = 100. T > 1 makes an overconfident model less sure. The order of the options
never changes, so neither does any answer: one number can be fitted on few rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.evaluate.calibrators._softmax import softmax

_COLDEST, _HOTTEST = 0.01, 100.0
_HALVINGS = 80


def fit(scores: np.ndarray, gold: np.ndarray) -> dict[str, Any]:
    """Find the temperature.

    Args:
        scores: [n, K] log-probabilities or logits (nats) of the options. gold: [n] index of the right one.

    Returns:
        {"temperature": T}.
    """
    right = scores[np.arange(len(gold)), gold]

    def slope(inverse: float) -> float:
        # Of the mean negative log-likelihood, in 1/T: it never falls.
        return float(((softmax(scores * inverse) * scores).sum(axis=1) - right).mean())

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return {"temperature": 1 / (low * high) ** 0.5}


def apply(state: Mapping[str, Any], scores: np.ndarray) -> np.ndarray:
    """Return probabilities [n, K] of scores [n, K]."""
    return softmax(scores / state["temperature"])


def evaluate(scores: Sequence[Sequence[float]], gold: Sequence[int], ask: Sequence[float]) -> list[float]:
    """Fit on rows of scores and return the probabilities of one more row, in plain numbers."""
    return apply(fit(np.array(scores), np.array(gold)), np.array([ask]))[0].tolist()


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    gap = 2 * 1.0986122886681098
    return WorkedExample(
        inputs={"scores": [[gap, 0.0]] * 4, "gold": [0, 0, 0, 1], "ask": [2 * gap, 0.0]},
        expected=[0.9, 0.1],
        how="Every row says 2 ln 3 more for option 0, which is right 3 times in 4: sigmoid(2 ln 3 / T) = 3/4 = sigmoid(ln 3) "
        "gives T = 2. A gap of 4 ln 3 then is sigmoid(2 ln 3) = 9/10.",
        wrong={"scores": [[gap, 0.0]] * 4, "gold": [0, 0, 1, 1], "ask": [2 * gap, 0.0]},
    )
