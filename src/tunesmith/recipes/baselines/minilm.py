"""MiniLM sentence embeddings + logistic regression: a 22-million-weight encoder, frozen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tunesmith.core.records import Example
from tunesmith.data.task import Task

LABEL = "MiniLM + logreg"


def unsuitable(task: Task) -> str:
    """Why this baseline cannot be climbed on a task; "" if it can."""
    return "" if task.verbalizer else "the answers are free text"


def fit(task: Task, train: Sequence[Example], seed: int) -> tuple[Callable[[Sequence[Example]], list[str]], int, float]:
    """Return (items -> labels, numbers trained, seconds of training).

    Raises:
        WorkFailed: MiniLM is neither in the cache nor reachable.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    from tunesmith.models.embed import embed_texts

    def texts(examples: Sequence[Example]) -> list[str]:
        return [task.template.prompt(example.fields) for example in examples]

    start = time.perf_counter()
    classifier = LogisticRegression(C=10.0, max_iter=1000, random_state=seed % 2**31)
    classifier.fit(embed_texts(texts(train)), [task.gold(example) for example in train])
    seconds = time.perf_counter() - start
    trained = classifier.coef_.size + np.size(classifier.intercept_)
    return lambda items: [str(label) for label in classifier.predict(embed_texts(texts(items)))], trained, seconds
