"""Rows that branch and share their past, read in one forward pass: what scoring and the prompts of generation run on.

A row is a text and branches that go on from its end, each seeing the text and itself only. Rows that follow the same past,
whose keys and values are kept, form a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from tunesmith.models.operations import leading, whole
from tunesmith.models.residents import of_rows
from tunesmith.models.soft_prefix import prefix_key_values
from tunesmith.models.trunk import Trunk, is_llama_like, trunk_of

_QUERIES = 128


@dataclass(frozen=True)
class Past:
    """Keys and values of what was read before, per layer [H_kv, P, head] each."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]

    @property
    def length(self) -> int:
        """P, the number of tokens."""
        return self.layers[0][0].shape[1]


def soft_past(model: Any) -> Past | None:
    """Return the model's soft prefix as the past of everything it reads; None without one."""
    found = prefix_key_values(model)
    return Past([(keys[0], values[0]) for keys, values in found]) if found else None


# Keys and values of a group's rows, per layer [H_kv, R, T, head] each, padded on the right.
Kept = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Row:
    """A text of one or more token ids, branches that go on from it, and the adapter that reads them (None = the active one)."""

    text: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...] = ()
    adapter: str | None = None

    @cached_property
    def ids(self) -> list[int]:
        """All T tokens: those of the text, then branch by branch."""
        return [*self.text, *(token for branch in self.branches for token in branch)]

    def positions(self, past: int) -> list[int]:
        """Return the position of each token, counted along its branch from the end of the past."""
        end = past + len(self.text)
        return [*range(past, end), *(p for branch in self.branches for p in range(end, end + len(branch)))]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Group:
    """Rows after the same past; None = nothing came before."""

    rows: Sequence[Row]
    past: Past | None = None

    @property
    def past_length(self) -> int:
        """Number of tokens that came before."""
        return self.past.length if self.past else 0

    @cached_property
    def longest(self) -> int:
        """Tokens of its longest row."""
        return max(map(len, self.rows))

    def past_after(self, row: int, kept: Kept) -> Past:
        """Return the group's past followed by one of its rows, which must not branch."""
        length = len(self.rows[row])
        own = [(keys[:, row, :length], values[:, row, :length]) for keys, values in kept]
        if self.past is None:
            return Past([(k.contiguous(), v.contiguous()) for k, v in own])
        both = zip(self.past.layers, own, strict=True)
        return Past([(torch.cat([k, more_k], 1), torch.cat([v, more_v], 1)) for (k, v), (more_k, more_v) in both])

    def visible(self, length: int) -> torch.Tensor:
        """Return who may look at whom in rows padded to T tokens: booleans [R, T, T], or [1, T, T] where none branches."""
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        if not any(row.branches for row in self.rows):
            return causal[None]
        allowed = causal.repeat(len(self.rows), 1, 1)
        for b, row in enumerate(self.rows):
            start = len(row.text)
            for branch in row.branches:
                allowed[b, start:, len(row.text) : start] = False
                start += len(branch)
        return allowed


def read(model: Any, groups: Sequence[Group], keep: bool = False) -> tuple[torch.Tensor, list[Kept]]:
    """Read groups of rows in one forward pass.

    Returns:
        The last hidden states [N, D] of all tokens, row after row without padding; and, if `keep`, of each group its keys
        and values.
    """
    longest = max(group.past_length + group.longest for group in groups)
    if is_llama_like(model, model.device, longest):
        return _read_packed(model, groups, keep)
    parts = [_read_padded(model, group) for group in groups]
    return torch.cat([hidden for hidden, _ in parts]), [kept for _, kept in parts] if keep else []


