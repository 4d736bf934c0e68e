"""Classification: minus the sum of log softmax(W C)_y over rows, C what the encoder makes of a text (Devlin et al. 2019, 4.1).

The sum is returned, not a mean, so that the loss of a batch does not depend on how it was cut.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the summed cross-entropy, nats.

    Args:
        logits: [N, L], one row a text, one column a label. targets: [N] numbers of the right labels.

    Returns:
        The sum (scalar, float32 or better) and {"correct": texts whose label had the largest logit}.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nll = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return nll, {"correct": float((logits.detach().argmax(-1) == targets).sum())}


def evaluate(logits: Any, targets: Any) -> float:
    """Compute the loss of plain lists, for the worked example."""
    return float(loss(torch.tensor(logits), torch.tensor(targets))[0])


def worked_example() -> WorkedExample:
    """Two texts, three labels: logits (1, 0, -1) with label 0, and (0, 0, 0) with label 2."""
    how = "log(1 + e^-1 + e^-2) = 0.407606 plus log 3 = 1.098612; a mean would be half of it"
    inputs = {"logits": [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]], "targets": [0, 2]}
    return WorkedExample(inputs, 1.506218, how, wrong={"logits": [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]], "targets": [2, 0]})
