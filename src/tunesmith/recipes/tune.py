"""Fine-tune a decoder on rows: LoRA by default, or every weight; on a task, or on chat and prompt/completion files.

Only the answers count in the loss, divided by the number of counted tokens in the whole accumulated batch.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.files import sha256, write_json, write_manifest
from tunesmith.core.memory import peak_gb
from tunesmith.core.progress import say
from tunesmith.core.runs import Run
from tunesmith.recipes._tune_config import Config

if TYPE_CHECKING:
    from tunesmith.models.load import LM
    from tunesmith.recipes._rows import Rows

POSITIONAL = "data"
EXAMPLES = (
    "tunesmith tune rows.jsonl",
    "tunesmith tune movies --peft lora --peft.rank 8",
    "tunesmith tune rows.jsonl --peft full --epochs 2",
)


def run(config: Config) -> dict[str, Any]:
    """Train, save the adapter or model, and report.

    Returns:
        status, run_dir, artefact, seconds, wall_seconds, peak_memory_gb, tokens, tokens_per_second, supervised_tokens,
        trained_parameters, steps, final_loss, validation, warnings.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
        WorkFailed: a non-finite loss or gradient. Interrupted: a signal; the step was finished and saved.
    """
    from tunesmith.recipes._adapt import train
    from tunesmith.recipes._artefact import save_artefact
    from tunesmith.recipes._memory import require_memory
    from tunesmith.recipes._ready import ready
    from tunesmith.recipes._search import with_found_rate, with_found_size

    start = time.monotonic()
    it = ready(config)
    lm, method, rows, training = it.lm, it.method, it.rows, it.training
    memory = require_memory(training, it.keeps_best, config.max_memory_gb, lm.model)
    folder = folder_of(config)
    about = {"command": _command(config), "parents": [config.adapter] if config.adapter else []}
    tune_run = Run(folder, _inputs(config, lm, rows), about, config.overwrite or not config.resume)
    what = f"{method[0].__name__.rpartition('.')[2]} on {config.model}, {str(lm.dtype).removeprefix('torch.')}"
    say(f"{rows.describe()}; training {what}")
    training = with_found_rate(config, with_found_size(config, training, memory), folder)
    adapted = train(lm, training, tune_run, it.validate)
    prompts = [e.ids[: e.loss_mask.index(True)] or e.ids[:1] for e in rows.train[:3]]
    artefact = save_artefact(folder, lm, method, prompts, "Fine-tuning")
    fitted = adapted.fitted
    report = {
        "status": "done", "run_dir": str(folder), "artefact": str(artefact), "seconds": fitted.seconds,
        "wall_seconds": time.monotonic() - start, "peak_memory_gb": peak_gb(), "tokens": fitted.tokens,
        "tokens_per_second": fitted.tokens / max(fitted.seconds, 1e-9), "supervised_tokens": fitted.supervised_tokens,
        "trained_parameters": adapted.trained_parameters, "steps": fitted.steps, "final_loss": fitted.losses[-1],
        "validation": fitted.best, "warnings": rows.warnings,
    }  # fmt: skip
    write_json(folder / "report.json", report)
    write_manifest(folder)
    return report


def folder_of(config: Config) -> Path:
    """Return the run directory."""
    return Path(config.run_dir or f"runs/tune-{Path(config.data).name.split('.')[0]}")


def _inputs(config: Config, lm: LM, rows: Rows) -> dict[str, Any]:
    """Return all that the trained weights follow from; a run directory made from other inputs is not continued."""
    harmless = {"run_dir", "overwrite", "resume", "threads", "save_steps", "tokens_per_micro_batch"}
    harmless |= {"find_batch_size", "max_memory_gb"}
    weights = Path(config.adapter) / "adapter_model.safetensors" if config.adapter else None
    return {
        **config.model_dump(exclude=harmless),
        "model_identity": lm.identity,
        "adapter_sha256": sha256(weights) if weights else None,
        "rows": rows.fingerprint,
    }


def _command(config: Config) -> str:
    """Return the command that makes, or goes on with, this run."""
    given = config.model_dump(exclude_defaults=True, exclude={"data", "overwrite", "resume"})
    words = [w for k, v in given.items() for w in ("--set", f"{k}={v if isinstance(v, str) else json.dumps(v)}")]
    return shlex.join(["tunesmith", "tune", config.data, *words])


def render(report: dict[str, Any]) -> str:
    """Return what a person wants to know after a training."""
    lines = [
        f"trained {report['trained_parameters']:,} parameters in {report['steps']} steps, {report['tokens']:,} tokens at "
        f"{report['tokens_per_second']:,.0f} tokens/s; final loss {report['final_loss']:.3f}; "
        f"peak {report['peak_memory_gb']:.1f} GB",
        f"saved to {report['artefact']}",
    ]
    if "adapter" in Path(report["artefact"]).name:
        lines.append(f"talk to it: tunesmith chat --adapter {report['artefact']}")
    return "\n".join(lines)
