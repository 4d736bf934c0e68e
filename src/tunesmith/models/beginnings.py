"""Texts that go on from the same prompt as one row that branches, so that training reads the prompt once.

prompt + a, prompt + b  ->  prompt a b      a and b see the prompt and themselves, and stand at the positions behind it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tunesmith.core.levers import on
from tunesmith.models.branches import Row
from tunesmith.models.operations import whole

_WORTHWHILE = 0.1
# A token's products with weights take as long as its attention to so many times the model's width of places.
_PLACES_PER_WIDTH = 4


@dataclass(frozen=True)
class Branched:
    """R rows that branch.

    Attributes:
        ids, positions: [R, T]. real: [R, T], True where a token stands.
        wanted: [M], the tokens that are wanted, counted among the real ones, in the order of the texts by themselves.
        blocked: [R, T, T], -inf where a token may not see another one, else 0.
    """

    ids: torch.Tensor
    real: torch.Tensor
    wanted: torch.Tensor
    positions: torch.Tensor
    blocked: torch.Tensor


def branched(
    ids: torch.Tensor, lengths: torch.Tensor, wanted: torch.Tensor, of_prompt: torch.Tensor, width: int
) -> Branched | None:
    """Make one row of the texts of each prompt; None where that would save little.

    A text branches off before its first wanted token at the latest, so that each wanted token is one text's own.

    Args:
        ids, wanted: [B, T], padded on the right. lengths: [B] real tokens.
        of_prompt: [B], equal where texts go on from the same prompt. width: the model's.
    """
    groups: dict[int, list[int]] = {}
    for i, prompt in enumerate(of_prompt.tolist()):
        groups.setdefault(prompt, []).append(i)
    if not on("prefixes") or len(groups) == len(of_prompt):
        return None
    texts = [tuple(row[:length]) for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]
    marks = [row[:length] for row, length in zip(wanted.tolist(), lengths.tolist(), strict=True)]
    rows: list[Row] = []
    # The number of each wanted token among those of the texts by themselves, and of the same token among those of the rows.
    seen: list[tuple[int, int]] = []
    before = [0, *torch.tensor([sum(mark) for mark in marks]).cumsum(0).tolist()]
    tokens = 0
    for group in groups.values():
        shared = min(_alike([texts[i] for i in group]), *(_first(marks[i]) for i in group))
        shared -= shared % 2  # processors add up products of bfloat16 in pairs, which stay together
        for some in [group] if shared else [[i] for i in group]:
            rows.append(Row(texts[some[0]][:shared], tuple(texts[i][shared:] for i in some)))
            tokens += shared
            for i in some:
                at = (tokens + place for place, mark in enumerate(marks[i][shared:]) if mark)
                seen += zip(range(before[i], before[i + 1]), at, strict=True)
                tokens += len(texts[i]) - shared
    starts = [_starts(row) for row in rows]
    extents = [at[-1] + len(row.branches[-1]) for row, at in zip(rows, starts, strict=True)]
    costs = (_cost(len(row), extent, width) for row, extent in zip(rows, extents, strict=True))
    if sum(costs) > (1 - _WORTHWHILE) * sum(_cost(len(text), len(text), width) for text in texts):
        return None
    real = torch.zeros(len(rows), max(extents), dtype=torch.bool)
    blocked = torch.zeros(len(rows), max(extents), max(extents))
    for b, row in enumerate(rows):
        real[b, : len(row.text)] = True
        for start, text in zip(starts[b], row.branches, strict=True):
            real[b, start : start + len(text)] = True
            blocked[b, start:, len(row.text) : start] = -torch.inf

    def placed(values: Sequence[int]) -> torch.Tensor:
        return torch.zeros(real.shape, dtype=torch.long).masked_scatter_(real, torch.tensor(values)).to(ids.device)

    return Branched(
        placed([token for row in rows for token in row.ids]), real.to(ids.device),
        torch.tensor([place for _, place in sorted(seen)], device=ids.device),
        placed([position for row in rows for position in row.positions(0)]), blocked.to(ids.device),
    )  # fmt: skip


def same_prompts(ids: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return [B], equal where rows have the same tokens before the first that is counted.

    Args:
        ids, counted: [B, T].
    """
    numbers: dict[tuple[int, ...], int] = {}
    prompts = [tuple(row[: _first(mark)]) for row, mark in zip(ids.tolist(), counted.tolist(), strict=True)]
    return torch.tensor([numbers.setdefault(prompt, len(numbers)) for prompt in prompts])


def _starts(row: Row) -> list[int]:
    """Return the place at which each text of a row begins.

    In bfloat16 too, a text's numbers are those of the text by itself: it goes on from the shared part where it would stand
    behind it but for whole vectors of places that stay empty, so sums are made in the same order.
    """
    found, end = [], len(row.text)
    for text in row.branches:
        found.append(len(row.text) + whole(end - len(row.text)))
        end = found[-1] + len(text)
    return found


def _cost(tokens: int, places: int, width: int) -> float:
    return tokens * (1 + places / (_PLACES_PER_WIDTH * width))


def _first(mark: Sequence[bool]) -> int:
    """The number of the first token that is wanted; behind the last where none is."""
    return next((i for i, wanted in enumerate(mark) if wanted), len(mark))


def _alike(texts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all texts begin with in common."""
    return next((i for i, ids in enumerate(zip(*texts, strict=False)) if len(set(ids)) > 1), min(map(len, texts)))
