"""Asking a model for reasons and an answer: one greedy path (chain of thought) or a vote over sampled ones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.data.extraction import same, vote
from tunesmith.data.reasoning import ReasoningPrompts
from tunesmith.evaluate.answer import Answers, first_line, hash_of_ids, prompt_tokens, shown_text
from tunesmith.evaluate.results import Prediction
from tunesmith.models.engine import Engine, complete
from tunesmith.models.generate import Sampling

_ANSWER_TOKENS = 16


@dataclass(frozen=True)
class Path:
    """One way to an answer: all that was said, and the answer read from it ("" = none could be)."""

    text: str
    answer: str


@dataclass(frozen=True)
class Reasoner:
    """A model and how it is asked for its reasons.

    Attributes:
        exemplars: rows with a rationale shown before every item; none = zero-shot.
        how: sampling of the reasons. paths: how many a item; the most frequent answer wins (Wang et al. 2023).
    """

    lm: Engine
    prompts: ReasoningPrompts
    exemplars: Sequence[Example]
    how: Sampling
    paths: int = 1

    def ask(self, items: Sequence[Example], seed: int = 0, title: str = "") -> tuple[Answers, list[list[Path]]]:
        """Answer every item.

        A path's random numbers follow from the seed, its prompt and its number. The answer after the reasons is greedy.

        Returns:
            Predictions with the share of votes of each answer as scores, and per item all its paths.

        Raises:
            UserError: a prompt does not fit the model; names the row.
        """
        start = time.perf_counter()
        asked = [self.prompts.reasons(item, self.exemplars) for item in items]
        self._check_lengths(items, [ids for _, ids in asked])
        walked = self._walk(items, [ids for _, ids in asked], seed, title)
        predictions = [
            self._prediction(item, text, ids, paths) for item, (text, ids), paths in zip(items, asked, walked, strict=True)
        ]
        seconds = time.perf_counter() - start
        mean = statistics.fmean(len(ids) for _, ids in asked)
        return Answers(predictions, seconds, prompt_tokens(self.lm, mean)), walked

    def _walk(self, items: Sequence[Example], ids: Sequence[tuple[int, ...]], seed: int, title: str) -> list[list[Path]]:
        extraction, zero_shot = self.prompts.extraction, not self.exemplars
        of_path = [item for item in items for _ in range(self.paths)]
        said = [c.text for c in complete(self.lm, [i for i in ids for _ in range(self.paths)], self.how, seed, title)]
        silent = [n for n, text in enumerate(said) if not extraction.answer(text)] if zero_shot else []
        if silent:
            prompts = [self.prompts.answer(of_path[n], self.exemplars, said[n])[1] for n in silent]
            # No stop at a line's end: small models often write a colon and the answer on the next line.
            how = Sampling(_ANSWER_TOKENS, temperature=0.0, stop=self.prompts.stop)
            finished = complete(self.lm, prompts, how, title=f"{title}, answers" if title else "")
            for n, answer in zip(silent, finished, strict=True):
                said[n] = f"{said[n].rstrip()}\n{self.prompts.ask_for_answer} {_unechoed(answer.text)}"
        paths = [Path(text.strip(), extraction.answer(text)) for text in said]
        return [paths[i * self.paths : (i + 1) * self.paths] for i in range(len(items))]

    def _prediction(self, item: Example, text: str, ids: tuple[int, ...], paths: Sequence[Path]) -> Prediction:
        task = self.prompts.prompts.task
        gold = task.gold(item) if task.verbalizer else first_line(task.gold(item))
        votes = vote([path.answer for path in paths])
        winner = next((path for path in paths if votes.answer and same(path.answer, votes.answer)), paths[0])
        # "18" for a gold answer written "18.0" is that answer.
        predicted = gold if votes.answer and same(votes.answer, gold) else votes.answer
        shares = {gold if same(answer, gold) else answer: share for answer, share in votes.shares.items()}
        scores = {} if self.paths == 1 else shares
        return Prediction(
            id=item.id, where=item.where, text=shown_text(task, item), prompt=text, prompt_hash=hash_of_ids(ids),
            scores=scores, predicted=predicted, gold=gold, valid=bool(votes.answer), rationale=winner.text,
        )  # fmt: skip

    def _check_lengths(self, items: Sequence[Example], ids: Sequence[tuple[int, ...]]) -> None:
        after = self.how.max_new_tokens + _ANSWER_TOKENS + len(self.prompts.ask_for_answer.encode()) + 2
        for item, tokens in zip(items, ids, strict=True):
            if len(tokens) + after > self.lm.context_length:
                raise UserError(
                    f"{item.where}: its prompt has {len(tokens):,} tokens; with {self.how.max_new_tokens} of reasons and the "
                    f"answer it is longer than the {self.lm.context_length:,} that {self.lm.name} reads",
                    "Shorten or remove the row, show fewer exemplars, or lower max_new_tokens.",
                )


def _unechoed(answer: str) -> str:
    # In a conversation the model often repeats the words it was asked with.
    head, found, tail = answer.strip().rpartition("answer is")
    return tail.strip(" :") if found and len(head) < len(answer) else answer.strip()
