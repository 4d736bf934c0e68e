"""McNemar's exact test: do two routes differ in how many of the same items they get right?

Source: McNemar 1947; the exact form is the two-sided binomial test of b against b + c at 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.errors import UserError


def mcnemar(correct_a: Sequence[bool] | np.ndarray, correct_b: Sequence[bool] | np.ndarray) -> tuple[int, int, float]:
    """Test whether two routes are right equally often. Items both get right, or both wrong, say nothing.

        p = min(1, 2 sum_{k=0}^{min(b, c)} C(b + c, k) / 2^(b + c))

    The exact p and not the mid-p: it never raises false alarms above its level, at the price of some power.

    Args:
        correct_a, correct_b: n booleans each, for the same items in the same order.

    Returns:
        b: items only a got right; c: items only b got right; p: two-sided, 1 where b = c.

    Raises:
        UserError: different numbers of items.
    """
    if len(correct_a) != len(correct_b):
        raise UserError(
            f"one route has {len(correct_a):,} answers and the other {len(correct_b):,}", "Compare them on the same items."
        )
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return only_a, only_b, _binomial(min(only_a, only_b), only_a + only_b)


def _binomial(fewer: int, n: int) -> float:
    # In logarithms: 2^n overflows a float from n = 1,024 on.
    k = np.arange(1, fewer + 1)
    log_terms = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))]) - n * np.log(2)
    largest = log_terms.max()
    return float(min(1.0, 2 * np.exp(largest) * np.exp(log_terms - largest).sum()))
