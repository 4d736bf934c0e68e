"""A small task in Spanish with labels of several words, one the beginning of another, and routes climbed in this process."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.evaluate.results import Prediction, RouteResult, load
from tunesmith.recipes._ladder import climb
from tunesmith.recipes._ladder.config import LadderConfig
from tunesmith.recipes._ladder.orchestrate import assignment_of, folder_of
from tunesmith.recipes.ladder import route_specs

SAID = {
    "refund": ("me cobraron dos veces", "quiero mi dinero"),
    "refund request": ("solicito un reembolso", "pido la devolución"),
    "delivery delay": ("el paquete no llega", "el envío se retrasa"),
}
SMALL = {"model": "toy-llama", "threads": 1, "guard_rows": 2, "draws": 2, "shots": 2}


def rows(count: int, seed: int, said: dict[str, tuple[str, ...]] = SAID) -> list[dict[str, Any]]:
    """Return rows whose label follows from their words, in turn."""
    chance = random.Random(seed)
    labels = [list(said)[i % len(said)] for i in range(count)]
    return [{"text": f"Hola, {chance.choice(said[x])}, pedido {seed}-{i}.", "label": x} for i, x in enumerate(labels)]


def write_rows(path: Path, content: list[dict[str, Any]]) -> Path:
    """Write JSONL."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    return path


def write_task(folder: Path, train: int = 60, test: int = 12) -> Path:
    """Write the two files of the task and return its YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.jsonl", rows(train, 1))
    write_rows(folder / "test.jsonl", rows(test, 2))
    files = "name: tickets\ndata: {train: train.jsonl, test: test.jsonl}\n"
    prompt = 'template: "Ticket: {text}\\nTipo: {answer}"\nchoices: labels\n'
    (folder / "tickets.yaml").write_text(files + prompt, encoding="utf-8")
    return folder / "tickets.yaml"


def climb_here(
    task: Path, run_folder: Path, route: str | dict[str, Any], **settings: Any
) -> tuple[RouteResult, list[Prediction]]:
    """Climb one route (or, where `route` is "", the baselines) as the ladder's process does, in this one."""
    config = LadderConfig(task=str(task), routes=[route] if route else [], **{**SMALL, **settings})
    if route:
        label, spec = next(iter(route_specs(config).items()))
        folder, names = folder_of(run_folder, label), []
    else:
        spec, folder, names = {}, run_folder / "routes" / "baselines", config.baselines
    assignment = asdict(assignment_of(config, folder, spec, list(names)))
    path = run_folder / "assignment.json"
    run_folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(assignment), encoding="utf-8")
    hook = sys.excepthook
    try:
        code = climb.main(str(path))
    finally:
        sys.excepthook = hook
        path.unlink()
    assert code == 0, [said.read_text(encoding="utf-8") for said in run_folder.rglob("*.failure.json")]
    return load(folder if route else folder / config.baselines[0])
