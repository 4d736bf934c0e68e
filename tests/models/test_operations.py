"""Every operation equals its plain composition, and every backward pass its forward pass's finite differences (in float64)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tunesmith.models import operations
from tunesmith.models.operations import CausalAttention, LogProbs, RMSNorm, Rotate, SpreadRows, SwiGLU, TakeRows

Tensor = torch.Tensor


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Float64 numbers that want a gradient."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def plain_attention(q: Tensor, k: Tensor, v: Tensor, blocked: Tensor | None = None) -> Tensor:
    """The formula, with every score and a mask."""
    length = q.shape[2]
    scores = torch.einsum("mgtd,msd->mgts", q, k)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    if blocked is not None:
        scores = scores + blocked.repeat_interleave(len(q) // len(blocked), 0)[:, None]
    return torch.einsum("mgts,msd->mgtd", scores.masked_fill(future, -torch.inf).softmax(-1), v)


def plain_rotation(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """As matrices: every pair (a, b) times [[cos, -sin], [sin, cos]]."""
    batch, length, _ = x.shape
    pairs = x.view(batch, length, heads, 2, -1).permute(0, 2, 1, 4, 3)
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    turned = torch.einsum("...tdij,...htdj->...htid", turn.squeeze(1) if turn.ndim > 4 else turn, pairs)
    return turned.reshape(batch, heads, length, -1)


angles = torch.linspace(0, 5, 7 * 4, dtype=torch.float64).view(7, 4)
two_angles = torch.stack([angles, angles[[0, 1, 2, 3, 2, 3, 4]]])[:, None]
# In the second row tokens 4 to 6 do not see tokens 2 and 3.
unseen = torch.zeros(2, 7, 7, dtype=torch.float64)
unseen[1, 4:, 2:4] = -torch.inf
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Any, ...]]] = {
    "norm": (
        RMSNorm.apply,
        lambda x, w, eps: w * x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt(),
        (drawn(3, 5, 8), drawn(8, seed=1), 1e-2),
    ),
    "rotate": (Rotate.apply, plain_rotation, (drawn(2, 7, 3 * 8), angles.cos(), angles.sin(), 3)),
    "attention": (CausalAttention.apply, plain_attention, (drawn(2, 3, 7, 4), drawn(2, 7, 4, seed=1), drawn(2, 7, 4, seed=2))),
    "rotate-rows": (Rotate.apply, plain_rotation, (drawn(2, 7, 3 * 8), two_angles.cos(), two_angles.sin(), 3)),
    "attention-blocked": (
        CausalAttention.apply, plain_attention, (drawn(4, 3, 7, 4), drawn(4, 7, 4, seed=1), drawn(4, 7, 4, seed=2), unseen),
    ),
    "swiglu": (SwiGLU.apply, lambda g, u: g * torch.sigmoid(g) * u, (drawn(4, 6), drawn(4, 6, seed=1))),
    "take": (TakeRows.apply, lambda x, i: x[i], (drawn(6, 3), torch.tensor([5, 0, 2]))),
    "spread": (
        SpreadRows.apply,
        lambda x, i, n: torch.zeros(n, x.shape[1], dtype=x.dtype).index_put((i,), x),
        (drawn(3, 2), torch.tensor([4, 0, 2]), 6),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven positions are three blocks of three, the last one short."""
    monkeypatch.setattr(operations, "_BLOCK", 3)


@pytest.mark.parametrize("name", CASES)
def test_it_equals_the_plain_composition(name: str) -> None:
    ours, plain, arguments = CASES[name]
    assert torch.allclose(ours(*arguments), plain(*arguments), rtol=1e-10, atol=1e-10)
    first, *others = arguments
    # The control: other input, other output.
    assert isinstance(first, Tensor)
    assert not torch.allclose(ours(first * 1.01 + 0.01, *others), plain(*arguments), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_its_backward_pass_is_its_derivative(name: str) -> None:
    ours, _, arguments = CASES[name]
    assert torch.autograd.gradcheck(ours, arguments)


class _Wrong(CausalAttention):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Off by a hundredth in one of three."""
        q, k, v, _ = CausalAttention.backward(ctx, *grads)
        return q, k * 1.01, v, None


def test_a_wrong_derivative_would_be_seen() -> None:
    assert not torch.autograd.gradcheck(_Wrong.apply, CASES["attention"][2], raise_exception=False)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_attention_is_causal_at_every_length(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_BLOCK", 64)
    q, k, v = drawn(1, 2, length, 8), drawn(1, length, 8, seed=1), drawn(1, length, 8, seed=2)
    assert torch.allclose(CausalAttention.apply(q, k, v), plain_attention(q, k, v), rtol=1e-9, atol=1e-9)
    seen = torch.autograd.grad(CausalAttention.apply(q, k, v)[0, :, length // 2].sum(), v)[0][0].abs().sum(-1)
    assert bool((seen[: length // 2 + 1] > 0).all())
    assert bool((seen[length // 2 + 1 :] == 0).all())


def test_reduced_precision_is_as_close_as_the_plain_composition() -> None:
    """bfloat16 against float64: no farther off than the formula computed in bfloat16, by more than a tenth."""
    q, k, v = drawn(3, 3, 100, 16), drawn(3, 100, 16, seed=1), drawn(3, 100, 16, seed=2)
    exact = plain_attention(q, k, v)
    low = [t.bfloat16() for t in (q, k, v)]
    ours, plain = CausalAttention.apply(*low), plain_attention(*low)
    assert 0 < (ours - exact).norm() < 1.1 * (plain - exact).norm()


def test_log_probabilities_and_their_gradient_are_those_of_the_plain_composition() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 11, dtype=torch.float64, requires_grad=True)
    ids, weights = torch.tensor([0, 10, 3, 3, 7]), torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    plain = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    (expected,) = torch.autograd.grad((plain * weights).sum(), logits)
    own = LogProbs.apply(logits, ids)
    (found,) = torch.autograd.grad((own * weights).sum(), logits)
    assert torch.allclose(own, plain, atol=1e-12)
    assert torch.allclose(found, expected, atol=1e-12)
    assert not torch.allclose(found, expected[[1, 0, 2, 3, 4]], atol=1e-3)
