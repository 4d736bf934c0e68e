"""The language-modelling loss of a batch, with vocabulary logits made only where a token counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

_ROWS_OF_LOGITS = 1024

Objective = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, dict[str, float]]]


def summed_loss(model: Any, ids: torch.Tensor, loss_mask: torch.Tensor, objective: Objective) -> tuple[torch.Tensor, int]:
    """Return the objective summed over the tokens that count, and how many they are.

    Args:
        ids: [B, T], padded on the right. loss_mask: [B, T], True where the token is a target.
        objective: (logits [N, V], targets [N]) -> (sum, stats).
    """
    wanted = loss_mask[:, 1:]
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][wanted]
    targets = ids[:, 1:][wanted]
    head = model.get_output_embeddings()
    if len(targets) <= _ROWS_OF_LOGITS:
        return objective(head(hidden), targets)[0], len(targets)
    # More rows are worked off in pieces whose logits are made again in the backward pass: memory for one piece only.
    pieces = zip(hidden.split(_ROWS_OF_LOGITS), targets.split(_ROWS_OF_LOGITS), strict=True)
    losses = [checkpoint(lambda h, t: objective(head(h), t)[0], h, t, use_reentrant=False) for h, t in pieces]
    return torch.stack(losses).sum(), len(targets)
