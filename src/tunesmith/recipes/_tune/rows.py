"""Training rows for `tune`: from a task, or straight from a file of chats or prompts and completions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.encode import encode_chat, encode_text
from tunesmith.core.errors import UserError, unknown
from tunesmith.core.files import text_hash
from tunesmith.core.progress import Progress
from tunesmith.core.records import BadRow, Encoded, Example, Message, Segment
from tunesmith.data import formats
from tunesmith.data.encoded_rows import EncodedRows, lengths_of
from tunesmith.data.mixture import Mixture
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import Task, embedded_tasks, holds_task, load_task, names_task, require_permission
from tunesmith.models.load import LM
from tunesmith.recipes._tune.config import Config
from tunesmith.recipes._tune.tested import Tested, tested
from tunesmith.train.probes import within_length

_Row = TypeVar("_Row")
_CHATS = ("messages", "sharegpt", "alpaca", "prompt_completion")


@dataclass(frozen=True)
class Rows:
    """Encoded rows; each is named by where it stands, for messages.

    Attributes:
        validate: for a task, () -> accuracy on its validation rows; for files, None and `validation` has rows.
        fingerprint: hash of all that is learned from and chosen by.
        lengths: tokens of each row that was encoded, over-long ones too.
        answers: for a task with choices, the token ids of each answer word.
        test: for a task with test rows, () -> how the model does on them; for files, None.
    """

    train: EncodedRows | Mixture
    validation: EncodedRows
    validate: Callable[[], float] | None
    fingerprint: str
    lengths: list[int]
    warnings: list[str]
    answers: Sequence[tuple[int, ...]] = ()
    test: Callable[[], Tested] | None = None

    def describe(self) -> str:
        """Say what there is to learn from."""
        tokens, counted = int(self.train.lengths.sum()), sum(sum(e.loss_mask) for e in self.train)
        return f"{len(self.train):,} rows, {tokens:,} tokens, {counted:,} of them supervised ({counted / tokens:.0%})"


def read_rows(config: Config, lm: LM) -> Rows:
    """Read and encode what `config.data` names.

    Raises:
        UserError: no such file or task, rows that cannot be trained on, or rows longer than max_length.
    """
    path = Path(config.data)
    return _task_rows(config, lm) if is_task(config.data) else _file_rows(config, lm, path)


def require_task(config: Config, answers: str) -> None:
    """Check that `config.data` names a task, or a file whose rows are one by themselves.

    Args:
        answers: what the objective predicts, for messages ("labels").

    Raises:
        UserError: there is no such task or file, or its rows are others.
    """
    if not is_task(config.data):
        raise UserError(
            f"{config.data} holds no texts with {answers}",
            f"Give a task, or a file with {answers} in each row (docs/tasks.md).",
        )
    require_permission(config.data, config.allow_canary)


def task_of(config: Config, answers: str) -> Task:
    """Load the task that `config.data` names, for an objective that needs one with choices.

    Raises:
        UserError: no such task or file, or one without choices.
    """
    require_task(config, answers)
    task = load_task(config.data, skip_bad_rows=config.skip_bad_rows)
    if task.verbalizer is None:
        raise UserError(
            f"the answers of task '{task.name}' are free text, not {answers}", "Name its choices, or use another objective."
        )
    return task


def has_test_rows(config: Config) -> bool:
    """Whether `config.data` is a task with test rows, by which runs can be compared.

    Raises:
        UserError: no such task or file, or bad rows.
    """
    return is_task(config.data) and bool(load_task(config.data, skip_bad_rows=config.skip_bad_rows).splits.test)


def is_task(data: str) -> bool:
    """Whether `data` names a task, or a file of texts and labels, which is one.

    Raises:
        UserError: there is neither such a task nor such a file.
    """
    path = Path(data)
    if names_task(data):
        return True
    if not path.is_file():
        raise unknown("task", data, embedded_tasks()) if path.suffix == "" else UserError(f"there is no file '{data}'")
    return holds_task(path)


def _task_rows(config: Config, lm: LM) -> Rows:
    from tunesmith.evaluate.answer import Asker, accuracy_on

    require_permission(config.data, config.allow_canary)
    task = load_task(config.data, skip_bad_rows=config.skip_bad_rows)
    prompts = Prompts(task, lm.tokenizer)
    examples = task.splits.train[: config.train_rows]
    encoded, fits, warnings = _encoded(config, (_named(prompts.training(e), e.where) for e in examples), len(examples))
    train = encoded.select(fits.nonzero()[0])
    held_out = task.splits.validation[: config.validation_rows]
    asker = Asker(lm, prompts, trained=True)
    validate = (lambda: accuracy_on(asker, held_out)) if held_out else None
    items = task.splits.test[: config.test_rows]

    def test() -> Tested:
        return tested(task.name, task.metrics, asker.ask(items, title="test").predictions, config.seed)

    fingerprint = text_hash(train.fingerprint(), task.template_hash, *(e.id for e in held_out))
    warnings = [*task.splits.warnings, *warnings]
    lengths = lengths_of(encoded)
    return Rows(train, train.select([]), validate, fingerprint, lengths, warnings, prompts.answers(), test if items else None)


def _file_rows(config: Config, lm: LM, path: Path) -> Rows:
    sniffed, bad = formats.sniff(path, first=_CHATS), list[BadRow]()
    if sniffed.convention not in (*_CHATS, "text"):
        raise UserError(
            f"{path.name} holds {sniffed.convention.replace('_', ' ')} rows, which tune cannot train on by themselves",
            "Write a task YAML that names its template and answer field; see docs/tasks.md.",
        )
    # The file is read twice: first to learn which rows are for what, then to encode those. Equal rows stay on one side.
    draws = np.fromiter(_draws(formats.good_rows(sniffed, bad, skip_bad_rows=config.skip_bad_rows)), np.uint64)
    different = np.unique(draws)
    held_out = np.isin(draws, different[: min(config.validation_rows, len(different) // 10)])
    used = held_out.copy()
    used[(~held_out).nonzero()[0][: config.train_rows]] = True
    examples = compress(formats.good_rows(sniffed, [], skip_bad_rows=True), used)
    encoded, fits, warnings = _encoded(config, (_named(encode_row(lm.tokenizer, e), e.where) for e in examples), int(used.sum()))
    held_out = held_out[used]
    train, validation = encoded.select((fits & ~held_out).nonzero()[0]), encoded.select((fits & held_out).nonzero()[0])
    if bad:
        warnings.append(f"{len(bad)} unusable rows were left out; the first: {bad[0].where}: {bad[0].reason}")
    fingerprint = text_hash(train.fingerprint(), validation.fingerprint())
    return Rows(train, validation, None, fingerprint, lengths_of(encoded), [*sniffed.warnings, *warnings])


def _draws(examples: Iterable[Example]) -> Iterator[int]:
    with Progress("reading", total=0, unit="rows") as progress:
        for example in _counting(examples, progress):
            yield int(text_hash("validation", example.id), 16)


def within(config: Config, rows: Sequence[Encoded]) -> tuple[EncodedRows, list[int], list[str]]:
    """Return the rows that are short enough, the lengths of all, and what to say about those left out.

    Raises:
        UserError: a row is longer than max_length, and those are not to be dropped.
    """
    encoded, fits, warnings = _encoded(config, rows, len(rows))
    return encoded.select(fits.nonzero()[0]), lengths_of(encoded), warnings


def _encoded(config: Config, rows: Iterable[Encoded], total: int) -> tuple[EncodedRows, NDArray[np.bool_], list[str]]:
    """Return the rows, which of them are short enough, and what to say about the others."""
    with Progress("encoding", total, unit="rows") as progress:
        encoded = EncodedRows(_counting(rows, progress))
    fits = within_length(encoded, config.max_length, config.over_long == "drop")
    dropped = len(fits) - int(fits.sum())
    return encoded, fits, [f"{dropped} rows longer than {config.max_length} tokens were dropped"] if dropped else []


def _counting(rows: Iterable[_Row], progress: Progress) -> Iterator[_Row]:
    for row in rows:
        progress.advance(1)
        yield row


def _named(row: Encoded, where: str) -> Encoded:
    # Nothing predicts the first token of a row, so it is never a target, in plain text either.
    return replace(row, loss_mask=(False, *row.loss_mask[1:]), example_id=where)


def encode_row(tokenizer: Any, example: Example) -> Encoded:
    """Encode a row of chat, prompt and completion, or plain text.

    Raises:
        UserError: it cannot be encoded for this model; names the row.
    """
    fields = example.fields
    try:
        if "messages" in fields:
            return encode_chat(tokenizer, _turns(fields["messages"]), example.id)
        if "text" in fields:
            return encode_text(tokenizer, [Segment(fields["text"], True)], example.id)
        prompt, completion = fields["prompt"], fields["completion"]
        if isinstance(prompt, list):
            return encode_chat(tokenizer, [*_turns(prompt, counts=False), *_turns(completion)], example.id)
        if tokenizer.chat_template:
            return encode_chat(tokenizer, [Message("user", prompt), Message("assistant", completion)], example.id)
        return encode_text(tokenizer, [Segment(prompt, False), Segment(completion, True)], example.id)
    except UserError as error:
        raise UserError(f"{example.where}: {error.message}", error.fix) from None


def _turns(turns: Sequence[Mapping[str, Any]], counts: bool = True) -> list[Message]:
    return [Message(t["role"], t["content"], counts and t.get("weight", 1) != 0) for t in turns]
