"""The mean loss of a model on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunesmith.core.records import Encoded
from tunesmith.data.collate import micro_batches
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM
from tunesmith.objectives import causal_lm

_TOKENS = 2048


def mean_loss(lm: LM, rows: Sequence[Encoded]) -> float:
    """Return the negative log-likelihood per counted token, nats."""
    total = count = 0.0
    with torch.inference_mode():
        for batch in micro_batches(rows, _TOKENS):
            nll, _ = summed_loss(lm.model, *batch.tensors(lm.device), causal_lm.loss)
            total, count = total + float(nll), count + int(batch.loss_mask[:, 1:].sum())
    return total / max(count, 1)
