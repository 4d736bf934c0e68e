"""Prefix: trained keys and values before the input at every layer, the model frozen (prefix tuning, Li & Liang 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.peft import prefix_tuning
from tunesmith.recipes._workload import Sizes, Workload, training

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._climb import Climbed, Workshop

KIND = "tuned"
Parameters = prefix_tuning.Parameters


def label(parameters: prefix_tuning.Parameters) -> str:
    """Name of the row in the table: the number of positions, and whether they are trained without an MLP."""
    return f"prefix {parameters.tokens}" + ("" if parameters.hidden else " direct")


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: prefix_tuning.Parameters, sizes: Sizes) -> Workload:
    """Two passes for every trained token (forward, and backward to the inputs), and the evaluations."""
    return training(sizes, passes=2.5, bytes_per_weight=2.3)


def climb(shop: Workshop, parameters: prefix_tuning.Parameters) -> Climbed:
    """Train the prefix, save it, ask every item, and measure what the model does elsewhere while it reads the prefix."""
    from tunesmith.recipes._training import climb_trained

    return climb_trained(shop, label(parameters), (prefix_tuning, parameters))
