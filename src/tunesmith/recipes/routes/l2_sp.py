"""L2-SP: fine-tuning with every weight pulled back to where it began (Li et al. 2018), decoupled from the gradient."""

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
    """What L2-SP can be told."""

    strength: float = Field(6000.0, gt=0, allow_inf_nan=False)
    """a of w -= learning rate * a (w - w0)"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return _remedied.label_of("L2-SP", parameters)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Train on a leash, and measure."""
    return _remedied.climb(shop, label(parameters), parameters, l2_sp=parameters.strength)
