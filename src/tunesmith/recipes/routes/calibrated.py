"""Few-shot with contextual calibration: divide by what the prompt says without content (Zhao et al. 2021)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tunesmith.recipes._climb import Climbed, by_draw
from tunesmith.recipes._workload import Sizes, Workload
from tunesmith.recipes.routes import few_shot

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._climb import Workshop

KIND = "prompt"


class Parameters(few_shot.Parameters):
    """What calibrated few-shot prompting can be told: the same draws as few-shot, so only the calibration differs."""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return f"{few_shot.label(parameters)} calibrated"


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return "" if task.verbalizer else "the answers are free text, which has no label probabilities"


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens read: those of the prompts without content; the items were scored for few-shot."""
    return Workload(forward_tokens=3 * parameters.draws * sizes.prompt_tokens * (parameters.shots + 1))


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Ask every item after the same demonstrations as few-shot, and correct for the prompt's own leaning."""
    from tunesmith.evaluate.answer import calibration_prior, recalibrated
    from tunesmith.recipes._prompting import ask_draws

    start = time.perf_counter()
    draws = few_shot.demonstrations(shop, parameters)
    priors = [calibration_prior(shop.asker(), draw[0]) for draw in draws]
    seconds = time.perf_counter() - start
    uncalibrated = shop.finished(few_shot.label(parameters), parameters.model_dump())
    if uncalibrated is None:
        return ask_draws(shop, label(parameters), draws, priors, seconds)
    # The same prompts were scored for few-shot; calibration only subtracts, so asking again would give the same numbers.
    before, predictions = uncalibrated
    shared = [[recalibrated(p, priors[p.draw]) for p in draw] for draw in by_draw(predictions)]
    note = f"scores shared with {before.route}; seconds are what finding the prior took"
    return Climbed(
        shared, before.evaluation_seconds, before.tokens_per_query, (before.p50_ms, before.p95_ms), seconds,
        peak_memory_gb=before.peak_memory_gb, notes=[note],
    )  # fmt: skip
