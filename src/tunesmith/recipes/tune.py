"""Fine-tune a decoder on rows: LoRA by default, or every weight; on a task, or on chat and prompt/completion files.

Only the answers count in the loss, divided by the number of counted tokens in the whole accumulated batch.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.files import sha256, write_jsonl
from tunesmith.core.memory import peak_gb
from tunesmith.core.progress import say
from tunesmith.core.registry import ENGINES
from tunesmith.core.runs import Run
from tunesmith.recipes._command import command_of
from tunesmith.recipes._tune_config import Config

if TYPE_CHECKING:
    from tunesmith.models.load import LM
    from tunesmith.recipes._ready import Ready
    from tunesmith.recipes._rows import Rows
    from tunesmith.recipes._tune_page import TunePage
    from tunesmith.train.training import Training

POSITIONAL = "data"
EXAMPLES = (
    "tunesmith tune rows.jsonl",
    "tunesmith tune movies --peft lora --peft.rank 8",
    "tunesmith tune rows.jsonl --peft full --epochs 2",
    "tunesmith tune movies --objective gpt-classification --objective.lm_weight 0.5",
)


def run(config: Config) -> dict[str, Any]:
    """Train, save the adapter or model, and report.

    Returns:
        status, run_dir, artefact, seconds, wall_seconds, peak_memory_gb, tokens, tokens_per_second, supervised_tokens,
        trained_parameters, steps, final_loss, validation, test, warnings.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
        WorkFailed: a non-finite loss or gradient. Interrupted: a signal; the step was finished and saved.
    """
    from tunesmith.recipes._adapt import train
    from tunesmith.recipes._artefact import save_artefact
    from tunesmith.recipes._ready import filled_in

    start = time.monotonic()
    config = filled_in(config).model_copy(update={"run_dir": str(folder_of(config))})
    elsewhere = ENGINES.get(config.engine).launch(train_as_worker, config.model_dump())
    if elsewhere:  # the run is trained, and its last checkpoint is all that is needed here
        config = config.model_copy(update={"overwrite": False, "resume": True})
    it, run, page = _begin(config)
    with page:
        adapted = train(it.lm, _with_findings(it), run, it.validation)
        made = it.supervised
        artefact = save_artefact(run.folder, it.lm, it.method, made.prompts, "Fine-tuning", made.heads, made.task_type)
        test = it.rows.test() if it.rows.test else None
        if test:
            write_jsonl(run.folder / "predictions.jsonl", test.predictions)
        fitted, peaks = adapted.fitted, [peak_gb(), *(w["peak_memory_gb"] for w in elsewhere)]
        report = {
            "status": "done", "run_dir": str(run.folder), "artefact": str(artefact), "seconds": fitted.seconds,
            "wall_seconds": time.monotonic() - start, "peak_memory_gb": max(peaks), "tokens": fitted.tokens,
            "tokens_per_second": fitted.tokens / max(fitted.seconds, 1e-9), "supervised_tokens": fitted.supervised_tokens,
            "trained_parameters": adapted.trained_parameters, "steps": fitted.steps, "final_loss": fitted.losses[-1],
            "validation": fitted.best, "test": test.results if test else [], "warnings": it.rows.warnings,
        }  # fmt: skip
        page.finish(report)
    return report


def train_as_worker(settings: dict[str, Any]) -> dict[str, float]:
    """Train together with other workers, leaving the checkpoints; `settings` are those of `Config`."""
    from tunesmith.recipes._adapt import train
    from tunesmith.train.engines.local import current

    it, run, page = _begin(Config.model_construct(**settings))
    with page if current().rank == 0 else nullcontext():
        train(it.lm, it.training, run, it.validation)
    return {"peak_memory_gb": peak_gb()}


def _begin(config: Config) -> tuple[Ready, Run, TunePage]:
    """Load and check everything, alone or as one of several workers; only then is a run directory made."""
    from tunesmith.recipes._memory import require_memory
    from tunesmith.recipes._ready import ready
    from tunesmith.recipes._tune_page import TunePage
    from tunesmith.train.engines.local import current

    it, engine = ready(config), current()
    config = it.config
    if engine.workers == 1:
        require_memory(it.training, it.keeps_best, config.max_memory_gb, it.lm.model)
    about = {"command": command_of("tune", config.data, config), "parents": [config.adapter] if config.adapter else []}
    again = engine.rank == 0 and (config.overwrite or not config.resume)
    with engine.first_before_others():
        run = Run(folder_of(config), _inputs(config, it.lm, it.rows), about, again)
    if engine.rank == 0:
        on = f"{it.method_name} on {config.model}, {str(it.lm.dtype).removeprefix('torch.')}"
        say(f"{it.rows.describe()}; training {on}")
    return it, run, TunePage(run.folder, config, it.method_name, it.lm, it.rows.train, it.rows.warnings)


def _with_findings(it: Ready) -> Training:
    """Return the training with the settings that were asked to be found by trying."""
    from tunesmith.recipes._search import with_found_rate, with_found_size

    return with_found_rate(it.config, with_found_size(it.config, it.training, it.keeps_best), folder_of(it.config))


def folder_of(config: Config) -> Path:
    """Return the run directory."""
    return Path(config.run_dir or f"runs/tune-{Path(config.data).name.split('.')[0]}")


def _inputs(config: Config, lm: LM, rows: Rows) -> dict[str, Any]:
    """Return all that the trained weights follow from; a run directory made from other inputs is not continued."""
    harmless = {"run_dir", "overwrite", "resume", "threads", "save_steps", "tokens_per_micro_batch", "activation_checkpointing"}
    # N workers make the update that one makes.
    harmless |= {"report_to", "find_batch_size", "max_memory_gb", "engine", "workers", "address", "restarts", "shard"}
    weights = Path(config.adapter) / "adapter_model.safetensors" if config.adapter else None
    return {
        **config.model_dump(exclude=harmless),
        "model_identity": lm.identity,
        "adapter_sha256": sha256(weights) if weights else None,
        "rows": rows.fingerprint,
    }


def render(report: dict[str, Any]) -> str:
    """Return what a person wants to know after a training."""
    lines = [
        f"trained {report['trained_parameters']:,} parameters in {report['steps']} steps, {report['tokens']:,} tokens at "
        f"{report['tokens_per_second']:,.0f} tokens/s; final loss {report['final_loss']:.3f}; "
        f"peak {report['peak_memory_gb']:.1f} GB",
        f"saved to {report['artefact']}",
    ]
    lines[:0] = [
        f"{r['task']}: {r['metric'].replace('_', ' ')} {r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}] on {r['n']:,} test rows"
        for r in report["test"]
    ]
    if "adapter" in Path(report["artefact"]).name:
        lines.append(f"talk to it: tunesmith chat --adapter {report['artefact']}")
    return "\n".join(lines)
