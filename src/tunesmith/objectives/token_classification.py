"""Token classification: minus the sum of log softmax(W T_i)_y over the words, T_i at each word's first sub-token (Devlin 5.3).

Other sub-tokens are read and nothing is asked of them. The sum is returned, not a mean, because only the caller knows how
many words the whole accumulated batch has.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample
from tunesmith.objectives import classification


def loss(logits: torch.Tensor, places: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the summed cross-entropy, nats.

    Args:
        logits: [B, T, L], one row a token, one column a tag. places: [B, T] booleans, True at the first sub-token of a word.
        targets: [N] numbers of the right tags at the N places, row by row.

    Returns:
        The sum (scalar, float32 or better) and {"correct": words whose tag had the largest logit}.
    """
    return classification.loss(logits[places], targets)


def evaluate(logits: Any, places: Any, targets: Any) -> float:
    """Compute the loss of plain lists, for the worked example."""
    return float(loss(torch.tensor(logits), torch.tensor(places), torch.tensor(targets))[0])


def worked_example() -> WorkedExample:
    """A row of four tokens that are two words: [CLS], a word, its second piece, another word."""
    how = "log(1 + e^-1) = 0.313262 for the first word plus log 2 = 0.693147 for the second; [CLS] and the piece do not count"
    inputs = {
        "logits": [[[5.0, 0.0], [1.0, 0.0], [9.0, 0.0], [0.0, 0.0]]], "places": [[False, True, False, True]], "targets": [0, 1],
    }  # fmt: skip
    wrong = {**inputs, "places": [[False, True, True, False]]}
    return WorkedExample(inputs, 1.006409, how, wrong=wrong)
