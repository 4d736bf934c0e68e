"""RLOO: a completion's return less the mean of the others of its prompt (Kool et al. 2019; Ahmadian et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def advantages(returns: torch.Tensor) -> torch.Tensor:
    """Return the advantage of each completion.

    Args:
        returns: [P, k] of k >= 2 completions of each prompt.
    """
    k = returns.shape[1]
    return (returns - returns.mean(1, keepdim=True)) * (k / (k - 1))


def evaluate(returns: Any) -> list[list[float]]:
    """Return the advantages of plain lists, for the worked example."""
    return advantages(torch.tensor(returns, dtype=torch.float64)).tolist()


def worked_example() -> WorkedExample:
    """Three completions with returns 1, 2 and 6."""
    how = "1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2; less the mean of all it would be -2, -1, 3"
    return WorkedExample({"returns": [[1.0, 2.0, 6.0]]}, [[-3.0, -1.5, 4.5]], how, wrong={"returns": [[1.0, 2.0, 3.0]]})
