"""Few-shot: seeded draws of demonstrations before every item, reported with their spread (Brown et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tunesmith.core.config import Config
from tunesmith.core.records import Example
from tunesmith.core.registry import DEMONSTRATIONS
from tunesmith.recipes._workload import Sizes, Workload

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._climb import Climbed, Workshop

KIND = "prompt"


class Parameters(Config):
    """What few-shot prompting can be told."""

    shots: int = Field(4, ge=1)
    """demonstrations before an item"""
    draws: int = Field(3, ge=1)
    """how often demonstrations are drawn anew; few-shot accuracy varies more by draw than most people expect"""
    choice: Literal["balanced", "random"] = "balanced"
    """how they are drawn: labels as equal as they can be, or whatever comes"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return f"{parameters.shots}-shot" + ("" if parameters.choice == "balanced" else f" {parameters.choice}")


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens read: each item once a draw; the shared demonstrations are read once."""
    return Workload(forward_tokens=parameters.draws * sizes.items * sizes.prompt_tokens * 1.5)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Ask every item after the same demonstrations, once a draw."""
    from tunesmith.recipes._prompting import ask_draws

    return ask_draws(shop, label(parameters), demonstrations(shop, parameters))


def demonstrations(shop: Workshop, parameters: Parameters) -> list[list[list[Example]]]:
    """Return per draw, per item, the examples shown; a draw's number decides them, in whichever route."""
    choose = DEMONSTRATIONS.get(parameters.choice).choose
    numbers = range(parameters.draws)
    return [choose(shop.train, shop.items, parameters.shots, shop.draw_seed(d), label_of=shop.task.gold) for d in numbers]
