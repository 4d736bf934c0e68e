"""PPO: a value head expects, GAE credits tokens, and the ratio to the sampling policy is clipped (Ouyang et al. 2022, 3.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from tunesmith.core.config import Config

if TYPE_CHECKING:
    import torch

    from tunesmith.train.rollouts import Round

LEARNS_FROM = "scores"
HAS_VALUES = True
SAMPLES = 1
LEAST_SAMPLES = 1
PASSES, MINIBATCH, LEARNING_RATE = 2, 8, 3e-4


class Parameters(Config):
    """What PPO can be told; the defaults are those of Ziegler et al. 2019 and InstructGPT."""

    clip: float = Field(0.2, gt=0, allow_inf_nan=False)
    """e: the ratio to the sampling policy counts within 1 - e .. 1 + e"""
    value_clip: float = Field(0.2, gt=0, allow_inf_nan=False)
    """how far a value may move in one update before the clipped one counts"""
    value_weight: float = Field(0.1, ge=0, allow_inf_nan=False)
    """weight of the value loss beside the policy's"""
    gamma: float = Field(1.0, gt=0, le=1)
    """discount from token to token"""
    lam: float = Field(0.95, ge=0, le=1)
    """lambda of GAE"""
    whiten_rewards: bool = False
    """divide rewards by their standard deviation, the mean as it is"""
    value: Literal["shared", "separate"] = "shared"
    """the value function: a head on the policy's hidden states (shared), or with an adapter of its own on the same base
    (separate), so that learning to expect scores does not move the policy; a round takes about twice as long"""
    value_from: str | None = Field(None, min_length=1)
    """folder of a LoRA reward model on the policy's base that a separate value function begins as, as InstructGPT's does"""

    @model_validator(mode="after")
    def _begins(self) -> Self:
        if self.value_from and self.value == "shared":
            raise ValueError("value_from needs a value function of its own: add --method.value separate")
        return self


def credit(it: Round, parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages, whitened over the round, and returns, [B, T] each."""
    from tunesmith.rl.advantages import gae
    from tunesmith.rl.rewards import penalised, whitened

    rewards = penalised(it.scores.flatten(), it.logprobs, it.reference, it.loss_mask, it.beta)
    if parameters.whiten_rewards:
        rewards = whitened(rewards, it.loss_mask, shift_mean=False)
    advantages = gae.advantages(rewards, it.values, it.loss_mask, parameters.gamma, parameters.lam)
    return whitened(advantages, it.loss_mask), advantages + it.values


def policy_loss(logprobs: torch.Tensor, beside: torch.Tensor, parameters: Parameters) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over tokens: log-probabilities [N] now, and beside each what `train.rollouts` kept, [N, 6]."""
    from tunesmith.objectives import ppo
    from tunesmith.train.rollouts import ADVANTAGE, OLD

    return ppo.loss(logprobs, beside[:, OLD], beside[:, ADVANTAGE], parameters.clip)
