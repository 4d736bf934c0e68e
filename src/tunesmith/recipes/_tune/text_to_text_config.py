"""What text-to-text training can be told, apart from its work so that reading tasks can know it too."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.core.config import Config


class Parameters(Config):
    """What text-to-text training can be told; data names one task, or several separated by commas."""

    reads: Literal["fields", "template"] = "fields"
    """what the encoder reads: the task's name and its fields ("movies text: ..."), as T5 did, or the task's template"""
    step: float | None = Field(None, gt=0, allow_inf_nan=False)
    """answers that are numbers are said rounded to multiples of this; 0.2 for STS-B; absent = said as they stand"""
    mixing: Literal["proportional", "equal"] | dict[str, float] = "proportional"
    """how often each of several tasks comes: as its rows (proportional), as all others (equal), or by weights, {a: 3, b: 1}"""
    cap: int | None = Field(None, ge=1)
    """K: a task with more rows counts as one with so many, and an epoch has so many of it"""
    temperature: float = Field(1.0, ge=1, allow_inf_nan=False)
    """T: rates are raised to the power 1 / T, after the cap; 1 = proportional, larger = more alike"""

    @model_validator(mode="after")
    def _proportional_only(self) -> Self:
        given = sorted({"cap", "temperature"} & self.model_fields_set)
        if given and self.mixing != "proportional":
            raise ValueError(f"{', '.join(given)} belongs to mixing: proportional")
        return self
