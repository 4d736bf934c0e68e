"""One route, climbed in a process of its own: so its memory is its own, and its failure is too.

`python -m tunesmith.recipes._climb ASSIGNMENT.json` leaves `result.json` and `predictions.jsonl` in the route's folder.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import canonical, text_hash, write_json
from tunesmith.core.memory import peak_gb
from tunesmith.core.progress import say
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
        routes: label -> route spec (or baseline name). folder: where each label's result goes.
        price: {"machine_hour": money} or {"million_tokens": money}, or empty.
    """

    task: str
    model: str
    dtype: str
    threads: int | None
    seed: int
    train_rows: int
    validation_rows: int
    test_rows: int
    guard_rows: int
    train: dict[str, Any]
    price: dict[str, float]
    skip_bad_rows: bool
    folder: str
    route: dict[str, Any]
    baselines: list[str]

    @property
    def fingerprint(self) -> str:
        """Hash of everything its result depends on, apart from the rows and weights themselves."""
        ignored = ("folder", "price", "threads", "baselines")
        return text_hash(canonical({k: v for k, v in vars(self).items() if k not in ignored}))


@dataclass
class Climbed:
    """What a route hands back: one list of predictions a draw, and what they cost."""

    draws: list[list[Prediction]]
    evaluation_seconds: float
    prompt_tokens: float
    latency_ms: tuple[float, float]
    seconds: float = 0.0
    trained_parameters: int = 0
    forgetting: Forgetting | None = None
    notes: list[str] = field(default_factory=list)


class Workshop:
    """What every route works with: the task's rows, the model (loaded when first needed) and its prompts."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
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
        """The base model."""
        from tunesmith.recipes._models import load

        return load(self.assignment.model, dtype=self.assignment.dtype)

    @cached_property
    def prompts(self) -> Prompts:
        """The task's prompts for this model."""
        return Prompts(self.task, self.lm.tokenizer)

    def asker(self, trained: bool = False) -> Any:
        """Return who asks the model the task's items."""
        from tunesmith.evaluate.answer import Asker

        return Asker(self.lm, self.prompts, trained)

    def finished(self, route: str) -> tuple[RouteResult, list[Prediction]] | None:
        """Return a route of this ladder that is finished, by its label; all routes of a ladder share items and settings."""
        folder = self.folder.parent / folder_name(route)
        return load(folder) if (folder / "result.json").is_file() else None

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
    """Turn what a route handed back into its row of the ladder; the interval is made later, on shared resamples."""
    gold = [shop.task.gold(item) for item in shop.items] if kind == "baseline" else [p.gold for p in climbed.draws[0]]
    metrics: dict[str, float] = {}
    per_draw: list[float] = []
    for number, metric in enumerate(shop.task.metrics):
        values = [float(METRICS.get(metric).evaluate(gold, [p.predicted for p in draw])) for draw in climbed.draws]
        metrics[metric] = sum(values) / len(values)
        per_draw = values if number == 0 else per_draw
    answered = sum(map(len, climbed.draws))
    ms = 1000 * climbed.evaluation_seconds / answered
    price = shop.assignment.price
    per_1000 = None
    if "machine_hour" in price:
        per_1000 = price["machine_hour"] * ms / 3600
    elif "million_tokens" in price:
        per_1000 = price["million_tokens"] * climbed.prompt_tokens / 1000
    primary = shop.task.metrics[0]
    return RouteResult(
        route=label, name=name, kind=kind, parameters=parameters, metric=primary, value=metrics[primary], low=metrics[primary],
        high=metrics[primary], n=len(shop.items), draws=per_draw, metrics=metrics,
        valid=sum(p.valid for draw in climbed.draws for p in draw) / answered, trained_parameters=climbed.trained_parameters,
        seconds=climbed.seconds, evaluation_seconds=climbed.evaluation_seconds, peak_memory_gb=peak_gb(),
        tokens_per_query=climbed.prompt_tokens, ms_per_query=ms, p50_ms=climbed.latency_ms[0], p95_ms=climbed.latency_ms[1],
        price_per_1000=per_1000, forgetting=climbed.forgetting, items_hash=items_hash(shop.items),
        template_hash="" if kind == "baseline" else shop.task.template_hash, scorer=scorer, notes=climbed.notes,
    )  # fmt: skip


def climb_route(shop: Workshop) -> None:
    """Climb the assignment's route and save its result."""
    from tunesmith.evaluate.answer import scorer_name

    entry, parameters = ROUTES.parameters(shop.assignment.route)
    label = entry.label(parameters)
    climbed = entry.climb(shop, parameters)
    scorer = scorer_name(shop.prompts)
    result = result_of(shop, label, shop.assignment.route["name"], entry.KIND, parameters.model_dump(), climbed, scorer)
    save(shop.folder, result, [p for draw in climbed.draws for p in draw])


def climb_baselines(shop: Workshop) -> None:
    """Climb the baselines, each into a folder of its own below the assignment's."""
    for name in shop.assignment.baselines:
        entry = BASELINES.get(name)
        folder = shop.folder / name
        if (folder / "result.json").is_file():
            continue
        start = time.perf_counter()
        reason = entry.unsuitable(shop.task)
        if reason:
            write_json(folder / "skipped.json", {"reason": reason})
            continue
        predicted, trained, fit_seconds = entry.predict(shop.task, shop.train, shop.items, derive(shop.seed, "baseline", name))
        answering = max(time.perf_counter() - start - fit_seconds, 1e-6)
        predictions = [
            Prediction(item.id, item.where, str(item.fields.get("text", "")), "", "", {}, answer, shop.task.gold(item))
            for item, answer in zip(shop.items, predicted, strict=True)
        ]
        each = 1000 * answering / len(predictions)
        climbed = Climbed([predictions], answering, 0.0, (each, each), fit_seconds, trained)
        save(folder, result_of(shop, entry.LABEL, name, "baseline", {}, climbed, entry.__name__), predictions)


def main(path: str) -> int:
    """Climb what the file says; the exit code is that of the command line."""
    assignment = Assignment(**json.loads(Path(path).read_text(encoding="utf-8")))
    try:
        from tunesmith.recipes._models import quiet_libraries, use_threads

        quiet_libraries()
        use_threads(assignment.threads)
        shop = Workshop(assignment)
        (climb_baselines if assignment.baselines else climb_route)(shop)
    except TunesmithError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
