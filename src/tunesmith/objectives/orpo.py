"""ORPO: -log p(y_w) - lambda log sigma(log odds(y_w) - log odds(y_l)), without a reference model (Hong et al. 2024, equation 6).

p(y) is the mean over tokens in the logarithm (the geometric mean of their probabilities), odds = p / (1 - p).
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(chosen: torch.Tensor, rejected: torch.Tensor, weight: float = 0.1) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over pairs, nats.

    Args:
        chosen, rejected: [N] log-probabilities a token (mean over a completion's tokens, nats, below 0).
        weight: lambda.

    Returns:
        The sum (scalar) and {"correct": pairs whose preferred completion is the likelier one}.
    """
    # log(p / (1 - p)), where 1 - p = -expm1(log p) keeps its precision near p = 1.
    odds_chosen, odds_rejected = (x - torch.log(-torch.expm1(x)) for x in (chosen, rejected))
    ratio = torch.nn.functional.logsigmoid(odds_chosen - odds_rejected)
    return -(chosen + weight * ratio).sum(), {"correct": float((chosen.detach() > rejected.detach()).sum())}


def evaluate(chosen: Any, rejected: Any, weight: float) -> float:
    """Compute the loss of the pairs' probabilities a token, for the worked example."""
    w, r = (torch.tensor(x, dtype=torch.float64).log() for x in (chosen, rejected))
    return float(loss(w, r, weight)[0])


def worked_example() -> WorkedExample:
    """Probabilities a token of .5 and .2: odds 1 and .25; lambda = .1."""
    how = "-log .5 = .693147, and log odds are log 4 apart: -.1 log(4 / 5) = .022314"
    inputs = {"chosen": [0.5], "rejected": [0.2], "weight": 0.1}
    return WorkedExample(inputs, 0.715461, how, wrong={**inputs, "chosen": [0.2], "rejected": [0.5]})
