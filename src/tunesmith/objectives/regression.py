"""Regression: the sum of (y - w C)^2 over rows, C what the encoder makes of a text or a pair (Devlin et al. 2019 on STS-B).

The sum is returned, not a mean, so that the loss of a batch does not depend on how it was cut.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(predictions: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the summed squared error.

    Args:
        predictions: [N], one number a text. targets: [N] the right numbers.

    Returns:
        The sum (scalar, float32 or better) and {}: there is no right or wrong to count.
    """
    wide = torch.promote_types(predictions.dtype, torch.float32)
    return torch.nn.functional.mse_loss(predictions.to(wide), targets.to(wide), reduction="sum"), {}


def evaluate(predictions: Any, targets: Any) -> float:
    """Compute the loss of plain lists, for the worked example."""
    return float(loss(torch.tensor(predictions), torch.tensor(targets))[0])


def worked_example() -> WorkedExample:
    """Three texts, one of them right."""
    how = "(2 - 1)^2 + (0 - 0)^2 + (-1 - 1)^2 = 1 + 0 + 4; a mean would be 5/3"
    inputs = {"predictions": [2.0, 0.0, -1.0], "targets": [1.0, 0.0, 1.0]}
    return WorkedExample(inputs, 5.0, how, wrong={"predictions": [-2.0, 0.0, 1.0], "targets": [1.0, 0.0, 1.0]})
