"""Metrics against hand-worked values, scikit-learn and plain loops, with and without resamples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from tunesmith.core.errors import UserError
from tunesmith.core.registry import METRICS
from tunesmith.metrics import accuracy, exact_match, macro_f1, perplexity

TEXT_METRICS = (accuracy, macro_f1, exact_match)
ANSWERS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcde")), min_size=1, max_size=40)


def _expand(gold: list[str], predicted: list[str], counts: np.ndarray) -> tuple[list[str], list[str]]:
    rows = [i for i, times in enumerate(counts) for _ in range(times)]
    return [gold[i] for i in rows], [predicted[i] for i in rows]


@pytest.mark.parametrize("name", METRICS.names())
def test_worked_example_holds_and_its_wrong_twin_does_not(name: str) -> None:
    metric = METRICS.get(name)
    example = metric.worked_example()
    assert metric.evaluate(**example.inputs) == pytest.approx(example.expected, abs=example.tolerance)
    assert abs(metric.evaluate(**example.wrong) - example.expected) > 100 * example.tolerance


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_says_which_way_is_better_and_what_it_is(name: str) -> None:
    assert isinstance(METRICS.get(name).HIGHER_IS_BETTER, bool)
    assert 20 < len(METRICS.summary(name)) < 130


def test_the_room_has_these_metrics() -> None:
    assert {"accuracy", "exact-match", "macro-f1", "perplexity"} <= set(METRICS.names())


def test_commitment_bank_accuracy() -> None:
    assert accuracy.evaluate(["0", "0", "1", "2", "2"], ["0", "1", "1", "2", "0"]) == pytest.approx(0.6)


@given(ANSWERS)
def test_values_equal_scikit_learn(rows: list[tuple[str, str]]) -> None:
    gold, predicted = map(list, zip(*rows, strict=True))
    assert accuracy.evaluate(gold, predicted) == pytest.approx(accuracy_score(gold, predicted), abs=1e-12)
    expected = f1_score(gold, predicted, average="macro", zero_division=0.0)
    assert macro_f1.evaluate(gold, predicted) == pytest.approx(expected, abs=1e-12)


@given(ANSWERS, st.integers(0, 10_000), st.sampled_from([np.uint8, np.int64, np.float32, np.float64]))
def test_a_resample_has_the_value_of_its_items_written_out(rows: list[tuple[str, str]], seed: int, dtype: type) -> None:
    gold, predicted = map(list, zip(*rows, strict=True))
    n = len(gold)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=5)
    for metric in TEXT_METRICS:
        values = metric.evaluate(gold, predicted, counts.astype(dtype))
        plain = [metric.evaluate(*_expand(gold, predicted, row)) for row in counts]
        assert values == pytest.approx(plain, abs=1e-12), metric.__name__


def test_macro_f1_of_a_resample_leaves_out_labels_it_does_not_hold() -> None:
    gold, predicted = ["a", "a", "rare"], ["a", "a", "a"]
    with_rare, without = macro_f1.evaluate(gold, predicted, np.array([[1, 1, 1], [2, 1, 0]]))
    assert with_rare == pytest.approx((2 * 2 / (2 + 3) + 0) / 2)
    assert without == 1.0


def test_macro_f1_with_more_labels_than_are_counted_at_a_time() -> None:
    rng = np.random.default_rng(0)
    gold, predicted = ([str(x) for x in rng.integers(0, 101, 700)] for _ in range(2))
    assert macro_f1.evaluate(gold, predicted) == pytest.approx(f1_score(gold, predicted, average="macro"), abs=1e-12)


def test_many_resamples_are_summed_in_blocks_without_changing_a_value() -> None:
    rng = np.random.default_rng(1)
    gold, predicted = (list(rng.choice(["a", "b"], 5000)) for _ in range(2))
    counts = rng.integers(0, 3, size=(2000, 5000)).astype(np.uint8)
    values = accuracy.evaluate(gold, predicted, counts)
    correct = np.array(gold) == np.array(predicted)
    expected = [counts[r, correct].sum() / counts[r].sum() for r in range(2000)]
    assert values == pytest.approx(expected, abs=1e-12)


@given(ANSWERS, st.randoms(use_true_random=False))
def test_the_order_of_items_does_not_matter(rows: list[tuple[str, str]], random) -> None:
    shuffled = random.sample(rows, len(rows))
    for metric in TEXT_METRICS:
        before, after = (metric.evaluate(*map(list, zip(*r, strict=True))) for r in (rows, shuffled))
        assert before == pytest.approx(after, abs=1e-12)


@pytest.mark.parametrize(
    ("predicted", "matches"),
    [
        ("Paris", True),
        (" Paris\t\n", True),
        ("Par is", False),
        ("paris", False),
        ("Paris.", False),
        ("", False),
        ("Paris Paris", False),
    ],
)
def test_exact_match_forgives_spacing_only(predicted: str, matches: bool) -> None:
    assert exact_match.evaluate(["Paris"], [predicted]) == matches


def test_accuracy_forgives_nothing() -> None:
    assert accuracy.evaluate(["yes"], ["yes "]) == 0.0


def test_perplexity_weighs_tokens_and_not_documents() -> None:
    nll, tokens = [10.0, 90.0, 3.0], [10, 30, 2]
    assert perplexity.evaluate(nll, tokens) == pytest.approx(math.exp(103 / 42))
    counts = np.array([[1, 1, 1], [0, 2, 1]])
    assert perplexity.evaluate(nll, tokens, counts) == pytest.approx([math.exp(103 / 42), math.exp(183 / 62)])
    assert perplexity.evaluate(nll, tokens) != pytest.approx(np.mean([math.exp(1), math.exp(3), math.exp(1.5)]))


def test_perplexity_of_a_certain_and_of_a_uniform_model() -> None:
    assert perplexity.evaluate([0.0], [5]) == 1.0
    assert perplexity.evaluate([7 * math.log(49_152)], [7]) == pytest.approx(49_152)
    assert perplexity.evaluate([1e6], [1]) == math.inf


@pytest.mark.parametrize(("nll", "tokens", "says"), [([1.0, math.nan], [1, 1], "document 1"), ([1.0], [0], "0 tokens")])
def test_perplexity_refuses_documents_without_a_value(nll: list[float], tokens: list[int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        perplexity.evaluate(nll, tokens)


@pytest.mark.parametrize("metric", [*TEXT_METRICS, perplexity])
def test_input_without_a_value_is_refused_in_words(metric) -> None:
    one, two = ([1.0], [1, 2]) if metric is perplexity else (["a"], ["a", "b"])
    with pytest.raises(UserError, match="no items"):
        metric.evaluate([], [])
    with pytest.raises(UserError, match=r"has 1 items and .* has 2"):
        metric.evaluate(one, two)
    with pytest.raises(UserError, match=r"\[3, 1\] do not fit 2"):
        metric.evaluate(two, two, np.ones((3, 1)))
    with pytest.raises(UserError, match="resample 1 drew no item"):
        metric.evaluate(two, two, np.array([[1, 1], [0, 0]]))
