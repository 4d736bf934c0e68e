"""Causal language modelling: minus the sum of log p(x_t | x_<t) over the tokens that count (Radford et al. 2018, equation 1).

The sum is returned, not a mean: only the caller knows how many tokens count in the whole accumulated batch, and dividing
by anything less makes the loss depend on how a batch was cut (1 x N must equal N x 1).
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the summed negative log-likelihood, nats.

    Args:
        logits: [N, V], one row for each counted token, made from the position before it.
        targets: [N] token ids.

    Returns:
        The sum (scalar, float32 or better) and {"correct": tokens whose target had the largest logit}.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nll = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return nll, {"correct": float((logits.detach().argmax(-1) == targets).sum())}


def evaluate(logits: Any, targets: Any) -> float:
    """Compute the loss of plain lists, for the worked example."""
    return float(loss(torch.tensor(logits), torch.tensor(targets))[0])


def worked_example() -> WorkedExample:
    """Two tokens: logits (2, 0.5) with target 0, and (0, 0) with target 1."""
    how = "log(1 + e^-1.5) = 0.201413 (methods, section 1) plus log 2 = 0.693147"
    inputs = {"logits": [[2.0, 0.5], [0.0, 0.0]], "targets": [0, 1]}
    return WorkedExample(inputs, 0.894560, how, wrong={"logits": [[-2.0, -0.5], [0.0, 0.0]], "targets": [0, 1]})
