"""Masked language modelling: minus the sum of log p(x_t | the row with tokens hidden) over the hidden t (Devlin et al. 2019).

As for `causal_lm`, the sum is returned and not a mean, because only the caller knows how many tokens are hidden in the
whole accumulated batch.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample
from tunesmith.objectives import causal_lm


def loss(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the summed negative log-likelihood of what was hidden, nats.

    Args:
        logits: [N, V], one row for each hidden token, made at its own place.
        targets: [N] the tokens that were there.

    Returns:
        The sum (scalar, float32 or better) and {"correct": tokens whose target had the largest logit}.
    """
    return causal_lm.loss(logits, targets)


def evaluate(logits: Any, targets: Any) -> float:
    """Compute the loss of plain lists, for the worked example."""
    return float(loss(torch.tensor(logits), torch.tensor(targets))[0])


def worked_example() -> WorkedExample:
    """Two hidden tokens: logits (2, 1) with target 0, and (1, 1) with target 1."""
    how = "log(1 + e^-1) = 0.313262 (methods, section 4: the cross-entropy of (2, 1)) plus log 2 = 0.693147"
    inputs = {"logits": [[2.0, 1.0], [1.0, 1.0]], "targets": [0, 1]}
    return WorkedExample(inputs, 1.006409, how, wrong={"logits": [[2.0, 1.0], [1.0, 1.0]], "targets": [1, 1]})
