"""Say what a pre-training would cost, from its own documents and a few real steps that leave no trace."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tunesmith.recipes import pretrain
from tunesmith.recipes.plans._shown import render

__all__ = ["Config", "render", "run"]

POSITIONAL = "data"
EXAMPLES = ("tunesmith plan pretrain tweets,products,editorials", "tunesmith plan pretrain notes.txt --objective clm --json")


class Config(pretrain.Config):
    """Settings of `tunesmith plan pretrain`: those of the pre-training it is about."""


def run(config: Config) -> dict[str, Any]:
    """Load the model, read the documents, count memory on a small batch, and time a few real steps if they fit.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    from tunesmith.data.encoded_rows import lengths_of
    from tunesmith.recipes._pretrain.ready import ready
    from tunesmith.recipes.plans._training import Planned, planned

    start = time.monotonic()
    config = config.model_copy(update={"model": config.model or pretrain.MODELS[config.objective]})
    it = ready(config)
    return planned(Planned(
        "pretrain", it.training, Path(pretrain.folder_of(config)), config.model, config.objective,
        list(it.lm.model.parameters()), None, lengths_of(it.training.data), config.max_length,
        it.loss if config.evaluations else None, time.monotonic() - start, config.max_memory_gb, warnings=it.corpus.warnings,
    ))  # fmt: skip
