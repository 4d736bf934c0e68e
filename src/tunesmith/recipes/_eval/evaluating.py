"""What `eval` does with a loaded model: a task of ours, or tasks of lm-eval."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError, unknown
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import load_task
from tunesmith.evaluate.answer import Asker
from tunesmith.models.load import LM
from tunesmith.recipes._eval.config import Config
from tunesmith.recipes._models import load
from tunesmith.recipes._open.opening import open_tuned
from tunesmith.recipes._open.tuned import Tuned
from tunesmith.recipes._tune.heads import saved_config, tuning_of
from tunesmith.recipes._tune.tested import tested

# A row of the report: task, metric, value, low, high, n.
Results = list[dict[str, Any]]
Evaluate = Callable[[Any], tuple[Results, list[dict[str, Any]], list[str]]]
_LM_EVAL_RESAMPLES = 1_000
_NORMAL = 1.959964
# Of lm-eval's own command: the examples that published numbers were made with.
_FEWSHOT_SEED = 1234


def own_task(config: Config) -> Evaluate:
    """Read a task; what is returned asks a model its test items: (results, predictions, warnings).

    A model that was tuned with a head answers with it.

    Raises:
        UserError: no such task, or bad rows.
    """
    found = tuning_of(config.model, config.adapter)
    if found:
        saved = saved_config(config.adapter or config.model)
        task = found[0].read(config.task or "", config.skip_bad_rows, saved)
    else:
        task = load_task(config.task or "", skip_bad_rows=config.skip_bad_rows)
    items = task.splits.test[: config.limit]

    def evaluate(opened: LM | Tuned) -> tuple[Results, list[dict[str, Any]], list[str]]:
        title = f"asking {config.model}"
        if isinstance(opened, Tuned):
            metrics, answer = opened.ask(task, None)
            results = tested(task.name, metrics, answer(items, title), config.seed)
        else:
            asker = Asker(opened, Prompts(task, opened.tokenizer), trained=config.adapter is not None)
            results = tested(task.name, task.metrics, asker.ask(items, title=title).predictions, config.seed)
        return results.results, results.predictions, task.splits.warnings

    return evaluate


def open_model(config: Config) -> LM | Tuned:
    """Load what is to be asked: a model that was tuned to answer otherwise, or one that goes on with text.

    Raises:
        UserError: no such model or adapter, or they do not fit each other.
    """
    tuned = open_tuned(config.model, config.adapter, config.dtype) if config.task else None
    return tuned or load(config.model, config.adapter, config.dtype)


def with_lm_eval(config: Config) -> Evaluate:
    """Load tasks of lm-eval; what is returned runs them on a model: (results, samples, warnings).

    Raises:
        UserError: lm-eval is not installed, has no such task, or cannot get its data.
    """
    try:
        from lm_eval.evaluator import evaluate as harness
        from lm_eval.tasks import TaskManager

        from tunesmith.evaluate.lm_eval_model import TunesmithLM
    except ImportError as error:
        raise UserError(
            f"--lm_eval_tasks needs lm-eval, and {error.name} is not installed", "pip install 'tunesmith[eval]'"
        ) from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    names = config.lm_eval_tasks
    # Thousands of files are read to know lm-eval's own tasks, which one's own files do not need.
    manager = TaskManager(include_defaults=not all(map(_is_file, names)))
    for name in names:
        if not _is_file(name) and name not in manager.all_tasks:
            raise unknown("lm-eval task", name, manager.all_tasks)
    try:
        loaded = manager.load(names)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"the data of {', '.join(names)} cannot be loaded: {reason}", "lm-eval fetches it.") from None
    warnings = _prepare(config, loaded["tasks"])

    def evaluate(lm: LM) -> tuple[Results, list[dict[str, Any]], list[str]]:
        found: Any = harness(
            TunesmithLM(lm, seed=config.seed), loaded, limit=config.limit, bootstrap_iters=_LM_EVAL_RESAMPLES,
            apply_chat_template=config.apply_chat_template, fewshot_as_multiturn=config.apply_chat_template,
        )  # fmt: skip
        samples = [{"task": task, **sample} for task, rows in found["samples"].items() for sample in rows]
        return _rows(found), samples, warnings

    return evaluate


def _is_file(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml") and Path(name).is_file()


def _prepare(config: Config, tasks: Mapping[str, Any]) -> list[str]:
    """Set few-shot examples as lm-eval's own command does, by its seed; returns what could not be heeded."""
    kept = []
    for name, task in tasks.items():
        own = task.get_config("num_fewshot")
        if own == 0 and config.num_fewshot:
            kept.append(name)
        elif own is None or config.num_fewshot is not None:
            task.set_config(key="num_fewshot", value=config.num_fewshot or 0)
        task.set_fewshot_seed(_FEWSHOT_SEED)
    return [f"{', '.join(kept)} says num_fewshot 0 itself and keeps it"] if kept else []


def _rows(found: dict[str, Any]) -> Results:
    """Turn lm-eval's results into rows; its standard errors become 95 % intervals."""
    rows = []
    for task, values in found["results"].items():
        n = found["n-samples"].get(task, {}).get("effective", 0)
        for key, value in values.items():
            metric, comma, of = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{of}")
            known = isinstance(error, int | float) and math.isfinite(error)
            spread = _NORMAL * error if known else 0.0
            name = metric if of == "none" else f"{metric} ({of})"
            low, high = (value - spread, value + spread) if known else (None, None)
            rows.append({"task": task, "metric": name, "value": float(value), "low": low, "high": high, "n": n})
    return rows
