"""GPT-1: L3 = L2 + lambda L1, cross-entropy over labels with the texts' own loss beside it (Radford et al. 2018, equations 3-5).

The paper maximises log-likelihoods; these are losses, so signs are turned. A row's L1 is the mean over its tokens, then over its
texts (as the authors' code has it: of a multiple choice, wrong answers are read and predicted too).
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample
from tunesmith.objectives import classification

LM_WEIGHT = 0.5


def loss(
    logits: torch.Tensor, targets: torch.Tensor, lm: torch.Tensor, lm_weight: float = LM_WEIGHT
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over rows, nats.

    Args:
        logits: [N, L] of labels. targets: [N] numbers of the right labels.
        lm: scalar, each row's mean language-modelling loss, summed over the N rows.
        lm_weight: lambda.

    Returns:
        The sum (scalar, float32 or better) and {"correct": rows whose label had the largest logit}.
    """
    nll, stats = classification.loss(logits, targets)
    return nll + lm_weight * lm, stats


def evaluate(logits: Any, targets: Any, token_losses: Any, mask: Any, lm_weight: float) -> float:
    """Compute the loss of plain lists, for the worked example; one list of token losses a row."""
    losses, counts = torch.tensor(token_losses), torch.tensor(mask)
    lm = ((losses * counts).sum(-1) / counts.sum(-1)).sum()
    return float(loss(torch.tensor(logits), torch.tensor(targets), lm, lm_weight)[0])


def worked_example() -> WorkedExample:
    """Logits (2, .5) with label 0; token losses 1.2, .8, 2 and 9.9, the last one padding; lambda .5."""
    how = "log(1 + e^-1.5) = .201413; (1.2 + .8 + 2) / 3 = 1.333333; .201413 + .5 x 1.333333 (methods, section 1)"
    inputs = {
        "logits": [[2.0, 0.5]], "targets": [0], "token_losses": [[1.2, 0.8, 2.0, 9.9]], "mask": [[1.0, 1.0, 1.0, 0.0]],
        "lm_weight": 0.5,
    }  # fmt: skip
    # Padding counted too.
    return WorkedExample(inputs, 0.868080, how, wrong={**inputs, "mask": [[1.0, 1.0, 1.0, 1.0]]})
