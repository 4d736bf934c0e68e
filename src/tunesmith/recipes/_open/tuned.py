"""A tuned model that answers as it did in its own test, and a reward model that scores: what `ts.load` gives beside decoders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.core.errors import UserError, unknown
from tunesmith.core.records import Example
from tunesmith.data.encoder_rows import texts_of
from tunesmith.data.task import Task, without_rows
from tunesmith.evaluate.results import Prediction
from tunesmith.models.load import LM
from tunesmith.recipes._reward.files import prompt_of
from tunesmith.recipes._reward.model import RewardModel
from tunesmith.recipes._tune.heads import saved_labels

Predict = Callable[[Sequence[Example], str], list[Prediction]]
Value = str | float | list[str]


@dataclass(frozen=True)
class Answer:
    """What a tuned model says of one input.

    Attributes:
        value: a label; a number (regression); a list of labels (multi-label) or of tags, one a word (token classification);
            a span of the passage, "" = it holds no answer; or what was written (text to text).
        probabilities: of each label, and for several labels the probability of each by itself; {} where there are none.
    """

    value: Value
    probabilities: dict[str, float]

    @property
    def probability(self) -> float | None:
        """That of the label which is the answer; None where there is no such."""
        return self.probabilities.get(self.value) if isinstance(self.value, str) else None


@dataclass(frozen=True)
class Tuned:
    """A model with what it was tuned for.

    Attributes:
        objective: of `tune` ("classification"). tasks: those it was tuned on by name, without rows; {} where it does not say.
        ask: (task, longest answer) -> (names of its metrics, what answers its rows), the same that a run measures its test rows
            with.
        writes: whether its answers are texts that it writes, so that they can be longer or shorter.
    """

    lm: LM
    objective: str
    tasks: Mapping[str, Task]
    ask: Callable[[Task, int | None], tuple[tuple[str, ...], Predict]]
    writes: bool = False

    def answer(
        self, inputs: Sequence[str | Mapping[str, Any]], task: str | None = None, max_new_tokens: int | None = None
    ) -> list[Answer]:
        """Answer texts, or rows with the fields that the task's template names.

        Args:
            task: which of several tasks it was tuned on; absent = the only one.
            max_new_tokens: longest answer of a model that writes; absent = the longest of the rows that it was tuned on.

        Raises:
            UserError: an input without a field that is read, or one that is too long; several tasks and none is named.
        """
        if max_new_tokens is not None and not self.writes:
            raise UserError(f"max_new_tokens is for models that write, and this one is for {self.objective}", "Leave it out.")
        if max_new_tokens is not None and max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {max_new_tokens}", "An answer has at least one token.")
        asked = self._task(inputs, task)
        rows = [self._row(asked, number, given) for number, given in enumerate(inputs, 1)]
        found = self.ask(asked, max_new_tokens)[1](rows, "") if rows else []
        return [self._answer(prediction) for prediction in found]

    def _task(self, inputs: Sequence[str | Mapping[str, Any]], name: str | None) -> Task:
        if name is not None and name not in self.tasks:
            raise unknown("task of this model", name, self.tasks)
        if name is None and len(self.tasks) > 1:
            raise UserError(
                f"this model was tuned on {', '.join(self.tasks)}",
                "Say which: answer(inputs, task=NAME), or a row with its task.",
            )
        if self.tasks:
            return self.tasks[name or next(iter(self.tasks))]
        first = next(iter(inputs), "")
        fields = [*first] if isinstance(first, Mapping) else ["text"]
        fields = ["context", "question"] if self.objective == "span" else fields
        choices = {label: [label] for label in saved_labels(self.lm)} if self.objective == "classification" else None
        text = "\n".join(f"{{{field}}}" for field in [*fields, "answer"])
        return without_rows({"name": self.objective, "template": text, "choices": choices}, "the inputs")

    def reads(self, task: Task) -> list[str]:
        """Return the fields of a task's rows that are read."""
        if self.objective == "span":
            return ["question", "context"]
        compared = task.file.inputs if self.objective == "gpt-classification" else None
        return [*next(iter(compared.values()))] if compared else task.template.fields

    def _row(self, task: Task, number: int, given: str | Mapping[str, Any]) -> Example:
        names = self.reads(task)
        fields = dict(given) if isinstance(given, Mapping) else {names[0]: given} if len(names) == 1 else {}
        if lacking := [name for name in names if name not in fields]:
            shape = ", ".join(f'"{name}": ...' for name in names)
            raise UserError(f"input {number:,} has no '{lacking[0]}'", f"This model reads {{{shape}}}.")
        read = Example(str(number), {name: fields[name] for name in names}, f"input {number:,}")
        return Example(read.id, {**read.fields, **self._unknown(task, read)}, read.where)

    def _unknown(self, task: Task, row: Example) -> dict[str, Any]:
        """The answer that a row is given to be read like those of a task, which all have one; it is not looked at."""
        if self.objective == "span":
            return {"answers": {"text": [], "answer_start": []}}
        name = task.file.answer or ("label" if task.verbalizer else "answer")
        if self.objective == "token-classification":
            return {name: " ".join([saved_labels(self.lm)[0]] * len(" ".join(texts_of(task, row)).split()))}
        if self.objective == "multi-label":
            return {name: saved_labels(self.lm)[0]}
        return {name: task.verbalizer.labels[0] if task.verbalizer else "0"}

    def _answer(self, said: Prediction) -> Answer:
        # Scores of spans are no probabilities.
        scores = {} if self.objective == "span" else said.scores
        value: Value = said.predicted if said.valid else said.rationale
        if self.objective == "regression":
            value = float(said.predicted)
        elif self.objective == "token-classification":
            value = said.predicted.split()
        elif self.objective == "multi-label":
            value = [label for label in said.predicted.split(", ") if label]
        return Answer(value, {label: math.exp(score) for label, score in scores.items()})


@dataclass(frozen=True)
class Rewards:
    """A reward model, or several that are asked together."""

    members: list[RewardModel]

    @property
    def lm(self) -> LM:
        """The model of the first."""
        return self.members[0].lm

    def score(self, pairs: Sequence[tuple[str | Sequence[Mapping[str, str]], str]]) -> list[float]:
        """Return the reward of each (prompt, completion), the mean of several models'; more = better.

        Args:
            pairs: a prompt is a text ("" = none), or the turns before the completion as {"role", "content"}.

        Raises:
            UserError: a text longer than the model reads.
        """
        read = [(prompt_of(prompt), completion) for prompt, completion in pairs]
        scores = [member.score(read) for member in self.members]
        return [sum(of_one) / len(of_one) for of_one in zip(*scores, strict=True)]
