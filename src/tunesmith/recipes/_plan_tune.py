"""Say what a training would cost, from its own rows and a few real steps that leave no trace."""

from __future__ import annotations

import shutil
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from tunesmith.core.memory import peak_gb
from tunesmith.core.progress import duration
from tunesmith.data.encoded_rows import lengths_of
from tunesmith.recipes import tune

if TYPE_CHECKING:
    from tunesmith.recipes._ready import Ready

POSITIONAL = "data"
EXAMPLES = ("tunesmith plan tune rows.jsonl", "tunesmith plan tune movies --peft full --epochs 2 --json")
_BARS = 10
_WIDTH = 40


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
    from tunesmith.recipes._memory import settings_that_fit
    from tunesmith.recipes._ready import ready
    from tunesmith.train import plan

    start = time.monotonic()
    # Over-long rows are part of the answer here, not a reason to stop.
    it = ready(config.model_copy(update={"over_long": "drop"}))
    training, lengths = it.training, it.rows.lengths
    loading = time.monotonic() - start
    memory, limit = plan.count_memory(training, it.keeps_best), plan.limit_gb(training.device, config.max_memory_gb)
    counted = memory.peak_gb(plan.tokens_at_once(lengths_of(training.data), training.how))
    before = peak_gb() if training.device.type == "cpu" else 0.0
    evaluate = it.validation.measure if it.validation and it.keeps_best else None
    real = plan.calibrate(training, it.keeps_best, evaluate) if counted <= limit else None
    fits = real is not None and real.peak_gb <= limit
    folder = tune.folder_of(config)
    checkpoints, artefact = plan.disk_bytes(training, it.keeps_best), _artefact_bytes(it)
    over_long = sum(length > config.max_length for length in lengths)
    return {
        "status": "done", "recipe": "tune", "run_dir": str(folder), "model": config.model,
        "peft": it.method_name, "rows": len(training.data), "over_long": over_long,
        "tokens": sum(lengths_of(training.data)), "supervised_tokens": sum(sum(e.loss_mask) for e in training.data),
        "histogram": histogram(lengths), "max_length": config.max_length,
        "tokens_per_micro_batch": training.how.tokens_per_micro_batch, "steps": plan.steps_of(training),
        "trained_parameters": sum(p.numel() for p in training.parameters.values()), "fits": fits,
        "peak_memory_gb": max(real.peak_gb if real else counted, before), "available_gb": limit,
        "settings_that_fit": [] if fits else settings_that_fit(training, memory, limit, it.lm.model),
        "seconds": real.seconds if real else None, "tokens_per_second": real.tokens_per_second if real else None,
        "evaluation_seconds": real.evaluation_seconds * training.how.evaluations if real else None,
        "loading_seconds": loading, "disk_gb": (checkpoints + artefact) / 1e9, "checkpoint_gb": checkpoints / 1e9,
        "artefact_gb": artefact / 1e9,
        "warnings": [*it.rows.warnings, *_warnings(config, folder, over_long, checkpoints + artefact)],
    }  # fmt: skip


def _artefact_bytes(it: Ready) -> int:
    saved = it.training.parameters.values() if it.method[0].SAVES == "adapter" else it.lm.model.parameters()
    return sum(p.nbytes for p in saved)


def _warnings(config: Config, folder: Path, over_long: int, disk: int) -> list[str]:
    found = []
    if over_long and config.over_long == "stop":
        found.append(
            f"{over_long} rows are longer than {config.max_length} tokens: tune will stop at them; they are left out of this "
            "plan, as with --over_long drop"
        )
    place = next(parent for parent in folder.absolute().parents if parent.is_dir())
    if shutil.disk_usage(place).free < disk:
        found.append(f"the disk of {place} has only {shutil.disk_usage(place).free / 1e9:.1f} GB left")
    return found


def histogram(lengths: list[int], bars: int = _BARS) -> list[dict[str, int]]:
    """Count rows by their length in tokens: at most `bars` classes of equal, round width, from `low` to `high` inclusive."""
    longest = max(lengths)
    power = 10 ** max(len(str(max(longest // bars, 1))) - 1, 0)
    width = next(m * power for m in (1, 2, 5, 10, 20) if m * power * bars > longest)
    classes = range(longest // width + 1)
    return [
        {"low": c * width, "high": (c + 1) * width - 1, "rows": sum(c * width <= n < (c + 1) * width for n in lengths)}
        for c in classes
    ]


def render(report: dict[str, Any]) -> str:
    """Return the plan for a terminal of 80 columns."""
    most = max(b["rows"] for b in report["histogram"])
    bars = [
        f"  {b['low']:>6,} - {b['high']:<6,} {'█' * _bar(b['rows'], most):<{_WIDTH}} {b['rows']:,}" for b in report["histogram"]
    ]
    share = report["supervised_tokens"] / report["tokens"]
    time_line = "unknown, since it does not fit"
    if report["seconds"] is not None:
        time_line = (
            f"about {duration(report['seconds'])} at {report['tokens_per_second']:,.0f} tokens/s; "
            f"evaluating {duration(report['evaluation_seconds'])}"
        )
    room = f"of {report['available_gb']:.2f} GB" + ("" if report["fits"] else ": IT DOES NOT FIT")
    facts = [
        ("rows", f"{report['rows']:,}, {report['tokens']:,} tokens, {share:.0%} of them supervised"),
        ("over-long", f"{report['over_long']:,} rows longer than max_length = {report['max_length']:,}; nothing is ever cut"),
        ("steps", f"{report['steps']:,}"),
        ("trained", f"{report['trained_parameters']:,} parameters ({report['peft']})"),
        ("memory", f"about {report['peak_memory_gb']:.2f} GB at the highest, {room}"),
        ("time", time_line),
        ("disk", f"{report['disk_gb']:.2f} GB (checkpoints {report['checkpoint_gb']:.2f}, artefact {report['artefact_gb']:.2f})"),
    ]
    notes = [*(f"would fit: {s}" for s in report["settings_that_fit"]), *(f"note: {w}" for w in report["warnings"])]
    lines = ["Rows by their length in tokens", *bars, *(f"  {name:<10} {text}" for name, text in facts)]
    return "\n".join([*lines, *(piece for note in notes for piece in textwrap.wrap(note, 80, subsequent_indent="  "))])


def _bar(rows: int, most: int) -> int:
    # A class with a few rows still shows.
    return max(round(_WIDTH * rows / most), 1) if rows else 0
