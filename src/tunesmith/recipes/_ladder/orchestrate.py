"""Climbing a ladder's baselines and routes one after another: what is finished, what is next, when to stop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.progress import say
from tunesmith.core.registry import BASELINES, METRICS, ROUTES
from tunesmith.core.seeds import derive
from tunesmith.data.task import Task
from tunesmith.evaluate.report.terminal import row
from tunesmith.evaluate.results import Prediction, RouteResult, load
from tunesmith.recipes._child import Failure, read_failure, run_child
from tunesmith.recipes._ladder.climb import Assignment, by_draw, folder_name
from tunesmith.recipes._ladder.config import LadderConfig
from tunesmith.recipes._ladder.estimates import Estimates, memory_needed
from tunesmith.stats.compare import Comparison, compare

Climb = tuple[RouteResult, list[Prediction]]
Routes = Mapping[str, dict[str, Any]]


@dataclass
class Climbed:
    """What a ladder has so far.

    Attributes:
        rows: finished routes with their predictions, in ladder order.
        skipped: route -> why it was not climbed. failed: the routes among them that were tried.
    """

    rows: list[Climb] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def tried(self, routes: Routes) -> bool:
        """Whether any of these routes has been climbed, well or not."""
        return any(result.route in routes for result, _ in self.rows) or any(label in routes for label in self.failed)

    def fail(self, label: str, failure: Failure) -> None:
        """Note, and tell the user, that a route left no result."""
        say(f"{label}: {failure.message}" + (f"\n  {failure.fix}" if failure.fix else ""))
        self.skipped[label] = failure.message
        self.failed.append(label)


def with_interval(result: RouteResult, comparison: Comparison) -> RouteResult:
    """Return a result with the interval a comparison gives it."""
    interval = comparison.intervals[result.route]
    return replace(result, low=interval.low, high=interval.high)


def climb_all(config: LadderConfig, full: LadderConfig | None, task: Task, routes: Routes, folder: Path) -> Climbed:
    """Climb baselines and routes that are not finished.

    Args:
        full: the same ladder without --quick, None where this is it.
        routes: label -> route with its parameters.

    Raises:
        UserError: the first route refuses its settings or rows, or a finished one had other parameters or is damaged.
        WorkFailed: nothing could be climbed, or no route where routes were asked for.
        Interrupted: a signal; what is finished stays finished.
    """
    climbed, start = Climbed(), time.monotonic()
    finished: dict[str, Climb | Failure | None] = {
        label: read(config, folder_of(folder, label), spec) for label, spec in routes.items()
    }
    _climb_baselines(config, task, folder / "routes" / "baselines", climbed)
    estimates = Estimates(config, full, task, {label: routes[label] for label, climb in finished.items() if climb is None})
    if config.engine == "ray":
        _climb_elsewhere(config, task, folder, routes, finished)
    reached = ""
    for label, spec in routes.items():
        climb = finished[label]
        if isinstance(climb, tuple):
            say(row(climb[0]))
        elif climb is None:
            reason = ROUTES.get(spec["name"]).unsuitable(task) or reached
            if reason := reason or estimates.over_budget(label, time.monotonic() - start):
                climbed.skipped[label] = reason
                continue
            climb = _climb_route(config, folder_of(folder, label), label, spec, estimates)
        if isinstance(climb, Failure):
            # What the first route cannot take (the model, a row, a setting), no other can.
            if climb.exit_code == 2 and not climbed.tried(routes):
                raise UserError(climb.message, climb.fix)
            climbed.fail(label, climb)
            continue
        climbed.rows.append(climb)
        if config.target is not None and climb[0].low >= config.target:
            reached = f"the target of {config.target:g} was reached by {label}"
    _check_something(climbed, routes)
    return climbed


def _climb_elsewhere(
    config: LadderConfig, task: Task, folder: Path, routes: Routes, finished: dict[str, Climb | Failure | None]
) -> None:
    """Climb all that is left side by side, and note in `finished` what came of it."""
    from tunesmith.recipes._ladder.side_by_side import climb_side_by_side

    left = {k: spec for k, spec in routes.items() if finished[k] is None and not ROUTES.get(spec["name"]).unsuitable(task)}
    if not left:
        return
    assignments = {label: assignment_of(config, folder_of(folder, label), spec, []) for label, spec in left.items()}
    failures = climb_side_by_side(assignments, memory_needed(config, task, left), config.address)
    for label, spec in left.items():
        found = read(config, folder_of(folder, label), spec)
        finished[label] = found or failures.get(label, Failure("it ended without a result"))


def _climb_route(config: LadderConfig, folder: Path, label: str, spec: dict[str, Any], estimates: Estimates) -> Climb | Failure:
    say(f"climbing {label}" + estimates.promise(label))
    began = time.monotonic()
    failure = run_child(assignment_of(config, folder, spec, []))
    climb = read(config, folder, spec)
    if climb is None:
        return failure or Failure("it ended without a result")
    say(row(climb[0]))
    estimates.learn(label, time.monotonic() - began)
    return climb


def _check_something(climbed: Climbed, routes: Routes) -> None:
    only_baselines = all(result.kind == "baseline" for result, _ in climbed.rows)
    if not climbed.rows or (only_baselines and any(label in routes for label in climbed.failed)):
        reasons = "; ".join(f"{label}: {reason}" for label, reason in climbed.skipped.items() if label in routes or not routes)
        raise WorkFailed(f"no route could be climbed: {reasons or 'none was asked for'}")


def _climb_baselines(config: LadderConfig, task: Task, folder: Path, climbed: Climbed) -> None:
    suited = []
    for name in dict.fromkeys(config.baselines):
        if reason := BASELINES.get(name).unsuitable(task):
            climbed.skipped[name] = reason
        else:
            suited.append(name)
    shown: dict[str, Climb] = {}

    def show() -> None:
        for name in suited:
            if name not in shown and (climb := read(config, folder / name)):
                shown[name] = climb
                say(row(climb[0]))

    show()
    missing = [name for name in suited if name not in shown]
    failure = run_child(assignment_of(config, folder, {}, missing), show) if missing else None
    for name in suited:
        if name in shown:
            climbed.rows.append(shown[name])
        else:
            climbed.fail(name, read_failure(folder / name) or failure or Failure("it ended without a result"))


def folder_of(run_folder: Path, label: str) -> Path:
    """Return where a route's result stands."""
    return run_folder / "routes" / folder_name(label)


