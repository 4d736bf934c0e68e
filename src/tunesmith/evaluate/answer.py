"""Asking a model a task's items: by scoring its choices, or by generating where the answer is free text."""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tunesmith.core.encode import token_ids
from tunesmith.core.errors import UserError
from tunesmith.core.records import Completion, Example
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import Task
from tunesmith.evaluate.results import Prediction
from tunesmith.models.engine import Engine, complete, score_requests
from tunesmith.models.generate import Sampling
from tunesmith.models.remote import RemoteLM
from tunesmith.models.score import Request, Scored

_NEW_TOKENS = 48
_TIMED_QUERIES = 16
T = TypeVar("T")
# The answer, the score of every label (none for generated answers), and whether it is one of those allowed.
Said = tuple[str, dict[str, float], bool]


@dataclass(frozen=True)
class Answers:
    """Predictions of one draw, what they cost, and how long a single query takes.

    Attributes:
        seconds: for all items, batched. prompt_tokens: mean tokens of a prompt.
    """

    predictions: list[Prediction]
    seconds: float
    prompt_tokens: float


def scorer_name(task: Task) -> str:
    """Name what turns a prompt into an answer; results by different scorers are not compared."""
    verbalizer = task.verbalizer
    if verbalizer is None:
        return f"greedy generation of at most {_NEW_TOKENS} tokens, first line"
    return f"log-likelihood of choices, {verbalizer.normalise} normalisation, {verbalizer.aggregate} over words"


