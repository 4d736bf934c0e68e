"""Prompts that ask for the reasons before the answer (Wei et al. 2022), and for the answer after the reasons.

With exemplars (rows with a field `rationale`): question, rationale, "The answer is X.", and then the item. Without: the item and
"Let's think step by step.", and where that states no answer, the reasons once more and "Therefore, the answer is"
(zero-shot chain of thought, Kojima et al. 2022, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.core.encode import chat_prompt, token_ids, with_bos
from tunesmith.core.records import Example, Message
from tunesmith.data.extraction import Extraction
from tunesmith.data.prompts import Prompts

STEP_BY_STEP = "Let's think step by step."
_MOST_CHOICES = 12


@dataclass(frozen=True)
class ReasoningPrompts:
    """A task's prompts with room for reasons.

    Attributes:
        extraction: how answers are read; it decides how they are asked for.
    """

    prompts: Prompts
    extraction: Extraction

    @property
    def ask_for_answer(self) -> str:
        """The words that come after the reasons and before the answer."""
        labels = [words[0] for words in self.extraction.words.values()]
        if 0 < len(labels) <= _MOST_CHOICES:
            return f"Therefore, among {', '.join(labels[:-1])} and {labels[-1]}, the answer is"
        return "Therefore, the answer (arabic numerals) is" if self.extraction.kind == "number" else "Therefore, the answer is"

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings where the model has begun another item of its own."""
        task = self.prompts.task
        opening = task.template.text.partition("{")[0].rstrip()
        return (task.file.separator + opening,) if task.file.separator and not task.file.chat else ()

    def reasons(self, item: Example, exemplars: Sequence[Example] = ()) -> tuple[str, tuple[int, ...]]:
        """Return the prompt that reasons follow, and its token ids.

        Raises:
            UserError: a field is missing, or the model has no chat template where the task asks for one.
        """
        return self._prompt(item, exemplars, "")

    def answer(self, item: Example, exemplars: Sequence[Example], reasons: str) -> tuple[str, tuple[int, ...]]:
        """Return the prompt that a bare answer follows, after the reasons the model gave.

        Raises:
            UserError: as `reasons`.
        """
        return self._prompt(item, exemplars, reasons.strip() or "(no reasons given)")

    def _prompt(self, item: Example, exemplars: Sequence[Example], reasons: str) -> tuple[str, tuple[int, ...]]:
        task, tokenizer = self.prompts.task, self.prompts.tokenizer
        asked = task.template.prompt(item.fields)
        if task.file.chat:
            turns = [Message("system", task.file.instruction)] if task.file.instruction else []
            for shown in exemplars:
                turns += [Message("user", task.template.prompt(shown.fields)), Message("assistant", self._worked(shown))]
            turns.append(Message("user", asked if exemplars else f"{asked}\n\n{STEP_BY_STEP}"))
            if reasons:
                turns += [Message("assistant", reasons), Message("user", self.ask_for_answer)]
            return chat_prompt(tokenizer, turns)
        lead = task.template.lead or " "
        shown = [task.template.prompt(e.fields) + lead + self._worked(e) for e in exemplars]
        asked += "" if exemplars else lead + STEP_BY_STEP
        asked += f"{lead if exemplars else ' '}{reasons}\n{self.ask_for_answer}" if reasons else ""
        text = task.file.separator.join([*filter(None, [task.file.instruction]), *shown, asked])
        return text, with_bos(tokenizer, token_ids(tokenizer, text))

    def _worked(self, exemplar: Example) -> str:
        reasons = str(exemplar.fields["rationale"]).strip()
        return f"{reasons} The answer is {self.prompts.task.answer(exemplar)}."


def with_rationale(rows: Sequence[Example]) -> list[Example]:
    """Return the rows that carry their reasons in the field `rationale`."""
    return [row for row in rows if isinstance(row.fields.get("rationale"), str) and row.fields["rationale"].strip()]
