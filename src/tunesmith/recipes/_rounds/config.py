"""What `tunesmith rounds` can be told, apart from its work."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from tunesmith.recipes._tune.remedies_config import Remedies

EARLIER = "earlier"


class Config(Remedies):
    """Settings of `tunesmith rounds`; the rest is as in `tune`."""

    data: str
    """two tasks or more in their order, separated by commas: embedded names, task YAMLs or files with texts and labels"""
    model: str = "smollm2"
    """embedded name, local directory or hub id of a decoder"""
    peft: str | dict[str, Any] = "full"
    """what is trained: every weight, or one adapter that each round trains further (lora, ...)"""
    replay_data: str = EARLIER
    """what is replayed: earlier (training rows of the rounds before; general text in the first), general, tasks and files"""
    train_rows: int | None = Field(None, ge=1)
    """at most this many rows of each task"""
    validation_rows: int = Field(200, ge=0)
    """at most this many rows for choosing the best weights; 0 = none"""
    test_rows: int = Field(300, ge=2)
    """at most this many test items of each task for the matrix"""
    max_length: int = Field(1024, ge=2)
    """longest row in tokens; longer ones stop the run"""
    guard: bool = True
    """measure general text, choices and sibling tasks before and after every round"""
    guard_rows: int = Field(50, ge=0)
    """items of each sibling task for that"""

    @field_validator("peft", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {"name": "lora", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _several(self) -> Self:
        if len(self.names) < 2:
            raise ValueError("rounds needs two tasks or more, separated by commas; for one there is tune")
        if twice := [name for name in self.names if self.names.count(name) > 1]:
            raise ValueError(f"the task '{twice[0]}' is given twice: its column of the matrix would be taught by two rounds")
        return self

    @property
    def names(self) -> list[str]:
        """The tasks, as they were given."""
        return [name.strip() for name in self.data.split(",") if name.strip()]
