"""From a task's examples to token ids: prompts with demonstrations, answers, and training sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.core.encode import chat_prompt, encode_chat, encode_text, token_ids, with_bos
from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded, Example, Message, Segment
from tunesmith.data.task import Task


@dataclass(frozen=True)
class Prompts:
    """Everything a model reads and says for one task.

    Attributes:
        tokenizer: any tokenizer of transformers.
    """

    task: Task
    tokenizer: Any

    def prompt(self, example: Example, demonstrations: Sequence[Example] = ()) -> tuple[str, tuple[int, ...]]:
        """Return the exact prompt text and its token ids; the answer comes next.

        Raises:
            UserError: a field is missing, or (chat) a row contains one of the model's control tokens.
        """
        return self._prompt(self.task.template.prompt(example.fields), demonstrations)

    def content_free(self, text: str, demonstrations: Sequence[Example] = ()) -> tuple[int, ...]:
        """Return the prompt's ids with every field replaced by `text` ("N/A", "" ...): Zhao et al. 2021, section 4."""
        fields = dict.fromkeys(self.task.template.fields, text)
        return self._prompt(self.task.template.prompt(fields), demonstrations)[1]

    def _prompt(self, item: str, demonstrations: Sequence[Example]) -> tuple[str, tuple[int, ...]]:
        task = self.task
        if task.file.chat:
            return chat_prompt(self.tokenizer, [*self._turns(demonstrations), Message("user", item)])
        shown = [task.template.prompt(d.fields) + task.template.lead + task.answer(d) for d in demonstrations]
        text = task.file.separator.join([*filter(None, [task.file.instruction]), *shown, item])
        return text, with_bos(self.tokenizer, token_ids(self.tokenizer, text))

    def answer(self, words: str, closed: bool = False) -> tuple[int, ...]:
        """Return the ids of an answer as they follow the prompt.

        Args:
            closed: end it as it ends in training, so that "refund" is told from "refund request".

        Raises:
            UserError: the answer has no tokens.
        """
        text = words if self.task.file.chat else self.task.template.lead + words
        ids = token_ids(self.tokenizer, text)
        if not ids:
            raise UserError(f"the answer '{words}' has no tokens")
        return (*ids, self.tokenizer.eos_token_id) if closed else ids

    def answers(self) -> tuple[tuple[int, ...], ...]:
        """Return the ids of every answer word, label by label; nothing for a task without choices."""
        return tuple(self.answer(word) for word in self.task.verbalizer.flat()) if self.task.verbalizer else ()

    def training(self, example: Example) -> Encoded:
        """Return prompt and gold answer; only the answer, with the token that ends it, counts."""
        task, item = self.task, self.task.template.prompt(example.fields)
        if task.file.chat:
            turns = [*self._turns(()), Message("user", item), Message("assistant", task.answer(example))]
            return encode_chat(self.tokenizer, turns, example.id)
        text = task.file.separator.join([*filter(None, [task.file.instruction]), item])
        segments = [Segment(text, False), Segment(task.template.lead + task.answer(example), True)]
        return encode_text(self.tokenizer, segments, example.id)

    def _turns(self, demonstrations: Sequence[Example]) -> list[Message]:
        turns = [Message("system", self.task.file.instruction)] if self.task.file.instruction else []
        for shown in demonstrations:
            turns += [Message("user", self.task.template.prompt(shown.fields)), Message("assistant", self.task.answer(shown))]
        return turns
