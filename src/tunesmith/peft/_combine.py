"""Several fine-tunings of one base made into one: weighted sum, TIES and DARE, on what each changed (its task vector).

Pure functions of tensors; `tunesmith merge` applies them to each weight matrix by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

METHODS = ("linear", "ties", "dare")


def combine(
    method: str, changes: Sequence[torch.Tensor], weights: Sequence[float], density: float, generator: torch.Generator
) -> torch.Tensor:
    """Combine T changes of one weight, each of the same shape, by a method of `METHODS`.

    Args:
        generator: decides what DARE drops; the others do not draw.
    """
    if method == "ties":
        return ties(changes, weights, density)
    return linear([drop_and_rescale(c, density, generator) for c in changes] if method == "dare" else changes, weights)


def linear(changes: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Return sum_t w_t delta_t (task arithmetic, Ilharco et al. 2023, section 2)."""
    total = torch.zeros_like(changes[0])
    for change, weight in zip(changes, weights, strict=True):
        total.add_(change, alpha=weight)
    return total


def trim(change: torch.Tensor, density: float) -> torch.Tensor:
    """Keep the share `density` of the numbers that are largest in magnitude, rounded down, and set the others to zero."""
    kept = torch.zeros_like(change).flatten()
    index = change.abs().flatten().topk(int(density * change.numel())).indices
    kept[index] = change.flatten()[index]
    return kept.view_as(change)


def ties(changes: Sequence[torch.Tensor], weights: Sequence[float], density: float) -> torch.Tensor:
    """Trim, elect a sign, and take the mean of those that have it (Yadav et al. 2023, algorithm 1).

    The sign of a number is that of the trimmed changes' sum; the mean is over the changes that have this sign, each times
    its weight, divided by how many there are. With weights of 1 that is the paper's tau_m, and equal weights w its
    lambda = w. The paper trims a model's changes all together; here, as in Hugging Face PEFT, each matrix is trimmed.
    """
    trimmed = torch.stack([trim(change, density) for change in changes])
    elected = trimmed.sum(0).sign()
    agrees = (trimmed.sign() == elected) & (elected != 0)
    scale = torch.tensor(weights, dtype=trimmed.dtype, device=trimmed.device).view(-1, *[1] * changes[0].dim())
    return (trimmed * scale * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def drop_and_rescale(change: torch.Tensor, density: float, generator: torch.Generator) -> torch.Tensor:
    """Drop each number with probability 1 - density and divide the others by density (DARE, Yu et al. 2024, equation 3).

    What is expected of a number is the number itself, so a sum of few large changes replaces one of many small ones.
    """
    kept = torch.rand(change.shape, generator=generator) < density
    return change * kept.to(change.device) / density
