"""Log-likelihoods of continuations, in one forward pass a batch.

Every item is laid out as one row: its prompt, then the tokens of all its continuations side by side. A tree mask lets
each continuation see the prompt and itself only, and position ids count along each branch, so a row costs the prompt
once and each continuation once. What all prompts of a call share (an instruction, demonstrations) is computed once and
kept as keys and values. Vocabulary logits are made only where a continuation's next token is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith.core.encode import token_ids, with_bos
from tunesmith.core.errors import UserError
from tunesmith.core.progress import Progress
from tunesmith.models.decoder import hidden_states
from tunesmith.models.load import LM

_TOKENS_PER_BATCH = 4096
_SHORTEST_SHARED_PREFIX = 16
_ROWS_OF_LOGITS = 512


@dataclass(frozen=True)
class Request:
    """What to score: a prompt of P token ids (P >= 1) and its continuations, each of one or more token ids."""

    prompt: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Scored:
    """Answer to one request.

    Attributes:
        logprobs: per continuation, the sum of its tokens' log-probabilities, nats.
        free_choice: the token id the model itself would have said first after the prompt.
        greedy: per continuation, whether each of its tokens is the most probable one there, so that greedy decoding says it.
    """

    logprobs: tuple[float, ...]
    free_choice: int
    greedy: tuple[bool, ...]


@dataclass(frozen=True)
class _Prefix:
    length: int
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]  # per layer keys and values [1, H, P, D]


def score_requests(lm: LM, requests: Sequence[Request], title: str = "", share_prefix: bool = True) -> list[Scored]:
    """Score requests; the answer does not depend on their order or on how they fall into batches.

    Logits are the output layer's of the last hidden state; `load` refuses models that change them afterwards.

    Args:
        title: shown with the progress line; "" = silent.
        share_prefix: compute the prompts' common beginning once (off = the plain path, for parity tests).

    Returns:
        One `Scored` a request, in request order.

    Raises:
        UserError: a prompt or a continuation has no tokens, or they exceed the model's context.
    """
    _check(lm, requests)
    shared = _common_prefix(requests) if share_prefix and len(requests) > 1 else 0
    shared = shared if shared >= _SHORTEST_SHARED_PREFIX else 0
    answers: list[Scored | None] = [None] * len(requests)
    with torch.inference_mode(), Progress(title, total=len(requests), unit="items") as progress:
        prefix = _encode_prefix(lm, requests[0].prompt[:shared]) if shared else None
        for batch in _batches(requests, shared):
            rows = [_row(requests[i], shared) for i in batch]
            for i, scored in zip(batch, _score_batch(lm, rows, prefix), strict=True):
                answers[i] = scored
            progress.advance(len(batch))
    return [answer for answer in answers if answer is not None]


def score(lm: LM, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the summed log-probability (nats) of each continuation after its context, in request order.

    Context and continuation are tokenised apart, as at training time, so the context's ids never depend on what follows.

    Raises:
        UserError: a continuation is empty, or a pair exceeds the model's context.
    """
    requests = []
    for context, continuation in pairs:
        prompt = with_bos(lm.tokenizer, token_ids(lm.tokenizer, context)) or (_start_id(lm),)
        requests.append(Request(prompt, (token_ids(lm.tokenizer, continuation),)))
    return [scored.logprobs[0] for scored in score_requests(lm, requests)]


def _start_id(lm: LM) -> int:
    known = (lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id, 0)
    return next(i for i in known if i is not None)


def _check(lm: LM, requests: Sequence[Request]) -> None:
    for number, request in enumerate(requests, 1):
        if not request.prompt or not request.continuations or not all(request.continuations):
            raise UserError(f"request {number} has a prompt or a continuation without tokens, which cannot be scored")
        longest = len(request.prompt) + max(map(len, request.continuations)) - 1
        if longest > lm.context_length:
            raise UserError(
                f"request {number} has {longest} tokens, and the model was built for {lm.context_length}",
                "Shorten the row, or show fewer demonstrations.",
            )


def _common_prefix(requests: Sequence[Request]) -> int:
    # The last prompt token stays out of the prefix: its logits start every continuation.
    first, last = min(r.prompt for r in requests), max(r.prompt for r in requests)
    limit = min(len(r.prompt) for r in requests) - 1
    for i in range(limit):
        if first[i] != last[i]:
            return i
    return limit


@dataclass(frozen=True)
class _Row:
    prompt: tuple[int, ...]  # without the shared prefix
    continuations: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(len(c) - 1 for c in self.continuations)


def _row(request: Request, shared: int) -> _Row:
    return _Row(request.prompt[shared:], request.continuations)


