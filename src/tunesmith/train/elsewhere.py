"""Answers that were sampled elsewhere, and what makes them fit to learn from: our own model's numbers for each token.

Another machine, server or division into batches rounds otherwise, so what it says of its tokens is not learned from. It shows
whether it sampled from the policy at all: an adapter that never arrived is found out before anything learns from its answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol

import torch

from tunesmith.core.errors import WorkFailed
from tunesmith.core.records import Completion, Encoded
from tunesmith.data.collate import micro_batches
from tunesmith.models.beginnings import same_prompts
from tunesmith.models.decoder import before, hidden_states
from tunesmith.models.generate import NotFinite, Sampling, ValueHead, complete
from tunesmith.models.load import LM
from tunesmith.models.token_logprobs import token_logprobs
from tunesmith.models.value_head import Values

_TOKENS = 4096
# Mean nats a token that nothing but another policy explains, in any precision. Logits of 16 to 32 are 0.125 apart in bfloat16,
# which alone makes 0.04 nats a token of two passes that add up in another order; beyond 64 it is 0.17.
_ANOTHER = 0.3


class Elsewhere(Protocol):
    """Who samples in the place of this process, inside a with-block."""

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def complete(self, lm: LM, prompts: Sequence[tuple[int, ...]], how: Sampling, seed: int) -> list[Completion]:
        """Continue prompts by the policy as it is now, as `models.generate.complete` does, without values."""
        ...


def sampled(
    elsewhere: Elsewhere | None,
    lm: LM,
    prompts: Sequence[tuple[int, ...]],
    how: Sampling,
    seed: int,
    values: Values | None,
) -> tuple[list[Completion], list[Completion]]:
    """Return answers to prompts twice: with what who sampled them said of their tokens, and with what is learned from.

    Args:
        elsewhere: who samples; None = this process, whose numbers are learned from as they are.

    Raises:
        NotFinite: the model's numbers are not finite. UserError, WorkFailed: as of who samples.
    """
    on_the_way = values.head if values and not values.inside else None
    if elsewhere is None:
        said = found = complete(lm, prompts, how, seed, value_head=on_the_way)
    else:
        said = elsewhere.complete(lm, prompts, how, seed)
        found = scored_again(lm, prompts, said, on_the_way)
    return said, valued(lm, prompts, found, values) if values and values.inside else found


@torch.no_grad()
def scored_again(
    lm: LM, prompts: Sequence[tuple[int, ...]], found: Sequence[Completion], value_head: ValueHead | None = None
) -> list[Completion]:
    """Return completions with the log-probabilities (nats) and values of our own model, through the forward pass of training.

    Raises:
        NotFinite: the model's numbers are not finite.
    """
    made = list(found)
    for numbers, counts, hidden, tokens in _read(lm, prompts, found):
        logprobs = token_logprobs(lm.model, hidden, tokens)
        values = value_head(hidden).split(counts) if value_head else [hidden.new_empty(0)] * len(counts)
        for number, some, expected in zip(numbers, logprobs.split(counts), values, strict=True):
            if not bool(torch.isfinite(some).all()):
                raise NotFinite(number, f"prompt {number + 1} of the round")
            made[number] = replace(found[number], logprobs=tuple(some.tolist()), values=tuple(expected.tolist()))
    return made


@torch.no_grad()
def valued(lm: LM, prompts: Sequence[tuple[int, ...]], found: Sequence[Completion], values: Values) -> list[Completion]:
    """Return completions with the values of a value function that is not on the policy's own hidden states."""
    assert values.inside
    made = list(found)
    with values.inside():
        for numbers, counts, hidden, _ in _read(lm, prompts, found):
            for number, expected in zip(numbers, values.head(hidden).split(counts), strict=True):
                made[number] = replace(found[number], values=tuple(expected.tolist()))
    return made


def _read(
    lm: LM, prompts: Sequence[tuple[int, ...]], found: Sequence[Completion]
) -> Iterator[tuple[list[int], list[int], torch.Tensor, torch.Tensor]]:
    """Read completions behind their prompts through the forward pass of training.

    Yields:
        of some completions their numbers, how many tokens each has, the hidden states [N, D] before their N tokens, and these.
    """
    rows = [
        Encoded((*ids, *c.ids), (False,) * len(ids) + (True,) * len(c.ids), str(number))
        for number, (ids, c) in enumerate(zip(prompts, found, strict=True))
    ]
    for batch in micro_batches(rows, _TOKENS):
        ids, lengths, mask = batch.tensors(lm.device)
        hidden = hidden_states(lm.model, ids, lengths, before(mask), of_prompt=same_prompts(ids, mask))
        yield list(map(int, batch.example_ids)), mask.sum(1).tolist(), hidden, ids[mask]


def rounding(dtype: torch.dtype) -> float:
    """Return the mean nats a token by which two passes of the same weights may seem to differ."""
    return 1e-4 if dtype in (torch.float32, torch.float64) else 0.03


def require_policy(
    said: Sequence[Completion], ours: Sequence[Completion], reference: Sequence[Sequence[float]], dtype: torch.dtype
) -> float:
    """Return how far what was said of the sampled tokens is from what our policy says, mean nats a token.

    Args:
        reference: what the policy without its adapter says of the same tokens, nats.

    Raises:
        WorkFailed: it is what the model says without the adapter, or what another model says.
    """
    numbers = [math.fsum(map(len, reference))] * 2
    for at, others in enumerate(([c.logprobs for c in ours], reference)):
        pairs = zip((c.logprobs for c in said), others, strict=True)
        numbers[at] = math.fsum(abs(a - b) for these, those in pairs for a, b in zip(these, those, strict=True)) / numbers[at]
    apart, without = numbers
    if apart > max(rounding(dtype), 2 * without):
        raise WorkFailed(
            f"answers were sampled without the adapter: their log-probabilities are {apart:.3g} nats a token from the policy's, "
            f"and {without:.3g} from those of the model without it",
            "Look whether who samples applies the adapters it is sent (vLLM: --enable-lora). Nothing was learned from them.",
        )
    if apart > _ANOTHER:
        raise WorkFailed(
            f"answers were sampled by another model: their log-probabilities are {apart:.3g} nats a token from the policy's "
            f"(at most {_ANOTHER:g} is rounding)",
            "Sample with the weights that --model names, unquantised, at temperature 1. Nothing was learned from them.",
        )
    return apart
