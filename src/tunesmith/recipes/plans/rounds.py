"""Say what sequential rounds would cost: each round's training from a few real steps, and the matrix from a few answers."""

from __future__ import annotations

import time
from typing import Any

from tunesmith.core.progress import duration
from tunesmith.recipes import rounds

POSITIONAL = "data"
EXAMPLES = ("tunesmith plan rounds products,movies", "tunesmith plan rounds products,movies --replay 0.2 --json")
_ASKED = 16


class Config(rounds.Config):
    """Settings of `tunesmith plan rounds`: those of the rounds it is about."""


def run(config: Config) -> dict[str, Any]:
    """Plan every round's training as from the model itself, and time a few answers to each task for the matrix.

    Raises:
        UserError: unusable tasks or settings.
    """
    from tunesmith.recipes._models import quiet_libraries, use_threads
    from tunesmith.recipes.plans import tune

    quiet_libraries()
    use_threads(config.threads)
    tasks, folder = rounds.tasks_of(config), rounds.folder_of(config)
    planned = [tune.run(tune.Config(**rounds.round_of(config, folder, n, None))) for n in range(1, len(tasks) + 1)]
    asking = (len(tasks) + 1) * sum(_seconds_to_ask(config, task) for task in tasks)
    known = all(r["seconds"] is not None for r in planned)
    return {
        "status": "done", "recipe": "rounds", "run_dir": str(folder), "model": config.model, "peft": planned[0]["peft"],
        "rounds": [{"task": task.name, **report} for task, report in zip(tasks, planned, strict=True)],
        "fits": all(r["fits"] for r in planned), "matrix_seconds": asking,
        "seconds": sum(r["seconds"] + r["evaluation_seconds"] for r in planned) + asking if known else None,
        "peak_memory_gb": max(r["peak_memory_gb"] for r in planned), "available_gb": planned[0]["available_gb"],
        # Checkpoints go when their round is finished; what each round made stays.
        "disk_gb": max(r["checkpoint_gb"] for r in planned) + sum(r["artefact_gb"] for r in planned),
        "warnings": [f"{task.name}: {line}" for task, report in zip(tasks, planned, strict=True) for line in report["warnings"]],
    }  # fmt: skip


def _seconds_to_ask(config: Config, task: Any) -> float:
    from tunesmith.data.prompts import Prompts
    from tunesmith.evaluate.answer import Asker
    from tunesmith.recipes._models import load

    lm = load(config.model, None, config.dtype)
    items = task.splits.test[: config.test_rows]
    asker = Asker(lm, Prompts(task, lm.tokenizer))
    asker.ask(items[:2])  # the first answers also prepare what the libraries keep
    start = time.perf_counter()
    asker.ask(items[:_ASKED])
    return (time.perf_counter() - start) / len(items[:_ASKED]) * len(items)


def render(report: dict[str, Any]) -> str:
    """Return the plan for a terminal of 80 columns."""
    width = max(len(r["task"]) for r in report["rounds"])
    lines = [
        f"  {r['task']:<{width}}  {r['rows']:>6,} rows, {r['steps']:>5,} steps, {r['peak_memory_gb']:5.2f} GB, "
        + (f"about {duration(r['seconds'] + r['evaluation_seconds'])}" if r["seconds"] is not None else "DOES NOT FIT")
        for r in report["rounds"]
    ]
    whole = "unknown, since a round does not fit" if report["seconds"] is None else f"about {duration(report['seconds'])}"
    return "\n".join([
        f"{len(report['rounds'])} rounds, {report['peft']} on {report['model']}", *lines,
        f"  matrix: about {duration(report['matrix_seconds'])}; in all {whole}",
        f"  memory: about {report['peak_memory_gb']:.2f} GB of {report['available_gb']:.2f}; disk: {report['disk_gb']:.2f} GB",
        *(f"note: {line}" for line in report["warnings"]),
    ])  # fmt: skip
