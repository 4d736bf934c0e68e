"""Predict answers token by token: those of a task's template, the assistant's turns of chats, or completions (GPT)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.core.config import Config

if TYPE_CHECKING:
    from tunesmith.models.load import LM
    from tunesmith.recipes._tune import config as tune_config
    from tunesmith.recipes._tune.rows import Rows
    from tunesmith.recipes._tune.supervised import Supervised
    from tunesmith.train.fit import Validation

DEFAULTS: dict[str, Any] = {"model": "smollm2", "peft": {"name": "lora"}}
LEARNING_RATES: dict[str, float] = {}


class Parameters(Config):
    """There is nothing to choose."""


def supervise(config: tune_config.Config, parameters: Parameters) -> Supervised:
    """Load a decoder, with an adapter to go on from if there is one, and read its rows.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    from tunesmith.recipes._adapt import language_modelling
    from tunesmith.recipes._models import load_attached
    from tunesmith.recipes._tune.rows import read_rows
    from tunesmith.recipes._tune.supervised import Supervised
    from tunesmith.train.probes import check_training_data

    lm, adapter = load_attached(config.model_name, config.adapter, config.dtype)
    rows = read_rows(config, lm)
    check_training_data(rows.train, lm.tokenizer, lm.stop_ids)
    prompts = [e.ids[: e.loss_mask.index(True)] or e.ids[:1] for e in rows.train[:3]]
    loss_of = language_modelling(lm, config.activation_checkpointing)
    return Supervised(lm, rows, loss_of, prompts, _validation(lm, rows), adapter)


def _validation(lm: LM, rows: Rows) -> Validation | None:
    """Measure the task's accuracy, or the loss on held-out rows; nothing without such rows."""
    from tunesmith.evaluate.loss import mean_loss
    from tunesmith.train.fit import Validation

    if rows.validate:
        return Validation(rows.validate, "eval_accuracy", larger_is_better=True)
    return Validation(lambda: mean_loss(lm, rows.validation), "eval_loss", larger_is_better=False) if rows.validation else None
