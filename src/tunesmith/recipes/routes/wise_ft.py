"""WiSE-FT: fine-tuning, then the mix of old and new weights that forgets least at 90 % of the gain (Wortsman et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.recipes.routes import _remedied
from tunesmith.recipes.routes._remedied import Remedied, unsuitable, workload

if TYPE_CHECKING:
    from tunesmith.recipes._ladder.climb import Climbed, Workshop

__all__ = ["unsuitable", "workload"]
KIND = "tuned"


class Parameters(Remedied):
    """What WiSE-FT can be told."""

    steps: int = Field(10, ge=1, le=100)
    """mixes tried on the way from the old weights to the new"""
    l2_sp: float = Field(0.0, ge=0, allow_inf_nan=False)
    """train on the leash of L2-SP with this strength; 0 = freely"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return _remedied.label_of("WiSE-FT", parameters)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Train, mix, and measure."""
    return _remedied.climb(shop, label(parameters), parameters, wise_ft=parameters.steps, l2_sp=parameters.l2_sp)
