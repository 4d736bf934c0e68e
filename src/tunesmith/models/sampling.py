"""From logits to the next token: greedy, or drawn with a random number of the request's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_BLOCK = 256
_LIKELIEST = 512


def choose(
    logits: torch.Tensor, allowed: torch.Tensor, temperature: float, top_p: float, generators: Sequence[torch.Generator]
) -> tuple[list[int], list[float]]:
    """Choose one token a row.

    Args:
        logits: [B, V], float32. allowed: the same with minus infinity where a token must not come.
        temperature: 0 = the largest logit.
        top_p: draw from the smallest set of tokens with this much probability (Holtzman et al. 2020, section 3.1).
        generators: one a row; a draw takes one number from it.

    Returns:
        B token ids, and their log-probabilities (nats) after temperature and before `top_p`; not finite where logits are not.
    """
    if temperature == 0:
        chosen = allowed.max(-1).indices
        return chosen.tolist(), (logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)).tolist()
    largest = logits.amax(-1, keepdim=True)
    weights = _tempered(logits - largest, temperature).exp_()
    total = _sum(weights)
    if allowed is not logits:
        # Among few allowed tokens the likeliest may be far below the likeliest of all.
        weights = _tempered(allowed - allowed.amax(-1, keepdim=True), temperature).exp_()
    if not bool(torch.isfinite(total).all()):  # any token will do: its log-probability says what is wrong
        weights = weights.masked_fill(~torch.isfinite(total)[:, None], 1.0)
    points = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators]).to(logits.device)
    chosen = _nucleus(weights, top_p, points) if top_p < 1 else _inverted(weights, points)
    picked = (logits.gather(-1, chosen[:, None])[:, 0] - largest[:, 0]).double() / temperature - total.log()
    return chosen.tolist(), picked.tolist()


def _tempered(differences: torch.Tensor, temperature: float) -> torch.Tensor:
    return differences if temperature == 1 else differences.div_(temperature)


def _sum(weights: torch.Tensor) -> torch.Tensor:
    """Sum [B, V] over V in single precision block by block, and in double over the blocks."""
    return _blocks(weights).sum(-1).double().sum(-1)


def _blocks(weights: torch.Tensor) -> torch.Tensor:
    rest = -weights.shape[-1] % _BLOCK
    return (torch.nn.functional.pad(weights, (0, rest)) if rest else weights).view(len(weights), -1, _BLOCK)


def _inverted(weights: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution of weights [B, V] at points [B] in [0, 1): in double precision, block by block."""
    blocks = _blocks(weights)
    # A few hundred numbers lose nothing that matters in single precision; all together they would.
    ends = blocks.sum(-1).double().cumsum(-1)
    point = points[:, None] * ends[:, -1:]
    which = _first_beyond(ends, point)
    before = torch.nn.functional.pad(ends, (1, 0)).gather(-1, which)
    inside = blocks.gather(1, which[..., None].expand(-1, -1, _BLOCK))[:, 0].double().cumsum(-1)
    return (which * _BLOCK + _first_beyond(inside, point - before))[:, 0]


def _first_beyond(ends: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """Return [B, 1] the first place of rising ends [B, N] beyond point [B, 1], which rounding may have put past the last."""
    below = torch.nextafter(ends[:, -1:], torch.zeros_like(ends[:, -1:]))
    return torch.searchsorted(ends, torch.minimum(point, below), right=True)


def _nucleus(weights: torch.Tensor, top_p: float, points: torch.Tensor) -> torch.Tensor:
    """Draw from the nucleus of each row; a few hundred tokens nearly always hold it, and all are sorted where they do not."""
    total = _sum(weights)[:, None]
    count = min(_LIKELIEST, weights.shape[-1])
    ordered, index = weights.topk(count)
    if count < weights.shape[-1] and bool((ordered.sum(-1, dtype=torch.float64) < top_p * total[:, 0]).any()):
        ordered, index = weights.sort(descending=True, stable=True)
    before = ordered.double().cumsum(-1) - ordered
    kept = ordered.masked_fill(before >= top_p * total, 0.0)
    return index.gather(-1, _inverted(kept, points)[:, None])[:, 0]
