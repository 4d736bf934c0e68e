"""Rao-Kupper ties: P(a > b) = sigma(d - log theta), P(tie) = (theta^2 - 1) P(a > b) P(b > a) (Rao & Kupper 1967).

A tie says that two rewards are near each other; dropping it, as InstructGPT did, throws that away.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(
    a: torch.Tensor, b: torch.Tensor, outcomes: torch.Tensor, theta: torch.Tensor, weight: torch.Tensor | float = 1.0
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return minus the log-likelihood summed over judgements, nats.

    Args:
        a, b: [N] rewards. outcomes: [N], 0 = a was preferred, 1 = a tie, 2 = b was.
        theta: theta >= 1, scalar: how far apart two must be; 1 is Bradley-Terry.
        weight: [N] or one number, how much each judgement counts.

    Returns:
        The sum (scalar) and {"correct": judgements whose outcome is the likeliest of the three}.
    """
    edge, difference = torch.log(theta), a - b
    log_sigma = torch.nn.functional.logsigmoid
    win, lose = log_sigma(difference - edge), log_sigma(-difference - edge)
    log_p = torch.stack([win, torch.log(theta**2 - 1) + win + lose, lose], -1)
    chosen = log_p.gather(-1, outcomes[:, None])[:, 0]
    right = log_p.detach().argmax(-1) == outcomes
    return -(weight * chosen).sum(), {"correct": float((weight * right).sum())}


def evaluate(a: Any, b: Any, outcomes: Any, theta: float) -> float:
    """Compute the loss of plain lists, for the worked example."""
    first, second, value = (torch.tensor(x, dtype=torch.float64) for x in (a, b, theta))
    return float(loss(first, second, torch.tensor(outcomes), value)[0])


def worked_example() -> WorkedExample:
    """Rewards half a point apart, theta = 1.5, one outcome of each kind."""
    how = "P = .523616, .188455, .287929 (methods, section 24): .646997 + 1.668895 + 1.245042 from minus their logarithms"
    inputs = {"a": [0.5, 0.5, 0.5], "b": [0.0, 0.0, 0.0], "outcomes": [0, 1, 2], "theta": 1.5}
    return WorkedExample(inputs, 3.560934, how, wrong={**inputs, "theta": 2.0})
