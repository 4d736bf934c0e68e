"""The language-modelling loss of a batch, with vocabulary logits made only where a token counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import Function

from tunesmith.core.levers import on
from tunesmith.models.decoder import before, hidden_states
from tunesmith.models.new_tokens import HeadAndRows

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
    hidden = hidden_states(model, ids, lengths, before(loss_mask), activation_checkpointing)
    return loss_of_hidden(model, hidden, ids[:, 1:][loss_mask[:, 1:]], objective)


def loss_of_hidden(
    model: Any, hidden: torch.Tensor, targets: torch.Tensor, objective: Objective
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the objective summed over hidden states [N, D], and its stats summed likewise.

    Args:
        targets: [N, ...], for the objective; of each piece of the logits it gets the rows that belong to it.
    """
    head: Any = model.get_output_embeddings()
    plain = type(head) is torch.nn.Linear and head.bias is None
    if not on("head") or not (plain or isinstance(head, HeadAndRows)):
        return objective(head(hidden), targets)
    stats: dict[str, float] = {}
    made: Any = head
    weights = (made.weight, None) if plain else (made.weight[: made.first], made.new.weight)
    weight, new = (w if w is None or torch.is_grad_enabled() else w.detach() for w in weights)
    return _InPieces.apply(hidden, weight, new, targets, objective, stats), stats


class _InPieces(Function):
    """Logits and their gradients, piece by piece in the forward pass: memory for one piece only, and nothing made twice."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, new: torch.Tensor | None, targets: torch.Tensor,
        objective: Objective, stats: dict[str, float],
    ) -> torch.Tensor:  # fmt: skip
        """hidden [N, D], weight [V, D], new [W, D] or none, below weight, targets [N, ...] -> sum over N; adds up the stats."""
        parts = [weight] if new is None else [weight, new]
        of_hidden, of_parts = ctx.needs_input_grad[0], ctx.needs_input_grad[1:3]
        grad_hidden = torch.empty_like(hidden) if of_hidden else None
        grads = [torch.zeros_like(part) if wanted else None for part, wanted in zip(parts, of_parts, strict=False)]
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        sizes = [len(part) for part in parts]
        rows = max(_BYTES_OF_LOGITS // (4 * sum(sizes)), 1)
        for start in range(0, len(hidden), rows):
            piece = hidden[start : start + rows]
            made = [torch.nn.functional.linear(piece, part) for part in parts]
            logits = made[0] if new is None else torch.cat(made, -1)
            with torch.set_grad_enabled(any(ctx.needs_input_grad)):
                loss, counts = objective(logits.requires_grad_(any(ctx.needs_input_grad)), targets[start : start + rows])
            total += loss.detach()
            for key, value in counts.items():
                stats[key] = stats.get(key, 0.0) + value
            if not any(ctx.needs_input_grad):
                continue
            (grad,) = torch.autograd.grad(loss, logits)
            for number, part in enumerate(grad.split(sizes, -1)):
                if grad_hidden is not None and number == 0:
                    torch.mm(part, weight, out=grad_hidden[start : start + rows])
                elif grad_hidden is not None:
                    grad_hidden[start : start + rows].addmm_(part, parts[number])
                if (wanted := grads[number]) is not None:
                    wanted.addmm_(part.t(), piece)
        ctx.grads = grad_hidden, grads[0], grads[1] if len(grads) > 1 else None
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale what the forward pass made."""
        scaled = (None if made is None else made.mul_(grads[0]) for made in ctx.grads)
        ctx.grads = None, None, None
        return (*scaled, None, None, None)
