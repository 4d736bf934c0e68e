"""The VADER lexicon: rules and a word list for English sentiment, no training at all (Hutto & Gilbert 2014)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunesmith.core.errors import WorkFailed
from tunesmith.core.records import Example
from tunesmith.data.task import Task

LABEL = "VADER lexicon"


def unsuitable(task: Task) -> str:
    """Why this baseline cannot be climbed on a task; "" if it can."""
    labels = set(task.verbalizer.labels) if task.verbalizer else set()
    return "" if labels == {"negative", "positive"} else "the labels are not negative and positive"


def fit(task: Task, train: Sequence[Example], seed: int) -> tuple[Callable[[Sequence[Example]], list[str]], int, float]:
    """Return (items -> labels, numbers trained, seconds of training); a compound score of 0 counts as positive.

    Raises:
        WorkFailed: the package with the lexicon is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise WorkFailed("it needs the package 'vaderSentiment'", "pip install 'tunesmith[embedded]'") from None
    analyzer = SentimentIntensityAnalyzer()
    field = task.template.fields[0]

    def said(item: Example) -> str:
        return "positive" if analyzer.polarity_scores(str(item.fields[field]))["compound"] >= 0 else "negative"

    return lambda items: [said(item) for item in items], 0, 0.0
