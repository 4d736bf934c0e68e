"""The comparison against plain loops and scipy, its symmetries, and what it says at the edges."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tunesmith.core.errors import UserError
from tunesmith.core.seeds import derive
from tunesmith.metrics import accuracy, exact_match, macro_f1
from tunesmith.stats.bootstrap import resample_counts
from tunesmith.stats.compare import INSUFFICIENT, Comparison, _judged, compare, representative
from tunesmith.stats.holm import holm


def _answers(rng: np.random.Generator, gold: list[str], right: float) -> list[str]:
    return [g if rng.random() < right else "xyz"[rng.integers(3)] for g in gold]


def _study(n: int = 120, seed: int = 0) -> tuple[list[str], dict[str, list[list[str]]]]:
    rng = np.random.default_rng(seed)
    gold = [str(label) for label in rng.choice(["x", "y", "z"], n)]
    draws = {"zero": [0.5], "few": [0.55, 0.75, 0.65], "lora": [0.9]}
    return gold, {name: [_answers(rng, gold, right) for right in rights] for name, rights in draws.items()}


def _with_wins(only_a: int, only_b: int, both: int) -> tuple[list[str], dict[str, list[list[str]]]]:
    n = only_a + only_b + both
    a = ["yes"] * only_a + ["no"] * only_b + ["yes"] * both
    b = ["no"] * only_a + ["yes"] * only_b + ["yes"] * both
    return ["yes"] * n, {"a": [a], "b": [b]}


@pytest.mark.parametrize("metric", [accuracy, macro_f1])
def test_intervals_and_differences_equal_a_plain_loop(metric) -> None:
    gold, predictions = _study()
    result = compare(metric.evaluate, gold, predictions, seed=3, resamples=300)
    counts = resample_counts(len(gold), 300, derive(3, "items"))
    rows = [[i for i, times in enumerate(row) for _ in range(times)] for row in counts]
    looped = {
        name: np.array([np.mean([metric.evaluate([gold[i] for i in r], [d[i] for i in r]) for d in draws]) for r in rows])
        for name, draws in predictions.items()
    }
    for name, interval in result.intervals.items():
        assert interval.draws == pytest.approx([metric.evaluate(gold, d) for d in predictions[name]])
        assert interval.value == pytest.approx(np.mean(interval.draws))
        assert (interval.low, interval.high) == pytest.approx(np.quantile(looped[name], [0.025, 0.975]).tolist(), abs=1e-9)
    single = next(d for d in result.differences if (d.a, d.b) == ("zero", "lora"))
    difference = looped["zero"] - looped["lora"]
    assert (single.low, single.high) == pytest.approx(np.quantile(difference, [0.025, 0.975]).tolist(), abs=1e-9)
    assert single.value == pytest.approx(result.intervals["zero"].value - result.intervals["lora"].value)
    # Negative control: other resamples give other ends.
    other = compare(metric.evaluate, gold, predictions, seed=4, resamples=300).differences[1]
    assert (single.low, single.high) != (other.low, other.high)


def test_p_is_mcnemar_for_single_draws_of_a_share_and_bootstrap_otherwise() -> None:
    gold, predictions = _study()
    for metric in (accuracy, exact_match):
        tests = {(d.a, d.b): d for d in compare(metric.evaluate, gold, predictions, seed=0).differences}
        d = tests["zero", "lora"]
        assert d.test == "McNemar exact"
        assert d.p == pytest.approx(binomtest(d.only_a, d.only_a + d.only_b).pvalue)
        assert tests["zero", "few"].test == tests["few", "lora"].test == "paired bootstrap"
    assert {d.test for d in compare(macro_f1.evaluate, gold, predictions, seed=0).differences} == {"paired bootstrap"}


def test_bootstrap_p_is_twice_the_smaller_tail() -> None:
    gold, predictions = _study(seed=5)
    pair = {"zero": predictions["zero"], "b": [_answers(np.random.default_rng(9), gold, 0.6)]}
    result = compare(macro_f1.evaluate, gold, pair, seed=2, resamples=500)
    counts = resample_counts(len(gold), 500, derive(2, "items"))
    difference = macro_f1.evaluate(gold, pair["zero"][0], counts) - macro_f1.evaluate(gold, pair["b"][0], counts)
    tail = min((difference <= 0).sum(), (difference >= 0).sum())
    assert 0 < tail < 250
    assert result.differences[0].p == pytest.approx(2 * (tail + 1) / 501)


def test_all_pairs_are_corrected_together() -> None:
    gold, predictions = _study()
    result = compare(accuracy.evaluate, gold, predictions, seed=0)
    assert [(d.a, d.b) for d in result.differences] == [("zero", "few"), ("zero", "lora"), ("few", "lora")]
    assert [d.p_holm for d in result.differences] == holm([d.p for d in result.differences])
    alone = compare(accuracy.evaluate, gold, predictions, seed=0, pairs=[("few", "lora")])
    assert len(alone.differences) == 1
    assert alone.differences[0].p_holm == alone.differences[0].p
    assert alone.differences[0].detectable < result.differences[2].detectable


def test_a_clear_case_and_its_wins() -> None:
    gold, predictions = _with_wins(only_a=30, only_b=10, both=160)
    d = compare(accuracy.evaluate, gold, predictions, seed=0).differences[0]
    assert (d.n, d.only_a, d.only_b, d.verdict) == (200, 30, 10, "better")
    assert d.value == pytest.approx(0.1)
    # Standard error of a paired difference: sqrt(40/200 - .1^2) / sqrt(200) = .03082.
    assert (d.low, d.high) == pytest.approx((0.1 - 1.96 * 0.03082, 0.1 + 1.96 * 0.03082), abs=0.01)
    assert d.detectable == pytest.approx(2.801585 * 0.03082, rel=0.03)
    assert d.rows_to_settle is None


def test_insufficient_evidence_names_the_rows_that_would_settle_it() -> None:
    gold, predictions = _with_wins(only_a=12, only_b=8, both=180)
    d = compare(accuracy.evaluate, gold, predictions, seed=0).differences[0]
    assert d.verdict == INSUFFICIENT
    assert d.low < 0 < d.high
    # sd^2 = 20/200 - .02^2 = .0996; rows = 7.8489 * .0996 / .02^2.
    assert d.rows_to_settle == pytest.approx(1954, rel=0.05)


def test_a_few_items_are_never_enough_whatever_the_metric() -> None:
    gold, predictions = _with_wins(only_a=5, only_b=0, both=0)
    for metric in (accuracy, macro_f1):
        d = compare(metric.evaluate, gold, predictions, seed=0).differences[0]
        assert (d.value, d.low, d.high) == (1.0, 1.0, 1.0)
        assert d.p == 2 / 2**5
        assert d.verdict == INSUFFICIENT
        assert d.rows_to_settle == 6
        assert d.detectable > 1
    more = compare(accuracy.evaluate, *_with_wins(only_a=6, only_b=0, both=0), seed=0).differences[0]
    assert more.p == pytest.approx(2 / 2**6)
    assert (more.verdict, more.detectable) == ("better", 1.0)


def test_a_bootstrap_p_is_never_below_what_so_few_items_could_show() -> None:
    # On every resample a is ahead or level, yet only 4 of 60 answers differ: no exact test could go below 2 / 2^4.
    gold = ["x", "y"] * 30
    a = ["y", *gold[1:]]
    b = ["y", *("x" if i in (9, 19, 29, 39) else g for i, g in enumerate(gold[1:], start=1))]
    d = compare(macro_f1.evaluate, gold, {"a": [a], "b": [b]}, seed=0).differences[0]
    assert (d.test, d.only_a, d.only_b) == ("paired bootstrap", 4, 0)
    assert d.low > 0
    assert (d.p, d.verdict) == (2 / 2**4, INSUFFICIENT)


def test_a_verdict_needs_both_the_p_and_an_interval_without_zero() -> None:
    d = compare(accuracy.evaluate, *_with_wins(only_a=30, only_b=10, both=160), seed=0).differences[0]
    assert _judged(d, 0.049, 0.95).verdict == "better"
    assert _judged(d, 0.051, 0.95).verdict == INSUFFICIENT
    for low, high in ((-0.01, 0.2), (0.0, 0.2), (-0.2, 0.0)):
        assert _judged(replace(d, low=low, high=high), 0.001, 0.95).verdict == INSUFFICIENT


@given(st.lists(st.tuples(*[st.sampled_from("xyz")] * 5), min_size=1, max_size=30), st.integers(0, 99))
def test_swapping_two_routes_mirrors_their_difference(rows: list[tuple[str, ...]], seed: int) -> None:
    gold, *draws = map(list, zip(*rows, strict=True))
    for routes in ({"a": draws[:1], "b": draws[1:2]}, {"a": draws[:1], "b": draws[1:]}):
        for metric in (accuracy, macro_f1):
            there = compare(metric.evaluate, gold, routes, seed, pairs=[("a", "b")], resamples=200).differences[0]
            back = compare(metric.evaluate, gold, routes, seed, pairs=[("b", "a")], resamples=200).differences[0]
            mirrored = (-back.value, -back.high, -back.low, back.p, back.p_holm, back.detectable)
            assert (there.value, there.low, there.high, there.p, there.p_holm, there.detectable) == pytest.approx(
                mirrored, abs=1e-9
            )
            assert (there.only_a, there.only_b, there.rows_to_settle) == (back.only_b, back.only_a, back.rows_to_settle)
            assert there.verdict == {"better": "worse", "worse": "better"}.get(back.verdict, back.verdict)


@given(st.lists(st.tuples(*[st.sampled_from("xyz")] * 4), min_size=1, max_size=30), st.integers(1, 3))
def test_identical_predictions_show_nothing(rows: list[tuple[str, ...]], number: int) -> None:
    gold, *draws = map(list, zip(*rows, strict=True))
    for metric in (accuracy, macro_f1):
        d = compare(metric.evaluate, gold, {"a": draws[:number], "b": draws[:number]}, seed=1, resamples=100).differences[0]
        assert (d.value, d.low, d.high, d.p, d.p_holm) == (0, 0, 0, 1, 1)
        assert (d.verdict, d.only_a, d.only_b, d.rows_to_settle) == (INSUFFICIENT, 0, 0, None)
        assert d.detectable == pytest.approx(6 / len(gold))


@given(st.permutations(range(60)))
def test_the_order_of_items_changes_no_value_and_hardly_an_interval(order: list[int]) -> None:
    gold, predictions = _study(n=60)
    moved = {name: [[d[i] for i in order] for d in draws] for name, draws in predictions.items()}
    before = compare(accuracy.evaluate, gold, predictions, seed=0, resamples=2000)
    after = compare(accuracy.evaluate, [gold[i] for i in order], moved, seed=0, resamples=2000)
    for one, other in zip(before.differences, after.differences, strict=True):
        assert (one.value, one.only_a, one.only_b) == pytest.approx((other.value, other.only_a, other.only_b))
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.03)


def test_same_seed_same_result_and_a_route_does_not_depend_on_its_company() -> None:
    gold, predictions = _study()
    first, second = (compare(macro_f1.evaluate, gold, predictions, seed=8, resamples=400) for _ in range(2))
    assert first == second
    two = compare(macro_f1.evaluate, gold, {"lora": predictions["lora"], "few": predictions["few"]}, seed=8, resamples=400)
    assert two.intervals["few"] == first.intervals["few"]
    one = compare(macro_f1.evaluate, gold, {"lora": predictions["lora"]}, seed=8, resamples=400)
    assert one == Comparison({"lora": first.intervals["lora"]}, (), 0.95, 400)


def test_draws_widen_a_difference_by_their_own_standard_error() -> None:
    n, rights = 200, (100, 120, 140)
    gold = ["yes"] * n
    few = [["yes"] * right + ["no"] * (n - right) for right in rights]
    zero = [["yes"] * 120 + ["no"] * 80]
    result = compare(accuracy.evaluate, gold, {"zero": zero, "few": few}, seed=0)
    d = result.differences[0]
    # Two sources: the items, and the draws with their standard deviation of .1 over sqrt(3).
    item_differences = np.array([float(i < 120) for i in range(n)]) - np.mean(
        [[float(i < r) for i in range(n)] for r in rights], axis=0
    )
    expected = math.hypot(item_differences.std() / math.sqrt(n), 0.1 / math.sqrt(3))
    assert d.value == pytest.approx(0.0)
    assert d.detectable == pytest.approx((1.959964 + 0.841621) * expected, rel=0.03)
    assert d.high - d.low > 3 * 1.96 * item_differences.std() / math.sqrt(n)
    # A route's own interval is over items only; its draws stand beside it.
    few_interval = result.intervals["few"]
    assert few_interval.draws == pytest.approx((0.5, 0.6, 0.7))
    assert few_interval.high - few_interval.low < 0.14


def test_draws_of_routes_with_other_numbers_of_draws_vary_independently() -> None:
    gold = ["yes"] * 2000
    routes = {
        name: [["yes"] * right + ["no"] * (2000 - right) for right in rights]
        for name, rights in {"two": (800, 1200), "four": (800, 800, 1200, 1200)}.items()
    }
    d = compare(accuracy.evaluate, gold, routes, seed=0).differences[0]
    # Draws: variance .02 over 2 and .01333 over 4; the items give both routes the same mean answer, so no variance at all.
    assert d.detectable == pytest.approx(2.801585 * math.sqrt(0.02 / 2 + 0.04 / 3 / 4), rel=0.03)


def test_a_lead_that_drowns_in_the_draws_needs_draws_and_not_rows() -> None:
    n = 1000
    gold = ["yes"] * n
    zero = [["yes"] * 580 + ["no"] * 420]
    few = [["yes"] * right + ["no"] * (n - right) for right in (450, 600, 750)]
    wide, narrow = (
        compare(accuracy.evaluate, gold, {"few": draws, "zero": zero}, seed=0).differences[0] for draws in (few, few[1:2])
    )
    assert wide.value == pytest.approx(narrow.value) == pytest.approx(0.02)
    assert (wide.verdict, wide.rows_to_settle) == (INSUFFICIENT, None)
    assert narrow.verdict == "better"


def test_many_pairs_get_as_many_resamples_as_holm_needs() -> None:
    gold = ["yes"] * 100
    routes = {"best": [gold], **{f"r{i}": [["yes"] * 50 + ["no"] * 50] for i in range(29)}}
    result = compare(macro_f1.evaluate, gold, routes, seed=0, resamples=1000)
    assert result.resamples == math.ceil(4 * 435 / 0.05)
    for d in result.differences:
        assert d.verdict == ("better" if d.a == "best" else INSUFFICIENT)


def test_memory_stays_bounded_at_5000_items() -> None:
    rng = np.random.default_rng(0)
    gold = [str(label) for label in rng.integers(0, 5, 5000)]
    routes = {f"r{i}": [_answers(rng, gold, 0.7)] for i in range(3)}
    tracemalloc.start()
    try:
        compare(accuracy.evaluate, gold, routes, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # All counts at once, as float32, would be 200 MB.
    assert peak < 150e6


@pytest.mark.parametrize(
    ("values", "index"),
    [([0.3], 0), ([0.1, 0.9, 0.5], 2), ([0.4, 0.2], 1), ([0.4, 0.1, 0.3, 0.2], 3), ([0.5, 0.5, 0.5], 1)],
)
def test_representative_is_the_median_draw(values: list[float], index: int) -> None:
    assert representative(values) == index


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_representative_has_as_many_draws_below_as_above(values: list[float]) -> None:
    assert values[representative(values)] == sorted(values)[(len(values) - 1) // 2]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gold": []}, "no items"),
        ({"predictions": {"a": [["x", "y"]], "b": [["x"]]}}, "draw 0 of route 'b' answers 1 items, and there are 2"),
        ({"predictions": {"a": [["x", "y"], ["x"]]}}, "draw 1 of route 'a'"),
        ({"predictions": {"a": []}}, "route 'a' has no draw"),
        ({"pairs": [("lorra", "few")]}, "unknown route 'lorra'"),
        ({"pairs": [("few", "few")]}, "compared with itself"),
        ({"level": 95}, "level 95"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(change: dict, says: str) -> None:
    usual = {"gold": ["x", "y"], "predictions": {"lora": [["x", "y"]], "few": [["x", "x"]]}}
    with pytest.raises(UserError, match=says):
        compare(accuracy.evaluate, **(usual | change), seed=0)


def test_every_pair_of_three_routes_is_ordered_consistently() -> None:
    gold, predictions = _study(n=400)
    result = compare(accuracy.evaluate, gold, predictions, seed=0)
    value = {name: interval.value for name, interval in result.intervals.items()}
    for (a, b), d in zip(itertools.combinations(predictions, 2), result.differences, strict=True):
        assert d.value == pytest.approx(value[a] - value[b])
        assert d.low <= d.value <= d.high
    assert {d.b: d.verdict for d in result.differences if d.a == "zero"}["lora"] == "worse"
