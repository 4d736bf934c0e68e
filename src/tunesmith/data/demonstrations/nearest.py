"""Nearest demonstrations: per item, the pool rows most similar to it, nearest last (Liu et al. 2022, KATE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunesmith.core.records import Example, WorkedExample
from tunesmith.data.demonstrations._similar import Similar, needed


def choose(
    pool: Sequence[Example], items: Sequence[Example], shots: int, seed: int, *,
    label_of: Callable[[Example], str], similar: Similar | None = None,
) -> list[list[Example]]:  # fmt: skip
    """Return the demonstrations of each item.

    Args:
        similar: how alike items and rows of the pool are.
        seed, label_of: unused by this choice, which has nothing random and looks at no label.

    Raises:
        UserError: no `similar` was given.
    """
    import numpy as np

    likeness = needed(similar, "the nearest")
    if not items:
        return []
    order = np.argsort(-np.asarray(likeness(items, pool)), axis=1, kind="stable")[:, :shots]
    return [[pool[i] for i in row[::-1]] for row in order]


def worked_example() -> WorkedExample:
    """Item (1, 0); rows (0, 1), (1, 0), (0.6, 0.8): the two nearest are row 1, then row 2."""
    vectors = {"item": (1.0, 0.0), "0": (0.0, 1.0), "1": (1.0, 0.0), "2": (0.6, 0.8)}
    pool = [Example(i, {"text": i, "label": "a"}, f"rows:{i}") for i in ("0", "1", "2")]
    inputs = {"pool": pool, "items": [Example("item", {}, "")], "shots": 2, "vectors": vectors}
    return WorkedExample(inputs, ["2", "1"], "cosines are 0, 1 and 0.6; the nearest stands last, next to the item")
