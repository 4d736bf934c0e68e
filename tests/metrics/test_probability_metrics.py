"""The metrics of probabilities: against independent programmes, under weights, and their refusals."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from tunesmith.core.errors import UserError
from tunesmith.metrics import accuracy as accuracy_metric
from tunesmith.metrics import auroc, brier, ece, judges_answers, nll
from tunesmith.stats.bootstrap import resample_counts

GENERATOR = np.random.default_rng(5)
N = 200
ROWS = GENERATOR.dirichlet([1.0, 1.0, 1.0], N)
GOLD = (ROWS.cumsum(axis=1) < GENERATOR.random(N)[:, None]).sum(axis=1)
CONFIDENCE, CORRECT = ROWS.max(axis=1).tolist(), (ROWS.argmax(axis=1) == GOLD).astype(int).tolist()


def plain_ece(confidence: list[float], correct: list[int], edges: list[float]) -> float:
    """ECE item by item, in bins (edge, next edge]."""
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = [i for i, c in enumerate(confidence) if low < c <= high]
        total += abs(sum(confidence[i] - correct[i] for i in inside))
    return total / len(confidence)


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_ece_is_the_textbook_sum(bins: int) -> None:
    edges = [b / bins for b in range(bins + 1)]
    assert ece.evaluate(CONFIDENCE, CORRECT, bins=bins) == pytest.approx(plain_ece(CONFIDENCE, CORRECT, edges))


def test_ece_of_equal_mass_has_equally_many_items_a_bin() -> None:
    ordered = sorted(CONFIDENCE)
    edges = [-1.0, *(ordered[20 * b - 1] for b in range(1, 11))]
    assert ece.evaluate(CONFIDENCE, CORRECT, bins=10, equal_mass=True) == pytest.approx(plain_ece(CONFIDENCE, CORRECT, edges))
    assert ece.evaluate(CONFIDENCE, CORRECT, bins=10) != pytest.approx(plain_ece(CONFIDENCE, CORRECT, edges))


def test_items_of_one_confidence_stay_in_one_bin() -> None:
    # Apart, the right and the wrong answers of .5 would each look miscalibrated.
    assert ece.evaluate([0.5] * 8, [1, 1, 1, 1, 0, 0, 0, 0], bins=4, equal_mass=True) == 0


def test_always_right_and_certain_is_calibrated() -> None:
    assert ece.evaluate([1.0, 1.0], [1, 1]) == 0
    assert ece.evaluate([1.0, 1.0], [1, 0]) == 0.5


def test_brier_and_nll_agree_with_scikit_learn() -> None:
    positive, p = (GOLD == 0).astype(int), ROWS[:, 0]
    two = np.column_stack([1 - p, p])
    assert brier.evaluate(positive.tolist(), two.tolist()) == pytest.approx(2 * brier_score_loss(positive, p))
    assert nll.evaluate(GOLD.tolist(), ROWS.tolist()) == pytest.approx(log_loss(GOLD, ROWS))


def test_the_big_bench_value_is_brier_divided_by_options() -> None:
    row = np.exp([-1, -2, -3]) / np.exp([-1, -2, -3]).sum()
    assert brier.evaluate([1], [row.tolist()]) / 3 == pytest.approx(0.340362, abs=1e-6)


def test_auroc_agrees_with_scikit_learn_and_counts_ties_half() -> None:
    score = np.round(CONFIDENCE, 1).tolist()
    assert auroc.evaluate(CORRECT, score) == pytest.approx(roc_auc_score(CORRECT, score))
    assert auroc.evaluate(CORRECT, [-s for s in score]) == pytest.approx(1 - roc_auc_score(CORRECT, score))
    assert auroc.evaluate([1, 0], [0.5, 0.5]) == 0.5


def test_weights_mean_drawing_an_item_that_often() -> None:
    weights = resample_counts(N, 4, seed=3)
    drawn = [np.repeat(np.arange(N), row) for row in weights]
    cases = {
        ece: (CONFIDENCE, CORRECT), brier: (GOLD.tolist(), ROWS.tolist()), nll: (GOLD.tolist(), ROWS.tolist()),
        auroc: (CORRECT, CONFIDENCE),
    }  # fmt: skip
    for metric, (first, second) in cases.items():
        one_by_one = [metric.evaluate([first[i] for i in d], [second[i] for i in d]) for d in drawn]
        assert metric.evaluate(first, second, weights) == pytest.approx(one_by_one)
        assert np.std(one_by_one) > 0


def test_a_right_option_of_probability_nought_is_infinitely_bad_only_where_it_was_drawn() -> None:
    rows = [[1.0, 0.0], [0.5, 0.5]]
    assert nll.evaluate([1, 0], rows) == float("inf")
    values = nll.evaluate([1, 0], rows, np.array([[0, 2], [1, 1]]))
    assert values == pytest.approx([np.log(2), np.inf])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ece.evaluate([1.2], [1]), "item 0 has confidence 1.2"),
        (lambda: ece.evaluate([0.2], [3]), "correct holds 3"),
        (lambda: ece.evaluate([0.2], [1], bins=0), "0 bins"),
        (lambda: brier.evaluate([0], [[0.5, 0.6]]), "row 0 holds no probabilities"),
        (lambda: brier.evaluate([0, 0], [[0.5, 0.5], [0.2, 0.3, 0.5]]), "rows of 2 and of 3 probabilities"),
        (lambda: nll.evaluate([2], [[0.5, 0.5]]), "row 0 has gold 2, and there are 2 options"),
        (lambda: nll.evaluate([], []), "no items"),
        (lambda: auroc.evaluate([1, 1], [0.1, 0.2]), "all items are of one kind"),
        (lambda: auroc.evaluate([1, 0], [0.1, float("nan")]), "item 1 has the score nan"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_only_metrics_of_answers_can_judge_routes() -> None:
    assert judges_answers(accuracy_metric)
    assert [metric.__name__ for metric in (ece, brier, nll, auroc) if judges_answers(metric)] == []
