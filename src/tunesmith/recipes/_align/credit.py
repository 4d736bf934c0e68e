"""What methods without a value head share: a completion's return as a whole, and spreading one number over its tokens."""

from __future__ import annotations

import torch

from tunesmith.train.rollouts import Round


def whole_returns(it: Round) -> torch.Tensor:
    """Return score - beta log(pi / ref) of each completion, [P, k]."""
    divergence = torch.where(it.loss_mask, it.logprobs - it.reference, 0.0).sum(1)
    return it.scores - it.beta * divergence.view_as(it.scores)


def spread(it: Round, numbers: torch.Tensor) -> torch.Tensor:
    """Give all tokens of a completion its number: [P, k] -> [B, T], 0 outside the mask."""
    return torch.where(it.loss_mask, numbers.reshape(-1, 1), 0.0)
