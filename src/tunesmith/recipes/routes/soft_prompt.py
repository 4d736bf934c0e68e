"""Soft prompt: a few trained embeddings before the input, the model frozen (prompt tuning, Lester et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.peft import prompt_tuning
from tunesmith.recipes._ladder.workload import Sizes, Workload, training

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop

KIND = "tuned"


class Parameters(prompt_tuning.Parameters):
    """What the soft prompt can be told."""

    ensemble: int = Field(1, ge=1, le=20)
    """so many prompts, each from its own seed, answer by majority vote (Lester et al., section 6)"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table: the number of virtual tokens, and what else is not as usual."""
    others = [f"{parameters.init}"] if parameters.init != "labels" else []
    others += [f"x {parameters.ensemble}"] if parameters.ensemble > 1 else []
    return " ".join([f"soft prompt {parameters.tokens}", *others])


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Two passes for every trained token, virtual ones included, and the evaluations; all once for each prompt."""
    longer = 1 + parameters.tokens / sizes.prompt_tokens
    one = training(sizes, passes=2.5 * longer, bytes_per_weight=2.3)
    return Workload(parameters.ensemble * one.forward_tokens, memory_gb=one.memory_gb)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Train the prompt, save it, ask every item, and measure what the model does elsewhere while it reads the prompt."""
    from tunesmith.recipes._routes.training import climb_trained
    from tunesmith.recipes._routes.vote import climb_ensemble

    if parameters.ensemble == 1:
        return climb_trained(shop, label(parameters), (prompt_tuning, parameters))
    return climb_ensemble(shop, label(parameters), (prompt_tuning, parameters), parameters.ensemble)
