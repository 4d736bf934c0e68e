"""Fine-tune a decoder on rows: LoRA by default, or every weight; on a task, or on chat and prompt/completion files.

Only the answers count in the loss, divided by the number of counted tokens in the whole accumulated batch.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tunesmith.core.files import sha256
from tunesmith.core.memory import peak_gb
from tunesmith.core.progress import say
from tunesmith.core.registry import ENGINES, PEFT
from tunesmith.core.runs import Run
from tunesmith.recipes._tune_config import Config

if TYPE_CHECKING:
    from tunesmith.models.load import LM
    from tunesmith.recipes._adapt import Adapted
    from tunesmith.recipes._rows import Rows
    from tunesmith.recipes._tune_page import TunePage
    from tunesmith.train.fit import Validation

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
    from tunesmith.recipes._artefact import save_artefact

    start = time.monotonic()
    config = config.model_copy(update={"run_dir": config.run_dir or f"runs/tune-{Path(config.data).name.split('.')[0]}"})
    elsewhere = ENGINES.get(config.engine).launch(train_as_worker, config.model_dump())
    if elsewhere:  # the run is trained, and its last checkpoint is all that is needed here
        config = config.model_copy(update={"overwrite": False, "resume": True})
    work = _Work(config)
    with work.page() as page:
        adapted = work.train()
        prompts = [e.ids[: e.loss_mask.index(True)] or e.ids[:1] for e in work.rows.train[:3]]
        artefact = save_artefact(work.folder, work.lm, work.method, prompts, "Fine-tuning")
        fitted, peaks = adapted.fitted, [peak_gb(), *(w["peak_memory_gb"] for w in elsewhere)]
        report = {
            "status": "done", "run_dir": str(work.folder), "artefact": str(artefact), "seconds": fitted.seconds,
            "wall_seconds": time.monotonic() - start, "peak_memory_gb": max(peaks), "tokens": fitted.tokens,
            "tokens_per_second": fitted.tokens / max(fitted.seconds, 1e-9), "supervised_tokens": fitted.supervised_tokens,
            "trained_parameters": adapted.trained_parameters, "steps": fitted.steps, "final_loss": fitted.losses[-1],
            "validation": fitted.best, "warnings": work.rows.warnings,
        }  # fmt: skip
        page.finish(report)
    return report


def train_as_worker(settings: dict[str, Any]) -> dict[str, float]:
    """Train together with other workers, leaving the checkpoints; `settings` are those of `Config`."""
    work = _Work(Config.model_construct(**settings))
    if work.first:
        with work.page():
            work.train()
    else:
        work.train()
    return {"peak_memory_gb": peak_gb()}


class _Work:
    """A training that is ready to begin in this process, alone or as one of several workers."""

    def __init__(self, config: Config) -> None:
        from tunesmith.recipes._models import load_attached, quiet_libraries, use_threads
        from tunesmith.recipes._rows import read_rows
        from tunesmith.train.engines.local import current

        quiet_libraries()
        use_threads(config.threads)
        self.config, self.folder = config, Path(config.run_dir or "")
        self.lm, self.adapter = load_attached(config.model, config.adapter, config.dtype)
        self.method = (self.adapter.entry, self.adapter.parameters) if self.adapter else PEFT.parameters(config.peft)
        self.rows = read_rows(config, self.lm)
        self.first = current().rank == 0
        about = {"command": _command(config), "parents": [config.adapter] if config.adapter else []}
        again = self.first and (config.overwrite or not config.resume)
        with current().first_before_others():
            self.run = Run(self.folder, _inputs(config, self.lm, self.rows), about, again)

    def page(self) -> TunePage:
        """Return the page that is written however the training ends."""
        from tunesmith.recipes._tune_page import TunePage

        return TunePage(self.folder, self.config, _name(self.method), self.lm, self.rows)

    def train(self) -> Adapted:
        """Train, or go on with what the run holds."""
        from tunesmith.recipes._adapt import adapt

        if self.first:
            on = f"{_name(self.method)} on {self.config.model}, {str(self.lm.dtype).removeprefix('torch.')}"
            say(f"{self.rows.describe()}; training {on}")
        attached, validation = self.adapter.trained if self.adapter else None, _validation(self.lm, self.rows)
        return adapt(self.lm, self.method, self.rows.train, self.config, self.run, self.config.seed, validation, attached)


def _name(method: tuple[ModuleType, Any]) -> str:
    return method[0].__name__.rpartition(".")[2]


def _inputs(config: Config, lm: LM, rows: Rows) -> dict[str, Any]:
    """Return all that the trained weights follow from; a run directory made from other inputs is not continued."""
    harmless = {"run_dir", "overwrite", "resume", "threads", "save_steps", "tokens_per_micro_batch", "activation_checkpointing"}
    # N workers make the update that one makes.
    harmless |= {"report_to", "engine", "workers", "address", "restarts", "shard"}
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


def _validation(lm: LM, rows: Rows) -> Validation | None:
    """Measure the task's accuracy, or the loss on held-out rows; nothing without such rows."""
    from tunesmith.evaluate.loss import mean_loss
    from tunesmith.train.fit import Validation

    if rows.validate:
        return Validation(rows.validate, "eval_accuracy", larger_is_better=True)
    return Validation(lambda: mean_loss(lm, rows.validation), "eval_loss", larger_is_better=False) if rows.validation else None
