"""Train on one task after the other, each from the weights of the one before, and keep the whole accuracy matrix.

Row i of the matrix is the model after round i (row 0: before any), column j is task j, so the diagonal says what each round
taught and what stands below it says what later rounds took away. A finished round is not run again.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import write_json, write_manifest, write_text
from tunesmith.core.progress import say
from tunesmith.core.runs import Run, versions
from tunesmith.data.task import Task, load_task
from tunesmith.recipes._command import command_of
from tunesmith.recipes._rounds.config import EARLIER, Config
from tunesmith.train.parameters import HARMLESS

POSITIONAL = "data"
EXAMPLES = (
    "tunesmith rounds products,movies",
    "tunesmith rounds products,movies --replay 0.2",
    "tunesmith rounds products,movies,company.yaml --peft lora",
)


def run(config: Config) -> dict[str, Any]:
    """Run the rounds that are not finished, and report on all.

    Returns:
        status, run_dir, model, peft, tasks, matrix (a row for each round with `round`, `trained`, `cells`, `perplexity`,
        `choices`), averages (final, backward, forgetting, forward; each value, low, high), lineage, seconds, wall_seconds,
        peak_memory_gb, warnings.

    Raises:
        UserError: unusable tasks or settings. WorkFailed, Interrupted: as `tune`; finished rounds are kept.
    """
    from tunesmith.core.memory import peak_gb
    from tunesmith.evaluate.report.rounds import write_rounds_html
    from tunesmith.recipes._models import quiet_libraries, use_threads
    from tunesmith.recipes._rounds.matrix import guarded_before, measured, transfer

    start = time.monotonic()
    quiet_libraries()
    use_threads(config.threads)
    tasks = tasks_of(config)
    folder = folder_of(config)
    command = command_of("rounds", config.data, config)
    Run(folder, _inputs(config, tasks), {"command": command}, config.overwrite or not config.resume)
    rows, lineage, warnings = [measured(config, folder, tasks, 0, None)], [], []
    artefact: str | None = None
    for number, task in enumerate(tasks, 1):
        say(f"round {number} of {len(tasks)}: {task.name}")
        report = _round(config, folder, number, artefact)
        rows.append(measured(config, folder, tasks, number, report))
        rows[0] = guarded_before(rows[0], report) if number == 1 else rows[0]
        shutil.rmtree(Path(report["run_dir"]) / "checkpoints", ignore_errors=True)  # a finished round needs none
        lineage.append({"round": number, "task": task.name, "from": artefact or config.model, "artefact": report["artefact"],
                        "run_dir": report["run_dir"], "seconds": report["seconds"]})  # fmt: skip
        warnings += [f"{task.name}: {line}" for line in report["warnings"]]
        artefact = report["artefact"]
    content = {
        "status": "done", "run_dir": str(folder), "model": config.model,
        "peft": config.peft if isinstance(config.peft, str) else config.peft["name"], "tasks": [t.name for t in tasks],
        "matrix": [row.as_dict() for row in rows], "averages": transfer(rows, tasks, config.seed), "lineage": lineage,
        "seconds": sum(r["seconds"] for r in lineage), "wall_seconds": time.monotonic() - start, "peak_memory_gb": peak_gb(),
        "warnings": warnings,
    }  # fmt: skip
    write_text(folder / "report.html", write_rounds_html(content, command, versions()))
    write_json(folder / "report.json", content)
    write_manifest(folder)
    return content


def folder_of(config: Config) -> Path:
    """Return the run directory."""
    return Path(config.run_dir or f"runs/rounds-{'-'.join(Path(name).name.split('.')[0] for name in config.names)}")


def tasks_of(config: Config) -> list[Task]:
    """Read the tasks, in their order.

    Raises:
        UserError: two of one name, or one without test rows.
    """
    tasks = [load_task(name) for name in config.names]
    names = [task.name for task in tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two tasks are called '{twice[0]}'", "Give one of them another name in its YAML.")
    for task in tasks:
        if not task.splits.test:
            raise UserError(f"task '{task.name}' has no test rows, so its column would be empty", "Give it some.")
    return tasks


def _round(config: Config, folder: Path, number: int, artefact: str | None) -> dict[str, Any]:
    """Tune on a round's task, from what the round before left; a finished round is read."""
    from tunesmith.recipes import tune

    settings = round_of(config, folder, number, artefact)
    if (Path(settings["run_dir"]) / "report.json").is_file() and (folder / f"row-{number}.json").is_file():
        return json.loads((Path(settings["run_dir"]) / "report.json").read_text(encoding="utf-8"))
    return tune.run(tune.Config(**settings))


def round_of(config: Config, folder: Path, number: int, artefact: str | None) -> dict[str, Any]:
    """Return the settings of `tune` in a round.

    Args:
        number: from 1. artefact: what the round before left; None = the model itself.
    """
    from tunesmith.recipes import tune

    name = config.names[number - 1]
    place = folder / f"round-{number}-{Path(name).name.split('.')[0]}"
    shared = config.model_fields_set & tune.Config.model_fields.keys() - {"data", "run_dir", "peft", "overwrite", "resume"}
    settings: dict[str, Any] = {key: getattr(config, key) for key in shared}
    settings |= {"data": name, "run_dir": str(place), "model": config.model, "test_rows": 0}
    settings["replay_data"] = _replayed(config, number)
    if artefact and Path(artefact).name == "adapter":
        settings["adapter"] = artefact
    else:
        settings |= {"peft": config.peft, "model": artefact or config.model}
    return settings


def _replayed(config: Config, number: int) -> str:
    if config.replay_data != EARLIER:
        return config.replay_data
    return ",".join(config.names[: number - 1]) or "general"


def _inputs(config: Config, tasks: list[Task]) -> dict[str, Any]:
    """Return all that the rounds follow from; a run directory made from other inputs is not continued."""
    return {**config.model_dump(exclude=set(HARMLESS)), "templates": [task.template_hash for task in tasks]}


def render(report: dict[str, Any]) -> str:
    """Return the matrix for a terminal, and what follows from it."""
    from tunesmith.evaluate.report.rounds import in_words, table

    where = Path(report["run_dir"]) / "report.html"
    return "\n".join([table(report), "", *in_words(report), f"Report: {where}"])
