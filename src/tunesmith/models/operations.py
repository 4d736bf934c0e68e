"""The operations a decoder block is made of, each with its backward pass written out: few passes over memory, nothing kept
that can be made again cheaply. Every one equals the plain composition of torch functions (tests/models/test_operations.py).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.autograd import Function

_BLOCK = 64
_LANES = 16


class RMSNorm(Function):
    """y = w x / sqrt(mean(x^2) + eps) over the last dimension (Zhang & Sennrich 2019, equation 4)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Normalise x [..., D] by weight [D]."""
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, inverse, weight)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """With r = 1 / rms and g' = w g: dx = r g' - x r^3 mean(g' x), dw = sum over rows of g x r."""
        (grad,) = grads
        x, inverse, weight = ctx.saved_tensors
        weighted = grad * weight
        wide = torch.promote_types(x.dtype, torch.float32)
        mean = torch.linalg.vecdot(weighted, x).unsqueeze(-1).to(wide) / x.shape[-1]
        shrink = (mean * inverse.to(wide).pow(3)).to(x.dtype)
        grad_x = weighted.mul_(inverse).addcmul_(x, shrink, value=-1)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (x * inverse).mul_(grad).flatten(0, -2).sum(0)
        return grad_x, grad_weight, None


def rms_normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return what RMSNorm does, to the bit and without its gradient, which takes as long to set up as few rows to compute."""
    return (x * _inverse_rms(x, eps)).mul_(weight)


def _inverse_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)


class Rotate(Function):
    """Rotary positions (Su et al. 2021, equation 34), and the change of layout that attention needs, in one pass.

    (a, b) -> (a cos - b sin, b cos + a sin), where a and b are the halves of a head.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int) -> torch.Tensor:
        """Rotate x [B, T, heads * D] and return it as [B, heads, T, D].

        Args:
            cos, sin: [T, D / 2], or [B, 1, T, D / 2] where each row has positions of its own.
        """
        ctx.save_for_backward(cos, sin)
        batch, length, width = x.shape
        a, b = x.view(batch, length, heads, 2, -1).permute(3, 0, 2, 1, 4)
        out = x.new_empty(batch, heads, length, width // heads)
        out_a, out_b = out.chunk(2, -1)
        torch.mul(a, cos, out=out_a).addcmul_(b, sin, value=-1)
        torch.mul(b, cos, out=out_b).addcmul_(a, sin)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """Rotate back."""
        (grad,) = grads
        cos, sin = ctx.saved_tensors
        batch, heads, length, width = grad.shape
        out = grad.new_empty(batch, length, heads, 2, width // 2)
        a, b = grad.chunk(2, -1)
        out_a, out_b = out.permute(3, 0, 2, 1, 4)
        out_a.copy_(a).mul_(cos).addcmul_(b, sin)
        out_b.copy_(b).mul_(cos).addcmul_(a, sin, value=-1)
        return out.view(batch, length, heads * width), None, None, None


class CausalAttention(Function):
    """softmax(q k^T + causal mask) v (Vaswani et al. 2017, equation 1; q comes scaled), in blocks of queries.

    A block sees only the keys up to its own end, so the half of the scores above the diagonal is never made. Probabilities
    are made again in the backward pass: memory grows with the length, not its square (Dao et al. 2022, section 3.1).
    """

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, blocked: torch.Tensor | None = None) -> torch.Tensor:
        """Attend with q [M, G, T, D], where G query heads share k, v [M, T, D]; returns [M, G, T, D].

        Args:
            blocked: [B, T, T], which M / B heads each use: -inf where a token must not see an earlier one, else 0.
        """
        more = whole(q.shape[2]) - q.shape[2]
        if more:
            k, v = (torch.nn.functional.pad(x, (0, 0, 0, more)) for x in (k, v))
            blocked = None if blocked is None else torch.nn.functional.pad(blocked, (0, more))
        ctx.save_for_backward(q, k, v, blocked)
        out = torch.empty_like(q)
        for start, end, last in _blocks(q.shape[2]):
            p = _probabilities(_rows(q, start, end), k, start, end, last, blocked)
            out[:, :, start:end] = torch.bmm(p, v[:, :last]).view(*q.shape[:2], end - start, -1)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """dV = P^T dO; dS = P (dP - sum(dP P)) with dP = dO V^T; dQ = dS K; dK = dS^T Q."""
        (grad,) = grads
        q, k, v, blocked = ctx.saved_tensors
        grad_q, grad_k, grad_v, length = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v), q.shape[2]
        for start, end, last in _blocks(length):
            rows, grad_rows = _rows(q, start, end), _rows(grad, start, end)
            p = _probabilities(rows, k, start, end, last, blocked)
            grad_p = torch.bmm(grad_rows, leading(v, last).transpose(1, 2))
            grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
            grad_q[:, :, start:end] = torch.bmm(grad_s, k[:, :last]).view(*q.shape[:2], end - start, -1)
            grad_k[:, :last].baddbmm_(grad_s.transpose(1, 2), rows)
            grad_v[:, :last].baddbmm_(p.transpose(1, 2), grad_rows)
        return grad_q, grad_k[:, :length], grad_v[:, :length], None


