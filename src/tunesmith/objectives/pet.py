"""PET: (1 - a) x cross-entropy over label words + a x masked-language-model loss, a = 1e-4 (Schick & Schuetze 2021, section 3.2).

A label's logit is the mean of the logits that its words have at [MASK]; the softmax is over the labels, not the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunesmith.core.records import WorkedExample
from tunesmith.objectives import classification

ALPHA = 1e-4


def label_logits(word_logits: torch.Tensor, words: Sequence[int]) -> torch.Tensor:
    """Return [N, L] logits of labels: of each the mean over its words.

    Args:
        word_logits: [N, W] at [MASK], label by label. words: how many words each of the L labels has.
    """
    return torch.stack([part.mean(-1) for part in word_logits.split(list(words), -1)], -1)


def loss(
    logits: torch.Tensor, targets: torch.Tensor, mlm: torch.Tensor, alpha: float = ALPHA
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over labelled rows, nats.

    Args:
        logits: [N, L] of labels. targets: [N] numbers of the right labels.
        mlm: scalar, for each of the N rows the mean masked-language-model loss of the texts beside it, summed.
        alpha: weight of `mlm`.

    Returns:
        The sum (scalar, float32 or better) and {"correct": rows whose label had the largest logit}.
    """
    nll, stats = classification.loss(logits, targets)
    return (1 - alpha) * nll + alpha * mlm, stats


def evaluate(word_logits: Any, words: Any, targets: Any, mlm: float, alpha: float) -> float:
    """Compute the loss of plain lists, for the worked example; in double precision, for `alpha` is small."""
    labels = label_logits(torch.tensor(word_logits, dtype=torch.float64), words)
    return float(loss(labels, torch.tensor(targets), torch.tensor(mlm, dtype=torch.float64), alpha)[0])


def worked_example() -> WorkedExample:
    """Great 3, good 1 | bad .5, awful 1.5, the gold label positive, a masked-language-model loss of 2.5."""
    how = "label logits (2, 1), cross-entropy log(1 + e^-1) = .313262; .9999 x .313262 + .0001 x 2.5 (methods, section 4)"
    inputs = {"word_logits": [[3.0, 1.0, 0.5, 1.5]], "words": [2, 2], "targets": [0], "mlm": 2.5, "alpha": 1e-4}
    # The softmax over all four words instead of over the labels.
    return WorkedExample(inputs, 0.313480, how, wrong={**inputs, "words": [1, 1, 1, 1]})
