"""Exact bounds on a share from counts (Clopper & Pearson 1934)."""

from __future__ import annotations

import math

import numpy as np

from tunesmith.core.errors import UserError

_HALVINGS = 60


def lower_bound(successes: int, n: int, error: float) -> float:
    """Return the one-sided lower bound on the share behind k successes in n trials.

    It is the p at which k or more successes have probability `error`: whatever the true share, the bound exceeds it with at
    most that probability. For k = n it is error^(1/n).

    Args:
        error: between 0 and 1, for example 0.05.

    Raises:
        UserError: counts that cannot be, or an error outside 0..1.
    """
    if not 0 <= successes <= n or n < 1 or not 0 < error < 1:
        raise UserError(f"no bound for {successes} of {n} at error {error:g}", "Give 0 <= k <= n, n >= 1 and 0 < error < 1.")
    if successes == 0:
        return 0.0
    counts = np.arange(successes, n + 1)
    log_ways = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in counts])
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        p = (low + high) / 2
        tail = np.exp(log_ways + counts * math.log(p) + (n - counts) * math.log1p(-p)).sum()
        low, high = (p, high) if tail < error else (low, p)
    return low


def interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the two-sided exact interval of the share behind k successes in n trials.

    Raises:
        UserError: counts that cannot be, or a level outside 0..1.
    """
    error = (1 - level) / 2
    return lower_bound(successes, n, error), 1 - lower_bound(n - successes, n, error)
