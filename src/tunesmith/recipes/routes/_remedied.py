"""What the routes with a remedy against forgetting share: full fine-tuning, or another method, with one thing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from tunesmith.core.config import Config
from tunesmith.recipes._ladder.workload import Sizes, Workload, training

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop


class Remedied(Config):
    """What every remedy can be told."""

    peft: str = Field("full", min_length=1)
    """which method the remedy is used with: full, lora, ..."""

    @field_validator("peft")
    @classmethod
    def _known(cls, value: str) -> str:
        from tunesmith.core.errors import unknown
        from tunesmith.core.registry import PEFT

        if value.replace("_", "-") not in PEFT.names():
            raise ValueError(str(unknown("peft method", value, PEFT.names())))
        return value


def label_of(name: str, parameters: Remedied) -> str:
    """Name of the row in the table: the remedy, and whatever is not as usual."""
    usual = {key: field.default for key, field in type(parameters).model_fields.items()}
    others = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
              for key, value in parameters if value != usual[key]]  # fmt: skip
    return " ".join([name, *others])


def unsuitable(task: Task) -> str:
    """Why such a route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: Remedied, sizes: Sizes) -> Workload:
    """Full fine-tuning, with a copy of the old weights and the Fisher information at the most."""
    return training(sizes, passes=4.5, bytes_per_weight=24.0)


def climb(shop: Workshop, title: str, parameters: Remedied, **settings: Any) -> Climbed:
    """Train as the ladder does with these settings of a remedy, save, ask every item, and measure what was forgotten."""
    from tunesmith.core.registry import PEFT
    from tunesmith.recipes._routes.training import climb_trained
    from tunesmith.recipes._tune.remedies_config import Remedies

    how = Remedies(**shop.fit_parameters.model_dump(), **settings)
    return climb_trained(shop, title, PEFT.parameters(parameters.peft), how)
