"""Do the intervals hold the truth as often as they say, and do the verdicts stay quiet where there is nothing? By simulation."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.metrics import accuracy, macro_f1
from tunesmith.stats.compare import INSUFFICIENT, Difference, compare

STUDIES = 600


def _texts(right: np.ndarray) -> list[str]:
    return np.where(right, "yes", "no").tolist()


def _difference(a: np.ndarray, b: np.ndarray, seed: int, metric=accuracy, gold: list[str] | None = None) -> Difference:
    """Compare two routes given as [D, n] booleans "right" (or "said yes", with gold)."""
    gold = gold or ["yes"] * a.shape[1]
    routes = {"a": [_texts(draw) for draw in a], "b": [_texts(draw) for draw in b]}
    return compare(metric.evaluate, gold, routes, seed, resamples=800).differences[0]


def test_intervals_of_accuracy_differences_cover_the_truth() -> None:
    # Paired answers: a right with .80; b copies it on 70 % of items and is else right with .60. Truth: .3 * (.80 - .60) = .06.
    rng = np.random.default_rng(0)
    n, covered = 200, 0
    for study in range(STUDIES):
        a = rng.random(n) < 0.8
        b = np.where(rng.random(n) < 0.7, a, rng.random(n) < 0.6)
        d = _difference(a[None], b[None], study)
        covered += d.low <= 0.06 <= d.high
    assert 0.92 <= covered / STUDIES <= 0.975


def test_intervals_of_a_route_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for study in range(STUDIES):
        answers = [_texts(rng.random(200) < 0.8)]
        interval = compare(accuracy.evaluate, ["yes"] * 200, {"a": answers}, study, resamples=800).intervals["a"]
        covered += interval.low <= 0.8 <= interval.high
    assert 0.92 <= covered / STUDIES <= 0.975


def test_four_equal_routes_are_rarely_told_apart() -> None:
    # Any verdict among the six pairs is a false alarm. 5 % + two standard errors of 600 studies.
    rng = np.random.default_rng(2)
    alarms = 0
    for study in range(STUDIES):
        hard = rng.random(150) < 0.3
        routes = {name: [_texts(rng.random(150) < np.where(hard, 0.4, 0.9))] for name in "abcd"}
        result = compare(accuracy.evaluate, ["yes"] * 150, routes, study, resamples=500)
        alarms += any(d.verdict != INSUFFICIENT for d in result.differences)
    assert alarms / STUDIES <= 0.05 + 2 * (0.05 * 0.95 / STUDIES) ** 0.5


def test_equal_routes_are_rarely_told_apart_by_macro_f1() -> None:
    rng = np.random.default_rng(3)
    alarms = 0
    for study in range(STUDIES):
        true = rng.random(200) < 0.3
        a, b = (np.where(rng.random(200) < 0.75, true, ~true) for _ in range(2))
        alarms += _difference(a[None], b[None], study, macro_f1, _texts(true)).verdict != INSUFFICIENT
    assert 0.01 <= alarms / STUDIES <= 0.05 + 2 * (0.05 * 0.95 / STUDIES) ** 0.5


@pytest.mark.parametrize(("spread", "number", "most"), [(0.0, 3, 0.05), (0.05, 5, 0.09), (0.05, 3, 0.11)])
def test_routes_whose_draws_vary_alike_are_rarely_told_apart(spread: float, number: int, most: float) -> None:
    # Both routes have the same expected accuracy; each draw has its own. Items alone would call far more of them different.
    rng = np.random.default_rng(4)
    n, alarms, by_items_alone = 300, 0, 0
    for study in range(400):
        a, b = (rng.random((number, n)) < rng.normal(0.75, spread, (number, 1)) for _ in range(2))
        d = _difference(a, b, study)
        alarms += d.verdict != INSUFFICIENT
        items = a.mean(axis=0) - b.mean(axis=0)
        by_items_alone += abs(items.mean()) > 1.96 * items.std() / n**0.5
    assert alarms / 400 <= most
    if spread:
        assert by_items_alone / 400 > 0.25


def test_a_real_difference_is_found_as_often_as_promised() -> None:
    # b is wrong on 15 % and right on 5 % of the items where a is otherwise: d = .10, sd^2 = .20 - .01; 80 % power at 154 items.
    rng = np.random.default_rng(5)
    n, found, detectable = 154, 0, []
    for study in range(STUDIES):
        kind = rng.choice(3, n, p=[0.15, 0.05, 0.80])
        d = _difference((kind != 1)[None], (kind != 0)[None], study)
        found += d.verdict == "better"
        detectable.append(d.detectable)
    assert np.mean(detectable) == pytest.approx(0.10, abs=0.005)
    # The exact test pays for its safety with a few points of power.
    assert 0.68 <= found / STUDIES <= 0.85
