"""Best of k: minus the sum of log softmax(r_1 .. r_k)_b, b the completion people chose among k (Ziegler et al. 2019, equation 1).

The paper's equation lacks the minus sign, its code has it (`label_types.py` of openai/lm-human-preferences).
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample
from tunesmith.objectives import classification


def loss(scores: torch.Tensor, best: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over questions, nats.

    Args:
        scores: [N, k] rewards of the k completions of a prompt. best: [N] which of them was chosen, from 0.

    Returns:
        The sum (scalar) and {"correct": questions in which the chosen completion has the largest reward}.
    """
    return classification.loss(scores, best)


def evaluate(scores: Any, best: Any) -> float:
    """Compute the loss of plain lists, for the worked example."""
    return float(loss(torch.tensor(scores, dtype=torch.float64), torch.tensor(best))[0])


def worked_example() -> WorkedExample:
    """Rewards .1, .9, -.3 and .2, of which the second was chosen."""
    how = "e^.1 + e^.9 + e^-.3 + e^.2 = 5.526995; its logarithm 1.709644 less .9 (methods, section 20)"
    inputs = {"scores": [[0.1, 0.9, -0.3, 0.2]], "best": [1]}
    return WorkedExample(inputs, 0.809644, how, wrong={"scores": [[-0.1, -0.9, 0.3, -0.2]], "best": [1]})
