"""What an alignment from judgements did to held-out ones: whose completions gained, by how much, and how far the policy went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.core.encode import chat_prompt, token_ids, with_bos
from tunesmith.core.records import Encoded
from tunesmith.core.seeds import derive
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.load import LM
from tunesmith.models.score import Request, score_requests
from tunesmith.recipes._align.judged import JudgedPrompt, log_probabilities
from tunesmith.stats.binomial import interval

if TYPE_CHECKING:
    import torch

_ANSWERS = 32
# What the order of sums changes in a difference of log-probabilities of a policy that has learned nothing yet, nats.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Agreement:
    """How a policy agrees with judgements it did not learn from, mean over them.

    Attributes:
        n, prompts: judgements (pairs of which one was preferred, or completions judged by themselves), and their prompts.
        accuracy: share of pairs whose preferred completion gained more on the reference than the other, equal gains half; of
            completions judged by themselves, wanted ones that gained and unwanted ones that lost.
        low, high: its 95 % interval, as of so many prompts: judgements of one prompt are not independent.
        likelier: share of pairs whose preferred completion is the likelier one, whatever the reference says.
        margin: how much more the preferred one gained, nats. chosen_logprob, rejected_logprob: log p of a completion, nats.
    """

    n: int
    prompts: int
    accuracy: float
    low: float
    high: float
    likelier: float | None
    margin: float
    chosen_logprob: float
    rejected_logprob: float

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def agreement(
    asked: Sequence[JudgedPrompt], policy: Sequence[Sequence[float]], reference: Sequence[Sequence[float]], pairs: bool
) -> Agreement | None:
    """Compare what policy and reference say of the completions of each prompt (log-probabilities, nats) with what was judged.

    Returns:
        None where nothing was judged.
    """
    right = list[float]()
    likelier, chosen, rejected, margins = list[float](), list[float](), list[float](), list[float]()
    for one, mine, theirs in zip(asked, policy, reference, strict=True):
        gains = [p - r for p, r in zip(mine, theirs, strict=True)]
        if pairs:
            for i, j, tie in one.pairs:
                if not tie:
                    right.append(_half(gains[i] - gains[j]))
                    likelier.append(_half(mine[i] - mine[j]))
                    margins.append(gains[i] - gains[j])
                    chosen.append(mine[i])
                    rejected.append(mine[j])
            continue
        for i, wanted in one.wanted:
            right.append(_half(gains[i] if wanted else -gains[i]))
            margins.append(gains[i] if wanted else -gains[i])
            (chosen if wanted else rejected).append(mine[i])
    if not right:
        return None
    accuracy = _mean(right)
    low, high = interval(round(accuracy * len(asked)), len(asked))
    return Agreement(
        len(right), len(asked), accuracy, low, high, _mean(likelier) if pairs else None, _mean(margins), _mean(chosen),
        _mean(rejected),
    )  # fmt: skip


def before_and_after(
    lm: LM, asked: Sequence[JudgedPrompt], rows: Sequence[Encoded], reference: Callable[[], AbstractContextManager[None]],
    pairs: bool,
) -> tuple[Agreement | None, Agreement | None]:  # fmt: skip
    """Measure on held-out prompts: the reference against itself, and the policy against it."""
    with reference():
        theirs = log_probabilities(lm, rows)
    mine = log_probabilities(lm, rows)
    return agreement(asked, theirs, theirs, pairs), agreement(asked, mine, theirs, pairs)


def divergence(
    lm: LM, asked: Sequence[JudgedPrompt], reference: Callable[[], AbstractContextManager[None]], max_new_tokens: int, seed: int
) -> float | None:
    """Return KL(pi || ref) of an answer, nats: the mean of log pi - log ref over answers sampled to up to 32 prompts."""
    prompts = []
    for prompt in (one.prompt for one in asked):
        if isinstance(prompt, str):
            ids = with_bos(lm.tokenizer, token_ids(lm.tokenizer, prompt))
        else:
            ids = chat_prompt(lm.tokenizer, prompt)[1]
        if len(ids) + max_new_tokens <= lm.context_length:
            prompts.append(ids)
    prompts = prompts[:_ANSWERS]
    if not prompts:
        return None
    answers = complete(lm, prompts, Sampling(max_new_tokens), derive(seed, "divergence"))
    requests = [Request(prompt, (answer.ids,)) for prompt, answer in zip(prompts, answers, strict=True)]
    with reference():
        theirs = score_requests(lm, requests)
    mine = score_requests(lm, requests)
    return _mean([sum(a.token_logprobs[0]) - sum(b.token_logprobs[0]) for a, b in zip(mine, theirs, strict=True)])


def fallen(before: Agreement, after: Agreement) -> list[str]:
    """Say where what was preferred has become less likely, which a method that compares does not mind."""
    down = before.chosen_logprob - after.chosen_logprob
    if down < 0.05:
        return []
    other = before.rejected_logprob - after.rejected_logprob
    also = f", and the others by {other:.1f}" if other >= 0.05 else ""
    fact = f"preferred completions became less likely, by {down:.1f} nats{also}"
    if down < max(1.0, 0.02 * abs(before.chosen_logprob)):
        return [fact]
    return [
        f"{fact}: only the difference is learned, so answers that are neither gain; an SFT term holds them "
        "(dpo: --method.sft_weight 0.1), as does a larger beta"
    ]


def halves(differences: torch.Tensor) -> float:
    """Return how many of [N] differences are above 0; those that rounding explains (up to 1e-4 nats) count a half."""
    return float((differences > _ROUNDING).sum() + 0.5 * (differences.abs() <= _ROUNDING).sum())


def _half(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
