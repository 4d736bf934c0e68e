"""Texts that go on from the same prompt as one row that branches, so that training reads the prompt once.

prompt + a, prompt + b  ->  prompt a b      a and b see the prompt and themselves, and stand at the positions behind it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch.nn.utils.rnn import pad_sequence

from tunesmith.core.levers import on
from tunesmith.models.branches import Group, Row

_WORTHWHILE = 0.1


@dataclass(frozen=True)
class Branched:
    """R rows that branch, padded on the right.

    Attributes:
        ids, positions: [R, T]. lengths: [R] real tokens.
        wanted: [R, T], True at the same tokens, in the same order, as in the texts by themselves.
        blocked: [R, T, T], -inf where a token may not see another one, else 0.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    wanted: torch.Tensor
    positions: torch.Tensor
    blocked: torch.Tensor


def branched(ids: torch.Tensor, lengths: torch.Tensor, wanted: torch.Tensor, of_prompt: torch.Tensor) -> Branched | None:
    """Make one row of the texts of each prompt; None where that would save little.

    A text branches off before its first wanted token at the latest, so that each wanted token is one text's own.

    Args:
        ids, wanted: [B, T], padded on the right. lengths: [B] real tokens. of_prompt: [B], rising.
    """
    if not on("prefixes") or int(of_prompt[-1]) + 1 == len(of_prompt):
        return None
    texts = [tuple(row[:length]) for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]
    marks = [row[:length] for row, length in zip(wanted.tolist(), lengths.tolist(), strict=True)]
    rows, places = [], []
    for _, numbers in groupby(range(len(texts)), of_prompt.tolist().__getitem__):
        group = list(numbers)
        shared = min(_alike([texts[i] for i in group]), *(_first(marks[i]) for i in group))
        rows.append(Row(texts[group[0]][:shared], tuple(texts[i][shared:] for i in group)))
        places.append([False] * shared + [mark for i in group for mark in marks[i][shared:]])
    if sum(map(len, rows)) > (1 - _WORTHWHILE) * int(lengths.sum()):
        return None

    def padded(values: Sequence[Sequence[float]]) -> torch.Tensor:
        return pad_sequence([torch.tensor(row, device=ids.device) for row in values], batch_first=True)

    seen = Group(rows).visible().to(ids.device)
    blocked = torch.zeros(seen.shape, device=ids.device).masked_fill_(~seen, -torch.inf)
    sizes = torch.tensor([len(row) for row in rows], device=ids.device)
    return Branched(padded([row.ids for row in rows]), sizes, padded(places), padded([row.positions(0) for row in rows]), blocked)


def _first(mark: Sequence[bool]) -> int:
    """The number of the first token that is wanted; behind the last where none is."""
    return next((i for i, wanted in enumerate(mark) if wanted), len(mark))


def _alike(texts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all texts begin with in common."""
    return next((i for i, ids in enumerate(zip(*texts, strict=False)) if len(set(ids)) > 1), min(map(len, texts)))