@dataclass(frozen=True)
class Asker:
    """A model, a task's prompts and how its answers end.

    Attributes:
        trained: the model was trained on this task, so its answers end with its end-of-sequence token.
    """

    lm: Engine
    prompts: Prompts
    trained: bool = False

    def ask(
        self,
        items: Sequence[Example],
        demonstrations: Sequence[Sequence[Example]] | None = None,
        draw: int = 0,
        prior: dict[str, float] | None = None,
        title: str = "",
        passages: Sequence[Sequence[str]] | None = None,
    ) -> Answers:
        """Answer every item.

        Args:
            demonstrations: per item, the examples shown before it.
            prior: label -> log-probability without content, subtracted from the label's score (contextual calibration).
            title: shown with the progress line.
            passages: per item, texts to read before it.

        Raises:
            UserError: a prompt does not fit the model; names the row.
        """
        shown, read = demonstrations or [()] * len(items), passages or [()] * len(items)
        start = time.perf_counter()
        texts, ids = zip(*(self.prompts.prompt(*one) for one in zip(items, shown, read, strict=True)), strict=True)
        self.check_lengths(items, ids)
        answers = self._choose(ids, prior, title) if self.prompts.task.verbalizer else self._generate(ids, title)
        seconds = time.perf_counter() - start
        predictions = [
            self.prediction(item, prompt, answer, draw)
            for item, prompt, answer in zip(items, zip(texts, ids, strict=True), answers, strict=True)
        ]
        return Answers(predictions, seconds, prompt_tokens(self.lm, statistics.fmean(map(len, ids))))

    def fitted(self, items: Sequence[Example], demonstrations: Sequence[Sequence[Example]]) -> list[Sequence[Example]]:
        """Return per item the last demonstrations that fit the model together with item and answer, at best all of them."""
        return [self._fitted(item, shown, self.longest_prompt) for item, shown in zip(items, demonstrations, strict=True)]

    def _fitted(self, item: Example, shown: Sequence[Example], room: int) -> Sequence[Example]:
        # A token is at least a byte of text, so most prompts need not be tokenised to see that they fit.
        if self.prompts.most_tokens(item, shown) <= room:
            return shown
        while shown and len(self.prompts.prompt(item, shown)[1]) > room:
            shown = shown[1:]
        return shown

    def prediction(self, item: Example, prompt: tuple[str, tuple[int, ...]], answer: Said, draw: int = 0) -> Prediction:
        """Return the record of one answer, from the prompt's text and ids and what was said."""
        predicted, scores, valid = answer
        task = self.prompts.task
        golds = task.golds(item) if task.verbalizer else tuple(map(first_line, task.golds(item)))
        return Prediction(
            id=item.id, where=item.where, text=shown_text(task, item), prompt=prompt[0],
            prompt_hash=hash_of_ids(prompt[1]), scores=scores, predicted=predicted,
            gold=golds[0], valid=valid, draw=draw, golds=golds if len(golds) > 1 else (),
        )  # fmt: skip

    def latencies(
        self, items: Sequence[Example], demonstrations: Sequence[Sequence[Example]] | None = None
    ) -> tuple[float, float]:
        """Return p50 and p95 milliseconds of single queries, each asked by itself from its text."""
        asked = list(zip(items, demonstrations or [()] * len(items), strict=True))
        return single_query_ms(lambda query: self.ask([query[0]], [query[1]]), asked)

    def scores(self, items: Sequence[Example], title: str = "") -> list[dict[str, float]]:
        """Return per item the score of every label (nats); items need no gold answer.

        Raises:
            UserError: a prompt does not fit the model; names the row.
        """
        ids = [self.prompts.prompt(item)[1] for item in items]
        self.check_lengths(items, ids)
        return self.label_logprobs(ids, title)[0]

    def label_logprobs(
        self, prompt_ids: Sequence[tuple[int, ...]], title: str = ""
    ) -> tuple[list[dict[str, float]], list[Scored]]:
        """Return per prompt the score of every label (nats), and the raw scores they come from."""
        verbalizer = self.prompts.task.verbalizer
        assert verbalizer is not None
        choices = self.choices()
        scored = score_requests(self.lm, [Request(ids, choices) for ids in prompt_ids], title)
        lengths = [len(c) for c in choices]
        alone = None
        if verbalizer.normalise == "pmi":  # asked apart, because the prompts of a call share their beginning
            alone = score_requests(self.lm, [Request(self.prompts.without_item(), choices)])[0].logprobs
        return [verbalizer.label_scores(s.logprobs, lengths, alone) for s in scored], scored

    @property
    def longest_prompt(self) -> int:
        """Tokens a prompt may have, so that the answer still fits the model's context."""
        answer = max(map(len, self.choices())) - 1 if self.prompts.task.verbalizer else _NEW_TOKENS
        return self.lm.context_length - answer

    def check_lengths(self, items: Sequence[Example], ids: Sequence[tuple[int, ...]]) -> None:
        """Check that every prompt fits the model together with its answer.

        Raises:
            UserError: one does not; names the row.
        """
        most = self.longest_prompt
        for item, tokens in zip(items, ids, strict=True):
            if len(tokens) > most:
                raise UserError(
                    f"{item.where}: its prompt has {len(tokens):,} tokens; {self.lm.name} reads at most "
                    f"{self.lm.context_length:,} with the answer",
                    "Shorten or remove the row, or show fewer demonstrations.",
                )

    def choices(self) -> tuple[tuple[int, ...], ...]:
        """Return the token ids of all words of the verbalizer, in `flat` order, as they are scored."""
        task = self.prompts.task
        words = task.verbalizer.flat() if task.verbalizer else []
        plain = [self.prompts.answer(w) for w in words]
        if not any(a != b and b[: len(a)] == a for a in plain for b in plain):
            return tuple(plain)
        # "refund" begins "refund request" and would never be less likely; the end of the answer tells them apart.
        if self.trained or task.file.chat:
            return tuple(self.prompts.answer(w, closed=True) for w in words)
        return tuple(self.prompts.answer(w + task.file.separator[:1]) for w in words)

    def _choose(self, prompt_ids: Sequence[tuple[int, ...]], prior: dict[str, float] | None, title: str) -> list[Said]:
        begins = {choice[0] for choice in self.choices()}
        scores, raw = self.label_logprobs(prompt_ids, title)
        said = []
        for labels, one in zip(scores, raw, strict=True):
            adjusted = {label: value - (prior[label] if prior else 0.0) for label, value in labels.items()}
            said.append((max(adjusted, key=lambda label: adjusted[label]), adjusted, one.free_choice in begins))
        return said

    def _generate(self, prompt_ids: Sequence[tuple[int, ...]], title: str) -> list[Said]:
        return [said(answer) for answer in self.greedy([(*ids, *self.begun) for ids in prompt_ids], title)]

    @property
    def begun(self) -> tuple[int, ...]:
        """Ids of a free answer's beginning that the template prescribes."""
        # A template may put the answer on a line of its own; that line break must not be taken for the answer's end.
        lead = self.prompts.task.template.lead if not self.prompts.task.file.chat else ""
        return token_ids(self.lm.tokenizer, lead) if "\n" in lead else ()

    def greedy(self, prompt_ids: Sequence[tuple[int, ...]], title: str) -> list[Completion]:
        """Return the model's most likely next tokens after each prompt, up to the end of the line."""
        return complete(self.lm, prompt_ids, Sampling(_NEW_TOKENS, temperature=0.0, stop=("\n",)), title=title)


