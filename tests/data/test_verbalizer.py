"""Verbalizers: golden numbers of methods.md, sections 4, 5 and 8."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.verbalizer import Verbalizer

WORDS = {"POS": ("great", "good"), "NEG": ("bad",)}


def best(scores: dict[str, float]) -> str:
    """The label with the largest score."""
    return max(scores, key=lambda label: scores[label])


def test_the_best_word_and_the_sum_of_synonyms_may_disagree() -> None:
    # Section 8: p(great) .30, p(good) .25, p(bad) .40: the best word says NEG, the sum over synonyms says POS with .55.
    logprobs = [math.log(p) for p in (0.30, 0.25, 0.40)]
    largest = Verbalizer(WORDS, "max").label_scores(logprobs, [1, 1, 1])
    summed = Verbalizer(WORDS, "sum").label_scores(logprobs, [1, 1, 1])
    assert (best(largest), best(summed)) == ("NEG", "POS")
    assert math.exp(summed["POS"]) == pytest.approx(0.55)
    assert math.exp(summed["NEG"]) == pytest.approx(0.40)


def test_the_mean_is_that_of_pattern_exploiting_training() -> None:
    # Section 4: great 3, good 1 | bad .5, awful 1.5 -> [2, 1].
    words = {"pos": ("great", "good"), "neg": ("bad", "awful")}
    assert Verbalizer(words, "mean").label_scores([3, 1, 0.5, 1.5], [1] * 4) == {"pos": 2.0, "neg": 1.0}
    assert Verbalizer(words, "max").label_scores([3, 1, 0.5, 1.5], [1] * 4) == {"pos": 3, "neg": 1.5}


def test_normalisation_by_tokens_changes_the_answer() -> None:
    # Section 5: A has the token log-probabilities -.7, -.9, -.6, B has -1.9: by sums B wins, a token A does.
    words = {"A": ("a b c",), "B": ("b",)}
    sums = [-0.7 - 0.9 - 0.6, -1.9]
    assert best(Verbalizer(words).label_scores(sums, [3, 1])) == "B"
    a_token = Verbalizer(words, normalise="token").label_scores(sums, [3, 1])
    assert best(a_token) == "A"
    assert a_token["A"] == pytest.approx(-0.7333, abs=5e-5)


def test_what_an_answer_has_without_the_item_is_subtracted() -> None:
    # Section 5: unconditionally A has -5.2 and B -2.0: A gains 3.0 from the item, B 0.1, though the sum prefers B.
    words = {"A": ("a b c",), "B": ("b",)}
    sums, alone = [-0.7 - 0.9 - 0.6, -1.9], [-5.2, -2.0]
    pmi = Verbalizer(words, normalise="pmi").label_scores(sums, [3, 1], alone)
    assert pmi == pytest.approx({"A": 3.0, "B": 0.1})
    # The controls: added instead of subtracted, or without it, B wins; and it cannot be forgotten.
    assert best(Verbalizer(words, normalise="pmi").label_scores(sums, [3, 1], [-a for a in alone])) == "B"
    assert best(Verbalizer(words).label_scores(sums, [3, 1], alone)) == "B"
    with pytest.raises(ValueError, match="without the item"):
        Verbalizer(words, normalise="pmi").label_scores(sums, [3, 1])


def test_characters_are_not_bytes() -> None:
    words = {"A": ("四四",), "B": ("ab",)}
    assert Verbalizer(words, normalise="character").label_scores([-6, -6], [9, 9]) == {"A": -3, "B": -3}
    assert Verbalizer(words, normalise="byte").label_scores([-6, -6], [9, 9]) == {"A": -1, "B": -3}


@given(st.lists(st.floats(-1e4, 0), min_size=3, max_size=3))
def test_a_sum_lies_between_its_largest_word_and_all_of_them_together(logprobs: list[float]) -> None:
    scores = {how: Verbalizer(WORDS, how).label_scores(logprobs, [1, 1, 1])["POS"] for how in ("max", "mean", "sum")}
    assert scores["mean"] <= scores["max"] + 1e-9
    assert scores["max"] <= scores["sum"] <= scores["max"] + math.log(2) + 1e-9


def test_words_of_no_probability_stay_impossible() -> None:
    assert Verbalizer(WORDS, "sum").label_scores([-math.inf, -math.inf, -1], [1, 1, 1]) == {"POS": -math.inf, "NEG": -1}


def test_words_keep_the_order_of_the_task() -> None:
    verbalizer = Verbalizer({"z": ("1", "2"), "a": ("3",)})
    assert (verbalizer.labels, verbalizer.flat()) == (["z", "a"], ["1", "2", "3"])
