"""`report.html` and `report.json` of a reward model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.core.files import write_json, write_manifest, write_text
from tunesmith.core.runs import read_metrics
from tunesmith.evaluate.report.reward import RewardReport, sentences, write_reward_html
from tunesmith.recipes._reward.config import Config

__all__ = ["sentences", "write"]


def write(folder: Path, first: Path, config: Config, report: Mapping[str, Any]) -> None:
    """Write the page, the report and the manifest of a run.

    Args:
        first: the run directory of the (first) training.
    """
    record = json.loads((first / "run.json").read_text(encoding="utf-8"))
    page = RewardReport(
        data=Path(config.data).name, model=Path(config.model).name, outcome=report, rows=read_metrics(first),
        command=record["command"],
        provenance={**record["versions"], **{key: record["inputs"][key] for key in ("model_identity", "rows")}},
    )  # fmt: skip
    write_text(folder / "report.html", write_reward_html(page))
    write_json(folder / "report.json", report)
    write_manifest(folder)
