"""What a paired comparison can see: the smallest difference it would find, and the rows it would need.

Normal approximation for the mean of n paired differences: a true difference d is found with probability `power` when

    |d| = (z_{1 - alpha/2} + z_power) * se,    se^2 = sd^2 / n + other_se^2

Source: Lachin 1981, Introduction to Sample Size Determination and Power Analysis for Clinical Trials; for accuracies
Connor 1987, Sample Size for Testing Differences in Proportions for the Paired-Sample Design.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from tunesmith.core.errors import UserError


def detectable_difference(sd: float, n: int, alpha: float = 0.05, power: float = 0.8, other_se: float = 0.0) -> float:
    """Return the smallest true difference that n items would show with probability `power`.

    Args:
        sd: standard deviation of the difference on one item, in units of the metric.
        n: items. alpha: two-sided level of the test.
        other_se: standard error that more items would not shrink (from the draws of a route).

    Raises:
        UserError: n below 1, sd negative, or alpha or power outside 0..1.
    """
    if n < 1 or sd < 0:
        raise UserError(
            f"no power can be told for {n:,} items with standard deviation {sd:g}", "Give at least one item and sd >= 0."
        )
    return _z(alpha, power) * math.hypot(sd / math.sqrt(n), other_se)


def rows_to_settle(difference: float, sd: float, alpha: float = 0.05, power: float = 0.8, other_se: float = 0.0) -> int | None:
    """Return how many items it takes to find a true difference of this size with probability `power`.

    Args:
        difference: in units of the metric; its sign does not matter.
        sd, alpha, other_se: as in `detectable_difference`.

    Returns:
        Items, at least 1; None where no number would do: no difference, or one that drowns in `other_se`.

    Raises:
        UserError: sd negative, or alpha or power outside 0..1.
    """
    if sd < 0:
        raise UserError(f"a standard deviation of {sd:g} is impossible", "Give sd >= 0.")
    z = _z(alpha, power)
    room = difference**2 - (z * other_se) ** 2
    # Differences of means that ought to be equal come out as rounding errors.
    if abs(difference) < 1e-12 or room <= 0:
        return None
    return max(1, math.ceil((z * sd) ** 2 / room))


def _z(alpha: float, power: float) -> float:
    if not (0 < alpha < 1 and 0 < power < 1):
        raise UserError(f"alpha {alpha:g} and power {power:g} must lie between 0 and 1", "Usual are alpha=0.05 and power=0.8.")
    quantile = NormalDist().inv_cdf
    return quantile(1 - alpha / 2) + quantile(power)
