"""`tune --sweep`: every combination of settings trained with every seed, compared on the same test rows.

Each training is a `tune` run of its own, in a process and a folder of its own below `runs/`. A finished one is not run again,
and one that fails leaves the others be.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.config import parse_value, set_key, validate
from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.files import write_json
from tunesmith.core.progress import duration, say
from tunesmith.core.registry import PEFT
from tunesmith.core.runs import Run
from tunesmith.recipes._child import Failure, alone, run_process, silent_failure
from tunesmith.recipes._command import command_of
from tunesmith.recipes._ladder.climb import folder_name
from tunesmith.recipes._tune.config import Config
from tunesmith.recipes._tune.ready import filled_in
from tunesmith.recipes._tune.rows import has_test_rows
from tunesmith.recipes._tune.sweep_report import Combination, write_sweep

# Where and how, and not what is trained.
_FREE = {"sweep", "seeds", "run_dir", "overwrite", "resume", "threads", "max_memory_gb", "report_to"}


@dataclass(frozen=True)
class Planned:
    """One combination: its name, what it sets, and the settings of its runs, one a seed."""

    name: str
    sets: dict[str, Any]
    runs: list[Config]


def run_sweep(config: Config) -> dict[str, Any]:
    """Train what is not trained yet, compare all combinations, and write the report.

    Returns:
        status, run_dir, seconds, wall_seconds, peak_memory_gb, warnings, data, model, metric, n, seeds, combinations (name,
        settings, value, low, high, n, seeds, trained_parameters, seconds, peak_memory_gb, difference, artefacts), failed, best,
        recommended and verdict; difference is the combination minus the best: value, low, high, p_holm.

    Raises:
        UserError: settings that no run could have, data without test rows, or a first run that refuses its settings or rows.
        WorkFailed: no combination could be trained. Interrupted: a signal; what is finished is kept.
    """
    start = time.monotonic()
    folder = Path(config.run_dir or f"runs/sweep-{Path(config.data).name.split('.')[0]}")
    planned = plan(config, folder)
    if not has_test_rows(config):
        raise UserError(
            f"a sweep judges by test rows, and {config.data} has none", "Give a task with test rows; see docs/tasks.md."
        )
    command = command_of("tune", config.data, config)
    finished: list[Combination] = []
    failed: dict[str, Failure] = {}
    with alone(folder):
        inputs = config.model_dump(exclude=_FREE)
        Run(folder, inputs, {"command": command}, config.overwrite or not config.resume)
        say(f"{len(planned)} combinations x {config.seeds} seeds: {', '.join(one.name for one in planned)}")
        for one in planned:
            if problem := next(filter(None, (_run(one, settings) for settings in one.runs)), None):
                say(f"{one.name}: {problem.message}" + (f"\n  {problem.fix}" if problem.fix else ""))
                failed[one.name] = problem
                continue
            finished.append(Combination.of(one.name, one.sets, [Path(settings.run_dir or "") for settings in one.runs]))
            say(finished[-1].line())
        _check_something(finished, failed)
        report = write_sweep(
            folder,
            config,
            finished,
            {name: problem.message for name, problem in failed.items()},
            command,
            time.monotonic() - start,
        )
    say(f"done in {duration(time.monotonic() - start)}")
    return report


def _check_something(finished: list[Combination], failed: dict[str, Failure]) -> None:
    if finished:
        return
    first = next(iter(failed.values()))
    if all(problem.exit_code == 2 for problem in failed.values()):
        raise UserError(f"no combination could be trained: {first.message}", first.fix)
    raise WorkFailed(f"no combination could be trained: {'; '.join(f'{n}: {p.message}' for n, p in failed.items())}", first.fix)


def plan(config: Config, folder: Path) -> list[Planned]:
    """Return every combination of the sweep's settings.

    Raises:
        UserError: an unknown key or value, or a combination that stands twice.
    """
    axes: dict[str, list[Any]] = {}
    for axis in config.sweep:
        key, _, values = axis.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if key in ("sweep", "seeds", "seed", "run_dir", "data", "test_rows", "overwrite", "resume"):
            raise UserError(f"a sweep cannot try several values of {key}", "For several seeds, give --seeds.")
        axes.setdefault(key, []).extend(parse_value(value.strip()) for value in values.split(",") if value.strip())
    common = config.model_dump(exclude=_FREE, exclude_unset=True) | config.model_dump(include={"threads"}, exclude_unset=True)
    planned: dict[str, Planned] = {}
    for values in itertools.product(*axes.values()):
        sets = dict(zip(axes, values, strict=True))
        name = " ".join(f"{_short(key, axes)}={_plain(value)}" for key, value in sets.items())
        place = folder / "runs" / folder_name(name)
        runs = [_settings(common, sets, seed, place, name) for seed in range(config.seed, config.seed + config.seeds)]
        if place.name in planned:
            raise UserError(f"the sweep has '{name}' twice", "Name each value once.")
        planned[place.name] = Planned(name, sets, runs)
    return list(planned.values())


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(key: str, axes: dict[str, list[Any]]) -> str:
    """A key without its part ("rank" for "peft.rank"), where no other key ends alike."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in axes) == 1 else key


def _settings(common: dict[str, Any], sets: dict[str, Any], seed: int, place: Path, name: str) -> Config:
    values = copy.deepcopy(common)
    for key, value in sets.items():
        set_key(values, key, value)
    config = validate(Config, {**values, "seed": seed, "run_dir": str(place / f"seed-{seed}")}, f"sweep, {name}")
    PEFT.parameters(filled_in(config).peft or {})
    return config


def _run(one: Planned, settings: Config) -> Failure | None:
    """Train one combination with one seed, unless that was done; returns why it could not be."""
    folder = Path(settings.run_dir or "")
    wanted, told = settings.model_dump(mode="json", exclude_unset=True), folder.with_name(f"{folder.name}.settings.json")
    same = told.is_file() and json.loads(told.read_text(encoding="utf-8")) == wanted
    if same and (folder / "report.json").is_file():
        return None
    say(f"training {one.name}, seed {settings.seed}")
    write_json(told, wanted)
    answers = folder.with_name(f"{folder.name}.answer.json")
    with answers.open("w+", encoding="utf-8") as output:
        code = run_process(["tunesmith", "tune", "--config", str(told), "--json"], output=output)
        output.seek(0)
        lines = output.read().splitlines()
    if code == 0:
        answers.unlink()
        return None
    try:
        said = json.loads(lines[-1])
        message, _, fix = str(said["error"]).partition("\n")
        return Failure(message, fix.strip(), code)
    except (IndexError, ValueError, KeyError, TypeError):
        return silent_failure(code)
