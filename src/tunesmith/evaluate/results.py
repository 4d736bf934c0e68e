"""What a climbed route leaves behind: its result, its predictions, and what must agree before two may be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import write_json, write_jsonl


@dataclass(frozen=True)
class Prediction:
    """One answer to one item.

    Attributes:
        id, where: the example's identity and place.
        text: the example as a person reads it.
        prompt: the exact prompt text; prompt_hash is the SHA-256 of its token ids. Empty for baselines without a prompt.
        scores: per label, its log-probability (nats), classifier score or share of votes; empty for generated answers.
        predicted, gold: labels, or texts for a generation task.
        valid: whether a free-running model would have begun one of the allowed answers.
        draw: number of the seeded draw this belongs to (0 where a route has only one).
        sources: ids of the passages the answer rests on, best first; empty where nothing was retrieved.
        rationale: what the model wrote on the way to its answer, with the answer; "" where it was asked for the answer alone.
        golds: all answers that count as right, where there are several.
    """

    id: str
    where: str
    text: str
    prompt: str
    prompt_hash: str
    scores: dict[str, float]
    predicted: str
    gold: str
    valid: bool = True
    draw: int = 0
    sources: tuple[str, ...] = ()
    rationale: str = ""
    golds: tuple[str, ...] = ()

    @property
    def correct(self) -> bool:
        """Whether the prediction equals the gold answer exactly, or one of them."""
        return self.predicted in (self.gold, *self.golds)

    def gold_for(self, metric: Callable[..., Any]) -> str:
        """Return the gold answer that a metric finds nearest; an answer need only be one of several, as in SQuAD."""
        if len(self.golds) < 2:
            return self.gold
        return max(self.golds, key=lambda gold: float(metric([gold], [self.predicted])))


@dataclass(frozen=True)
class Forgetting:
    """What the model could do before and after, away from the task.

    Attributes:
        text: name of the general text; perplexity_before, perplexity_after: per token of it.
        tasks: sibling task -> {"before": accuracy, "after": accuracy, "n": items}.
        passages: "tokens" of each passage of the text, and its nats "before" and "after".
        choices: for each question of the choice benchmark, 1 = right, 0 = wrong, "before" and "after".
    """

    text: str
    perplexity_before: float
    perplexity_after: float
    tasks: dict[str, dict[str, float]] = field(default_factory=dict)
    passages: dict[str, list[float]] = field(default_factory=dict)
    choices: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rise(self) -> float:
        """Nats per token of general text that were lost: log(perplexity after / before); negative = gained."""
        return math.log(self.perplexity_after / self.perplexity_before)

    @property
    def choice_accuracies(self) -> tuple[float, float] | None:
        """Accuracy on the choice benchmark before and after; None where it was not asked."""
        before, after = self.choices.get("before"), self.choices.get("after")
        return (sum(before) / len(before), sum(after) / len(after)) if before and after else None

    @property
    def accuracy_change(self) -> float:
        """Mean change of accuracy over the sibling tasks; negative = forgotten. 0 where there are none."""
        changes = [task["after"] - task["before"] for task in self.tasks.values()]
        return sum(changes) / len(changes) if changes else 0.0

    def as_record(self) -> dict[str, Any]:
        """Return it as report.json has it."""
        return {**asdict(self), "accuracy_change": self.accuracy_change, "rise": self.rise}

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Forgetting:
        """Return what `as_record` was called on."""
        return cls(**{key: value for key, value in record.items() if key not in ("accuracy_change", "rise")})


@dataclass(frozen=True)
class RouteResult:
    """One row of the ladder.

    Attributes:
        route: label shown ("lora r=16"); name: entry name ("lora"); kind: "baseline", "prompt" or "tuned".
        metric: name of the task's first metric; value: mean over draws; low, high: 95 % interval over items.
        n: items; draws: metric value of each draw; metrics: every metric of the task.
        valid: share of valid answers. trained_parameters: how many numbers were trained.
        seconds: adapting (training, choosing demonstrations); evaluation_seconds: answering all items of all draws.
        peak_memory_gb: peak resident memory of the process that did it.
        tokens_per_query: mean prompt tokens. ms_per_query: batched; p50_ms, p95_ms: one query at a time.
        price_per_1000: money for 1,000 queries, None without a price. forgetting: None where no weight changed.
        items_hash, template_hash, scorer: must agree before two results share a table.
        notes: plain sentences worth a reader's time (early stopping, dropped rows, ...).
        templates: the name of each draw's template; empty where all draws have the task's first.
    """

    route: str
    name: str
    kind: str
    parameters: dict[str, Any]
    metric: str
    value: float
    low: float
    high: float
    n: int
    draws: list[float]
    metrics: dict[str, float]
    valid: float
    trained_parameters: int
    seconds: float
    evaluation_seconds: float
    peak_memory_gb: float
    tokens_per_query: float
    ms_per_query: float
    p50_ms: float
    p95_ms: float
    price_per_1000: float | None
    forgetting: Forgetting | None
    items_hash: str
    template_hash: str
    scorer: str
    notes: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)


def save(folder: Path, result: RouteResult, predictions: list[Prediction]) -> None:
    """Write `predictions.jsonl`, then `result.json` (whose presence means the route is finished)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "predictions.jsonl", [{**asdict(p), "correct": p.correct} for p in predictions])
    write_json(folder / "result.json", asdict(result))


def load(folder: Path) -> tuple[RouteResult, list[Prediction]]:
    """Read what `save` wrote.

    Raises:
        UserError: a file is missing or not as written.
    """
    try:
        raw = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        if raw["forgetting"]:
            raw["forgetting"] = Forgetting(**raw["forgetting"])
        result = RouteResult(**raw)
        predictions = []
        with (folder / "predictions.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                row.pop("correct")
                predictions.append(Prediction(**{**row, **{key: tuple(row.get(key, ())) for key in ("sources", "golds")}}))
        if not predictions or len(predictions) != result.n * len(result.draws):
            raise ValueError(f"predictions.jsonl holds {len(predictions)} of {result.n * len(result.draws)} answers")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"the finished route in {folder} cannot be read ({error})", "Delete that folder to climb it again."
        ) from error
    return result, predictions


def check_comparable(results: list[RouteResult]) -> None:
    """Refuse to put results in one table that were not measured alike.

    Baselines see the raw text, so for them only the items must agree.

    Raises:
        UserError: names the first two results that differ and in what.
    """
    if not results:
        return
    for attribute, meaning, chosen in (
        ("items_hash", "items", results),
        ("metric", "metrics", results),
        ("template_hash", "templates", [r for r in results if r.kind != "baseline"]),
        ("scorer", "scorers", [r for r in results if r.kind != "baseline"]),
    ):
        for other in chosen[1:]:
            if getattr(other, attribute) != getattr(chosen[0], attribute):
                raise UserError(
                    f"'{chosen[0].route}' and '{other.route}' were run with different {meaning} and cannot share a table",
                    "Climb both in one ladder, or use another --run_dir.",
                )
