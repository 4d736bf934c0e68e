"""A masked language model's logits where tokens are hidden, and how likely words are in gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith.core.progress import Progress
from tunesmith.models.bert import hidden_states, real_tokens
from tunesmith.models.load import LM

# The heads of these families read hidden states one by one, so they need only see the hidden tokens.
_HEADS = {
    "BertForMaskedLM": "cls", "RobertaForMaskedLM": "lm_head", "XLMRobertaForMaskedLM": "lm_head",
    "CamembertForMaskedLM": "lm_head",
}  # fmt: skip
_TOKENS = 8192
_ROWS = 128


@dataclass(frozen=True)
class Gap:
    """A row with masks: T token ids, and the places of the masks in it, in order."""

    ids: tuple[int, ...]
    at: tuple[int, ...]


@dataclass(frozen=True)
class Filled:
    """What a gap may hold: the summed log-probability of each word (nats), and the likeliest token of its first mask."""

    logprobs: tuple[float, ...]
    free_choice: int


def masked_logits(model: Any, ids: torch.Tensor, lengths: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return the logits [N, V] at the N places that are wanted, in row order.

    Args:
        model: a masked language model of transformers. ids: [B, T], padded on the right. lengths: [B] real tokens.
        where: [B, T] booleans.
    """
    name = _HEADS.get(type(model).__name__)
    if name is None:
        return model(input_ids=ids, attention_mask=real_tokens(ids, lengths).long()).logits[where]
    return getattr(model, name)(hidden_states(model, ids, lengths, where))


def fill(lm: LM, gaps: Sequence[Gap], words: Sequence[tuple[int, ...]], title: str = "") -> list[Filled]:
    """Return for each gap how likely each word is in it: the sum of log p(token | the row with all its masks).

    Args:
        words: the tokens of each, as many as every gap has masks. title: shown with the progress line.
    """
    filled: list[Filled | None] = [None] * len(gaps)
    wanted = torch.tensor(words, device=lm.device)
    order = sorted(range(len(gaps)), key=lambda i: len(gaps[i].ids))
    with torch.inference_mode(), Progress(title, total=len(gaps), unit="prompts") as progress:
        while order:
            rows = min(max(_TOKENS // len(gaps[order[-1]].ids), 1), _ROWS)
            numbers, order = order[-rows:], order[:-rows]
            logprobs = torch.log_softmax(_gap_logits(lm, [gaps[i] for i in numbers]).float(), -1)
            # [B, M, V] -> [B, W]: for each word, its token at each mask.
            sums = sum(logprobs[:, m, wanted[:, m]] for m in range(wanted.shape[1]))
            assert isinstance(sums, torch.Tensor)
            free = logprobs[:, 0].argmax(-1).tolist()
            for i, values, best in zip(numbers, sums.tolist(), free, strict=True):
                filled[i] = Filled(tuple(values), best)
            progress.advance(len(numbers))
    return [one for one in filled if one is not None]


def _gap_logits(lm: LM, gaps: Sequence[Gap]) -> torch.Tensor:
    """Return the logits [B, M, V] of gaps with M masks each."""
    lengths = torch.tensor([len(gap.ids) for gap in gaps])
    ids = torch.zeros(len(gaps), int(lengths.max()), dtype=torch.long)
    where = torch.zeros_like(ids, dtype=torch.bool)
    for b, gap in enumerate(gaps):
        ids[b, : len(gap.ids)] = torch.tensor(gap.ids)
        where[b, list(gap.at)] = True
    logits = masked_logits(lm.model, ids.to(lm.device), lengths.to(lm.device), where.to(lm.device))
    return logits.view(len(gaps), len(gaps[0].at), -1)
