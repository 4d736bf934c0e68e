"""From finished routes to the ladder's report, and the report's files."""

from __future__ import annotations

import json
import shlex
from itertools import combinations
from pathlib import Path
from typing import Any

from tunesmith.core.files import write_json, write_manifest, write_text
from tunesmith.core.registry import METRICS
from tunesmith.core.runs import versions
from tunesmith.core.seeds import derive
from tunesmith.data.task import Task
from tunesmith.evaluate.report.page import write_html
from tunesmith.evaluate.report.record import LadderReport, to_json
from tunesmith.evaluate.report.terminal import table, write_markdown
from tunesmith.evaluate.tradeoff import weigh
from tunesmith.evaluate.verdict import is_reference, judge
from tunesmith.recipes._ladder.climb import by_draw, items_hash
from tunesmith.recipes._ladder.config import ClimbConfig, LadderConfig, Price, flat
from tunesmith.recipes._ladder.orchestrate import Climb, Climbed, with_interval
from tunesmith.stats.compare import Comparison, compare


def ladder_report(config: LadderConfig, task: Task, climbed: Climbed, command: str, seconds: float) -> LadderReport:
    """Compare finished routes, judge them, and say where everything comes from.

    Args:
        command: what climbs this ladder again. seconds: what this run took.
    """
    comparison = _compare(config, climbed.rows)
    results = [with_interval(result, comparison) for result, _ in climbed.rows]
    predictions = {result.route: predictions for result, predictions in climbed.rows}
    return LadderReport(
        task=task.name, description=task.file.description, model=config.model, metric=task.metrics[0], results=results,
        predictions=predictions, comparison=comparison,
        verdict=judge(results, comparison), skipped=climbed.skipped, warnings=[*task.splits.warnings, *_quick_warning(config)],
        command=command, provenance={**versions(), **_provenance(config, task)}, price_note=_price_note(config.price),
        run_seconds=seconds,
        tradeoff=weigh(results, predictions, METRICS.get(task.metrics[0]).evaluate, derive(config.seed, "tradeoff")),
    )  # fmt: skip


def write_report(folder: Path, report: LadderReport) -> dict[str, Any]:
    """Write `report.html`, `.md`, `.txt` and `.json` and the manifest; returns the content of `report.json`."""
    content = {**to_json(report), "run_dir": str(folder)}
    write_text(folder / "report.html", write_html(report))
    write_text(folder / "report.md", write_markdown(report))
    write_text(folder / "report.txt", table(report))
    write_json(folder / "report.json", content)
    write_manifest(folder)
    return content


def command_of(config: ClimbConfig, verb: str = "ladder") -> str:
    """Return the command that does this again, ready to be pasted into a shell."""
    words = ["tunesmith", verb, config.task]
    for key, value in flat(config.model_dump(exclude_defaults=True, exclude={"task", "overwrite", "resume"})).items():
        if value is True:
            words.append(f"--{key}")
            continue
        if isinstance(value, list):
            plain = all(isinstance(v, str | int) for v in value)
            value = (",".join(map(str, value)) or "none") if plain else json.dumps(value)
        text = f"{value:g}" if isinstance(value, float) else str(value)
        words += [f"--{key}={text}"] if text.startswith("--") else [f"--{key}", text]
    return shlex.join(words)


def _compare(config: LadderConfig, climbed: list[Climb]) -> Comparison:
    predictions = {r.route: [[p.predicted for p in d] for d in by_draw(ps)] for r, ps in climbed}
    gold = [p.gold for p in by_draw(climbed[0][1])[0]]
    evaluate = METRICS.get(climbed[0][0].metric).evaluate
    # A person is a line to measure against and nothing one could ship: testing against it would only cost power.
    candidates = [r.route for r, _ in climbed if not is_reference(r)]
    return compare(evaluate, gold, predictions, derive(config.seed, "bootstrap"), pairs=list(combinations(candidates, 2)))


def _price_note(price: Price) -> str:
    if price.machine_hour is not None:
        return f"{price.machine_hour:g} per machine-hour"
    return f"{price.million_tokens:g} per million prompt tokens" if price.million_tokens is not None else ""


def _quick_warning(config: LadderConfig) -> list[str]:
    return ["a quick look: few rows, so intervals are wide; climb without --quick before deciding"] if config.quick else []


def _provenance(config: LadderConfig, task: Task) -> dict[str, str]:
    settings = config.model_dump(exclude={"run_dir", "overwrite", "resume"}, exclude_defaults=True)
    return {
        "seed": str(config.seed),
        **{name: f"{len(rows)}, hash {items_hash(rows)}" for name, rows in config.rows(task).items()},
        "template": f"{task.file.template!r}, hash {task.template_hash}",
        "settings": json.dumps(settings, ensure_ascii=False),
    }
