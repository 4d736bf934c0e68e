"""Classify by a decoder's last token, with the texts' own loss beside it: L3 = L2 + lambda L1 (Radford et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from tunesmith.core.config import Config

if TYPE_CHECKING:
    from tunesmith.recipes._tune import config as tune_config
    from tunesmith.recipes._tune.supervised import Supervised

# The authors' settings, but for a schedule that does not fall while it rises (--schedule gpt is theirs).
DEFAULTS: dict[str, Any] = {"model": "smollm2", "peft": {"name": "lora"}, "epochs": 3.0, "batch_size": 32, "warmup": 0.002}
LEARNING_RATES = {"full": 6.25e-5}


class Parameters(Config):
    """What the GPT-1 recipe can be told."""

    lm_weight: float = Field(0.5, ge=0, allow_inf_nan=False)
    """lambda, how much the texts' own language-modelling loss counts; 0 = the label alone"""
    dropout: float = Field(0.1, ge=0, lt=1)
    """on the hidden state that the classifier reads"""


def supervise(config: tune_config.Config, parameters: Parameters) -> Supervised:
    """Load a decoder, put delimiters and a classifier on it, and read the task's rows.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    from tunesmith.core.files import text_hash
    from tunesmith.core.registry import PEFT
    from tunesmith.data.task import record_of
    from tunesmith.recipes._models import load
    from tunesmith.recipes._tune.gpt import GPT
    from tunesmith.recipes._tune.rows import Rows, task_of, within
    from tunesmith.recipes._tune.supervised import Supervised, with_adapter
    from tunesmith.recipes._tune.tested import Tested, tested

    task = task_of(config, "labels")
    lm = load(config.model_name, dtype=config.dtype)
    whole = config.adapter is None and PEFT.parameters(config.peft or {})[0].SAVES == "model"
    gpt = GPT.on(lm, task, whole, config.seed, parameters.dropout)
    adapter = with_adapter(lm, config.adapter)
    train, lengths, warnings = within(config, gpt.encode(task.splits.train[: config.train_rows]))
    held_out = gpt.encode(task.splits.validation[: config.validation_rows])
    items = task.splits.test[: config.test_rows]

    def test() -> Tested:
        return tested(task.name, task.metrics, gpt.answer(items, "test"), config.seed)

    fingerprint = text_hash(train.fingerprint(), *(row.example_id for row in held_out))
    warnings = [*task.splits.warnings, *warnings]
    rows = Rows(train, train.select([]), None, fingerprint, lengths, warnings, test=test if items else None)
    return Supervised(
        lm, rows, gpt.loss(parameters.lm_weight, config.activation_checkpointing), [row.ids for row in train[:3]],
        gpt.validation(held_out), adapter, heads=gpt.heads, task_type="SEQ_CLS", asked={"tasks": [record_of(task)]},
    )  # fmt: skip