def read(config: LadderConfig, folder: Path, spec: dict[str, Any] | None = None) -> Climb | None:
    """Read a finished route with the interval of its value and its price, or return None.

    Args:
        spec: the route's parameters as wanted now; a baseline has none.

    Raises:
        UserError: its files are damaged, or it was climbed with other parameters.
    """
    if not (folder / "result.json").is_file():
        return None
    result, predictions = load(folder)
    wanted = ROUTES.parameters(spec)[1].model_dump() if spec else {}
    if other := [key for key, value in wanted.items() if result.parameters.get(key) != value]:
        change = f"{other[0]} was {result.parameters.get(other[0])}, now {wanted[other[0]]}"
        raise UserError(
            f"{folder} holds '{result.route}' climbed with other parameters ({change})",
            "Choose another --run_dir, or delete that folder to climb it again.",
        )
    draws = by_draw(predictions)
    answers = {result.route: [[p.predicted for p in draw] for draw in draws]}
    seed = derive(config.seed, "bootstrap")
    alone = compare(METRICS.get(result.metric).evaluate, [p.gold for p in draws[0]], answers, seed, pairs=[])
    return replace(with_interval(result, alone), price_per_1000=_price(config, result)), predictions


def _price(config: LadderConfig, result: RouteResult) -> float | None:
    if config.price.machine_hour is not None:
        return config.price.machine_hour * result.ms_per_query / 3600
    if config.price.million_tokens is not None:
        return config.price.million_tokens * result.tokens_per_query / 1000
    return None


def assignment_of(config: LadderConfig, path: Path, spec: dict[str, Any], baselines: list[str]) -> Assignment:
    """Return what one process is to climb into the folder `path`: a route, or baselines."""
    return Assignment(
        task=config.task, model=config.model, dtype=config.dtype, threads=config.threads, seed=config.seed,
        train_rows=config.train_rows, validation_rows=config.validation_rows, test_rows=config.test_rows,
        guard_rows=config.guard_rows, train=config.train.model_dump(), skip_bad_rows=config.skip_bad_rows,
        folder=str(path), route=spec, baselines=baselines, cache_gb=config.cache_gb,
    )  # fmt: skip
