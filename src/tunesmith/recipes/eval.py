"""Evaluate a model or adapter: on a task of yours with intervals, or on any task of lm-eval, on our engine."""

from __future__ import annotations

import json
import os
import shlex
import time
from pathlib import Path
from typing import Any

from tunesmith.recipes._eval.config import Config

POSITIONAL = "task"
EXAMPLES = (
    "tunesmith eval movies --adapter runs/tune-movies/adapter",
    "tunesmith eval --lm_eval_tasks hellaswag,lambada_openai --limit 200",
    "tunesmith eval --lm_eval_tasks mine.yaml --model runs/tune/model",
)


def run(config: Config) -> dict[str, Any]:
    """Ask every item and report.

    Returns:
        status, run_dir, model, adapter, results (a list of task, metric, value, low, high, n), seconds, wall_seconds,
        peak_memory_gb, warnings.

    Raises:
        UserError: no such task, model or adapter, a prompt that does not fit, or lm-eval is not installed.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when lm-eval's progress bars are imported; we show progress ourselves
    from tunesmith.core.memory import limit_cache, peak_gb
    from tunesmith.core.runs import Run
    from tunesmith.models.load import LM
    from tunesmith.recipes._eval.evaluating import open_model, own_task, with_lm_eval
    from tunesmith.recipes._models import quiet_libraries, use_threads
    from tunesmith.recipes._open.kinds import named

    start = time.monotonic()
    quiet_libraries()
    use_threads(config.threads)
    limit_cache(config.cache_gb)
    model, adapter = named(config)
    config = config.model_copy(update={"model": model, "adapter": adapter})
    evaluate = own_task(config) if config.task else with_lm_eval(config)
    opened = open_model(config)
    lm = opened if isinstance(opened, LM) else opened.lm
    folder = Path(config.run_dir or f"runs/eval-{_slug(config)}")
    settings = config.model_dump(exclude={"run_dir", "overwrite", "threads", "cache_gb"})
    run = Run(folder, {**settings, "model_identity": lm.identity}, {"command": _command(config)}, config.overwrite)
    asked = time.monotonic()
    results, samples, warnings = evaluate(opened)
    report = {
        "status": "done", "run_dir": str(run.folder), "model": config.model, "adapter": config.adapter, "results": results,
        "seconds": time.monotonic() - asked, "wall_seconds": time.monotonic() - start, "peak_memory_gb": peak_gb(),
        "warnings": warnings,
    }  # fmt: skip
    _write(run.folder, report, samples)
    return report


def _slug(config: Config) -> str:
    names = [config.task] if config.task else config.lm_eval_tasks
    return "-".join(Path(name).name.split(".")[0] for name in names)[:80]


def _command(config: Config) -> str:
    given = config.model_dump(exclude_defaults=True, exclude={"overwrite"})
    words = [w for k, v in given.items() for w in ("--set", f"{k}={v if isinstance(v, str) else json.dumps(v)}")]
    return shlex.join(["tunesmith", "eval", *words])


def _write(folder: Path, report: dict[str, Any], samples: list[dict[str, Any]]) -> None:
    from tunesmith.core.files import write_json, write_jsonl, write_manifest, write_text
    from tunesmith.evaluate.report.template import render as page

    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    provenance = {**record["versions"], "model": record["inputs"]["model_identity"], "seed": str(record["inputs"]["seed"])}
    write_jsonl(folder / "predictions.jsonl", samples)
    write_text(folder / "report.html", page("eval", {"report": report, "command": record["command"], "provenance": provenance}))
    write_json(folder / "report.json", report)
    write_manifest(folder)


def render(report: dict[str, Any]) -> str:
    """Return a table of the results."""
    rows = report["results"]
    wide = max(len(f"{row['task']} {row['metric']}") for row in rows) + 2
    lines = [
        f"{row['task']} {row['metric']}".ljust(wide) + f"{row['value']:.4f}"
        + (f"  [{row['low']:.4f}, {row['high']:.4f}]" if row["low"] is not None else "") + f"  n = {row['n']:,}"
        for row in rows
    ]  # fmt: skip
    return "\n".join([*lines, f"report: {report['run_dir']}/report.html"])
