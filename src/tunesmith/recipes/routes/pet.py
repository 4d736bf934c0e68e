"""PET: cloze patterns learn from few labels, label the other rows, and a classifier learns from that (Schick & Schuetze 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.recipes._ladder.workload import Sizes, Workload, encoder_training
from tunesmith.recipes._routes.pet_config import Parameters
from tunesmith.recipes.routes.classifier import labelled_as

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop

KIND = "tuned"


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return labelled_as("PET" if parameters.generations == 1 else "iPET", parameters)


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return "" if task.verbalizer else "the answers are free text, and PET's gap holds one word of a label"


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Each model's training and labelling, and the classifier's; a task is taken to have four patterns."""
    rows = parameters.labelled * sum(parameters.growth**g for g in range(parameters.generations))
    models = (parameters.patterns or 4) * parameters.models
    learned = models * rows * (1 + parameters.texts) * parameters.epochs * sizes.prompt_tokens
    labelled = models * parameters.generations * sizes.train_tokens / 3
    distilled = parameters.distillation_epochs * sizes.train_tokens
    return encoder_training(sizes, parameters.repeats * (learned + labelled + distilled), parameters.repeats)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """For each draw of labelled rows: train the patterns' models, let them label the others, distil, and ask every item."""
    from tunesmith.recipes._routes.pet_steps import distil, labels_of
    from tunesmith.recipes._routes.repeats import Made, Repeat, climb_repeats

    def make(repeat: Repeat) -> Made:
        soft = labels_of(shop, parameters, repeat)
        lm, cost = distil(shop, parameters, repeat, soft)
        return Made(lm, soft.cost + cost, soft.notes)

    return climb_repeats(shop, label(parameters), parameters.labelled, parameters.repeats, make)
