"""Multi-label classification: a new head with a yes or no for every label on an encoder's first token; each label by itself."""

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
HEAD, PROBLEM = "classifier", "multi_label_classification"
METRICS = ("multi_label_f1", "multi_label_macro_f1")
Parameters = classification.Parameters


def supervise(config: tune_config.Config, parameters: classification.Parameters) -> Supervised:
    """Load an encoder with a new head for the labels of the training rows, and read the task's rows.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    from tunesmith.core.errors import UserError
    from tunesmith.recipes._tune.heads import open_headed, supervised
    from tunesmith.recipes._tune.rows import require_task

    require_task(config, "lists of labels")
    task = read(config.data, config.skip_bad_rows, {})
    labels = sorted({label for example in task.splits.train for label in labels_of(task, example)})
    if not labels:
        raise UserError(f"no training row of '{task.name}' has a label", "Give each row a list of labels.")
    lm, modules = open_headed(config, HEAD, labels, {**parameters.settings(), "problem_type": PROBLEM})
    return supervised(config, headed(lm, task), HEAD, modules)


def read(name: str, skip_bad_rows: bool, saved: Mapping[str, Any]) -> Task:
    """Read a task whose answers are several labels; one label a row is the same with lists of one."""
    from tunesmith.data.task import load_task

    return load_task(name, skip_bad_rows=skip_bad_rows, answer="")


def labels_of(task: Task, example: Example) -> list[str]:
    """Return a row's labels."""
    return [label.strip() for label in task.gold(example).split(",") if label.strip()]


def headed(lm: LM, task: Task) -> Headed:
    """Return how labels are learned and said: those whose probability is above one half."""
    import torch

    from tunesmith.core.errors import UserError
    from tunesmith.data.collate import Batch
    from tunesmith.data.encoder_rows import read_ids
    from tunesmith.evaluate.answer import hash_of_ids, shown_text
    from tunesmith.evaluate.results import Prediction
    from tunesmith.objectives import multi_label
    from tunesmith.recipes._tune.encoder import class_logits, in_order, text_of, whole_row
    from tunesmith.recipes._tune.heads import Headed, saved_labels

    labels = saved_labels(lm)

    def encode(example: Example) -> list[Encoded]:
        given = labels_of(task, example)
        if unseen := [label for label in given if label not in labels]:
            raise UserError(
                f"{example.where}: the label '{unseen[0]}' is none of those of the training rows: {', '.join(labels)}",
                "Add training rows with it, or leave the row out: --skip_bad_rows.",
            )
        targets = tuple(float(label in given) for label in labels)
        return [whole_row(lm, example, read_ids(task, lm.tokenizer, example), targets)]

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        assert batch.targets is not None
        logits = class_logits(lm, batch)
        return multi_label.loss(logits, batch.targets.to(lm.device).view(logits.shape))

    def answer(items: Any, title: str) -> list[Prediction]:
        rows = [row for item in items for row in encode(item)]
        logits = in_order(lambda batch: class_logits(lm, batch), rows, title)
        logprobs = torch.nn.functional.logsigmoid(logits).tolist()
        return [
            Prediction(
                item.id, item.where, shown_text(task, item), text_of(task, item), hash_of_ids(row.ids),
                dict(zip(labels, scores, strict=True)),
                ", ".join(sorted(label for label, logit in zip(labels, one.tolist(), strict=True) if logit > 0)), task.gold(item),
            )
            for item, row, one, scores in zip(items, rows, logits, logprobs, strict=True)
        ]  # fmt: skip

    return Headed(lm, task, task.metrics if task.file.metrics else METRICS, encode, loss_of, answer)
