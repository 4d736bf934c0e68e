"""Balanced demonstrations: one seeded draw with labels as equal as they can be, in random order."""

from __future__ import annotations

import random as _random
from collections import defaultdict
from collections.abc import Callable, Sequence

from tunesmith.core.records import Example, WorkedExample
from tunesmith.data.demonstrations._similar import Similar


def choose(
    pool: Sequence[Example], items: Sequence[Example], shots: int, seed: int, *,
    label_of: Callable[[Example], str], similar: Similar | None = None,
) -> list[list[Example]]:  # fmt: skip
    """Return the demonstrations of each item, the same for all; labels take turns until `shots` rows are drawn."""
    generator = _random.Random(seed)
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in pool:
        groups[label_of(example)].append(example)
    queues = [generator.sample(rows, len(rows)) for _, rows in sorted(groups.items())]
    generator.shuffle(queues)
    drawn: list[Example] = []
    while len(drawn) < min(shots, len(pool)):
        for queue in queues:
            if queue and len(drawn) < shots:
                drawn.append(queue.pop())
    generator.shuffle(drawn)
    return [drawn] * len(items)


def worked_example() -> WorkedExample:
    """Two of four rows with two labels: one of each."""
    pool = [Example(str(i), {"text": str(i), "label": "ab"[i // 2]}, f"rows:{i}") for i in range(4)]
    return WorkedExample({"pool": pool, "shots": 2}, {"a", "b"}, "labels take turns, so two shots show both labels")
