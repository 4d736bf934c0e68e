"""Train a reward model on people's preferences: a head for one number on a decoder (LoRA) or an encoder, and measure it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.recipes._reward.config import Config

if TYPE_CHECKING:
    from tunesmith.recipes._reward.training import Trained

POSITIONAL = "data"
EXAMPLES = (
    "tunesmith reward movies",
    "tunesmith reward comparisons.jsonl --ties davidson",
    "tunesmith reward movies --model minilm --seeds 0,1,2",
)


def run(config: Config) -> dict[str, Any]:
    """Train, save and measure a reward model, or one for each of several seeds.

    Returns:
        status, run_dir, artefact, seconds, wall_seconds, peak_memory_gb, objective, judgements, trained_parameters, steps,
        tokens, final_loss, validation, normalised, fitted, accuracy, ties, by_difficulty, calibration, length, people, members,
        warnings.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
        WorkFailed: a loss, gradient or reward is not finite. Interrupted: a signal; the step was finished and saved.
    """
    from tunesmith.recipes._models import quiet_libraries, use_threads
    from tunesmith.recipes._reward import page
    from tunesmith.recipes._reward.ensemble import together
    from tunesmith.recipes._reward.rows import read_judgements
    from tunesmith.recipes._reward.training import train_one

    start, folder = time.monotonic(), folder_of(config)
    quiet_libraries()
    use_threads(config.threads)
    rows = read_judgements(config)
    seeds = config.seeds or [config.seed]
    places = [folder / f"seed-{seed}" if config.seeds else folder for seed in seeds]
    trained = [train_one(config, rows, place, seed) for seed, place in zip(seeds, places, strict=True)]
    many = together(config, folder, trained) if config.seeds else {}
    report = {**_report(trained, folder), **many, "wall_seconds": time.monotonic() - start}
    page.write(folder, places[0], config, report)
    return report


def folder_of(config: Config) -> Path:
    """Return the run directory."""
    return Path(config.run_dir or f"runs/reward-{Path(config.data).name.split('.')[0]}")


def _report(trained: list[Trained], folder: Path) -> dict[str, Any]:
    from tunesmith.core.memory import peak_gb

    first, fits = trained[0], [one.adapted.fitted for one in trained]
    return {
        "status": "done", "run_dir": str(folder), "artefact": str(first.artefact), "seconds": sum(f.seconds for f in fits),
        "peak_memory_gb": peak_gb(), "objective": first.fitted.objective, "judgements": len(first.rows.train),
        "trained_parameters": first.adapted.trained_parameters, "steps": sum(f.steps for f in fits),
        "tokens": sum(f.tokens for f in fits), "final_loss": fits[0].losses[-1], "validation": fits[0].best,
        "normalised": first.normalised, "fitted": first.fitted.as_record(), **first.measured, "members": [],
        "warnings": first.rows.warnings,
    }  # fmt: skip


def render(report: dict[str, Any]) -> str:
    """Return what a person wants to know of a reward model."""
    from tunesmith.recipes._reward.page import sentences

    tokens = report["tokens"] / max(report["seconds"], 1e-9)
    return "\n".join([
        *sentences(report),
        f"trained {report['trained_parameters']:,} parameters in {report['steps']} update{'s' * (report['steps'] != 1)} at "
        f"{tokens:,.0f} tokens/s, peak {report['peak_memory_gb']:.1f} GB",
        *(f"note: {warning}" for warning in report["warnings"]),
        f"saved to {report['artefact']}; {Path(report['run_dir']) / 'report.html'} shows more",
        "before it steers anything, see what it falls for:",
        f"  tunesmith inspect scorer reward-model:path={report['artefact']} --data DATA",
    ])  # fmt: skip
