"""KTO: answers that were wanted or not, without partners, against what answers gain anyway (Ethayarajh et al. 2024, equation 8).

What they gain anyway, an estimate of KL(pi || ref), is measured before each update: the mean log-ratio of answers that belong to
other prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.core.config import Config

if TYPE_CHECKING:
    import torch

    from tunesmith.recipes._align.judged import Judged

LEARNS_FROM = "texts"
HAS_REFERENCE = True


class Parameters(Config):
    """What KTO can be told."""

    beta: float = Field(0.1, gt=0, allow_inf_nan=False)
    """how much leaving the reference costs"""
    weight_wanted: float = Field(1.0, gt=0, allow_inf_nan=False)
    """w of wanted answers; with as many of both kinds 1 to 4/3 of the other is advised, else so much more as there are fewer"""
    weight_unwanted: float = Field(1.0, gt=0, allow_inf_nan=False)
    """w of unwanted answers"""


def loss(it: Judged, parameters: Parameters) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over judged completions, and {"correct": wanted ones that gained more than any, others less}."""
    from tunesmith.objectives import kto

    weights = parameters.weight_wanted, parameters.weight_unwanted
    return kto.loss(it.gains[it.judged], it.wanted, it.anyway, parameters.beta, *weights)
