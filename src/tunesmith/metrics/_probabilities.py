"""What the metrics of probabilities share: reading and refusing columns of gold answers and rows of probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.errors import UserError
from tunesmith.metrics import _weights

_TOLERANCE = 1e-3


def table(
    gold: Sequence[int], probabilities: Sequence[Sequence[float]] | np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return gold [n] int64 and probabilities [n, K] float64, checked.

    Raises:
        UserError: no items, different lengths, rows that are no probabilities, or a gold index outside them.
    """
    _weights.check(weights, gold=gold, probabilities=probabilities)
    lengths = {len(row) for row in probabilities}
    if len(lengths) > 1:
        raise UserError(f"rows of {min(lengths)} and of {max(lengths)} probabilities", "Give one for every option in each row.")
    rows, index = np.asarray(probabilities, dtype=np.float64), np.asarray(gold, dtype=np.int64)
    bad = ~np.isfinite(rows).all(axis=1) | (rows < 0).any(axis=1) | (np.abs(rows.sum(axis=1) - 1) > _TOLERANCE)
    for i in np.flatnonzero(bad)[:1]:
        raise UserError(f"row {i} holds no probabilities: {rows[i].tolist()}", "They must not be negative, and sum to 1.")
    for i in np.flatnonzero((index < 0) | (index >= rows.shape[1]))[:1]:
        raise UserError(f"row {i} has gold {index[i]}, and there are {rows.shape[1]} options, counted from 0")
    return index, rows


def flags(values: Sequence[int] | Sequence[bool] | np.ndarray, name: str) -> np.ndarray:
    """Return 0/1 values as [n] bool.

    Raises:
        UserError: another value.
    """
    column = np.asarray(values, dtype=np.float64)
    for i in np.flatnonzero((column != 0) & (column != 1))[:1]:
        raise UserError(f"{name} holds {column[i]:g}, and only 0 and 1 mean anything there")
    return column == 1
