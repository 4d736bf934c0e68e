"""Words for labels: the likelihood ratio by hand, and the choice by accuracy against trying everything."""

import itertools
import math

import numpy as np
import pytest

from tunesmith.evaluate.word_search import choose_words, likelihood_ratios, named, top


def logit(p: float) -> float:
    """ln(p / (1 - p))."""
    return math.log(p / (1 - p))


def test_the_ratio_by_hand() -> None:
    # Two words, three rows: one of label a, two of label b, so the others weigh 1/2 for a, and 2 for b.
    p = [[0.5, 0.2], [0.1, 0.2], [0.2, 0.4]]
    found = likelihood_ratios(np.log(p), ["a", "b", "b"])
    assert found["a"] == pytest.approx([logit(0.5) - (logit(0.1) + logit(0.2)) / 2, logit(0.2) - (logit(0.2) + logit(0.4)) / 2])
    assert found["b"] == pytest.approx([logit(0.1) + logit(0.2) - 2 * logit(0.5), logit(0.2) + logit(0.4) - 2 * logit(0.2)])
    assert {label: int(values.argmax()) for label, values in found.items()} == {"a": 0, "b": 1}
    # The control: without balancing, the many rows of b decide about a.
    unbalanced = np.array([logit(0.5) - logit(0.1) - logit(0.2), logit(0.2) - logit(0.2) - logit(0.4)])
    assert found["a"] != pytest.approx(unbalanced)


def test_a_certain_word_does_not_break_it() -> None:
    found = likelihood_ratios(np.array([[0.0, -1e9], [-1.0, 0.0]]), ["a", "b"])
    assert all(np.isfinite(values).all() for values in found.values())


def test_every_word_goes_to_one_label() -> None:
    ratios = {"a": np.array([3.0, 2.0, 1.0, 9.0]), "b": np.array([2.0, 5.0, 0.0, 1.0]), "c": np.array([0.0, 0.0, 0.0, 0.0])}
    assert top(ratios, 2) == {"a": [3, 0], "b": [1], "c": [0]} or top(ratios, 2) == {"a": [3, 0], "b": [1], "c": [2]}
    firsts = [columns[0] for columns in top(ratios, 1).values()]
    assert len(set(firsts)) == 3


def test_the_choice_is_the_best_there_is_for_two_labels() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        scores, gold = generator.normal(size=(12, 6)), ["a", "b"] * 6
        shortlist = {"a": [0, 1, 2], "b": [3, 4, 5]}
        best, tried = choose_words(scores, gold, shortlist, [{"a": 0, "b": 3}, {"a": 2, "b": 5}])

        def accuracy(a: int, b: int, scores: np.ndarray = scores, gold: list[str] = gold) -> float:
            return sum((s[a] > s[b]) == (g == "a") for s, g in zip(scores, gold, strict=True)) / len(gold)

        every = [accuracy(a, b) for a, b in itertools.product(*shortlist.values())]
        reached = accuracy(best["a"], best["b"])
        assert reached >= accuracy(0, 3)
        assert reached >= sorted(every)[-3]
        log = named(tried, list("uvwxyz"))
        assert log[0].accuracy == pytest.approx(reached)
        assert log[0].words == {y: "uvwxyz"[w] for y, w in best.items()}
        assert all(one.accuracy >= other.accuracy for one, other in itertools.pairwise(log))


def test_no_word_stands_for_two_labels() -> None:
    scores = np.array([[5.0, 0.0, 0.0], [5.0, 0.0, 1.0]])
    best, tried = choose_words(scores, ["a", "b"], {"a": [0, 1], "b": [0, 2]}, [{"a": 0, "b": 2}])
    assert best["a"] != best["b"]
    assert all(len(set(columns.values())) == 2 for columns, _, _ in tried)
