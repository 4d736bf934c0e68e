"""Majority class: always the label most common in the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tunesmith.core.records import Example
from tunesmith.data.task import Task

LABEL = "majority class"


def unsuitable(task: Task) -> str:
    """Why this baseline cannot be climbed on a task; "" if it can."""
    return "" if task.verbalizer else "the answers are free text"


def predict(task: Task, train: Sequence[Example], items: Sequence[Example], seed: int) -> tuple[list[str], int, float]:
    """Return (a label for each item, numbers trained, seconds of training)."""
    most = Counter(task.gold(example) for example in train).most_common()
    return [min(most, key=lambda pair: (-pair[1], pair[0]))[0]] * len(items), 0, 0.0
