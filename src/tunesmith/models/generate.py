"""Generation: greedy or sampled, many prompts at a time, each with its own seed and its own end.

A request's random numbers come from its own generator, so its answer does not depend on its neighbours in the batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tunesmith.core.encode import token_ids, with_bos
from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.progress import Progress
from tunesmith.core.records import Completion
from tunesmith.core.seeds import derive
from tunesmith.models.constraint import Automaton, Constraint, State
from tunesmith.models.load import LM
from tunesmith.models.residents import check_residents, residents_of
from tunesmith.models.sampling import choose
from tunesmith.models.slots import open_slots
from tunesmith.models.trunk import head_of

ValueHead = Callable[[torch.Tensor], torch.Tensor]
# New requests are begun when this share of the places is free.
_REFILL = 8
# Tokens decoded beyond the length of the longest stop string, which may begin and end in the middle of one.
_TAIL = 8


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt.

    Attributes:
        temperature: 0 = greedy. top_p: smallest set of tokens with this much probability (Holtzman et al. 2020).
        stop: strings that end an answer and are not part of it. constraint: what the whole answer must match.
        ignore_end: go on behind a token that ends a text; the answer's text stops there.
        whole_prompts: read each prompt by itself, as training does, and not once what several begin with: only then are
            log-probabilities in reduced precision those that training computes.
    """

    max_new_tokens: int = 48
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    ignore_end: bool = False
    whole_prompts: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError("generation needs max_new_tokens >= 1, temperature >= 0 and 0 < top_p <= 1")
        if "" in self.stop:
            raise UserError("an empty stop string would end every answer before it begins", "Leave it out.")


class NotFinite(WorkFailed):
    """The model's numbers for an answer are not finite.

    Args:
        number: of the request, from 0. where: what it goes on from.
    """

    def __init__(self, number: int, where: str) -> None:
        super().__init__(f"the model's numbers for an answer to {where} are not finite", "Look at its weights.")
        self.number = number


@dataclass
class _Row:
    number: int
    adapter: str | None
    prompt: tuple[int, ...]
    generator: torch.Generator
    state: State | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    text: str = ""
    stop_reason: str = ""


