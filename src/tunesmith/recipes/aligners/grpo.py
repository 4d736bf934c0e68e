"""GRPO: returns relative to the other samples of a prompt, clipped ratios, no value head (Shao et al. 2024, section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tunesmith.core.config import Config

if TYPE_CHECKING:
    import torch

    from tunesmith.train.rollouts import Round

LEARNS_FROM = "scores"
HAS_VALUES = False
SAMPLES = 8
LEAST_SAMPLES = 2
PASSES, MINIBATCH, LEARNING_RATE = 2, 8, 3e-4


class Parameters(Config):
    """What GRPO can be told."""

    clip: float = Field(0.2, gt=0, allow_inf_nan=False)
    """e: the ratio to the sampling policy counts within 1 - e .. 1 + e"""
    kl: Literal["reward", "loss"] = "reward"
    """where divergence costs: in the reward, whose optimum is known, or in the loss by k3 as published, which has another"""
    k3_weight: float = Field(0.04, ge=0, allow_inf_nan=False)
    """beta of the loss, with kl = loss"""


def credit(it: Round, parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each completion's standing among its prompt's, the same for all of its tokens, and returns, [B, T] each."""
    from tunesmith.recipes._align.credit import spread, whole_returns
    from tunesmith.rl.advantages import group_relative

    returns = whole_returns(it) if parameters.kl == "reward" else it.scores
    return spread(it, group_relative.advantages(returns)), spread(it, returns)


def policy_loss(logprobs: torch.Tensor, beside: torch.Tensor, parameters: Parameters) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over tokens: log-probabilities [N] now, and beside each what `train.rollouts` kept, [N, 6]."""
    from tunesmith.objectives import grpo
    from tunesmith.train.rollouts import ADVANTAGE, LENGTH, OLD, REFERENCE

    # A completion's mean; times the mean length, so that the loss a token is as large as that of other methods.
    beta = parameters.k3_weight if parameters.kl == "loss" else 0.0
    total, stats = grpo.loss(
        logprobs, beside[:, OLD], beside[:, REFERENCE], beside[:, ADVANTAGE], beside[:, LENGTH], parameters.clip, beta
    )
    return total, stats
