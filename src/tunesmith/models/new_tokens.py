"""Tokens that a model has never seen: rows added to its vocabulary, drawn from N(0, 0.02) as GPT-1's delimiters were.

Where every weight is trained the tables themselves grow. Where a peft method trains little, the new rows are a module of their
own beside the frozen tables, so that three new tokens are three trained rows and not a trained vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.core.errors import UserError
from tunesmith.models.load import LM

_DEVIATION = 0.02


@dataclass(frozen=True)
class Added:
    """New tokens of a model.

    Attributes:
        ids: of each token. modules: names of modules that hold new rows and nothing else; none where the tables grew, or the
            model has known the tokens before.
    """

    ids: tuple[int, ...]
    modules: tuple[str, ...] = ()


def add_tokens(lm: LM, tokens: Sequence[str], whole: bool) -> Added:
    """Give a model and its tokenizer new special tokens; those that it has stay as they are. Rows are drawn by torch's generator.

    Args:
        whole: let the tables grow, for a training of every weight; False = keep the new rows beside them.

    Raises:
        UserError: some of the tokens are there and some are not, or the tables are of a kind that cannot be extended.
    """
    known = lm.tokenizer.get_vocab()
    there = [token for token in tokens if token in known]
    if len(there) == len(tokens):
        return Added(tuple(known[token] for token in tokens))
    table: Any = lm.model.get_input_embeddings()
    head: Any = lm.model.get_output_embeddings()
    if there or type(table) is not nn.Embedding or type(head) is not nn.Linear or head.bias is not None:
        why = (
            f"its vocabulary has {there[0]} already" if there else f"its tables are {type(table).__name__}, {type(head).__name__}"
        )
        raise UserError(
            f"'{lm.name}' has no room for the new tokens {', '.join(tokens)}: {why}", "Use another model, for example smollm2."
        )
    first = len(lm.tokenizer)
    lm.tokenizer.add_tokens(list(tokens), special_tokens=True)
    ids = tuple(range(first, first + len(tokens)))
    tied = head.weight is table.weight
    rows = _rows(len(tokens), table.weight)
    of_head = rows if tied else _rows(len(tokens), head.weight)
    if whole:
        _grow(lm.model, ids, rows, of_head)
        return Added(ids)
    lm.model.set_input_embeddings(TableAndRows(table.weight, first, rows))
    lm.model.set_output_embeddings(HeadAndRows(head.weight, first, of_head))
    return Added(ids, tuple(name for name, module in lm.model.named_modules() if module in (rows, of_head)))


def _grow(model: Any, ids: tuple[int, ...], rows: nn.Embedding, of_head: nn.Embedding) -> None:
    size = max(ids[-1] + 1, model.get_input_embeddings().num_embeddings)
    model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[list(ids)] = of_head.weight
        model.get_input_embeddings().weight[list(ids)] = rows.weight


def _rows(count: int, like: torch.Tensor) -> nn.Embedding:
    rows = nn.Embedding(count, like.shape[1])
    nn.init.normal_(rows.weight, std=_DEVIATION)
    return rows.to(like.device, like.dtype)


class TableAndRows(nn.Module):
    """An embedding table whose ids from `first` on are rows of another one."""

    def __init__(self, weight: Any, first: int, new: nn.Embedding) -> None:
        super().__init__()
        self.weight, self.first, self.new = weight, first, new
        self.num_embeddings = first + new.num_embeddings

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids [...] to [..., D]."""
        known = nn.functional.embedding(ids.clamp(max=self.first - 1), self.weight)
        return torch.where((ids >= self.first)[..., None], self.new((ids - self.first).clamp(min=0)), known)


class HeadAndRows(nn.Module):
    """An output layer without bias whose columns from `first` on are products with other rows."""

    def __init__(self, weight: Any, first: int, new: nn.Embedding) -> None:
        super().__init__()
        self.weight, self.first, self.new = weight, first, new

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [..., D] to logits [..., first + new]."""
        return torch.cat([nn.functional.linear(x, w) for w in (self.weight[: self.first], self.new.weight)], -1)
