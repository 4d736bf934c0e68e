"""Ties as outcomes of their own, in methods that learn from pairs."""

from __future__ import annotations

import torch

from tunesmith.objectives import davidson, rao_kupper

_USUAL = {"davidson": 1.0, "rao-kupper": 3.0}


def tie_loss(
    kind: str, chosen: torch.Tensor, rejected: torch.Tensor, tie: torch.Tensor, strength: float | None
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return minus the log-likelihood summed over comparisons, nats, and {"correct": those whose outcome is the likeliest}.

    Args:
        kind: davidson or rao-kupper. chosen, rejected: [N] rewards. tie: [N] booleans. strength: nu or theta; None = usual.
    """
    objective = davidson if kind == "davidson" else rao_kupper
    value = chosen.new_tensor(strength or _USUAL[kind])
    return objective.loss(chosen, rejected, tie.long(), value)