def generate(
    lm: LM, prompts: Sequence[str | tuple[str | None, str]], max_new_tokens: int = 48, temperature: float = 1.0,
    seed: int = 0, n: int = 1, stop: str | Sequence[str] = (), top_p: float = 1.0,
) -> list[list[Completion]]:  # fmt: skip
    """Continue each prompt `n` times.

    Args:
        prompts: texts; or pairs of a resident adapter's name (None = the active one) and the text it continues.

    Returns:
        Per prompt, its `n` completions. Log-probabilities are the model's after temperature, before `top_p`.

    Raises:
        UserError: a prompt is empty or too long, a setting makes no sense, or there is no such adapter.
    """
    asked = [(None, prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    adapters = [adapter for adapter, _ in asked for _ in range(n)]
    sampling = Sampling(max_new_tokens, temperature, top_p, (stop,) if isinstance(stop, str) else tuple(stop))
    texts = [text for _, text in asked]
    return n_times(lm.tokenizer, texts, n, lambda ids: complete(lm, ids, sampling, seed, adapters=adapters))


def n_times(
    tokenizer: Any, prompts: Sequence[str], n: int, continue_: Callable[[list[tuple[int, ...]]], list[Completion]]
) -> list[list[Completion]]:
    """Let each text be continued `n` times by what continues token ids; returns per prompt its `n` completions."""
    encoded = [with_bos(tokenizer, token_ids(tokenizer, prompt)) for prompt in prompts]
    flat = continue_([ids for ids in encoded for _ in range(n)])
    return [flat[i * n : (i + 1) * n] for i in range(len(prompts))]


def complete(
    lm: LM, prompts: Sequence[tuple[int, ...]], how: Sampling, seed: int = 0, title: str = "",
    adapters: Sequence[str | None] | None = None, value_head: ValueHead | None = None, turns: Sequence[int] | None = None,
) -> list[Completion]:  # fmt: skip
    """Continue prompts given as token ids, in request order.

    A sampled answer follows from the seed, its prompt, its adapter and how many equal prompts for this adapter stand before
    it, and from nothing else.

    Args:
        adapters: for each prompt the resident adapter that continues it ("base" = none); None = the active one.
        value_head: hidden states [B, D] -> [B]; asked before every token, from the state that the token is drawn from.
        turns: what `turns_of` says of the prompts of which these are a part; None = these are all.

    Raises:
        UserError: a prompt is empty, prompt and answer do not fit the model's context, or there is no such adapter.
        NotFinite: the model's numbers are not finite.
    """
    adapters = adapters or [None] * len(prompts)
    check_residents(lm.model, adapters)
    for ids in prompts:
        if not ids:
            raise UserError("cannot continue an empty prompt")
        if len(ids) + how.max_new_tokens > lm.context_length:
            raise UserError(
                f"a prompt of {len(ids)} tokens and {how.max_new_tokens} new ones exceed the context of {lm.context_length}"
            )
    rows: list[_Row] = []
    turns = turns or turns_of(list(zip(adapters, prompts, strict=True)))
    automaton = Automaton(how.constraint, lm.tokenizer) if how.constraint else None
    for adapter, ids, turn in zip(adapters, prompts, turns, strict=True):
        chance = torch.Generator().manual_seed(derive(seed, "sample", turn, *ids))
        rows.append(_Row(len(rows), adapter, ids, chance, automaton.begin() if automaton else None))
    waiting = sorted(rows, key=lambda row: -len(row.prompt))
    with torch.inference_mode(), Progress(title, total=len(rows), unit="answers") as progress:
        if rows:
            _run(lm, waiting, how, progress, value_head)
    if residents := residents_of(lm.model):
        residents.release()
    return [Completion(r.text, tuple(r.ids), tuple(r.logprobs), r.stop_reason, tuple(r.values)) for r in rows]


def turns_of(asked: Sequence[Hashable]) -> list[int]:
    """Return for each thing that is asked how many equal ones stand before it."""
    seen, turns = Counter[Hashable](), []
    for one in asked:
        turns.append(seen[one])
        seen[one] += 1
    return turns


def as_completion(lm: LM, ids: Sequence[int], logprobs: Sequence[float], how: Sampling) -> Completion:
    """Return tokens that were sampled elsewhere as an answer; its `stop_reason` is "" if it has no end."""
    row = _Row(0, None, (), torch.Generator(), ids=list(ids), logprobs=list(logprobs))
    if ids:
        _note_end(lm, row, how)
    return Completion(row.text, tuple(row.ids), tuple(row.logprobs), row.stop_reason)


def _run(lm: LM, waiting: list[_Row], how: Sampling, progress: Progress, value_head: ValueHead | None) -> None:
    """Continue all rows, a batch at a time: where one ends, the next begins in its place."""
    slots = open_slots(lm, [(row.adapter, row.prompt) for row in waiting], how.max_new_tokens, how.whole_prompts)
    head, active = head_of(lm.model), []
    while waiting or active:
        room = slots.room(len(active))
        if waiting and room and (not active or room >= slots.size // _REFILL):
            moved, waiting = waiting[:room], waiting[room:]
            hidden = slots.add([(row.adapter, row.prompt) for row in moved])
            active += moved
        else:
            moved, hidden = active, slots.step([row.ids[-1] for row in active])
        if value_head:
            for row, value in zip(moved, value_head(hidden).tolist(), strict=True):
                row.values.append(value)
        logits = head(hidden).float()
        allowed = logits
        if how.constraint:
            allowed = torch.stack([row.state.allowed(x) for row, x in zip(moved, logits, strict=True) if row.state])
        chosen = choose(logits, allowed, how.temperature, how.top_p, [row.generator for row in moved])
        for row, token, logprob in zip(moved, *chosen, strict=True):
            if not math.isfinite(logprob):
                raise NotFinite(row.number, f"{_decode(lm.tokenizer, row.prompt)[-60:]!r}")
            row.ids.append(token)
            row.logprobs.append(logprob)
            if row.state:
                row.state.advance(token)
            _note_end(lm, row, how)
        going = [b for b, row in enumerate(active) if not row.stop_reason]
        if len(going) < len(active):
            progress.advance(len(active) - len(going))
            # The last ones take the places of those that ended.
            order = [b if not active[b].stop_reason else None for b in range(len(going))]
            rest = iter([b for b in going if b >= len(going)])
            order = [next(rest) if b is None else b for b in order]
            slots.keep(order)
            active = [active[b] for b in order]


def _note_end(lm: LM, row: _Row, how: Sampling) -> None:
    """Set a row's text and why it ended, if it has."""
    if row.ids[-1] in lm.stop_ids and not how.ignore_end:
        row.stop_reason, row.text = "stop_token", _decode(lm.tokenizer, row.ids[:-1])
        return
    # A token stands for at least one byte, so these hold every stop string that the newest token can have completed.
    tail = row.ids[-max((len(s.encode()) for s in how.stop), default=0) - _TAIL :]
    if any(s in _decode(lm.tokenizer, tail) for s in how.stop):
        text = _decode(lm.tokenizer, row.ids)
        if found := [at for s in how.stop if (at := text.find(s)) >= 0]:
            row.stop_reason, row.text = "stop_string", text[: min(found)]
            return
    if len(row.ids) >= how.max_new_tokens:
        end = next((i for i, token in enumerate(row.ids) if token in lm.stop_ids), None)
        row.stop_reason = "length" if end is None else "stop_token"
        row.text = _decode(lm.tokenizer, row.ids[:end])
        return


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
