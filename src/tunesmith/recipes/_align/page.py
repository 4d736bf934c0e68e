"""`report.json` and `report.html` of an alignment by scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.core.files import write_json, write_manifest, write_text
from tunesmith.core.registry import ALIGNERS
from tunesmith.core.runs import read_metrics
from tunesmith.evaluate.report.alignment import AlignmentReport, write_alignment_html
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
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    settings = config.model_dump(exclude=_NO_SETTINGS, exclude_defaults=True)
    first, last = (_answers(path) for path in (_files(folder)[0], _files(folder)[-1]))
    page = AlignmentReport(
        Path(config.data).name, ALIGNERS.parameters(config.method)[0].__name__.rpartition(".")[2], config.model, report, rounds,
        first, last, record["command"],
        {**record["versions"], "model": lm.identity, "seed": str(config.seed), "settings": json.dumps(settings, default=str)},
    )  # fmt: skip
    write_text(folder / "report.html", write_alignment_html(page))
    write_json(folder / "report.json", report)
    write_manifest(folder)


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "rollouts").glob("round-*.json"))


def _answers(path: Path) -> list[dict[str, Any]]:
    return [row for row in json.loads(path.read_text(encoding="utf-8"))["rows"] if "text" in row]
