"""One route, climbed in a process of its own: so its memory is its own, and its failure is too.

`python -m tunesmith.recipes._ladder.climb ASSIGNMENT.json` leaves `result.json` and `predictions.jsonl` in the route's folder, or
`FOLDER.failure.json` beside it; the process that asked for it tells the user.
"""

from __future__ import annotations

import copy
import json
import re
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import canonical, text_hash, write_json
from tunesmith.core.memory import limit_cache, peak_gb
from tunesmith.core.records import Example
from tunesmith.core.registry import BASELINES, METRICS, ROUTES
from tunesmith.core.seeds import derive
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import Task, load_task
from tunesmith.evaluate.results import Forgetting, Prediction, RouteResult, load, save
from tunesmith.train.parameters import FitParameters


@dataclass(frozen=True)
class Assignment:
    """What one process is to climb; plain values, so that it can be written down and sent anywhere.

    Attributes:
        route: a route's name and parameters, or empty where baselines are climbed.
        baselines: names of baselines, or empty. folder: where the route's result goes; baselines have folders below it.
    """

    task: str
    model: str
    dtype: str
    threads: int | None
    cache_gb: float
    seed: int
    train_rows: int
    validation_rows: int
    test_rows: int
    guard_rows: int
    train: dict[str, Any]
    skip_bad_rows: bool
    folder: str
    route: dict[str, Any]
    baselines: list[str]

    @property
    def fingerprint(self) -> str:
        """Hash of everything its result depends on, apart from the rows and weights themselves."""
        ignored = ("folder", "threads", "cache_gb", "baselines", "task", "skip_bad_rows")
        values = {key: value for key, value in asdict(self).items() if key not in ignored}
        for key in ("save_steps", "tokens_per_micro_batch", "report_to"):
            values["train"].pop(key)
        return text_hash(canonical(values))


@dataclass
class Climbed:
    """What a route hands back: one list of predictions a draw, and what they cost.

    Attributes:
        peak_memory_gb: of work done elsewhere; that of this process is counted anyway.
        templates: the template of each draw, by name; empty where all draws have the task's.
        measures: what else was measured, by name, beside the task's metrics.
    """

    draws: list[list[Prediction]]
    evaluation_seconds: float
    prompt_tokens: float
    latency_ms: tuple[float, float]
    seconds: float = 0.0
    trained_parameters: int = 0
    forgetting: Forgetting | None = None
    peak_memory_gb: float = 0.0
    notes: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)


class Workshop:
    """What every route works with: the task's rows, the model (loaded when first needed) and its prompts.

    Args:
        alone: the route is climbed by itself, so the folders beside its own are not those of a ladder's other routes.
    """

    def __init__(self, assignment: Assignment, alone: bool = False) -> None:
        self.assignment, self.alone = assignment, alone
        self.seed = assignment.seed
        self.task: Task = load_task(assignment.task, skip_bad_rows=assignment.skip_bad_rows)
        splits = self.task.splits
        self.train: list[Example] = splits.train[: assignment.train_rows]
        self.validation: list[Example] = splits.validation[: assignment.validation_rows]
        self.items: list[Example] = splits.test[: assignment.test_rows]
        self.folder = Path(assignment.folder)
        self.fit_parameters = FitParameters.model_validate(assignment.train)

    @cached_property
    def lm(self) -> Any:
        """The base model, or the server it is behind."""
        from tunesmith.recipes._models import open_engine

        return open_engine(self.assignment.model, self.assignment.dtype)

    @cached_property
    def prompts(self) -> Prompts:
        """The task's prompts for this model."""
        return Prompts(self.task, self.lm.tokenizer)

    def asker(self, trained: bool = False) -> Any:
        """Return who asks the model the task's items."""
        from tunesmith.evaluate.answer import Asker

        return Asker(self.lm, self.prompts, trained)

    def with_task(self, task: Task) -> Workshop:
        """Return the same rows and model with another form of the task: another of its templates, other words."""
        other = copy.copy(self)
        other.__dict__.pop("prompts", None)
        other.task, other.lm = task, self.lm
        return other

    def finished(self, route: str, parameters: dict[str, Any]) -> tuple[RouteResult, list[Prediction]] | None:
        """Return a finished route of this ladder by its label, if it was climbed with the same parameters."""
        folder = self.folder.parent / folder_name(route)
        climbed = load(folder) if not self.alone and (folder / "result.json").is_file() else None
        return climbed if climbed and climbed[0].parameters == parameters else None

    def draw_seed(self, draw: int) -> int:
        """Return the seed of a draw of demonstrations; the same draw shows the same rows in every route."""
        return derive(self.seed, "demonstrations", draw)


def folder_name(route: str) -> str:
    """Return the name of a route's folder."""
    return re.sub(r"[^a-z0-9]+", "-", route.lower()).strip("-")


def by_draw(predictions: Sequence[Prediction]) -> list[list[Prediction]]:
    """Group predictions by draw, each in item order."""
    draws: dict[int, list[Prediction]] = {}
    for prediction in predictions:
        draws.setdefault(prediction.draw, []).append(prediction)
    return [draws[d] for d in sorted(draws)]


def items_hash(items: Sequence[Example]) -> str:
    """Hash of the items in their order: results on other items are not comparable."""
    return text_hash(*(item.id for item in items))


