"""L2-SP: (a/2) |w - w0|^2 + (b/2) |w_new|^2, a penalty that keeps weights near their start (Li et al. 2018, equation 2).

Under AdamW a penalty's gradient would be divided by the root of the second moment, like any other, and lose its meaning.
`train.update` therefore applies its first part decoupled, w <- w - learning rate * a (w - w0), as AdamW does with decay to
zero, which is the second part (`weight_decay`, for weights that are new).
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(
    weights: torch.Tensor, start: torch.Tensor, new: torch.Tensor, alpha: float, beta: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the penalty.

    Args:
        weights, start: any equal shape, pre-trained weights now and before. new: weights that were not pre-trained.
        alpha, beta: strengths a and b.

    Returns:
        The penalty (scalar) and {"distance": the root of |w - w0|^2}.
    """
    moved = (weights - start).square().sum()
    return alpha / 2 * moved + beta / 2 * new.square().sum(), {"distance": float(moved.detach().sqrt())}


def evaluate(weights: Any, start: Any, new: Any, alpha: float, beta: float) -> float:
    """Compute the penalty of plain lists, for the worked example."""
    return float(loss(torch.tensor(weights), torch.tensor(start), torch.tensor(new), alpha, beta)[0])


def worked_example() -> WorkedExample:
    """w = (1, 2), w0 = (.5, 2.5), one new weight 3; a = .1, b = .01."""
    how = "(.1 / 2) (.25 + .25) = .025 and (.01 / 2) 9 = .045, together .07 (methods, section 15)"
    inputs = {"weights": [1.0, 2.0], "start": [0.5, 2.5], "new": [3.0], "alpha": 0.1, "beta": 0.01}
    # Plain L2, which pulls to zero: w0 = 0.
    return WorkedExample(inputs, 0.07, how, wrong={**inputs, "start": [0.0, 0.0]})
