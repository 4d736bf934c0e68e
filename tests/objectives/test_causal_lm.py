"""The objective's gradient is its derivative."""

import torch

from tunesmith.objectives import causal_lm


def test_the_gradient_is_the_derivative_in_double_precision() -> None:
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 4, 2, 2])
    assert torch.autograd.gradcheck(lambda x: causal_lm.loss(x, targets)[0], logits)


def test_half_precision_logits_are_summed_in_single_precision() -> None:
    logits = torch.randn(50, 300).bfloat16()
    loss, stats = causal_lm.loss(logits, torch.arange(50))
    assert loss.dtype == torch.float32
    expected = -logits.double().log_softmax(-1)[torch.arange(50), torch.arange(50)].sum()
    assert torch.allclose(loss.double(), expected, rtol=1e-5)
    assert stats["correct"] == float((logits.argmax(-1) == torch.arange(50)).sum())
