"""A classifier on a decoder: softmax(W_y h) of the last token's hidden state, beside the language model it was (GPT-1).

A row is one text or several, end to end, each beginning where the row's mask is True. They are read as rows of their own, so no
text sees another, through the same forward pass as language modelling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from tunesmith.models.decoder import hidden_states
from tunesmith.models.lm_loss import loss_of_hidden

_DEVIATION = 0.02


class Score(nn.Module):
    """W_y, [L, D], from N(0, deviation^2): as `score` on a decoder it is where transformers' sequence classifiers have it."""

    def __init__(self, labels: int, like: torch.Tensor, dropout: float = 0.0, deviation: float = _DEVIATION) -> None:
        super().__init__()
        weight = torch.empty(labels, like.shape[1]).normal_(std=deviation)
        self.weight = nn.Parameter(weight.to(like.device, like.dtype))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map hidden states [..., D] to logits [..., L], float32: at the end of a sum rounding would show."""
        return nn.functional.linear(self.dropout(x).float(), self.weight.float())


@dataclass(frozen=True)
class Texts:
    """The S texts of a batch of B rows.

    Attributes:
        ids: [S, T], padded on the right. lengths: [S] real tokens. row: [S] the row that each belongs to.
        per_row: [B] how many texts each row has.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    row: torch.Tensor
    per_row: torch.Tensor

    @classmethod
    def of(cls, ids: torch.Tensor, lengths: torch.Tensor, begins: torch.Tensor) -> Texts:
        """Take rows apart: ids and begins [B, T], True where a text begins; lengths [B]."""
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        number = begins[real].cumsum(0) - 1
        sizes = torch.bincount(number)
        texts = pad_sequence(list(ids[real].split(sizes.tolist())), batch_first=True)
        per_row = begins.sum(1)
        return cls(texts, sizes, torch.repeat_interleave(torch.arange(len(ids), device=ids.device), per_row), per_row)

    @property
    def real(self) -> torch.Tensor:
        """[S, T], True where a token is no padding."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]


def last_hidden(model: Any, texts: Texts, activation_checkpointing: bool = False) -> torch.Tensor:
    """Return the hidden state of each text's last token, [S, D]."""
    last = torch.arange(texts.ids.shape[1], device=texts.ids.device) == texts.lengths[:, None] - 1
    return hidden_states(model, texts.ids, texts.lengths, last, activation_checkpointing, texts.row)


def last_hidden_and_lm_loss(model: Any, texts: Texts, activation_checkpointing: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the hidden state of each text's last token, [S, D], and the texts' own loss, summed over rows (scalar).

    A row's loss is the mean of its texts', and a text's the mean of -log p(token | those before it) over all but its first.
    """
    hidden = hidden_states(model, texts.ids, texts.lengths, texts.real, activation_checkpointing)
    ends = texts.lengths.cumsum(0) - 1
    before = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
    before[ends] = False
    targets = texts.ids[:, 1:][texts.real[:, 1:]]
    weights = 1 / (texts.per_row[texts.row] * (texts.lengths - 1))
    # Ids and weights side by side, for the loss is summed piece by piece; up to 2^53 a double holds an id exactly.
    wanted = torch.stack([targets.double(), weights.double().repeat_interleave(texts.lengths - 1)], 1)
    loss, _ = loss_of_hidden(model, hidden[before], wanted, _weighted)
    return hidden[ends], loss


def _weighted(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    nll = nn.functional.cross_entropy(logits.float(), wanted[:, 0].long(), reduction="none")
    return (nll * wanted[:, 1].float()).sum(), {}


def class_logits(model: Any, hidden: torch.Tensor, texts: Texts, choice: bool) -> torch.Tensor:
    """Return [B, L] logits of rows.

    Args:
        hidden: [S, D] of the texts. choice: a row's texts are its labels, one score each; otherwise their hidden states are
            added before W_y, as the two orders of a pair are.
    """
    if choice:
        return model.score(hidden).view(len(texts.per_row), -1)
    summed = torch.zeros(len(texts.per_row), hidden.shape[1], dtype=hidden.dtype, device=hidden.device)
    return model.score(summed.index_add(0, texts.row, hidden))
