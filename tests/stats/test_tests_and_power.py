"""McNemar, Holm and power against golden values and independent programmes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from tunesmith.core.errors import UserError
from tunesmith.stats.holm import holm
from tunesmith.stats.mcnemar import mcnemar
from tunesmith.stats.power import detectable_difference, rows_to_settle

GOLDEN = Path(__file__).parent.parent / "golden"
P_VALUES = st.lists(st.floats(0, 1), max_size=12)


def golden(name: str) -> list[dict]:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def _items(both_right: int, only_a: int, only_b: int, both_wrong: int) -> tuple[list[bool], list[bool]]:
    a = [True] * (both_right + only_a) + [False] * (only_b + both_wrong)
    b = [True] * both_right + [False] * only_a + [True] * only_b + [False] * both_wrong
    return a, b


@pytest.mark.parametrize("case", golden("mcnemar"))
def test_mcnemar_golden(case: dict) -> None:
    inputs = case["inputs"]
    b, c, p = mcnemar(*_items(**inputs))
    assert (b, c) == (inputs["only_a"], inputs["only_b"])
    assert p == pytest.approx(case["expected"], abs=case["tolerance"])
    assert abs(mcnemar(*_items(**case["wrong"]))[2] - case["expected"]) > 1e-3


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_equals_scipy(b: int, c: int) -> None:
    p = mcnemar(*_items(3, b, c, 2))[2]
    assert p == pytest.approx(binomtest(b, b + c).pvalue if b + c else 1.0, rel=1e-10)
    assert mcnemar(*reversed(_items(3, b, c, 2))) == (c, b, p)


@pytest.mark.parametrize(("b", "c"), [(2600, 2400), (700, 4300), (0, 5000), (2500, 2500)])
def test_mcnemar_with_thousands_of_items(b: int, c: int) -> None:
    assert mcnemar(*_items(0, b, c, 0))[2] == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-8, abs=1e-300)


def test_mcnemar_ignores_items_on_which_both_agree() -> None:
    assert mcnemar(*_items(0, 9, 2, 0)) == mcnemar(*_items(1000, 9, 2, 1000))
    assert mcnemar([], []) == (0, 0, 1.0)


def test_mcnemar_needs_the_same_items() -> None:
    with pytest.raises(UserError, match="2 answers and the other 1"):
        mcnemar([True, False], [True])


@pytest.mark.parametrize("case", golden("holm"))
def test_holm_golden(case: dict) -> None:
    assert holm(**case["inputs"]) == pytest.approx(case["expected"], abs=case["tolerance"])
    assert holm(**case["wrong"]) != pytest.approx(case["expected"], abs=1e-3)


@given(P_VALUES, st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], alpha: float) -> None:
    adjusted = holm(p_values)
    m, rejected = len(p_values), set()
    for step, i in enumerate(sorted(range(m), key=p_values.__getitem__)):
        if (m - step) * p_values[i] > alpha:
            break
        rejected.add(i)
    assert {i for i in range(m) if adjusted[i] <= alpha} == rejected


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_does_not_depend_on_the_order_and_never_lowers_a_p(p_values: list[float], random) -> None:
    order = random.sample(range(len(p_values)), len(p_values))
    adjusted = holm(p_values)
    assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(UserError, match="p-value 1"):
        holm([0.5, p])


@pytest.mark.parametrize("case", golden("power"))
def test_detectable_difference_golden(case: dict) -> None:
    assert detectable_difference(**case["inputs"]) == pytest.approx(case["expected"], abs=case["tolerance"])
    assert abs(detectable_difference(**case["wrong"]) - case["expected"]) > 1e-3


@given(st.floats(0.01, 0.5), st.floats(0.05, 1.0), st.floats(0.001, 0.2), st.floats(0.5, 0.99))
def test_rows_to_settle_is_the_least_number_that_detects_the_difference(d: float, sd: float, alpha: float, power: float) -> None:
    rows = rows_to_settle(d, sd, alpha, power)
    assert rows is not None
    assert rows == rows_to_settle(-d, sd, alpha, power)
    assert detectable_difference(sd, rows, alpha, power) <= d * (1 + 1e-9)
    assert rows == 1 or detectable_difference(sd, rows - 1, alpha, power) > d * (1 - 1e-9)


def test_a_difference_is_found_as_often_as_promised() -> None:
    # 20,000 studies of 300 items with the detectable difference, judged by an ordinary z-test.
    sd, n = 0.4, 300
    d = detectable_difference(sd, n, alpha=0.05, power=0.8)
    means = np.random.default_rng(0).normal(d, sd / np.sqrt(n), 20_000)
    found = np.mean(np.abs(means) / (sd / np.sqrt(n)) > norm.ppf(0.975))
    assert found == pytest.approx(0.8, abs=0.01)


def test_more_rows_cannot_settle_no_difference_or_one_that_drowns_in_other_noise() -> None:
    assert rows_to_settle(0.0, 0.4) is None
    assert rows_to_settle(0.05, 0.4, other_se=0.05) is None
    quiet, noisy = rows_to_settle(0.05, 0.4), rows_to_settle(0.05, 0.4, other_se=0.01)
    assert quiet is not None
    assert noisy is not None
    assert quiet == 503
    assert noisy > quiet
    assert detectable_difference(0.4, noisy, other_se=0.01) <= 0.05


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(UserError):
        detectable_difference(0.4, 0)
    with pytest.raises(UserError):
        detectable_difference(-0.1, 10)
    with pytest.raises(UserError):
        rows_to_settle(0.1, -0.4)
    with pytest.raises(UserError, match="alpha 0 "):
        rows_to_settle(0.1, 0.4, alpha=0)
