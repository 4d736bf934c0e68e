"""Say what a reward model would cost, from its own judgements and a few real steps that leave no trace."""

from __future__ import annotations

import time
from typing import Any

from tunesmith.recipes import reward
from tunesmith.recipes.plans._shown import render

__all__ = ["Config", "render", "run"]

POSITIONAL = "data"
EXAMPLES = ("tunesmith plan reward movies", "tunesmith plan reward comparisons.jsonl --model minilm --json")


class Config(reward.Config):
    """Settings of `tunesmith plan reward`: those of the training it is about; of several `seeds`, one is planned."""


def run(config: Config) -> dict[str, Any]:
    """Load the model, read the judgements, count memory on a small batch, and time a few real steps if they fit.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    from tunesmith.data.encoded_rows import lengths_of
    from tunesmith.recipes._models import quiet_libraries, use_threads
    from tunesmith.recipes._reward.rows import read_judgements
    from tunesmith.recipes._reward.training import ready, validation_of
    from tunesmith.recipes.plans._training import Planned, planned

    start = time.monotonic()
    quiet_libraries()
    use_threads(config.threads)
    rows = read_judgements(config)
    it = ready(config.model_copy(update={"over_long": "drop"}), rows, config.seeds[0] if config.seeds else config.seed)
    validation, model = validation_of(it.it, it.rows.validation), it.it.lm.model
    saved = it.training.parameters.values() if it.method[0].SAVES == "adapter" else model.parameters()
    more = [f"{len(config.seeds)} models are asked for, and this is what one costs"] if config.seeds else []
    return planned(Planned(
        "reward", it.training, reward.folder_of(config), config.model, it.method[0].__name__.rpartition(".")[2], list(saved),
        model, lengths_of(it.training.data), config.max_length,
        validation.measure if validation and config.evaluations else None, time.monotonic() - start, config.max_memory_gb,
        len(rows.train) - len(it.rows.train), warnings=[*it.rows.warnings, *more],
    ))  # fmt: skip
