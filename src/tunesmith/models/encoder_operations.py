"""The operations of an encoder of the BERT family that torch's own are slow or coarse at, with their backward passes.

Each equals the plain composition of torch functions (tests/models/test_encoder_operations.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.autograd import Function

# Dropout draws 15 bits a number: p is met to within 1 / 2^16, and the scale belongs to the p that is met.
_BITS = 15
_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Dropout(Function):
    """Zero each number with probability p and divide the others by 1 - p (Srivastava et al. 2014, section 10).

    A mask is a whole number of all ones or all zeros, so that applying it is one `and` on the bits, whatever the precision.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, p: float) -> torch.Tensor:
        """Drop from x [...], 0 < p < 1; the random numbers follow from torch's generator."""
        mask, ctx.scale = drop_mask(x.shape, p, x.dtype)
        ctx.save_for_backward(mask)
        return masked(x, mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The same mask and scale."""
        (mask,) = ctx.saved_tensors
        return masked(grads[0], mask).mul_(ctx.scale), None


def drop_mask(shape: torch.Size, p: float, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """Return a mask as wide as `dtype`, zero with probability p and all ones otherwise, and 1 / (1 - p)."""
    dropped = min(max(round(p * 2**_BITS), 0), 2**_BITS - 1)
    # One number from torch's generator, so that whoever seeds or restores that one decides this one too.
    seed = int(torch.randint(2**62, ()))
    drawn = np.random.SFC64(seed).random_raw((shape.numel() + 3) // 4)
    drawn = torch.from_numpy(drawn.view(np.int16))[: shape.numel()].view(shape)
    # Where the drawn 15 bits are below `dropped` the difference is not negative, and its sign fills the whole number.
    mask = drawn.bitwise_and_(2**_BITS - 1).neg_().add_(dropped - 1).bitwise_right_shift_(_BITS)
    return mask.to(_WHOLE[dtype.itemsize]), 1 / (1 - dropped / 2**_BITS)


def masked(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return x [...] with zeros where the mask is zero."""
    return (x.view(mask.dtype) & mask).view(x.dtype)


class Attention(Function):
    """softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, equation 1), every token seeing every real token of its row."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, heads: int, p: float
    ) -> torch.Tensor:
        """Attend with q [B, S, H d] to k, v [B, T, H d]; returns [B, S, H d].

        Args:
            bias: [B, T], 0 where a token is real and -inf where it is padding; None = all are real.
            p: probability of dropping a weight; 0 = none.
        """
        split = [_heads(x, heads) for x in (q, k, v)]
        scale = split[0].shape[-1] ** -0.5
        if bias is None:
            scores = torch.bmm(split[0], split[1].transpose(1, 2)).mul_(scale)
        else:
            of_heads = bias[:, None, None].expand(-1, heads, 1, -1).reshape(-1, 1, bias.shape[1])
            scores = torch.baddbmm(of_heads, split[0], split[1].transpose(1, 2), alpha=scale)
        weights = torch.softmax(scores, -1)
        mask, ctx.keep = drop_mask(weights.shape, p, weights.dtype) if p else (None, 1.0)
        ctx.save_for_backward(*split, weights, mask)
        ctx.heads, ctx.scale = heads, scale
        used = weights if mask is None else masked(weights, mask)
        out = torch.bmm(used, split[2])
        return _together(out if mask is None else out.mul_(ctx.keep), heads)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """With P' = mask P / (1 - p): dV = P'^T dO; dP = mask (dO V^T) / (1 - p); dS = P (dP - sum(dP P)); dQ, dK from dS."""
        q, k, v, weights, mask = ctx.saved_tensors
        grad = _heads(grads[0], ctx.heads)
        if mask is not None:
            grad.mul_(ctx.keep)
        used = weights if mask is None else masked(weights, mask)
        grad_v = torch.bmm(used.transpose(1, 2), grad)
        grad_weights = torch.bmm(grad, v.transpose(1, 2))
        if mask is not None:
            grad_weights = masked(grad_weights, mask)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(ctx.scale)
        grad_q = torch.bmm(grad_scores, k)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q)
        return *(_together(x, ctx.heads) for x in (grad_q, grad_k, grad_v)), None, None, None


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, T, H d] -> [B H, T, d], always a copy."""
    batch, length, width = x.shape
    split = x.view(batch, length, heads, width // heads).transpose(1, 2)
    return split.clone(memory_format=torch.contiguous_format).view(batch * heads, length, width // heads)


def _together(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[B H, T, d] -> [B, T, H d]."""
    merged, length, width = x.shape
    return x.view(merged // heads, heads, length, width).transpose(1, 2).reshape(merged // heads, length, heads * width)


class LookUp(Function):
    """Rows of an embedding table; the gradients of a token that stands in many places are added up in float32 or better."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, ids: torch.Tensor, unlearned: int | None) -> torch.Tensor:
        """table [V, D], ids [N] -> [N, D]; row `unlearned` gets no gradient."""
        ctx.save_for_backward(ids)
        ctx.rows, ctx.unlearned = len(table), unlearned
        return table.index_select(0, ids)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Add up what belongs to the same row."""
        (ids,) = ctx.saved_tensors
        (grad,) = grads
        used, place = ids.unique(return_inverse=True)
        wide = torch.promote_types(grad.dtype, torch.float32)
        summed = torch.zeros(len(used), grad.shape[1], dtype=wide).index_add_(0, place, grad.to(wide))
        if ctx.unlearned is not None:
            summed[used == ctx.unlearned] = 0
        return grad.new_zeros(ctx.rows, grad.shape[1]).index_copy_(0, used, summed.to(grad.dtype)), None, None
