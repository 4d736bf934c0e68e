"""KTO: the sum of w (1 - sigma(+-beta (h - z))), h = log pi(y)/ref(y), + for wanted answers (Ethayarajh et al. 2024, equation 8).

Answers need no partner: each was wanted or was not. z is what answers gain anyway, an estimate of KL(pi || ref) that takes no
gradient and is never below 0.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(
    ratios: torch.Tensor,
    wanted: torch.Tensor,
    anyway: torch.Tensor,
    beta: float = 0.1,
    weight_wanted: float = 1.0,
    weight_unwanted: float = 1.0,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over answers.

    Args:
        ratios: [N] log pi(y) - log ref(y) of answers, nats. wanted: [N] booleans.
        anyway: [M] the same of answers to other prompts, from whose mean z is made.
        beta: how much leaving the reference costs. weight_wanted, weight_unwanted: w; n_wanted w_wanted should be 1 to 4/3 of
            n_unwanted w_unwanted.

    Returns:
        The sum (scalar) and {"correct": wanted answers above z and others below}.
    """
    z = anyway.detach().mean().clamp(min=0)
    sign = torch.where(wanted, 1.0, -1.0).to(ratios.dtype)
    weight = torch.where(wanted, weight_wanted, weight_unwanted).to(ratios.dtype)
    value = torch.sigmoid(sign * beta * (ratios - z))
    return (weight * (1 - value)).sum(), {"correct": float((sign * (ratios.detach() - z) > 0).sum())}


def evaluate(ratios: Any, wanted: Any, anyway: Any, beta: float) -> float:
    """Compute the loss of plain lists, for the worked example."""
    h, others = (torch.tensor(x, dtype=torch.float64) for x in (ratios, anyway))
    return float(loss(h, torch.tensor(wanted), others, beta)[0])


def worked_example() -> WorkedExample:
    """A wanted answer at h = 6 and an unwanted one at h = 3; others gained 0 and 2, so z = 1; beta = .1."""
    how = "1 - sigma(.5) = .377541, 1 - sigma(-.2) = .549834"
    inputs = {"ratios": [6.0, 3.0], "wanted": [True, False], "anyway": [0.0, 2.0], "beta": 0.1}
    return WorkedExample(inputs, 0.927375, how, wrong={**inputs, "wanted": [False, True]})
