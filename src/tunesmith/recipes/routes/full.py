"""Full fine-tuning: every weight is trained on the task's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.peft import full
from tunesmith.recipes._workload import Sizes, Workload, training

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._climb import Climbed, Workshop

KIND = "tuned"
Parameters = full.Parameters


def label(parameters: full.Parameters) -> str:
    """Name of the row in the table."""
    return "full"


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: full.Parameters, sizes: Sizes) -> Workload:
    """Three passes for every trained token; 2 bytes a weight and gradient, and 12 for AdamW's float32 state."""
    return training(sizes, passes=3.5, bytes_per_weight=18.0)


def climb(shop: Workshop, parameters: full.Parameters) -> Climbed:
    """Train the model, save it, ask every item, and measure what was forgotten."""
    from tunesmith.recipes._training import climb_trained

    return climb_trained(shop, label(parameters), (full, parameters))
