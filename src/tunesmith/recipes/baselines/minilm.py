"""MiniLM sentence embeddings + logistic regression: a 22-million-weight encoder, frozen."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tunesmith.core.records import Example
from tunesmith.data.task import Task

LABEL = "MiniLM + logreg"


def unsuitable(task: Task) -> str:
    """Why this baseline cannot be climbed on a task; "" if it can."""
    return "" if task.verbalizer else "the answers are free text"


def predict(task: Task, train: Sequence[Example], items: Sequence[Example], seed: int) -> tuple[list[str], int, float]:
    """Return (a label for each item, numbers trained, seconds of training)."""
    from sklearn.linear_model import LogisticRegression

    from tunesmith.models.embed import embed_texts

    start = time.perf_counter()
    model = LogisticRegression(C=10.0, max_iter=1000, random_state=seed % 2**31)
    model.fit(embed_texts([task.template.prompt(e.fields) for e in train]), [task.gold(e) for e in train])
    seconds = time.perf_counter() - start
    predicted = model.predict(embed_texts([task.template.prompt(item.fields) for item in items]))
    return [str(p) for p in predicted], model.coef_.size + len(model.classes_), seconds
