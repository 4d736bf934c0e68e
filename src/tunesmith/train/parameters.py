"""How to train: the settings that `fit` takes, apart from it so that a configuration loads without torch."""

from __future__ import annotations

from typing import Literal

from tunesmith.core.config import Config

Schedule = Literal["linear", "cosine", "constant"]


class FitParameters(Config):
    """How to train, whatever is trained."""

    epochs: float = 1.0
    """passes over the data"""
    max_steps: int | None = None
    """stop after this many updates; overrides epochs"""
    batch_size: int = 16
    """examples per update"""
    gradient_accumulation_steps: int = 1
    """batches per update, when batch_size is what fits"""
    tokens_per_micro_batch: int = 2048
    """padding included; bounds memory and never changes the result"""
    learning_rate: float | None = None
    """peak; absent = the method's own default"""
    schedule: Schedule = "linear"
    warmup: float = 0.1
    """share of the steps over which the learning rate rises"""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    evaluations: int = 2
    """how often to evaluate on validation rows; the best is kept"""
    patience: int = 3
    """stop after this many evaluations without a new best"""
    save_steps: int = 50
    """updates between checkpoints"""
