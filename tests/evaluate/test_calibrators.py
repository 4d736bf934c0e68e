"""Calibrators: what each can and cannot change, against other programmes, and as JSON."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from tunesmith.core.registry import CALIBRATORS
from tunesmith.evaluate.calibrators import isotonic, platt, temperature


def drawn(n: int, options: int, sharpness: float, lean: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose honest probabilities are softmax(scores), told `sharpness` times too loudly and leaning to option 0."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(size=(n, options)) * 1.5
    p = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    gold = (p.cumsum(axis=1) < generator.random(n)[:, None]).sum(axis=1).clip(max=options - 1)
    scores = honest * sharpness
    scores[:, 0] += lean
    return scores, gold


def loss(table: np.ndarray, gold: np.ndarray) -> float:
    return float(-np.log(table[np.arange(len(gold)), gold]).mean())


def test_temperature_undoes_overconfidence() -> None:
    scores, gold = drawn(4000, 3, sharpness=4.0)
    assert temperature.fit(scores, gold)["temperature"] == pytest.approx(4.0, rel=0.1)


def test_temperature_is_the_best_one_there_is() -> None:
    scores, gold = drawn(300, 3, sharpness=2.5)
    best = temperature.fit(scores, gold)["temperature"]
    at = lambda t: loss(temperature.apply({"temperature": t}, scores), gold)  # noqa: E731
    assert at(best) <= min(at(best * factor) for factor in (0.9, 0.99, 1.01, 1.1))
    assert at(best) < at(1.0)


@given(st.integers(0, 2**31), st.integers(2, 6))
def test_temperature_changes_no_answer(seed: int, options: int) -> None:
    scores, gold = drawn(60, options, sharpness=3.0, seed=seed)
    table = temperature.apply(temperature.fit(scores, gold), scores)
    assert (table.argmax(axis=1) == scores.argmax(axis=1)).all()


def test_platt_may_change_answers() -> None:
    # The negative control of the test before: a lean is what temperature cannot see and platt corrects.
    scores, gold = drawn(2000, 2, sharpness=1.0, lean=3.0)
    table = platt.apply(platt.fit(scores, gold), scores)
    assert (table.argmax(axis=1) != scores.argmax(axis=1)).any()
    assert (table.argmax(axis=1) == gold).mean() > (scores.argmax(axis=1) == gold).mean() + 0.1
    assert platt.fit(scores, gold)["offsets"][1] == pytest.approx(3.0, abs=0.3)


def test_platt_agrees_with_logistic_regression_on_smoothed_targets() -> None:
    scores, gold = drawn(150, 2, sharpness=2.0, lean=1.0)
    gap, positive = (scores[:, 1] - scores[:, 0])[:, None], gold.sum()
    high, low = (positive + 1) / (positive + 2), 1 / (len(gold) - positive + 2)
    target = np.where(gold == 1, high, low)
    # A row with target t is t of a positive row and 1 - t of a negative one.
    twice = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(
        np.vstack([gap, gap]), [1] * len(gold) + [0] * len(gold), sample_weight=np.concatenate([target, 1 - target])
    )
    fitted = platt.fit(scores, gold)
    assert fitted["slope"] == pytest.approx(twice.coef_[0, 0], rel=1e-4)
    assert fitted["offsets"][1] == pytest.approx(twice.intercept_[0], rel=1e-4)


def test_platt_of_many_options_is_the_minimum_another_optimiser_finds() -> None:
    scores, gold = drawn(200, 4, sharpness=2.0, lean=1.0)
    counts = np.bincount(gold, minlength=4)
    targets = np.array([[(counts[g] * (k == g) + 1) / (counts[g] + 4) for k in range(4)] for g in gold])

    def cross_entropy(theta: np.ndarray) -> float:
        z = theta[0] * scores + np.array([0.0, *theta[1:]])
        return float(-(targets * (z - np.log(np.exp(z).sum(axis=1, keepdims=True)))).sum())

    other = minimize(cross_entropy, [1.0, 0.0, 0.0, 0.0]).x
    fitted = platt.fit(scores, gold)
    assert [fitted["slope"], *fitted["offsets"][1:]] == pytest.approx(other, abs=1e-3)


def test_platt_stays_finite_where_rows_can_be_told_apart() -> None:
    scores = np.array([[2.0, 0.0]] * 20 + [[0.0, 2.0]] * 20)
    fitted = platt.fit(scores, np.array([0] * 20 + [1] * 20))
    assert 0 < fitted["slope"] < 10
    assert 0.01 <= temperature.fit(scores, np.array([0] * 20 + [1] * 20))["temperature"] < 0.1


def test_isotonic_never_falls_and_never_is_certain() -> None:
    scores, gold = drawn(300, 2, sharpness=3.0)
    state = isotonic.fit(scores, gold)
    asked = np.column_stack([np.zeros(200), np.linspace(-12, 12, 200)])
    p = isotonic.apply(state, asked)[:, 1]
    assert (np.diff(p) >= -1e-12).all()
    assert p[0] >= 1 / 302 - 1e-12
    assert p[-1] <= 301 / 302 + 1e-12
    # Upside down it would fall: the order comes from the fit and not from how it is applied.
    falling = isotonic.apply({"knots": [[x, y[::-1]] for x, y in state["knots"]]}, asked)[:, 1]
    assert (np.diff(falling) < -1e-12).any()


@pytest.mark.parametrize("name", CALIBRATORS.names())
@pytest.mark.parametrize("options", [2, 4])
def test_a_calibrator_helps_gives_probabilities_and_is_plain_json(name: str, options: int) -> None:
    entry = CALIBRATORS.get(name)
    scores, gold = drawn(600, options, sharpness=4.0)
    state = entry.fit(scores, gold)
    fresh, right = drawn(600, options, sharpness=4.0, seed=1)
    table = entry.apply(state, fresh)
    assert np.allclose(table.sum(axis=1), 1)
    assert loss(table, right) < loss(temperature.apply({"temperature": 1.0}, fresh), right) - 0.1
    assert (entry.apply(json.loads(json.dumps(state)), fresh) == table).all()


@pytest.mark.parametrize("name", CALIBRATORS.names())
def test_a_constant_added_to_a_rows_scores_means_nothing(name: str) -> None:
    entry = CALIBRATORS.get(name)
    scores, gold = drawn(100, 3, sharpness=2.0)
    moved = scores + np.arange(100)[:, None]
    assert np.allclose(entry.apply(entry.fit(scores, gold), scores), entry.apply(entry.fit(moved, gold), moved), atol=1e-6)
