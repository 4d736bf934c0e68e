"""Exact binomial bounds, against the beta distribution they are quantiles of."""

import pytest
from scipy.stats import beta

from tunesmith.core.errors import UserError
from tunesmith.stats.binomial import interval, lower_bound


@pytest.mark.parametrize(("k", "n"), [(1, 10), (9, 10), (150, 273), (999, 1000), (5, 5)])
@pytest.mark.parametrize("error", [0.05, 0.005])
def test_the_bound_is_a_quantile_of_the_beta_distribution(k: int, n: int, error: float) -> None:
    assert lower_bound(k, n, error) == pytest.approx(beta.ppf(error, k, n - k + 1), abs=1e-9)


def test_all_right_has_a_closed_form() -> None:
    # P(X = n) = p^n = error.
    assert lower_bound(59, 59, 0.05) == pytest.approx(0.05 ** (1 / 59))
    assert lower_bound(0, 10, 0.05) == 0


def test_the_interval_has_both_ends() -> None:
    assert interval(8, 10) == pytest.approx((0.4439, 0.9748), abs=1e-4)  # a textbook's 8 of 10
    assert interval(0, 4)[0] == 0
    assert interval(4, 4)[1] == 1


@pytest.mark.parametrize(("k", "n", "error"), [(3, 2, 0.05), (-1, 2, 0.05), (0, 0, 0.05), (1, 2, 0.0)])
def test_counts_that_cannot_be_are_refused(k: int, n: int, error: float) -> None:
    with pytest.raises(UserError, match=f"no bound for {k} of {n}"):
        lower_bound(k, n, error)
