"""IPO: the sum of (h - 1 / (2 tau))^2, which stops once a pair is far enough apart (Azar et al. 2023, equation 17)."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(chosen: torch.Tensor, rejected: torch.Tensor, tau: float = 0.1) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over pairs.

    Args:
        chosen, rejected: [N] log pi(y) - log ref(y), nats. The paper sums over the tokens of a completion; a mean over them
            keeps long completions from setting the pace.
        tau: how much leaving the reference costs.

    Returns:
        The sum (scalar) and {"correct": pairs whose preferred completion gained more}.
    """
    apart = chosen - rejected
    return ((apart - 1 / (2 * tau)) ** 2).sum(), {"correct": float((apart.detach() > 0).sum())}


def evaluate(chosen: Any, rejected: Any, tau: float) -> float:
    """Compute the loss of plain lists, for the worked example."""
    w, r = (torch.tensor(x, dtype=torch.float64) for x in (chosen, rejected))
    return float(loss(w, r, tau)[0])


def worked_example() -> WorkedExample:
    """A pair with h = 2 where tau = .1 wants 5."""
    how = "(2 - 5)^2"
    inputs = {"chosen": [1.5], "rejected": [-0.5], "tau": 0.1}
    return WorkedExample(inputs, 9.0, how + " = 9, with 1 / (2 x .1) = 5", wrong={**inputs, "chosen": [-0.5], "rejected": [1.5]})
