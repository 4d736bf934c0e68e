"""Davidson ties: P(a > b) = e^{d/2} / (e^{d/2} + e^{-d/2} + nu), P(tie) = nu / (...), d = r_a - r_b (Davidson 1970).

A tie says that two rewards are near each other; dropping it, as InstructGPT did, throws that away.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(
    a: torch.Tensor, b: torch.Tensor, outcomes: torch.Tensor, nu: torch.Tensor, weight: torch.Tensor | float = 1.0
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return minus the log-likelihood summed over judgements, nats.

    Args:
        a, b: [N] rewards. outcomes: [N], 0 = a was preferred, 1 = a tie, 2 = b was.
        nu: nu > 0, scalar: how common ties are; 0 would be Bradley-Terry. Some write 2 nu where this has nu.
        weight: [N] or one number, how much each judgement counts.

    Returns:
        The sum (scalar) and {"correct": judgements whose outcome is the likeliest of the three}.
    """
    half = (a - b) / 2
    log_each = torch.stack([half, torch.log(nu).expand_as(half), -half], -1)
    log_p = log_each - log_each.logsumexp(-1, keepdim=True)
    chosen = log_p.gather(-1, outcomes[:, None])[:, 0]
    right = log_p.detach().argmax(-1) == outcomes
    return -(weight * chosen).sum(), {"correct": float((weight * right).sum())}


def evaluate(a: Any, b: Any, outcomes: Any, nu: float) -> float:
    """Compute the loss of plain lists, for the worked example."""
    first, second, value = (torch.tensor(x, dtype=torch.float64) for x in (a, b, nu))
    return float(loss(first, second, torch.tensor(outcomes), value)[0])


def worked_example() -> WorkedExample:
    """Rewards half a point apart, nu = 1, one outcome of each kind."""
    how = "e^.25 + e^-.25 + 1 = 3.062826; P = .419229, .326496, .254275 (methods, section 24): together 3 log 3.062826"
    inputs = {"a": [0.5, 0.5, 0.5], "b": [0.0, 0.0, 0.0], "outcomes": [0, 1, 2], "nu": 1.0}
    return WorkedExample(inputs, 3.358014, how, wrong={**inputs, "nu": 2.0})
