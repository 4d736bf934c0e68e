"""From a task's examples to token ids: prompts with demonstrations, answers, and training sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.core.encode import chat_prompt, encode_chat, encode_text, token_ids, with_bos
from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded, Example, Message, Segment
from tunesmith.data.task import Task

# A beginning-of-sequence token, and the mark some tokenizers put before the first word.
_SPECIAL = 2


@dataclass(frozen=True)
class Prompts:
    """Everything a model reads and says for one task.

    Attributes:
        tokenizer: any tokenizer of transformers.
    """

    task: Task
    tokenizer: Any

    def prompt(
        self, example: Example, demonstrations: Sequence[Example] = (), passages: Sequence[str] = ()
    ) -> tuple[str, tuple[int, ...]]:
        """Return the exact prompt text and its token ids; the answer comes next.

        Args:
            passages: texts to read first, below the instruction.

        Raises:
            UserError: a field is missing, or (chat) a row contains one of the model's control tokens.
        """
        return self._prompt(self.task.template.prompt(example.fields), demonstrations, passages)

    def most_tokens(self, example: Example, demonstrations: Sequence[Example] = ()) -> int:
        """Return how many tokens the prompt has at most, without tokenising it; far too many for a chat."""
        if self.task.file.chat:
            return 1 << 30
        task = self.task
        texts = [task.file.instruction, task.template.prompt(example.fields)]
        for shown in demonstrations:
            texts += [task.template.prompt(shown.fields), task.template.lead, task.answer(shown)]
        between = (len(demonstrations) + 1) * len(task.file.separator.encode())
        return sum(len(text.encode()) for text in texts) + between + _SPECIAL

    def content_free(self, text: str, demonstrations: Sequence[Example] = ()) -> tuple[int, ...]:
        """Return the prompt's ids with every field replaced by `text` ("N/A", "" ...): Zhao et al. 2021, section 4."""
        fields = dict.fromkeys(self.task.template.fields, text)
        return self._prompt(self.task.template.prompt(fields), demonstrations)[1]

    def without_item(self) -> tuple[int, ...]:
        """Return the ids of what the template says just before the answer, alone: "Sentiment:", or "Answer:" if nothing."""
        tail = self.task.template.tail.strip() or "Answer:"
        if self.task.file.chat:
            return chat_prompt(self.tokenizer, [Message("user", tail)])[1]
        return with_bos(self.tokenizer, token_ids(self.tokenizer, tail))

    def _prompt(self, item: str, demonstrations: Sequence[Example], passages: Sequence[str] = ()) -> tuple[str, tuple[int, ...]]:
        task = self.task
        if task.file.chat:
            asked = task.file.separator.join([*passages, item])
            return chat_prompt(self.tokenizer, [*self._turns(demonstrations), Message("user", asked)])
        shown = [task.template.prompt(d.fields) + task.template.lead + task.answer(d) for d in demonstrations]
        text = task.file.separator.join([*filter(None, [task.file.instruction]), *passages, *shown, item])
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

    def remarks(self) -> list[str]:
        """Return what is odd about how this tokenizer reads the answers, as plain sentences."""
        verbalizer = self.task.verbalizer
        if verbalizer is None:
            return []
        words = verbalizer.flat()
        return [*self._borders(words), *self._beginnings(words)]

    def _borders(self, words: Sequence[str]) -> list[str]:
        if self.task.file.chat:
            return []
        tail, lead = self.task.template.tail, self.task.template.lead
        joined = [
            w for w in words if token_ids(self.tokenizer, tail + lead + w) != (*token_ids(self.tokenizer, tail), *self.answer(w))
        ]
        if joined:
            return [
                f"the tokenizer joins '{joined[0]}' with the text before it, which no prompt shows: in plain text it would be "
                "read differently; a space before {answer} mostly helps"
            ]
        apart = [w for w in words if not lead and len(token_ids(self.tokenizer, f" {w}")) < len(self.answer(w))]
        if apart:
            return [
                f"'{apart[0]}' has {len(self.answer(apart[0]))} tokens where it stands, and fewer after a space: "
                "write a space before {answer}"
            ]
        return []

    def _beginnings(self, words: Sequence[str]) -> list[str]:
        ids = {word: self.answer(word) for word in words}
        for word in words:
            for longer in words:
                if word != longer and ids[longer][: len(ids[word])] == ids[word]:
                    return [f"'{word}' begins '{longer}', so the end of an answer is scored too"]
        return []

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
