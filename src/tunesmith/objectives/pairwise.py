"""Pairwise preference: minus the sum of log sigma(r_w - r_l - m), w the preferred one (Stiennon et al. 2020, section 3.2).

The paper's figure lacks the minus sign. m is a margin (Touvron et al. 2023, equation 2); label smoothing takes a share e of
judgements to be the wrong way round; centring adds c (r_w + r_l)^2, without which rewards may drift by any constant
(Eisenstein et al. 2023, equation 2).
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample


def loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margin: torch.Tensor | float = 0.0,
    label_smoothing: float = 0.0,
    centring: float = 0.0,
    weight: torch.Tensor | float = 1.0,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over pairs, nats.

    Args:
        chosen, rejected: [N] rewards of the preferred completions and of the others.
        margin: [N] or one number that a preference has to exceed. label_smoothing: e. centring: c.
        weight: [N] or one number, how much each pair counts.

    Returns:
        The sum (scalar) and {"correct": pairs in which the preferred completion has the larger reward}.
    """
    difference = chosen - rejected
    log_sigma = torch.nn.functional.logsigmoid
    kept = log_sigma(difference - margin)
    turned = log_sigma(margin - difference)
    total = -((1 - label_smoothing) * kept + label_smoothing * turned) + centring * (chosen + rejected) ** 2
    return (weight * total).sum(), {"correct": float((weight * (difference.detach() > 0)).sum())}


def evaluate(chosen: Any, rejected: Any, margin: float, label_smoothing: float, centring: float) -> float:
    """Compute the loss of plain lists, for the worked example."""
    w, r = (torch.tensor(x, dtype=torch.float64) for x in (chosen, rejected))
    return float(loss(w, r, margin, label_smoothing, centring)[0])


def worked_example() -> WorkedExample:
    """Two pairs, apart by 1.7 and by nothing."""
    how = "log(1 + e^-1.7) = .167786 (methods, section 21) plus log 2 = .693147, and .01 ((1.7 + 0)^2 + (1 + 1)^2) = .0689"
    inputs = {"chosen": [1.7, 1.0], "rejected": [0.0, 1.0], "margin": 0.0, "label_smoothing": 0.0, "centring": 0.01}
    # Turned round, as by the missing minus sign.
    return WorkedExample(inputs, 0.929833, how, wrong={**inputs, "chosen": [0.0, 1.0], "rejected": [1.7, 1.0]})
