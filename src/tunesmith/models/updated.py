"""A frozen linear layer to whose output something is added: what a pass that lays weights out for the processor must know."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class UpdatedLinear(nn.Module, ABC):
    """base(x) and an update of x; abstract."""

    base: nn.Module

    @property
    @abstractmethod
    def apart(self) -> bool:
        """Whether the output is base(x) plus what `add_updates_` adds, so that the base may be computed in another way."""

    @abstractmethod
    def add_updates_(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add the update for x [rows, ..., K] to out [rows, ..., D] in place, without gradients, and return it."""

    def factors_now(self) -> tuple[torch.Tensor, torch.Tensor, float] | None:
        """Return A [R, K], B [D, R] and s where the update is s B A x for every row and nothing else; None = it is not."""
        return None
