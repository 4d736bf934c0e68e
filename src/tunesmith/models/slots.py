"""Places in a batch that is decoded token by token: each holds one answer's keys and values, and is taken again when it ends.

What all prompts share is read once and kept once for all places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunesmith.core.levers import on
from tunesmith.core.memory import cache_gb
from tunesmith.models.branches import Group, Kept, Past, Row, additive, library_cache, read, soft_past
from tunesmith.models.load import LM
from tunesmith.models.operations import whole
from tunesmith.models.prefix_tree import prefix_tree
from tunesmith.models.residents import of_rows
from tunesmith.models.trunk import is_llama_like, trunk_of

_PLACES = 32
_TOKENS_PER_BATCH = 4096
# Room grows by one part in so many, so that what is there is not moved all the time.
_GROWTH = 8


# An adapter (None = the active one) and a prompt it reads.
Read = tuple[str | None, tuple[int, ...]]


def open_slots(lm: LM, asked: Sequence[Read], new_tokens: int, whole_prompts: bool = False) -> OwnSlots | LibrarySlots:
    """Return places for continuing prompts by at most `new_tokens`; what they all share is read here, unless they stay whole.

    There are as many as the cache allows (`core.memory.limit_cache`), and one at the least.
    """
    distinct, adapters = list(dict.fromkeys(prompt for _, prompt in asked)), {adapter for adapter, _ in asked}
    past = soft_past(lm.model)
    together = on("prefixes") and not whole_prompts and len(asked) > 1 and len(adapters) == 1
    shared = _shared(distinct) if together else 0
    if shared:
        past = _read_once(lm.model, Row(distinct[0][:shared], adapter=asked[0][0]), past)
    own = max(map(len, distinct)) + new_tokens - shared
    size = max(1, min(_PLACES, len(asked), int(cache_gb() * 1e9 / (own * lm.cache_bytes_per_token))))
    if is_llama_like(lm.model, lm.device, own + (past.length if past else 0)):
        return OwnSlots(lm.model, size, past, shared)
    return LibrarySlots(lm.model, size, past, shared)


def _shared(prompts: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens all prompts begin with that are worth reading once; the last of each stays its own."""
    if len(prompts) == 1:
        return len(prompts[0]) - 1
    tree = prefix_tree(prompts)
    return len(tree.children[0].ids) if len(tree.children) == 1 and not tree.prompts else 0


def _read_once(model: Any, row: Row, past: Past | None) -> Past:
    group = Group([row], past)
    return group.past_after(0, read(model, [group], keep=True)[1][0])


