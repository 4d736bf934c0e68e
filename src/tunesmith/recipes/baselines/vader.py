"""The VADER lexicon: rules and a word list for English sentiment, no training at all (Hutto & Gilbert 2014)."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.core.errors import WorkFailed
from tunesmith.core.records import Example
from tunesmith.data.task import Task

LABEL = "VADER lexicon"


def unsuitable(task: Task) -> str:
    """Why this baseline cannot be climbed on a task; "" if it can."""
    labels = set(task.verbalizer.labels) if task.verbalizer else set()
    return "" if labels == {"negative", "positive"} else "the labels are not negative and positive"


def predict(task: Task, train: Sequence[Example], items: Sequence[Example], seed: int) -> tuple[list[str], int, float]:
    """Return (a label for each item, numbers trained, seconds of training); a compound score of 0 counts as positive."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise WorkFailed("the VADER baseline needs the package 'vaderSentiment'", "pip install 'tunesmith[embedded]'") from None
    analyzer = SentimentIntensityAnalyzer()
    field = task.template.fields[0]
    compound = [analyzer.polarity_scores(str(item.fields[field]))["compound"] for item in items]
    return ["positive" if value >= 0 else "negative" for value in compound], 0, 0.0
