"""log p of given tokens with gradients, for losses that do not add up over tokens: those of preferences, which compare sums.

The gradient of log p(y | h) by h is W_y - sum_v p_v W_v, a vector as wide as h that no loss takes part in. So it is made in the
forward pass, where the logits are at hand piece by piece, and the backward pass only scales it: nothing as wide as the vocabulary
is kept, and nothing is made twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function

from tunesmith.core.levers import on

# Float32 logits of one piece, as in `models.lm_loss`.
_BYTES_OF_LOGITS = 24_000_000


def token_logprobs(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return log p(targets | hidden), nats, float32 [N].

    Args:
        hidden: [N, D] the hidden states that predict them. targets: [N] token ids.
    """
    head: Any = model.get_output_embeddings()
    if on("head") and type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad:
        return _Gathered.apply(hidden, head.weight, targets)
    return -torch.nn.functional.cross_entropy(head(hidden).float(), targets, reduction="none")


class _Gathered(Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """hidden [N, D], weight [V, D] that is not trained, targets [N] -> [N]."""
        wanted = ctx.needs_input_grad[0]
        found = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        direction = torch.empty_like(hidden) if wanted else None
        rows = max(_BYTES_OF_LOGITS // (4 * len(weight)), 1)
        for start in range(0, len(hidden), rows):
            here = slice(start, start + rows)
            logits, ids = torch.nn.functional.linear(hidden[here], weight).float(), targets[here, None]
            # In place, for every new piece of memory as wide as the vocabulary takes longer to get than to fill.
            logits.sub_(logits.amax(-1, keepdim=True))
            picked = logits.gather(1, ids)
            total = logits.exp_().sum(-1, keepdim=True)
            found[here] = (picked - total.log())[:, 0]
            if direction is not None:
                # 1 - p at the target before it is rounded: where p is near 1 the difference is all there is.
                p = logits.div_(total)
                p.scatter_add_(1, ids, p.new_full((), -1.0).expand_as(ids))
                torch.mm(p.neg_().to(weight.dtype), weight, out=direction[here])
        ctx.save_for_backward(direction)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """grads [N] -> [N, D]."""
        (direction,) = ctx.saved_tensors
        return (direction.float() * grads[0][:, None]).to(direction.dtype), None, None
