"""Search for the best template, among the task's and rule-made paraphrases, on training rows (after Jiang et al. 2020)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tunesmith.core.config import Config
from tunesmith.core.errors import UserError
from tunesmith.core.files import write_json
from tunesmith.core.registry import DEMONSTRATIONS, METRICS
from tunesmith.core.seeds import derive
from tunesmith.data._templates import is_jinja
from tunesmith.data.template import Template
from tunesmith.recipes._ladder.workload import Sizes, Workload
from tunesmith.recipes._routes.prompting import ask_draws

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunesmith.core.records import Example
    from tunesmith.data.task import Task
    from tunesmith.evaluate.results import Prediction
    from tunesmith.recipes._ladder.climb import Climbed, Workshop

KIND = "prompt"
_MOST_LABELS_NAMED = 10
_USUAL_CANDIDATES = 10


class Parameters(Config):
    """What the search for a template can be told."""

    rows: int = Field(64, ge=1)
    """training rows every template is judged on"""
    paraphrase: bool = True
    """also try paraphrases of the first template, made by rule"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return "found template"


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return "" if len(candidates(task, True)) > 1 else "there is only one template to choose from"


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens read: the rows once for each of about ten templates, and each item once."""
    return Workload(forward_tokens=(sizes.items + _USUAL_CANDIDATES * parameters.rows) * sizes.prompt_tokens)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Ask training rows by every template, save the log, and ask every item by the best one.

    Raises:
        UserError: there is only one template.
    """
    shop.asker()  # loading the model is no part of the search
    start = time.perf_counter()
    tasks = candidates(shop.task, parameters.paraphrase)
    if len(tasks) < 2:
        raise UserError(
            f"task '{shop.task.name}' has only one template to choose from", "Give it 'templates', or paraphrase=true."
        )
    seed = derive(shop.seed, "template search")
    rows = shop.train[: parameters.rows]
    if shop.task.verbalizer:
        rows = DEMONSTRATIONS.get("balanced").choose(shop.train, rows[:1], parameters.rows, seed, label_of=shop.task.gold)[0]
    tried = [_judged(shop, name, task, rows) for name, task in tasks.items()]
    # The first of equals wins: the task's own templates stand before paraphrases.
    best = max(tried, key=lambda one: (one["value"], one["gold_logprob"] or 0.0))
    log = {"winner": best["name"], "template": best["template"], "rows": len(rows), "row_ids": [row.id for row in rows]}
    write_json(shop.folder / "templates.json", {**log, "tried": tried})
    with_template = shop.with_task(tasks[best["name"]])
    climbed = ask_draws(with_template, label(parameters), [None], time.perf_counter() - start)
    values = [one["value"] for one in tried]
    metric = shop.task.metrics[0].replace("_", " ")
    note = (
        f"the template '{best['name']}' won among {len(tried)} on {len(rows)} training rows "
        f"({metric} there {best['value']:.3f}, all {min(values):.3f} to {max(values):.3f}): {best['template']!r}"
    )
    return replace(climbed, notes=[note, *climbed.notes])


def candidates(task: Task, paraphrase: bool) -> dict[str, Task]:
    """Return the task by each of its templates, and by paraphrases of the first if wanted."""
    found = {name: task.with_template(name) for name in task.templates}
    if paraphrase and not is_jinja(task.file.template):
        known = set(task.file.texts.values())
        for name, text in paraphrases(task).items():
            if text not in known:
                known.add(text)
                found[name] = replace(task, file=task.file.model_copy(update={"template": text}), template=Template(text))
    return found


def paraphrases(task: Task) -> dict[str, str]:
    """Return rewordings of the task's template by fixed rules: another ending, another layout, the choices named."""
    text = task.template.text.rstrip()
    body = text.removesuffix("{answer}").rstrip().removesuffix(task.template.tail).rstrip()
    found = {"ending: Answer": f"{body}\nAnswer: {{answer}}", "ending: This is": f"{body}\nThis is {{answer}}"}
    if "\n" in text:
        found["in one line"] = " ".join(text.split())
    labels = [words[0] for words in task.verbalizer.words.values()] if task.verbalizer else []
    if 2 <= len(labels) <= _MOST_LABELS_NAMED:
        named = f"{', '.join(labels[:-1])} or {labels[-1]}"
        found["choices asked for"] = f"{body}\nWhich is it, {named}?\nAnswer: {{answer}}"
        found["choices first"] = f"Choose one: {named}.\n\n{text}"
        found["request"] = f"Answer with {named}.\n{text}"
    return found


def _judged(shop: Workshop, name: str, task: Task, rows: Sequence[Example]) -> dict[str, Any]:
    start = time.perf_counter()
    answered = shop.with_task(task).asker().ask(rows, title=f"template '{name}'").predictions
    evaluate = METRICS.get(task.metrics[0]).evaluate
    return {
        "name": name, "template": task.file.template,
        "value": float(evaluate([p.gold for p in answered], [p.predicted for p in answered])),
        "gold_logprob": _gold_logprob(answered), "seconds": time.perf_counter() - start,
    }  # fmt: skip


def _gold_logprob(answered: Sequence[Prediction]) -> float | None:
    """Return the mean log-probability of the right label among the labels, nats; None for generated answers."""
    import numpy as np

    if not answered[0].scores:
        return None
    return float(np.mean([p.scores[p.gold] - np.logaddexp.reduce(list(p.scores.values())) for p in answered]))
