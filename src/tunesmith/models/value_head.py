"""A value function: what hidden states before a token say about the rewards still to come (Ziegler et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Values:
    """The value function of a policy.

    Attributes:
        head: hidden states [N, D] before N tokens -> values [N].
        parameters: what is trained of it, by name.
        inside: a with-block in which the model makes the hidden states of the value function; None = they are the policy's own.
    """

    head: ValueHead
    parameters: Mapping[str, nn.Parameter]
    inside: Callable[[], AbstractContextManager[None]] | None = None
