"""Holm's correction: p-values that stay honest when several comparisons are made at once.

Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.core.errors import UserError


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust m p-values, step down, so that the chance of any false alarm among them stays at the level.

        p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))     with p_(1) <= ... <= p_(m)

    Returns:
        The adjusted p-values in the order given; [] for none.

    Raises:
        UserError: a p-value outside 0..1.
    """
    for i, p in enumerate(p_values):
        if not 0 <= p <= 1:
            raise UserError(f"p-value {i} is {p}", "Every p-value lies between 0 and 1.")
    m = len(p_values)
    adjusted, largest = [0.0] * m, 0.0
    for rank, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
