"""Elastic weight consolidation: sum_i (lambda/2) F_i (w_i - w0_i)^2 (Kirkpatrick et al. 2017, equation 3).

F is the diagonal of the Fisher information, how much each weight matters to what the model says where it stands:
F_i = E over texts x and labels y ~ p(y|x) of (d log p(y|x) / d w_i)^2, see `train.fisher`.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(
    weights: torch.Tensor, start: torch.Tensor, fisher: torch.Tensor, strength: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the penalty (scalar) and no stats.

    Args:
        weights, start, fisher: any equal shape, weights now and before, and F. strength: lambda.
    """
    return strength / 2 * (fisher * (weights - start).square()).sum(), {}


def evaluate(weights: Any, start: Any, fisher: Any, strength: float) -> float:
    """Compute the penalty of plain lists, for the worked example."""
    return float(loss(torch.tensor(weights), torch.tensor(start), torch.tensor(fisher), strength)[0])


def worked_example() -> WorkedExample:
    """w = (1, 2), w0 = (.5, 2.5), F = (4, .5), lambda = 2."""
    how = "(2 / 2) (4 * .25 + .5 * .25) = 1 + .125 = 1.125 (methods, section 15)"
    inputs = {"weights": [1.0, 2.0], "start": [0.5, 2.5], "fisher": [4.0, 0.5], "strength": 2.0}
    # Every weight alike, as L2-SP has it.
    return WorkedExample(inputs, 1.125, how, wrong={**inputs, "fisher": [1.0, 1.0]})
