"""What PET can be told, apart from its work so that the command line can know it without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.core.config import Config


class Parameters(Config):
    """What PET can be told; batch size, warm-up and the like are the ladder's."""

    encoder: str = "minilm"
    """directory or hub id of an encoder with a trained masked-language-model head; minilm gets one from tunesmith pretrain"""
    labelled: int = Field(100, ge=2)
    """labelled rows, with labels as equal as they can be"""
    unlabelled: int | None = Field(None, ge=1)
    """at most this many of the other training rows, whose labels are not looked at; absent = all of them"""
    repeats: int = Field(1, ge=1)
    """how often labelled rows are drawn anew, and everything trained on them"""
    patterns: int | None = Field(None, ge=1)
    """only the first patterns of the task; absent = all"""
    models: int = Field(1, ge=1)
    """models for each pattern, which differ in their seed (3 in the paper)"""
    generations: int = Field(1, ge=1)
    """1 = PET; more = iPET, whose models learn from rows that others of the generation before have labelled (3 in the paper)"""
    growth: int = Field(5, ge=2)
    """how many times as many rows each generation learns from"""
    teachers: float = Field(0.25, gt=0, le=1)
    """share of the other models that label rows for one"""
    weights: Literal["uniform", "accuracy"] = "uniform"
    """what a model's vote counts: the same, or its accuracy on the labelled rows before training"""
    alpha: float = Field(1e-4, ge=0, lt=1)
    """weight of the masked-language-model loss"""
    texts: int = Field(3, ge=0)
    """unlabelled rows read beside each labelled one for that loss"""
    epochs: float = Field(3.0, gt=0, allow_inf_nan=False)
    """passes over the labelled rows"""
    least_steps: int = Field(60, ge=1)
    """at least this many updates of each pattern's model"""
    learning_rate: float = Field(1e-4, gt=0, allow_inf_nan=False)
    """peak, of the patterns' models"""
    temperature: float = Field(2.0, gt=0, allow_inf_nan=False)
    """softens the labels that the classifier learns from"""
    distillation_epochs: float = Field(3.0, gt=0, allow_inf_nan=False)
    """passes of the classifier over the rows that the models have labelled"""
    distillation_rate: float = Field(2e-4, gt=0, allow_inf_nan=False)
    """peak learning rate of the classifier"""
