"""Log-likelihoods of continuations, each distinct piece of text read once.

Requests with the same prompt are one row: the prompt, then the tokens of all continuations side by side, each seeing the
prompt and itself only. Beginnings that prompts share (an instruction, demonstrations, a passage with many questions) form a
tree; each is read once and kept as keys and values while what goes on from it is scored. Vocabulary logits are made only
where a continuation's next token is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith.core.encode import token_ids, with_bos
from tunesmith.core.errors import UserError
from tunesmith.core.levers import on
from tunesmith.core.memory import cache_gb
from tunesmith.core.progress import Progress
from tunesmith.models.branches import Group, Past, Row, read, soft_past
from tunesmith.models.load import LM
from tunesmith.models.prefix_tree import Node, prefix_tree
from tunesmith.models.residents import check_residents, residents_of
from tunesmith.models.trunk import head_of, is_llama_like, trunk_of

_TOKENS_PER_BATCH = 4096
_ROWS_OF_LOGITS = 128
# From so many tokens on, laying out weights first gains more than it takes.
_WORTH_PACKING = 20_000


@dataclass(frozen=True)
class Request:
    """What to score: a prompt of P token ids (P >= 1) and its continuations, each of one or more token ids.

    Attributes:
        adapter: which of the model's resident adapters reads it ("base" = none of them); None = the active one.
    """

    prompt: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    adapter: str | None = None


@dataclass(frozen=True)
class Scored:
    """Answer to one request.

    Attributes:
        token_logprobs: per continuation, the log-probability of each of its tokens, nats.
        greedy: per continuation, whether each of its tokens is what the model itself would have said there.
        free_choice: the token id the model itself would have said first after the prompt.
    """

    token_logprobs: tuple[tuple[float, ...], ...]
    greedy: tuple[bool, ...]
    free_choice: int

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Per continuation, the sum of its tokens' log-probabilities, nats."""
        return tuple(math.fsum(tokens) for tokens in self.token_logprobs)


def score_requests(lm: LM, requests: Sequence[Request], title: str = "") -> list[Scored]:
    """Score requests; the answer does not depend on their order or on how they fall into batches.

    Logits are the output layer's of the last hidden state; `load` refuses models that change them afterwards.

    Args:
        title: shown with the progress line; "" = silent.

    Returns:
        One `Scored` a request, in request order.

    Raises:
        UserError: a prompt or a continuation has no tokens, or they exceed the model's context, or there is no such adapter.
    """
    _check(lm, requests)
    check_residents(lm.model, [request.adapter for request in requests])
    if not requests:
        return []
    asked: dict[_Read, dict[tuple[int, ...], None]] = {}
    for request in requests:
        asked.setdefault((request.adapter, request.prompt), {}).update(dict.fromkeys(request.continuations))
    with torch.inference_mode(), Progress(title, total=len(asked), unit="prompts") as progress:
        found = _Scoring(lm, list(asked), [tuple(c) for c in asked.values()], progress).run()
    if residents := residents_of(lm.model):
        residents.release()
    return [_picked(request, *found[request.adapter, request.prompt]) for request in requests]


def score(lm: LM, pairs: Sequence[tuple[str, str] | tuple[str | None, str, str]]) -> list[float]:
    """Return the summed log-probability (nats) of each continuation after its context, in request order.

    Context and continuation are tokenised apart, as at training time, so the context's ids never depend on what follows.

    Args:
        pairs: context and continuation; before them may stand the name of the resident adapter to score them with.

    Raises:
        UserError: a continuation is empty, a pair exceeds the model's context, or there is no such adapter.
    """
    requests = []
    for pair in pairs:
        adapter, context, continuation = pair if len(pair) == 3 else (None, *pair)
        prompt = with_bos(lm.tokenizer, token_ids(lm.tokenizer, context)) or (_start_id(lm),)
        requests.append(Request(prompt, (token_ids(lm.tokenizer, continuation),), adapter))
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


# An adapter and a prompt it reads.
_Read = tuple[str | None, tuple[int, ...]]
_Answers = tuple[dict[tuple[int, ...], tuple[tuple[float, ...], bool]], int]


def _picked(request: Request, known: dict[tuple[int, ...], tuple[tuple[float, ...], bool]], free_choice: int) -> Scored:
    logprobs, greedy = zip(*(known[c] for c in request.continuations), strict=True)
    return Scored(logprobs, greedy, free_choice)


