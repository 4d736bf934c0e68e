"""GAE: A_t = delta_t + gamma lambda A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t (Schulman et al. 2016, equation 16)."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def advantages(
    rewards: torch.Tensor, values: torch.Tensor, loss_mask: torch.Tensor, gamma: float = 1.0, lam: float = 0.95
) -> torch.Tensor:
    """Return the advantage of each token; the return is this plus its value.

    Args:
        rewards, values: [B, T] of a completion's tokens, which stand together. loss_mask: [B, T] True at these; after the
            last of them nothing is worth anything.
        gamma, lam: discount, and how far ahead is looked.

    Returns:
        [B, T], 0 outside the mask.
    """
    rewards, values = (torch.where(loss_mask, x, 0.0) for x in (rewards, values))
    found = torch.zeros_like(rewards)
    ahead = following = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following - values[:, t]
        ahead = torch.where(loss_mask[:, t], delta + gamma * lam * ahead, 0.0)
        found[:, t], following = ahead, values[:, t]
    return found


def evaluate(rewards: Any, values: Any, lam: float) -> list[float]:
    """Return the advantages of one completion, with a token of padding on either side, for the worked example."""
    r, v = (torch.tensor([[9.0, *x, 9.0]], dtype=torch.float64) for x in (rewards, values))
    mask = torch.tensor([[False, *(True for _ in rewards), False]])
    return advantages(r, v, mask, 1.0, lam)[0, 1:-1].tolist()


def worked_example() -> WorkedExample:
    """A score of 1 at the third token, values .5, .6, .7, lambda = .95."""
    how = "deltas .1, .1, .3; A_3 = .3, A_2 = .1 + .95 x .3 = .385, A_1 = .1 + .95 x .385 = .46575 (methods, section 23)"
    inputs = {"rewards": [0.0, 0.0, 1.0], "values": [0.5, 0.6, 0.7], "lam": 0.95}
    return WorkedExample(inputs, [0.46575, 0.385, 0.3], how, wrong={**inputs, "lam": 1.0})
