"""Encoders with a head, whatever the head: rows, loss, choice of weights and answers, put together for `tune` and `eval`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import text_hash
from tunesmith.core.records import Encoded, Example
from tunesmith.core.registry import METRICS, TUNINGS
from tunesmith.core.seeds import derive
from tunesmith.data.task import Task, record_of
from tunesmith.evaluate.results import Prediction
from tunesmith.models.encoder import HEAD_FILE, KINDS, Head, architecture_of, load_headed
from tunesmith.models.load import LM
from tunesmith.recipes._tune.config import Config
from tunesmith.recipes._tune.rows import Rows, within
from tunesmith.recipes._tune.supervised import Supervised, with_adapter
from tunesmith.recipes._tune.tested import Tested, tested
from tunesmith.train.engines.local import LossOf
from tunesmith.train.fit import Validation

Answer = Callable[[Sequence[Example], str], list[Prediction]]
# What a tuned model's config.json says beside what transformers has there: the field with the numbers, how spans are read.
KEPT = ("answer_field", "span")
_TASK_TYPES: dict[Head, str] = {"classifier": "SEQ_CLS", "tokens": "TOKEN_CLS", "span": "QUESTION_ANS"}


@dataclass(frozen=True)
class Headed:
    """A model with a head on a task: how it learns and what it says.

    Attributes:
        metrics: the first chooses the best weights.
        encode: example -> the rows it is learned as; raises UserError where it cannot be.
        answer: (examples, title of the progress line) -> predictions.
        finish: what is set by validation rows once the weights are final.
    """

    lm: LM
    task: Task
    metrics: tuple[str, ...]
    encode: Callable[[Example], list[Encoded]]
    loss_of: LossOf
    answer: Answer
    finish: Callable[[Sequence[Example]], None] = field(default=lambda examples: None)


def open_headed(config: Config, head: Head, labels: Sequence[str], settings: dict[str, Any]) -> tuple[LM, tuple[str, ...]]:
    """Load the encoder that is to be trained; a new head follows from the seed. Returns the names of the head's modules too."""
    import torch

    torch.manual_seed(derive(config.seed, "head"))
    lm, heads = load_headed(config.model_name, head, labels, config.dtype, new_head=True, settings=settings)
    if config.activation_checkpointing:
        lm.model.activation_checkpointing_enable({"use_reentrant": False})
    return lm, heads


def supervised(config: Config, it: Headed, head: Head, modules: tuple[str, ...]) -> Supervised:
    """Put together what `tune` trains and measures.

    Raises:
        UserError: a row cannot be encoded or is too long; names it.
    """
    splits, bad, adapter = it.task.splits, list[str](), with_adapter(it.lm, config.adapter)

    def usable(examples: Sequence[Example]) -> list[tuple[Example, list[Encoded]]]:
        return list(_encoded(it, examples, config.skip_bad_rows, bad))

    train, lengths, warnings = within(config, [row for _, rows in usable(splits.train[: config.train_rows]) for row in rows])
    held_out = [example for example, _ in usable(splits.validation[: config.validation_rows])]
    items = [example for example, _ in usable(splits.test[: config.test_rows])]
    if bad:
        warnings.append(f"{len(bad):,} rows were left out; the first: {bad[0]}")

    def test() -> Tested:
        return tested(it.task.name, it.metrics, it.answer(items, "test"), config.seed)

    fingerprint = text_hash(train.fingerprint(), *(example.id for example in held_out))
    rows = Rows(
        train, train.select([]), None, fingerprint, lengths, [*splits.warnings, *warnings], test=test if items else None
    )  # fmt: skip
    return Supervised(
        it.lm, rows, it.loss_of, [row.ids for row in train[:3]], _validation(it, held_out), adapter, modules,
        _TASK_TYPES[head], lambda: it.finish(held_out), {"tasks": [record_of(it.task)]},
    )  # fmt: skip


def saved_labels(lm: LM) -> list[str]:
    """Return the labels of a model's head, in the order of its outputs."""
    return [str(label) for _, label in sorted(lm.model.config.id2label.items())]


def _encoded(it: Headed, examples: Sequence[Example], skip: bool, bad: list[str]) -> Iterator[tuple[Example, list[Encoded]]]:
    """Yield examples with their rows; those that cannot be encoded are an error, or are added to `bad`."""
    for example in examples:
        try:
            yield example, it.encode(example)
        except UserError as error:
            if not skip:
                without = "" if "--skip_bad_rows" in error.fix else " To go on without it: --skip_bad_rows."
                raise UserError(error.message, f"{error.fix}{without}".strip()) from None
            bad.append(error.message)


def _validation(it: Headed, held_out: Sequence[Example]) -> Validation | None:
    """Measure the first metric on validation rows; None without any."""
    metric = METRICS.get(it.metrics[0]).evaluate

    def measure() -> float:
        predictions = it.answer(held_out, "")
        return float(metric([p.gold_for(metric) for p in predictions], [p.predicted for p in predictions]))

    return Validation(measure, f"eval_{it.metrics[0]}", larger_is_better=True) if held_out else None


def tuning_of(model: str, adapter: str | None = None) -> tuple[ModuleType, Head] | None:
    """Return the objective that a saved model or adapter with a head was tuned for, and the head; None for those without."""
    kind, problem = architecture_of(adapter or model)
    for name in TUNINGS.names():
        entry = TUNINGS.get(name)
        head: Head | None = vars(entry).get("HEAD")
        if head and kind.endswith(f"For{KINDS[head]}") and vars(entry).get("PROBLEM", problem) == problem:
            return entry, head
    return None


def saved_config(folder: str) -> Mapping[str, Any]:
    """Return what a tuned model's directory, or that of an adapter with a head, says of the head."""
    path = Path(folder)
    file = path / HEAD_FILE if (path / HEAD_FILE).is_file() else path / "config.json"
    return dict(json.loads(file.read_text(encoding="utf-8")))


def load_tuned(model: str, adapter: str | None, head: Head, dtype: str) -> LM:
    """Load a model with its trained head, or a base with the adapter that carries one.

    Raises:
        UserError: no such model or adapter, or they do not fit each other.
    """
    if not adapter:
        return load_headed(model, head, dtype=dtype)[0]
    saved = saved_config(adapter)
    settings = {key: saved[key] for key in ("problem_type", "pooling") if saved.get(key)}
    labels = [label for _, label in sorted((int(at), label) for at, label in saved.get("id2label", {}).items())]
    lm = load_headed(model, head, labels, dtype, new_head=True, settings=settings)[0]
    for key in KEPT:
        if key in saved:
            setattr(lm.model.config, key, saved[key])
    with_adapter(lm, adapter)
    return lm
