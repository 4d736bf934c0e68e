"""Asking a model items together with passages that were retrieved for them (Lewis et al. 2020); answers cite what they rest on.

Three ways to combine K passages: `stuff` puts all into one prompt, the best next to the item; `sequence` and `token` ask once a
passage and mix the answers' probabilities by p(z|x) (`retrieval/rag.py`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tunesmith.core.records import Completion, Example
from tunesmith.evaluate.answer import Answers, Asker, Said, said
from tunesmith.models.score import Request, Scored, score_requests
from tunesmith.retrieval.chunk import Passage
from tunesmith.retrieval.rag import sequence_logprob, token_logprob

Combine = Literal["stuff", "sequence", "token"]
_MIXTURES = {"sequence": sequence_logprob, "token": token_logprob}


@dataclass(frozen=True)
class Evidence:
    """What was found for one item: K passages, the best first, and their log p(z|x), nats."""

    passages: tuple[Passage, ...]
    log_prior: tuple[float, ...]


@dataclass(frozen=True)
class _Reading:
    """One prompt of an item: the passages in it, log p of reading it, its text and its ids."""

    passages: tuple[Passage, ...]
    log_prior: float
    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class GroundedAsker:
    """Who asks, and how several passages become one answer."""

    asker: Asker
    combine: Combine

    def ask(self, items: Sequence[Example], evidence: Sequence[Evidence], title: str = "") -> tuple[Answers, int]:
        """Answer every item.

        A passage that leaves the item no room in the model's context is left out: of `stuff` the worst ones until the prompt
        fits, else each by itself. An item without passages is asked by itself.

        Returns:
            The answers, each with the ids of the passages it rests on and the prompt with the best of them, and how many
            passages were left out. `prompt_tokens` counts all prompts of an item.

        Raises:
            UserError: an item does not fit the model even without passages; names the row.
        """
        start = time.perf_counter()
        if self.combine == "stuff":
            kept = [self._fitting(item, found) for item, found in zip(items, evidence, strict=True)]
            shown = [[passage.shown for passage in reversed(of)] for of in kept]
            answers = self.asker.ask(items, title=title, passages=shown)
            predictions = [replace(p, sources=_ids(of)) for p, of in zip(answers.predictions, kept, strict=True)]
            prompt_tokens, left = answers.prompt_tokens, sum(map(len, kept))
        else:
            readings = [self._readings(item, found) for item, found in zip(items, evidence, strict=True)]
            answered = self._mixed(readings, title)
            cited = [_ids([passage for r in of for passage in r.passages]) for of in readings]
            predictions = [
                replace(self.asker.prediction(item, (of[0].text, of[0].ids), answer), sources=sources)
                for item, of, answer, sources in zip(items, readings, answered, cited, strict=True)
            ]
            prompt_tokens = statistics.fmean(sum(len(r.ids) for r in of) for of in readings)
            left = sum(len(r.passages) for of in readings for r in of)
        found = sum(len(of.passages) for of in evidence)
        return Answers(predictions, time.perf_counter() - start, prompt_tokens), found - left

    def _fitting(self, item: Example, found: Evidence) -> tuple[Passage, ...]:
        kept = found.passages
        while kept and len(self._prompt(item, kept)[1]) > self.asker.longest_prompt:
            kept = kept[:-1]
        return kept

    def _readings(self, item: Example, found: Evidence) -> list[_Reading]:
        """Return a prompt a passage, with priors that sum to one; the bare prompt where no passage fits."""
        prompts = [(p, prior, *self._prompt(item, (p,))) for p, prior in zip(found.passages, found.log_prior, strict=True)]
        fitting = [one for one in prompts if len(one[3]) <= self.asker.longest_prompt]
        if not fitting:
            text, ids = self._prompt(item, ())
            self.asker.check_lengths([item], [ids])
            return [_Reading((), 0.0, text, ids)]
        total = float(np.logaddexp.reduce([prior for _, prior, _, _ in fitting]))
        return [_Reading((p,), prior - total, text, ids) for p, prior, text, ids in fitting]

    def _prompt(self, item: Example, passages: Sequence[Passage]) -> tuple[str, tuple[int, ...]]:
        return self.asker.prompts.prompt(item, (), [passage.shown for passage in reversed(passages)])

    def _mixed(self, readings: Sequence[Sequence[_Reading]], title: str) -> list[Said]:
        if self.asker.prompts.task.verbalizer:
            choices = self.asker.choices()
            scored = self._score([Request(r.ids, choices) for of in readings for r in of], readings, title)
            return [self._chosen(of, answers, choices) for of, answers in zip(readings, scored, strict=True)]
        # Every passage's own greedy answer is a candidate, and each is scored after every passage: "thorough decoding"
        # (section 2.5) with one hypothesis a passage.
        begun = self.asker.begun
        flat = iter(self.asker.greedy([(*r.ids, *begun) for of in readings for r in of], title))
        candidates = [list({c.ids: c for c in (next(flat) for _ in of)}.values()) for of in readings]
        requests = [
            Request((*r.ids, *begun), tuple(c.ids for c in own)) for of, own in zip(readings, candidates, strict=True) for r in of
        ]
        scored = self._score(requests, readings, "")
        return [self._likeliest(*one) for one in zip(readings, scored, candidates, strict=True)]

    def _score(self, requests: Sequence[Request], readings: Sequence[Sequence[_Reading]], title: str) -> list[list[Scored]]:
        """Score the requests of all items at once; returns them item by item."""
        answers = iter(score_requests(self.asker.lm, requests, title))
        return [[next(answers) for _ in of] for of in readings]

    def _mixtures(self, of: Sequence[_Reading], scored: Sequence[Scored]) -> list[float]:
        """Return log p(y|x) of each continuation, nats."""
        mixture, prior = _MIXTURES[self.combine], [r.log_prior for r in of]
        return [mixture(prior, [s.token_logprobs[i] for s in scored]) for i in range(len(scored[0].token_logprobs))]

    def _chosen(self, of: Sequence[_Reading], scored: Sequence[Scored], choices: tuple[tuple[int, ...], ...]) -> Said:
        verbalizer = self.asker.prompts.task.verbalizer
        assert verbalizer is not None
        scores = verbalizer.label_scores(self._mixtures(of, scored), [len(c) for c in choices])
        allowed = scored[0].free_choice in {choice[0] for choice in choices}
        return max(scores, key=lambda label: scores[label]), scores, allowed

    def _likeliest(self, of: Sequence[_Reading], scored: Sequence[Scored], candidates: Sequence[Completion]) -> Said:
        values = self._mixtures(of, scored)
        return said(candidates[values.index(max(values))])


def _ids(passages: Sequence[Passage]) -> tuple[str, ...]:
    return tuple(passage.id for passage in passages)
