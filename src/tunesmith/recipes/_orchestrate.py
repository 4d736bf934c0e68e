"""Running a ladder's routes one after another, each in its own process: order, budget, target, estimates."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.errors import Interrupted, UserError, WorkFailed
from tunesmith.core.files import write_json
from tunesmith.core.progress import duration, say
from tunesmith.core.registry import METRICS, ROUTES
from tunesmith.data.task import Task
from tunesmith.evaluate.report.terminal import row
from tunesmith.evaluate.results import Prediction, RouteResult, load
from tunesmith.recipes._climb import Assignment, by_draw, folder_name
from tunesmith.recipes._workload import Sizes, Workload, forward_rate, memory_of, seconds_of, weights_of
from tunesmith.stats.compare import Comparison, compare

if TYPE_CHECKING:
    from tunesmith.recipes.ladder import Config

Climb = tuple[RouteResult, list[Prediction]]
_BASELINE_FOLDER = "baselines"
_SECONDS_OF_BASELINES = 30.0


def folder_of(run_folder: Path, label: str) -> Path:
    """Return where a route's result stands."""
    return run_folder / "routes" / folder_name(label)


def read(folder: Path) -> Climb | None:
    """Read a finished route with the interval of its value, or return None."""
    if not (folder / "result.json").is_file():
        return None
    result, predictions = load(folder)
    draws = by_draw(predictions)
    answers = {result.route: [[p.predicted for p in draw] for draw in draws]}
    alone = compare(METRICS.get(result.metric).evaluate, [p.gold for p in draws[0]], answers, 0, pairs=[])
    return with_interval(result, alone), predictions


def with_interval(result: RouteResult, comparison: Comparison) -> RouteResult:
    """Return a result with the interval a comparison gives it."""
    interval = comparison.intervals[result.route]
    return replace(result, low=interval.low, high=interval.high)


def climb_all(config: Config, task: Task, routes: dict[str, dict[str, Any]], folder: Path) -> tuple[list[Climb], dict[str, str]]:
    """Climb baselines and routes that are not finished.

    Returns:
        Finished routes with their predictions, in ladder order, and route -> reason for those that were not climbed.

    Raises:
        WorkFailed: nothing could be climbed.
        Interrupted: a signal; what is finished stays finished.
    """
    start, skipped = time.monotonic(), {}
    if config.baselines:
        missing = [b for b in config.baselines if not _known(folder / "routes" / _BASELINE_FOLDER / b)]
        shown = {path: _show(path) for b in config.baselines if _known(path := folder / "routes" / _BASELINE_FOLDER / b)}
        if missing:
            assignment = _assignment(config, folder / "routes" / _BASELINE_FOLDER, {}, config.baselines)
            _run_child(assignment, lambda: _show_new(folder / "routes" / _BASELINE_FOLDER, config.baselines, shown))
    climbed = _baselines(config, folder, skipped)
    estimates = _Estimates(config, task, routes)
    reached = ""
    for label, spec in routes.items():
        path = folder_of(folder, label)
        climb = read(path)
        if climb is None:
            reason = reached or estimates.over_budget(label, time.monotonic() - start)
            if reason:
                skipped[label] = reason
                continue
            say(f"climbing {label}" + estimates.promise(label))
            began = time.monotonic()
            problem = _run_child(_assignment(config, path, spec, []))
            climb = read(path)
            if climb is None:
                skipped[label] = problem or "it ended without a result"
                say(f"{label}: {skipped[label]}")
                continue
            say(row(climb[0]))
            estimates.learn(label, time.monotonic() - began)
        else:
            say(row(climb[0]))
        climbed.append(climb)
        if config.target is not None and climb[0].low >= config.target:
            reached = f"the target of {config.target} was reached by {label}"
    if not climbed:
        raise WorkFailed("no route could be climbed: " + "; ".join(f"{k}: {v}" for k, v in skipped.items()))
    return climbed, skipped


def _known(path: Path) -> bool:
    return (path / "result.json").is_file() or (path / "skipped.json").is_file()


def _show(path: Path) -> bool:
    if climb := read(path):
        say(row(climb[0]))
    return True


def _show_new(folder: Path, names: list[str], shown: dict[Path, bool]) -> None:
    for name in names:
        path = folder / name
        if path not in shown and _known(path):
            shown[path] = _show(path)


def _baselines(config: Config, folder: Path, skipped: dict[str, str]) -> list[Climb]:
    climbed: list[Climb] = []
    for name in config.baselines:
        path = folder / "routes" / _BASELINE_FOLDER / name
        if climb := read(path):
            climbed.append(climb)
        elif (path / "skipped.json").is_file():
            skipped[name] = json.loads((path / "skipped.json").read_text(encoding="utf-8"))["reason"]
        else:
            skipped[name] = "it failed; the message stands above"
    return climbed


def _assignment(config: Config, path: Path, spec: dict[str, Any], baselines: list[str]) -> Assignment:
    return Assignment(
        task=config.task, model=config.model, dtype=config.dtype, threads=config.threads, seed=config.seed, train_rows=config.train_rows,
        validation_rows=config.validation_rows, test_rows=config.test_rows, guard_rows=config.guard_rows, train=config.train.model_dump(),
        price=config.price.model_dump(exclude_none=True), skip_bad_rows=config.skip_bad_rows, folder=str(path), route=spec,
        baselines=baselines,
    )  # fmt: skip


