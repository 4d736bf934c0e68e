"""RLOO: a completion is one action, and the other samples of its prompt are its baseline (Ahmadian et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.core.config import Config

if TYPE_CHECKING:
    import torch

    from tunesmith.train.rollouts import Round

LEARNS_FROM = "scores"
HAS_VALUES = False
SAMPLES = 4
LEAST_SAMPLES = 2
PASSES, MINIBATCH, LEARNING_RATE = 1, None, 3e-4


class Parameters(Config):
    """What RLOO can be told."""

    clip: float | None = Field(None, gt=0, allow_inf_nan=False)
    """clip the ratio to the sampling policy, for several passes over a round; absent = plain REINFORCE"""


def credit(it: Round, parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each completion's return less its prompt's others', the same for all of its tokens, and returns, [B, T] each."""
    from tunesmith.recipes._align.credit import spread, whole_returns
    from tunesmith.rl.advantages import leave_one_out

    returns = whole_returns(it)
    return spread(it, leave_one_out.advantages(returns)), spread(it, returns)


def policy_loss(logprobs: torch.Tensor, beside: torch.Tensor, parameters: Parameters) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over tokens: log-probabilities [N] now, and beside each what `train.rollouts` kept, [N, 6]."""
    from tunesmith.objectives import ppo, reinforce
    from tunesmith.train.rollouts import ADVANTAGE, OLD

    if parameters.clip is None:
        return reinforce.loss(logprobs, beside[:, ADVANTAGE])
    return ppo.loss(logprobs, beside[:, OLD], beside[:, ADVANTAGE], parameters.clip)
