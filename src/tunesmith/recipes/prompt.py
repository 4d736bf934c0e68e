"""Ask a task's test items by one way of prompting, and say how well it did; nothing is trained unless the method says so.

A method is a route of the ladder of the kind "prompt", with the same rows, seed and scorer, climbed in this process.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import write_json, write_manifest, write_text
from tunesmith.core.memory import limit_cache
from tunesmith.core.progress import say
from tunesmith.core.registry import ROUTES
from tunesmith.core.runs import Run
from tunesmith.recipes._ladder.config import ClimbConfig, LadderConfig

if TYPE_CHECKING:
    from tunesmith.recipes._ladder.orchestrate import Climb

POSITIONAL = "task"
EXAMPLES = (
    "tunesmith prompt movies",
    "tunesmith prompt movies --method few_shot --method.shots 8",
    "tunesmith prompt mine.yaml --method zero_shot:templates=all --test_rows 300",
)
# The field calls a prompt whose answer comes last a prefix prompt (Liu et al. 2021); that is the bare template.
_SAME = {"prefix": "zero-shot"}
_EXAMPLES_SHOWN = 3


class Config(ClimbConfig):
    """Settings of `tunesmith prompt`."""

    method: str | dict[str, Any] = "zero_shot"
    """a route of the kind "prompt"; few_shot:shots=8, or --method few_shot --method.shots 8, sets its parameters"""


def run(config: Config) -> dict[str, Any]:
    """Ask every test item, and report; an answered run is read and not asked again.

    Returns:
        The content of `report.json` (docs/report_schema.md).

    Raises:
        UserError: an unknown method or task, a method that is no prompting or does not suit the task, bad rows, or a run
            directory with other settings.
    """
    from tunesmith.recipes._child import alone
    from tunesmith.recipes._ladder.climb import folder_name
    from tunesmith.recipes._ladder.orchestrate import read
    from tunesmith.recipes._ladder.report import command_of
    from tunesmith.recipes.ladder import inputs_of, prepare, slug

    start = time.monotonic()
    ladder = as_ladder(config)
    (label, spec), task = only_route(*prepare(ladder))
    folder = Path(config.run_dir or f"runs/prompt-{slug(task.name)}-{folder_name(label)}")
    command = command_of(config, "prompt")
    with alone(folder):
        inputs = {**inputs_of(ladder, task), "method": ROUTES.parameters(spec)[1].model_dump(), "name": spec["name"]}
        Run(folder, inputs, {"command": command}, config.overwrite or not config.resume)
        say(f"{task.name}: {len(task.splits.test[: config.test_rows]):,} items; {label} on {config.model}")
        climb = read(ladder, folder, spec)
        if climb is None:
            _climb(ladder, folder, spec)
            climb = read(ladder, folder, spec)
        assert climb is not None
        return _report(ladder, folder, climb, command, time.monotonic() - start)


def as_ladder(config: Config) -> LadderConfig:
    """Return the ladder that has this method as its only row.

    Raises:
        UserError: there is no such method, or it is no prompting.
    """
    spec = {"name": config.method} if isinstance(config.method, str) else dict(config.method)
    if isinstance(named := spec.get("name"), str):
        name, colon, rest = named.partition(":")
        spec["name"] = f"{_SAME.get(name, name)}{colon}{rest}"
    entry, _ = ROUTES.parameters(spec)
    if entry.KIND != "prompt":
        known = [n for n in ROUTES.names() if ROUTES.get(n).KIND == "prompt"]
        raise UserError(
            f"'{spec['name']}' trains weights and is no way of prompting", f"Give {', '.join(known)}; or climb it in a ladder."
        )
    shared = config.model_dump(include=set(ClimbConfig.model_fields))
    return LadderConfig(routes=[spec], baselines=[], **shared)


def only_route(routes: dict[str, dict[str, Any]], task: Any) -> tuple[tuple[str, dict[str, Any]], Any]:
    """Return a ladder's one route, labelled, and its task.

    Raises:
        UserError: it does not suit the task.
    """
    label, spec = next(iter(routes.items()))
    if reason := ROUTES.get(spec["name"]).unsuitable(task):
        raise UserError(f"{label} does not suit the task '{task.name}': {reason}")
    return (label, spec), task


def _climb(ladder: LadderConfig, folder: Path, spec: dict[str, Any]) -> None:
    from tunesmith.recipes._ladder.climb import Workshop, climb_route
    from tunesmith.recipes._ladder.orchestrate import assignment_of
    from tunesmith.recipes._models import quiet_libraries, use_threads

    quiet_libraries()
    use_threads(ladder.threads)
    limit_cache(ladder.cache_gb)
    climb_route(Workshop(assignment_of(ladder, folder, spec, []), alone=True))


def _report(ladder: LadderConfig, folder: Path, climb: Climb, command: str, wall_seconds: float) -> dict[str, Any]:
    """Write `report.html`, `report.json` and the manifest, and return the content of `report.json`."""
    from tunesmith.data.task import load_task
    from tunesmith.evaluate.report.page import write_html
    from tunesmith.evaluate.report.record import to_json
    from tunesmith.recipes._ladder.orchestrate import Climbed
    from tunesmith.recipes._ladder.report import ladder_report

    result, predictions = climb
    task = load_task(ladder.task, skip_bad_rows=ladder.skip_bad_rows)
    page = ladder_report(ladder, task, Climbed(rows=[climb]), command, wall_seconds)
    whole = to_json(page)
    shown = predictions[: min(_EXAMPLES_SHOWN, result.n)]
    report = {
        "status": "done", "run_dir": str(folder), "task": task.name, "model": ladder.model,
        **{key: value for key, value in whole["routes"][0].items() if key not in ("reference", "forgetting", "price_per_1000")},
        "spread": _spread(result.draws), "wall_seconds": wall_seconds, "warnings": whole["warnings"], "command": command,
        "examples": [
            {key: getattr(p, key) for key in ("id", "where", "prompt", "predicted", "gold", "scores", "valid")} for p in shown
        ],
        "provenance": whole["provenance"],
    }  # fmt: skip
    write_text(folder / "report.html", write_html(page))
    write_json(folder / "report.json", report)
    write_manifest(folder)
    return report


def _spread(draws: list[float]) -> float | None:
    """Standard deviation over draws (of demonstrations, of templates); None for a single one."""
    import statistics

    return statistics.stdev(draws) if len(draws) > 1 else None


def render(report: dict[str, Any]) -> str:
    """Return the numbers, and three prompts as the model read them."""
    metric, draws = report["metric"].replace("_", " "), report["draws"]
    lines = [
        f"{report['route']} on {report['task']} with {report['model']}",
        f"  {metric:<14}{report['value']:.3f} [{report['low']:.3f}, {report['high']:.3f}] on {report['n']:,} items",
    ]
    if len(draws) > 1:
        lines.append(f"  {'spread':<14}{report['spread']:.3f} over {len(draws)} draws: {' '.join(f'{v:.3f}' for v in draws)}")
    lines += [
        f"  {'valid':<14}{report['valid']:.1%} of the answers the model would have begun itself",
        f"  {'tokens/query':<14}{report['tokens_per_query']:.0f}",
        f"  {'ms/query':<14}{report['ms_per_query']:.1f} batched, {report['p50_ms']:.0f} alone",
        f"  {'seconds':<14}{report['seconds'] + report['evaluation_seconds']:.1f}",
        *(f"  note: {note}" for note in (*report["notes"], *report["warnings"])),
    ]
    for example in report["examples"]:
        scores = ", ".join(f"{label} {value:.2f}" for label, value in example["scores"].items())
        verdict = "right" if example["predicted"] == example["gold"] else f"wrong, {example['gold']!r} expected"
        lines += [
            "",
            f"--- {example['where']}",
            example["prompt"],
            f"--> {example['predicted']!r} ({verdict})  {scores}".rstrip(),
        ]
    return "\n".join([*lines, "", f"Report: {Path(report['run_dir']) / 'report.html'}"])
