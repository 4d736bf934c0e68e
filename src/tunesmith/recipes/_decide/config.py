"""What `tunesmith decide` can be told, apart from its work."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tunesmith.core.config import Config as BaseConfig
from tunesmith.core.errors import unknown
from tunesmith.core.registry import CALIBRATORS


class Config(BaseConfig):
    """Settings of `tunesmith decide`."""

    what: str
    """a task to calibrate on (name, YAML, or file of text and label rows), or a decision directory to ask"""
    text: str | None = None
    """to ask a decision directory: the text to decide about"""
    fields: dict[str, str] = {}
    """instead of text, where the question reads several fields: --fields.premise TEXT --fields.hypothesis TEXT"""
    question: dict[str, Any] | None = None
    """the typed question, for a directory with transformers' decision.json alone, for example
    '{"type": "noul", "instructions": "Is it spam?"}'"""
    model: str = "smollm2"
    """embedded name, local directory or hub id of a decoder, or the directory of a classifier; for a decision directory,
    where its model is now"""
    adapter: str | None = None
    """adapter directory"""
    kind: Literal["auto", "choice", "score", "yes_no"] = "auto"
    """type of the question; auto = yes_no for the labels yes and no, score for numbers, else choice"""
    calibration: str = "temperature"
    """how scores become probabilities: temperature, platt or isotonic; all are reported, this one is saved"""
    abstain_below: float | None = Field(None, gt=0, le=1)
    """give no answer where the largest probability is below this"""
    target_accuracy: float | None = Field(None, gt=0, lt=1)
    """find the threshold that answers most while what it answers is right this often; half of the validation rows find it"""
    error: float = Field(0.05, gt=0, lt=1)
    """largest probability that answers are less accurate than target_accuracy all the same"""
    calibrate_on: Literal["validation", "train"] = "validation"
    """where the held-out rows come from; train = the training rows, for a model that never learned from them"""
    validation_rows: int = Field(500, ge=1)
    """at most this many held-out rows to calibrate on"""
    test_rows: int = Field(500, ge=1)
    """at most this many rows to measure on"""
    dtype: str = "auto"
    threads: int | None = None
    seed: int = 0
    """of the bootstrap intervals"""
    run_dir: str | None = None
    """absent = runs/decide-TASK"""
    overwrite: bool = False
    """start again in a run_dir that holds an earlier run"""
    skip_bad_rows: bool = False
    """go on with the good rows of a file and list the bad ones"""
    allow_canary: bool = False
    """learn from rows that carry a canary (bigbench:TASK), which are meant for measuring only; the run records it"""

    @field_validator("calibration")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in CALIBRATORS.names():
            raise ValueError(str(unknown("calibrator", value, CALIBRATORS.names())))
        return value

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if self.abstain_below and self.target_accuracy:
            raise ValueError("abstain_below and target_accuracy exclude each other: one gives the threshold the other finds")
        if "error" in self.model_fields_set and self.target_accuracy is None:
            raise ValueError("error needs target_accuracy")
        if self.text is not None and self.fields:
            raise ValueError("give text or fields, not both")
        return self
