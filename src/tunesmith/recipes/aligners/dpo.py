"""DPO: preferred completions gain on the others against the reference, by the policy's own odds (Rafailov et al. 2023, eq. 7).

Ties are left out as published, or make outcomes of their own: DPO-D and DPO-RK (Chen et al. 2024), in which a tie pulls a pair
together in place of being a coin thrown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from tunesmith.core.config import Config

if TYPE_CHECKING:
    import torch

    from tunesmith.recipes._align.judged import Judged

LEARNS_FROM = "pairs"
HAS_REFERENCE = True


class Parameters(Config):
    """What DPO can be told."""

    beta: float = Field(0.1, gt=0, allow_inf_nan=False)
    """how much leaving the reference costs"""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """share of judgements taken to be the wrong way round (conservative DPO)"""
    ties: Literal["drop", "davidson", "rao-kupper"] = "drop"
    """what a tie is: nothing, or an outcome with a probability of its own"""
    tie_strength: float | None = Field(None, gt=0, allow_inf_nan=False)
    """how common ties are: nu of Davidson, absent = 1; theta > 1 of Rao and Kupper, absent = 3"""
    sft_weight: float = Field(0.0, ge=0, allow_inf_nan=False)
    """of -log p a token of the preferred completion, which keeps it likely"""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.ties == "drop" and self.tie_strength is not None:
            raise ValueError("tie_strength needs ties = davidson or rao-kupper")
        if self.ties == "rao-kupper" and self.tie_strength is not None and self.tie_strength <= 1:
            raise ValueError("tie_strength is theta of Rao and Kupper, which is more than 1")
        if self.ties != "drop" and self.label_smoothing:
            raise ValueError("label_smoothing belongs to ties = drop")
        return self


def loss(it: Judged, parameters: Parameters) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss summed over comparisons, nats, and {"correct": comparisons that the policy decides alike}."""
    from tunesmith.objectives import dpo
    from tunesmith.recipes._align.ties import tie_loss

    gains = it.gains
    chosen, rejected = gains[it.first], gains[it.second]
    if parameters.ties == "drop":
        total, stats = dpo.loss(chosen, rejected, parameters.beta, parameters.label_smoothing)
    else:
        rewards = parameters.beta * chosen, parameters.beta * rejected
        total, stats = tie_loss(parameters.ties, *rewards, it.tie, parameters.tie_strength)
    if parameters.sft_weight:
        likely = (it.logprobs / it.lengths)[it.first][~it.tie]
        total = total - parameters.sft_weight * likely.sum()
    return total, stats
