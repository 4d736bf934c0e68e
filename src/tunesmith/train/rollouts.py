"""Rollouts as training rows: sampled by the policy of the moment, scored, set beside the reference, and credited to tokens.

    prompts -> policy samples -> scorer -> reference log-probabilities (adapter off) -> rewards, advantages -> rows

An epoch of the training loop is the rows of one round, so all that `fit` promises holds here too: a killed run goes on bit for
bit. Each round is kept in a file, for the weights that sampled it are gone once it has been learned from.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import WorkFailed
from tunesmith.core.files import write_json
from tunesmith.core.records import Completion, Encoded
from tunesmith.core.seeds import derive
from tunesmith.data.collate import VaryingRows
from tunesmith.models.generate import Sampling, ValueHead, complete
from tunesmith.models.load import LM
from tunesmith.models.score import Request, score_requests
from tunesmith.rl.kl import Controller

# Of a token: log-probability when sampled, advantage, return, value when sampled, log-probability by the reference, tokens of
# its completion.
OLD, ADVANTAGE, RETURN, VALUE, REFERENCE, LENGTH = range(6)


@dataclass(frozen=True)
class Prompt:
    """What is answered: token ids, the text a scorer sees, and the answers that are right, where these are known."""

    ids: tuple[int, ...]
    text: str
    where: str
    golds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a scorer judges: a prompt, the text that answers it, whether it ended by itself, and what is right, if known."""

    prompt: str
    text: str
    ended: bool
    golds: tuple[str, ...] = ()


Scorer = Callable[[Sequence[Answer]], Sequence[float]]


@dataclass(frozen=True)
class Round:
    """The B = P k completions of one round, k after each other for each of P prompts; tensors are padded on the right.

    Attributes:
        scores: [P, k]. logprobs, reference, values: [B, T] nats, nats and values before each token.
        loss_mask: [B, T], True at a completion's tokens. beta: price of a nat of divergence.
    """

    scores: torch.Tensor
    logprobs: torch.Tensor
    reference: torch.Tensor
    values: torch.Tensor
    loss_mask: torch.Tensor
    beta: float


