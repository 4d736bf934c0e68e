"""Training a model on rows by a peft method: what `tune` and the ladder's trained routes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from tunesmith.core.records import Encoded
from tunesmith.core.runs import Run
from tunesmith.core.seeds import derive
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM
from tunesmith.objectives import causal_lm
from tunesmith.train.fit import Fitted, fit
from tunesmith.train.parameters import FitParameters
from tunesmith.train.probes import check_training_data
from tunesmith.train.rehearsal import Training


@dataclass(frozen=True)
class Adapted:
    """A trained model: how the training went and what was trained."""

    fitted: Fitted
    trained_parameters: int
    learning_rate: float


def attach(
    lm: LM,
    method: tuple[ModuleType, Any],
    data: Sequence[Encoded],
    how: FitParameters,
    seed: int,
    attached: Mapping[str, torch.nn.Parameter] | None = None,
) -> Training:
    """Attach a peft method to a model, ready to be trained on encoded rows with the language-modelling loss.

    Args:
        method: peft entry and its parameters.
        attached: tensors of an adapter that is on the model already and is trained further; None = a new one.

    Raises:
        UserError: the data would teach nothing or never to stop (see `train.probes`).
    """
    entry, parameters = method
    check_training_data(data, lm.tokenizer, lm.stop_ids)
    trained = attached or entry.attach(lm.model, parameters, derive(seed, "attach"))
    how = how.model_copy(update={"learning_rate": how.learning_rate or entry.LEARNING_RATE})
    lm.model.train()
    return Training(
        lambda batch: summed_loss(lm.model, batch.ids.to(lm.device), batch.loss_mask.to(lm.device), causal_lm.loss),
        trained, data, how, seed,
    )  # fmt: skip


def train(lm: LM, training: Training, run: Run, validate: Callable[[], float] | None = None) -> Adapted:
    """Train what was attached.

    Args:
        validate: () -> value on validation rows, larger is better.
    """

    def evaluate() -> float:
        lm.model.eval()
        value = validate() if validate else 0.0
        lm.model.train()
        return value

    how = training.how
    fitted = fit(
        training.loss_of, training.parameters, training.data, how, run, training.seed, evaluate if validate else None
    )  # fmt: skip
    lm.model.eval()
    return Adapted(fitted, sum(p.numel() for p in training.parameters.values()), how.learning_rate or 0.0)
