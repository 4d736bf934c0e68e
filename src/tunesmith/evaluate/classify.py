"""Asking a classifier: an encoder with one logit for each label, as transformers' AutoModelForSequenceClassification has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunesmith.core.errors import UserError
from tunesmith.core.progress import Progress
from tunesmith.core.records import Example
from tunesmith.data.task import Task
from tunesmith.models.load import LM

_TOKENS_PER_BATCH = 4096


def labels_of(lm: LM, task: Task) -> list[str]:
    """Return the labels of a classifier, in the order of its logits.

    Raises:
        UserError: they are not the task's.
    """
    verbalizer = task.verbalizer
    labels = [str(label) for _, label in sorted(lm.model.config.id2label.items())]
    if verbalizer is None or set(labels) != set(verbalizer.labels):
        wanted = ", ".join(verbalizer.labels) if verbalizer else "free text"
        raise UserError(
            f"'{lm.name}' classifies into {', '.join(labels)}, and task '{task.name}' has {wanted}",
            "Name the task's labels in id2label of the classifier's config.json.",
        )
    return labels


def classifier_scores(lm: LM, task: Task, rows: Sequence[Example], title: str = "") -> list[dict[str, float]]:
    """Return the logit of every label for each row.

    The classifier reads the row's field that the template names, or the two of them as a pair, as it was fine-tuned to.

    Args:
        title: shown with the progress line; "" = silent.

    Raises:
        UserError: other labels than the task's, a template with three or more fields, or a row that is too long.
    """
    labels, fields = labels_of(lm, task), task.template.fields
    if len(fields) > 2:
        raise UserError(
            f"the template of '{task.name}' has {len(fields)} fields, and a classifier reads one text or a pair",
            "Write a template that names only these.",
        )
    ids = [tuple(lm.tokenizer(*(str(row.fields[name]) for name in fields)).input_ids) for row in rows]
    most = min(lm.context_length, lm.tokenizer.model_max_length)
    for row, tokens in zip(rows, ids, strict=True):
        if len(tokens) > most:
            raise UserError(f"{row.where}: it has {len(tokens):,} tokens; {lm.name} reads at most {most:,}", "Shorten the row.")
    found: list[dict[str, float]] = [{} for _ in rows]
    order = sorted(range(len(rows)), key=lambda i: (-len(ids[i]), i))
    with torch.inference_mode(), Progress(title, total=len(rows), unit="items") as progress:
        while order:
            size = max(1, _TOKENS_PER_BATCH // len(ids[order[0]]))
            batch, order = order[:size], order[size:]
            padded = lm.tokenizer.pad({"input_ids": [list(ids[i]) for i in batch]}, return_tensors="pt").to(lm.device)
            logits = lm.model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits.float()
            for i, row in zip(batch, logits.tolist(), strict=True):
                found[i] = dict(zip(labels, row, strict=True))
            progress.advance(len(batch))
    return found
