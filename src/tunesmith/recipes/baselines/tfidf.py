"""TF-IDF of words and word pairs + logistic regression: what 1990s text classification achieves in a second."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tunesmith.core.records import Example
from tunesmith.data.task import Task

LABEL = "TF-IDF + logreg"


def unsuitable(task: Task) -> str:
    """Why this baseline cannot be climbed on a task; "" if it can."""
    return "" if task.verbalizer else "the answers are free text"


def predict(task: Task, train: Sequence[Example], items: Sequence[Example], seed: int) -> tuple[list[str], int, float]:
    """Return (a label for each item, numbers trained, seconds of training)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    start = time.perf_counter()
    # Single characters count as words too: some languages write them, and some texts hold nothing else.
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    classifier = LogisticRegression(C=10.0, max_iter=1000, random_state=seed % 2**31)
    model = make_pipeline(features, classifier)
    texts = [task.template.prompt(example.fields) for example in train]
    model.fit(texts, [task.gold(example) for example in train])
    seconds = time.perf_counter() - start
    predicted = model.predict([task.template.prompt(item.fields) for item in items])
    return [str(p) for p in predicted], classifier.coef_.size + len(classifier.classes_), seconds
