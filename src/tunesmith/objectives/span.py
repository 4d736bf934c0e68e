"""Spans: minus the sum of log P_start(s) + log P_end(e), each a softmax over where an answer can be (Devlin et al. 2019, 4.2).

    P_start(i) = exp(S . T_i) / sum_j exp(S . T_j)

The places are the passage's tokens and the first token, which stands for "no answer" (4.3). BERT's own code also lets the
question and the padding have a share of the probability, which no answer can use.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(logits: torch.Tensor, places: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the summed cross-entropy of both ends, nats.

    Args:
        logits: [B, T, 2], of being the start and the end. places: [B, T] booleans, where an answer can begin or end.
        targets: [B, 2] the token an answer begins at and the one it ends at, inclusive; 0, 0 = no answer.

    Returns:
        The sum (scalar, float32 or better) and {"correct": ends that had the largest logit}.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    chosen = logits.to(wide).masked_fill(~places[..., None], -torch.inf).transpose(1, 2)
    nll = torch.nn.functional.cross_entropy(chosen.flatten(0, 1), targets.flatten(), reduction="sum")
    return nll, {"correct": float((chosen.detach().argmax(-1) == targets).sum())}


def evaluate(logits: Any, places: Any, targets: Any) -> float:
    """Compute the loss of plain lists, for the worked example."""
    return float(loss(torch.tensor(logits), torch.tensor(places), torch.tensor(targets))[0])


def worked_example() -> WorkedExample:
    """Four tokens: [CLS], one of the question, two of the passage; the answer is the last two."""
    how = "start over places 0, 2, 3 with logits 0, 1, 0: log(1 + 2/e) = 0.551445; end over 0, 0, 0: log 3 = 1.098612"
    inputs = {
        "logits": [[[0.0, 0.0], [7.0, 7.0], [1.0, 0.0], [0.0, 0.0]]], "places": [[True, False, True, True]], "targets": [[2, 3]],
    }  # fmt: skip
    return WorkedExample(inputs, 1.650057, how, wrong={**inputs, "places": [[True, True, True, True]]})
