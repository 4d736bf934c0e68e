"""Climb the ladder of adaptation routes on one task and report which is worth its cost.

Every route answers the same items; each is climbed in a process of its own, and a finished one is never climbed again.
"""

from __future__ import annotations

import re
import textwrap
import time
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.progress import duration, say
from tunesmith.core.registry import BASELINES, METRICS, ROUTES
from tunesmith.core.runs import Run
from tunesmith.data.task import Task, load_task, require_permission
from tunesmith.evaluate.results import check_comparable
from tunesmith.metrics import judges_answers
from tunesmith.models.remote import is_url
from tunesmith.recipes._child import alone
from tunesmith.recipes._ladder.climb import items_hash
from tunesmith.recipes._ladder.config import LadderConfig as Config
from tunesmith.recipes._ladder.config import flat
from tunesmith.recipes._ladder.estimates import check_model
from tunesmith.recipes._ladder.orchestrate import climb_all
from tunesmith.recipes._ladder.report import command_of, ladder_report, write_report

POSITIONAL = "task"
EXAMPLES = (
    "tunesmith ladder movies",
    "tunesmith ladder mine.yaml --quick",
    "tunesmith ladder movies --routes zero-shot,lora --ranks 4,16",
    "tunesmith ladder movies --remedies",
)


def run(config: Config) -> dict[str, Any]:
    """Climb every route that is not finished yet, compare all of them, and write the report.

    Returns:
        The content of `report.json` (schema in `evaluate/report/record.py`) with `run_dir`.

    Raises:
        UserError: an unknown route or task, bad rows, or a run directory with other settings.
        WorkFailed: no route could be climbed.
        Interrupted: Ctrl-C or SIGTERM; finished routes are kept.
    """
    start = time.monotonic()
    command = command_of(config)
    full, config = (config, config.quickened()) if config.quick else (None, config)
    routes, task = prepare(config)
    folder = Path(config.run_dir or f"runs/ladder-{slug(task.name)}{'-quick' if config.quick else ''}")
    with alone(folder):
        Run(folder, inputs_of(config, task), {"command": command}, config.overwrite or not config.resume)
        say(_announcement(config, task, routes))
        climbed = climb_all(config, full, task, routes, folder)
        check_comparable([result for result, _ in climbed.rows])
        report = ladder_report(config, task, climbed, command, time.monotonic() - start)
        content = write_report(folder, report)
    say(f"climbed in {duration(report.run_seconds)}")
    return content


def render(report: dict[str, Any]) -> str:
    """Return the table and verdict for a terminal."""
    folder = Path(report["run_dir"])
    return f"{(folder / 'report.txt').read_text(encoding='utf-8')}\nReport: {folder / 'report.html'}"


def prepare(config: Config) -> tuple[dict[str, dict[str, Any]], Task]:
    """Read the task and refuse whatever can be known to be wrong before any work is done.

    Returns:
        The rows of the ladder, label -> route with its parameters, and the task.

    Raises:
        UserError: an unknown route, baseline, model or task, bad rows, or a metric that cannot rank routes.
    """
    routes = route_specs(config)
    for name in config.baselines:
        BASELINES.get(name)
    check_model(config.model)
    _check_trainable(config.model, routes)
    # Whoever shows rows before an item, or chooses by them, uses them as much as whoever trains.
    learns = bool(config.baselines) or any(spec["name"].replace("_", "-") != "zero-shot" for spec in routes.values())
    require_permission(config.task, config.allow_canary or not learns)
    task = load_task(config.task, skip_bad_rows=config.skip_bad_rows)
    judging = [name for name in METRICS.names() if judges_answers(METRICS.get(name))]
    for metric in task.metrics:
        if metric.replace("_", "-") not in judging:
            raise UserError(f"task '{task.name}': the metric '{metric}' cannot judge answers", f"Use {', '.join(judging)}.")
    return routes, task


def _check_trainable(model: str, routes: dict[str, dict[str, Any]]) -> None:
    trained = [label for label, spec in routes.items() if ROUTES.get(spec["name"]).KIND == "tuned"]
    if trained and is_url(model):
        others = ",".join(spec["name"] for label, spec in routes.items() if label not in trained)
        fix = f"Leave {', '.join(trained)} out: --routes {others}." if others else "Use a model on this machine."
        raise UserError(f"the route '{trained[0]}' trains weights, and a model behind a URL has none here", fix)


def route_specs(config: Config) -> dict[str, dict[str, Any]]:
    """Return label -> route with its parameters, every rank a row of its own.

    Raises:
        UserError: an unknown route or parameter, or the same row twice.
    """
    specs: dict[str, dict[str, Any]] = {}
    for given in config.routes:
        entry, parameters = ROUTES.parameters(given)
        name = (given if isinstance(given, str) else given["name"]).partition(":")[0]
        open_keys = set(type(parameters).model_fields) - parameters.model_fields_set
        shared = {key: getattr(config, key) for key in ("shots", "draws") if key in open_keys}
        for ranks in [{"rank": rank} for rank in config.ranks] if "rank" in open_keys else [{}]:
            spec = {"name": name.replace("_", "-"), **parameters.model_dump(exclude_unset=True), **shared, **ranks}
            label = entry.label(ROUTES.parameters(spec)[1])
            if label in specs:
                raise UserError(f"the route '{label}' is given twice", "Name it once, or give each its own parameters.")
            specs[label] = spec
    return specs


def inputs_of(config: Config, task: Task) -> dict[str, Any]:
    """What every finished route depends on; which routes are wanted, and what an hour costs, is not among it."""
    free = {
        "task", "run_dir", "overwrite", "resume", "quick", "routes", "remedies", "baselines", "ranks", "shots", "draws", "target",
        "budget_minutes", "price", "threads", "cache_gb", "skip_bad_rows", "engine", "address",
    }  # fmt: skip
    settings = config.model_dump(
        exclude={**dict.fromkeys(free, True), "train": {"save_steps", "tokens_per_micro_batch", "report_to"}}
    )
    rows = {name: f"{len(rows)}, hash {items_hash(rows)}" for name, rows in config.rows(task).items()}
    return {**flat(settings), "task": task.name, "template": task.template_hash, "metrics": list(task.metrics), **rows}


def slug(name: str) -> str:
    """Return a task's name as part of a folder's name."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "task"


def _announcement(config: Config, task: Task, routes: dict[str, Any]) -> str:
    rows = ", ".join(f"{len(rows):,} {name}" for name, rows in config.rows(task).items())
    lines = [f"{task.name}: {rows}; model {config.model}", *(f"note: {warning}" for warning in task.splits.warnings)]
    lines += [f"{title}: {', '.join(names)}" for title, names in (("routes", routes), ("baselines", config.baselines)) if names]
    return "\n".join(piece for line in lines for piece in textwrap.wrap(line, 80, subsequent_indent="  "))
