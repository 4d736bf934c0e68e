"""Chain of thought: reasons first, then the answer read from them (Wei et al. 2022; Kojima et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.core.config import Config
from tunesmith.recipes._ladder.workload import Sizes, Workload

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop

KIND = "prompt"
# One token generated takes about as long as this many read: every one needs all weights once.
_SLOWER = 4


class Parameters(Config):
    """What chain-of-thought prompting can be told."""

    exemplars: int | None = Field(None, ge=0)
    """rows shown with their field 'rationale'; 0 = "Let's think step by step."; absent = 8, or 0 where no row has one"""
    max_new_tokens: int = Field(96, ge=1)
    """most tokens of reasons"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return "chain of thought" + ("" if parameters.exemplars is None else f" k={parameters.exemplars}")


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: Parameters, sizes: Sizes, paths: int = 1) -> Workload:
    """Tokens read: each item and its exemplars, and each path's reasons at the price of generation."""
    shown = 4 if parameters.exemplars is None else parameters.exemplars
    read = sizes.prompt_tokens * (2 + shown)
    return Workload(forward_tokens=sizes.items * (read + paths * _SLOWER * parameters.max_new_tokens))


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Let the model reason greedily about every item, and read its answer."""
    from tunesmith.recipes._routes.reasoning import climb_reasoning

    return climb_reasoning(shop, label(parameters), parameters.exemplars, parameters.max_new_tokens)
