"""A weighted sum of other scorers: {name: mix, of: [{scorer: lexicon, weight: 0.5}, {scorer: {name: metric}}]}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tunesmith.core.config import Config

if TYPE_CHECKING:
    from tunesmith.recipes._reward.files import Trunk
    from tunesmith.train.rollouts import Answer, Scorer

SHARES_TRUNK = True


class Part(Config):
    """One of the scorers and how much it counts."""

    scorer: str | dict[str, Any]
    """FILE.py:FUNCTION, a scorer's name, or its name with parameters"""
    weight: float = Field(1.0, allow_inf_nan=False)
    """its scores are multiplied by this; a negative one is a penalty"""


class Parameters(Config):
    """What is added up."""

    of: list[Part] = Field(min_length=1)
    """the scorers; easiest in a YAML file (--config)"""


def identity(parameters: Parameters) -> list[Any]:
    """Return that of each part.

    Raises:
        UserError: one of them cannot be found.
    """
    from tunesmith.recipes._reward.scoring import identity_of

    return [identity_of(part.scorer) for part in parameters.of]


def open(parameters: Parameters, trunk: Trunk | None = None) -> Scorer:
    """Open all of them.

    Raises:
        UserError: one of them cannot be opened.
    """
    from tunesmith.core.errors import WorkFailed
    from tunesmith.recipes._reward.scoring import open_scorer

    opened = [(part, open_scorer(part.scorer, trunk)) for part in parameters.of]

    def score(answers: Sequence[Answer]) -> Sequence[float]:
        total = [0.0] * len(answers)
        for part, scorer in opened:
            scores = list(scorer(answers))
            if len(scores) != len(answers):
                raise WorkFailed(f"the scorer {part.scorer!r:.80} gave {len(scores)} scores for {len(answers)} answers")
            total = [so_far + part.weight * float(s) for so_far, s in zip(total, scores, strict=True)]
        return total

    return score
