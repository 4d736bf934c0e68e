"""What a task compares: the texts that a decoder with a classifier reads for one row (Radford et al. 2018, section 3.3).

classification  [text]
entailment      [premise, hypothesis]
similarity      [a, b] and [b, a]: neither order is the right one, so both are read
choice          [context, answer k] for each answer k
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunesmith.core.errors import UserError, near_miss
from tunesmith.core.records import Example
from tunesmith.data.task import Task

Texts = list[list[str]]
_NEEDS = {
    "classification": "one field",
    "entailment": "two fields",
    "similarity": "two fields",
    "choice": "a context and answers",
}


@dataclass(frozen=True)
class Inputs:
    """How a task's rows become texts; kind is one of those above."""

    kind: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    prompt: Callable[[Example], str] | None = None

    @classmethod
    def of(cls, task: Task) -> Inputs:
        """Return what a task's `inputs` say; without them the text is the one field of its template, or the whole prompt.

        Raises:
            UserError: too few or too many fields for the kind of input, or a task without choices.
        """
        if task.verbalizer is None:
            raise UserError(
                f"the answers of task '{task.name}' are free text, not labels", "Name its choices, or use another objective."
            )
        labels, named = tuple(task.verbalizer.labels), task.file.inputs
        if named is None:
            fields = tuple(task.template.fields)
            whole = None if len(fields) == 1 else lambda example: task.template.prompt(example.fields)
            return cls("classification", fields, labels, whole)
        ((kind, listed),) = named.items()
        enough = {"classification": len(listed) == 1, "choice": len(listed) >= 2}.get(kind, len(listed) == 2)
        if not enough:
            raise UserError(
                f"task '{task.name}': inputs: {kind} names {', '.join(listed) or 'nothing'}, and needs {_NEEDS[kind]}",
                f"For example inputs: {{{kind}: [{'context, answers' if kind == 'choice' else 'premise, hypothesis'}]}}."
                if kind != "classification" else "Write inputs: {classification: [text]}.",
            )  # fmt: skip
        return cls(kind, tuple(listed), labels)

    def texts(self, example: Example) -> Texts:
        """Return the texts that are read for a row, each in its parts.

        Raises:
            UserError: the row lacks a field, holds no text there, or (choice) has not one answer for each label; names it.
        """
        if self.prompt:
            return [[self.prompt(example)]]
        values = [self._value(example, name) for name in self.fields]
        if self.kind == "choice":
            answers = [one for value in values[1:] for one in (value if isinstance(value, list) else [value])]
            if len(answers) != len(self.labels):
                raise UserError(
                    f"{example.where}: it has {len(answers)} answers to choose from, and the task {len(self.labels)} labels",
                    "Every row needs one answer for each label, in their order.",
                )
            return [[str(values[0]), str(answer)] for answer in answers]
        parts = [str(value) for value in values]
        return [parts, parts[::-1]] if self.kind == "similarity" else [parts]

    def _value(self, example: Example, name: str) -> object:
        value = example.fields.get(name)
        if value is None or value in ("", []):
            fix = near_miss(name, map(str, example.fields)) if name not in example.fields else "Give it a text."
            raise UserError(f"{example.where}: inputs: {self.kind} reads the field '{name}', which the row does not have", fix)
        return value


def shown(texts: Sequence[Sequence[str]]) -> str:
    """Return texts as a person reads them: parts divided by a dollar sign, as in the paper, texts by lines."""
    return "\n".join(" $ ".join(parts) for parts in texts)
