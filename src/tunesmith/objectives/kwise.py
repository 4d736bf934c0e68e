"""Rankings: of each prompt the mean over its pairs of -log sigma(r_w - r_l), summed over prompts (Ouyang et al. 2022, eq. 1).

All pairs of one prompt are one element of a batch: shuffled among others they overfit within an epoch, for each completion is
in K - 1 of them. Completions of equal rank make no pair, as in InstructGPT; the mean is over the pairs that are left.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample
from tunesmith.objectives import pairwise


def pairs(ranks: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return all pairs of completions of one prompt that differ in rank: [M] of the better, [M] of the worse, [M] weights.

    Args:
        ranks: [N], 1 = best. prompts: [N] numbers of the prompts they complete. The weights of a prompt's pairs sum to 1.
    """
    better, worse = ((prompts[:, None] == prompts[None]) & (ranks[:, None] < ranks[None])).nonzero(as_tuple=True)
    _, which, many = prompts[better].unique(return_inverse=True, return_counts=True)
    return better, worse, 1.0 / many[which]


def loss(scores: torch.Tensor, ranks: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over prompts, nats.

    Args:
        scores: [N] rewards. ranks: [N], 1 = best, equal = a tie. prompts: [N] numbers of the prompts they complete.

    Returns:
        The sum (scalar) and {"correct": of each prompt the share of pairs in the right order, summed}.
    """
    better, worse, weight = pairs(ranks, prompts)
    return pairwise.loss(scores[better], scores[worse], weight=weight.to(scores.dtype))


def evaluate(scores: Any, ranks: Any, prompts: Any) -> float:
    """Compute the loss of plain lists, for the worked example."""
    return float(loss(torch.tensor(scores, dtype=torch.float64), torch.tensor(ranks), torch.tensor(prompts))[0])


def worked_example() -> WorkedExample:
    """Rewards A .5, B -1, C 1, D 2 and the ranking D > C > A = B."""
    how = (
        "-log sigma of 2 - 1, 2 - .5, 2 + 1, 1 - .5 and 1 + 1 = .313262 + .201413 + .048587 + .474077 + .126928 = 1.164267; "
        "five pairs are left: .232853 (methods, section 22)"
    )
    inputs = {"scores": [0.5, -1.0, 1.0, 2.0], "ranks": [3, 3, 2, 1], "prompts": [0, 0, 0, 0]}
    # Without the tie there is a sixth pair.
    return WorkedExample(inputs, 0.232853, how, wrong={**inputs, "ranks": [3, 4, 2, 1]})
