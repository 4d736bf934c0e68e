"""Asking a classifier: an encoder with one logit for each label, as transformers' AutoModelForSequenceClassification has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunesmith.core.errors import UserError
from tunesmith.core.progress import Progress
from tunesmith.core.records import Encoded, Example
from tunesmith.data.collate import collate
from tunesmith.data.encoder_rows import read_ids
from tunesmith.data.task import Task
from tunesmith.models.heads import text_logits
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

    The classifier reads the row's field that the template names, or the two of them as a pair, as `tune` trains it.

    Args:
        title: shown with the progress line; "" = silent.

    Raises:
        UserError: other labels than the task's, or a row that is too long.
    """
    labels = labels_of(lm, task)
    ids = [read_ids(task, lm.tokenizer, row) for row in rows]
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
            padded = collate([Encoded(ids[i], (False,) * len(ids[i]), rows[i].id) for i in batch])
            logits = text_logits(lm, padded.ids.to(lm.device), padded.lengths.to(lm.device))
            for i, row in zip(batch, logits.float().tolist(), strict=True):
                found[i] = dict(zip(labels, row, strict=True))
            progress.advance(len(batch))
    return found
