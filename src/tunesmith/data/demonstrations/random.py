"""Random demonstrations: one seeded draw for all items, as in GPT-3 (Brown et al. 2020, section 2.4)."""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Sequence

from tunesmith.core.records import Example, WorkedExample
from tunesmith.data.demonstrations._similar import Similar


def choose(
    pool: Sequence[Example], items: Sequence[Example], shots: int, seed: int, *,
    label_of: Callable[[Example], str], similar: Similar | None = None,
) -> list[list[Example]]:  # fmt: skip
    """Return the demonstrations of each item: `shots` distinct rows of the pool, the same for all items."""
    drawn = _random.Random(seed).sample(list(pool), min(shots, len(pool)))
    return [drawn] * len(items)


def worked_example() -> WorkedExample:
    """Three of three rows in some order, the same for both items."""
    pool = [Example(str(i), {"text": str(i), "label": "a"}, f"rows:{i}") for i in range(3)]
    return WorkedExample({"pool": pool, "shots": 3}, {"0", "1", "2"}, "a sample of three from three is all of them")
