"""The language-modelling loss of a batch, with vocabulary logits made only where a token counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import Function

from tunesmith.core.levers import on
from tunesmith.models.decoder import hidden_states

# Float32 logits of one piece. Up to 32 MB the C library keeps freed memory; beyond, every piece would be new pages.
_BYTES_OF_LOGITS = 24_000_000

Objective = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, dict[str, float]]]


def summed_loss(
    model: Any,
    ids: torch.Tensor,
    lengths: torch.Tensor,
    loss_mask: torch.Tensor,
    objective: Objective,
    activation_checkpointing: bool = False,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the objective summed over the tokens that count, and its stats summed likewise.

    Args:
        ids: [B, T], padded on the right. lengths: [B] real tokens of each row.
        loss_mask: [B, T], True where the token is a target; never for the first of a row, which nothing predicts.
        objective: (logits [N, V], targets [N]) -> (sum, stats).
        activation_checkpointing: see `models.decoder`.
    """
    before_target = torch.cat([loss_mask[:, 1:], torch.zeros_like(loss_mask[:, :1])], 1)
    hidden = hidden_states(model, ids, lengths, before_target, activation_checkpointing)
    targets = ids[:, 1:][loss_mask[:, 1:]]
    head = model.get_output_embeddings()
    if not on("head") or type(head) is not torch.nn.Linear or head.bias is not None:
        return objective(head(hidden), targets)
    stats: dict[str, float] = {}
    weight = head.weight if torch.is_grad_enabled() else head.weight.detach()
    return _InPieces.apply(hidden, weight, targets, objective, stats), stats


class _InPieces(Function):
    """Logits and their gradients, piece by piece in the forward pass: memory for one piece only, and nothing made twice."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, objective: Objective, stats: dict[str, float]
    ) -> torch.Tensor:
        """hidden [N, D], weight [V, D], targets [N] -> sum over N; adds up the stats."""
        of_hidden, of_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if of_hidden else None
        grad_weight = torch.zeros_like(weight) if of_weight else None
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        rows = max(_BYTES_OF_LOGITS // (4 * len(weight)), 1)
        for start in range(0, len(hidden), rows):
            piece = hidden[start : start + rows]
            logits = torch.nn.functional.linear(piece, weight)
            with torch.set_grad_enabled(of_hidden or of_weight):
                loss, counts = objective(logits.requires_grad_(of_hidden or of_weight), targets[start : start + rows])
            total += loss.detach()
            for key, value in counts.items():
                stats[key] = stats.get(key, 0.0) + value
            if of_hidden or of_weight:
                (grad,) = torch.autograd.grad(loss, logits)
                if grad_hidden is not None:
                    torch.mm(grad, weight, out=grad_hidden[start : start + rows])
                if grad_weight is not None:
                    grad_weight.addmm_(grad.t(), piece)
        ctx.grads = grad_hidden, grad_weight
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale what the forward pass made."""
        scaled = (None if made is None else made.mul_(grads[0]) for made in ctx.grads)
        ctx.grads = None, None
        return (*scaled, None, None, None)
