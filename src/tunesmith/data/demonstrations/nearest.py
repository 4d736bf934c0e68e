"""Nearest demonstrations: per item, the pool rows with the most similar embedding, nearest last (Liu et al. 2022, KATE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tunesmith.core.records import Example, WorkedExample


def choose(
    pool: Sequence[Example], items: Sequence[Example], shots: int, seed: int, embed: Callable[[Sequence[Example]], Any]
) -> list[list[Example]]:
    """Return the demonstrations of each item.

    Args:
        embed: examples -> unit vectors [N, D]; cosine similarity is then a matrix product.
        seed: unused by this choice, which has nothing random.
    """
    import numpy as np

    if not items:
        return []
    similar = embed(items) @ embed(pool).T
    order = np.argsort(-similar, axis=1, kind="stable")[:, :shots]
    return [[pool[i] for i in row[::-1]] for row in order]


def worked_example() -> WorkedExample:
    """Item (1, 0); rows (0, 1), (1, 0), (0.6, 0.8): the two nearest are row 1, then row 2."""
    vectors = {"item": (1.0, 0.0), "0": (0.0, 1.0), "1": (1.0, 0.0), "2": (0.6, 0.8)}
    pool = [Example(i, {"text": i, "label": "a"}, f"rows:{i}") for i in ("0", "1", "2")]
    inputs = {"pool": pool, "items": [Example("item", {}, "")], "shots": 2, "vectors": vectors}
    return WorkedExample(inputs, ["2", "1"], "cosines are 0, 1 and 0.6; the nearest stands last, next to the item")
