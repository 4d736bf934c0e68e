"""Log-probabilities of tokens with gradients: equal to the plain formula, in pieces and with every kind of output layer."""

from typing import Any

import pytest
import torch

from tunesmith.models import token_logprobs as module
from tunesmith.models.load import load
from tunesmith.models.token_logprobs import token_logprobs


def plain(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return model.get_output_embeddings()(hidden).float().log_softmax(-1)[range(len(targets)), targets]


@pytest.mark.parametrize("trained", [False, True])
def test_values_and_gradients_are_those_of_the_plain_formula(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("toy-llama", dtype="fp32").model
    weight = model.get_output_embeddings().weight.requires_grad_(trained)
    monkeypatch.setattr(module, "_BYTES_OF_LOGITS", 4 * len(weight) * 3)  # three rows a piece
    torch.manual_seed(0)
    hidden, targets = torch.randn(7, weight.shape[1]), torch.randint(len(weight), (7,))
    upstream = torch.randn(7)
    found = []
    for function in (token_logprobs, plain):
        x = hidden.clone().requires_grad_()
        weight.grad = None
        values = function(model, x, targets)
        values.backward(upstream)
        found.append((values.detach(), x.grad, weight.grad))
    for mine, theirs in zip(*found, strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.allclose(mine, theirs, atol=1e-5)
    assert not torch.allclose(found[0][1], -found[1][1], atol=1e-5)


def test_a_token_that_is_nearly_certain_keeps_its_small_gradient() -> None:
    model = load("toy-llama", dtype="fp32").model.to(torch.bfloat16)
    weight = model.get_output_embeddings().weight.requires_grad_(False)
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    target = 5
    hidden = (weight[target].float() / weight[target].float().norm() * 1.4).to(torch.bfloat16)[None]
    exact = hidden.double().requires_grad_()
    value = (exact @ weight.double().T).log_softmax(-1)[0, target]
    value.backward()
    x = hidden.clone().requires_grad_()
    token_logprobs(model, x, torch.tensor([target])).sum().backward()
    assert exact.grad is not None
    assert x.grad is not None
    assert torch.nn.functional.cosine_similarity(x.grad.double(), exact.grad).item() > 0.999


def test_nothing_is_kept_where_nothing_is_trained() -> None:
    model = load("toy-llama", dtype="fp32").model
    head = model.get_output_embeddings().weight.requires_grad_(False)
    values = token_logprobs(model, torch.randn(2, head.shape[1]), torch.tensor([1, 2]))
    assert not values.requires_grad
