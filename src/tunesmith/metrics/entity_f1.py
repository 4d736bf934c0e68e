"""F1 of entities: those with the right first token, last token and type, over all items together (CoNLL-2003).

    F1 = 2 hits / (entities in gold + entities predicted)

An answer is its tags with spaces between them ("B-PER I-PER O"). Tags are read as CoNLL's conlleval and seqeval read them (see
`data/tags.py`); plain tags without B- and I- make an entity of neighbours that have the same. 0 where there is no entity
at all. Source: Tjong Kim Sang & De Meulder 2003.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.records import WorkedExample
from tunesmith.data.tags import entities
from tunesmith.metrics import _weights

HIGHER_IS_BETTER = True


def evaluate(gold: Sequence[str], predicted: Sequence[str], weights: np.ndarray | None = None) -> float | np.ndarray:
    """Return the F1 of entities, in 0..1.

    Args:
        gold, predicted: n sequences of tags, each one text.
        weights: [R, n], how often each item was drawn in each of R resamples.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no items, different lengths, or weights that do not fit.
    """
    _weights.check(weights, gold=gold, predicted=predicted)
    rows = []
    for one, other in zip(gold, predicted, strict=True):
        true, given = set(entities(one.split())), set(entities(other.split()))
        rows.append((2 * len(true & given), len(true) + len(given)))
    hits, named = _weights.totals(np.array(rows, dtype=np.float64), weights).T
    return _weights.quotient(hits, np.where(named > 0, named, 1.0), weights)


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    gold = ["B-PER I-PER O B-LOC", "O O"]
    return WorkedExample(
        inputs={"gold": gold, "predicted": ["B-PER I-PER O O", "B-LOC O"]},
        expected=0.5,
        how="Gold has PER(0-2) and LOC(3-4), predicted PER(0-2) and LOC(0-1) of the second: 2 * 1 / (2 + 2) = 0.5. "
        "By tokens it would be 2 * 2 / (3 + 3).",
        wrong={"gold": gold, "predicted": ["B-PER B-PER O O", "B-LOC O"]},
    )
