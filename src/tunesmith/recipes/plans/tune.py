"""Say what a training would cost, from its own rows and a few real steps that leave no trace."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from tunesmith.recipes import tune
from tunesmith.recipes.plans._shown import render

__all__ = ["Config", "render", "run"]

POSITIONAL = "data"
EXAMPLES = ("tunesmith plan tune rows.jsonl", "tunesmith plan tune movies --peft full --epochs 2 --json")


class Config(tune.Config):
    """Settings of `tunesmith plan tune`: those of the training it is about."""

    @model_validator(mode="after")
    def _only_looks(self) -> Self:
        for key in ("find_lr", "find_batch_size"):
            if getattr(self, key):
                raise ValueError(f"{key} changes what is planned: use it with tune, then plan with what it found")
        return self


def run(config: Config) -> dict[str, Any]:
    """Load the model, read the rows, count memory on a small batch, and time a few real steps if they fit.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    from tunesmith.recipes._tune.ready import ready
    from tunesmith.recipes.plans._training import Planned, planned

    start = time.monotonic()
    # Over-long rows are part of the answer here, not a reason to stop.
    it = ready(config.model_copy(update={"over_long": "drop"}))
    lengths = it.rows.lengths
    over_long = sum(length > config.max_length for length in lengths)
    saved = it.training.parameters.values() if it.method[0].SAVES == "adapter" else it.lm.model.parameters()
    return planned(Planned(
        "tune", it.training, Path(tune.folder_of(config)), config.model, it.method_name, list(saved), it.lm.model, lengths,
        config.max_length, it.validation.measure if it.validation and it.keeps_best else None, time.monotonic() - start,
        config.max_memory_gb, over_long, warnings=[*it.rows.warnings, *_of_length(config, over_long)],
    ))  # fmt: skip


def _of_length(config: Config, over_long: int) -> list[str]:
    if not over_long or config.over_long != "stop":
        return []
    return [
        f"{over_long} rows are longer than {config.max_length} tokens: tune will stop at them; they are left out of this "
        "plan, as with --over_long drop"
    ]
