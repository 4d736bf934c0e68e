"""Training rows for `tune`: from a task, or straight from a file of chats or prompts and completions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunesmith.core.encode import encode_chat, encode_text
from tunesmith.core.errors import UserError, unknown
from tunesmith.core.files import text_hash
from tunesmith.core.records import Encoded, Example, Message, Segment
from tunesmith.data import formats
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import embedded_tasks, load_task
from tunesmith.models.load import LM
from tunesmith.recipes._tune_config import Config
from tunesmith.train.probes import within_length

_CHATS = ("messages", "sharegpt", "alpaca", "prompt_completion")


@dataclass(frozen=True)
class Rows:
    """Encoded rows; each is named by where it stands, for messages.

    Attributes:
        validate: for a task, () -> accuracy on its validation rows; for files, None and `validation` has rows.
        fingerprint: hash of all that is learned from and chosen by.
        lengths: tokens of each row that was encoded, over-long ones too.
    """

    train: list[Encoded]
    validation: list[Encoded]
    validate: Callable[[], float] | None
    fingerprint: str
    warnings: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def describe(self) -> str:
        """Say what there is to learn from."""
        tokens, counted = sum(map(len, self.train)), sum(sum(e.loss_mask) for e in self.train)
        return f"{len(self.train)} rows, {tokens:,} tokens, {counted:,} of them supervised ({counted / tokens:.0%})"


def read_rows(config: Config, lm: LM) -> Rows:
    """Read and encode what `config.data` names.

    Raises:
        UserError: no such file or task, rows that cannot be trained on, or rows longer than max_length.
    """
    path = Path(config.data)
    is_task = config.data in embedded_tasks() or path.suffix in (".yaml", ".yml")
    if not is_task and not path.is_file():
        raise (
            unknown("task", config.data, embedded_tasks())
            if path.suffix == ""
            else UserError(f"there is no file '{config.data}'")
        )
    if is_task or formats.sniff(path).convention == "text_label":
        return _task_rows(config, lm)
    return _file_rows(config, lm, path)


def _task_rows(config: Config, lm: LM) -> Rows:
    from tunesmith.evaluate.answer import Asker, accuracy_on

    task = load_task(config.data, skip_bad_rows=config.skip_bad_rows)
    prompts = Prompts(task, lm.tokenizer)
    train, warnings, lengths = _encoded(config, task.splits.train[: config.train_rows], prompts.training)
    held_out = task.splits.validation[: config.validation_rows]
    asker = Asker(lm, prompts, trained=True)
    validate = (lambda: accuracy_on(asker, held_out)) if held_out else None
    fingerprint = text_hash(_fingerprint(train), task.template_hash, *(e.id for e in held_out))
    return Rows(train, [], validate, fingerprint, [*task.splits.warnings, *warnings], lengths)


def _file_rows(config: Config, lm: LM, path: Path) -> Rows:
    examples, bad, sniffed = formats.read(path, skip_bad_rows=config.skip_bad_rows)
    if sniffed.convention not in (*_CHATS, "text"):
        raise UserError(
            f"{path.name} holds {sniffed.convention.replace('_', ' ')} rows, which tune cannot train on by themselves",
            "Write a task YAML that names its template and answer field; see docs/tasks.md.",
        )
    # Equal rows stay on one side, because they have one id.
    ids = sorted({e.id for e in examples}, key=lambda i: text_hash("validation", i))
    held_out = set(ids[: min(config.validation_rows, len(ids) // 10)])
    train_rows = [e for e in examples if e.id not in held_out][: config.train_rows]
    rows = [*train_rows, *(e for e in examples if e.id in held_out)]
    encoded, warnings, lengths = _encoded(config, rows, lambda e: encode_row(lm.tokenizer, e))
    learned = {e.where for e in train_rows}
    train = [e for e in encoded if e.example_id in learned]
    validation = [e for e in encoded if e.example_id not in learned]
    if bad:
        warnings.append(f"{len(bad)} unusable rows were left out; the first: {bad[0].where}: {bad[0].reason}")
    fingerprint = text_hash(_fingerprint(train), _fingerprint(validation))
    return Rows(train, validation, None, fingerprint, [*sniffed.warnings, *warnings], lengths)


def _encoded(
    config: Config, rows: Sequence[Example], encode: Callable[[Example], Encoded]
) -> tuple[list[Encoded], list[str], list[int]]:
    encoded = [_named(encode(e), e.where) for e in rows]
    kept, dropped = within_length(encoded, config.max_length, config.over_long == "drop")
    warnings = [f"{dropped} rows longer than {config.max_length} tokens were dropped"] if dropped else []
    return kept, warnings, [len(e) for e in encoded]


def _named(row: Encoded, where: str) -> Encoded:
    # Nothing predicts the first token of a row, so it is never a target, in plain text either.
    return replace(row, loss_mask=(False, *row.loss_mask[1:]), example_id=where)


def _fingerprint(rows: Sequence[Encoded]) -> str:
    return text_hash(*(f"{e.ids} {e.loss_mask}" for e in rows))


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
