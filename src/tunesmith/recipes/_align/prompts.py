"""What a policy is asked: a task's training rows, or a file's texts and conversations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.core.encode import chat_prompt, token_ids, with_bos
from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.data import formats
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import Task, load_task, require_permission
from tunesmith.models.load import LM
from tunesmith.recipes._align.config import Config
from tunesmith.recipes._tune.rows import is_task
from tunesmith.train.rollouts import Prompt
from tunesmith.train.scoring import as_text


def read_prompts(config: Config, lm: LM) -> tuple[list[Prompt], list[str]]:
    """Read the prompts that `config.data` names, each once.

    Raises:
        UserError: no such file or task, no prompts, or one that leaves no room for an answer.
    """
    asked = list(_asked_by_task(config, lm) if is_task(config.data) else _asked_by_file(config, lm))[: config.train_rows]
    warnings: list[str] = []
    found: dict[tuple[int, ...], Prompt] = {}
    for prompt in asked:
        if prompt.turns and config.prompt_tokens:
            raise UserError(f"{prompt.where}: prompt_tokens cuts texts, and this is a conversation", "Leave it out.")
        ids = prompt.ids[: config.prompt_tokens]
        if not ids or len(ids) + config.max_new_tokens > lm.context_length:
            raise UserError(
                f"{prompt.where}: the prompt has {len(ids):,} tokens; with the answer at most {lm.context_length:,} fit"
            )
        shown = lm.tokenizer.decode(list(ids), skip_special_tokens=True) if config.prompt_tokens else prompt.text
        found.setdefault(ids, replace(prompt, ids=ids, text=shown))
    if not found:
        raise UserError(f"{config.data} has no prompts", "Give it at least one.")
    if len(found) < len(asked):
        warnings.append(f"{len(asked) - len(found):,} prompts that stand twice count once")
    return list(found.values()), warnings


def _asked_by_task(config: Config, lm: LM) -> Iterator[Prompt]:
    require_permission(config.data, config.allow_canary)
    task = load_task(config.data, skip_bad_rows=config.skip_bad_rows)
    field = task.template.fields[0]
    prompts = Prompts(task, lm.tokenizer)
    for example in task.splits.train[: config.train_rows]:
        if config.prompt_tokens:
            yield _text(lm, str(example.fields[field]), example.where)
        else:
            said, ids = prompts.prompt(example)
            yield Prompt(ids, said, example.where, _right(task, example))


def _asked_by_file(config: Config, lm: LM) -> Iterator[Prompt]:
    """The prompts of a file: texts as they stand, and conversations, of which an answer at the end is the right one."""
    sniffed = formats.sniff(Path(config.data), first=("messages", "sharegpt", "alpaca"))
    turns_of = sniffed.mapping.get("messages", "") if sniffed.convention in ("messages", "sharegpt") else ""
    # As learned from, a conversation must have an answer; as asked, it need not.
    sniffed = formats.sniff(Path(config.data), convention="columns") if turns_of else sniffed
    for example in formats.good_rows(sniffed, [], skip_bad_rows=config.skip_bad_rows):
        fields, where = example.fields, example.where
        said = next((fields[key] for key in (turns_of, "messages", "prompt", "text") if fields.get(key)), None)
        if isinstance(said, list) or turns_of:
            yield _conversation(lm, said, fields.get("completion"), where)
        elif isinstance(said, str):
            right = fields.get("completion")
            yield _text(lm, said, where, (right,) if isinstance(right, str) else ())
        else:
            raise UserError(f"{where}: the row has no prompt", "Give a column prompt, messages or text.")


def _text(lm: LM, said: str, where: str, golds: tuple[str, ...] = ()) -> Prompt:
    return Prompt(with_bos(lm.tokenizer, token_ids(lm.tokenizer, said)), said, where, golds)


def _conversation(lm: LM, said: Any, right: Any, where: str) -> Prompt:
    """Return a conversation up to where the assistant speaks; what it says there is the right answer."""
    turns = formats.turns(said, where)
    golds = tuple(turn.content for turn in formats.turns(right, where)[-1:]) if isinstance(right, list) else ()
    if not golds and turns[-1].role == "assistant":
        golds = (turns[-1].content,)
        turns = turns[:-1]
    try:
        ids = chat_prompt(lm.tokenizer, turns)[1]
    except UserError as error:
        raise UserError(f"{where}: {error.message}", error.fix) from None
    return Prompt(ids, as_text(turns), where, golds, turns)


def _right(task: Task, example: Example) -> tuple[str, ...]:
    """Return the right answers to a row, as they are to be said; none where it has none."""
    try:
        return (task.answer(example),) if task.verbalizer else task.golds(example)
    except UserError:
        return ()