def _run_child(assignment: Assignment, meanwhile: Callable[[], None] = lambda: None) -> str:
    """Run one assignment in a process of its own; returns why it failed, "" if it did not.

    Raises:
        UserError: the route refused its settings or data (exit code 2).
        Interrupted: a signal reached us; the child was told and has saved what it saves.
    """
    folder = Path(assignment.folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f"{folder.name}.assignment.json")
    write_json(path, asdict(assignment))
    child = subprocess.Popen([sys.executable, "-m", "tunesmith.recipes._climb", str(path)])
    before = signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(signal.SIGTERM)) if _main_thread() else None
    try:
        while child.poll() is None:
            time.sleep(0.1)
            meanwhile()
    except KeyboardInterrupt:
        child.wait()
        raise Interrupted("stopped; finished routes are kept", 130, "The same command continues from there.") from None
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
        if child.poll() is None:
            child.kill()
            child.wait()
    meanwhile()
    path.unlink(missing_ok=True)
    if child.returncode in (130, 143):
        raise Interrupted("stopped; finished routes are kept", child.returncode, "The same command continues from there.")
    if child.returncode == 2:
        raise UserError("the route above could not be climbed as asked")
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        hint = ", most likely because memory ran out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"it failed with exit code {child.returncode}; the message stands above" if child.returncode else ""


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def sizes_of(config: Config, task: Task) -> Sizes:
    """Estimate a ladder's sizes without loading a model: four characters a token, weights counted from file headers."""
    items = task.splits.test[: config.test_rows]
    train = task.splits.train[: config.train_rows]
    prompt = sum(len(task.template.prompt(e.fields)) for e in items) / max(len(items), 1) / 4 + 1
    rows = sum(len(task.template.prompt(e.fields)) + len(task.answer(e)) for e in train) / 4 + 2 * len(train)
    weights, width = _shape_of(config.model)
    per_weight = 4 if config.dtype in ("fp32", "float32") else 2
    return Sizes(
        items=len(items), prompt_tokens=prompt, train_tokens=rows * config.train.epochs,
        validation=min(config.validation_rows, len(task.splits.validation)), guard=config.guard_rows, weights=weights,
        bytes_per_weight=per_weight, micro_batch=config.train.tokens_per_micro_batch, width=width,
    )  # fmt: skip


def _shape_of(model: str) -> tuple[int, int]:
    from tunesmith.models import embedded, toy

    if model in toy.NAMES:
        return 90_816, 128
    folder = embedded.folder_of(model) if model in embedded.NAMES else Path(model)
    if not (folder / "config.json").is_file():
        return 135_000_000, 576 * 30  # a hub id that is not here yet: the estimate is that of the default model
    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return weights_of(folder), int(shape.get("hidden_size", 768)) * int(shape.get("num_hidden_layers", 12))


def _workload(spec: dict[str, Any], sizes: Sizes) -> Workload:
    entry, parameters = ROUTES.parameters(spec)
    return entry.workload(parameters, sizes)


def plan(config: Config, task: Task, routes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what would run, with seconds and memory as estimated from a moment of matrix products on this machine."""
    sizes = sizes_of(config, task)
    rate = forward_rate(sizes.weights, config.dtype, config.threads)
    rows = []
    for label, spec in routes.items():
        work = _workload(spec, sizes)
        rows.append({"route": label, "seconds": round(seconds_of(work, rate), 1), "memory_gb": round(memory_of(work, sizes), 2)})
    total = sum(r["seconds"] for r in rows) + (_SECONDS_OF_BASELINES if config.baselines else 0.0)
    return {
        "task": task.name, "model": config.model, "items": sizes.items, "training_rows": min(config.train_rows, len(task.splits.train)),
        "routes": rows, "seconds": round(total, 1), "memory_gb": max((r["memory_gb"] for r in rows), default=0.0),
        "forward_tokens_per_second": round(rate),
    }  # fmt: skip


class _Estimates:
    """What the rest of a climb will cost, judged by what the routes so far have cost."""

    def __init__(self, config: Config, task: Task, routes: dict[str, dict[str, Any]]) -> None:
        self.budget = config.budget_minutes
        sizes = sizes_of(config, task)
        self.work = {label: _workload(spec, sizes) for label, spec in routes.items()}
        self.left = list(routes)
        self.rate = 0.0

    def learn(self, label: str, seconds: float) -> None:
        """Note what a route took; the first one also tells what all the others will."""
        first = not self.rate
        work = self.work[label]
        self.rate = work.forward_tokens / max(seconds - seconds_of(Workload(0), 1.0), 1.0)
        self.left = self.left[self.left.index(label) + 1 :]
        if first and self.left:
            say(f"the full climb will take about {duration(sum(self._seconds(other) for other in self.left))} more")

    def _seconds(self, label: str) -> float:
        return seconds_of(self.work[label], self.rate)

    def promise(self, label: str) -> str:
        """Return " (about 2 min)" once that can be said."""
        return f" (about {duration(self._seconds(label))})" if self.rate else ""

    def over_budget(self, label: str, spent: float) -> str:
        """Return why the budget forbids a route, "" if it does not."""
        if self.budget is None:
            return ""
        if spent + (self._seconds(label) if self.rate else 0.0) <= self.budget * 60:
            return ""
        return f"it would not have finished within --budget_minutes {self.budget:g}"