class _Scoring:
    """One call: distinct prompts with their adapters, per prompt its distinct continuations, and the answers so far."""

    def __init__(self, lm: LM, asked: list[_Read], continuations: list[tuple[tuple[int, ...], ...]], progress: Progress) -> None:
        self.lm, self.asked, self.continuations, self.progress = lm, asked, continuations, progress
        self.prompts = [prompt for _, prompt in asked]
        self.cache_bytes = cache_gb() * 1e9
        self.answers: dict[_Read, _Answers] = {}

    def run(self) -> dict[_Read, _Answers]:
        """Score everything; returns for each asked (continuation -> (its log-probabilities, greedy), first choice)."""
        model = self.lm.model
        if sum(map(len, self.prompts)) >= _WORTH_PACKING and is_llama_like(model, self.lm.device, 1):
            trunk_of(model, pack=True)
        # What one adapter has read is of no use to another, so each has a tree of its own.
        numbers: dict[str | None, list[int]] = {}
        for number, (adapter, _) in enumerate(self.asked):
            numbers.setdefault(adapter, []).append(number)
        past = soft_past(model)
        self._below([(prefix_tree(self.prompts, on("prefixes"), own), past) for own in numbers.values()])
        return self.answers

    def _below(self, nodes: list[tuple[Node, Past | None]]) -> None:
        """Score all prompts under nodes whose pasts are read; these pasts are all that is kept meanwhile."""
        for batch in self._batches(nodes):
            rows = [[self._row(i, node) for i in prompts] for node, _, prompts in batch]
            hidden, _ = read(self.lm.model, [Group(r, past) for r, (_, past, _) in zip(rows, batch, strict=True)])
            self._note(hidden, [i for _, _, prompts in batch for i in prompts], [row for group in rows for row in group])
        children = [(child, past) for node, past in nodes for child in node.children]
        for some in self._affordable(children):
            groups: dict[int, list[Node]] = {}
            pasts = {id(past): past for _, past in some}
            for child, past in some:
                groups.setdefault(id(past), []).append(child)
            order = [
                Group([Row(child.ids, adapter=self.asked[child.first][0]) for child in found], pasts[key])
                for key, found in groups.items()
            ]
            kept = read(self.lm.model, order, keep=True)[1]
            self._below([
                (child, group.past_after(i, own))
                for found, group, own in zip(groups.values(), order, kept, strict=True)
                for i, child in enumerate(found)
            ])  # fmt: skip

    def _row(self, number: int, node: Node) -> Row:
        # A continuation's last token is predicted, never read.
        branches = tuple(c[:-1] for c in self.continuations[number] if len(c) > 1)
        return Row(self.prompts[number][node.end :], branches, self.asked[number][0])

    def _batches(self, nodes: Sequence[tuple[Node, Past | None]]) -> Iterator[list[tuple[Node, Past | None, list[int]]]]:
        """Cut the prompts right under nodes into batches by tokens, those of a node sorted by length."""
        batch: list[tuple[Node, Past | None, list[int]]] = []
        tokens = 0
        for node, past in nodes:
            lengths = {i: len(self._row(i, node)) for i in node.prompts}
            longest = 0
            for i in sorted(node.prompts, key=lambda i: (-lengths[i], i)):
                new = not batch or batch[-1][0] is not node
                longest = lengths[i] if new else longest
                if batch and tokens + longest > _TOKENS_PER_BATCH:
                    yield batch
                    batch, tokens, new, longest = [], 0, True, lengths[i]
                if new:
                    batch.append((node, past, []))
                batch[-1][2].append(i)
                tokens += longest
        if batch:
            yield batch

    def _affordable(self, children: Sequence[tuple[Node, Past | None]]) -> Iterator[list[tuple[Node, Past | None]]]:
        """Cut nodes into portions that fit one batch, and whose pasts fit the cache."""
        per_token = self.lm.cache_bytes_per_token
        some: list[tuple[Node, Past | None]] = []
        longest = kept = 0
        for node, past in sorted(children, key=lambda c: -len(c[0].ids)):
            longest = max(longest, len(node.ids))
            kept += node.end * per_token
            if some and ((len(some) + 1) * longest > _TOKENS_PER_BATCH or kept > self.cache_bytes):
                yield some
                some, longest, kept = [], len(node.ids), node.end * per_token
            some.append((node, past))
        if some:
            yield some

    def _note(self, hidden: torch.Tensor, numbers: Sequence[int], rows: Sequence[Row]) -> None:
        """Work out the answers of prompts from the hidden states [N, D] of their rows."""
        places, targets, start = [], [], 0  # where the hidden state stands that predicts the target id
        for number, row in zip(numbers, rows, strict=True):
            branch = start + len(row.text)
            for continuation in self.continuations[number]:
                places += [start + len(row.text) - 1, *range(branch, branch + len(continuation) - 1)]
                targets += continuation
                branch += len(continuation) - 1
            start += len(row)
        logprobs, best = _logprobs(self.lm, hidden, places, targets)
        at = 0
        for number in numbers:
            known, free_choice = {}, best[at]
            for continuation in self.continuations[number]:
                end = at + len(continuation)
                known[continuation] = tuple(logprobs[at:end]), best[at:end] == list(continuation)
                at = end
            self.answers[self.asked[number]] = known, free_choice
        self.progress.advance(len(numbers))


def _logprobs(lm: LM, hidden: torch.Tensor, places: Sequence[int], targets: Sequence[int]) -> tuple[list[float], list[int]]:
    """Return log p(targets[i]) after the hidden state at places[i], and the likeliest id there.

    Logits are made once for each place, in pieces.
    """
    distinct, which = torch.tensor(places, device=hidden.device).unique(return_inverse=True)
    wanted = torch.tensor(targets, device=hidden.device)
    logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    best = torch.empty(len(distinct), dtype=torch.long, device=hidden.device)
    head: Any = head_of(lm.model)
    for start in range(0, len(distinct), _ROWS_OF_LOGITS):
        stop = min(start + _ROWS_OF_LOGITS, len(distinct))
        logits = head(hidden.index_select(0, distinct[start:stop])).float()
        largest, best[start:stop] = logits.max(-1)
        here = (which >= start) & (which < stop)
        local = which[here] - start
        picked = logits[local, wanted[here]]
        total = largest + logits.sub_(largest[:, None]).exp_().sum(-1).log()
        logprobs[here] = picked - total[local]
    return logprobs.tolist(), best[which].tolist()
