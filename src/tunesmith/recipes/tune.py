"""Fine-tune a decoder on rows: LoRA by default, or every weight; on a task, or on chat and prompt/completion files.

Only the answers count in the loss, divided by the number of counted tokens in the whole accumulated batch.
"""

from __future__ import annotations

import json
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
from tunesmith.recipes._tune.config import Config
from tunesmith.train.parameters import HARMLESS

if TYPE_CHECKING:
    from tunesmith.models.load import LM
    from tunesmith.recipes._tune.page import TunePage
    from tunesmith.recipes._tune.ready import Ready
    from tunesmith.recipes._tune.rows import Rows
    from tunesmith.train.training import Training

POSITIONAL = "data"
EXAMPLES = (
    "tunesmith tune rows.jsonl",
    "tunesmith tune movies --peft lora --peft.rank 8",
    "tunesmith tune rows.jsonl --peft full --epochs 2",
    "tunesmith tune movies --objective gpt-classification --objective.lm_weight 0.5",
    "tunesmith tune movies --sweep peft.rank=1,4,16 --seeds 3",
)


def run(config: Config) -> dict[str, Any]:
    """Train, save the adapter or model, and report; a sweep reports what `recipes._tune.sweep` says.

    Returns:
        status, run_dir, artefact, seconds, wall_seconds, peak_memory_gb, tokens, tokens_per_second, supervised_tokens,
        trained_parameters, steps, final_loss, validation, test, gain, forgetting, wise_ft, warnings.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
        WorkFailed: a non-finite loss or gradient. Interrupted: a signal; the step was finished and saved.
    """
    from tunesmith.recipes._adapt import train
    from tunesmith.recipes._artefact import save_artefact
    from tunesmith.recipes._tune.guarding import guarding_of, mixes_of
    from tunesmith.recipes._tune.ready import filled_in

    if config.sweep:
        from tunesmith.recipes._tune.sweep import run_sweep

        return run_sweep(config)
    start = time.monotonic()
    config = filled_in(config).model_copy(update={"run_dir": str(folder_of(config))})
    elsewhere = ENGINES.get(config.engine).launch(train_as_worker, config.model_dump())
    if elsewhere:  # the run is trained, and its last checkpoint is all that is needed here
        config = config.model_copy(update={"overwrite": False, "resume": True})
    it, run, page = _begin(config)
    with page:
        guarding = guarding_of(it, run.folder)
        adapted = train(it.lm, _with_findings(it), run, it.validation)
        mixes = mixes_of(it, run.folder)
        made = it.supervised
        made.finish()
        artefact = save_artefact(run.folder, it.lm, it.method, made.prompts, "Fine-tuning", made.heads, made.task_type, it.asked)
        test = it.rows.test() if it.rows.test else None
        if test:
            write_jsonl(run.folder / "predictions.jsonl", test.predictions)
        change = guarding.finish() if guarding else {"gain": None, "forgetting": None}
        fitted, peaks = adapted.fitted, [peak_gb(), *(w["peak_memory_gb"] for w in elsewhere)]
        report = {
            "status": "done", "run_dir": str(run.folder), "artefact": str(artefact), "seconds": fitted.seconds,
            "wall_seconds": time.monotonic() - start, "peak_memory_gb": max(peaks), "tokens": fitted.tokens,
            "tokens_per_second": fitted.tokens / max(fitted.seconds, 1e-9), "supervised_tokens": fitted.supervised_tokens,
            "trained_parameters": adapted.trained_parameters, "steps": fitted.steps, "final_loss": fitted.losses[-1],
            "validation": fitted.best, "test": test.results if test else [], **change,
            "wise_ft": mixes, "warnings": it.rows.warnings,
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
    from tunesmith.recipes._tune.page import TunePage
    from tunesmith.recipes._tune.ready import ready
    from tunesmith.train.engines.local import current

    it, engine = ready(config), current()
    config = it.config
    if engine.workers == 1:
        require_memory(it.training, it.keeps_best, config.max_memory_gb, it.lm.model)
    about = {"command": command_of("tune", config.data, config), "parents": _parents(config)}
    again = engine.rank == 0 and (config.overwrite or not config.resume)
    with engine.first_before_others():
        run = Run(folder_of(config), _inputs(config, it.lm, it.rows), about, again)
    if engine.rank == 0:
        on = f"{it.method_name} on {config.model}, {str(it.lm.dtype).removeprefix('torch.')}"
        say(f"{it.rows.describe()}; training {on}")
    return it, run, TunePage(run.folder, config, it.method_name, it.lm, it.rows.train, it.rows.warnings)


def _with_findings(it: Ready) -> Training:
    """Return the training with the settings that were asked to be found by trying."""
    from tunesmith.recipes._tune.remedies import with_fisher
    from tunesmith.recipes._tune.search import with_found_rate, with_found_size

    folder, config = folder_of(it.config), it.config
    weights = [it.lm.identity, str(it.lm.dtype), json.dumps(config.peft, sort_keys=True), config.adapter or ""]
    training = with_fisher(it.training, it.lm, it.pool, folder, weights)
    return with_found_rate(config, with_found_size(config, training, it.keeps_best), folder)


def _parents(config: Config) -> list[str]:
    """Return the directories that this training goes on from: an adapter, or a model that a run has made."""
    made = config.model if config.model and (Path(config.model).parent / "run.json").is_file() else None
    return [path for path in (config.adapter, made) if path]


def folder_of(config: Config) -> Path:
    """Return the run directory."""
    return Path(config.run_dir or f"runs/tune-{Path(config.data).name.split('.')[0]}")


def _inputs(config: Config, lm: LM, rows: Rows) -> dict[str, Any]:
    """Return all that the trained weights follow from; a run directory made from other inputs is not continued."""
    # N workers make the update that one makes.
    harmless = HARMLESS | {
        "address",
        "engine",
        "find_batch_size",
        "guard",
        "guard_rows",
        "restarts",
        "seeds",
        "shard",
        "sweep",
        "workers",
    }
    weights = Path(config.adapter) / "adapter_model.safetensors" if config.adapter else None
    return {
        **config.model_dump(exclude=set(harmless)),
        "model_identity": lm.identity,
        "adapter_sha256": sha256(weights) if weights else None,
        "rows": rows.fingerprint,
    }


def render(report: dict[str, Any]) -> str:
    """Return what a person wants to know after a training."""
    if "combinations" in report:
        return (Path(report["run_dir"]) / "report.txt").read_text(encoding="utf-8")
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
    if report["forgetting"]:
        from tunesmith.evaluate.report.training import in_words
        from tunesmith.evaluate.results import Forgetting

        lines += in_words(report["gain"], Forgetting.of_record(report["forgetting"]))
    kind = "adapter" if "adapter" in Path(report["artefact"]).name else "model"
    lines.append(f"talk to it: tunesmith chat --{kind} {report['artefact']}")
    return "\n".join(lines)
