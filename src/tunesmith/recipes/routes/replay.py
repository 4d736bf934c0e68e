"""Replay: fine-tuning with rows of general text or of other tasks mixed into every epoch (rehearsal, Robins 1995)."""

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
    """What replay can be told."""

    share: float = Field(0.2, gt=0, lt=1)
    """share of the rows of an epoch that are replayed"""
    data: str = Field("general", min_length=1)
    """what is replayed: general, or tasks and files joined by +"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return _remedied.label_of("replay", parameters)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Train on both, and measure."""
    return _remedied.climb(
        shop, label(parameters), parameters, replay=parameters.share, replay_data=parameters.data.replace("+", ",")
    )
