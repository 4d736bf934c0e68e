"""How an encoder reads a row of a task, in training, in answering and in deciding alike."""

from __future__ import annotations

from typing import Any

from tunesmith.core.encode import encoder_ids, token_ids
from tunesmith.core.records import Example
from tunesmith.data.task import Task
from tunesmith.data.template import Template

_PAIR = 2


def texts_of(task: Task, example: Example) -> tuple[str, ...]:
    """Return the one or two fields that the template names, as a text or a pair; of more fields, the whole prompt."""
    fields = task.template.fields
    if len(fields) > _PAIR:
        return (task.template.prompt(example.fields),)
    return tuple(Template(f"{{{name}}} {{answer}}").prompt(example.fields) for name in fields)


def read_ids(task: Task, tokenizer: Any, example: Example) -> tuple[int, ...]:
    """Return a row's token ids: [CLS] text [SEP], or [CLS] first [SEP] second [SEP]."""
    return encoder_ids(tokenizer, *(token_ids(tokenizer, text) for text in texts_of(task, example)))
