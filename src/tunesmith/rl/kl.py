"""How far a policy is from its reference, and what keeps it there (Ziegler et al. 2019, 2.2; Schulman 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Estimator = Literal["k1", "k2", "k3"]


def estimate(logprobs: torch.Tensor, reference: torch.Tensor, estimator: Estimator = "k1") -> torch.Tensor:
    """Estimate KL(pi || ref) at each token that pi sampled, nats.

    With x = log ref - log pi: k1 = -x has no bias and may be negative, k2 = x^2 / 2 has little variance and a bias,
    k3 = e^x - 1 - x has neither bias nor negative values.

    Args:
        logprobs, reference: log-probabilities of the same tokens, of any shape.
    """
    x = reference - logprobs
    return {"k1": -x, "k2": x**2 / 2, "k3": torch.expm1(x) - x}[estimator]


@dataclass
class Controller:
    """beta, and how it follows a target: beta <- beta (1 + clip((KL - target) / target, -.2, .2) n / horizon).

    Attributes:
        beta: price of a nat. target: KL a completion that is aimed at, nats; None = beta stays as it is.
        horizon: completions over which an error of .2 changes beta by .2 of itself.
    """

    beta: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, kl: float, completions: int) -> None:
        """Follow what was measured on so many completions.

        Args:
            kl: mean KL of a whole completion, nats.
        """
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.beta *= 1 + error * completions / self.horizon
