"""Full fine-tuning: every weight is trained, the plain way of Howard & Ruder (2018), GPT-1 and BERT."""

from __future__ import annotations

from torch import nn

from tunesmith.core.config import Config
from tunesmith.peft._layers import plain_rates

SAVES = "model"
TITLE = "full"
IDENTITY_AT_START = True
LEARNING_RATE = 5e-5
rates = plain_rates


class Parameters(Config):
    """Full fine-tuning has nothing to choose."""


def attach(model: nn.Module, parameters: Parameters, seed: int) -> dict[str, nn.Parameter]:
    """Let every parameter be trained; a tied one (embedding and head) counts once."""
    model.requires_grad_(True)
    return dict(model.named_parameters())
