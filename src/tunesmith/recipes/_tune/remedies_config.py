"""What a training can be told against forgetting, apart from its work so that a configuration loads without torch."""

from __future__ import annotations

from pydantic import Field, field_validator

from tunesmith.recipes._training_run import TrainingRun


class Remedies(TrainingRun):
    """How to train, and what keeps old abilities meanwhile."""

    replay: float = 0.0
    """share of the rows of every epoch that come from replay_data, against forgetting; 0 = none"""
    replay_data: str = "general"
    """what is replayed, and what EWC looks at: general (embedded texts), tasks and files, separated by commas"""
    l2_sp: float = Field(0.0, ge=0, allow_inf_nan=False)
    """pull of weights to where they began, w -= learning rate * l2_sp * (w - w0); takes the place of weight_decay; try 6000"""
    ewc: float = Field(0.0, ge=0, allow_inf_nan=False)
    """weight of elastic weight consolidation, (ewc / 2) F (w - w0)^2, F how much a weight matters on replay_data; try 1e5"""
    wise_ft: int | None = None
    """after training, try so many steps from the old weights to the new and keep the mix that forgets least of those with 90 %
    of the gain on validation rows; full and LoRA; try 10"""

    @field_validator("replay")
    @classmethod
    def _share(cls, value: float) -> float:
        if not 0 <= value < 1:
            raise ValueError("a share of the rows, from 0 to below 1, for example 0.2")
        return value

    @field_validator("wise_ft")
    @classmethod
    def _some_steps(cls, value: int | None) -> int | None:
        if value is not None and not 1 <= value <= 100:
            raise ValueError("this evaluates no mix of weights: give 1 to 100 steps (10 tries alpha = 0, 0.1, ..., 1)")
        return value

    @field_validator("replay_data")
    @classmethod
    def _something(cls, value: str) -> str:
        if not any(name.strip() for name in value.split(",")):
            raise ValueError("replay_data names nothing: give general, a task or a file")
        return value
