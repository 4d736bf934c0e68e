"""REINFORCE with a baseline: a completion is one action, and what the round's other answers got is expected (Williams 1992)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.core.config import Config

if TYPE_CHECKING:
    import torch

    from tunesmith.train.rollouts import Round

LEARNS_FROM = "scores"
HAS_VALUES = False
SAMPLES = 1
LEAST_SAMPLES = 1
PASSES, MINIBATCH, LEARNING_RATE = 1, None, 3e-4


class Parameters(Config):
    """What REINFORCE can be told."""

    whiten: bool = True
    """divide advantages by their standard deviation over the round, so that a scorer's scale does not matter"""


def credit(it: Round, parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each completion's return less the mean of the round's others, one for all of its tokens, and returns, [B, T]."""
    from tunesmith.recipes._align.credit import spread, whole_returns
    from tunesmith.rl.advantages import leave_one_out

    returns = whole_returns(it)
    advantages = leave_one_out.advantages(returns.view(1, -1))
    if parameters.whiten:
        advantages = advantages / advantages.var(unbiased=False).add(1e-8).sqrt()
    return spread(it, advantages), spread(it, returns)


def policy_loss(logprobs: torch.Tensor, beside: torch.Tensor, parameters: Parameters) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over tokens: log-probabilities [N] now, and beside each what `train.rollouts` kept, [N, 6]."""
    from tunesmith.objectives import reinforce
    from tunesmith.train.rollouts import ADVANTAGE

    return reinforce.loss(logprobs, beside[:, ADVANTAGE])
