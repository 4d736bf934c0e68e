"""Share of items whose text equals the gold text, spacing aside; upper and lower case differ.

    exact match = (1 / n) sum_i [normal(predicted_i) = normal(gold_i)]

normal(text) is Unicode NFC, with runs of white space made one space and none at either end: two texts that look alike on
paper match. Case is kept, because in names, code and labels it carries meaning; punctuation and articles are kept, unlike
in SQuAD (Rajpurkar et al. 2016), whose rules are for English only. Source: BIG-bench `exact_str_match`, plus the
normalisation of spacing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.metrics import _weights

HIGHER_IS_BETTER = True


def evaluate(gold: Sequence[str], predicted: Sequence[str], weights: np.ndarray | None = None) -> float | np.ndarray:
    """Return the share of exact matches, in 0..1.

    Args:
        gold, predicted: n texts each.
        weights: [R, n], how often each item was drawn in each of R resamples.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no items, different lengths, or weights that do not fit.
    """
    _weights.check(weights, gold=gold, predicted=predicted)
    matches = np.array([[_normal(g) == _normal(p), True] for g, p in zip(gold, predicted, strict=True)], dtype=np.float32)
    right, drawn = _weights.totals(matches, weights).T
    return _weights.quotient(right, drawn, weights)


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    gold = ["New York", "caf\u00e9", "42", "Paris"]
    return WorkedExample(
        inputs={"gold": gold, "predicted": [" New  York\n", "cafe\u0301", "42.", "paris"]},
        expected=0.5,
        how="Spacing and the two spellings of e-acute are the same text; the full stop and the small p are not: 2 / 4.",
        wrong={"gold": gold, "predicted": [" New  York\n", "cafe\u0301", "42", "paris"]},
    )