def said(completion: Completion) -> Said:
    """Return what a generated answer says: its first line, and whether it ended by itself."""
    text = completion.text
    return first_line(text), {}, bool(text.strip()) and completion.stop_reason != "length"


def calibration_prior(
    asker: Asker, demonstrations: Sequence[Example], texts: Sequence[str] = ("N/A", "", "[MASK]")
) -> dict[str, float]:
    """Return label -> log p_cf, the label probabilities of a prompt without content (Zhao et al. 2021, section 4).

    The raw probabilities of the content-free inputs are averaged, then normalised over the labels, as the authors' code
    does; the other order gives other numbers.
    """
    return calibration_priors(asker, [demonstrations], texts)[0]


def calibration_priors(
    asker: Asker, demonstrations: Sequence[Sequence[Example]], texts: Sequence[str] = ("N/A", "", "[MASK]")
) -> list[dict[str, float]]:
    """Return what `calibration_prior` returns for each list of demonstrations, all scored together."""
    ids = [asker.prompts.content_free(text, shown) for shown in demonstrations for text in texts]
    scores = asker.label_logprobs(ids)[0]
    return [content_free_logprobs(scores[at : at + len(texts)]) for at in range(0, len(scores), len(texts))]


def recalibrated(prediction: Prediction, prior: dict[str, float]) -> Prediction:
    """Return an uncalibrated prediction as calibration would have made it."""
    scores = {label: value - prior[label] for label, value in prediction.scores.items()}
    return replace(prediction, scores=scores, predicted=max(scores, key=lambda label: scores[label]))


def content_free_logprobs(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average raw label probabilities over content-free inputs, then normalise; natural logarithms in and out."""
    # A label of many tokens has a probability far below the smallest float, so only its logarithm is ever formed.
    raw = {label: _log_sum([s[label] for s in scores]) for label in scores[0]}
    total = _log_sum(list(raw.values()))
    return {label: value - total for label, value in raw.items()}


def _log_sum(logprobs: Sequence[float]) -> float:
    top = max(logprobs)
    return top + math.log(sum(math.exp(value - top) for value in logprobs))


def single_query_ms(ask: Callable[[T], object], queries: Sequence[T]) -> tuple[float, float]:
    """Return p50 and p95 milliseconds of at most 16 queries asked one at a time.

    The first is asked once before, untimed: what is made on first use is not part of a query.
    """
    times = []
    ask(queries[0])
    for query in queries[:_TIMED_QUERIES]:
        start = time.perf_counter()
        ask(query)
        times.append(1000 * (time.perf_counter() - start))
    times.sort()
    return statistics.median(times), times[round(0.95 * (len(times) - 1))]


def accuracy_on(asker: Asker, items: Sequence[Example]) -> float:
    """Return the share of items answered right."""
    answered = asker.ask(items).predictions
    return sum(p.correct for p in answered) / len(answered)


def prompt_tokens(lm: Engine, ids: float) -> float:
    """Return how many tokens of the model's own a prompt of so many ids is; a server counts otherwise than we do."""
    return lm.tokens(ids) if isinstance(lm, RemoteLM) else ids


def hash_of_ids(ids: Sequence[int]) -> str:
    """Return the SHA-256 of a prompt's token ids, in hexadecimal."""
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def first_line(text: str) -> str:
    """Return what counts of a generated answer: its first line, without spaces around it."""
    return text.strip().split("\n")[0].strip()


def shown_text(task: Task, item: Example) -> str:
    """Return what a person reads to answer an item: its text, or the fields the template names."""
    fields = item.fields
    return fields["text"] if isinstance(fields.get("text"), str) else "  ".join(f"{k}: {fields[k]}" for k in task.template.fields)
