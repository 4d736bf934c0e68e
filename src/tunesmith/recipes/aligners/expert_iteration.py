"""Expert iteration: each round, answer several times, keep the best answers to each prompt and learn them (Anthony et al. 2017).

One round is rejection-sampling fine-tuning (--steps 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.core.config import Config

if TYPE_CHECKING:
    import torch

    from tunesmith.train.rollouts import Round

LEARNS_FROM = "answers"
HAS_VALUES = False
SAMPLES = 8
LEAST_SAMPLES = 2
PASSES, MINIBATCH, LEARNING_RATE = 1, None, 1e-4


class Parameters(Config):
    """What expert iteration can be told."""

    keep: int = Field(1, ge=1)
    """answers to each prompt that are learned, of --samples"""


def credit(it: Round, parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
    """Return zeros, [B, T] each: answers that are learned are learned alike."""
    import torch

    return torch.zeros_like(it.logprobs), torch.zeros_like(it.logprobs)


def policy_loss(logprobs: torch.Tensor, beside: torch.Tensor, parameters: Parameters) -> tuple[torch.Tensor, dict[str, float]]:
    """Return -log p summed over tokens [N]."""
    return -logprobs.sum(), {}
