"""The next token: inverting a cumulative distribution block by block is drawing from the distribution."""

import numpy as np
import pytest
import torch

from tunesmith.models.sampling import _inverted, choose


def chances(count: int, seed: int = 0) -> list[torch.Generator]:
    """Generators of `count` requests."""
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


@pytest.mark.parametrize("size", [3, 256, 257, 1000])
def test_inverting_is_what_numpy_does_token_by_token(size: int) -> None:
    weights = torch.rand(40, size, generator=torch.Generator().manual_seed(size)).pow(4)
    weights[:, ::3] = 0
    points = torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for row, point, found in zip(weights.numpy().astype(np.float64), points.numpy(), _inverted(weights, points), strict=True):
        ends = row.cumsum()
        assert found == np.searchsorted(ends, point * ends[-1], side="right")


def test_the_largest_point_still_finds_a_token_with_probability() -> None:
    weights = torch.zeros(2, 600)
    weights[0, 5], weights[1, 300] = 0.1, 1e-20
    last = torch.full((2,), 1.0, dtype=torch.float64)
    assert _inverted(weights, last).tolist() == [5, 300]
    assert _inverted(weights, torch.zeros(2, dtype=torch.float64)).tolist() == [5, 300]


def test_a_nucleus_wider_than_the_likeliest_tokens_is_found_too() -> None:
    logits = torch.zeros(300, 2000)  # a nucleus of 0.9 holds 1,800 of these
    found, _ = choose(logits, logits, 1.0, 0.9, chances(300))
    assert len(set(found)) > 250
    assert max(found) < 1800
    peaked = logits.index_fill(1, torch.tensor([7]), 20.0)
    assert set(choose(peaked, peaked, 1.0, 0.9, chances(300))[0]) == {7}


def test_log_probabilities_are_after_temperature_and_before_what_is_forbidden() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0]])
    allowed = torch.tensor([[0.0, 1.0, -torch.inf]])
    for temperature in (1.0, 0.5):
        [token], [logprob] = choose(logits, allowed, temperature, 1.0, chances(1))
        assert token in (0, 1)
        assert logprob == pytest.approx(float((logits[0] / temperature).log_softmax(-1)[token]), abs=1e-6)
    assert choose(logits, allowed, 0, 1.0, chances(1))[0] == [1]
    assert choose(logits, logits, 0, 1.0, chances(1))[0] == [2]
    far = torch.tensor([[0.0, 200.0]])  # what is allowed has no probability left in single precision
    assert choose(far, torch.tensor([[0.0, -torch.inf]]), 1.0, 1.0, chances(1)) == ([0], [-200.0])
