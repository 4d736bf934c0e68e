"""What a ladder will cost: before it is climbed (`plan`), and while it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError, near_miss
from tunesmith.core.progress import duration, say
from tunesmith.core.registry import ROUTES
from tunesmith.data.task import Task
from tunesmith.models import remote
from tunesmith.recipes._ladder.config import LadderConfig
from tunesmith.recipes._ladder.workload import Sizes, Workload, forward_rate, memory_of, seconds_of, weights_of

_DECODERS = ("smollm2", "toy-llama")
_SECONDS_OF_BASELINES = 30.0
# Of the default model; what a hub id that is not here yet is taken for.
_USUAL_SHAPE = (135_000_000, 576 * 30)


def check_model(name: str) -> None:
    """Refuse a name that can be no model before anything is done with it.

    Raises:
        UserError: neither an embedded name, nor a directory, nor of the form of a hub id or a URL; has a near miss.
    """
    if remote.is_url(name):
        remote.parse(name)
        return
    if name in _DECODERS or Path(name).is_dir() or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return
    near = near_miss(name, _DECODERS)
    others = f"Give {', '.join(_DECODERS)}, a model directory, a hub id such as owner/name, or the URL of a server."
    raise UserError(f"there is no model '{name}'", near if near.startswith("Did") else others)


def plan(config: LadderConfig, task: Task, routes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what would run, with seconds and memory as estimated from a moment of matrix products on this machine."""
    from tunesmith.recipes._models import use_threads

    use_threads(config.threads)
    sizes, assumed = sizes_of(config, task)
    rate = forward_rate(sizes.weights, config.dtype)
    rows, skipped = [], {}
    for label, spec in routes.items():
        work = _workload(spec, sizes)
        if reason := ROUTES.get(spec["name"]).unsuitable(task):
            skipped[label] = reason
        else:
            rows.append(
                {"route": label, "seconds": round(seconds_of(work, rate), 1), "memory_gb": round(memory_of(work, sizes), 2)}
            )
    total = sum(r["seconds"] for r in rows) + (_SECONDS_OF_BASELINES if config.baselines else 0.0)
    return {
        "task": task.name, "model": config.model, "items": sizes.items, "training_rows": len(config.rows(task)["training rows"]),
        "routes": rows, "skipped": skipped, "seconds": round(total, 1), "forward_tokens_per_second": round(rate),
        "memory_gb": max((r["memory_gb"] for r in rows), default=0.0),
        "warnings": [*task.splits.warnings, *([assumed] if assumed else [])],
    }  # fmt: skip


def memory_needed(config: LadderConfig, task: Task, routes: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Estimate the peak memory of routes, 10^9 bytes, by label."""
    sizes, _ = sizes_of(config, task)
    return {label: memory_of(_workload(spec, sizes), sizes) for label, spec in routes.items()}


def sizes_of(config: LadderConfig, task: Task) -> tuple[Sizes, str]:
    """Estimate a ladder's sizes without loading a model: four characters a token, weights counted from file headers.

    Returns:
        The sizes, and a sentence on what had to be assumed ("" = nothing).
    """
    items = task.splits.test[: config.test_rows]
    train = task.splits.train[: config.train_rows]
    # A byte tokenizer reads a token a byte, others about one for four characters of English.
    per_token = 1 if config.model.startswith("toy-") else 4
    prompt = sum(len(task.template.prompt(e.fields)) for e in items) / max(len(items), 1) / per_token + 1
    rows = sum(len(task.template.prompt(e.fields)) + len(task.answer(e)) for e in train) / per_token + 2 * len(train)
    how = config.train
    rows_per_step = how.batch_size * how.gradient_accumulation_steps
    passes = how.max_steps * rows_per_step / max(len(train), 1) if how.max_steps else how.epochs
    (weights, width), assumed = _shape_of(config.model)
    sizes = Sizes(
        items=len(items), prompt_tokens=prompt, train_tokens=rows * passes,
        validation=min(config.validation_rows, len(task.splits.validation)), guard=config.guard_rows, weights=weights,
        bytes_per_weight=4 if config.dtype in ("fp32", "float32") else 2, width=width,
        micro_batch=config.train.tokens_per_micro_batch,
    )  # fmt: skip
    return sizes, assumed


def _shape_of(model: str) -> tuple[tuple[int, int], str]:
    from tunesmith.models import embedded, toy

    if model in toy.NAMES:
        return (90_816, 128), ""
    if remote.is_url(model):
        return _USUAL_SHAPE, "the model is on a server, so its time is guessed as that of smollm2 on this machine"
    folder = embedded.folder_of(model) if model in embedded.NAMES else _local(model)
    if folder is None:
        return _USUAL_SHAPE, f"{model} is not here yet, so it is taken to be as large as smollm2 (135 million weights)"
    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return (weights_of(folder), int(shape.get("hidden_size", 768)) * int(shape.get("num_hidden_layers", 12))), ""


def _local(model: str) -> Path | None:
    """The folder of a model directory, or of a hub id that has been downloaded."""
    from huggingface_hub import try_to_load_from_cache

    if Path(model).is_dir():
        return Path(model) if (Path(model) / "config.json").is_file() else None
    found = try_to_load_from_cache(model, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _workload(spec: dict[str, Any], sizes: Sizes) -> Workload:
    entry, parameters = ROUTES.parameters(spec)
    return entry.workload(parameters, sizes)


class Estimates:
    """What the rest of a climb will cost, judged by what its routes so far have cost.

    Args:
        full: the same ladder without --quick, None where this is it.
        left: the routes that are not finished yet, in their order.
    """

    def __init__(self, config: LadderConfig, full: LadderConfig | None, task: Task, left: dict[str, dict[str, Any]]) -> None:
        self.budget = config.budget_minutes
        self.left = {label: _workload(spec, sizes_of(config, task)[0]) for label, spec in left.items()}
        self.full = [_workload(spec, sizes_of(full, task)[0]) for spec in left.values()] if full else []
        self.rate = 0.0

    def learn(self, label: str, seconds: float) -> None:
        """Note what a route took; the first one also tells what all the others will."""
        first = not self.rate
        work = self.left.pop(label)
        # What starting a process takes is no part of the rate; where little more was done, the rate cannot be told from it.
        self.rate = work.forward_tokens / max(seconds - seconds_of(Workload(0), 1.0), 0.2 * seconds)
        if first and self.left:
            say(f"the other routes will take about {duration(sum(map(self._seconds, self.left.values())))}")
        if first and self.full:
            say(f"the full climb, without --quick, would take about {duration(sum(map(self._seconds, self.full)))}")

    def _seconds(self, work: Workload) -> float:
        return seconds_of(work, self.rate)

    def promise(self, label: str) -> str:
        """Return " (about 2 min)" once that can be said."""
        return f" (about {duration(self._seconds(self.left[label]))})" if self.rate else ""

    def over_budget(self, label: str, spent: float) -> str:
        """Return why the budget forbids a route, "" if it does not."""
        if self.budget is None:
            return ""
        if spent + (self._seconds(self.left[label]) if self.rate else 0.0) <= self.budget * 60:
            return ""
        return f"it would not have finished within the budget of {self.budget:g} minutes"
