"""Isotonic regression: for each option the rising step line that fits best (Zadrozny & Elkan 2002).

    p_k = g_k(q_k) / sum_j g_j(q_j),    q = softmax(s)

g_k is the non-decreasing function closest in squares to "option k was right" against q_k (pool adjacent violators, by
scikit-learn), linear between its knots. Its values are kept within [1/(n+2), (n+1)/(n+2)] for n rows: without that, a region
that was never wrong on a few rows would be certain for ever. It bends to any shape, and so needs many rows: below about 1,000
it overfits where Platt and temperature do not (Niculescu-Mizil & Caruana 2005). Options may tie or change places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.evaluate.calibrators._softmax import softmax


def fit(scores: np.ndarray, gold: np.ndarray) -> dict[str, Any]:
    """Find the step lines.

    Args:
        scores: [n, K] log-probabilities or logits (nats) of the options. gold: [n] index of the right one.

    Returns:
        {"knots": [[[q, ...], [g, ...]], ...]}, one pair of lists an option.
    """
    from sklearn.isotonic import IsotonicRegression

    before, n = softmax(scores), len(gold)
    knots = []
    for k in range(scores.shape[1]):
        line = IsotonicRegression(out_of_bounds="clip").fit(before[:, k], gold == k)
        heights = np.clip(line.y_thresholds_, 1 / (n + 2), (n + 1) / (n + 2))
        knots.append([line.X_thresholds_.tolist(), heights.tolist()])
    return {"knots": knots}


def apply(state: Mapping[str, Any], scores: np.ndarray) -> np.ndarray:
    """Return probabilities [n, K] of scores [n, K]."""
    before = softmax(scores)
    raised = np.column_stack([np.interp(before[:, k], *line) for k, line in enumerate(state["knots"])])
    return raised / raised.sum(axis=1, keepdims=True)


def evaluate(scores: Sequence[Sequence[float]], gold: Sequence[int], ask: Sequence[float]) -> list[float]:
    """Fit on rows of scores and return the probabilities of one more row, in plain numbers."""
    return apply(fit(np.array(scores), np.array(gold)), np.array([ask]))[0].tolist()


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    scores = np.log([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.1, 0.9]]).tolist()
    return WorkedExample(
        inputs={"scores": scores, "gold": [0, 1, 0, 1], "ask": np.log([0.25, 0.75]).tolist()},
        expected=[1 / 3, 2 / 3],
        how="Option 1 was right 0, 1, 0, 1 at .1, .4, .6, .9: the middle two violate the order and pool to 1/2; the ends are "
        "kept at 1/6 and 5/6. At .75, half way from .6 to .9, the line stands at (1/2 + 5/6)/2 = 2/3; option 0 mirrors it.",
        wrong={"scores": scores, "gold": [0, 1, 1, 1], "ask": np.log([0.25, 0.75]).tolist()},
    )