class OwnSlots:
    """Places whose keys and values lie in memory of ours: per layer [2, places, H_kv, S, head], with room for S tokens.

    S grows with the longest answer: a product with keys that fill their memory takes a fraction of the time that one with a part
    of a larger memory does. Attention is the same products as those of `branches.read`, which give the same bits whatever else
    is in the batch, so a text that is read again has the log-probabilities it was sampled with.

    Args:
        size: number of places. past: what all share.
        shared: how many of a prompt's tokens the past holds; before them it may hold a soft prefix.
    """

    def __init__(self, model: Any, size: int, past: Past | None, shared: int) -> None:
        self.size, self.past, self.shared = size, past, shared
        self._model, self._trunk = model, trunk_of(model, pack=True)
        self._updates = self._trunk.updates()
        shape = (2, size, self._trunk.shared, 0, self._trunk.width)
        self._layers = [torch.zeros(shape, dtype=self._trunk.dtype) for _ in range(self._trunk.layers)]
        self._lengths: list[int] = []
        self._adapters: list[str | None] = []

    def room(self, taken: int) -> int:
        """Return how many prompts can be added when `taken` places are."""
        return self.size - taken

    def add(self, asked: Sequence[Read]) -> torch.Tensor:
        """Read prompts into free places, equal ones once; returns the hidden states [n, D] after their last tokens."""
        start = self.shared
        distinct = list(dict.fromkeys(asked))
        ends: dict[Read, torch.Tensor] = {}
        self._reach(max(len(prompt) for _, prompt in asked) - start + 1)
        for some in _portions([len(prompt) - start for _, prompt in distinct]):
            group = Group([Row(distinct[i][1][start:], adapter=distinct[i][0]) for i in some], self.past)
            hidden, (kept,) = read(self._model, [group], keep=True)
            last = -1
            for number, i in enumerate(some):
                last += len(group.rows[number])
                ends[distinct[i]] = hidden[last]
                for n, one in enumerate(asked):
                    if one == distinct[i]:
                        self._fill(len(self._lengths) + n, kept, number, len(group.rows[number]))
        self._lengths += [len(prompt) - start for _, prompt in asked]
        self._adapters += [adapter for adapter, _ in asked]
        return torch.stack([ends[one] for one in asked])

    def _fill(self, place: int, kept: Kept, row: int, length: int) -> None:
        for layer, pair in zip(self._layers, kept, strict=True):
            for own, read_ones in zip(layer, pair, strict=True):
                own[place, :, :length] = read_ones[:, row, :length]

    def _reach(self, tokens: int) -> None:
        """Have room for so many tokens in every place."""
        old = self._layers[0].shape[3]
        if tokens > old:
            room = whole(max(tokens, old + old // _GROWTH))
            for number, layer in enumerate(self._layers):
                self._layers[number] = torch.nn.functional.pad(layer, (0, 0, 0, room - old))

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read one more token in every place; returns the hidden states [places, D] after them."""
        self._reach(max(self._lengths) + 1)
        trunk, count, start = self._trunk, len(tokens), self.past.length if self.past else 0
        places, lengths = torch.arange(count), torch.tensor(self._lengths)
        seen = (torch.arange(self._layers[0].shape[3]) <= lengths[:, None]).repeat_interleave(trunk.shared, 0)
        mask = torch.zeros(seen.shape, dtype=trunk.dtype).masked_fill_(~seen, -torch.inf)[:, None]

        def attend(layer: int, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
            kept = self._layers[layer]
            kept[:, places, :, lengths] = kv.view(count, 2, trunk.shared, trunk.width)
            keys, values = kept[:, :count].flatten(1, 2)
            # Query heads that share a key head are asked together, as if they were several queries.
            q = q.reshape(len(keys), -1, trunk.width)
            scores = torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=trunk.width**-0.5)
            if self.past is not None:
                return _with_past(q, scores, values, self.past.layers[layer]).reshape(count, -1)
            return torch.bmm(scores.softmax(-1), values).view(count, -1)

        with of_rows(self._model, [(adapter, 1) for adapter in self._adapters]):
            hidden = trunk(torch.tensor(tokens), lengths + start, attend, self._updates)
        self._lengths = [length + 1 for length in self._lengths]
        return hidden

    def keep(self, order: Sequence[int]) -> None:
        """Keep some places in a new order; one that moves takes a place that is not kept."""
        for place, old in enumerate(order):
            if place != old:
                length = self._lengths[old]
                for layer in self._layers:
                    layer[:, place, :, :length] = layer[:, old, :, :length]
        self._lengths = [self._lengths[old] for old in order]
        self._adapters = [self._adapters[old] for old in order]


def _with_past(
    q: torch.Tensor, scores: torch.Tensor, values: torch.Tensor, past: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Attend with q [B H_kv, G, head] to a past [H_kv, P, head] that all share, and to values [B H_kv, S, head] of their own.

    Args:
        scores: [B H_kv, G, S] of the keys that go with the values.
    """
    (old_keys, old_values), (shared, _, width), per_key = past, past[0].shape, q.shape[1]

    def together(x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, shared, per_key, x.shape[-1]).transpose(0, 1).reshape(shared, -1, x.shape[-1])

    def apart(x: torch.Tensor) -> torch.Tensor:
        return x.view(shared, -1, per_key, x.shape[-1]).transpose(0, 1).reshape(len(q), per_key, -1)

    far = apart(torch.bmm(together(q), old_keys.transpose(1, 2)).mul_(width**-0.5))
    own = scores.shape[-1]
    p = torch.cat([scores, far], -1).softmax(-1)
    from_past = apart(torch.bmm(together(p[..., own:].contiguous()), old_values))
    return torch.baddbmm(from_past, p[..., :own], values)


class LibrarySlots:
    """Places in a cache of transformers, all taken at once: for models and devices without a forward pass of ours."""

    def __init__(self, model: Any, size: int, past: Past | None, shared: int) -> None:
        self.size, self.past, self.shared = size, past, shared
        self._model = model

    def room(self, taken: int) -> int:
        """Return how many prompts can be added when `taken` places are: none, until all have ended."""
        return 0 if taken else self.size

    def add(self, asked: Sequence[Read]) -> torch.Tensor:
        """Read prompts; returns the hidden states [n, D] after their last tokens."""
        group = Group([Row(prompt[self.shared :], adapter=adapter) for adapter, prompt in asked], self.past)
        self._adapters = [adapter for adapter, _ in asked]
        start = group.past_length
        hidden, (kept,) = read(self._model, [group], keep=True)
        lengths = torch.tensor([len(row) for row in group.rows], device=hidden.device)
        self._cache = library_cache(self.past, len(asked))
        for layer, (keys, values) in enumerate(kept):
            self._cache.update(keys.transpose(0, 1), values.transpose(0, 1), layer)
        own = torch.arange(group.longest, device=hidden.device) < lengths[:, None]
        self._real = torch.cat([own.new_ones(len(asked), start), own], 1)
        self._positions = lengths + start
        return hidden[lengths.cumsum(0) - 1]

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read one more token in every place; returns the hidden states [places, D] after them."""
        self._real = torch.cat([self._real, self._real.new_ones(len(tokens), 1)], 1)
        with of_rows(self._model, [(adapter, 1) for adapter in self._adapters]):
            hidden = self._model.base_model(
                input_ids=torch.tensor(tokens, device=self._real.device)[:, None],
                attention_mask=additive(self._real[:, None], self._model.dtype),
                position_ids=self._positions[:, None],
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state
        self._positions = self._positions + 1
        return hidden[:, 0]

    def keep(self, order: Sequence[int]) -> None:
        """Keep some places in a new order."""
        index = torch.tensor(order, dtype=torch.long, device=self._real.device)
        if order:
            self._cache.batch_select_indices(index)
        self._real, self._positions = self._real[index], self._positions[index]
        self._adapters = [self._adapters[old] for old in order]


def _portions(lengths: Sequence[int]) -> list[list[int]]:
    """Cut rows into portions of at most a batch of tokens, padding included."""
    portions: list[list[int]] = []
    longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not portions or (len(portions[-1]) + 1) * longest > _TOKENS_PER_BATCH:
            portions.append([])
            longest = lengths[i]
        portions[-1].append(i)
    return portions
