"""Few-shot with contextual calibration: divide by what the prompt says without content (Zhao et al. 2021)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from tunesmith.recipes._ladder.climb import Climbed, by_draw
from tunesmith.recipes._ladder.workload import Sizes, Workload
from tunesmith.recipes._routes.prompting import fitting, forms
from tunesmith.recipes.routes import few_shot

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.evaluate.results import Prediction
    from tunesmith.recipes._ladder.climb import Workshop

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
    label_before = few_shot.label(parameters)
    finished = shop.finished(label_before, parameters.model_dump())
    if finished is None:
        climbed = few_shot.climb(shop, few_shot.Parameters(**parameters.model_dump()))
        draws, seconds = _calibrated(shop, parameters, climbed.draws)
        return replace(climbed, draws=draws, seconds=seconds)
    # The same prompts were scored for few-shot; calibration only subtracts, so asking again would give the same numbers.
    before, predictions = finished
    draws, seconds = _calibrated(shop, parameters, by_draw(predictions))
    note = f"scores shared with {before.route}; seconds are what finding the prior took"
    return Climbed(
        draws, before.evaluation_seconds, before.tokens_per_query, (before.p50_ms, before.p95_ms), seconds,
        peak_memory_gb=before.peak_memory_gb, notes=[note], templates=before.templates,
    )  # fmt: skip


def _calibrated(shop: Workshop, parameters: Parameters, draws: list[list[Prediction]]) -> tuple[list[list[Prediction]], float]:
    """Return the draws with the prior of their own prompts subtracted, and the seconds that took; p_cf depends on the prompt."""
    from tunesmith.evaluate.answer import calibration_priors, recalibrated

    start = time.perf_counter()
    shown = few_shot.demonstrations(shop, parameters)
    asks = [(task, draw) for task in forms(shop.task, parameters.templates).values() for draw in shown]
    found = []
    for (task, wanted), predictions in zip(asks, draws, strict=True):
        per_item = fitting(shop, task, wanted, parameters.drop_shots) or wanted
        keys = [tuple(e.id for e in one) for one in per_item]
        distinct = dict(zip(keys, per_item, strict=True))
        priors = dict(zip(distinct, calibration_priors(shop.with_task(task).asker(), list(distinct.values())), strict=True))
        found.append([recalibrated(p, priors[key]) for p, key in zip(predictions, keys, strict=True)])
    return found, time.perf_counter() - start
