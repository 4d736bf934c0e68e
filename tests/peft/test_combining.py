"""Sums, TIES and DARE of what several adapters changed, worked by hand and against Hugging Face PEFT."""

import math

import pytest
import torch

from tunesmith.peft._combine import combine, drop_and_rescale, linear, ties, trim

CHANCE = torch.Generator()


def near(got: torch.Tensor, expected: list[float]) -> bool:
    """Whether two vectors agree."""
    return got.flatten().tolist() == pytest.approx(expected, abs=1e-6)


ONE, TWO = torch.tensor([3.0, -1.0, 0.5, 2.0]), torch.tensor([-2.0, 4.0, 0.1, 1.0])


def test_the_weighted_sum_by_hand() -> None:
    # 0.7 (3, -1, .5, 2) + 0.3 (-2, 4, .1, 1)
    assert near(linear([ONE, TWO], [0.7, 0.3]), [1.5, 0.5, 0.38, 1.7])
    assert not near(linear([ONE, TWO], [0.3, 0.7]), [1.5, 0.5, 0.38, 1.7])


def test_ties_by_hand() -> None:
    # Half of each is kept: (3, 0, 0, 2) and (-2, 4, 0, 0). Their sum (1, 4, 0, 2) elects +, +, nothing, +. With these signs
    # stand 3 | 4 | nothing | 2, each alone, so each is its own mean.
    assert near(ties([ONE, TWO], [1.0, 1.0], 0.5), [3.0, 4.0, 0.0, 2.0])
    # Without trimming the last numbers are 2 and 1, both positive: mean 1.5; the third .5 and .1: .3.
    assert near(ties([ONE, TWO], [1.0, 1.0], 1.0), [3.0, 4.0, 0.3, 1.5])
    # Weights scale what is averaged and leave the election alone: .5 x 3, 2 x 4, mean of .5 x .5 and 2 x .1, of .5 x 2 and 2.
    assert near(ties([ONE, TWO], [0.5, 2.0], 1.0), [1.5, 8.0, 0.225, 1.5])
    # Equal and opposite: no sign is elected (sgn 0 = 0), and nothing is left.
    assert near(ties([ONE, -ONE], [1.0, 1.0], 1.0), [0.0] * 4)
    # The plain mean, which interference shrinks, is something else.
    assert not near(linear([ONE, TWO], [0.5, 0.5]), [3.0, 4.0, 0.3, 1.5])


def test_trimming_keeps_the_largest_by_magnitude() -> None:
    assert trim(torch.tensor([[1.0, -5.0], [2.0, 0.5]]), 0.5).tolist() == [[0.0, -5.0], [2.0, 0.0]]
    assert trim(ONE, 1.0).tolist() == ONE.tolist()


def test_dare_drops_and_rescales() -> None:
    change = torch.arange(1.0, 40_001.0).view(200, 200) / 1000
    kept = drop_and_rescale(change, 0.2, CHANCE.manual_seed(1))
    assert torch.equal(kept[kept != 0], (change / 0.2)[kept != 0])
    share = float((kept != 0).float().mean())
    assert abs(share - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 40_000)
    # What is expected of the sum is the sum: its standard deviation is sqrt(sum delta^2 (1 - p) / p).
    assert abs(float(kept.sum() - change.sum())) < 4 * math.sqrt(float((change**2).sum()) * 0.8 / 0.2)
    assert abs(float(kept.sum() * 0.2 - change.sum())) > 4 * math.sqrt(float((change**2).sum()) * 0.8 / 0.2)
    assert torch.equal(kept, drop_and_rescale(change, 0.2, CHANCE.manual_seed(1)))
    assert not torch.equal(kept, drop_and_rescale(change, 0.2, CHANCE.manual_seed(2)))
    assert torch.equal(drop_and_rescale(change, 1.0, CHANCE.manual_seed(1)), change)


def test_each_change_is_dropped_by_its_own_draw() -> None:
    ones = torch.ones(1000)
    both = combine("dare", [ones, 10 * ones], [0.5, 1.0], 0.5, CHANCE.manual_seed(0))
    assert set(both.tolist()) == {0.0, 1.0, 20.0, 21.0}


def test_ties_and_dare_are_those_of_peft() -> None:
    from peft.utils import merge_utils

    chance = torch.Generator().manual_seed(4)
    changes = [torch.randn(12, 7, generator=chance) for _ in range(3)]
    weights = [1.0, 0.4, 2.0]
    theirs = merge_utils.ties(changes, torch.tensor(weights), 0.3)
    assert float((ties(changes, weights, 0.3) - theirs).abs().max()) < 1e-6
    assert float((ties(changes, weights, 0.5) - theirs).abs().max()) > 1e-2
    theirs = merge_utils.task_arithmetic(changes, torch.tensor(weights))
    assert float((linear(changes, weights) - theirs).abs().max()) < 1e-6
