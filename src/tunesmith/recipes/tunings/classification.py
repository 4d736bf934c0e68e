"""Sequence classification: a new head on an encoder's first token, softmax(W tanh(W_p h_[CLS])) (Devlin et al. 2019, 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tunesmith.core.config import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunesmith.data.task import Task
    from tunesmith.models.load import LM
    from tunesmith.recipes._tune import config as tune_config
    from tunesmith.recipes._tune.heads import Headed
    from tunesmith.recipes._tune.supervised import Supervised

# Published for encoders five times as large: 2 to 4 epochs, batches of 16 or 32, rates of 2e-5 to 5e-5.
DEFAULTS: dict[str, Any] = {"model": "minilm", "peft": {"name": "full"}, "epochs": 3.0, "batch_size": 32}
LEARNING_RATES = {"full": 2e-4}
HEAD, PROBLEM = "classifier", ""


class Parameters(Config):
    """How the head stands on the encoder."""

    pooling: Literal["pooler", "mean"] = "pooler"
    """what the head reads: BERT's pooler over the first token, or the mean of all tokens' last states"""
    dropout: float | None = Field(None, ge=0, lt=1)
    """share of units dropped in training, in the encoder and before the head; absent = as the encoder was trained (0.1)"""

    def settings(self) -> dict[str, Any]:
        """Return what is to be set on a model."""
        return {"pooling": self.pooling} | ({} if self.dropout is None else {"dropout": self.dropout})


def supervise(config: tune_config.Config, parameters: Parameters) -> Supervised:
    """Load an encoder with a new head for the task's labels, and read the task's rows.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    from tunesmith.recipes._tune.heads import open_headed, supervised
    from tunesmith.recipes._tune.rows import task_of

    task = task_of(config, "labels")
    assert task.verbalizer is not None
    lm, modules = open_headed(config, HEAD, task.verbalizer.labels, parameters.settings())
    return supervised(config, headed(lm, task), HEAD, modules)


def read(name: str, skip_bad_rows: bool, saved: Mapping[str, Any]) -> Task:
    """Read the task that a tuned model is asked."""
    from tunesmith.data.task import load_task

    return load_task(name, skip_bad_rows=skip_bad_rows)


def headed(lm: LM, task: Task) -> Headed:
    """Return how a classifier learns a task and answers it."""
    from tunesmith.recipes._tune.encoder import answer, class_loss, encode
    from tunesmith.recipes._tune.heads import Headed

    return Headed(
        lm, task, task.metrics, lambda example: encode(task, lm, [example]), class_loss(lm),
        lambda items, title: answer(task, lm, items, title),
    )  # fmt: skip
