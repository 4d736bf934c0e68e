"""Asking a masked language model a task's items: the words of the verbalizer, tried in a pattern's gap.

A word of n tokens is scored by the sum of its n log-probabilities, each at its own mask and all masks there at once, a
quicker reading of Schick & Schuetze (2021b, section 3), who fill them one after the other. For words of one token that is
the logit at [MASK] up to a constant, so a softmax over the labels' scores is theirs over the labels' words only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.data.cloze import Cloze, Pattern
from tunesmith.data.task import Task
from tunesmith.evaluate.answer import Answers, content_free_logprobs, ids_hash, shown_text, single_query_ms
from tunesmith.evaluate.results import Prediction
from tunesmith.models.fill import Filled, Gap, fill
from tunesmith.models.load import LM


@dataclass(frozen=True)
class ClozeAsker:
    """A masked language model, a task with choices, and one of its patterns."""

    lm: LM
    task: Task
    pattern: Pattern

    def ask(self, items: Sequence[Example], draw: int = 0, prior: dict[str, float] | None = None, title: str = "") -> Answers:
        """Answer every item.

        Args:
            draw: number of the pattern. prior: label -> log-probability without content, subtracted from its score.
            title: shown with the progress line.

        Raises:
            UserError: a row lacks a field, a word is not in the vocabulary, or the pattern is too long for the model.
        """
        start = time.perf_counter()
        clozes = [self._clozes(item) for item in items]
        scored, free = self._scores(clozes, title)
        seconds = time.perf_counter() - start
        begins = {ids[0] for ids in self._words()}
        predictions = []
        for item, filled, labels, choice in zip(items, clozes, scored, free, strict=True):
            scores = {label: value - (prior[label] if prior else 0.0) for label, value in labels.items()}
            predictions.append(Prediction(
                id=item.id, where=item.where, text=shown_text(self.task, item), prompt="\n".join(c.text for c in filled),
                prompt_hash=ids_hash([i for c in filled for i in c.ids]), scores=scores,
                predicted=max(scores, key=lambda label: scores[label]), gold=self.task.gold(item), valid=choice in begins,
                draw=draw,
            ))  # fmt: skip
        return Answers(predictions, seconds, sum(len(c.ids) for filled in clozes for c in filled) / len(items))

    def prior(self, texts: Sequence[str] = ("N/A", "", "[MASK]")) -> dict[str, float]:
        """Return label -> log p_cf, the label probabilities of the pattern without content (Zhao et al. 2021, section 4)."""
        empty = [Example("", dict.fromkeys(self.pattern.fields, text), "content-free") for text in texts]
        return content_free_logprobs(self._scores([self._clozes(e) for e in empty], "")[0])

    def latencies(self, items: Sequence[Example]) -> tuple[float, float]:
        """Return p50 and p95 milliseconds of single queries, each asked by itself from its text."""
        return single_query_ms(lambda item: self.ask([item]), items)

    def shortened(self, items: Sequence[Example]) -> int:
        """Return how many items are longer than the model reads, so that their fields are shortened."""
        return sum(any(c.shortened for c in self._clozes(item)) for item in items)

    def long_words(self) -> list[str]:
        """Return the words that have several tokens in the gap, and so several masks."""
        assert self.task.verbalizer is not None
        return [word for word, ids in zip(self.task.verbalizer.flat(), self._words(), strict=True) if len(ids) > 1]

    def _words(self) -> list[tuple[int, ...]]:
        assert self.task.verbalizer is not None
        return self.pattern.word_ids(self.lm.tokenizer, self.task.verbalizer.flat())

    def _lengths(self) -> list[int]:
        return sorted({len(ids) for ids in self._words()})

    def _clozes(self, item: Example) -> list[Cloze]:
        """Fill in an item, once for each number of masks that a word needs."""
        longest = min(self.lm.context_length, self.lm.tokenizer.model_max_length)
        try:
            return [self.pattern.render(self.lm.tokenizer, item.fields, longest, masks) for masks in self._lengths()]
        except UserError as error:
            raise UserError(f"{item.where}: {error.message}", error.fix) from None

    def _scores(self, clozes: Sequence[Sequence[Cloze]], title: str) -> tuple[list[dict[str, float]], list[int]]:
        """Return for each item its labels' scores (nats), and the likeliest token of its first mask."""
        verbalizer, words = self.task.verbalizer, self._words()
        assert verbalizer is not None
        logprobs: list[dict[tuple[int, ...], float]] = [{} for _ in clozes]
        first: list[Filled] = []
        for place, length in enumerate(self._lengths()):
            these = [ids for ids in words if len(ids) == length]
            filled = fill(self.lm, [Gap(c[place].ids, c[place].at) for c in clozes], these, title)
            first = first or filled
            for known, one in zip(logprobs, filled, strict=True):
                known.update(zip(these, one.logprobs, strict=True))
        sizes = [len(ids) for ids in words]
        labels = [verbalizer.label_scores([known[ids] for ids in words], sizes) for known in logprobs]
        return labels, [one.free_choice for one in first]
