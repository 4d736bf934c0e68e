"""Say what asking a task by one way of prompting would cost, from sizes and a moment of matrix products."""

from __future__ import annotations

from typing import Any

from tunesmith.recipes import prompt
from tunesmith.recipes.plan import render

__all__ = ["Config", "render", "run"]

POSITIONAL = "task"
EXAMPLES = ("tunesmith plan prompt movies", "tunesmith plan prompt movies --method few_shot --method.shots 8")


class Config(prompt.Config):
    """Settings of `tunesmith plan prompt`: those of the prompting it is about."""


def run(config: Config) -> dict[str, Any]:
    """Estimate seconds and memory as a ladder's plan does for this one route.

    Raises:
        UserError: an unknown method or task, or a method that is no prompting or does not suit the task.
    """
    from tunesmith.recipes import ladder
    from tunesmith.recipes._ladder.estimates import plan

    whole = prompt.as_ladder(config)
    routes, task = ladder.prepare(whole)
    prompt.only_route(routes, task)
    return {"status": "done", **plan(whole, task, routes)}
