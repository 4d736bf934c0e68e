"""TF-IDF of words and word pairs + logistic regression: what 1990s text classification achieves in a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tunesmith.core.records import Example
from tunesmith.data.task import Task

LABEL = "TF-IDF + logreg"


def unsuitable(task: Task) -> str:
    """Why this baseline cannot be climbed on a task; "" if it can."""
    return "" if task.verbalizer else "the answers are free text"


def fit(task: Task, train: Sequence[Example], seed: int) -> tuple[Callable[[Sequence[Example]], list[str]], int, float]:
    """Return (items -> labels, numbers trained, seconds of training)."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def texts(examples: Sequence[Example]) -> list[str]:
        return [task.template.prompt(example.fields) for example in examples]

    start = time.perf_counter()
    # Single characters count as words too: some languages write them, and some texts hold nothing else.
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    classifier = LogisticRegression(C=10.0, max_iter=1000, random_state=seed % 2**31)
    model = make_pipeline(features, classifier)
    model.fit(texts(train), [task.gold(example) for example in train])
    seconds = time.perf_counter() - start
    trained = classifier.coef_.size + np.size(classifier.intercept_)
    return lambda items: [str(label) for label in model.predict(texts(items))], trained, seconds
