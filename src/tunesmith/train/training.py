"""A training, put together so that it can be planned, rehearsed and done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from tunesmith.core.records import Encoded
from tunesmith.train.anchor import Anchor
from tunesmith.train.engines.local import LossOf
from tunesmith.train.parameters import FitParameters


@dataclass(frozen=True)
class Training:
    """What is trained, on what, and how.

    Attributes:
        loss_of: batch -> (summed loss over the predictions that count, what else was counted on the way: {"correct": ...}).
        parameters: what is trained, by name.
        how: `learning_rate` must be set.
        rates: parameter name -> factor of the learning rate, where it is not 1 (LoRA+, rates that fall from layer to layer).
        anchor: what holds weights near their start; None = nothing.
        apart: names of parameters that are a network of its own, with a norm of its own to clip at.
    """

    loss_of: LossOf
    parameters: Mapping[str, torch.nn.Parameter]
    data: Sequence[Encoded]
    how: FitParameters
    seed: int
    rates: Mapping[str, float] = field(default_factory=dict)
    anchor: Anchor | None = None
    apart: frozenset[str] = frozenset()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.parameters.values())).device