# A round to advantages and returns, [B, T] each.
Credit = Callable[[Round], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Sampler:
    """How rounds are made.

    Attributes:
        reference: a with-block inside which the model is the reference (its adapter off).
        prompts_per_round, samples: P and k. passes: how often a round is learned from.
        no_end: score of a completion that did not end by itself, in the place of the scorer's; None = the scorer's counts.
    """

    lm: LM
    prompts: Sequence[Prompt]
    scorer: Scorer
    credit: Credit
    reference: Callable[[], AbstractContextManager[None]]
    how: Sampling
    prompts_per_round: int
    samples: int
    passes: int = 1
    value_head: ValueHead | None = None
    no_end: float | None = None


class Rollouts(VaryingRows):
    """The rows of a policy's rounds.

    Args:
        controller: beta at the beginning, and how it follows a target.
        folder: where rounds are kept, one JSON file each.
    """

    def __init__(self, sampler: Sampler, controller: Controller, folder: Path, seed: int) -> None:
        self.sampler, self.controller, self.folder, self.seed = sampler, controller, folder, seed
        self._round = -1
        self._rows: list[Encoded] = []
        self._kept: dict[str, Any] = {}

    def __len__(self) -> int:
        return self.sampler.prompts_per_round * self.sampler.samples

    def __getitem__(self, number: Any) -> Any:
        """Return a stand-in as long as a row may become: what a row will be is known when its round has begun."""
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        new = self.sampler.how.max_new_tokens
        longest = max((prompt.ids for prompt in self.sampler.prompts), key=len)
        beside = ((0.0,) * LENGTH + (1.0,),) * new
        return Encoded((*longest, *[0] * new), (False,) * len(longest) + (True,) * new, f"row {number}", None, beside)

    def in_epoch(self, epoch: int) -> Sequence[Encoded]:
        """Return the rows of a round, sampled now or read where it is kept.

        Raises:
            WorkFailed: a score or log-probability is not finite, or a kept round is damaged.
        """
        number = epoch // self.sampler.passes
        if number != self._round:
            path = self.folder / f"round-{number:06d}.json"
            kept = _read(path) if path.is_file() else self._made(number)
            if not path.is_file():
                write_json(path, kept)
            self._round, self._kept = number, kept
            self._rows = [
                Encoded(tuple(row["ids"]), tuple(row["loss_mask"]), row["where"], None, tuple(map(tuple, row["beside"])))
                for row in kept["rows"]
            ]
        return self._rows

    def measured(self, epoch: int) -> dict[str, float]:
        """Return what was measured of the epoch's round."""
        return dict(self._kept.get("measured", {})) if epoch // self.sampler.passes == self._round else {}

    def _beta(self, number: int) -> Controller:
        """Return the controller as the rounds before left it."""
        if number == 0:
            return Controller(self.controller.beta, self.controller.target, self.controller.horizon)
        before = _read(self.folder / f"round-{number - 1:06d}.json")
        return Controller(before["beta_after"], self.controller.target, self.controller.horizon)

    def _made(self, number: int) -> dict[str, Any]:
        it, start, seconds = self.sampler, time.perf_counter(), {}
        controller = self._beta(number)
        training = it.lm.model.training
        it.lm.model.eval()
        prompts = [p for p in self._chosen(number) for _ in range(it.samples)]
        found = complete(it.lm, [p.ids for p in prompts], it.how, derive(self.seed, "sample", number), value_head=it.value_head)
        for prompt, completion in zip(prompts, found, strict=True):
            if not all(map(math.isfinite, (*completion.logprobs, *completion.values))):
                raise WorkFailed(f"the policy's numbers for an answer to {prompt.where} are not finite", "Lower --learning_rate.")
        seconds["sampling"] = time.perf_counter() - start
        scores = self._scored(prompts, found)
        seconds["scoring"] = time.perf_counter() - start - sum(seconds.values())
        reference = self._by_reference(prompts, found)
        seconds["reference"] = time.perf_counter() - start - sum(seconds.values())
        it.lm.model.train(training)
        made = _round(scores.view(-1, it.samples), found, reference, controller.beta)
        advantages, returns = it.credit(made)
        divergence = torch.where(made.loss_mask, made.logprobs - made.reference, 0.0).sum(1)
        measured = {
            "score": float(scores.mean()), "score_std": float(scores.std(unbiased=False)), "kl": float(divergence.mean()),
            "beta": controller.beta, "completion_length": sum(len(c.ids) for c in found) / len(found),
            "entropy": -sum(sum(c.logprobs) for c in found) / sum(len(c.ids) for c in found),
            "ended": sum(c.stop_reason != "length" for c in found) / len(found), "distinct_2": distinct(found, 2),
            **{f"seconds_{name}": value for name, value in seconds.items()},
        }  # fmt: skip
        controller.update(measured["kl"], len(found))
        lengths = made.loss_mask.sum(1, keepdim=True).expand_as(made.logprobs).to(made.logprobs.dtype)
        beside = torch.stack([made.logprobs, advantages, returns, made.values, made.reference, lengths], -1)
        rows = [
            {
                "where": p.where, "prompt": p.text, "text": c.text, "stop_reason": c.stop_reason, "score": float(score),
                "ids": [*p.ids, *c.ids], "loss_mask": [False] * len(p.ids) + [True] * len(c.ids),
                "beside": numbers[: len(c.ids)].tolist(),
            }
            for p, c, score, numbers in zip(prompts, found, scores, beside, strict=True)
        ]  # fmt: skip
        return {"round": number, "measured": measured, "beta_after": controller.beta, "rows": rows}

    def _chosen(self, number: int) -> list[Prompt]:
        """The prompts of a round: all in a shuffled order before any comes again."""
        chosen, total = [], len(self.sampler.prompts)
        for at in range(number * self.sampler.prompts_per_round, (number + 1) * self.sampler.prompts_per_round):
            turn, place = divmod(at, total)
            order = torch.randperm(total, generator=torch.Generator().manual_seed(derive(self.seed, "prompts", turn)))
            chosen.append(self.sampler.prompts[int(order[place])])
        return chosen

    def _scored(self, prompts: Sequence[Prompt], found: Sequence[Completion]) -> torch.Tensor:
        it = self.sampler
        answers = [Answer(p.text, c.text, c.stop_reason != "length", p.golds) for p, c in zip(prompts, found, strict=True)]
        scores = [float(score) for score in it.scorer(answers)]
        if len(scores) != len(answers):
            raise WorkFailed(f"the scorer gave {len(scores)} scores for {len(answers)} answers", "Give one for each.")
        for prompt, answer, score in zip(prompts, answers, scores, strict=True):
            if not math.isfinite(score):
                raise WorkFailed(
                    f"the scorer gave {score} to the answer {answer.text[:80]!r} to {prompt.where}",
                    "Mend the scorer; the policy before this round is saved.",
                )
        if it.no_end is not None:
            scores = [s if a.ended else it.no_end for s, a in zip(scores, answers, strict=True)]
        return torch.tensor(scores, dtype=torch.float64)

    def _by_reference(self, prompts: Sequence[Prompt], found: Sequence[Completion]) -> list[tuple[float, ...]]:
        """Return the log-probabilities of the sampled tokens by the reference, nats."""
        with self.sampler.reference():
            scored = score_requests(self.sampler.lm, [Request(p.ids, (c.ids,)) for p, c in zip(prompts, found, strict=True)])
        for prompt, one in zip(prompts, scored, strict=True):
            if not all(map(math.isfinite, one.token_logprobs[0])):
                raise WorkFailed(f"the reference gives no finite log-probability to an answer to {prompt.where}")
        return [one.token_logprobs[0] for one in scored]


def distinct(found: Sequence[Completion], n: int) -> float:
    """Return how many of all n-grams of tokens are different ones (Li et al. 2016), 0 where there are none."""
    grams = [c.ids[i : i + n] for c in found for i in range(len(c.ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _round(scores: torch.Tensor, found: Sequence[Completion], reference: Sequence[Sequence[float]], beta: float) -> Round:
    longest = max(len(c.ids) for c in found)

    def padded(rows: Sequence[Sequence[float]]) -> torch.Tensor:
        return torch.tensor([[*row, *[0.0] * (longest - len(row))] for row in rows], dtype=torch.float64)

    mask = torch.arange(longest) < torch.tensor([len(c.ids) for c in found])[:, None]
    values = [c.values or (0.0,) * len(c.ids) for c in found]
    return Round(scores, padded([c.logprobs for c in found]), padded(reference), padded(values), mask, beta)


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(kept["rows"], list) or not isinstance(kept["beta_after"], float):
            raise ValueError("it is not what was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkFailed(
            f"the round kept in {path} cannot be read ({error})", "Begin again with --overwrite; its weights are gone."
        ) from None
    return dict(kept)
