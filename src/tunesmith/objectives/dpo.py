"""DPO: minus the sum of log sigma(beta h), h = log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l) (Rafailov et al. 2023, equation 7)."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample
from tunesmith.objectives import pairwise


def loss(
    chosen: torch.Tensor, rejected: torch.Tensor, beta: float = 0.1, label_smoothing: float = 0.0
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over pairs, nats.

    Args:
        chosen, rejected: [N] log pi(y) - log ref(y), each summed over the tokens of a completion, nats.
        beta: how much leaving the reference costs. label_smoothing: share of judgements taken to be the wrong way round
            (conservative DPO, Mitchell 2023).

    Returns:
        The sum (scalar) and {"correct": pairs whose preferred completion gained more}.
    """
    return pairwise.loss(beta * chosen, beta * rejected, label_smoothing=label_smoothing)


def evaluate(chosen: Any, rejected: Any, beta: float, label_smoothing: float) -> float:
    """Compute the loss of plain lists, for the worked example."""
    w, r = (torch.tensor(x, dtype=torch.float64) for x in (chosen, rejected))
    return float(loss(w, r, beta, label_smoothing)[0])


def worked_example() -> WorkedExample:
    """A pair with h = 2 - (-3) = 5 at beta = .1, a tenth of judgements wrong."""
    how = ".9 log(1 + e^-.5) + .1 log(1 + e^.5) = .9 x .474077 + .1 x .974077 (sigma(.5) = .622459)"
    inputs = {"chosen": [2.0], "rejected": [-3.0], "beta": 0.1, "label_smoothing": 0.1}
    return WorkedExample(inputs, 0.524077, how, wrong={**inputs, "chosen": [-3.0], "rejected": [2.0]})
