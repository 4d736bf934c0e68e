"""Climb the ladder of adaptation routes on one task and report which is worth its cost.

Every route answers the same items; each is climbed in a process of its own, and a finished one is never climbed again.
"""

from __future__ import annotations

import json
import time
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.core.config import Config as BaseConfig
from tunesmith.core.errors import UserError
from tunesmith.core.files import write_json, write_manifest, write_text
from tunesmith.core.progress import duration, say
from tunesmith.core.registry import BASELINES, METRICS, ROUTES
from tunesmith.core.runs import Run, versions
from tunesmith.core.seeds import derive
from tunesmith.data.task import Task, load_task
from tunesmith.evaluate.report.page import write_html
from tunesmith.evaluate.report.record import LadderReport, to_json
from tunesmith.evaluate.report.terminal import table, write_markdown
from tunesmith.evaluate.results import check_comparable
from tunesmith.evaluate.verdict import is_reference, judge
from tunesmith.recipes import _orchestrate as orchestrate
from tunesmith.recipes._climb import by_draw, items_hash
from tunesmith.stats.compare import Comparison, compare
from tunesmith.train.parameters import FitParameters

POSITIONAL = "task"
EXAMPLES = (
    "tunesmith ladder movies",
    "tunesmith ladder mine.yaml --quick",
    "tunesmith ladder movies --routes zero-shot,lora --ranks 4,16",
)
_ROUTES = ["zero-shot", "few-shot", "calibrated", "few-shot-nearest", "lora", "full"]
_BASELINES = ["majority", "tfidf", "vader", "human", "minilm"]
_QUICK = {"train_rows": 400, "validation_rows": 100, "test_rows": 200, "guard_rows": 50, "draws": 2}


class Price(BaseConfig):
    """What a query costs; give one of the two."""

    machine_hour: float | None = None
    """money for an hour of this machine"""
    million_tokens: float | None = None
    """money for a million prompt tokens"""


class Config(BaseConfig):
    """Settings of `tunesmith ladder`."""

    task: str
    """embedded task, task YAML, or a file with text and label columns"""
    model: str = "smollm2"
    """embedded name, local directory or hub id"""
    routes: list[str | dict[str, Any]] = [*_ROUTES]
    """which routes; "few-shot:shots=8" sets a route's own parameters"""
    baselines: list[str] = _BASELINES
    """rows without a language model"""
    shots: int = Field(4, ge=1)
    """demonstrations of the few-shot routes"""
    draws: int = Field(3, ge=1)
    """seeded draws of demonstrations"""
    ranks: list[int] = [16]
    """ranks of the LoRA route, each a row"""
    train_rows: int = Field(1600, ge=1)
    """at most this many training rows"""
    validation_rows: int = Field(200, ge=0)
    """at most this many rows for early stopping"""
    test_rows: int = Field(1000, ge=1)
    """at most this many items to measure on"""
    guard_rows: int = Field(100, ge=1)
    """rows of each guard task for forgetting"""
    train: FitParameters = FitParameters()
    """how trained routes are trained"""
    quick: bool = False
    """a first look in minutes: few rows, two draws"""
    target: float | None = None
    """stop climbing once a route's lower bound passes this"""
    budget_minutes: float | None = None
    """start no route that would not finish within this"""
    price: Price = Price()
    dtype: str = "auto"
    threads: int | None = None
    """processor threads; absent = all"""
    seed: int = 0
    run_dir: str | None = None
    """absent = runs/ladder-TASK"""
    overwrite: bool = False
    """throw away finished routes in run_dir"""
    resume: bool = True
    """reuse finished routes in run_dir; --resume false is --overwrite"""
    skip_bad_rows: bool = False
    """go on with the good rows of a file and list the bad ones"""


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
    config = _quick(config) if config.quick else config
    routes = route_specs(config)
    for name in config.baselines:
        BASELINES.get(name)
    task = load_task(config.task, skip_bad_rows=config.skip_bad_rows)
    folder = Path(config.run_dir or f"runs/ladder-{task.name}")
    command = _command(config)
    ladder_run = Run(folder, _inputs(config, task), {"command": command}, config.overwrite or not config.resume)
    for warning in task.splits.warnings:
        say(f"note: {warning}")
    say(_announce(config, task, routes))
    climbed, skipped = orchestrate.climb_all(config, task, routes, ladder_run.folder)
    results = [r for r, _ in climbed]
    check_comparable(results)
    report = _report(config, task, climbed, skipped, command, time.monotonic() - start)
    return _write(folder, report)


def plan(config: Config) -> dict[str, Any]:
    """Say what would run, how long it would take and how much memory it would need, without running it."""
    config = _quick(config) if config.quick else config
    task = load_task(config.task, skip_bad_rows=config.skip_bad_rows)
    return orchestrate.plan(config, task, route_specs(config))


def render(report: dict[str, Any]) -> str:
    """Return the table and verdict for a terminal."""
    folder = Path(report["run_dir"])
    return f"{(folder / 'report.txt').read_text(encoding='utf-8')}\nReport: {folder / 'report.html'}"


