"""Ordinal ratings: P(y <= c) = sigma(theta_c - r), the thresholds theta rising from level to level (McCullagh 1980, section 2).

A rating says more than an order and less than a distance: how far apart two levels are is learned. Minus the sum of log P(y = c),
P(y = c) = sigma(theta_c - r) - sigma(theta_{c-1} - r), the lowest threshold minus infinity and the highest plus infinity.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(scores: torch.Tensor, levels: torch.Tensor, thresholds: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return minus the log-likelihood summed over ratings, nats.

    Args:
        scores: [N] rewards r. levels: [N] of each the level of its rating, from 0 = the worst. thresholds: [L - 1], rising.

    Returns:
        The sum (scalar) and {"correct": ratings whose level is the likeliest}.
    """
    below = thresholds[None] - scores[:, None]
    log_sigma = torch.nn.functional.logsigmoid
    # log(sigma(a) - sigma(b)) = log sigma(a) + log sigma(-b) + log(1 - e^(b - a)), which loses no digits in the tails.
    gaps = torch.log(-torch.expm1(thresholds[:-1] - thresholds[1:]))
    middle = log_sigma(below[:, 1:]) + log_sigma(-below[:, :-1]) + gaps
    log_p = torch.cat([log_sigma(below[:, :1]), middle, log_sigma(-below[:, -1:])], 1)
    chosen = log_p.gather(1, levels[:, None])
    return -chosen.sum(), {"correct": float((log_p.detach().argmax(1) == levels).sum())}


def evaluate(scores: Any, levels: Any, thresholds: Any) -> float:
    """Compute the loss of plain lists, for the worked example."""
    r, theta = (torch.tensor(x, dtype=torch.float64) for x in (scores, thresholds))
    return float(loss(r, torch.tensor(levels), theta)[0])


def worked_example() -> WorkedExample:
    """Three levels with thresholds -1 and 1, one text of reward .5 rated at each."""
    how = (
        "sigma(-1.5) = .182426, sigma(.5) = .622459: P = .182426, .440034, .377541; minus their logarithms "
        "1.701413 + .820904 + .974077"
    )
    inputs = {"scores": [0.5, 0.5, 0.5], "levels": [0, 1, 2], "thresholds": [-1.0, 1.0]}
    # Turned round, the worst level would be the best.
    return WorkedExample(inputs, 3.496394, how, wrong={**inputs, "thresholds": [-1.0, 2.0]}, tolerance=2e-6)
