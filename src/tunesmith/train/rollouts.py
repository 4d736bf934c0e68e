"""Rollouts as training rows: sampled by the policy of the moment, scored, set beside the reference, and credited to tokens.

    prompts -> policy samples -> scorer -> reference log-probabilities (adapter off) -> rewards, advantages -> rows

An epoch of the training loop is the rows of one round, so all that `fit` promises holds here too: a killed run goes on bit for
bit. Each round is kept in a file, for the weights that sampled it are gone once it has been learned from.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import WorkFailed
from tunesmith.core.files import write_json
from tunesmith.core.records import Completion, Encoded, Message
from tunesmith.core.seeds import derive
from tunesmith.data.collate import VaryingRows
from tunesmith.models.generate import NotFinite, Sampling
from tunesmith.models.load import LM
from tunesmith.models.value_head import Values
from tunesmith.rl.kl import Controller
from tunesmith.train.elsewhere import Elsewhere, require_policy, rounding, sampled, scored_again
from tunesmith.train.scoring import Answer, Scorer, scores_of

# Of a token: log-probability when sampled, advantage, return, value when sampled, log-probability by the reference, and tokens
# of its completion over the round's mean. A length of 0: it is no rollout's, and its weight stands where the advantage would.
OLD, ADVANTAGE, RETURN, VALUE, REFERENCE, LENGTH = range(6)


@dataclass(frozen=True)
class Prompt:
    """What is answered.

    Attributes:
        ids: what the policy reads. text: what a scorer sees, with `turns` where it is a conversation.
        where: "file:line". golds: answers that are right, where these are known.
    """

    ids: tuple[int, ...]
    text: str
    where: str
    golds: tuple[str, ...] = ()
    turns: tuple[Message, ...] = ()

    def answered(self, text: str, ended: bool) -> Answer:
        """Return an answer to it, to be judged."""
        return Answer(self.text, text, ended, self.golds, self.turns)


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
class Judges:
    """Who looks at answers, and at what of them.

    Attributes:
        scorer: what the policy learns from. held_out: what is measured beside it, and never learned from.
        timeout: seconds a scorer may take.
        no_end: score of an answer that did not end, in the place of the scorer's; None = the scorer's counts.
        end_at: an answer ends behind the first token with this text in it, counted from token `end_after` on; "" = where the
            policy ends it. What comes later is learned from and not judged (Ziegler et al. 2019, 3.1).
    """

    scorer: Scorer
    held_out: Scorer | None = None
    timeout: float = 600.0
    no_end: float | None = None
    end_at: str = ""
    end_after: int = 0


@dataclass(frozen=True)
class Texts:
    """What is learned from beside rollouts so that the policy keeps what it could (PPO-ptx; Ouyang et al. 2022, equation 2).

    Attributes:
        ids: token ids of each text. weight: of their mean log-likelihood, beside the mean of the policy's objective a token.
        per_round: texts a round.
    """

    ids: Sequence[tuple[int, ...]]
    weight: float
    per_round: int


@dataclass(frozen=True)
class Sampler:
    """How rounds are made.

    Attributes:
        reference: a with-block inside which the model is the reference (its adapter off).
        prompts_per_round, samples: P and k. passes: how often a round is learned from.
        equal_at_first: before the first update the policy is its reference.
        elsewhere: who samples in the place of this process; None = nobody.
    """

    lm: LM
    prompts: Sequence[Prompt]
    judges: Judges
    credit: Credit
    reference: Callable[[], AbstractContextManager[None]]
    how: Sampling
    prompts_per_round: int
    samples: int
    passes: int = 1
    values: Values | None = None
    texts: Texts | None = None
    equal_at_first: bool = True
    elsewhere: Elsewhere | None = None


Watch = Callable[[Mapping[str, Any]], bool]


class Rollouts(VaryingRows):
    """The rows of a policy's rounds.

    Args:
        controller: beta at the beginning, and how it follows a target.
        folder: where rounds are kept, one JSON file each.
        watch: shown each round before it is learned from, as it is kept; True = it is not, and the training ends.
    """

    def __init__(
        self, sampler: Sampler, controller: Controller, folder: Path, seed: int, watch: Watch = lambda kept: False
    ) -> None:
        self.sampler, self.controller, self.folder, self.seed, self.watch = sampler, controller, folder, seed, watch
        self._round = -1
        self._rows: list[Encoded] = []
        self._kept: dict[str, Any] = {}

    def __len__(self) -> int:
        texts = self.sampler.texts
        return self.sampler.prompts_per_round * self.sampler.samples + (texts.per_round if texts else 0)

    def row(self, number: int) -> Encoded:
        """Return a stand-in as long as a row may become: what a row will be is known when its round has begun."""
        new = self.sampler.how.max_new_tokens
        longest = max((prompt.ids for prompt in self.sampler.prompts), key=len)
        if (texts := self.sampler.texts) and (most := max(map(len, texts.ids))) > len(longest) + new:
            longest = (0,) * (most - new)
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

    def ended(self, epoch: int) -> bool:
        """Whether who watches says that the training ends before this epoch."""
        if epoch % self.sampler.passes:
            return False
        self.in_epoch(epoch)
        return self.watch(self._kept)

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
        it, clock = self.sampler, _Clock()
        controller = self._beta(number)
        training = it.lm.model.training
        it.lm.model.eval()
        prompts = [it.prompts[i] for i in self._turn(number, "prompts", len(it.prompts), it.prompts_per_round)]
        prompts = [p for p in prompts for _ in range(it.samples)]
        ids, seed = [p.ids for p in prompts], derive(self.seed, "sample", number)
        try:
            said, found = sampled(it.elsewhere, it.lm, ids, it.how, seed, it.values)
        except NotFinite as error:
            where = prompts[error.number].where
            raise WorkFailed(f"the policy's numbers for an answer to {where} are not finite", "Lower --learning_rate.") from error
        for prompt, completion in zip(prompts, found, strict=True):
            if not all(map(math.isfinite, completion.values)):
                raise WorkFailed(f"the values of an answer to {prompt.where} are not finite", "Lower --learning_rate.")
        clock.note("sampling")
        answers, wheres = self._answers(prompts, found), [p.where for p in prompts]
        judges = it.judges
        scores = scores_of(judges.scorer, answers, wheres, judges.timeout, judges.no_end)
        clock.note("scoring")
        held_out = scores_of(judges.held_out, answers, wheres, judges.timeout) if judges.held_out else []
        clock.note("held_out")
        reference = self._by_reference(prompts, found)
        clock.note("reference")
        apart = {"sampled_apart": require_policy(said, found, reference, it.lm.dtype)} if it.elsewhere else {}
        it.lm.model.train(training)
        made = _round(torch.tensor(scores, dtype=torch.float64).view(-1, it.samples), found, reference, controller.beta)
        if number == 0 and it.equal_at_first:
            _require_equal(made, it.lm.dtype)
        advantages, returns = it.credit(made)
        measured = {"round": number, **measures(made, found, answers, returns), **apart, **clock.seconds}
        if held_out:
            values = torch.tensor(held_out, dtype=torch.float64)
            measured |= {"held_out": float(values.mean()), "held_out_std": float(values.std(unbiased=False))}
        controller.update(measured["kl"], len(found))
        lengths = made.loss_mask.sum(1, keepdim=True).double()
        lengths = (lengths / lengths.mean()).expand_as(made.logprobs)
        beside = torch.stack([made.logprobs, advantages, returns, made.values, made.reference, lengths], -1)
        rows: list[dict[str, Any]] = [
            {
                "where": p.where, "prompt": p.text, "text": a.text, "stop_reason": c.stop_reason, "score": score,
                "ids": [*p.ids, *c.ids], "loss_mask": [False] * len(p.ids) + [True] * len(c.ids),
                "beside": numbers[: len(c.ids)].tolist(),
            }
            for p, c, a, score, numbers in zip(prompts, found, answers, scores, beside, strict=True)
        ]  # fmt: skip
        for row, score in zip(rows, held_out, strict=False):
            row["held_out"] = score
        rows += self._texts(number, sum(len(c.ids) for c in found))
        return {"round": number, "measured": measured, "beta_after": controller.beta, "rows": rows}

    def _texts(self, number: int, tokens: int) -> list[dict[str, Any]]:
        """The texts that are learned from in a round beside its rollouts, which have so many tokens."""
        if (texts := self.sampler.texts) is None:
            return []
        chosen = [texts.ids[i] for i in self._turn(number, "texts", len(texts.ids), texts.per_round)]
        # Losses are summed over all tokens, and there may be more of the one kind than of the other.
        weight = texts.weight * tokens / sum(len(ids) - 1 for ids in chosen)
        beside = [0.0, weight, 0.0, 0.0, 0.0, 0.0]
        return [
            {
                "where": f"text {i}",
                "ids": [*ids],
                "loss_mask": [False] + [True] * (len(ids) - 1),
                "beside": [beside] * (len(ids) - 1),
            }
            for i, ids in enumerate(chosen)
        ]

    def _turn(self, number: int, what: str, total: int, count: int) -> list[int]:
        """Which things come in a round: all in a shuffled order before any comes again."""
        chosen = []
        for at in range(number * count, (number + 1) * count):
            turn, place = divmod(at, total)
            order = torch.randperm(total, generator=torch.Generator().manual_seed(derive(self.seed, what, turn)))
            chosen.append(int(order[place]))
        return chosen

    def _answers(self, prompts: Sequence[Prompt], found: Sequence[Completion]) -> list[Answer]:
        """Return what is judged: answers up to where they end."""
        judges, tokenizer = self.sampler.judges, self.sampler.lm.tokenizer
        made = []
        for prompt, completion in zip(prompts, found, strict=True):
            text, ended = completion.text, completion.stop_reason != "length"
            if judges.end_at:
                ids = [i for i in completion.ids if i not in self.sampler.lm.stop_ids]
                places = range(judges.end_after, len(ids))
                end = next((i for i in places if judges.end_at in tokenizer.decode([ids[i]])), None)
                text, ended = tokenizer.decode(ids[: None if end is None else end + 1]), end is not None
            made.append(prompt.answered(text, ended))
        return made

    def _by_reference(self, prompts: Sequence[Prompt], found: Sequence[Completion]) -> list[tuple[float, ...]]:
        """Return the log-probabilities of the sampled tokens by the reference, nats."""
        with self.sampler.reference():
            try:
                return [c.logprobs for c in scored_again(self.sampler.lm, [p.ids for p in prompts], found)]
            except NotFinite as error:
                where = prompts[error.number].where
                raise WorkFailed(f"the reference gives no finite log-probability to an answer to {where}") from error


class _Clock:
    """Seconds of each part of the work, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def note(self, part: str) -> None:
        """What was done since the last note was this."""
        now = time.perf_counter()
        self.seconds[f"seconds_{part}"], self._last = now - self._last, now


