"""REINFORCE: minus the sum of A log pi(a), A a return less a baseline (Williams 1992; RLOO: Ahmadian et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(logprobs: torch.Tensor, advantages: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over tokens.

    Args:
        logprobs: [N] of the tokens that were sampled, nats. advantages: [N], without a gradient; the tokens of a completion
            share one where it is judged as a whole.

    Returns:
        The sum (scalar) and no counts.
    """
    return -(advantages * logprobs).sum(), {}


def evaluate(logprobs: Any, advantages: Any) -> float:
    """Compute the loss of plain lists, for the worked example."""
    return float(loss(torch.tensor(logprobs, dtype=torch.float64), torch.tensor(advantages, dtype=torch.float64))[0])


def worked_example() -> WorkedExample:
    """Two tokens of a completion with advantage 2, one of a completion with -1."""
    how = "-(2 (-.5 - 1) - 1 (-.25)) = 3 - .25"
    inputs = {"logprobs": [-0.5, -1.0, -0.25], "advantages": [2.0, 2.0, -1.0]}
    return WorkedExample(inputs, 2.75, how, wrong={**inputs, "advantages": [2.0, 2.0, 1.0]})
