"""The softmax of rows of scores, which every calibrator begins with."""

from __future__ import annotations

import numpy as np


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Return the logarithms of the softmax of each row: [n, K] -> [n, K]."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the softmax of each row: [n, K] -> [n, K]."""
    return np.exp(log_softmax(scores))