def whole(keys: int) -> int:
    """Return to how many keys so many are padded: only then a softmax gives the same bits however many are padded."""
    return -(-keys // _LANES) * _LANES


def _blocks(length: int) -> list[tuple[int, int, int]]:
    """First and last query of each block, and how many keys it looks at."""
    ends = [min(start + _BLOCK, length) for start in range(0, length, _BLOCK)]
    return [(start, end, whole(end)) for start, end in zip(range(0, length, _BLOCK), ends, strict=True)]


def _rows(x: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """[M, G, T, D] -> [M, G * (end - start), D]."""
    return x[:, :, start:end].reshape(x.shape[0], -1, x.shape[-1])


def leading(x: torch.Tensor, last: int) -> torch.Tensor:
    """[M, T, D] -> [M, last, D] in memory of its own: of a part, a product would make a slower copy for its transpose."""
    return x[:, :last].contiguous()


def _probabilities(
    rows: torch.Tensor, keys: torch.Tensor, start: int, end: int, last: int, blocked: torch.Tensor | None
) -> torch.Tensor:
    """[M, G * (end - start), D], [M, T, D] -> [M, G * (end - start), last], causal."""
    scores = torch.bmm(rows, leading(keys, last).transpose(1, 2))
    scores.view(len(rows), -1, end - start, last)[..., start:] += _future(end - start, last - start, rows.dtype, rows.device)
    if blocked is not None:
        per_row = scores.view(len(blocked), -1, end - start, last)
        per_row += blocked[:, None, start:end, :last]
    return torch.softmax(scores, -1)


@cache
def _future(queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.full((queries, keys), -torch.inf, dtype=dtype, device=device).triu_(1)


class SwiGLU(Function):
    """silu(gate) up (Shazeer 2020, equation 5 without its matrices)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Multiply elementwise; the activation is made again in the backward pass."""
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """d up = g silu(gate); d gate = g up silu'(gate)."""
        (grad,) = grads
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), torch.nn.functional.silu(gate).mul_(grad)


class TakeRows(Function):
    """Pick different rows by number; the plain operation's backward pass adds, which distinct rows do not need."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """x [N, D], index [M] without repetition -> [M, D]."""
        ctx.save_for_backward(index)
        ctx.rows = len(x)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Put every row back where it came from."""
        (index,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.rows, grads[0].shape[1]).index_copy_(0, index, grads[0]), None


class SpreadRows(Function):
    """The opposite of TakeRows: put rows at different places of a larger tensor of zeros."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor, rows: int) -> torch.Tensor:
        """x [M, D], index [M] without repetition -> [rows, D]."""
        ctx.save_for_backward(index)
        return x.new_zeros(rows, x.shape[1]).index_copy_(0, index, x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Pick them again."""
        (index,) = ctx.saved_tensors
        return grads[0].index_select(0, index), None, None


class LogProbs(Function):
    """log softmax(logits) at one id a row; what is as large as the logits is kept once, and becomes their gradient."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Pick log-probabilities [N], float32 or better, from logits [N, V] at ids [N]."""
        # A copy even where the logits are wide enough already, for it is worked on in place.
        weights = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        weights.sub_(weights.amax(-1, keepdim=True))
        picked = weights.gather(-1, ids[:, None])[:, 0].clone()
        total = weights.exp_().sum(-1)
        ctx.save_for_backward(weights, total, ids)
        ctx.dtype = logits.dtype
        return picked - total.log()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """d logits = g (onehot - softmax)."""
        weights, total, ids = ctx.saved_tensors
        grad = weights.mul_((-grads[0] / total)[:, None])
        grad[torch.arange(len(ids), device=ids.device), ids] += grads[0]
        return grad.to(ctx.dtype), None
