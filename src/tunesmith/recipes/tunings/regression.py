"""Regression: a new head with one output on an encoder's first token, and the squared error (Devlin et al. 2019 on STS-B)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.recipes.tunings import classification

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunesmith.core.records import Encoded, Example
    from tunesmith.data.task import Task
    from tunesmith.evaluate.results import Prediction
    from tunesmith.models.load import LM
    from tunesmith.recipes._tune import config as tune_config
    from tunesmith.recipes._tune.heads import Headed
    from tunesmith.recipes._tune.supervised import Supervised

DEFAULTS: dict[str, Any] = classification.DEFAULTS
LEARNING_RATES = classification.LEARNING_RATES
HEAD, PROBLEM = "classifier", "regression"
METRICS = ("pearson", "spearman")


class Parameters(classification.Parameters):
    """How the head stands on the encoder, and what it predicts."""

    field: str = ""
    """field with the number, for example mean of movies; absent = the task's answer"""


def supervise(config: tune_config.Config, parameters: Parameters) -> Supervised:
    """Load an encoder with a new head for one number, and read the task's rows.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    from tunesmith.data.task import load_task
    from tunesmith.recipes._tune.heads import open_headed, supervised
    from tunesmith.recipes._tune.rows import require_task

    require_task(config, "numbers")
    task = load_task(config.data, skip_bad_rows=config.skip_bad_rows, answer=parameters.field)
    lm, modules = open_headed(config, HEAD, ["number"], {**parameters.settings(), "problem_type": PROBLEM})
    lm.model.config.answer_field = parameters.field
    return supervised(config, headed(lm, task), HEAD, modules)


def read(name: str, skip_bad_rows: bool, saved: Mapping[str, Any]) -> Task:
    """Read the task that a tuned model is asked, with the field that it learned."""
    from tunesmith.data.task import load_task

    return load_task(name, skip_bad_rows=skip_bad_rows, answer=saved.get("answer_field", ""))


def headed(lm: LM, task: Task) -> Headed:
    """Return how numbers are learned and said."""
    import torch

    from tunesmith.data.collate import Batch
    from tunesmith.data.encoder_rows import read_ids
    from tunesmith.evaluate.answer import hash_of_ids, shown_text
    from tunesmith.evaluate.results import Prediction
    from tunesmith.objectives import regression
    from tunesmith.recipes._tune.encoder import class_logits, in_order, text_of, whole_row
    from tunesmith.recipes._tune.heads import Headed

    def encode(example: Example) -> list[Encoded]:
        return [whole_row(lm, example, read_ids(task, lm.tokenizer, example), (number_of(task, example),))]

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        assert batch.targets is not None
        return regression.loss(class_logits(lm, batch)[:, 0], batch.targets.to(lm.device))

    def answer(items: Any, title: str) -> list[Prediction]:
        rows = [row for item in items for row in encode(item)]
        numbers = in_order(lambda batch: class_logits(lm, batch), rows, title)[:, 0].tolist()
        return [
            Prediction(
                item.id, item.where, shown_text(task, item), text_of(task, item), hash_of_ids(row.ids), {},
                f"{number:.4f}", task.gold(item),
            )
            for item, row, number in zip(items, rows, numbers, strict=True)
        ]  # fmt: skip

    return Headed(lm, task, task.metrics if task.file.metrics else METRICS, encode, loss_of, answer)


def number_of(task: Task, example: Example) -> float:
    """Return the number that is to be predicted.

    Raises:
        UserError: the row's answer is none; names the row.
    """
    import math

    from tunesmith.core.errors import UserError

    gold = task.gold(example)
    try:
        number = float(gold)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{example.where}: the answer '{gold:.40}' is no number", "Name the field with it: --objective.field.")
    return number