def _require_equal(made: Round, dtype: torch.dtype) -> None:
    """Before the first update the policy must be its reference.

    Raises:
        WorkFailed: it is not.
    """
    apart = float((made.logprobs - made.reference)[made.loss_mask].mean())
    if abs(apart) > rounding(dtype):
        raise WorkFailed(
            f"before the first update the policy is {apart:.4f} nats a token from its reference, which should be nothing",
            "The sampled distribution is not the one that is scored; report this.",
        )


def measures(made: Round, found: Sequence[Completion], answers: Sequence[Answer], returns: torch.Tensor) -> dict[str, float]:
    """Measure a round: what was scored, how far the policy went, and the health of its answers.

    `entropy` is minus the mean log-probability of the tokens that were sampled; `ties` the share of prompts whose answers all
    have the same score; `repetition` the share of an answer's 4-grams that stand in it before; `explained_variance` is
    1 - Var(return - value) / Var(return) over tokens, where there are values.
    """
    scores, mask = made.scores, made.loss_mask
    divergence = torch.where(mask, made.logprobs - made.reference, 0.0).sum(1)
    tokens = [c.ids for c in found]
    measured = {
        "score": float(scores.mean()), "score_std": float(scores.std(unbiased=False)), "kl": float(divergence.mean()),
        "beta": made.beta, "completion_length": sum(map(len, tokens)) / len(found),
        "entropy": -sum(sum(c.logprobs) for c in found) / sum(map(len, tokens)),
        "ended": sum(a.ended for a in answers) / len(found), "distinct_2": distinct(tokens, 2),
        "repetition": sum(1 - distinct([ids], 4) for ids in tokens if len(ids) >= 4) / len(tokens),
    }  # fmt: skip
    if scores.shape[1] > 1:
        measured["ties"] = float((scores == scores[:, :1]).all(1).double().mean())
    if any(c.values for c in found):
        spread = returns[mask].var(unbiased=False)
        left = (returns - made.values)[mask].var(unbiased=False)
        measured["explained_variance"] = float(1 - left / spread) if spread > 0 else 0.0
    return measured


def distinct(tokens: Sequence[Sequence[int]], n: int) -> float:
    """Return how many of all n-grams of tokens are different ones (Li et al. 2016), 0 where there are none."""
    grams = [tuple(ids[i : i + n]) for ids in tokens for i in range(len(ids) - n + 1)]
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
