"""GRPO: PPO's clipped objective less beta k3(pi || ref), each completion's tokens averaged (Shao et al. 2024, equations 3, 4)."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample
from tunesmith.objectives import ppo


def loss(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    reference: torch.Tensor,
    advantages: torch.Tensor,
    lengths: torch.Tensor,
    clip: float = 0.2,
    beta: float = 0.04,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over completions.

    Args:
        logprobs, old, reference: [N] of the sampled tokens by the policy, by the policy that sampled them, and by the
            reference, nats. advantages: [N]. lengths: [N] tokens of the completion that each belongs to.
        clip: e. beta: weight of the estimate e^x - x - 1, x = log ref - log pi, of KL(pi || ref).

    Returns:
        The sum (scalar), and what `ppo` counts.
    """
    weight = 1.0 / lengths.to(logprobs.dtype)
    # rho A w = rho (A w): the mean over a completion is a weight on its advantages.
    clipped, stats = ppo.loss(logprobs, old, advantages * weight, clip)
    apart = reference - logprobs
    return clipped + beta * (weight * (apart.exp() - apart - 1)).sum(), stats


def evaluate(logprobs: Any, old: Any, reference: Any, advantages: Any, lengths: Any, beta: float) -> float:
    """Compute the loss of plain lists, for the worked example."""
    now, before, ref, gained = (torch.tensor(x, dtype=torch.float64) for x in (logprobs, old, reference, advantages))
    return float(loss(now, before, ref, gained, torch.tensor(lengths), beta=beta)[0])


def worked_example() -> WorkedExample:
    """A completion of two tokens with advantage 1, one of a token with -1, on the policy; the reference apart by .1 at one."""
    how = "-(1 + 1) / 2 + 1 = 0, and .5 (e^.1 - .1 - 1) / 2 = .001292730"
    inputs = {
        "logprobs": [-1.0, -2.0, -0.5], "old": [-1.0, -2.0, -0.5], "reference": [-0.9, -2.0, -0.5],
        "advantages": [1.0, 1.0, -1.0], "lengths": [2, 2, 1], "beta": 0.5,
    }  # fmt: skip
    # A mean over all tokens instead of over those of a completion.
    return WorkedExample(inputs, 0.001292730, how, tolerance=1e-8, wrong={**inputs, "lengths": [3, 3, 3]})
