"""Clipped value loss: the sum of 1/2 max((v - R)^2, (clip(v, v_old - e, v_old + e) - R)^2) (PPO as released by OpenAI, 2017)."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(
    values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float = 0.2
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over tokens.

    Args:
        values: [N] of the value head. old: [N] the same when the tokens were sampled. returns: [N] what they should have
            been. clip: e.

    Returns:
        The sum (scalar) and {"clipped": tokens at which the clipped value is the worse one}.
    """
    free = (values - returns) ** 2
    held = (torch.maximum(torch.minimum(values, old + clip), old - clip) - returns) ** 2
    return 0.5 * torch.maximum(free, held).sum(), {"clipped": float((held.detach() > free.detach()).sum())}


def evaluate(values: Any, old: Any, returns: Any, clip: float) -> float:
    """Compute the loss of plain lists, for the worked example."""
    v, o, r = (torch.tensor(x, dtype=torch.float64) for x in (values, old, returns))
    return float(loss(v, o, r, clip)[0])


def worked_example() -> WorkedExample:
    """v = 1 from .5 towards .4, and v = .2 from .5 towards 1."""
    how = "max(.36, (.7 - .4)^2) / 2 = .18; max(.64, (.3 - 1)^2) / 2 = .32 (methods, section 23)"
    inputs = {"values": [1.0, 0.2], "old": [0.5, 0.5], "returns": [0.4, 1.0], "clip": 0.2}
    return WorkedExample(inputs, 0.5, how, wrong={**inputs, "returns": [1.0, 0.4]})
