"""What any training would cost, from its own rows and a few real steps that leave no trace."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.memory import peak_gb
from tunesmith.data.encoded_rows import lengths_of
from tunesmith.recipes._memory import settings_that_fit
from tunesmith.recipes.plans._shown import histogram
from tunesmith.train import plan
from tunesmith.train.training import Training


@dataclass(frozen=True)
class Planned:
    """A training that is ready to begin and will not.

    Attributes:
        recipe: the command it is of. method: what is trained, in a word ("lora").
        saved: the tensors that the artefact will hold.
        model: where the method and the rows may be changed too, so that settings for these are named; None = they may not.
        lengths: tokens of every row, also of those that are too long to be learned from.
        max_length: longest row that is learned from. over_long: how many are longer.
        evaluate: what is measured on held-out rows each time; None = the training does not evaluate.
        loading_seconds: until it was ready.
        sampling_seconds: of work that is no update, such as a policy's answering.
    """

    recipe: str
    training: Training
    run_dir: Path
    base: str | None
    method: str
    saved: Sequence[torch.Tensor]
    model: torch.nn.Module | None
    lengths: Sequence[int]
    max_length: int
    evaluate: Callable[[], object] | None
    loading_seconds: float
    max_memory_gb: float | None = None
    over_long: int = 0
    sampling_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


def planned(it: Planned) -> dict[str, Any]:
    """Count memory on a small batch, and time a few real steps if they fit; weights end as they were, bit for bit.

    Returns:
        What docs/report_schema.md says of `plan tune`.
    """
    training, keeps_best = it.training, it.evaluate is not None
    memory, limit = plan.count_memory(training, keeps_best), plan.limit_gb(training.device, it.max_memory_gb)
    counted = memory.peak_gb(plan.tokens_at_once(lengths_of(training.data), training.how))
    before = peak_gb() if training.device.type == "cpu" else 0.0
    real = plan.calibrate(training, keeps_best, it.evaluate) if counted <= limit else None
    fits = real is not None and real.peak_gb <= limit
    checkpoints, artefact = plan.disk_bytes(training, keeps_best), sum(p.nbytes for p in it.saved)
    return {
        "status": "done", "recipe": it.recipe, "run_dir": str(it.run_dir), "model": it.base,
        "peft": it.method, "rows": len(training.data), "over_long": it.over_long,
        "tokens": sum(lengths_of(training.data)), "supervised_tokens": sum(e.counted for e in training.data),
        "histogram": histogram(it.lengths), "max_length": it.max_length,
        "tokens_per_micro_batch": training.how.tokens_per_micro_batch, "steps": plan.steps_of(training),
        "trained_parameters": sum(p.numel() for p in training.parameters.values()), "fits": fits,
        "peak_memory_gb": max(real.peak_gb if real else counted, before), "available_gb": limit,
        "settings_that_fit": [] if fits else settings_that_fit(training, memory, limit, it.model),
        "seconds": real.seconds + it.sampling_seconds if real else None,
        "tokens_per_second": real.tokens_per_second if real else None,
        "evaluation_seconds": real.evaluation_seconds * training.how.evaluations if real else None,
        "loading_seconds": it.loading_seconds, "disk_gb": (checkpoints + artefact) / 1e9, "checkpoint_gb": checkpoints / 1e9,
        "artefact_gb": artefact / 1e9,
        "warnings": [*it.warnings, *_of_disk(it.run_dir, checkpoints + artefact)],
    }  # fmt: skip


def _of_disk(folder: Path, wanted: int) -> list[str]:
    place = next(parent for parent in folder.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    return [f"the disk of {place} has only {free / 1e9:.1f} GB left"] if free < wanted else []
