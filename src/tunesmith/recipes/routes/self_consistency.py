"""Self-consistency: several sampled chains of thought, and the answer most of them reach (Wang et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.recipes._ladder.workload import Sizes, Workload
from tunesmith.recipes.routes import cot

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop

KIND = "prompt"


class Parameters(cot.Parameters):
    """What self-consistency can be told."""

    paths: int = Field(8, ge=2)
    """sampled chains of thought an item; the paper takes 40"""
    temperature: float = Field(0.7, gt=0)
    """of the sampled reasons; the answer after them is greedy"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return f"self-consistency m={parameters.paths}"


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens of chain of thought, with the reasons of every path."""
    return cot.workload(parameters, sizes, parameters.paths)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Sample several paths an item and let them vote; paths without an answer have no vote and are counted."""
    from tunesmith.recipes._routes.reasoning import climb_reasoning

    return climb_reasoning(
        shop, label(parameters), parameters.exemplars, parameters.max_new_tokens, parameters.paths, parameters.temperature
    )
