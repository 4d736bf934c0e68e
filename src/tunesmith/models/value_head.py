"""A value head: what a policy's hidden state before a token says about the rewards still to come (Ziegler et al. 2019)."""

from __future__ import annotations

import torch
from torch import nn


class ValueHead(nn.Linear):
    """V = w h + b, [N, D] -> [N], float32 whatever the model's precision; it starts at zero, so nothing is expected at first."""

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__(width, 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map hidden states [..., D] to values [...]."""
        return super().forward(input.float())[..., 0]