def route_specs(config: Config) -> dict[str, dict[str, Any]]:
    """Return label -> route with its parameters, every rank a row of its own.

    Raises:
        UserError: an unknown route or parameter, or the same row twice.
    """
    specs: dict[str, dict[str, Any]] = {}
    for given in config.routes:
        entry, parameters = ROUTES.parameters(given)
        name = given.partition(":")[0] if isinstance(given, str) else given["name"]
        known = set(type(parameters).model_fields) - parameters.model_fields_set
        defaults = {k: getattr(config, k) for k in ("shots", "draws") if k in known}
        for rank in config.ranks if "rank" in known else [None]:
            chosen = {**parameters.model_dump(exclude_unset=True), **defaults, **({"rank": rank} if rank else {})}
            spec = {"name": name.replace("_", "-"), **chosen}
            label = entry.label(ROUTES.parameters(spec)[1])
            if label in specs:
                raise UserError(f"the route '{label}' is given twice", "Give each row parameters of its own.")
            specs[label] = spec
    return specs


def _inputs(config: Config, task: Task) -> dict[str, Any]:
    """What a finished route depends on; which routes are wanted, and what an hour costs, is not among it."""
    free = {"run_dir", "overwrite", "resume", "routes", "baselines", "ranks", "target", "budget_minutes", "price", "threads"}
    return {
        **config.model_dump(exclude=free),
        "template": task.template_hash,
        "metrics": list(task.metrics),
        "test": items_hash(task.splits.test),
        "training": items_hash(task.splits.train),
    }


def _quick(config: Config) -> Config:
    return config.model_copy(update={k: min(v, getattr(config, k)) for k, v in _QUICK.items()})


def _announce(config: Config, task: Task, routes: dict[str, Any]) -> str:
    splits = task.splits
    return (
        f"{task.name}: {min(len(splits.test), config.test_rows)} test items, {min(len(splits.train), config.train_rows)} training rows, "
        f"model {config.model}\nroutes: {', '.join([*routes])}; baselines: {', '.join(config.baselines) or 'none'}"
    )


def _compare(config: Config, climbed: list[orchestrate.Climb]) -> Comparison:
    predictions = {r.route: [[p.predicted for p in d] for d in by_draw(ps)] for r, ps in climbed}
    gold = [p.gold for p in by_draw(climbed[0][1])[0]]
    evaluate = METRICS.get(climbed[0][0].metric).evaluate
    # A person is a line to measure against and nothing one could ship: testing against it would only cost power.
    candidates = [r.route for r, _ in climbed if not is_reference(r)]
    return compare(evaluate, gold, predictions, derive(config.seed, "bootstrap"), pairs=list(combinations(candidates, 2)))


def _report(
    config: Config, task: Task, climbed: list[orchestrate.Climb], skipped: dict[str, str], command: str, seconds: float
) -> LadderReport:
    comparison = _compare(config, climbed)
    results = [orchestrate.with_interval(r, comparison) for r, _ in climbed]
    price = config.price
    note = f"{price.machine_hour} per machine-hour" if price.machine_hour else f"{price.million_tokens} per million prompt tokens"
    return LadderReport(
        task=task.name, description=task.file.description, model=config.model, metric=task.metrics[0], results=results,
        predictions={r.route: ps for r, ps in climbed}, comparison=comparison, verdict=judge(results, comparison), skipped=skipped,
        warnings=[*task.splits.warnings, *_quick_warning(config)], command=command,
        provenance={**versions(), **_provenance(config, task)},
        price_note=note if price.machine_hour or price.million_tokens else "", run_seconds=seconds,
    )  # fmt: skip


def _quick_warning(config: Config) -> list[str]:
    return ["a quick look: few rows, so intervals are wide; climb without --quick before deciding"] if config.quick else []


def _provenance(config: Config, task: Task) -> dict[str, str]:
    splits = task.splits
    return {
        "seed": str(config.seed),
        "test items": f"{min(len(splits.test), config.test_rows)}, hash {items_hash(splits.test[: config.test_rows])}",
        "training rows": f"{min(len(splits.train), config.train_rows)}, hash {items_hash(splits.train[: config.train_rows])}",
        "template": f"{task.file.template!r}, hash {task.template_hash}",
        "settings": json.dumps(config.model_dump(exclude={"run_dir", "overwrite", "resume"}, exclude_defaults=True)),
    }


def _command(config: Config) -> str:
    given = config.model_dump(exclude_defaults=True, exclude={"task", "overwrite", "resume"})
    words = [f"--{k}" if v is True else f"--set {k}={json.dumps(v) if not isinstance(v, str) else v}" for k, v in given.items()]
    return " ".join(["tunesmith ladder", config.task, *words])


def _write(folder: Path, report: LadderReport) -> dict[str, Any]:
    content = {**to_json(report), "run_dir": str(folder)}
    write_text(folder / "report.html", write_html(report))
    write_text(folder / "report.md", write_markdown(report))
    write_text(folder / "report.txt", table(report))
    write_json(folder / "report.json", content)
    write_manifest(folder)
    say(f"climbed in {duration(report.run_seconds)}")
    return content
