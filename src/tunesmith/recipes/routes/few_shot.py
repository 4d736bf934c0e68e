"""Few-shot: seeded draws of demonstrations before every item, reported with their spread (Brown et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tunesmith.core.config import Config
from tunesmith.core.records import Example
from tunesmith.core.registry import DEMONSTRATIONS
from tunesmith.core.seeds import derive
from tunesmith.recipes._ladder.workload import Sizes, Workload
from tunesmith.recipes._routes.prompting import Templates, ask_draws, in_blocks

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop

KIND = "prompt"


class Parameters(Config):
    """What few-shot prompting can be told."""

    shots: int = Field(4, ge=1)
    """demonstrations before an item"""
    draws: int = Field(3, ge=1)
    """how often demonstrations are drawn anew; few-shot accuracy varies more by draw than most people expect"""
    choice: Literal["balanced", "random"] = "balanced"
    """how they are drawn: labels as equal as they can be, or whatever comes"""
    per_item: bool = False
    """draw anew for every item instead of once for all; slower, because nothing is shared"""
    order: Literal["drawn", "blocks"] = "drawn"
    """as drawn, which is random, or label by label"""
    templates: Templates = "first"
    """the task's first template, or all of them, reported with their spread"""
    drop_shots: bool = True
    """leave out the first demonstrations of a prompt that would not fit the model; no = it is an error"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table: the shots, and whatever else is not as usual."""
    others = [parameters.choice] if parameters.choice != "balanced" else []
    others += ["per item"] if parameters.per_item else []
    others += ["in blocks"] if parameters.order == "blocks" else []
    others += ["all templates"] if parameters.templates == "all" else []
    return " ".join([f"{parameters.shots}-shot", *others])


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens read: each item once a draw; the shared demonstrations are read once."""
    return Workload(forward_tokens=parameters.draws * sizes.items * sizes.prompt_tokens * 1.5)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Ask every item after the same demonstrations, once a draw."""
    shown = demonstrations(shop, parameters)
    return ask_draws(shop, label(parameters), shown, templates=parameters.templates, drop_shots=parameters.drop_shots)


def demonstrations(shop: Workshop, parameters: Parameters) -> list[list[list[Example]]]:
    """Return per draw, per item, the examples shown; a draw's number decides them, in whichever route."""
    choose = DEMONSTRATIONS.get(parameters.choice).choose
    found = []
    for draw in range(parameters.draws):
        seed, per_item = shop.draw_seed(draw), parameters.per_item
        groups = [[item] for item in shop.items] if per_item else [shop.items]
        seeds = [derive(seed, item.id) for item in shop.items] if per_item else [seed]
        chosen: list[list[Example]] = []
        for items, one in zip(groups, seeds, strict=True):
            chosen += choose(shop.train, items, parameters.shots, one, label_of=shop.task.gold)
        found.append([in_blocks(c, shop.task.gold) for c in chosen] if parameters.order == "blocks" else chosen)
    return found
