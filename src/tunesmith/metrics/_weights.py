"""What the metrics share: refusing input without a value, and sums over items that were drawn several times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.core.errors import UserError

_CELLS = 1 << 22


def check(weights: np.ndarray | None, **columns: Sequence[Any] | np.ndarray) -> None:
    """Refuse columns that are empty or of different lengths, and weights that do not fit them.

    Args:
        weights: [R, n], or None.
        columns: two columns of n values, under the names messages use.

    Raises:
        UserError: names the lengths.
    """
    (first, n), (second, m) = ((name, len(column)) for name, column in columns.items())
    if n != m:
        raise UserError(f"{first} has {n:,} items and {second} has {m:,}", "Give one of each for every item, in the same order.")
    if n == 0:
        raise UserError("there are no items to measure", "Give at least one.")
    if weights is not None and (weights.ndim != 2 or weights.shape[1] != n):
        raise UserError(
            f"weights of shape {list(weights.shape)} do not fit {n:,} items", f"Give an array of shape [resamples, {n}]."
        )


def totals(columns: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Sum columns over the items of every resample, a few million weights at a time.

    Args:
        columns: [n, K]; float32 is exact for counts below 2**24, anything else wants float64.
        weights: [R, n], or None for every item once (R = 1).

    Returns:
        [R, K] in float64.
    """
    if weights is None:
        return columns.sum(axis=0, keepdims=True, dtype=np.float64)
    result = np.empty((len(weights), columns.shape[1]))
    rows = max(1, _CELLS // len(columns))
    for start in range(0, len(weights), rows):
        result[start : start + rows] = weights[start : start + rows].astype(columns.dtype, copy=False) @ columns
    return result


def quotient(numerator: np.ndarray, denominator: np.ndarray, weights: np.ndarray | None) -> float | np.ndarray:
    """Divide [R] by [R]; return a float when there are no weights.

    Raises:
        UserError: a resample drew no item.
    """
    if not denominator.all():
        raise UserError(f"resample {int(np.argmin(denominator != 0)):,} drew no item", "Every row of weights needs one above 0.")
    result = numerator / denominator
    return float(result[0]) if weights is None else result
