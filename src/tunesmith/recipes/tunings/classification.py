"""Sequence classification: a new head on an encoder's first token, softmax(W tanh(W_p h_[CLS])) (Devlin et al. 2019, 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.core.config import Config

if TYPE_CHECKING:
    from tunesmith.recipes import _tune_config
    from tunesmith.recipes._supervised import Supervised

# Published for encoders five times as large: 2 to 4 epochs, batches of 16 or 32, rates of 2e-5 to 5e-5.
DEFAULTS: dict[str, Any] = {"model": "minilm", "peft": {"name": "full"}, "epochs": 3.0, "batch_size": 32, "dtype": "fp32"}
LEARNING_RATES = {"full": 2e-4}


class Parameters(Config):
    """There is nothing to choose."""


def supervise(config: _tune_config.Config, parameters: Parameters) -> Supervised:
    """Load an encoder with a new head for the task's labels, and read the task's rows.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    import torch

    from tunesmith.core.files import text_hash
    from tunesmith.core.seeds import derive
    from tunesmith.models.encoder import load_encoder
    from tunesmith.recipes._encoder import answer, class_loss, encode, validation_of
    from tunesmith.recipes._rows import Rows, task_of, within
    from tunesmith.recipes._supervised import Supervised, with_adapter
    from tunesmith.recipes._tested import Tested, tested

    task = task_of(config, "labels")
    assert task.verbalizer is not None
    torch.manual_seed(derive(config.seed, "head"))
    lm = load_encoder(config.model_name, "classifier", task.verbalizer.labels, config.dtype, new_head=True)
    adapter = with_adapter(lm, config.adapter)
    train, lengths, warnings = within(config, encode(task, lm, task.splits.train[: config.train_rows]))
    held_out = encode(task, lm, task.splits.validation[: config.validation_rows])
    items = task.splits.test[: config.test_rows]

    def test() -> Tested:
        predictions = answer(task, lm, items)
        return tested(task.name, task.metrics, predictions, config.seed)

    fingerprint = text_hash(train.fingerprint(), *(row.example_id for row in held_out))
    warnings = [*task.splits.warnings, *warnings]
    rows = Rows(train, train.select([]), None, fingerprint, lengths, warnings, test=test if items else None)
    return Supervised(
        lm, rows, class_loss(lm, config.activation_checkpointing), [row.ids for row in train[:3]],
        validation_of(lm, held_out), adapter, heads=("classifier",), task_type="SEQ_CLS",
    )  # fmt: skip
