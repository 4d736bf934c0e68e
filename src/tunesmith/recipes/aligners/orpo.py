"""ORPO: learn the preferred completion, and raise its odds over the other's; no reference (Hong et al. 2024, equation 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.core.config import Config

if TYPE_CHECKING:
    import torch

    from tunesmith.recipes._align.judged import Judged

LEARNS_FROM = "pairs"
HAS_REFERENCE = False


class Parameters(Config):
    """What ORPO can be told."""

    weight: float = Field(0.1, ge=0, allow_inf_nan=False)
    """lambda: of the odds beside the likelihood"""


def loss(it: Judged, parameters: Parameters) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over comparisons, nats, and {"correct": comparisons whose preferred completion is the likelier}."""
    from tunesmith.objectives import orpo

    per_token = it.logprobs / it.lengths
    return orpo.loss(per_token[it.first], per_token[it.second], parameters.weight)
