"""Few-shot with the nearest training rows: demonstrations chosen per item by MiniLM similarity (Liu et al. 2022)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.core.config import Config
from tunesmith.core.registry import DEMONSTRATIONS
from tunesmith.recipes._workload import Sizes, Workload

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._climb import Climbed, Workshop

KIND = "prompt"


class Parameters(Config):
    """What retrieval-chosen demonstrations can be told."""

    shots: int = Field(4, ge=1)
    """demonstrations before an item, the nearest last"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return f"{parameters.shots}-shot nearest"


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens read: every item has demonstrations of its own."""
    return Workload(forward_tokens=sizes.items * sizes.prompt_tokens * (parameters.shots + 1), seconds=10.0)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Embed training rows and items, then ask every item after its own nearest rows."""
    from tunesmith.models.embed import embed_texts
    from tunesmith.recipes._prompting import ask_draws

    start = time.perf_counter()
    template = shop.task.template
    chosen = DEMONSTRATIONS.get("nearest").choose(
        shop.train, shop.items, parameters.shots, shop.seed, label_of=shop.task.gold,
        embed=lambda examples: embed_texts([template.prompt(e.fields) for e in examples], "embedding"),
    )  # fmt: skip
    return ask_draws(shop, label(parameters), [chosen], seconds=time.perf_counter() - start)
