"""GRPO: a completion's return less its prompt's mean, over its prompt's standard deviation (Shao et al. 2024, section 4.1.2)."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample

_SMALLEST = 1e-4


def advantages(returns: torch.Tensor) -> torch.Tensor:
    """Return the advantage of each completion; 0 where all completions of a prompt have the same return.

    Args:
        returns: [P, k] of k >= 2 completions of each prompt.
    """
    apart = returns - returns.mean(1, keepdim=True)
    return apart / (returns.std(1, keepdim=True, unbiased=True) + _SMALLEST)


def evaluate(returns: Any) -> list[list[float]]:
    """Return the advantages of plain lists, for the worked example."""
    return advantages(torch.tensor(returns, dtype=torch.float64)).tolist()


def worked_example() -> WorkedExample:
    """Three completions with returns 1, 2 and 3; and a prompt of which nothing can be learned."""
    how = "mean 2, deviation (with k - 1) 1: (-1, 0, 1) / 1.0001; equal returns give 0"
    expected = [[-0.99990001, 0.0, 0.99990001], [0.0, 0.0, 0.0]]
    inputs = {"returns": [[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]}
    return WorkedExample(inputs, expected, how, wrong={"returns": [[3.0, 2.0, 1.0], [5.0, 5.0, 5.0]]})
