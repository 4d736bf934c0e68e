"""Tasks as an encoder-decoder sees them: what it reads, what it is to write, and what to make of what it wrote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import torch

from tunesmith.core.encode import framed, token_ids
from tunesmith.core.errors import UserError
from tunesmith.core.files import text_hash
from tunesmith.core.records import Encoded, Example
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch
from tunesmith.data.mixture import Mixture, rates
from tunesmith.data.task import Task, load_task, record_of
from tunesmith.evaluate.answer import hash_of_ids
from tunesmith.evaluate.results import Prediction
from tunesmith.models.lm_loss import Objective
from tunesmith.models.load import LM
from tunesmith.models.seq2seq import greedy, summed_loss
from tunesmith.recipes._tune.config import Config
from tunesmith.recipes._tune.rows import Rows, within
from tunesmith.recipes._tune.tested import Tested, tested
from tunesmith.recipes._tune.text_to_text_config import Parameters
from tunesmith.train.engines.local import LossOf
from tunesmith.train.fit import Validation

# What a number becomes that could not be read, as in T5's code.
_NO_NUMBER = "-1"


def teacher_forced(lm: LM, objective: Objective) -> LossOf:
    """Return the loss of an encoder-decoder: minus log p of each token of the target, from the source and those before it."""

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        return summed_loss(lm.model, *batch.tensors(lm.device), objective)

    return loss_of


@dataclass(frozen=True)
class TextTask:
    """One task, text to text.

    Attributes:
        reads: "fields" or "template". step: what numbers are rounded to; None = answers are words.
    """

    task: Task
    lm: LM
    reads: str
    step: float | None

    @classmethod
    def of(cls, name: str, config: Config, parameters: Parameters, lm: LM) -> TextTask:
        """Load a task.

        Raises:
            UserError: no such task, or answers that this model cannot write.
        """
        task = load_task(name, skip_bad_rows=config.skip_bad_rows)
        numbers = parameters.step is not None and task.verbalizer is None
        if numbers and (bad := [e for e in task.splits.train if _number(task.gold(e)) is None]):
            raise UserError(
                f"{bad[0].where}: the answer '{task.gold(bad[0])}' is not a number, and step is for numbers",
                "Leave out --objective.step, or correct the row.",
            )
        made = cls(task, lm, parameters.reads, parameters.step if numbers else None)
        for label, words in task.verbalizer.words.items() if task.verbalizer else ():
            read = made.said(token_ids(lm.tokenizer, words[0]))
            if read != words[0].strip():
                raise UserError(
                    f"task '{task.name}': '{words[0]}', the word for '{label}', is '{read}' once this tokenizer has read it, "
                    "so no answer could be right", "Give the label another word under choices.",
                )  # fmt: skip
        return made

    def source(self, example: Example) -> str:
        """Return what the encoder reads."""
        template = self.task.template
        if self.reads == "template":
            return template.prompt(example.fields)
        return " ".join([self.task.name, *(f"{name}: {example.fields[name]}" for name in template.fields)])

    def target(self, example: Example) -> str:
        """Return what the decoder is to say."""
        answer = self.task.answer(example)
        return rounded(float(answer), self.step) if self.step is not None else answer

    def ids(self, text: str) -> tuple[int, ...]:
        """Encode a text with the tokens that stand around it; it always ends in the one that ends a text."""
        opening, closing = framed(self.lm.tokenizer)
        return (*opening, *token_ids(self.lm.tokenizer, text), *(closing or (self.lm.tokenizer.eos_token_id,)))

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Encode source and target of rows; only the target counts.

        Raises:
            UserError: an answer without tokens; names the row.
        """
        rows = []
        for example in examples:
            source, target = self.ids(self.source(example)), self.ids(self.target(example))
            if not self.said(target):
                raise UserError(
                    f"{example.where}: the answer '{self.target(example)}' has no tokens that this tokenizer knows",
                    "Correct the row, or use a model that can write it.",
                )
            rows.append(Encoded(source + target, (False,) * len(source) + (True,) * len(target), example.where))
        return rows

    def said(self, ids: Sequence[int]) -> str:
        """Return the text of what the decoder said."""
        return str(self.lm.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def read(self, said: str) -> tuple[str, bool]:
        """Turn what was said into an answer and whether it is one: exactly a label's word, or a number; all else is wrong."""
        if self.task.verbalizer:
            found = [label for label, words in self.task.verbalizer.words.items() if said == words[0].strip()]
            return (found[0], True) if found else ("", False)
        if self.step is not None:
            return (said, True) if _number(said) is not None else (_NO_NUMBER, False)
        return said, True

    def answer(self, items: Sequence[Example], most: int, title: str = "") -> list[Prediction]:
        """Answer items by greedy decoding of at most `most` tokens."""
        sources = [self.source(item) for item in items]
        ids = [self.ids(source) for source in sources]
        found = []
        for item, source, read, made in zip(items, sources, ids, greedy(self.lm, ids, most, title), strict=True):
            said = self.said(made)
            label, valid = self.read(said)
            found.append(
                Prediction(
                    item.id, item.where, source, source, hash_of_ids(read), {}, label, self.task.gold(item), valid,
                    rationale="" if valid else said,
                )
            )  # fmt: skip
        return found


@dataclass(frozen=True)
class TextTasks:
    """Several tasks and how they are mixed."""

    tasks: list[TextTask]
    config: Config
    parameters: Parameters

    @classmethod
    def of(cls, config: Config, parameters: Parameters, lm: LM) -> TextTasks:
        """Load all tasks that `config.data` names.

        Raises:
            UserError: no such task, the same name twice, or answers that this model cannot write.
        """
        names = [name.strip() for name in config.data.split(",") if name.strip()]
        tasks = [TextTask.of(name, config, parameters, lm) for name in names]
        called = [task.task.name for task in tasks]
        if twice := [name for name in called if called.count(name) > 1]:
            raise UserError(f"two tasks are called '{twice[0]}', so the model could not tell them apart", "Rename one.")
        if not tasks:
            raise UserError("data names no task", "For example tunesmith tune movies,tweets --objective text-to-text.")
        rates(dict.fromkeys(called, 1), parameters.mixing)
        return cls(tasks, config, parameters)

    def rows(self) -> Rows:
        """Encode the training rows of all tasks, and mix them.

        Raises:
            UserError: rows that are too long, or that cannot be encoded.
        """
        config, parameters = self.config, self.parameters
        encoded = [row for task in self.tasks for row in task.encode(task.task.splits.train[: config.train_rows])]
        owners = [n for n, task in enumerate(self.tasks) for _ in task.task.splits.train[: config.train_rows]]
        train, lengths, warnings = within(config, encoded)
        kept = np.array([owner for owner, length in zip(owners, lengths, strict=True) if length <= config.max_length])
        numbers = {task.task.name: np.flatnonzero(kept == n) for n, task in enumerate(self.tasks)}
        if empty := [name for name, own in numbers.items() if not len(own)]:
            raise UserError(f"all rows of '{empty[0]}' are longer than max_length", "Set a larger --max_length.")
        sizes = {name: len(own) for name, own in numbers.items()}
        shares = rates(sizes, parameters.mixing, parameters.cap, parameters.temperature)
        size = sum(min(count, parameters.cap or count) for count in sizes.values())
        data = Mixture(train, numbers, shares, size, config.seed) if len(self.tasks) > 1 or parameters.cap else train
        warnings = [*(w for task in self.tasks for w in task.task.splits.warnings), *warnings]
        if len(self.tasks) > 1:
            warnings.append("shares of the mixture: " + ", ".join(f"{name} {share:.3f}" for name, share in shares.items()))
        held_out = [example.id for task in self.tasks for example in self._held_out(task)]
        fingerprint = text_hash(train.fingerprint(), str(sorted(shares.items())), *held_out)
        return Rows(data, train.select([]), None, fingerprint, lengths, warnings, test=self.test if config.test_rows else None)

    def validation(self) -> Validation | None:
        """Measure the share of exact answers on validation rows, its mean over tasks; None without any."""
        held_out = [(task, self._held_out(task)) for task in self.tasks if self._held_out(task)]

        def accuracy() -> float:
            shares = []
            for task, items in held_out:
                said = [p.predicted for p in task.answer(items, self._most(task))]
                wanted = [task.read(task.target(item))[0] for item in items]
                shares.append(float(np.mean([a == b for a, b in zip(said, wanted, strict=True)])))
            return float(np.mean(shares))

        return Validation(accuracy, "eval_accuracy", larger_is_better=True) if held_out else None

    def test(self) -> Tested:
        """Answer the test rows of every task."""
        parts = []
        for task in self.tasks:
            items = task.task.splits.test[: self.config.test_rows]
            predictions = task.answer(items, self._most(task), f"test {task.task.name}")
            parts.append(tested(task.task.name, task.task.metrics, predictions, derive(self.config.seed, task.task.name)))
        return Tested([r for part in parts for r in part.results], [p for part in parts for p in part.predictions])

    def asked(self) -> dict[str, Any]:
        """Return what asks these tasks again: each without its rows, how it is read, and how long its answers are."""
        kept = {"reads": self.parameters.reads, "step": self.parameters.step}
        longest = {task.task.name: self._most(task) for task in self.tasks}
        return {"tasks": [record_of(task.task) for task in self.tasks], **kept, "max_new_tokens": longest}

    def _held_out(self, task: TextTask) -> list[Example]:
        return task.task.splits.validation[: self.config.validation_rows]

    def _most(self, task: TextTask) -> int:
        # No answer of the training rows is longer, and one that does not end is wrong anyway.
        return max(len(task.ids(task.target(example))) for example in task.task.splits.train)


def rounded(number: float, step: float) -> str:
    """Return a number, rounded to a multiple of `step`, as it is said: 3.27 with step 0.2 is "3.2" (halves go to even)."""
    places = max(-int(Decimal(str(step)).normalize().as_tuple().exponent), 0)
    return f"{round(number / step) * step:.{places}f}"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
