"""Every peft method as a route: trained on the task's rows, saved, asked every item, and what was forgotten measured."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from string import Formatter
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tunesmith.recipes._ladder.workload import Sizes, Workload, training

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop


@cache
def made(entry: ModuleType) -> PeftRoute:
    """Return a peft method's route."""
    return PeftRoute(entry)


class PeftRoute:
    """A route made of a peft entry, with that entry's parameters."""

    KIND = "tuned"

    def __init__(self, entry: ModuleType) -> None:
        self.entry, self.Parameters, self.__doc__ = entry, entry.Parameters, entry.__doc__

    def label(self, parameters: Any) -> str:
        """Name of the row in the table: the method's size, and whatever else is not as usual."""
        title: str = self.entry.TITLE
        said = {key for _, key, _, _ in Formatter().parse(title)}
        values = dict(parameters)
        usual = {key: field.get_default(call_default_factory=True) for key, field in self.Parameters.model_fields.items()}
        others = [_short(key, value) for key, value in values.items() if key not in said and value != usual[key]]
        return " ".join([title.format(**values), *others])

    def unsuitable(self, task: Task) -> str:
        """Why this route cannot be climbed on a task; "" if it can."""
        return ""

    def workload(self, parameters: Any, sizes: Sizes) -> Workload:
        """Passes for every trained token (forward, backward to the inputs and, of all weights, to these), and the evaluations.

        A weight takes 2 bytes and, where all are trained, 16 more for its gradient and AdamW's float32 state. Positions
        that a soft prompt adds are read too.
        """
        if self.entry.SAVES == "model":
            return training(sizes, passes=3.5, bytes_per_weight=18.0)
        longer = 1 + getattr(parameters, "tokens", 0) / sizes.prompt_tokens
        return training(sizes, passes=2.5 * longer, bytes_per_weight=2.3)

    def climb(self, shop: Workshop, parameters: Any) -> Climbed:
        """Train by the method, save what was trained, ask every item, and measure what was forgotten."""
        from tunesmith.recipes._routes.training import climb_trained

        return climb_trained(shop, self.label(parameters), (self.entry, parameters))


def _short(key: str, value: object) -> str:
    if isinstance(value, bool):
        return key if value else f"no {key}"
    if isinstance(value, Mapping):
        return f"{key}={'+'.join(f'{k}:{v:g}' for k, v in value.items())}"
    if isinstance(value, list):
        return f"{key}={'+'.join(map(str, value))}"
    return f"{key}={value:g}" if isinstance(value, float) else f"{key}={'none' if value is None else value}"
