"""A reward model that `tunesmith reward` trained, or several: on the policy's own trunk where the base is the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.core.config import Config

if TYPE_CHECKING:
    from tunesmith.recipes._reward.files import Trunk
    from tunesmith.train.rollouts import Answer, Scorer

# It is opened with the policy's trunk, if there is one to share.
SHARES_TRUNK = True


class Parameters(Config):
    """Which reward model, and how members of an ensemble are heard."""

    path: str
    """the directory of a reward model, or of the run that made it"""
    model: str | None = None
    """the base that it stands on; absent = the one it names"""
    spread: float = Field(0.0, ge=0, allow_inf_nan=False)
    """k: the score is the mean of the members' less k times their deviation, so that what they disagree on pays less"""
    dtype: str = "auto"
    """of a model that is not on the policy's trunk"""


def identity(parameters: Parameters) -> str:
    """Return a hash of the reward model's files.

    Raises:
        UserError: there is no such reward model, or it is damaged.
    """
    from tunesmith.recipes._reward.files import identity_of

    return identity_of(parameters.path)


def open(parameters: Parameters, trunk: Trunk | None = None) -> Scorer:
    """Open the reward model; prompts and answers are tokenised anew from text, so its tokenizer may be another.

    Raises:
        UserError: there is no such reward model, it is damaged, or one model has no spread.
        WorkFailed: its rewards do not come back.
    """
    import numpy as np

    from tunesmith.core.errors import UserError
    from tunesmith.core.progress import say
    from tunesmith.recipes._reward.files import open_reward

    members = open_reward(parameters.path, parameters.model, parameters.dtype, trunk)
    if parameters.spread and len(members) == 1:
        raise UserError("spread needs several reward models, and this is one", "Train them: tunesmith reward DATA --seeds 0,1,2.")
    first = members[0].lm
    if trunk and first is not trunk.lm:
        other = "" if first.tokenizer.get_vocab() == trunk.lm.tokenizer.get_vocab() else ", with another tokenizer"
        say(f"the reward model {parameters.path} is a model of its own ({first.name}{other}); it reads answers as text")

    def score(answers: Sequence[Answer]) -> Sequence[float]:
        pairs = [(answer.turns or answer.prompt, answer.text) for answer in answers]
        rewards = np.array([member.score(pairs) for member in members])
        return [float(r) for r in rewards.mean(0) - parameters.spread * rewards.std(0)]

    return score
