"""`report.json` and `report.html` of an alignment by scores, and of best-of-n."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.core.files import write_json, write_manifest, write_text
from tunesmith.core.registry import ALIGNERS
from tunesmith.core.runs import read_metrics
from tunesmith.evaluate.report.alignment import AlignmentReport, write_alignment_html
from tunesmith.evaluate.report.best import BestReport, write_best_html
from tunesmith.models.load import LM
from tunesmith.recipes._align.config import Config
from tunesmith.recipes._align.health import Rounds

# How and where a run was made, not what was made.
_NO_SETTINGS = {"data", "run_dir", "overwrite", "resume"}


def rounds_of(folder: Path) -> list[dict[str, float]]:
    """Return what was measured of each round, when it was sampled and (the mean over its steps) when it was learned from."""
    rounds = [json.loads(path.read_text(encoding="utf-8"))["measured"] for path in _files(folder)]
    steps: dict[int, list[dict[str, Any]]] = {}
    for row in read_metrics(folder):
        steps.setdefault(int(row.get("round", -1)), []).append(row)
    for number, some in steps.items():
        for key in ("policy_clipped", "value_loss", "ptx_loss"):
            values = [float(row[key]) for row in some if key in row]
            if 0 <= number < len(rounds) and values:
                rounds[number][key] = sum(values) / len(values)
    return rounds


def write_page(folder: Path, config: Config, lm: LM, rounds: Rounds, report: dict[str, Any]) -> None:
    """Write what a run reports, for machines and for people."""
    first, last = (_answers(path) for path in (_files(folder)[0], _files(folder)[-1]))
    page = AlignmentReport(*_about(config), report, rounds, first, last, *_made_by(folder, config, lm))
    _write(folder, write_alignment_html(page), report)


def write_best_page(folder: Path, config: Config, lm: LM, report: dict[str, Any], answers: Sequence[dict[str, Any]]) -> None:
    """Write the same of best-of-n, whose best answers (prompt, answer, score) are shown."""
    shown = [{**row, "text": row["answer"]} for row in answers]
    page = BestReport(*_about(config), report, shown, *_made_by(folder, config, lm))
    _write(folder, write_best_html(page), report)


def _about(config: Config) -> tuple[str, str, str]:
    """Data, method and model, for people."""
    method = ALIGNERS.parameters(config.method)[0].__name__.rpartition(".")[2].replace("_", "-")
    return Path(config.data).name, method, config.model


def _made_by(folder: Path, config: Config, lm: LM) -> tuple[str, dict[str, str]]:
    """The command, and what is known of what it ran on."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    settings = json.dumps(config.model_dump(exclude=_NO_SETTINGS, exclude_defaults=True), default=str)
    return record["command"], {**record["versions"], "model": lm.identity, "seed": str(config.seed), "settings": settings}


def _write(folder: Path, html: str, report: dict[str, Any]) -> None:
    write_text(folder / "report.html", html)
    write_json(folder / "report.json", report)
    write_manifest(folder)


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "rollouts").glob("round-*.json"))


def _answers(path: Path) -> list[dict[str, Any]]:
    return [row for row in json.loads(path.read_text(encoding="utf-8"))["rows"] if "text" in row]
