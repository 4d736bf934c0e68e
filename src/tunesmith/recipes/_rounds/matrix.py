"""The accuracy matrix of sequential rounds, and what it says about transfer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core.files import write_json
from tunesmith.core.progress import say
from tunesmith.core.registry import METRICS
from tunesmith.core.seeds import derive
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import Task
from tunesmith.evaluate.answer import Asker
from tunesmith.evaluate.results import Forgetting
from tunesmith.recipes._models import load
from tunesmith.recipes._rounds.config import Config
from tunesmith.recipes._tune.tested import with_intervals
from tunesmith.stats.bootstrap import interval, resample_counts

_RESAMPLES = 5_000


@dataclass(frozen=True)
class Row:
    """The model after a round on every task.

    Attributes:
        round: 0 = before any. trained: the round's task, "" for round 0.
        cells: for each task, its first metric with interval: task, metric, value, low, high, n.
        answers: for each task, "gold" and "predicted" of its items.
        perplexity, choices: of the guard set, None where it was not measured.
    """

    round: int
    trained: str
    cells: list[dict[str, Any]]
    answers: list[dict[str, list[str]]]
    perplexity: float | None
    choices: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return what report.json has of it."""
        return {key: value for key, value in asdict(self).items() if key != "answers"}


def measured(config: Config, folder: Path, tasks: list[Task], number: int, report: dict[str, Any] | None) -> Row:
    """Ask the model after a round every task's items, or read what it answered before.

    Args:
        report: of the round's training; None for row 0, which knows its guard set only once round 1 has measured it.
    """
    path = folder / f"row-{number}.json"
    if path.is_file():
        row = Row(**json.loads(path.read_text(encoding="utf-8")))
    else:
        artefact = report["artefact"] if report else None
        adapter = artefact if artefact and Path(artefact).name == "adapter" else None
        lm = load(config.model if adapter or not artefact else artefact, adapter, config.dtype)
        lm.model.eval()
        cells, answers = [], []
        for column, task in enumerate(tasks):
            asker = Asker(lm, Prompts(task, lm.tokenizer), trained=column < number)
            asked = asker.ask(task.splits.test[: config.test_rows], title=task.name).predictions
            cells += with_intervals(task.name, task.metrics[:1], asked, config.seed)
            answers.append({"gold": [p.gold for p in asked], "predicted": [p.predicted for p in asked]})
        change = Forgetting.of_record(report["forgetting"]) if report and report["forgetting"] else None
        choices = change.choice_accuracies[1] if change and change.choice_accuracies else None
        trained = tasks[number - 1].name if number else ""
        row = Row(number, trained, cells, answers, change.perplexity_after if change else None, choices)
        write_json(path, asdict(row))
    say(f"after round {number}: " + ", ".join(f"{cell['task']} {cell['value']:.3f}" for cell in row.cells))
    return row


def guarded_before(row: Row, report: dict[str, Any]) -> Row:
    """Return row 0 with what round 1 measured on the guard set before it began."""
    if not report["forgetting"]:
        return row
    change = Forgetting.of_record(report["forgetting"])
    return replace(row, perplexity=change.perplexity_before, choices=change.choice_accuracies and change.choice_accuracies[0])


def transfer(rows: list[Row], tasks: list[Task], seed: int) -> dict[str, dict[str, float]]:
    """Return averages over tasks, each with a 95 % interval over test items (the same resamples in every row).

    With R[i][j] the metric on task j after round i, and T rounds: final = mean_j R[T][j]; backward transfer = mean over
    j < T of R[T][j] - R[j][j], and forward transfer = mean over j > 1 of R[j-1][j] - R[0][j] (Lopez-Paz & Ranzato 2017, with
    the model before any round in the place of one at random); forgetting = mean over j < T of the best R[l][j], j <= l < T,
    minus R[T][j] (Chaudhry et al. 2018).
    """
    values = np.stack([[_resampled(row.answers[j], task, seed) for j, task in enumerate(tasks)] for row in rows])
    last, before = len(tasks), range(len(tasks) - 1)
    averages = {
        "final": np.mean([values[last, j] for j in range(last)], axis=0),
        "backward": np.mean([values[last, j] - values[j + 1, j] for j in before], axis=0),
        "forgetting": np.mean([values[j + 1 : last, j].max(axis=0) - values[last, j] for j in before], axis=0),
        "forward": np.mean([values[j, j] - values[0, j] for j in range(1, last)], axis=0),
    }
    found = {}
    for name, drawn in averages.items():
        low, high = interval(drawn[1:])
        found[name] = {"value": float(drawn[0]), "low": low, "high": high}
    return found


def _resampled(answers: dict[str, list[str]], task: Task, seed: int) -> np.ndarray:
    """The task's first metric: on all items, then on each resample of them. [1 + R]"""
    gold, predicted = answers["gold"], answers["predicted"]
    metric = METRICS.get(task.metrics[0]).evaluate
    weights = resample_counts(len(gold), _RESAMPLES, derive(seed, "rounds", task.name))
    return np.concatenate([[float(metric(gold, predicted))], metric(gold, predicted, weights)])
