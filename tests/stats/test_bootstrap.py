"""The bootstrap against enumeration of every possible resample, and its determinism."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.core.errors import UserError
from tunesmith.stats.bootstrap import interval, resample_blocks, resample_counts

CASES = json.loads((Path(__file__).parent.parent / "golden" / "bootstrap_interval.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_interval_golden(case: dict) -> None:
    inputs, wrong = case["inputs"], case["wrong"]
    assert interval(np.array(inputs["values"]), inputs["level"]) == pytest.approx(case["expected"], abs=case["tolerance"])
    assert interval(np.array(wrong["values"]), wrong["level"]) != pytest.approx(case["expected"], abs=1e-3)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 2**62))
def test_every_resample_draws_n_items_and_the_seed_decides_which(n: int, resamples: int, seed: int) -> None:
    counts = resample_counts(n, resamples, seed)
    assert counts.shape == (resamples, n)
    assert counts.dtype == np.uint8
    assert (counts.sum(axis=1) == n).all()
    assert (counts == resample_counts(n, resamples, seed)).all()


def test_another_seed_draws_other_items() -> None:
    assert (resample_counts(50, 10, 1) != resample_counts(50, 10, 2)).any(axis=1).all()


def test_more_resamples_begin_with_the_same_ones_and_come_in_bounded_blocks() -> None:
    n = 1_000_003
    blocks = list(resample_blocks(n, 10, 7))
    assert max(block.size for block in blocks) <= 1 << 22
    assert len(blocks) == 3
    assert (np.concatenate(blocks)[:6] == resample_counts(n, 6, 7)).all()


def test_shares_equal_those_of_all_resamples_enumerated() -> None:
    # 5 items can be drawn in 5^5 = 3,125 equally likely ways; the mean of these values is another in almost every one.
    values = np.array([0.0, 1.0, 3.0, 7.0, 20.0])
    exact = np.array([values[list(rows)].mean() for rows in itertools.product(range(5), repeat=5)])
    drawn = resample_counts(5, 200_000, 3) @ values / 5
    assert drawn.mean() == pytest.approx(exact.mean(), abs=0.03)
    assert drawn.std() == pytest.approx(exact.std(), abs=0.03)
    for q in (0.025, 0.25, 0.5, 0.75, 0.975):
        assert (drawn <= np.quantile(exact, q)).mean() == pytest.approx((exact <= np.quantile(exact, q)).mean(), abs=0.005)
    # Negative control: drawing without replacement would give the same mean every time.
    assert exact.std() > 1


def test_items_are_drawn_independently_of_each_other() -> None:
    counts = resample_counts(4, 100_000, 5).astype(float)
    # Multinomial: variance 1 - 1/n, covariance -1/n.
    assert np.cov(counts.T) == pytest.approx(np.eye(4) - 0.25, abs=0.02)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(UserError, match="0 items"):
        resample_counts(0, 10, 0)
    with pytest.raises(UserError):
        resample_counts(10, 0, 0)
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(UserError, match="level"):
            interval(np.arange(5), level)
    with pytest.raises(UserError):
        interval(np.array([]))
