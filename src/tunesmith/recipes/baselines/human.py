"""One human: the sign of one person's rating against the mean of the others, where every rater's score is known."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tunesmith.core.records import Example
from tunesmith.data.task import Task

LABEL = "one human"


def unsuitable(task: Task) -> str:
    """Why this baseline cannot be climbed on a task; "" if it can."""
    if all(len(item.fields.get("ratings") or ()) >= 2 for item in task.splits.test) and task.splits.test:
        return ""
    return "the rows do not hold every rater's score"


def predict(task: Task, train: Sequence[Example], items: Sequence[Example], seed: int) -> tuple[list[str], int, float]:
    """Return (a label for each item, numbers trained, seconds of training).

    One rater who took a side is drawn for each item. The table's gold label is the mean of all raters; leaving that one
    rater out of it changes no label where people agree, and makes this line slightly generous where they do not.
    """
    generator = random.Random(seed)
    said = []
    for item in items:
        sided = [rating for rating in item.fields["ratings"] if rating != 0]
        said.append("positive" if sided and generator.choice(sided) > 0 else "negative")
    return said, 0, 0.0