def _read_packed(model: Any, groups: Sequence[Group], keep: bool) -> tuple[torch.Tensor, list[Kept]]:
    trunk = trunk_of(model)
    places = [_Place.of(group, trunk) for group in groups]
    ids = torch.tensor([i for group in groups for row in group.rows for i in row.ids])
    positions = torch.tensor([p for g in groups for row in g.rows for p in row.positions(g.past_length)])
    kept: list[Kept] = [[] for _ in groups]

    def attend(layer: int, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        (k, v), parts, start = kv.chunk(2, 1), [], 0
        for place, pairs in zip(places, kept, strict=True):
            end = start + place.tokens
            keys, values = place.shared(k[start:end]), place.shared(v[start:end])
            if keep:
                pairs.append((keys, values))
            parts.append(place.attend(layer, q[start:end], keys, values))
            start = end
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    with of_rows(model, [(row.adapter, len(row)) for group in groups for row in group.rows]):
        hidden = trunk(ids, positions, attend)
    return hidden, kept if keep else []


@dataclass(frozen=True)
class _Place:
    """How a group's tokens become padded rows [R, T] and back, and whom they may look at.

    Attributes:
        longest: T, padding included. index: places of its N tokens among the R T of padded rows; None = nothing is padded.
        masks: per block of queries (start, end, what is added to scores [H_kv R or 1, G (end - start), end]).
    """

    group: Group
    tokens: int
    longest: int
    index: torch.Tensor | None
    masks: list[tuple[int, int, torch.Tensor]]
    per_key: int

    @classmethod
    def of(cls, group: Group, trunk: Trunk) -> _Place:
        tokens, longest, index = sum(map(len, group.rows)), whole(group.longest), None
        if tokens < longest * len(group.rows):
            index = torch.cat([torch.arange(b * longest, b * longest + len(row)) for b, row in enumerate(group.rows)])
        dtype, per_key = trunk.dtype, trunk.heads // trunk.shared
        visible = group.visible(longest)
        blocked = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, -torch.inf)
        masks = []
        for start in range(0, longest, _QUERIES):
            end = min(start + _QUERIES, longest)
            mask = blocked[:, None, start:end, :end].repeat(1, per_key, 1, 1).flatten(1, 2)
            if len(mask) > 1:
                mask = mask.repeat(trunk.shared, 1, 1)
            masks.append((start, end, mask))
        return cls(group, tokens, longest, index, masks, per_key)

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        """[N, heads, head] -> [R, T, heads, head], zeros where nothing stands."""
        rows, longest = len(self.group.rows), self.longest
        if self.index is not None:
            x = x.new_zeros(rows * longest, *x.shape[1:]).index_copy_(0, self.index, x)
        return x.view(rows, longest, *x.shape[1:])

    def shared(self, x: torch.Tensor) -> torch.Tensor:
        """[N, H_kv, head] -> [H_kv, R, T, head]."""
        return self.padded(x).permute(2, 0, 1, 3).contiguous()

    def attend(self, layer: int, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """softmax(q k^T / sqrt(head)) v over the past and the row itself: q [N, H, head] -> [N, H * head]."""
        shared, rows, longest, width = keys.shape
        scale = width**-0.5
        # Query heads that share a key head stand together: [H_kv, R, G, T, head].
        split = self.padded(q).view(rows, longest, shared, self.per_key, width).permute(2, 0, 3, 1, 4)
        out = torch.empty(rows, longest, shared, self.per_key, width, dtype=q.dtype)
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)
        for start, end, mask in self.masks:
            asked = split[:, :, :, start:end].reshape(shared * rows, -1, width)
            scores = torch.baddbmm(mask, asked, leading(keys, end).transpose(1, 2), alpha=scale)
            if self.group.past is None:
                found = torch.bmm(scores.softmax(-1), values[:, :end])
            else:
                found = self._with_past(self.group.past.layers[layer], asked, scores, values[:, :end])
            block = found.view(shared, rows, self.per_key, end - start, width)
            out[:, start:end] = block.permute(1, 3, 0, 2, 4)
        flat = out.view(rows * longest, -1)
        return flat if self.index is None else flat.index_select(0, self.index)

    def _with_past(
        self, past: tuple[torch.Tensor, torch.Tensor], asked: torch.Tensor, scores: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """The same over a past that all rows share: one product for all of them, and nothing is repeated."""
        (keys, old), width = past, asked.shape[-1]
        shared, length = keys.shape[:2]
        # [H_kv R, G block, head] -> [H_kv, R G block, head]
        far = torch.bmm(asked.view(shared, -1, width), keys.transpose(1, 2)).mul_(width**-0.5)
        own = scores.shape[-1]
        p = torch.cat([scores, far.view(*scores.shape[:2], length)], -1).softmax(-1)
        from_past = torch.bmm(p[..., own:].reshape(shared, -1, length), old).view(asked.shape)
        return torch.baddbmm(from_past, p[..., :own], values)


def _read_padded(model: Any, group: Group) -> tuple[torch.Tensor, Kept]:
    """Read one group through the model's own forward pass, with rows padded on the right."""
    rows, longest, past = group.rows, group.longest, group.past_length
    ids, positions = torch.zeros(2, len(rows), longest, dtype=torch.long, device=model.device)
    for b, row in enumerate(rows):
        ids[b, : len(row)] = torch.tensor(row.ids)
        positions[b, : len(row)] = torch.tensor(row.positions(past))
    cache = library_cache(group.past, len(rows))
    inner = group.visible(longest).to(model.device)
    allowed = torch.cat([inner.new_ones(len(inner), longest, past), inner], -1)
    with of_rows(model, [(row.adapter, 1) for row in rows]):
        hidden = model.base_model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=additive(allowed, model.dtype),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    real = torch.cat([hidden[b, : len(row)] for b, row in enumerate(rows)])
    return real, [(x.keys[:, :, past:].transpose(0, 1), x.values[:, :, past:].transpose(0, 1)) for x in cache.layers]


def library_cache(past: Past | None, rows: int) -> Any:
    """Return a cache of transformers that holds a past for each of `rows` rows."""
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    for layer, pair in enumerate(past.layers if past else []):
        keys, values = (x[None].expand(rows, -1, -1, -1) for x in pair)
        cache.update(keys, values, layer)
    return cache


def additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Turn booleans [B, T, S] into what is added to scores [B, 1, T, S]."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
