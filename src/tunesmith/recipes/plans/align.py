"""Say what an alignment would cost: a round of its own answers, or its own judgements, and a few real steps, without a trace."""

from __future__ import annotations

import time
from contextlib import nullcontext, redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.registry import ALIGNERS
from tunesmith.recipes import align
from tunesmith.recipes.plans._shown import render

__all__ = ["Config", "render", "run"]

POSITIONAL, ENTRIES = "data", align.ENTRIES
EXAMPLES = (
    "tunesmith plan align pairs.jsonl --method dpo",
    "tunesmith plan align prompts.jsonl --method rloo --scorer scorer.py:score",
)


class Config(align.Config):
    """Settings of `tunesmith plan align`: those of the alignment it is about."""


def run(config: Config) -> dict[str, Any]:
    """Sample and score one round, or read the judgements; count memory on a small batch, and time a few real steps if they fit.

    Raises:
        UserError: unusable data or settings, named by file, row or key; or a method that trains nothing.
    """
    from tunesmith.data.collate import VaryingRows
    from tunesmith.data.encoded_rows import lengths_of
    from tunesmith.recipes._align import offline, ready
    from tunesmith.recipes.plans._training import Planned, planned

    learns_from = ALIGNERS.parameters(config.method)[0].LEARNS_FROM
    if learns_from == "nothing":
        raise UserError("best-of-n trains nothing that could be planned", "Ask few prompts first: --train_rows 8.")
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        it: Any = (offline if learns_from in ("pairs", "texts") else ready).ready(config, Path(folder))
        loading, made, training = time.monotonic() - start, 0.0, it.training
        if isinstance(training.data, VaryingRows):
            # What is learned from later follows from what was learned before: the first round stands for all.
            begun = time.monotonic()
            with it.elsewhere if isinstance(it, ready.Ready) else nullcontext(), redirect_stderr(StringIO()):
                rows = list(training.data.in_epoch(0))
            made = (time.monotonic() - begun) * _rounds(config, training.how.max_steps, learns_from)
            training = replace(training, data=rows)
        return planned(Planned(
            "align", training, align.folder_of(config), config.model, it.method[0].__name__.rpartition(".")[2],
            list(training.parameters.values()), None, lengths_of(training.data), it.lm.context_length, None, loading,
            config.max_memory_gb, sampling_seconds=made, warnings=it.warnings,
        ))  # fmt: skip


def _rounds(config: Config, steps: int | None, learns_from: str) -> int:
    """How often rows are made: before each round, or before each update."""
    return (steps or 1) if learns_from == "texts" else config.steps
