"""A metric of each answer against the prompt's own right answer: exact match, SQuAD's F1, or any other that compares texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.core.config import Config

if TYPE_CHECKING:
    from tunesmith.train.rollouts import Answer, Scorer


class Parameters(Config):
    """Which metric."""

    metric: str = "exact_match"
    """name of a metric that compares an answer with the right one"""
    contained: bool = False
    """an answer counts where the right one stands in it as words, whatever is said around; in place of the metric"""


def open(parameters: Parameters) -> Scorer:
    """Return the scorer; more is better, so a metric of which less is better is turned round.

    Raises:
        UserError: there is no such metric, or it compares no texts.
    """
    import re

    from tunesmith.core.errors import UserError, WorkFailed
    from tunesmith.core.registry import METRICS

    entry = METRICS.get(parameters.metric)
    sign = 1.0 if entry.HIGHER_IS_BETTER else -1.0
    if parameters.contained and "metric" in parameters.model_fields_set:
        raise UserError("contained is in place of a metric", "Give one of the two.")
    try:
        same, other = (float(entry.evaluate(["a"], [text])) for text in ("a", "b"))
    except (UserError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"the metric '{parameters.metric}' cannot judge an answer by itself: {error}", _FIX) from None
    if sign * same <= sign * other:
        raise UserError(f"the metric '{parameters.metric}' does not prefer a right answer to a wrong one", _FIX)

    def score(answers: Sequence[Answer]) -> Sequence[float]:
        found = []
        for answer in answers:
            if not answer.golds:
                raise WorkFailed(
                    f"the prompt {answer.prompt[:80]!r} has no right answer to compare with",
                    "Use a task, or a file with a column completion.",
                )
            if parameters.contained:
                said = " ".join(answer.text.casefold().split())
                words = [re.escape(" ".join(gold.casefold().split())) for gold in answer.golds]
                found.append(float(any(re.search(rf"(?<!\w){word}(?!\w)", said) for word in words)))
            else:
                found.append(max(sign * float(entry.evaluate([gold.strip()], [answer.text.strip()])) for gold in answer.golds))
        return found

    return score


_FIX = "Use exact_match or squad_f1."
