"""Zero-shot: the template alone, no examples and no training (Radford et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.core.config import Config
from tunesmith.recipes._ladder.workload import Sizes, Workload
from tunesmith.recipes._routes.prompting import Templates, ask_draws

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop

KIND = "prompt"


class Parameters(Config):
    """What zero-shot prompting can be told."""

    templates: Templates = "first"
    """the task's first template, or all of them, each a draw, reported with their spread"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return "zero-shot" + (" all templates" if parameters.templates == "all" else "")


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens read: each item once."""
    return Workload(forward_tokens=sizes.items * sizes.prompt_tokens)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Ask every item with its bare prompt."""
    return ask_draws(shop, label(parameters), [None], templates=parameters.templates)