def _batches(requests: Sequence[Request], shared: int) -> Iterator[list[int]]:
    lengths = [_row(r, shared).length for r in requests]
    order = sorted(range(len(requests)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > _TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _encode_prefix(lm: LM, ids: tuple[int, ...]) -> _Prefix:
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    lm.model.base_model(input_ids=torch.tensor([ids], device=lm.device), past_key_values=cache, use_cache=True)
    return _Prefix(len(ids), tuple((layer.keys, layer.values) for layer in cache.layers))


def _score_batch(lm: LM, rows: list[_Row], prefix: _Prefix | None) -> list[Scored]:
    places, targets = [], []  # (row, position) whose logits predict the target id
    for b, row in enumerate(rows):
        start, end = len(row.prompt), len(row.prompt) - 1
        for continuation in row.continuations:
            places += [(b, end), *((b, start + k) for k in range(len(continuation) - 1))]
            targets += continuation
            start += len(continuation) - 1
    unique = {place: i for i, place in enumerate(dict.fromkeys(places))}
    picked = _hidden_at(lm, rows, prefix, list(unique))
    logprobs, best = _logprobs(lm, picked, torch.tensor([unique[place] for place in places]), targets)
    answers, at = [], 0
    for row in rows:
        free, sums, greedy = best[at], [], []
        for continuation in row.continuations:
            end = at + len(continuation)
            sums.append(float(logprobs[at:end].sum()))
            greedy.append(best[at:end].tolist() == list(continuation))
            at = end
        answers.append(Scored(tuple(sums), int(free), tuple(greedy)))
    return answers


def _hidden_at(lm: LM, rows: list[_Row], prefix: _Prefix | None, places: list[tuple[int, int]]) -> torch.Tensor:
    """Return the hidden states [N, hidden] at places (row, position)."""
    at_row, at_position = map(torch.tensor, zip(*places, strict=True))
    if prefix or any(row.length > len(row.prompt) for row in rows):
        return _branched(lm, rows, prefix)[at_row, at_position]
    # Continuations of one token: nothing is read beyond the prompt's end, in the order of the rows.
    lengths = torch.tensor([row.length for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, : row.length] = torch.tensor(row.prompt)
    wanted = torch.zeros(ids.shape, dtype=torch.bool)
    wanted[at_row, at_position] = True
    return hidden_states(lm.model, ids.to(lm.device), lengths.to(lm.device), wanted.to(lm.device))


def _branched(lm: LM, rows: list[_Row], prefix: _Prefix | None) -> torch.Tensor:
    """Return hidden states [B, T, hidden] of rows padded on the right to the longest."""
    from transformers import DynamicCache

    longest, past = max(row.length for row in rows), prefix.length if prefix else 0
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    positions = torch.zeros(len(rows), longest, dtype=torch.long)
    for b, row in enumerate(rows):
        tokens, places = list(row.prompt), list(range(past, past + len(row.prompt)))
        for continuation in row.continuations:
            tokens += continuation[:-1]
            places += range(past + len(row.prompt), past + len(row.prompt) + len(continuation) - 1)
        ids[b, : len(tokens)] = torch.tensor(tokens)
        positions[b, : len(places)] = torch.tensor(places)
    arguments: dict[str, Any] = {
        "input_ids": ids.to(lm.device),
        "position_ids": positions.to(lm.device),
        "use_cache": prefix is not None,
    }
    if prefix:
        cache = DynamicCache()
        for index, (keys, values) in enumerate(prefix.layers):
            cache.update(keys.expand(len(rows), -1, -1, -1), values.expand(len(rows), -1, -1, -1), index)
        arguments["past_key_values"] = cache
    allowed = _tree_mask(rows, longest, past).to(lm.device)
    mask = torch.zeros(allowed.shape, dtype=lm.dtype, device=lm.device).masked_fill_(~allowed, torch.finfo(lm.dtype).min)
    arguments["attention_mask"] = mask
    return lm.model.base_model(**arguments).last_hidden_state


def _tree_mask(rows: list[_Row], longest: int, past: int) -> torch.Tensor:
    """Return who may look at whom: booleans [B or 1, 1, T, past + T]."""
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    branched = any(row.length > len(row.prompt) for row in rows)
    inner = causal.repeat(len(rows) if branched else 1, 1, 1)
    if branched:
        for b, row in enumerate(rows):
            start = len(row.prompt)
            for continuation in row.continuations:
                end = start + len(continuation) - 1
                inner[b, start:end, len(row.prompt) : start] = False
                start = end
    return torch.cat([torch.ones(inner.shape[0], longest, past, dtype=torch.bool), inner], dim=-1)[:, None]


def _logprobs(lm: LM, picked: torch.Tensor, index: torch.Tensor, targets: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log p(targets[i]) [N] after the hidden state picked[index[i]], and the argmax id there [N].

    Logits are made once for each hidden state, in chunks.
    """
    which, wanted = index.to(picked.device), torch.tensor(targets, device=picked.device)
    logprobs = torch.empty(len(targets), dtype=torch.float32, device=picked.device)
    best = torch.empty(len(picked), dtype=torch.long, device=picked.device)
    for start in range(0, len(picked), _ROWS_OF_LOGITS):
        stop = min(start + _ROWS_OF_LOGITS, len(picked))
        logits = lm.model.get_output_embeddings()(picked[start:stop]).float()
        best[start:stop] = logits.argmax(-1)
        here = (which >= start) & (which < stop)
        local = which[here] - start
        logprobs[here] = logits[local, wanted[here]] - logits.logsumexp(-1)[local]
    return logprobs.cpu(), best[which].cpu()