def result_of(
    shop: Workshop, label: str, name: str, kind: str, parameters: dict[str, Any], climbed: Climbed, scorer: str
) -> RouteResult:
    """Turn what a route handed back into its row of the ladder; interval and price are added when it is put in a table."""
    metrics: dict[str, float] = {}
    per_draw: list[float] = []
    for number, metric in enumerate(shop.task.metrics):
        evaluate = METRICS.get(metric).evaluate
        values = [float(evaluate([p.gold_for(evaluate) for p in d], [p.predicted for p in d])) for d in climbed.draws]
        metrics[metric] = sum(values) / len(values)
        per_draw = values if number == 0 else per_draw
    answered = sum(map(len, climbed.draws))
    ms = 1000 * climbed.evaluation_seconds / answered
    primary = shop.task.metrics[0]
    return RouteResult(
        route=label, name=name, kind=kind, parameters=parameters, metric=primary, value=metrics[primary], low=metrics[primary],
        high=metrics[primary], n=len(shop.items), draws=per_draw, metrics={**metrics, **climbed.measures},
        valid=sum(p.valid for draw in climbed.draws for p in draw) / answered, trained_parameters=climbed.trained_parameters,
        seconds=climbed.seconds, evaluation_seconds=climbed.evaluation_seconds,
        peak_memory_gb=max(peak_gb(), climbed.peak_memory_gb), tokens_per_query=climbed.prompt_tokens,
        ms_per_query=ms, p50_ms=climbed.latency_ms[0], p95_ms=climbed.latency_ms[1],
        price_per_1000=None, forgetting=climbed.forgetting, items_hash=items_hash(shop.items),
        template_hash="" if kind == "baseline" else shop.task.template_hash, scorer=scorer,
        notes=[*climbed.notes, *_by_template(climbed.templates, per_draw, primary)], templates=climbed.templates,
    )  # fmt: skip


def _by_template(templates: Sequence[str], values: Sequence[float], metric: str) -> list[str]:
    """Say what each template reached, the mean of its draws, and how far apart templates are."""
    means = {t: fmean(v for v, of in zip(values, templates, strict=True) if of == t) for t in dict.fromkeys(templates)}
    if len(means) < 2:
        return []
    listed = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
    apart = f"median {median(means.values()):.3f}, {min(means.values()):.3f} to {max(means.values()):.3f}"
    return [f"{metric.replace('_', ' ')} by template: {listed}; {apart}"]


def climb_route(shop: Workshop) -> None:
    """Climb the assignment's route and save its result."""
    from tunesmith.evaluate.answer import scorer_name

    entry, parameters = ROUTES.parameters(shop.assignment.route)
    label = entry.label(parameters)
    climbed = entry.climb(shop, parameters)
    scorer = scorer_name(shop.task)
    result = result_of(shop, label, shop.assignment.route["name"], entry.KIND, parameters.model_dump(), climbed, scorer)
    save(shop.folder, result, [p for draw in climbed.draws for p in draw])


def climb_baselines(shop: Workshop) -> int:
    """Climb the baselines, each into a folder of its own below the assignment's; one that fails leaves the others be.

    Returns:
        The exit code: 0, or that of the last failure.
    """
    code = 0
    for name in shop.assignment.baselines:
        try:
            climb_baseline(shop, name)
        except (TunesmithError, ValueError) as error:  # scikit-learn says ValueError where rows cannot be learned from
            code = _report_failure(shop.folder / name, error)
    return code


def climb_baseline(shop: Workshop, name: str) -> None:
    """Fit one baseline, let it answer every item, and save its result."""
    from tunesmith.evaluate.answer import shown_text, single_query_ms

    entry = BASELINES.get(name)
    predict, trained, seconds = entry.fit(shop.task, shop.train, derive(shop.seed, "baseline", name))
    latency = single_query_ms(lambda item: predict([item]), shop.items)
    start = time.perf_counter()
    answers = predict(shop.items)
    answering = time.perf_counter() - start
    predictions = [
        Prediction(item.id, item.where, shown_text(shop.task, item), "", "", {}, answer, shop.task.gold(item))
        for item, answer in zip(shop.items, answers, strict=True)
    ]
    climbed = Climbed([predictions], answering, 0.0, latency, seconds, trained)
    save(shop.folder / name, result_of(shop, entry.LABEL, name, "baseline", {}, climbed, entry.__name__), predictions)


def failure_file(folder: Path) -> Path:
    """Return where a process says why it left no result in `folder`: {message, fix, exit_code, traceback}."""
    return folder.with_name(f"{folder.name}.failure.json")


def _report_failure(folder: Path, error: BaseException) -> int:
    path = failure_file(folder)
    if isinstance(error, TunesmithError):
        message, fix, code = error.message, error.fix, error.exit_code
    else:
        message, fix, code = f"{type(error).__name__}: {error}", f"{path} says where it came from.", 1
    lines = traceback.format_exception(error)
    write_json(path, {"message": message, "fix": fix, "exit_code": code, "traceback": lines})
    return code


def main(path: str) -> int:
    """Climb what the file says; the exit code is that of the command line."""
    assignment = Assignment(**json.loads(Path(path).read_text(encoding="utf-8")))
    # Whatever nobody foresaw is said by the process that waits for this one, in one line.
    sys.excepthook = lambda kind, error, trace: _report_failure(Path(assignment.folder), error) and None
    return climb(assignment)


def climb(assignment: Assignment) -> int:
    """Climb an assignment in this process; returns an exit code, having written down why if it is not 0."""
    try:
        from tunesmith.recipes._models import quiet_libraries, use_threads

        quiet_libraries()
        use_threads(assignment.threads)
        limit_cache(assignment.cache_gb)
        shop = Workshop(assignment)
        if assignment.baselines:
            return climb_baselines(shop)
        climb_route(shop)
    except TunesmithError as error:
        return _report_failure(Path(assignment.folder), error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
