"""Training a model on rows by a peft method: what `tune` and the ladder's trained routes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import torch

from tunesmith.core.records import Encoded
from tunesmith.core.runs import Run
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM
from tunesmith.objectives import causal_lm
from tunesmith.peft import prompt_tuning
from tunesmith.train.engines.local import LossOf, current
from tunesmith.train.fit import Fitted, Validation, fit
from tunesmith.train.parameters import FitParameters
from tunesmith.train.training import Training
from tunesmith.train.vocabulary import used_rows_only


@dataclass(frozen=True)
class Adapted:
    """A trained model: how the training went and what was trained."""

    fitted: Fitted
    trained_parameters: int
    learning_rate: float


def with_answers(method: tuple[ModuleType, Any], answers: Sequence[Sequence[int]]) -> tuple[ModuleType, Any]:
    """Let a soft prompt that starts from answer words, and was told none, start from a task's own.

    Args:
        answers: token ids of each answer word; empty where a task has no choices.
    """
    entry, parameters = method
    if entry is not prompt_tuning or parameters.label_ids:
        return method
    return entry, parameters.model_copy(update={"label_ids": [list(ids) for ids in answers]})


def attach(
    lm: LM,
    method: tuple[ModuleType, Any],
    data: Sequence[Encoded],
    how: FitParameters,
    seed: int,
    loss_of: LossOf,
    attached: Mapping[str, torch.nn.Parameter] | None = None,
    heads: Sequence[str] = (),
) -> Training:
    """Attach a peft method to a model, ready to be trained on encoded rows.

    Args:
        method: peft entry and its parameters.
        attached: tensors of an adapter that is on the model already and is trained further; None = a new one.
        heads: names of modules that are trained whatever the method trains.
    """
    entry, parameters = method
    trained = dict(attached or entry.attach(lm.model, parameters, derive(seed, "attach")))
    for head in heads:
        lm.model.get_submodule(head).requires_grad_(True)
        trained |= {f"{head}.{name}": p for name, p in lm.model.get_submodule(head).named_parameters()}
    how = how.model_copy(update={"learning_rate": how.learning_rate or entry.LEARNING_RATE})
    lm.model.train()
    return Training(loss_of, trained, data, how, seed, entry.rates(lm.model, parameters))


def language_modelling(lm: LM, activation_checkpointing: bool) -> LossOf:
    """Return the loss of a decoder: minus log p of each token that counts, from those before it."""

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        return summed_loss(lm.model, *batch.tensors(lm.device), causal_lm.loss, activation_checkpointing)

    return loss_of


def train(lm: LM, training: Training, run: Run, validation: Validation | None = None) -> Adapted:
    """Train what was attached.

    Args:
        validation: what to measure on validation rows.
    """

    def measured(measure: Callable[[], float]) -> float:
        lm.model.eval()
        value = measure()
        lm.model.train()
        return value

    if validation:
        validation = replace(validation, measure=partial(measured, validation.measure))
    with used_rows_only(lm.model, training) as fewer:
        divided, loss_of = current().divide(lm.model, fewer.parameters, fewer.loss_of)
        fitted = fit(replace(fewer, parameters=divided, loss_of=loss_of), run, validation)
    lm.model.eval()
    trained = sum(p.numel() for p in training.parameters.values())
    return Adapted(fitted, trained, training.how.learning_rate or 0.0)
