"""Questions about a passage, read in windows and answered by a span of it (Devlin et al. 2019, 4.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.core.encode import encoder_ids, token_ids, token_spans
from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded, Example
from tunesmith.data.spans import Span, best_spans, tokens_of, windows
from tunesmith.data.task import Task
from tunesmith.evaluate.answer import hash_of_ids
from tunesmith.evaluate.results import Prediction
from tunesmith.models.heads import answer_places, span_logits
from tunesmith.models.load import LM
from tunesmith.recipes._tune.encoder import by_batch

_NOWHERE = (0, 0)
# Stands for the passage where only the place of it matters; no token has this number.
_PASSAGE = -1


@dataclass(frozen=True)
class Window:
    """A question with a piece of its passage: its token ids, where the piece begins in them, and which tokens it is."""

    ids: tuple[int, ...]
    before: int
    first: int
    end: int


@dataclass(frozen=True)
class Answered:
    """What was found for a question: the best spans as characters [start, end) of the passage with scores, and that of none."""

    spans: list[tuple[float, int, int]]
    none: float

    @property
    def margin(self) -> float:
        """How much better the best span is than no answer; very little where there is none."""
        return self.spans[0][0] - self.none if self.spans else -1e9

    def text(self, context: str) -> str:
        """Return the best span of the passage; "" where there is none."""
        return context[self.spans[0][1] : self.spans[0][2]] if self.spans else ""


@dataclass(frozen=True)
class SpanReader:
    """Reads questions and passages for a model, and finds answers.

    Attributes:
        how: max_length, doc_stride, max_answer_length, n_best, and null_threshold (None = there is always an answer), which
            are kept in the model's config.json.
    """

    lm: LM
    task: Task
    how: Mapping[str, Any]

    def windows_of(self, example: Example) -> tuple[list[Window], list[tuple[int, int]]]:
        """Return a row's windows, and the characters of each token of its passage.

        Raises:
            UserError: the row is no question with a passage, or the question leaves too little room.
        """
        question, context = (self._text(example, name) for name in ("question", "context"))
        asked, (ids, offsets) = token_ids(self.lm.tokenizer, question), token_spans(self.lm.tokenizer, context)
        marked = encoder_ids(self.lm.tokenizer, asked, (_PASSAGE,))
        before = marked.index(_PASSAGE)
        room = min(self.how["max_length"], self.lm.context_length) - (len(marked) - 1)
        if room < self.how["doc_stride"]:
            raise UserError(
                f"{example.where}: the question has {len(asked):,} tokens, which leaves {max(room, 0)} for the passage",
                f"It must leave as many as --objective.doc_stride ({self.how['doc_stride']}): raise --max_length or shorten it.",
            )
        made = [
            Window(encoder_ids(self.lm.tokenizer, asked, ids[a:b]), before, a, b)
            for a, b in windows(len(ids), room, self.how["doc_stride"])
        ]
        return made, offsets

    def _text(self, example: Example, name: str) -> str:
        value = example.fields.get(name)
        if not isinstance(value, str):
            raise UserError(
                f"{example.where}: the row has no text '{name}'", "Rows need context, question and answers, as in SQuAD."
            )
        return value

    def encode(self, example: Example) -> list[Encoded]:
        """Return a row for every window, whose targets are the first and last token of the answer; 0, 0 where it is not in it.

        Raises:
            UserError: the answer's tokens cannot be told.
        """
        answers = example.fields.get("answers")
        if not isinstance(answers, Mapping) or len(answers.get("answer_start", [])) != len(answers.get("text", [])):
            raise UserError(f"{example.where}: the row does not say where its answer stands", "Give answers as SQuAD does.")
        made, offsets = self.windows_of(example)
        place = None
        if answers["text"]:
            start = answers["answer_start"][0]
            place = tokens_of(offsets, start, start + len(answers["text"][0]))
            if place is None:
                raise UserError(
                    f"{example.where}: no token stands for the answer {answers['text'][0]!r:.60}", "Give another span."
                )
        rows = []
        for number, window in enumerate(made):
            inside = place is not None and window.first <= place[0] and place[1] < window.end
            shift = window.before - window.first
            targets = (place[0] + shift, place[1] + shift) if inside and place else _NOWHERE
            mask = (True,) + (False,) * (len(window.ids) - 1)
            rows.append(Encoded(window.ids, mask, f"{example.id}.{number}" if len(made) > 1 else example.id, targets))
        return rows

    def find(self, items: Sequence[Example], title: str = "") -> list[Answered]:
        """Return the best spans of every question over all its windows, with the smallest of their scores of no answer.

        So one window that holds an answer is enough, as in BERT's own code.
        """
        read = [self.windows_of(item) for item in items]
        of = [(number, window) for number, (made, _) in enumerate(read) for window in made]
        rows = [Encoded(window.ids, (False,) * len(window.ids), items[number].id) for number, window in of]
        spans: list[list[tuple[float, int, int]]] = [[] for _ in items]
        none = [np.inf] * len(items)
        for numbers, batch in by_batch(rows, title):
            ids, lengths, _ = batch.tensors(self.lm.device)
            logits = span_logits(self.lm, ids, lengths).float()
            places = answer_places(self.lm, ids, lengths)
            scores = logits.masked_fill(~places[..., None], -np.inf).cpu().numpy()
            for row, one in zip(numbers, scores, strict=True):
                item, window = of[row]
                none[item] = min(none[item], float(one[0].sum()))
                inner = one[window.before : window.before + window.end - window.first]
                best = best_spans(inner[:, 0], inner[:, 1], self.how["max_answer_length"], self.how["n_best"])
                spans[item] += [self._characters(span, window, read[item][1]) for span in best]
        return [Answered(sorted(s, key=lambda one: -one[0])[: self.how["n_best"]], n) for s, n in zip(spans, none, strict=True)]

    @staticmethod
    def _characters(span: Span, window: Window, offsets: list[tuple[int, int]]) -> tuple[float, int, int]:
        return span.score, offsets[window.first + span.first][0], offsets[window.first + span.last][1]

    def answer(self, items: Sequence[Example], title: str) -> list[Prediction]:
        """Answer questions; scores are those of the n best answers, with that of no answer under ""."""
        threshold, predictions = self.how["null_threshold"], []
        for item, found in zip(items, self.find(items, title), strict=True):
            context, golds = item.fields["context"], self.task.golds(item)
            scores: dict[str, float] = {} if threshold is None else {"": found.none}
            for score, start, end in found.spans:
                scores.setdefault(context[start:end], score)
            answered = bool(found.spans) and (threshold is None or found.margin > threshold)
            first = self.windows_of(item)[0][0]
            predictions.append(
                Prediction(
                    item.id, item.where, item.fields["question"], f"{item.fields['question']}\n{context}", hash_of_ids(first.ids),
                    scores, found.text(context) if answered else "", golds[0],
                    golds=golds if len(golds) > 1 else (),
                )
            )  # fmt: skip
        return predictions
