"""PPO: minus the sum of min(rho A, clip(rho, 1 - e, 1 + e) A), rho = pi(a) / pi_old(a) (Schulman et al. 2017, equation 7)."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, clip: float = 0.2
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over tokens.

    Args:
        logprobs: [N] of the tokens that were sampled, nats. old: [N] the same when they were sampled, without a gradient.
        advantages: [N]. clip: e.

    Returns:
        The sum (scalar), {"clipped": tokens whose ratio the clip holds back, "kl": sum of the estimates rho - 1 - log rho
        of KL(pi_old || pi), nats}.
    """
    difference = logprobs - old
    ratio = difference.exp()
    free, held = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    with torch.no_grad():
        stats = {"clipped": float((held < free).sum()), "kl": float((ratio - 1 - difference).sum())}
    return -torch.minimum(free, held).sum(), stats


def evaluate(ratio: Any, advantages: Any, clip: float) -> list[float]:
    """Compute the objective of each token from its ratio, for the worked example."""
    logprobs = torch.tensor(ratio, dtype=torch.float64).log()
    each = zip(logprobs, torch.tensor(advantages, dtype=torch.float64), strict=True)
    return [-float(loss(p[None], torch.zeros(1, dtype=torch.float64), a[None], clip)[0]) for p, a in each]


def worked_example() -> WorkedExample:
    """Ratios of 1.5 and .5 with advantages of both signs, e = .2."""
    how = "min(1.5, 1.2); min(-1.5, -1.2); min(.5, .8); min(-.5, -.8): the clip never helps (methods, section 23)"
    inputs = {"ratio": [1.5, 1.5, 0.5, 0.5], "advantages": [1.0, -1.0, 1.0, -1.0], "clip": 0.2}
    return WorkedExample(inputs, [1.2, -1.5, 0.5, -0.8], how, wrong={**inputs, "clip": 0.6})
