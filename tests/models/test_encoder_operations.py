"""An encoder's operations equal their plain compositions, and their backward passes the finite differences (in float64)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tunesmith.models import encoder_operations
from tunesmith.models.encoder_operations import Attention, Dropout, LookUp, drop_mask

Tensor = torch.Tensor


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Float64 numbers that want a gradient."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, heads: int, keep: Tensor | None = None) -> Tensor:
    """The formula, head by head; keep = what weights are multiplied with."""
    split = [x.view(*x.shape[:2], heads, -1) for x in (q, k, v)]
    scores = torch.einsum("bshd,bthd->bhst", *split[:2]) / split[0].shape[-1] ** 0.5
    weights = (scores if bias is None else scores + bias[:, None, None]).softmax(-1)
    return torch.einsum("bhst,bthd->bshd", weights if keep is None else weights * keep, split[2]).flatten(2)


BIAS = torch.zeros(2, 5, dtype=torch.float64)
BIAS[0, 3:] = -torch.inf
Q, K, V = drawn(2, 3, 8), drawn(2, 5, 8, seed=1), drawn(2, 5, 8, seed=2)


@pytest.mark.parametrize("bias", [None, BIAS], ids=["all", "padded"])
def test_attention_is_the_formula_and_its_derivative(bias: Tensor | None) -> None:
    ours: Callable[..., Tensor] = lambda q, k, v: Attention.apply(q, k, v, bias, 2, 0.0)  # noqa: E731
    assert torch.allclose(ours(Q, K, V), plain_attention(Q, K, V, bias, 2), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(ours, (Q, K, V))
    # The controls: another number of heads; padding that is seen.
    assert not torch.allclose(ours(Q, K, V), plain_attention(Q, K, V, bias, 1))
    assert bias is None or not torch.allclose(ours(Q, K, V), plain_attention(Q, K, V, None, 2))


def test_attention_drops_weights_and_knows_the_derivative() -> None:
    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(3)
        out: Any = Attention.apply(q, k, v, BIAS, 2, 0.4)
        return out

    torch.manual_seed(3)
    mask, scale = drop_mask(torch.Size((4, 3, 5)), 0.4, torch.float64)
    keep = -mask.view(2, 2, 3, 5).double() * scale
    assert 0 < float((keep == 0).double().mean()) < 1
    assert torch.allclose(ours(Q, K, V), plain_attention(Q, K, V, BIAS, 2, keep), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(ours, (Q, K, V))


class _Wrong(Attention):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Off by a hundredth in one of three."""
        q, k, v, *rest = Attention.backward(ctx, *grads)
        assert k is not None
        return q, k * 1.01, v, *rest


def test_a_wrong_derivative_would_be_seen() -> None:
    assert not torch.autograd.gradcheck(lambda q: _Wrong.apply(Q, q, V, None, 2, 0.0), (K,), raise_exception=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_zeroes_a_share_p_and_keeps_the_mean(dtype: torch.dtype, p: float) -> None:
    x = torch.ones(400, 500, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    y: Any = Dropout.apply(x, p)
    kept = y.detach() != 0
    # 200,000 draws: five standard deviations of a share are below 0.006.
    assert abs(1 - float(kept.double().mean()) - p) < 0.006
    assert bool((kept.double().mean(0) > 0).all())
    assert bool((kept.double().mean(1) > 0).all())
    assert torch.allclose(
        y.detach()[kept].double(), torch.tensor(1 / (1 - p), dtype=torch.float64), rtol=4e-3 if dtype.itemsize == 2 else 1e-4
    )
    y.backward(torch.ones_like(x))
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_dropout_follows_from_torchs_seed_alone() -> None:
    def of(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
        torch.manual_seed(seed)
        one: Any = Dropout.apply(torch.ones(30, 30, dtype=dtype), 0.3)
        two: Any = Dropout.apply(torch.ones(30, 30, dtype=dtype), 0.3)
        return torch.stack([one, two]) != 0

    assert torch.equal(of(1), of(1))
    assert torch.equal(of(1), of(1, torch.bfloat16))
    assert not torch.equal(of(1), of(2))
    assert not torch.equal(of(1)[0], of(1)[1])


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.1, 0.25, 0.999, 1.0])
def test_the_scale_belongs_to_the_share_that_is_drawn(p: float) -> None:
    """All 2^15 numbers that can be drawn, once each: a share of exactly 1 - 1 / scale is dropped."""
    every = torch.arange(2**15, dtype=torch.int16).numpy().view("uint64")
    drawn_in_order = lambda seed: type("Drawn", (), {"random_raw": lambda self, n: every.copy()})()  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_operations.np.random, "SFC64", drawn_in_order)
        mask, scale = drop_mask(torch.Size((2**15,)), p, torch.float32)
    dropped = float((mask == 0).double().mean())
    assert scale == 1 / (1 - dropped)
    assert abs(dropped - p) <= 2**-15
    assert set(mask.tolist()) <= {0, -1}


def test_looking_up_adds_gradients_of_the_same_token() -> None:
    table, ids = drawn(6, 3), torch.tensor([4, 1, 4, 4, 2])
    assert torch.autograd.gradcheck(lambda t: LookUp.apply(t, ids, None), (table,))
    (grad,) = torch.autograd.grad(LookUp.apply(table, ids, 1).sum(), table)
    assert grad[:, 0].tolist() == [0, 0, 1, 0, 3, 0]


def test_gradients_of_frequent_tokens_are_not_lost_in_reduced_precision() -> None:
    """300 ones: bfloat16 cannot count beyond 256, since the next number it knows is 258."""
    table = torch.zeros(4, 2, dtype=torch.bfloat16, requires_grad=True)
    ids = torch.full((300,), 2)
    (grad,) = torch.autograd.grad(LookUp.apply(table, ids, None).sum(), table)
    assert grad[2].tolist() == [300, 300]
    (plain,) = torch.autograd.grad(torch.nn.functional.embedding(ids, table).sum(), table)
    assert plain[2, 0] == 256
