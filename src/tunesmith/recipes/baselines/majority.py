"""Majority class: always the label most common in the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from tunesmith.core.records import Example
from tunesmith.data.task import Task

LABEL = "majority class"


def unsuitable(task: Task) -> str:
    """Why this baseline cannot be climbed on a task; "" if it can."""
    return "" if task.verbalizer else "the answers are free text"


def fit(task: Task, train: Sequence[Example], seed: int) -> tuple[Callable[[Sequence[Example]], list[str]], int, float]:
    """Return (items -> labels, numbers trained, seconds of training); of equally common labels, the first by name."""
    counts = Counter(task.gold(example) for example in train)
    label = min(counts, key=lambda known: (-counts[known], known))
    return lambda items: [label] * len(items), 0, 0.0
