"""Platt scaling: a slope for the scores and an offset for each option, then the softmax (Platt 1999).

    p_k = exp(a s_k + b_k) / sum_j exp(a s_j + b_j),    b_0 = 0

For two options this is Platt's sigmoid(a (s_1 - s_0) + b); for more it is bias-corrected temperature scaling (Alexandari et al.
2020). a and b minimise the cross-entropy to smoothed targets: with N_y rows of option y, a row of y has the target
(N_y + 1) / (N_y + K) for y and 1 / (N_y + K) for each other option, which for K = 2 are Platt's (N+ + 1)/(N+ + 2) and
1/(N- + 2), and keep a and b finite where the rows can be told apart perfectly. The offsets correct a leaning towards some
options, so answers may change. Solved by Newton's method with halved steps; the loss is convex.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.evaluate.calibrators._softmax import log_softmax, softmax

_STEPS = 100
_ENOUGH = 1e-10


def fit(scores: np.ndarray, gold: np.ndarray) -> dict[str, Any]:
    """Find slope and offsets.

    Args:
        scores: [n, K] log-probabilities or logits (nats) of the options. gold: [n] index of the right one.

    Returns:
        {"slope": a, "offsets": [0, b_1, ...]}.
    """
    options = scores.shape[1]
    counts = np.bincount(gold, minlength=options)[gold][:, None]
    targets = (np.eye(options)[gold] * counts + 1) / (counts + options)

    def loss(theta: np.ndarray) -> float:
        return float(-(targets * log_softmax(_mapped(theta, scores))).sum())

    theta = np.concatenate([[1.0], np.zeros(options - 1)])
    for _ in range(_STEPS):
        gradient, hessian = _derivatives(theta, scores, targets)
        if np.abs(gradient).max() < _ENOUGH * len(gold):
            break
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        before, size = loss(theta), 1.0
        while loss(theta - size * step) > before and size > _ENOUGH:
            size /= 2
        theta = theta - size * step
    return {"slope": float(theta[0]), "offsets": [0.0, *theta[1:].tolist()]}


def _mapped(theta: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return theta[0] * scores + np.concatenate([[0.0], theta[1:]])


def _derivatives(theta: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return gradient [K] and Hessian [K, K] in (a, b_1, ..., b_K-1)."""
    p = softmax(_mapped(theta, scores))
    error, spread = p - targets, scores - (p * scores).sum(axis=1, keepdims=True)
    gradient = np.concatenate([[(error * scores).sum()], error.sum(axis=0)[1:]])
    across = (p * spread).sum(axis=0)[1:]
    among = (np.diag(p.sum(axis=0)) - p.T @ p)[1:, 1:]
    return gradient, np.block([[np.array([[(p * spread**2).sum()]]), across[None]], [across[:, None], among]])


def apply(state: Mapping[str, Any], scores: np.ndarray) -> np.ndarray:
    """Return probabilities [n, K] of scores [n, K]."""
    return softmax(state["slope"] * scores + np.array(state["offsets"]))


def evaluate(scores: Sequence[Sequence[float]], gold: Sequence[int], ask: Sequence[float]) -> list[float]:
    """Fit on rows of scores and return the probabilities of one more row, in plain numbers."""
    return apply(fit(np.array(scores), np.array(gold)), np.array([ask]))[0].tolist()


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    scores = [[0.0, 1.0]] * 4 + [[1.0, 0.0]] * 4
    return WorkedExample(
        inputs={"scores": scores, "gold": [1, 1, 1, 0, 0, 0, 0, 1], "ask": [0.0, 1.0]},
        expected=[1 / 3, 2 / 3],
        how="4 rows of each option: targets 5/6 and 1/6. At a gap of +1 their mean for option 1 is (3*5/6 + 1/6)/4 = 2/3, at -1 "
        "it is 1/3; two parameters meet both, a + b = ln 2 and -a + b = -ln 2. (Without smoothing: 3/4.)",
        wrong={"scores": scores, "gold": [1, 1, 1, 1, 0, 0, 0, 1], "ask": [0.0, 1.0]},
    )
