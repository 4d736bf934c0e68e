"""Diverse demonstrations: near the item and unlike each other, by maximal marginal relevance (Carbonell & Goldstein 1998).

One row after another is taken, each time

    argmax_d  lambda sim(d, item) - (1 - lambda) max_{s taken} sim(d, s)

with lambda = 1/2, among the 100 rows nearest to the item. The first is the nearest; it stands last, next to the item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunesmith.core.records import Example, WorkedExample
from tunesmith.data.demonstrations._similar import Similar, needed

_LAMBDA = 0.5
_CONSIDERED = 100


def choose(
    pool: Sequence[Example], items: Sequence[Example], shots: int, seed: int, *,
    label_of: Callable[[Example], str], similar: Similar | None = None,
) -> list[list[Example]]:  # fmt: skip
    """Return the demonstrations of each item.

    Args:
        similar: how alike items and rows of the pool are, and rows of the pool among each other, on one scale.
        seed, label_of: unused by this choice, which has nothing random and looks at no label.

    Raises:
        UserError: no `similar` was given.
    """
    import numpy as np

    likeness = needed(similar, "diverse")
    chosen = []
    for item in items:
        relevance = np.asarray(likeness([item], pool))[0]
        near = np.argsort(-relevance, kind="stable")[: max(_CONSIDERED, shots)]
        rows = [pool[i] for i in near]
        among, closest = np.asarray(likeness(rows, rows)), np.zeros(len(rows))
        taken: list[int] = []
        for _ in range(min(shots, len(rows))):
            worth = _LAMBDA * relevance[near] - (1 - _LAMBDA) * closest
            worth[taken] = -np.inf
            best = int(np.argmax(worth))
            closest = np.maximum(closest, among[best]) if taken else among[best]
            taken.append(best)
        chosen.append([rows[i] for i in taken[::-1]])
    return chosen


def worked_example() -> WorkedExample:
    """Item (1, 0); rows (0.8, 0.6), its copy, and (0.6, -0.8): the copy is nearer than the third row, and says nothing new."""
    vectors = {"item": (1.0, 0.0), "0": (0.8, 0.6), "1": (0.8, 0.6), "2": (0.6, -0.8)}
    pool = [Example(i, {"text": i, "label": "a"}, f"rows:{i}") for i in ("0", "1", "2")]
    inputs = {"pool": pool, "items": [Example("item", {}, "")], "shots": 2, "vectors": vectors}
    how = "row 0 comes first (0.8); then 0.5 x 0.8 - 0.5 x 1 = -0.1 for its copy and 0.5 x 0.6 - 0.5 x 0 = 0.3 for row 2"
    return WorkedExample(inputs, ["2", "0"], how)
