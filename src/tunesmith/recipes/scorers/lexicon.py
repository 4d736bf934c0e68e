"""The VADER lexicon's compound score of an answer, -1 (negative) to 1 (positive): no training at all (Hutto & Gilbert 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.core.config import Config
from tunesmith.core.errors import UserError

if TYPE_CHECKING:
    from tunesmith.train.rollouts import Answer, Scorer


class Parameters(Config):
    """What is looked at."""

    whole: bool = False
    """score prompt and answer together, not the answer alone"""


def open(parameters: Parameters) -> Scorer:
    """Return the scorer.

    Raises:
        UserError: the package with the lexicon is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise UserError("the lexicon needs the package 'vaderSentiment'", "pip install 'tunesmith[embedded]'") from None
    analyzer = SentimentIntensityAnalyzer()

    def score(answers: Sequence[Answer]) -> Sequence[float]:
        texts = [a.prompt + a.text if parameters.whole else a.text for a in answers]
        return [float(analyzer.polarity_scores(text)["compound"]) for text in texts]

    return score
