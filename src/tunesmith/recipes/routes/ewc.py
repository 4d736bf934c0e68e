"""EWC: fine-tuning with the weights held that matter to what the model says already (Kirkpatrick et al. 2017)."""

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
    """What EWC can be told."""

    strength: float = Field(1e5, gt=0, allow_inf_nan=False)
    """lambda of (lambda / 2) F (w - w0)^2"""
    data: str = Field("general", min_length=1)
    """what Fisher information is measured on: general, or tasks and files joined by +"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return _remedied.label_of("EWC", parameters)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Measure the Fisher information, train, and measure what came of it."""
    return _remedied.climb(
        shop, label(parameters), parameters, ewc=parameters.strength, replay_data=parameters.data.replace("+", ",")
    )
