"""Rewards, whitening, KL and best-of-n have the published values, and the signs that keep a policy sane."""

import itertools
import math

import pytest
import torch

from tunesmith.objectives import davidson, dpo, kwise, pairwise, ppo, rao_kupper
from tunesmith.rl import best_of_n
from tunesmith.rl.advantages import gae, group_relative, leave_one_out
from tunesmith.rl.kl import Controller, estimate
from tunesmith.rl.rewards import gain_and_bias, penalised, whitened

ALL = torch.ones(1, 3, dtype=torch.bool)


def row(*values: float) -> torch.Tensor:
    """One completion's numbers."""
    return torch.tensor([values], dtype=torch.float64)


def test_the_score_goes_to_the_last_token_and_divergence_costs() -> None:
    # Methods, section 20: -.1 (-1 + 1.2), -.1 (-2 + 1.5), 2 - .1 (-.5 + .5).
    rewards = penalised(torch.tensor([2.0]), row(-1, -2, -0.5), row(-1.2, -1.5, -0.5), ALL, beta=0.1)
    assert rewards[0].tolist() == pytest.approx([-0.02, 0.05, 2.0])
    # The sign: saying more likely than the reference does must cost.
    more = penalised(torch.tensor([2.0]), row(-0.5, -2, -0.5), row(-1.2, -1.5, -0.5), ALL, beta=0.1)
    assert float(more.sum()) < float(rewards.sum())


def test_padding_never_gets_the_score() -> None:
    mask = torch.tensor([[False, True, True, False, False], [True, True, True, True, True], [False] * 5])
    rewards = penalised(torch.tensor([3.0, 4.0, 5.0]), torch.ones(3, 5), torch.zeros(3, 5), mask, beta=0.5)
    assert rewards[0].tolist() == [0.0, -0.5, 2.5, 0.0, 0.0]
    assert rewards[1].tolist() == [-0.5, -0.5, -0.5, -0.5, 3.5]
    assert rewards[2].tolist() == [0.0] * 5


def test_whitening_is_by_the_population() -> None:
    advantages = gae.advantages(row(-0.02, 0.05, 2.0), row(0.3, 0.1, 0.4), ALL)
    assert advantages[0].tolist() == pytest.approx([1.5565, 1.87, 1.6])
    assert whitened(advantages, ALL)[0].tolist() == pytest.approx([-0.858127, 1.402569, -0.544442], abs=1e-5)
    rewards = whitened(row(-0.02, 0.05, 2.0), ALL, shift_mean=False)
    assert rewards[0].tolist() == pytest.approx([-0.067497, 0.007276, 2.090221], abs=1e-5)
    assert float(rewards.mean()) == pytest.approx(0.676667, abs=1e-6)
    # The control: torch's own variance divides by n - 1 and gives others.
    assert float(advantages.std()) != pytest.approx(float(advantages.std(unbiased=False)), rel=0.1)


def test_whitening_does_not_see_padding() -> None:
    mask = torch.tensor([[True, True, True, False]])
    assert whitened(row(1, 2, 3, 1e6), mask)[0, :3].tolist() == pytest.approx(whitened(row(1, 2, 3), ALL)[0].tolist())


def test_gain_and_bias() -> None:
    gain, bias = gain_and_bias(torch.tensor([1.0, 2.0, 4.0, 5.0]))
    assert (gain, bias) == pytest.approx((0.632456, -1.897367), abs=1e-6)


@pytest.mark.parametrize(("kl", "beta"), [(3, 0.148464), (6, 0.15), (6.6, 0.150768), (12, 0.151536)])
def test_the_controller_follows_its_target(kl: float, beta: float) -> None:
    controller, fixed = Controller(0.15, target=6.0), Controller(0.15)
    controller.update(kl, 512)
    fixed.update(kl, 512)
    assert controller.beta == pytest.approx(beta, abs=1e-6)
    assert fixed.beta == 0.15


def test_estimates_of_kl() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    exact = float((p * (p / q).log()).sum())
    means = {k: float((p * estimate(p.log(), q.log(), k)).sum()) for k in ("k1", "k2", "k3")}
    assert exact == pytest.approx(0.025267, abs=1e-6)
    assert means == pytest.approx({"k1": 0.025267, "k2": 0.024862, "k3": 0.025267}, abs=1e-6)
    assert bool((estimate(p.log(), q.log(), "k3") >= 0).all())
    assert not bool((estimate(p.log(), q.log(), "k1") >= 0).all())


@pytest.mark.parametrize(("lam", "wanted"), [(1.0, [0.5, 0.4, 0.3]), (0.0, [0.1, 0.1, 0.3])])
def test_gae_at_its_ends(lam: float, wanted: list[float]) -> None:
    assert gae.advantages(row(0, 0, 1), row(0.5, 0.6, 0.7), ALL, 1.0, lam)[0].tolist() == pytest.approx(wanted)


