"""What a search over prompts asks of models: judge a candidate, find its mistakes, and have better instructions written."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.core.encode import chat_prompt, token_ids, with_bos
from tunesmith.core.records import Example, Message
from tunesmith.core.registry import DEMONSTRATIONS, METRICS
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import Task
from tunesmith.evaluate.answer import Asker
from tunesmith.evaluate.results import Prediction
from tunesmith.models.engine import Engine, complete
from tunesmith.models.generate import Sampling
from tunesmith.recipes._routes.prompt_search import Candidate, Row

_SHORTEST, _LONGEST = 12, 400
_NEW_TOKENS = 80
_TEXT = 300


@dataclass(frozen=True)
class Bench:
    """A task's training rows, cut in two, and the models that answer and write.

    Attributes:
        pool: rows to show as demonstrations and to learn mistakes from. held_out: rows that candidates are judged on.
        writer: the model that writes instructions.
    """

    task: Task
    lm: Engine
    writer: Engine
    pool: Sequence[Example]
    held_out: Sequence[Example]

    def asker(self, candidate: Candidate) -> Asker:
        """Return who asks with a candidate's instruction."""
        file = self.task.file.model_copy(update={"instruction": candidate.instruction})
        return Asker(self.lm, Prompts(replace(self.task, file=file), self.lm.tokenizer))

    def demonstrations(self, candidate: Candidate) -> list[Example]:
        """Return the rows a candidate shows."""
        return [self.pool[i] for i in candidate.shown]

    def judge(self, candidate: Candidate, start: int, stop: int) -> list[Row]:
        """Let a candidate answer held-out rows from `start` up to `stop`."""
        return [self._row(p) for p in self._ask(candidate, self.held_out[start:stop])]

    def mistakes(self, candidate: Candidate, count: int, chance: random.Random) -> list[Prediction]:
        """Ask `count` rows of the pool that the candidate does not show, and return the answers that are wrong."""
        others = [i for i in range(len(self.pool)) if i not in candidate.shown]
        rows = [self.pool[i] for i in chance.sample(others, min(count, len(others)))]
        return [p for p in self._ask(candidate, rows) if not self._row(p)[0]] if rows else []

    def fits(self, candidate: Candidate, room: int = 64) -> bool:
        """Whether the longest of our rows, with `room` tokens for an answer, fits the model after the candidate's prompt."""
        longest = max([*self.pool, *self.held_out], key=lambda row: len(self.task.template.prompt(row.fields)))
        _, ids = self.asker(candidate).prompts.prompt(longest, self.demonstrations(candidate))
        return len(ids) + room <= self.lm.context_length

    def draw(self, shots: int, seed: int) -> tuple[int, ...]:
        """Draw demonstrations from the pool, labels as equal as they can be; returns their numbers."""
        choice = DEMONSTRATIONS.get("balanced" if self.task.verbalizer else "random")
        number = {row.id: i for i, row in enumerate(self.pool)}
        return tuple(number[row.id] for row in choice.choose(self.pool, [self.pool[0]], shots, seed, label_of=self.task.gold)[0])

    def first_instructions(self) -> list[str]:
        """Return instructions that follow from the task file alone."""
        about = self.task.file.description.strip().rstrip(".")
        labels = self.task.verbalizer.labels if self.task.verbalizer else []
        one_of = f"Answer with one of: {', '.join(self.task.verbalizer.flat())}." if self.task.verbalizer else ""
        written = [f"{about}. {one_of}".strip() if about else "", one_of if 0 < len(labels) <= 12 else ""]
        return [text for text in dict.fromkeys(written) if _SHORTEST <= len(text) <= _LONGEST]

    def write(self, candidate: Candidate, wrong: Sequence[Prediction], count: int, seed: int) -> list[str]:
        """Show the writer a candidate's instruction and mistakes and return what it proposes instead, cleaned; "" = unusable."""
        asked = _reflection(self.task, candidate.instruction, wrong)
        tokenizer: Any = self.writer.tokenizer
        if tokenizer.chat_template:
            ids = chat_prompt(tokenizer, [Message("user", asked)])[1]
        else:
            ids = with_bos(tokenizer, token_ids(tokenizer, f"{asked}\n\nBetter instruction:"))
        if len(ids) + _NEW_TOKENS > self.writer.context_length:
            return [""] * count
        answers = complete(self.writer, [ids] * count, Sampling(_NEW_TOKENS, temperature=1.0, top_p=0.95), seed)
        return [clean_instruction(a.text, [p.text for p in wrong]) for a in answers]

    def _ask(self, candidate: Candidate, rows: Sequence[Example]) -> list[Prediction]:
        shown = self.demonstrations(candidate)
        return self.asker(candidate).ask(rows, [shown] * len(rows)).predictions

    def _row(self, p: Prediction) -> Row:
        if not self.task.verbalizer:
            return float(METRICS.get("exact_match").evaluate([p.gold], [p.predicted])), 0.0
        top = max(p.scores.values())
        total = top + math.log(sum(math.exp(value - top) for value in p.scores.values()))
        return float(p.correct), p.scores[p.gold] - total


def clean_instruction(text: str, rows: Sequence[str]) -> str:
    """Return the instruction in what a model wrote: its first paragraph, at most 400 characters, whole sentences.

    Args:
        rows: texts of rows that were shown; an instruction that repeats one is "" (it would give that row's answer away).
    """
    paragraph = next((" ".join(part.split()) for part in text.strip().split("\n\n") if part.strip()), "")
    paragraph = re.sub(
        r"^(?:(?:a |the )?(?:better|new|improved)?\s*instruction\s*(?:is)?\s*:)\s*", "", paragraph, flags=re.IGNORECASE
    )
    paragraph = "".join(c for c in paragraph.strip("\"'“”` *") if c.isprintable() and c != "�")
    # What was cut off by the limit of tokens or of characters ends at its last whole sentence.
    sentences = re.findall(r".*?[.!?:](?=\s|$)", paragraph)
    kept = ""
    for sentence in sentences:
        if len(kept) + len(sentence) > _LONGEST:
            break
        kept += sentence
    kept = kept.strip()
    echoed = any(row.strip() and row.strip().casefold() in kept.casefold() for row in rows)
    return kept if len(kept) >= _SHORTEST and not echoed else ""


def _reflection(task: Task, instruction: str, wrong: Sequence[Prediction]) -> str:
    said = "\n".join(
        f"- {p.text[:_TEXT]}\n  It said: {p.predicted[:_TEXT] or '(nothing)'}. Right: {p.gold[:_TEXT]}." for p in wrong
    )
    labels = f" The possible answers are: {', '.join(task.verbalizer.labels[:20])}." if task.verbalizer else ""
    about = f" The task: {task.file.description.strip()}" if task.file.description.strip() else ""
    return (
        f"A language model works by this instruction:\n{instruction or '(no instruction)'}\n\n{about}{labels} "
        f"It answered these wrongly:\n{said}\n\n"
        "Write a better instruction for it, in one or two sentences, that says how to decide. Reply with the instruction only."
    )
