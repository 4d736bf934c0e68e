"""The diagonal Fisher information of a model's own answers, which EWC weighs weights by (Kirkpatrick et al. 2017).

    F_i = E over texts x, y ~ p(y|x) of (d log p(y|x) / d w_i)^2

The gradient is squared per example: the square of a batch's gradient would mix examples. Labels are drawn from the model;
with the labels of the data it would be the "empirical Fisher", which is another thing (Kunstner et al. 2019). Here F is that
of one predicted token, as the loss of a training is: the sum over examples is divided by the tokens that counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from tunesmith.core.progress import Progress
from tunesmith.core.records import Encoded
from tunesmith.core.seeds import derive
from tunesmith.data.collate import collate
from tunesmith.train.engines.local import LossOf


def sampled(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the summed negative log-likelihood, nats, of labels drawn from the model itself.

    Args:
        logits: [N, V]. targets: [N], not looked at.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    drawn = torch.multinomial(logits.detach().softmax(-1), 1)[:, 0]
    return torch.nn.functional.cross_entropy(logits, drawn, reduction="sum"), {}


def fisher_information(
    loss_of: LossOf, parameters: Mapping[str, torch.nn.Parameter], rows: Sequence[Encoded], seed: int
) -> dict[str, torch.Tensor]:
    """Return the diagonal of the Fisher information for each parameter, float32 and shaped as it.

    Args:
        loss_of: batch -> (summed loss of labels drawn with torch's generator, stats); gradients must be those of a
            deterministic model (no dropout).
        rows: at least one, each an example.
    """
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    counted = 0
    state = torch.get_rng_state()
    with Progress("Fisher information", total=len(rows), unit="rows") as progress:
        for number, row in enumerate(rows):
            torch.manual_seed(derive(seed, "fisher", number))
            loss_of(collate([row]))[0].backward()
            for name, p in parameters.items():
                if p.grad is not None:
                    gradient = p.grad.float()
                    total[name].addcmul_(gradient, gradient)
                    p.grad = None
            counted += row.counted
            progress.advance(1)
    torch.set_rng_state(state)
    return {name: f.div_(max(counted, 1)) for name, f in total.items()}
