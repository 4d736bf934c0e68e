"""Generation: greedy or sampled, many prompts at a time, each with its own seed and its own end.

A request's random numbers come from its own generator, so its answer does not depend on its neighbours in the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tunesmith.core.encode import token_ids, with_bos
from tunesmith.core.errors import UserError
from tunesmith.core.progress import Progress
from tunesmith.core.records import Completion
from tunesmith.core.seeds import derive
from tunesmith.models.load import LM
from tunesmith.models.soft_prefix import cache_of, prefix_key_values, prefix_length

_BATCH = 32
# Tokens decoded beyond the length of the longest stop string, which may begin and end in the middle of one.
_TAIL = 8


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt.

    Attributes:
        temperature: 0 = greedy. top_p: smallest set of tokens with this much probability (Holtzman et al. 2020).
        stop: strings that end an answer and are not part of it.
    """

    max_new_tokens: int = 48
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError("generation needs max_new_tokens >= 1, temperature >= 0 and 0 < top_p <= 1")
        if "" in self.stop:
            raise UserError("an empty stop string would end every answer before it begins", "Leave it out.")


@dataclass
class _Row:
    prompt: tuple[int, ...]
    generator: torch.Generator
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    stop_reason: str = ""


def generate(
    lm: LM, prompts: Sequence[str], max_new_tokens: int = 48, temperature: float = 1.0, seed: int = 0, n: int = 1,
    stop: str | Sequence[str] = (), top_p: float = 1.0,
) -> list[list[Completion]]:  # fmt: skip
    """Continue each prompt `n` times.

    Returns:
        Per prompt, its `n` completions. Log-probabilities are the model's after temperature, before `top_p`.

    Raises:
        UserError: a prompt is empty or too long, or a setting makes no sense.
    """
    encoded = [with_bos(lm.tokenizer, token_ids(lm.tokenizer, prompt)) for prompt in prompts]
    sampling = Sampling(max_new_tokens, temperature, top_p, (stop,) if isinstance(stop, str) else tuple(stop))
    flat = complete(lm, [ids for ids in encoded for _ in range(n)], sampling, seed)
    return [flat[i * n : (i + 1) * n] for i in range(len(prompts))]


def complete(lm: LM, prompts: Sequence[tuple[int, ...]], how: Sampling, seed: int = 0, title: str = "") -> list[Completion]:
    """Continue prompts given as token ids, in request order.

    A sampled answer follows from the seed, its prompt and how many equal prompts stand before it, and from nothing else.

    Raises:
        UserError: a prompt is empty, or prompt and answer do not fit the model's context.
    """
    for ids in prompts:
        if not ids:
            raise UserError("cannot continue an empty prompt")
        if len(ids) + how.max_new_tokens > lm.context_length:
            raise UserError(
                f"a prompt of {len(ids)} tokens and {how.max_new_tokens} new ones exceed the context of {lm.context_length}"
            )
    rows, seen = [], Counter[tuple[int, ...]]()
    for ids in prompts:
        rows.append(_Row(ids, torch.Generator().manual_seed(derive(seed, "sample", seen[ids], *ids))))
        seen[ids] += 1
    order = sorted(rows, key=lambda row: -len(row.prompt))
    with torch.inference_mode(), Progress(title, total=len(rows), unit="answers") as progress:
        for start in range(0, len(order), _BATCH):
            _complete_batch(lm, order[start : start + _BATCH], how)
            progress.advance(len(order[start : start + _BATCH]))
    return [Completion(row.text, tuple(row.ids), tuple(row.logprobs), row.stop_reason) for row in rows]


def _complete_batch(lm: LM, rows: list[_Row], how: Sampling) -> None:
    longest, virtual = max(len(row.prompt) for row in rows), prefix_length(lm.model)
    ids = torch.zeros(len(rows), longest, dtype=torch.long, device=lm.device)
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=lm.device)
    for b, row in enumerate(rows):
        ids[b, longest - len(row.prompt) :] = torch.tensor(row.prompt)
        mask[b, longest - len(row.prompt) :] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0) + virtual
    mask = torch.cat([mask.new_ones(len(rows), virtual), mask], dim=-1)
    cache = cache_of(prefix_key_values(lm.model), len(rows))
    while rows:
        # With no padding on the left the causal kernel needs no mask.
        attention = None if bool(mask.all()) else mask
        hidden = lm.model.base_model(
            input_ids=ids, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        chosen = _choose(lm, lm.model.get_output_embeddings()(hidden).float(), rows, how)
        going = [b for b, row in enumerate(rows) if not _ended(lm, row, how)]
        if len(going) < len(rows):
            keep = torch.tensor(going, dtype=torch.long, device=lm.device)
            rows = [rows[b] for b in going]
            chosen, mask, positions = chosen[keep], mask[keep], positions[keep]
            if rows:
                cache.batch_select_indices(keep)
        ids = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
        positions = positions[:, -1:] + 1


def _choose(lm: LM, logits: torch.Tensor, rows: list[_Row], how: Sampling) -> torch.Tensor:
    """Pick one token a row from logits [B, V] and note it and its log-probability; returns ids [B]."""
    if how.temperature == 0:
        logprobs = logits.log_softmax(-1)
        chosen = logits.argmax(-1)
    else:
        logprobs = (logits / how.temperature).log_softmax(-1)
        chosen = torch.tensor([_sample(lp, row.generator, how.top_p) for lp, row in zip(logprobs.cpu(), rows, strict=True)])
        chosen = chosen.to(logits.device)
    picked = logprobs.gather(-1, chosen[:, None])[:, 0].tolist()
    for row, token, logprob in zip(rows, chosen.tolist(), picked, strict=True):
        row.ids.append(token)
        row.logprobs.append(logprob)
    return chosen


def _sample(logprobs: torch.Tensor, generator: torch.Generator, top_p: float) -> int:
    """Draw by inverting the cumulative distribution, in double precision, with one uniform number."""
    probabilities = logprobs.double().exp()
    if top_p < 1:
        ordered, index = probabilities.sort(descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        probabilities = probabilities.index_fill(0, index[outside], 0.0)
    cumulative = probabilities.cumsum(-1)
    point = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
    return int(torch.searchsorted(cumulative, point, right=True).clamp(max=len(cumulative) - 1))


def _ended(lm: LM, row: _Row, how: Sampling) -> bool:
    if row.ids[-1] in lm.stop_ids:
        row.stop_reason, row.text = "stop_token", _decode(lm.tokenizer, row.ids[:-1])
        return True
    # A token stands for at least one byte, so these hold every stop string that the newest token can have completed.
    tail = row.ids[-max((len(s.encode()) for s in how.stop), default=0) - _TAIL :]
    if any(s in _decode(lm.tokenizer, tail) for s in how.stop):
        text = _decode(lm.tokenizer, row.ids)
        if found := [at for s in how.stop if (at := text.find(s)) >= 0]:
            row.stop_reason, row.text = "stop_string", text[: min(found)]
            return True
    if len(row.ids) >= how.max_new_tokens:
        row.stop_reason, row.text = "length", _decode(lm.tokenizer, row.ids)
        return True
    return False


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
