"""Multi-label classification: a yes or no for every label, -sum [y log s(z) + (1 - y) log s(-z)], s the logistic function.

Each label is its own question, so several or none may be right. The sum over rows and labels is returned, not a mean.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the summed binary cross-entropy, nats.

    Args:
        logits: [N, L], one row a text, one column a label. targets: [N, L], 1 where the label is right, else 0.

    Returns:
        The sum (scalar, float32 or better) and {"correct": decisions that were right}.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    logits, targets = logits.to(wide), targets.to(wide)
    nll = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return nll, {"correct": float(((logits.detach() > 0) == (targets > 0.5)).sum())}


def evaluate(logits: Any, targets: Any) -> float:
    """Compute the loss of plain lists, for the worked example."""
    return float(loss(torch.tensor(logits), torch.tensor(targets))[0])


def worked_example() -> WorkedExample:
    """One text, three labels of which the first two are right."""
    how = "log(1 + e^-2) = 0.126928 (yes, and right), log 2 = 0.693147 (undecided), log(1 + e^-1) = 0.313262 (no, and right)"
    inputs = {"logits": [[2.0, 0.0, -1.0]], "targets": [[1.0, 1.0, 0.0]]}
    return WorkedExample(inputs, 1.133337, how, wrong={"logits": [[2.0, 0.0, -1.0]], "targets": [[1.0, 1.0, 1.0]]})
