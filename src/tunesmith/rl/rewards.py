"""From a score to rewards: -beta (log pi - log ref) a token, the score on the last one (Ziegler et al. 2019, section 2.2)."""

from __future__ import annotations

import torch


def penalised(
    scores: torch.Tensor, logprobs: torch.Tensor, reference: torch.Tensor, loss_mask: torch.Tensor, beta: float
) -> torch.Tensor:
    """Return the reward of each token.

    Args:
        scores: [B] of whole completions. logprobs, reference: [B, T] of the sampled tokens, nats.
        loss_mask: [B, T] True at a completion's tokens; the score goes to the last of them, never to padding.
        beta: price of a nat of divergence.

    Returns:
        [B, T], 0 outside the mask.
    """
    rewards = torch.where(loss_mask, -beta * (logprobs - reference), 0.0)
    last = loss_mask.shape[1] - 1 - loss_mask.flip(1).to(torch.int8).argmax(1)
    return rewards.scatter_add(1, last[:, None], torch.where(loss_mask.any(1), scores, 0.0)[:, None].to(rewards.dtype))


def whitened(values: torch.Tensor, loss_mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
    """Divide by the standard deviation over the mask, the population's as in the published code; 0 outside the mask.

    Args:
        values, loss_mask: [B, T]. shift_mean: bring the mean to 0 too (advantages); else it stays (rewards).
    """
    inside = values[loss_mask]
    mean, deviation = inside.mean(), inside.var(unbiased=False).add(1e-8).sqrt()
    scaled = (values - mean) / deviation + (0.0 if shift_mean else mean)
    return torch.where(loss_mask, scaled, 0.0)


def gain_and_bias(rewards: torch.Tensor, mean: float = 0.0, deviation: float = 1.0) -> tuple[float, float]:
    """Return g and b such that g r + b has this mean and (population) standard deviation over samples of a policy.

    Ziegler et al. set them on samples of the reference, before and after the reward model is trained.

    Args:
        rewards: [N], not all equal.
    """
    gain = deviation / float(rewards.std(unbiased=False))
    return gain, mean - gain * float(rewards.mean())