def test_gae_is_the_sum_of_discounted_errors() -> None:
    torch.manual_seed(0)
    rewards, values = torch.randn(2, 3, 7, dtype=torch.float64)
    mask = torch.tensor([[True] * 7, [False, True, True, True, False, False, False], [False] * 6 + [True]])
    found = gae.advantages(rewards, values, mask, 0.9, 0.8)
    for b in range(3):
        at = mask[b].nonzero()[:, 0].tolist()
        r, v = rewards[b, at].tolist(), [*values[b, at].tolist(), 0.0]
        deltas = [r[i] + 0.9 * v[i + 1] - v[i] for i in range(len(at))]
        by_hand = [sum((0.9 * 0.8) ** j * d for j, d in enumerate(deltas[i:])) for i in range(len(at))]
        assert found[b, at].tolist() == pytest.approx(by_hand)
        assert float(found[b][~mask[b]].abs().sum()) == 0.0


def test_group_advantages_do_not_mind_a_constant() -> None:
    returns = torch.tensor([[1.0, 2.0, 6.0, 3.0], [0.0, 0.5, 0.1, 9.0]], dtype=torch.float64)
    for estimator in (leave_one_out, group_relative):
        found = estimator.advantages(returns)
        assert torch.allclose(found, estimator.advantages(returns + 5))
        assert torch.allclose(found.sum(1), torch.zeros(2, dtype=torch.float64))


def test_expected_best_of_n_is_the_mean_over_subsets() -> None:
    scores, worth = [0.3, -1.0, 2.0, 0.9, 0.1], [5.0, 1.0, -2.0, 4.0, 0.0]
    for n in range(1, 6):
        subsets = list(itertools.combinations(range(5), n))
        plain = sum(max(scores[i] for i in s) for s in subsets) / len(subsets)
        other = sum(worth[max(s, key=scores.__getitem__)] for s in subsets) / len(subsets)
        assert best_of_n.expected(scores, n) == pytest.approx(plain)
        assert best_of_n.expected(scores, n, worth) == pytest.approx(other)
    assert best_of_n.kl(1) == 0.0
    assert best_of_n.kl(16) == pytest.approx(math.log(16) - 15 / 16)
    with pytest.raises(ValueError, match="best of 6 needs 6 answers"):
        best_of_n.expected(scores, 6)


def test_outcomes_with_ties_are_a_distribution_and_swap() -> None:
    d = torch.linspace(-3, 3, 13, dtype=torch.float64)
    for entry, value in ((davidson, 0.7), (rao_kupper, 1.8)):
        parameter = torch.tensor(value, dtype=torch.float64)
        p = [[math.exp(-entry.evaluate([float(x)], [0.0], [k], value)) for k in range(3)] for x in d]
        assert [sum(three) for three in p] == pytest.approx([1.0] * 13)
        assert [three[0] for three in p] == pytest.approx([three[2] for three in reversed(p)])
        assert max(range(13), key=lambda i: p[i][1]) == 6  # a tie is likeliest between equals
        assert parameter > 0
    # Davidson keeps Luce's odds: win / lose = e^d; Rao-Kupper does not.
    odds = math.exp(davidson.evaluate([0.5], [0.0], [2], 1.0) - davidson.evaluate([0.5], [0.0], [0], 1.0))
    assert odds == pytest.approx(math.exp(0.5))
    other = math.exp(rao_kupper.evaluate([0.5], [0.0], [2], 1.5) - rao_kupper.evaluate([0.5], [0.0], [0], 1.5))
    assert abs(other - math.exp(0.5)) > 0.05
    assert [rao_kupper.evaluate([d], [0.0], [1], 1.5) for d in (0.0, 0.5, 2.0)] == pytest.approx(
        [1.609438, 1.668895, 2.453525], abs=1e-6
    )


def test_rankings_of_two_are_pairs_and_a_shift_changes_nothing() -> None:
    torch.manual_seed(1)
    w, r = torch.randn(2, 5, dtype=torch.float64)
    scores, prompts = torch.stack([w, r], 1).flatten(), torch.arange(5).repeat_interleave(2)
    ranks = torch.tensor([1, 2]).repeat(5)
    assert float(kwise.loss(scores, ranks, prompts)[0]) == pytest.approx(float(pairwise.loss(w, r)[0]))
    assert float(kwise.loss(scores + 7, ranks, prompts)[0]) == pytest.approx(float(pairwise.loss(w, r)[0]))
    assert float(pairwise.loss(w, w)[0]) == pytest.approx(5 * math.log(2))
    # 64 prompts of nine make 2,304 pairs: each prompt weighs as much as one.
    many = kwise.loss(torch.zeros(576), torch.arange(9).repeat(64), torch.arange(64).repeat_interleave(9))[0]
    assert float(many) == pytest.approx(64 * math.log(2), rel=1e-5)


def test_signs_of_gradients() -> None:
    w, r = torch.tensor([0.3], requires_grad=True), torch.tensor([0.1], requires_grad=True)
    pairwise.loss(w, r)[0].backward()
    assert w.grad is not None
    assert r.grad is not None
    assert float(w.grad) < 0 < float(r.grad)
    chosen, rejected = torch.tensor([0.3], requires_grad=True), torch.tensor([0.1], requires_grad=True)
    dpo.loss(chosen, rejected)[0].backward()
    assert chosen.grad is not None
    assert float(chosen.grad) < 0
    logprobs = torch.tensor([-1.0, -1.0], requires_grad=True)
    loss, stats = ppo.loss(logprobs, torch.tensor([-1.0, -1.0]), torch.tensor([1.0, -1.0]))
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-1.0, 1.0]
    assert stats == {"clipped": 0.0, "kl": 0.0}
