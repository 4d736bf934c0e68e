"""Few-shot with contextual calibration: divide by what the prompt says without content (Zhao et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.core.errors import UserError
from tunesmith.core.registry import DEMONSTRATIONS
from tunesmith.recipes._workload import Sizes, Workload
from tunesmith.recipes.routes import few_shot

if TYPE_CHECKING:
    from tunesmith.recipes._climb import Climbed, Workshop

KIND = "prompt"


class Parameters(few_shot.Parameters):
    """What calibrated few-shot prompting can be told: the same draws as few-shot, so only the calibration differs."""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return f"{parameters.shots}-shot calibrated"


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens read: as few-shot."""
    return few_shot.workload(parameters, sizes)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Ask every item after the same demonstrations as few-shot, and correct for the prompt's own leaning.

    Raises:
        UserError: the task's answers are free text, which has no label probabilities to calibrate.
    """
    from tunesmith.evaluate.answer import calibration_prior
    from tunesmith.recipes._prompting import ask_draws

    if shop.task.verbalizer is None:
        raise UserError("calibration needs a task with choices", "Leave the route out for free-text tasks.")
    chooser = DEMONSTRATIONS.get(parameters.choice)
    draws = [
        chooser.choose(shop.train, shop.items, parameters.shots, shop.draw_seed(d), label_of=shop.task.gold) for d in range(parameters.draws)
    ]
    priors = [calibration_prior(shop.asker(), draw[0]) for draw in draws]
    return ask_draws(shop, label(parameters), draws, priors)
