"""Correlation of two columns of numbers under weights, a few million cells at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.errors import UserError
from tunesmith.metrics import _weights

_CELLS = 1 << 22


def numbers(values: Sequence[str | float], what: str) -> NDArray[np.float64]:
    """Return answers as numbers.

    Raises:
        UserError: one is not a finite number.
    """
    found = np.empty(len(values))
    for at, value in enumerate(values):
        try:
            found[at] = float(value)
        except ValueError:
            found[at] = np.nan
        if not np.isfinite(found[at]):
            raise UserError(f"{what} item {at + 1:,} is {value!r:.40}, which is no number", "A correlation needs numbers.")
    return found


def correlation(x: NDArray[np.float64], y: NDArray[np.float64], weights: np.ndarray | None, ranked: bool) -> float | np.ndarray:
    """Return the correlation of x and y [n], or of their ranks, for every row of weights [R, n]; 0 where one does not vary."""
    _weights.check(weights, gold=x, predicted=y)
    if weights is None:
        return float(_of(x[None], y[None], np.ones((1, len(x))), ranked)[0])
    rows, found = max(1, _CELLS // len(x)), np.empty(len(weights))
    for start in range(0, len(weights), rows):
        found[start : start + rows] = _of(x[None], y[None], weights[start : start + rows].astype(np.float64), ranked)
    return found


def _of(x: np.ndarray, y: np.ndarray, w: np.ndarray, ranked: bool) -> np.ndarray:
    if ranked:
        x, y = _ranks(x[0], w), _ranks(y[0], w)
    total = w.sum(1, keepdims=True)
    # Centred before anything is squared: far from zero, squares would lose the digits that differ.
    x, y = x - (w * x).sum(1, keepdims=True) / total, y - (w * y).sum(1, keepdims=True) / total
    xx, yy, xy = (w * x * x).sum(1), (w * y * y).sum(1), (w * x * y).sum(1)
    scale = np.sqrt(xx * yy)
    # What is left of a column of equal numbers is rounding.
    varies = scale > 1e-12 * np.maximum(total[:, 0], 1.0)
    return np.where(varies, xy / np.where(varies, scale, 1.0), 0.0)


def _ranks(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return [R, n] ranks of values [n] drawn w times each; equal values share the mean of their places."""
    kinds, which = np.unique(values, return_inverse=True)
    drawn = np.zeros((len(w), len(kinds)))
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(len(kinds)))
    drawn = np.add.reduceat(w[:, order], starts, axis=1)
    return (np.cumsum(drawn, 1) - drawn / 2)[:, which]
