"""Metrics of tags, spans, labels and numbers: second computations, and weights that are the same as drawing items anew."""

from __future__ import annotations

import collections
import re
import string

import numpy as np
import pytest
from sklearn.metrics import f1_score

from tunesmith.core.errors import UserError
from tunesmith.evaluate.results import Prediction
from tunesmith.metrics import entity_f1, multi_label_f1, multi_label_macro_f1, pearson, spearman, squad_em, squad_f1

DRAWN = np.array([0, 0, 2, 3, 3, 3, 5])


def repeated(metric: object, gold: list[str], predicted: list[str]) -> None:
    """Compare weights with the items written out as often as they were drawn."""
    weights = np.bincount(DRAWN, minlength=len(gold))[None].astype(float)
    expected = metric.evaluate([gold[i] for i in DRAWN], [predicted[i] for i in DRAWN])  # type: ignore[attr-defined]
    assert metric.evaluate(gold, predicted, weights)[0] == pytest.approx(expected, abs=1e-9)  # type: ignore[attr-defined]


def official(gold: str, predicted: str) -> tuple[float, float]:
    """Exact match and F1 as SQuAD 2.0's evaluation script has them, written again."""

    def clean(text: str) -> list[str]:
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    g, p = clean(gold), clean(predicted)
    common = sum((collections.Counter(g) & collections.Counter(p)).values())
    if not g or not p:
        return float(g == p), float(g == p)
    if not common:
        return 0.0, 0.0
    precision, recall = common / len(p), common / len(g)
    return float(g == p), 2 * precision * recall / (precision + recall)


ANSWERS = ["The cat", "a cat cat", "", "10th century", "U.S.A.", "an  Oslo"]
SAID = ["cat", "cat", "", "the 10th", "usa", "in Oslo"]


def test_squad_measures_are_the_official_ones() -> None:
    pairs = [official(g, p) for g, p in zip(ANSWERS, SAID, strict=True)]
    assert squad_em.evaluate(ANSWERS, SAID) == pytest.approx(np.mean([em for em, _ in pairs]))
    assert squad_f1.evaluate(ANSWERS, SAID) == pytest.approx(np.mean([f1 for _, f1 in pairs]))
    for metric in (squad_em, squad_f1):
        repeated(metric, ANSWERS, SAID)


def test_bags_are_not_sets() -> None:
    assert squad_f1.evaluate(["cat"], ["the cat cat"]) == pytest.approx(0.666667, abs=1e-6)


def test_of_several_gold_answers_the_nearest_counts() -> None:
    asked = Prediction("1", "f:1", "q", "q", "", {}, "in Oslo", "Norway", golds=("Norway", "Oslo"))
    assert asked.gold_for(squad_f1.evaluate) == "Oslo"
    assert not asked.correct
    assert Prediction("1", "f:1", "q", "q", "", {}, "Oslo", "Norway", golds=("Norway", "Oslo")).correct


LABELS = ["a, b", "", "c", "a", "b, c", "a"]
GUESSED = ["a", "c", "c", "b, a", "b", ""]


@pytest.mark.parametrize(("metric", "average"), [(multi_label_f1, "micro"), (multi_label_macro_f1, "macro")])
def test_label_f1_is_that_of_scikit_learn(metric: object, average: str) -> None:
    rows = [[[x in t.split(", ") for x in "abc"] for t in side] for side in (LABELS, GUESSED)]
    expected = f1_score(*np.array(rows), average=average, zero_division=0)
    assert metric.evaluate(LABELS, GUESSED) == pytest.approx(expected)  # type: ignore[attr-defined]
    repeated(metric, LABELS, GUESSED)


NUMBERS = [1.0, 2.5, 2.5, -3.0, 0.0, 7.0]
NEAR = [0.5, 2.0, 3.0, 3.0, -1.0, 3.0]


def test_correlations_are_those_of_numpy() -> None:
    def ranks(values: list[float]) -> list[float]:
        return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]

    gold, near = list(map(str, NUMBERS)), list(map(str, NEAR))
    assert pearson.evaluate(gold, near) == pytest.approx(np.corrcoef(NUMBERS, NEAR)[0, 1])
    assert spearman.evaluate(gold, near) == pytest.approx(np.corrcoef(ranks(NUMBERS), ranks(NEAR))[0, 1])
    for metric in (pearson, spearman):
        repeated(metric, gold, near)
        assert metric.evaluate([str(1e6 + x) for x in NUMBERS], near) == pytest.approx(metric.evaluate(gold, near), abs=1e-6)
        assert metric.evaluate(gold, ["1"] * 6) == 0.0


def test_a_correlation_of_words_is_refused() -> None:
    with pytest.raises(UserError, match="predicted item 2 is 'much', which is no number"):
        pearson.evaluate(["1", "2"], ["1", "much"])


def test_entity_f1_under_weights() -> None:
    gold = ["B-X I-X O", "O O O", "I-X O B-Y", "B-X B-X O", "O I-Y O", "O O B-X"]
    repeated(entity_f1, gold, ["B-X O O", "O B-Y O", "B-X O B-Y", "B-X I-X O", "O B-Y O", "O O B-Y"])
    assert entity_f1.evaluate(["O"], ["O"]) == 0.0
