"""Text to text: an encoder-decoder reads a task's name and text and writes the answer; many tasks at once (Raffel 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from tunesmith.core.config import Config

if TYPE_CHECKING:
    from tunesmith.recipes import _tune_config
    from tunesmith.recipes._supervised import Supervised

# As published: a constant rate of 1e-3, but with AdamW (the paper has Adafactor). No embedded model is a T5 that was pre-trained.
DEFAULTS: dict[str, Any] = {"model": "toy-t5", "peft": {"name": "full"}, "schedule": "constant", "dtype": "fp32"}
LEARNING_RATES = {"full": 1e-3}


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


def supervise(config: _tune_config.Config, parameters: Parameters) -> Supervised:
    """Load an encoder-decoder and read the rows of all tasks.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    from tunesmith.models.seq2seq import load_seq2seq
    from tunesmith.objectives import causal_lm
    from tunesmith.recipes._supervised import Supervised, with_adapter
    from tunesmith.recipes._text_to_text import TextTasks, teacher_forced
    from tunesmith.train.probes import check_training_data

    lm = load_seq2seq(config.model_name, config.dtype)
    adapter = with_adapter(lm, config.adapter)
    tasks = TextTasks.of(config, parameters, lm)
    rows = tasks.rows()
    check_training_data(rows.train, lm.tokenizer, lm.stop_ids)
    if config.activation_checkpointing:
        lm.model.activation_checkpointing_enable({"use_reentrant": False})
    prompts = [e.ids[: e.loss_mask.index(True)] for e in rows.train[:3]]
    loss_of = teacher_forced(lm, causal_lm.loss)
    return Supervised(lm, rows, loss_of, prompts, tasks.validation(), adapter, task_type="SEQ_2_SEQ_LM")
