"""Mean F1 of the words that an answer shares with the gold answer, as bags: a word counts as often as it stands (SQuAD).

    F1_i = 2 common / (words in gold + words predicted);    common = sum over words of min(times in gold, times predicted)

Case, punctuation and the articles a, an, the are taken away first. Where either is empty F1_i is 1 if both are, else 0 (SQuAD
2.0). HELM's F1 takes sets instead of bags, which is another number. Source: Rajpurkar et al. 2016, section 6.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.metrics import _squad, _weights

HIGHER_IS_BETTER = True


def evaluate(gold: Sequence[str], predicted: Sequence[str], weights: np.ndarray | None = None) -> float | np.ndarray:
    """Return the mean F1, in 0..1.

    Args:
        gold, predicted: n answers each.
        weights: [R, n], how often each item was drawn in each of R resamples.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no items, different lengths, or weights that do not fit.
    """
    _weights.check(weights, gold=gold, predicted=predicted)
    rows = [(_f1(_squad.words(one), _squad.words(other)), 1.0) for one, other in zip(gold, predicted, strict=True)]
    total, drawn = _weights.totals(np.array(rows, dtype=np.float64), weights).T
    return _weights.quotient(total, drawn, weights)


def _f1(gold: list[str], predicted: list[str]) -> float:
    if not gold or not predicted:
        return float(gold == predicted)
    return 2 * (Counter(gold) & Counter(predicted)).total() / (len(gold) + len(predicted))


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    gold = ["cat", ""]
    return WorkedExample(
        inputs={"gold": gold, "predicted": ["the cat cat", ""]},
        expected=(2 / 3 + 1) / 2,
        how="'cat cat' shares one word of one and two: 2 * 1 / (1 + 2) = .666667 (methods, section 29; sets would give 1); "
        "no answer where there is none is 1; their mean is .833333.",
        wrong={"gold": gold, "predicted": ["the cat", ""]},
    )
