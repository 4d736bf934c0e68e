"""IPO: like DPO, but a pair that is far enough apart is left alone, so nothing runs away (Azar et al. 2023, equation 17)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.core.config import Config

if TYPE_CHECKING:
    import torch

    from tunesmith.recipes._align.judged import Judged

LEARNS_FROM = "pairs"
HAS_REFERENCE = True


class Parameters(Config):
    """What IPO can be told."""

    tau: float = Field(0.1, gt=0, allow_inf_nan=False)
    """how much leaving the reference costs: pairs are drawn 1 / (2 tau) apart"""
    per_token: bool = False
    """compare means over tokens and not sums, so that long completions do not set the pace"""


def loss(it: Judged, parameters: Parameters) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over comparisons, and {"correct": comparisons that the policy decides alike}."""
    from tunesmith.objectives import ipo

    gains = it.gains / it.lengths if parameters.per_token else it.gains
    return ipo.loss(gains[it.first], gains[it.second], parameters.tau)
