"""LoRA: low-rank updates trained on the task's rows, the rest of the model frozen (Hu et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.peft import lora
from tunesmith.recipes._workload import Sizes, Workload, training

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._climb import Climbed, Workshop

KIND = "tuned"
Parameters = lora.Parameters


def label(parameters: lora.Parameters) -> str:
    """Name of the row in the table: the rank, and whatever else is not as usual."""
    usual = {key: field.default for key, field in lora.Parameters.model_fields.items()}
    others = [f"{key}={_short(value)}" for key, value in parameters if key != "rank" and value != usual[key]]
    return " ".join([f"LoRA r={parameters.rank}", *others])


def _short(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: lora.Parameters, sizes: Sizes) -> Workload:
    """Two passes for every trained token (forward, and backward to the inputs), and the evaluations."""
    return training(sizes, passes=2.5, bytes_per_weight=2.3)


def climb(shop: Workshop, parameters: lora.Parameters) -> Climbed:
    """Train the adapter, save it, ask every item, and measure what was forgotten."""
    from tunesmith.recipes._training import climb_trained

    return climb_trained(shop, label(parameters), (lora, parameters))
