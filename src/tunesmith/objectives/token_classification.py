"""Token classification: minus the sum of log softmax(W T_i)_y over words, T_i at each word's first sub-token (Devlin 2019, 5.3).

Other sub-tokens are read and nothing is asked of them. The sum is returned, not a mean, because only the caller knows how
many words the whole accumulated batch has.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample
from tunesmith.objectives import classification


def loss(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the summed cross-entropy, nats.

    Args:
        logits: [N, L], one row a word, made at its first sub-token; one column a tag. targets: [N] numbers of the right tags.

    Returns:
        The sum (scalar, float32 or better) and {"correct": words whose tag had the largest logit}.
    """
    return classification.loss(logits, targets)


def evaluate(logits: Any, targets: Any) -> float:
    """Compute the loss of plain lists, for the worked example."""
    return float(loss(torch.tensor(logits), torch.tensor(targets))[0])


def worked_example() -> WorkedExample:
    """Two words: logits (1, 0) with tag 0, and (0, 0) with tag 1."""
    how = "log(1 + e^-1) = 0.313262 for the first word plus log 2 = 0.693147 for the second"
    inputs = {"logits": [[1.0, 0.0], [0.0, 0.0]], "targets": [0, 1]}
    return WorkedExample(inputs, 1.006409, how, wrong={"logits": [[1.0, 0.0], [0.0, 0.0]], "targets": [1, 1]})
