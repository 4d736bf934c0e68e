"""Known answers: on a bandit the best policy is pi* proportional to ref exp(r / beta), and every method finds it.

Ziegler et al. 2019, equation 2; Rafailov et al. 2023, equation 4. Eight actions, a reference that is not uniform.
"""

from collections.abc import Callable

import pytest
import torch

from tunesmith.objectives import dpo, grpo, pairwise, ppo, reinforce
from tunesmith.rl.advantages import group_relative, leave_one_out
from tunesmith.rl.kl import estimate

ACTIONS, BETA, GROUPS, GROUP = 8, 0.5, 64, 8
REFERENCE = torch.log_softmax(torch.tensor([0.0, 0.5, -0.5, 1.0, 0.2, -1.0, 0.3, 0.0]), -1)
REWARD = torch.tensor([0.0, 1.0, 0.5, -1.0, 0.3, 0.8, -0.4, 0.2])
BEST = torch.softmax(REFERENCE + REWARD / BETA, -1)

Step = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def apart(logits: torch.Tensor) -> float:
    """Total variation between a policy and the best one."""
    return 0.5 * float((torch.softmax(logits.detach(), -1) - BEST).abs().sum())


def learned(step: Step, steps: int = 300) -> torch.Tensor:
    """Learn logits from the reference on, the rate falling to zero, and return the mean of the last quarter's."""
    generator = torch.Generator().manual_seed(0)
    logits = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    kept = []
    for number in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - number / steps)
        optimizer.zero_grad()
        step(logits, generator).backward()
        optimizer.step()
        kept.append(logits.detach().clone())
    return torch.stack(kept[-steps // 4 :]).mean(0)


def sampled(
    logits: torch.Tensor, generator: torch.Generator, groups: int = 64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Actions of groups, their log-probabilities with a gradient, and their returns: reward less beta log pi / ref."""
    logp = torch.log_softmax(logits, -1)
    actions = torch.multinomial(logp.detach().exp(), GROUPS * GROUP, replacement=True, generator=generator)
    returns = REWARD[actions] - BETA * (logp.detach() - REFERENCE)[actions]
    return actions, logp[actions], returns.view(GROUPS, GROUP)


def rloo(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    _, logp, returns = sampled(logits, generator)
    return reinforce.loss(logp, leave_one_out.advantages(returns).flatten())[0] / len(logp)


def clipped(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    _, logp, returns = sampled(logits, generator)
    advantages = (returns - returns.mean()).flatten()
    return ppo.loss(logp, logp.detach(), advantages)[0] / len(logp)


def group(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    actions, logp, returns = sampled(logits, generator)
    advantages, ones = group_relative.advantages(returns).flatten(), torch.ones(len(logp))
    return grpo.loss(logp, logp.detach(), REFERENCE[actions], advantages, ones, beta=0.0)[0] / len(logp)


def preferences(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    logp = torch.log_softmax(logits, -1)
    a, b = torch.randint(ACTIONS, (2, 2048), generator=generator)
    first = torch.rand(2048, generator=generator) < torch.sigmoid(REWARD[a] - REWARD[b])
    gained = logp - REFERENCE
    chosen, rejected = torch.where(first, a, b), torch.where(first, b, a)
    return dpo.loss(gained[chosen], gained[rejected], BETA)[0] / 2048


@pytest.mark.parametrize("step", [rloo, clipped, group, preferences])
def test_each_method_finds_the_best_policy(step: Step) -> None:
    assert apart(REFERENCE) > 0.3
    assert apart(learned(step)) < 0.02


def test_a_reward_of_the_wrong_sign_does_not() -> None:
    def turned(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        _, logp, returns = sampled(logits, generator)
        return reinforce.loss(logp, -leave_one_out.advantages(returns).flatten())[0] / len(logp)

    assert apart(learned(turned, steps=60)) > 0.3


def test_divergence_in_the_loss_by_k3_has_another_optimum() -> None:
    """GRPO as published puts beta k3 into the loss: its gradient is that of KL(ref || pi), not of KL(pi || ref)."""
    logits = torch.linspace(-1, 1, ACTIONS, dtype=torch.float64).requires_grad_()
    reference = REFERENCE.double()
    logp = torch.log_softmax(logits, -1)
    # The expectation over the policy's own samples, which themselves take no gradient.
    (k3,) = torch.autograd.grad((logp.detach().exp() * estimate(logp, reference, "k3")).sum(), logits, retain_graph=True)
    (forward,) = torch.autograd.grad((reference.exp() * (reference - logp)).sum(), logits, retain_graph=True)
    (backward,) = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), logits)
    assert torch.allclose(k3, forward)
    assert not torch.allclose(k3, backward, atol=1e-2)


def test_a_reward_model_learns_rewards_up_to_a_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(ACTIONS, (2, 60_000), generator=generator)
    first = torch.rand(60_000, generator=generator) < torch.sigmoid(REWARD[a] - REWARD[b])
    chosen, rejected = torch.where(first, a, b), torch.where(first, b, a)
    rewards = torch.zeros(ACTIONS, requires_grad=True)
    optimizer = torch.optim.LBFGS([rewards], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = pairwise.loss(rewards[chosen], rewards[rejected])[0] / len(chosen)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    found = rewards.detach() - rewards.detach().mean()
    assert float((found - (REWARD - REWARD.mean())).abs().max()) < 0.08
