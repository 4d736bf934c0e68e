"""How to train: the settings that `fit` takes, apart from it so that a configuration loads without torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from pydantic import Field, field_validator

from tunesmith.core.config import Config
from tunesmith.core.errors import UserError, unknown
from tunesmith.core.registry import TRACKERS

# Settings of any training that change how and where it is done, and nothing of what it ends with.
HARMLESS = frozenset({
    "run_dir", "overwrite", "resume", "threads", "save_steps", "tokens_per_micro_batch", "activation_checkpointing", "report_to",
    "max_memory_gb",
})  # fmt: skip
Schedule = Literal["linear", "cosine", "constant", "gpt"]


class FitParameters(Config):
    """How to train, whatever is trained."""

    epochs: float = Field(1.0, gt=0, allow_inf_nan=False)
    """passes over the data"""
    max_steps: int | None = Field(None, ge=1)
    """stop after this many updates; overrides epochs"""
    batch_size: int = Field(16, ge=1)
    """examples per update"""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """batches per update, when batch_size is what fits"""
    tokens_per_micro_batch: int = Field(2048, ge=1)
    """padding included; bounds memory and never changes the result"""
    activation_checkpointing: bool = False
    """compute activations again in the backward pass: less memory for about a third more time"""
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    """peak; absent = the method's own default"""
    schedule: Schedule = "linear"
    """how the learning rate falls after it rose; gpt = as GPT-1's authors have it, falling in a line from the first step on"""
    warmup: float = Field(0.1, ge=0, le=1)
    """share of the steps over which the learning rate rises"""
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)
    """decoupled; matrices only"""
    clip_norm: float = Field(1.0, ge=0, allow_inf_nan=False)
    """largest norm of the whole gradient; 0 = no clipping"""
    evaluations: int = Field(2, ge=0)
    """how often to evaluate on validation rows; the best is kept"""
    tolerance: float = Field(0.02, ge=0, allow_inf_nan=False)
    """a later evaluation is kept unless it is worse than the best by more than this"""
    patience: int = Field(3, ge=1)
    """stop after this many evaluations without a new best"""
    save_steps: int = Field(50, ge=1)
    """updates between checkpoints"""
    report_to: list[str] = []
    """tensorboard, trackio: trackers that get a copy of metrics.jsonl; none = none"""

    @field_validator("report_to")
    @classmethod
    def _installed(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in TRACKERS.names():
                raise unknown("tracker", name, TRACKERS.names())
            # An entry is called like the package it writes for.
            if find_spec(name) is None:
                raise UserError(f"report_to: {name} is not installed", "Install it: pip install 'tunesmith[tracking]'")
        return list(dict.fromkeys(names))
